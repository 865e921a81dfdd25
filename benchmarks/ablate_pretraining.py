"""What each part of retrieval-augmented pretraining is worth (H6, H7; 2.1, 2.2).

    nox -s ablate_pretraining                               all arms, three seeds, scenes-xs
    nox -s ablate_pretraining -- --arms p-full-0 p-full-1   some arms, beside the default
    nox -s ablate_pretraining -- --minutes 20               as far as it goes; the next continues

Cost: two to three minutes a run on one core, 33 runs in all. Every arm goes on from
`scenes-xs-plain` on the same queries, in the same order, for the same number of steps, and differs
from `default` in one option of objective or retrieval. Each run is resumable and, once finished,
never repeated. Measured: held-out losses of `val` and of entities with and without documents, and
drawings of `val` captions: composition and FID without documents and with two, entities with two.
Nothing here touches `test`, and of `tail` only what the ablation of retrieval does not ask for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from baselines.recipes import Recipe, cpu_recipe
from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.intervals import SEEDS_METHOD, seed_interval
from cm3leon.evaluation.statistics.paired import LEVEL
from cm3leon.files import baselines_folder
from cm3leon.options import Count, Positive, Threads

STEPS, BATCH = 600, 8


@dataclass(frozen=True)
class Options:
    """The pretraining ablation at the size of scenes-xs."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """training seeds"""
    arms: tuple[str, ...] = ()
    """their names, beside the default; left out: all"""
    minutes: Positive | None = None
    """stop after the run during which these are over; exit code 3 when not all is done"""
    n: Count = 100
    """captions drawn of each kind"""
    steps: Count = STEPS
    """of every run; another number is another protocol"""
    threads: Threads = 1
    """of the processor"""
    runs: Path = Path(".runs")
    """states, logs and token caches of trainings"""
    weights: Path = field(default_factory=lambda: baselines_folder() / "scenes")
    """folder with text/, vq/, clip/ and bank/"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where tables go"""

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must be different numbers, got {list(self.seeds)}")
        if self.n < 4:
            raise UserError(f"n must be at least 4 (FID), got {self.n}")
        if self.steps < 10:
            raise UserError(f"steps must be at least 10, got {self.steps}")


def arms(steps: int) -> dict[str, Recipe]:
    """Arm -> recipe; all but `default` change one thing."""
    full = replace(cpu_recipe("scenes-xs"), start="scenes-xs-plain")
    train = replace(
        full.train, steps=steps, batch=BATCH, warmup=steps // 10, decay=steps // 5,
        eval_every=steps, save_every=100, keep_every=0,
    )  # fmt: skip
    default = replace(full, train=train)

    def objective(**changes) -> Recipe:
        return replace(default, objective=replace(default.objective, **changes))

    def found(**changes) -> Recipe:
        return replace(default, retrieval=replace(default.retrieval, **changes))

    return {
        "default": default,
        "no-retrieval": replace(default, shares=(1.0,)),
        "three-documents": replace(default, shares=(0.0, 0.0, 0.0, 1.0)),
        "uniform-0-1-2": replace(default, shares=(1 / 3, 1 / 3, 1 / 3)),
        "query-dropout-0.2": found(query_dropout=0.2),
        "no-bursts": replace(default, bursts=0.0),
        "no-diversity": found(threshold=1.01),
        "document-weight-0.1": objective(document_weight=0.1),
        "cross-break": objective(cross_break=True),
        "p-full-0": objective(p_full=0.0),
        "p-full-1": objective(p_full=1.0),
    }


def ablate_pretraining(options: Options) -> tuple[dict, Path]:
    """Train and measure what is not done yet, then save: (record, its path)."""
    known = arms(options.steps)
    if strange := [name for name in options.arms if name not in known]:
        raise UserError(f"arms are {', '.join(known)}, got {strange[0]!r}")
    wanted = {"default", *(options.arms or known)}
    chosen = {name: recipe for name, recipe in known.items() if name in wanted}
    protocol = {
        "arms": {name: described(recipe) for name, recipe in chosen.items()},
        "seeds": list(options.seeds),
        "captions": options.n,
        "features": "scenes",
    }
    system = Subject(options.weights)
    bench = replace(BENCH, measure=partial(measure, options, chosen))
    return core.run(bench, system, protocol, options.results)


