"""What does retrieval bring, all else equal? A model beside its twin trained without documents.

    nox -s equal_compute            scenes-s and its twin scenes-s-plain at equal queries
    nox -s equal_compute -- --system scenes-s-2250 --queries None --flops scenes-s-plain

Nothing is drawn: run `nox -s fid_coco -- --system NAME` for each model first. The twin was trained
on the same queries in the same order. At equal FLOPs either model may be a shorter training:
`scenes-s-2250` is `scenes-s` at the FLOPs of `scenes-s-plain` (`nox -s train_baselines -- --parts
scenes-s --steps 2250 --name scenes-s-2250`; not shipped). FID, composition and the entities drawn
right, of each split of `fid_coco`, are paired over captions. The value is FID on `natural` over
that of the twin, at equal FLOPs where that was asked for: below 1 retrieval helps. One training
seed stands behind each, so an interval says nothing of retraining.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.options import Resamples
from cm3leon.reports import main_arm
from cm3leon.reports.compare import samples_of
from cm3leon.reports.records.store import largest_n, read_files, weight

MEASURES = ("overall", "position", "attribution", "entity", "entity_unseen")


@dataclass(frozen=True)
class Options:
    """A retrieval-augmented model against its twin without documents."""

    system: str = "scenes-s"
    """the model with documents, as fid_coco calls it"""
    queries: str | None = "scenes-s-plain"
    """the twin at equal query tokens; None leaves the comparison out"""
    flops: str | None = None
    """the twin at equal FLOPs; None leaves the comparison out"""
    resamples: Resamples = 1000
    """bootstrap resamples of the intervals of shares"""
    results: Path = core.RESULTS
    """where the records are, and where this one goes"""
    reports: Path = core.ROOT / "reports" / "out"
    """where the table goes"""

    def __post_init__(self):
        if not self.twins:
            raise UserError("name a twin: --queries NAME or --flops NAME")
        if self.resamples < 2:
            raise UserError(f"resamples must be at least 2, got {self.resamples}")

    @property
    def twins(self) -> dict[str, str]:
        """Kind -> name of the twins asked for."""
        return {kind: name for kind in ("queries", "flops") if (name := getattr(self, kind))}


@dataclass(frozen=True)
class Drawn:
    """A record of `fid_coco` version 2 with the scores of its single samples."""

    record: Mapping
    samples: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        """Of the system."""
        return self.record["system"]["name"]

    @property
    def config(self) -> dict:
        """Of the system."""
        return self.record["system"]["config"]

    @property
    def weights_sha256(self) -> str | None:
        """Of the system."""
        return self.record["system"]["weights_sha256"]

    @property
    def arm(self) -> str:
        """The arm of the headline, e.g. documents2."""
        return main_arm(self.record).partition(".")[2]

    def array(self, split: str, name: str, arm: bool = True) -> np.ndarray:
        """One of the arrays of a split, or of the headline's arm on it."""
        return self.samples[".".join([split, *([self.arm] if arm else []), name])]


def equal_compute(options: Options) -> tuple[dict, Path]:
    """Compare and save: (record, its path)."""
    ours = read_drawn(options.results, options.system)
    twins = {kind: read_drawn(options.results, name) for kind, name in options.twins.items()}
    for kind, twin in twins.items():
        check_pair(ours, twin, kind)
    protocol = {
        "data": "scenes",
        "fid_coco": ours.record["protocol_digest"],
        "headline": ours.record["protocol"]["headline"],
        "captions": ours.record["protocol"]["captions"],
        "documents": ours.config["documents"],
        "twins": options.twins,
        "features": ours.record["protocol"]["features"],
    }
    return core.run(
        replace(BENCH, measure=partial(measure, options, twins)), ours, protocol, options.results
    )


def read_drawn(results: Path, name: str) -> Drawn:
    """The record of all splits that speaks for a system (`store.weight`), with its samples;
    UserError where there is none or its samples are gone.
    """
    way = f"run nox -s fid_coco -- --system {name}"
    found = [
        (path, record)
        for path, record in read_files(results, "fid_coco")
        if record["system"]["name"] == name and main_arm(record) is not None
    ]
    if not found:
        raise UserError(f"no record of fid_coco version 2 of {name} in {results}; {way}")
    most = largest_n([record for _, record in found])
    path, record = max(found, key=lambda one: weight(one[1], most))
    samples = samples_of(path, record)
    if samples is None:
        raise UserError(f"{path} has no samples beside it ({path.stem}.npz); {way} again")
    return Drawn(record, samples)


