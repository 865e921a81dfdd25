"""Retrain everything shipped under `baselines/scenes/`: nox -s train_baselines

Order: text tokenizer, image tokenizer, feature network, CLIP, memory bank, then each transformer.
Every part is skipped when its folder is finished and continues where it stopped when it was killed.
The cards under `scenes/` name each part's cost.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from baselines.recipes import PLAIN_ROLE, RECIPES, with_budget
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.options import Count, Positive, Range
from cm3leon.retrieval.packed import BANK

ENCODERS = ("text", "vq", "features", "clip", "bank")
ROLES = ("", PLAIN_ROLE)
SMALL = tuple(f"{size}{role}" for size in ("scenes-xs", "scenes-s") for role in ROLES)
LARGE = tuple(f"scenes-m{role}" for role in ROLES)  # with a GPU
PARTS = (*ENCODERS, *SMALL, *LARGE)


@dataclass
class Options:
    """What to retrain, and how."""

    # any of text vq features clip bank scenes-xs scenes-s scenes-m, the last three also with -plain
    parts: tuple[str, ...] = (*ENCODERS, *SMALL)
    form: Literal["cpu", "gpu"] = "cpu"  # the recipe's form
    out: Path | None = None  # folder of the weights; default: the shipped ones
    runs: Path = Path(".runs")  # states, logs and token caches
    fresh: bool = False  # retrain finished parts as well
    threads: Annotated[int, Range(0, 1024)] = 0  # of the processor; 0: all
    # of a transformer: about so many updates, or tokens, instead of the recipe's. All budgets share
    # their stable part: more go on from it, fewer branch from one of its kept states and decay
    steps: Count | None = None
    tokens: Positive | None = None
    name: str | None = None  # of a transformer's folder, where not the part's


def main(options: Options) -> int:
    """Train the parts asked for, in the order of dependence; returns the exit code."""
    if strange := [part for part in options.parts if part not in PARTS]:
        raise UserError(f"no part {strange[0]!r} to train; there are {', '.join(PARTS)}")
    if not options.parts:
        raise UserError(f"no part named to train; there are {', '.join(PARTS)}")
    several = [part for part in options.parts if part not in ENCODERS]
    changed = options.steps is not None or options.tokens is not None or options.name is not None
    if changed and (len(several) != 1 or len(options.parts) != 1):
        raise UserError(f"--steps, --tokens and --name are of one transformer, got {options.parts}")
    if options.steps is not None and options.tokens is not None:
        raise UserError(f"give --steps {options.steps} or --tokens {options.tokens:g}, not both")
    import torch

    from cm3leon.training.trainer import device_name

    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out or baselines_folder() / "scenes"
    device = "cuda" if options.form == "gpu" and torch.cuda.is_available() else "cpu"
    for part in PARTS:
        if part not in options.parts:
            continue
        folder = out / (options.name or part)
        if finished(folder) and not options.fresh:
            print(f"{part}: finished in {folder}, kept (--fresh retrains it)", file=sys.stderr)
            continue
        print(f"{part}: training on {device_name(device)}", file=sys.stderr)
        train_part(part, out, options, device)
    return 0


def train_part(part: str, out: Path, options: Options, device: str) -> None:
    """Train one part into its folder."""
    from baselines.clip import train_clip
    from baselines.features import train_features
    from baselines.tokenizers import train_text, train_vq
    from baselines.transformers import make_bank, steps_of, train_transformer

    run = options.runs / (part if part in ENCODERS else f"{part}-{options.form}")
    if part == "text":
        train_text(out / part)
    elif part == "vq":
        train_vq(run, out / part, device)
    elif part == "features":
        train_features(run, out / part, device)
    elif part == "clip":
        train_clip(run, out, device)
    elif part == "bank":
        make_bank(out, options.runs)
    else:
        recipe, steps = RECIPES[options.form](part), options.steps
        if options.tokens is not None:
            steps = steps_of(run, options.tokens)
        if steps is not None:
            recipe = with_budget(recipe, steps)
        recipe = replace(recipe, name=options.name or part)
        train_transformer(recipe, out, run, device)


def finished(folder: Path) -> bool:
    """A part's folder holds its last-written file."""
    last = {"text": "tokenizer.json", "bank": BANK}.get(folder.name, "config.json")
    return (folder / last).exists()


if __name__ == "__main__":
    from cm3leon.cli.main import guarded, parse

    sys.exit(guarded(lambda: main(parse(Options, None, "python -m baselines.train"))))
