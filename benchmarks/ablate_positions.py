"""Where a token stands: the paper's literal reading against positions that know the cell (A61).

    nox -s ablate_positions                          row, anchored, grid; three training seeds
    nox -s ablate_positions -- --minutes 20          as far as it goes; the next continues

`scenes-xs` from scratch on pairs of `train`, the same rows in the same order; arms differ in
`ModelConfig.positions` alone. Cost: about four minutes a run on one core, nine runs; each is
resumable and, once finished, never repeated. Measured on `val`: held-out losses, composition and
FID of drawings, and the share of drawings with codes where no picture has them (`impossible`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from baselines.recipes import Recipe, cpu_recipe
from benchmarks.ablate_pretraining import Options as Trained
from benchmarks.ablate_pretraining import Subject, numbers, trained_scores
from benchmarks.harness import core
from cm3leon.config import POSITIONS, to_dict
from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.intervals import SEEDS_METHOD
from cm3leon.evaluation.statistics.paired import LEVEL
from cm3leon.options import Count

STEPS, BATCH = 1000, 32


@dataclass(frozen=True)
class Options(Trained):
    """The ablation of positions at the size of scenes-xs."""

    arms: tuple[str, ...] = POSITIONS
    """row, anchored, grid"""
    n: Count = 200
    """captions drawn"""
    steps: Count = STEPS
    """of every run; another number is another protocol"""

    def __post_init__(self):
        super().__post_init__()
        for arm in self.arms:
            if arm not in POSITIONS:
                raise UserError(f"--arms are of {', '.join(POSITIONS)}, got {arm!r}")


def arms(steps: int) -> dict[str, Recipe]:
    """Arm -> recipe; all train on pairs."""
    full = cpu_recipe("scenes-xs-plain")
    train = replace(
        full.train, steps=steps, batch=BATCH, warmup=steps // 10, decay=steps // 5,
        eval_every=steps, save_every=100, keep_every=0,
    )  # fmt: skip
    alike = replace(full, name="scenes-xs", train=train)
    return {kind: replace(alike, model=replace(full.model, positions=kind)) for kind in POSITIONS}


def ablate_positions(options: Options) -> tuple[dict, Path]:
    """Train and measure what is not done yet, then save: (record, its path)."""
    chosen = {name: recipe for name, recipe in arms(options.steps).items() if name in options.arms}
    protocol = {
        "arms": {name: to_dict(recipe.model) for name, recipe in chosen.items()},
        "train": to_dict(next(iter(chosen.values())).train),
        "seeds": list(options.seeds),
        "captions": options.n,
        "features": "scenes",
    }
    bench = replace(BENCH, measure=partial(measure, options, chosen))
    return core.run(bench, Subject(options.weights), protocol, options.results)


def measure(
    options: Options, chosen: dict[str, Recipe], system, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Every run's scores; means over training seeds, and differences to the first arm."""
    judge, scores = trained_scores(options, chosen, phases)
    first, *others = chosen
    extra = numbers(scores, list(chosen), options.seeds, against=first)
    name = f"{others[-1]}.held_out_image_minus_{first}" if others else f"{first}.held_out_image"
    value, low, high = extra[name]
    several = len(options.seeds) > 1
    return core.Measurement(
        value=value,
        n=len(options.seeds),
        interval=core.Interval(low, high, LEVEL, SEEDS_METHOD) if several else None,
        extra=extra,
        protocol={"features_sha256": judge.features.digest},
    )


NAME = "ablate_positions"
BENCH = core.Bench("ablate_positions", 1, "nats", "lower", protocol={}, measure=measure)


def report(options: Options, record: dict) -> None:
    """The table on the terminal and as files."""
    from cm3leon.reports.benches.positions import positions_table
    from cm3leon.reports.tables import write_all

    table = positions_table(record)
    print(f"\n{table.to_text()}")
    write_all(table, core.report_folder(options.reports, NAME), "positions")


main = core.command(Options, NAME, ablate_positions, report)


if __name__ == "__main__":
    sys.exit(main())
