"""What does compute buy? A sweep of sizes x budgets x arms x seeds, its laws and their intervals.

    nox -s scaling -- --quick            three sizes, three budgets: the way, in about two minutes
    nox -s scaling                       five sizes up to 0.5M parameters, three budgets
    nox -s scaling -- --plan small       up to 1.2M, with and without documents, three seeds; hours
    nox -s scaling -- --plan full        0.1M to 10M, with and without documents; days on two cores
    nox -s scaling -- --plan mine.json   a plan of one's own: {"sizes": ["64x2"], "budgets": [1e12]}
    nox -s scaling -- --plan full --dry-run    runs, tokens, FLOPs, hours

Every run is one training at a stable rate of which each budget is a branch that decays; a point is
kept as soon as it is measured, and the same command goes on where it was killed. Several processes,
or machines that share `--runs`, take runs of one plan from each other by a lock for each. The value
is gamma of L - E ~ C^-gamma (Hoffmann et al. 2022, approach 3), L the held-out loss of `stock`,
`val`, C the training's FLOPs by 6ND; its interval resamples trainings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.ablate_pretraining import Subject
from benchmarks.harness import core
from cm3leon.cli.main import parse
from cm3leon.data.locks import held, holder
from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.paired import LEVEL
from cm3leon.files import baselines_folder
from cm3leon.options import Positive, Resamples, Threads, Whole


@dataclass(frozen=True)
class Options:
    """A compute-scaling sweep of the embedded world's transformers."""

    plan: str = "default"
    """quick, default, small, full, or a .json file with a plan's fields"""
    quick: bool = False
    """the plan quick"""
    dry_run: bool = False
    """print runs, tokens, FLOPs and hours; train nothing"""
    gflops: Positive = 15.0
    """6ND per second, in GFLOP/s, that --dry-run takes for hours"""
    draw: Whole | None = None
    """captions drawn of each split by each point, 0 for none; left out: the plan's"""
    minutes: Positive | None = None
    """stop after the point during which these are over; exit code 3 when not all is done"""
    resamples: Resamples = 200
    """bootstrap resamples of the fits"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where trainings run"""
    threads: Threads = 1
    """of the processor"""
    runs: Path = Path(".runs")
    """token caches, and in scaling/ states and points of all plans"""
    weights: Path = field(default_factory=lambda: baselines_folder() / "scenes")
    """folder with text/, vq/, clip/ and bank/"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where tables and figures go"""


def plan_of(options: Options):
    """The plan that the options ask for."""
    from benchmarks.ablations.scaling_plan import find_plan

    plan = find_plan("quick" if options.quick else options.plan)
    return plan if options.draw is None else replace(plan, draw=options.draw)


def scaling(options: Options) -> tuple[dict, Path]:
    """Train and measure what is not done yet, then fit and save: (record, its path)."""
    from benchmarks.ablations.scaling_plan import described

    plan = plan_of(options)
    subject = Subject(options.weights)
    subject.name = f"ladder-{plan.name}"
    protocol = {
        "plan": described(plan),
        "sizes": list(plan.sizes),
        "budgets": sorted(plan.budgets),
        "arms": list(plan.arms),
        "drawn": plan.draw,
        "features": "scenes",
    }
    bench = replace(BENCH, measure=partial(measure, options, plan))
    return core.run(bench, subject, protocol, options.results)