def check_pair(ours: Drawn, twin: Drawn, kind: str) -> None:
    """Raise UserError unless both are by one protocol, and only the twin without documents."""
    if ours.record["protocol_digest"] != twin.record["protocol_digest"]:
        raise UserError(
            f"{ours.name} and {twin.name} were measured by different protocols; measure both by "
            "the same command"
        )
    if not ours.config.get("documents"):
        raise UserError(f"{ours.name} draws without documents: there is nothing to compare")
    if twin.config.get("documents"):
        raise UserError(f"--{kind} {twin.name} draws with documents; name the twin without")


def measure(
    options: Options, twins: Mapping[str, Drawn], ours: Drawn, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Both comparisons on every split."""
    extra = {}
    with phases("statistics"):
        for split in protocol["captions"]:
            for kind, twin in twins.items():
                extra |= dict(compared(ours, twin, kind, split, options.resamples))
    for kind, one in (("ours", ours), *twins.items()):
        extra |= {f"{kind}.{key}": value for key, value in costs(one.name).items()}
    main = "flops" if "flops" in twins else "queries"
    value = extra[f"{main}.{protocol['headline']}.fid_ratio"]
    return core.Measurement(
        value=value[0],
        n=ours.record["n"],
        interval=core.Interval(value[1], value[2], 0.95, METHOD),
        extra=extra,
        warnings=["one training seed each: an interval says nothing of retraining"],
        protocol={"value_is": main},
    )


def compared(ours: Drawn, twin: Drawn, kind: str, split: str, resamples: int):
    """Pairs of name and number of one split: FIDs, their ratio, differences of shares."""
    from cm3leon.evaluation.statistics import paired
    from cm3leon.evaluation.statistics.frechet import Reference

    reference = Reference(ours.array(split, "others_MD", arm=False))
    sides = [
        paired.mean_distance(reference, one.array(split, "features_KND")) for one in (ours, twin)
    ]
    for name, side in zip(("ours", kind), sides, strict=True):
        yield f"{name}.{split}.fid", paired.frechet(side)
    yield f"{kind}.{split}.fid_ratio", paired.frechet_ratio(sides[1], sides[0])
    for name in MEASURES:
        found = difference(ours, twin, split, name, resamples)
        if found is not None:
            yield f"{kind}.{split}.{name}", found


def difference(
    ours: Drawn, twin: Drawn, split: str, measure: str, resamples: int
) -> tuple[float, float, float] | None:
    """Share right of ours less the twin's, whole captions resampled; None where few were asked."""
    from cm3leon.evaluation.statistics.intervals import bootstrap_interval

    tasks = [str(task) for task in ours.samples["tasks"]]
    names = ("right_NT", "asked_NT")
    rows_N4T = np.stack(
        [one.array(split, name).astype(np.int64) for one in (ours, twin) for name in names], 1
    )
    task = "entity" if measure == "entity_unseen" else measure
    if measure == "entity_unseen":
        rows_N4T = rows_N4T[ours.array(split, "unseen_N", arm=False)]
    columns = slice(None) if measure == "overall" else [tasks.index(task)]
    if np.count_nonzero(rows_N4T[:, 1][:, columns].any(-1)) < 2:
        return None
    statistic = partial(apart, tasks=tasks, task=task)
    ends = bootstrap_interval(rows_N4T, statistic, resamples)
    return statistic(rows_N4T), *ends


def apart(rows_N4T: np.ndarray, tasks: Sequence[str], task: str) -> float:
    """Share right of the first side less that of the second, of rows [N, 4, T]: right and asked of
    each side. 0 where nothing was asked (a resample without such a caption).
    """
    from cm3leon.evaluation.metrics.composition import shares

    names = [*tasks, "overall"]
    ours, others = (
        shares(rows_N4T[:, at], rows_N4T[:, at + 1])[names.index(task)] for at in (0, 2)
    )
    return float(ours - others) if np.isfinite(ours - others) else 0.0


def costs(name: str) -> dict[str, float]:
    """Queries, tokens and FLOPs (6ND) of a model's training, as its config.json tells them; nothing
    for a system that does not say.
    """
    from cm3leon.checkpoint import read_about, total_cost
    from cm3leon.loading import find_model

    try:
        return total_cost(read_about(find_model(name))["extra"])
    except UserError:  # no model of ours, or not here any more
        return {}


def report(options: Options, record: dict) -> None:
    """The table on the terminal and as files."""
    from cm3leon.reports.benches.equal_compute import compute_table
    from cm3leon.reports.tables import write_all

    table = compute_table(record)
    print(f"\n{table.to_text()}\n")
    write_all(table, core.report_folder(options.reports, BENCH.name), BENCH.name)


METHOD = "Student t over the captions' influence on both distances"
BENCH = core.Bench("equal_compute", 1, "fid_ratio", "lower", protocol={}, measure=measure)


main = core.command(Options, BENCH.name, equal_compute, report)


if __name__ == "__main__":
    sys.exit(main())