class Subject:
    """What the record says was measured: a recipe, not one set of weights."""

    name = "scenes-xs"

    def __init__(self, weights: Path):
        from cm3leon.checkpoint import digest

        self.config = {part: digest(weights / part) for part in ("vq", "clip")}
        self.weights_sha256 = core.digest(self.config)


def described(recipe: Recipe) -> dict:
    """The settings that arms differ in, and the training they share."""
    from cm3leon.config import to_dict

    return {
        "objective": to_dict(recipe.objective),
        "retrieval": to_dict(recipe.retrieval) if recipe.retrieves else None,
        "shares": list(recipe.shares),
        "start": recipe.start,
        "queries": [asdict(part) for part in recipe.queries],
        "bursts": recipe.bursts,
        "train": to_dict(recipe.train),
    }


def measure(
    options: Options, chosen: dict[str, Recipe], system, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Every run's scores; means and leads over training seeds."""
    judge, scores = trained_scores(options, chosen, phases)
    extra = numbers(scores, list(chosen), options.seeds)
    value = extra["default.held_out_tail_gain"]
    return core.Measurement(
        value=value[0],
        n=len(options.seeds),
        interval=core.Interval(value[1], value[2], LEVEL, SEEDS_METHOD) if value[1:] else None,
        extra=extra,
        per_seed=[scores["default", seed]["held_out_tail_gain"] for seed in options.seeds],
        protocol={"features_sha256": judge.features.digest},
    )


def trained_scores(options, chosen: dict[str, Recipe], phases: core.Phases) -> tuple:
    """The judge, and (arm, seed) -> scores of every run; trained and judged where it is not yet."""
    import torch

    from benchmarks.ablations.pretraining_runs import Judge, train_arm

    torch.set_num_threads(options.threads)
    started, scores = time.monotonic(), {}
    judge = Judge(options.weights, options.n)
    for seed in options.seeds:
        for name, recipe in chosen.items():
            seeded = replace(recipe, train=replace(recipe.train, seed=seed))
            with phases("train"):
                run = train_arm(seeded, options.weights, options.runs)
            with phases("judge"):
                scores[name, seed] = judge.scores(run)
            over = options.minutes and time.monotonic() - started > 60 * options.minutes
            if over and len(scores) < len(chosen) * len(options.seeds):
                raise core.NothingMeasured(
                    f"{len(scores)} of {len(chosen) * len(options.seeds)} runs are done and kept; "
                    "the same command goes on"
                )
    return judge, scores


def numbers(
    scores: dict, names: Sequence[str], seeds: Sequence[int], against: str = "default"
) -> dict[str, tuple]:
    """`arm.score` -> (mean, low, high) over seeds; `arm.score_minus_default` paired by seed, where
    `against` is the arm that the others are compared with.
    """
    found = {}
    for name in names:
        for score in scores[name, seeds[0]]:
            values = np.array([scores[name, seed][score] for seed in seeds])
            found[f"{name}.{score}"] = spread(values)
            if name != against:
                own = np.array([scores[against, seed][score] for seed in seeds])
                found[f"{name}.{score}_minus_{against}"] = spread(values - own)
    return found


def spread(values: np.ndarray) -> tuple:
    """Mean with its t interval; of one seed the value alone, three times."""
    if len(values) < 2:
        return (float(values[0]),) * 3
    return float(values.mean()), *seed_interval(values, LEVEL)


def report(options: Options, record: dict) -> None:
    """The table on the terminal and as files."""
    from cm3leon.reports.benches.pretraining import pretraining_tables
    from cm3leon.reports.tables import write_all

    folder = core.report_folder(options.reports, NAME)
    for stem, table in pretraining_tables(record).items():
        print(f"\n{table.to_text()}")
        write_all(table, folder, stem)


NAME = "ablate_pretraining"
BENCH = core.Bench("ablate_pretraining", 1, "nats", "higher", protocol={}, measure=measure)


main = core.command(Options, NAME, ablate_pretraining, report)


if __name__ == "__main__":
    sys.exit(main())