def measure(
    options: Options, plan, system: Subject, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """All points, the laws of each arm, and of retrieval where both arms are there."""
    from benchmarks.ablations.scaling_arms import differences
    from benchmarks.ablations.scaling_fits import around, gains, laws, trainings
    from benchmarks.ablations.scaling_points import Points

    made_of = {"made_of": system.config}
    points = Points(options.runs / "scaling", plan, made_of)
    with phases("train and measure"):
        found = every_point(options, points)
    extra, lacking, by_arm, draws = {}, [], {}, {}
    for run, numbers in found:
        for at, (budget, one) in enumerate(zip(run.budgets, numbers, strict=True)):
            told = one | {"budget": budget}
            by_arm.setdefault(run.arm, []).append(told | {"size": run.size, "seed": run.seed})
            plain = {key: value for key, value in told.items() if key != "device"}
            extra |= {f"{run.size}.{run.arm}.{run.seed}.{at}.{k}": v for k, v in plain.items()}
    with phases("fit"):
        for arm, some in by_arm.items():
            numbers, why, draws[arm] = laws(some, options.resamples)
            extra |= {f"{arm}.{key}": value for key, value in numbers.items()}
            lacking += [f"{arm}, {reason}" for reason in why]
        if len(by_arm) == 2:
            both = by_arm["plain"], by_arm["documents"]
            extra |= differences(*both)
            slopes = [extra[f"{arm}.loss_exponent"][0] for arm in ("plain", "documents")]
            extra["documents.loss_exponent_minus_plain"] = around(
                slopes[1] - slopes[0], draws["documents"] - draws["plain"]
            )
            try:
                extra |= gains(*both)
            except UserError as error:
                lacking.append(f"laws with retrieval: {error}")
    value, low, high = extra[f"{plan.arms[0]}.loss_exponent"]
    every = [one for some in by_arm.values() for one in some]
    whole = trainings(by_arm[plan.arms[0]]) is not None
    return core.Measurement(
        value=value,
        n=len(by_arm[plan.arms[0]]),
        interval=core.Interval(low, high, LEVEL, METHOD if whole else METHOD_OF_POINTS),
        extra=extra,
        warnings=[*WARNINGS, *([] if whole else [DEPENDENT]), *lacking],
        tokens=round(sum(spent(numbers, "tokens") for _, numbers in found)),
        flops=sum(spent(numbers, "flops") for _, numbers in found),
        counters={
            "points": len(every),
            "devices": len({one["device"] for one in every}),
            "damaged": len(points.damaged),
        },
    )


def spent(numbers: Sequence[dict], key: str) -> float:
    """What the branches of a run took: their stable part once, and every decay."""
    from benchmarks.ablations.scaling_plan import DECAY

    each = [one[key] for one in numbers]
    return (1 - DECAY) * max(each) + DECAY * sum(each)


def every_point(options: Options, points) -> list[tuple]:
    """(run, its points) of the whole plan; raises NothingMeasured where time is over, or where the
    rest is in the hands of other workers.
    """
    started, worker = time.monotonic(), None
    for run in points.plan.runs:
        if None not in points.of(run):
            continue
        with held(points.lock(run)) as ours:
            if not ours:
                continue
            worker = worker or worker_of(options, points)
            for budget in run.budgets:
                if options.minutes and time.monotonic() - started > 60 * options.minutes:
                    break
                worker.point(run, budget)
    found = [(run, points.of(run)) for run in points.plan.runs]
    check_whole(points, found)
    return found


def check_whole(points, found: Sequence[tuple]) -> None:
    """Raise NothingMeasured, with who holds what, unless every point is there."""
    whole = [one for _, numbers in found for one in numbers]
    done = sum(one is not None for one in whole)
    if done == len(whole):
        return
    others = []
    for run, numbers in found:
        path = points.lock(run)
        if None in numbers and (who := holder(path)):
            others.append(f"{run.name} is held by {who} ({path}: remove it if that is gone)")
    raise core.NothingMeasured(
        f"{done} of {len(whole)} points are done and kept; the same command goes on"
        + "".join(f"; {one}" for one in others)
    )


def worker_of(options: Options, points):
    """What trains; made when there is something to train."""
    import torch

    from baselines.transformers import Shop
    from benchmarks.ablations.scaling_runs import Worker

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    torch.set_num_threads(options.threads)
    return Worker(points, Shop(options.weights, options.runs), options.device)


def report(options: Options, record: dict) -> None:
    """The tables on the terminal and as files, and the figures."""
    from cm3leon.reports.benches.scaling import scaling_tables
    from cm3leon.reports.benches.scaling_figures import scaling_plots
    from cm3leon.reports.tables import write_all

    folder = core.report_folder(options.reports, NAME)
    for stem, table in scaling_tables(record).items():
        print(f"\n{table.to_text()}")
        write_all(table, folder, stem)
    for path in scaling_plots(record, folder):
        print(f"figure: {path}")


NAME = "scaling"
METHOD = "percentile bootstrap over trainings, with all their branches"
METHOD_OF_POINTS = "percentile bootstrap over points"
WARNINGS = ("a law of small models says little beyond its own range",)
DEPENDENT = "branches of one run share its stable part and are resampled one by one"
BENCH = core.Bench("scaling", 1, "exponent", "higher", protocol={}, measure=measure)
measured = core.command(Options, NAME, scaling, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 measured or told, 2 a user's mistake, 3 not all done, 130 interrupted."""

    def tell() -> int:
        from benchmarks.ablations.scaling_plan import dry_run

        options = parse(Options, argv, NAME)
        if options.dry_run:
            print(dry_run(plan_of(options), 1e9 * options.gflops))
        return 0

    words = sys.argv[1:] if argv is None else argv
    return core.exit_code(tell) if "--dry-run" in words else measured(argv)


if __name__ == "__main__":
    sys.exit(main())
