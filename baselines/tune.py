"""Batch, rate and optimiser by short trainings at equal tokens, judged on `val`.

    python -m baselines.tune --batches 16 32 64 --rates 2e-3 4e-3 --optimizers muon adamw

Every cell of the table is one training of a recipe's stable and decayed form in a folder of its own
under `runs`: a killed one goes on, a finished one is opened. Speeds are of this machine beside
whatever else ran on it. Cost: at the default 1.5M tokens about 8 minutes a cell of `scenes-xs` on
one quiet core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from baselines.recipes import Recipe, cpu_recipe
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.reports.tables import Table
from cm3leon.training.estimate import row_tokens
from cm3leon.training.loop import read_log, steps_for_tokens

NATS = ("image", "picture", "where", "what", "rest")


@dataclass(frozen=True)
class Options:
    """Which trainings to compare."""

    part: str = "scenes-xs-plain"
    """recipe to change: of a size, with documents or -plain"""
    batches: tuple[int, ...] = (16, 32, 64)
    """rows a step"""
    rates: tuple[float, ...] = (2e-3, 4e-3)
    """peak learning rates"""
    optimizers: tuple[str, ...] = ("muon", "adamw")
    """muon, adamw"""
    seeds: tuple[int, ...] = (0,)
    """of weights, order and masks; nats are means over them"""
    tokens: float = 1.5e6
    """row tokens of every training, about"""
    warmup: float = 0.1
    """share of the steps"""
    decay: float = 0.2
    """share of the steps"""
    weights: Path | None = None
    """folder with text/, vq/ and clip/, and bank/ for documents; left out: the shipped ones"""
    runs: Path = Path(".runs")
    """states, logs and token caches"""
    threads: int = 0
    """of the processor; 0: all"""


@dataclass(frozen=True)
class Cell:
    """One place of the table: its trainings, one a seed."""

    optimizer: str
    batch: int
    rate: float
    recipes: tuple[Recipe, ...]

    @property
    def name(self) -> str:
        """Of its folder, but for the seed."""
        train = self.recipes[0].train
        steps = f"{train.steps}-{train.warmup}-{train.decay}"
        return f"{self.recipes[0].name}-{self.optimizer}-{self.batch}-{self.rate:g}-{steps}"


def cells(options: Options, recipe: Recipe, row: float) -> Iterator[Cell]:
    """The trainings to compare; `row` is the mean number of tokens of a row."""
    for optimizer, batch, rate in product(options.optimizers, options.batches, options.rates):
        steps = steps_for_tokens(options.tokens, batch * row)
        train = replace(
            recipe.train, steps=steps, batch=batch, rate=rate, optimizer=optimizer,
            warmup=round(options.warmup * steps), schedule="wsd",
            decay=round(options.decay * steps), keep_every=0, eval_every=steps,
            log_every=max(1, steps // 20),
        )  # fmt: skip
        seeds = (replace(recipe, train=replace(train, seed=seed)) for seed in options.seeds)
        yield Cell(optimizer, batch, rate, tuple(seeds))


def measure(cell: Cell, shop, runs: Path, device: str = "cpu") -> dict[str, float]:
    """Train what is not trained yet: nats, tokens and tokens a second, means over the seeds."""
    from baselines.transformers import trained

    found = []
    for recipe in cell.recipes:
        run = runs / "tune" / f"{cell.name}-{recipe.train.seed}"
        trained(recipe, shop, run, device)
        records = read_log(run)
        last = {name: records[-1][f"held_out_{name}"] for name in NATS}
        speed = float(np.median([record["tokens_per_s"] for record in records]))
        found.append(last | {"tokens": records[-1]["tokens"], "tokens_per_s": speed})
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def table(rows: list[tuple[Cell, dict[str, float]]], tokens: float) -> Table:
    """The cells measured so far, the best first."""
    rows = sorted(rows, key=lambda pair: pair[1]["picture"])
    texts = tuple(
        (
            cell.optimizer,
            str(cell.batch),
            f"{cell.rate:g}",
            str(cell.recipes[0].train.steps),
            f"{found['image']:.4f}",
            *(f"{found[name]:.3f}" for name in NATS[1:]),
            f"{found['tokens'] / 1e6:.2f}",
            f"{found['tokens_per_s']:,.0f}",
            f"{found['tokens'] / found['tokens_per_s'] / 60:.1f}",
        )
        for cell, found in rows
    )
    headers = (
        "optimiser", "batch", "rate", "steps", "nats a token", "a picture", "where", "what", "rest",
        "M tokens", "tokens/s", "minutes",
    )  # fmt: skip
    caption = f"Held-out loss on val at {tokens:g} tokens; best first"
    return Table(headers, texts, caption, numbers=frozenset(range(1, len(headers))))


def main(options: Options) -> int:
    """Train and measure every cell; the table is printed anew after each. The exit code."""
    recipe = cpu_recipe(options.part)
    import torch

    from baselines.transformers import Shop

    if options.threads:
        torch.set_num_threads(options.threads)
    shop = Shop(options.weights or baselines_folder() / "scenes", options.runs)
    recipe = shop.fit(recipe)
    rows = []
    chosen = list(cells(options, recipe, mean_row(recipe, shop)))
    if not chosen:
        raise UserError("nothing to tune: name --batches, --rates and --optimizers")
    for at, cell in enumerate(chosen, 1):
        print(f"{at}/{len(chosen)}: {cell.name}", file=sys.stderr)
        rows.append((cell, measure(cell, shop, options.runs)))
        print(table(rows, options.tokens).to_text(), end="\n\n", flush=True)
    print(table(rows, options.tokens).to_markdown())
    return 0


def mean_row(recipe: Recipe, shop) -> float:
    """Mean number of tokens of a recipe's rows."""
    texts = shop.part(recipe.queries[0]).mean_text
    return row_tokens(texts + shop.vq.config.grid**2 + 2, recipe.mean_documents)


if __name__ == "__main__":
    from cm3leon.cli.main import guarded, parse

    sys.exit(guarded(lambda: main(parse(Options, None, "python -m baselines.tune"))))
