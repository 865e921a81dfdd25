"""How one draws decides the FID: every strategy of section 3.1 against the others (Figure 4).

    nox -s ablate_decoding                      scenes-xs and scenes-s, all parts
    nox -s ablate_decoding -- --quick           a look in two minutes, and another protocol
    nox -s ablate_decoding -- --parts surface   some parts; the pool needs surface and nucleus

Cost on 2 cores: eleven minutes; a killed run keeps its drawings. Parts: `guidance` (FID against the
weight for every size: H3), `surface` (CD-K over k and alpha, with its greedy limit), `nucleus`
(temperature x top-p), `readings` (of the unconditional stream, A32), all on `val`; then, on `test`
and at the settings that were best on `val`, `pool` (FID against samples a prompt, re-ranked by
CLIP: H4, H5) from one pool of drawings, and `captions` (open question 5). FID is by the scenes
features against 1,000 real pictures of the split.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.harness import core
from benchmarks.images import generated as images
from benchmarks.protocols.prompts import Prompt, digest, scenes_prompts
from benchmarks.protocols.scenes import Rendered, batches
from benchmarks.systems.find import find_system
from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import Features, extract, load_features
from cm3leon.options import Batch, Resamples

PARTS = ("guidance", "surface", "nucleus", "readings", "pool", "captions")
REFERENCE = 1000  # real pictures of a split that FID compares with
SHOWN = 4  # captions on the page of pictures


@dataclass(frozen=True)
class Options:
    """The decoding ablation (H3, H4, H5, open question 5)."""

    sizes: tuple[str, ...] = ("scenes-xs", "scenes-s")
    """systems that guidance weights are compared on; the last one is drawn with in all parts"""
    retrieving: str = "scenes-s"
    """a system with a memory bank, for the readings of the unconditional stream"""
    parts: tuple[str, ...] = PARTS
    """which parts to measure; fewer are another protocol"""
    rerank_clip: str = "scenes"
    """the CLIP that picks samples of the pool: scenes, local-dir:FOLDER, or ARCHITECTURE:FILE; with
    another than scenes the pool has a CLIP score too"""
    quick: bool = False
    """fewer settings, captions and samples"""
    batch_size: Batch = 64
    """captions drawn at once; moves speed, not pictures"""
    resamples: Resamples = 200
    """of the intervals of FID"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where tables, plots and the page of pictures go"""
    cache: Path | None = None
    """where drawings are kept; left out: $CM3LEON_CACHE/images or .cache/images"""

    def __post_init__(self):
        if strange := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"parts are {', '.join(PARTS)}, got {strange[0]!r}")
        if not self.parts or not self.sizes:
            raise UserError("parts and sizes must name at least one each")
        if "pool" in self.parts and not {"surface", "nucleus"} <= set(self.parts):
            raise UserError("part pool takes its settings from surface and nucleus; add them")
        if self.resamples < 2:
            raise UserError(f"resamples must be at least 2, got {self.resamples}")


def ablate_decoding(options: Options, systems: Sequence | None = None) -> tuple[dict, Path]:
    """Measure and save: (record, its path). `systems`, if given: the sizes, then the retrieving."""
    from benchmarks.ablations.decoding_settings import QUICK, Plan

    names = [*options.sizes, *([options.retrieving] if "readings" in options.parts else [])]
    systems = systems or [find_system(name) for name in names]
    for system in systems:
        if not hasattr(system, "with_decode"):
            raise UserError(f"system {system.name} has no settings of drawing to compare")
    plan = QUICK if options.quick else Plan()
    protocol = {
        "sizes": list(options.sizes),
        "parts": list(options.parts),
        "plan": asdict(plan),
        "reference": f"the first {REFERENCE} pictures of the split",
        "features": "scenes",
        "rerank_clip": "scenes" if options.rerank_clip == "scenes" else "another",  # and its digest
    }
    run = Run(options, plan, list(systems))
    bench = replace(BENCH, measure=lambda system, *rest: measure(run, *rest))
    return core.run(bench, systems[len(options.sizes) - 1], protocol, options.results)


@dataclass
class Run:
    """What the parts share and what they have found."""

    options: Options
    plan: object  # of decoding_cells
    systems: list
    extra: dict = field(default_factory=dict)
    cells: dict = field(default_factory=dict)  # part -> cell -> settings, for the protocol
    facts: dict = field(default_factory=dict)
    missing: list = field(default_factory=list)
    counters: dict = field(default_factory=lambda: {"drawn": 0, "reused": 0})

    @property
    def system(self):
        """The one that all parts draw with."""
        return self.systems[len(self.options.sizes) - 1]

    def drawn(self, system, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list:
        """One set of pictures a seed."""
        one = replace(system, batch_size=self.options.batch_size)
        sets = images.draw_sets(one, prompts, seeds, self.options.cache, self.options.batch_size)
        for each in sets:
            self.counters["drawn"] += each.drawn
            self.counters["reused"] += each.reused
        return sets


def measure(run: Run, protocol: dict, phases: core.Phases) -> core.Measurement:
    """All parts; `protocol` comes back with the cells and the digests."""
    from benchmarks.ablations import decoding_parts as parts

    options, features = run.options, load_features(protocol["features"])
    run.facts["features_sha256"] = features.digest
    for split in ("val", "test"):
        used = PARTS[:4] if split == "val" else PARTS[4:5]
        if set(used) & set(options.parts):
            with phases("prompts"):
                asked = load_split(run, split, features)
            for name in (part for part in used if part in options.parts):
                getattr(parts, name)(run, asked, features, phases)
    if "captions" in options.parts:
        parts.captions(run, phases)
    value, interval = headline(run)
    return core.Measurement(
        value=value,
        n=run.plan.pool_prompts,
        interval=interval,
        extra=run.extra,
        missing=run.missing,
        protocol=run.facts | {"cells": run.cells},
        counters=run.counters,
        device=run.system.device,
    )


def headline(run: Run) -> tuple[float, core.Interval | None]:
    """FID on `test` of the best strategy with all samples; without the pool the best cell's."""
    pooled = [key for key in run.extra if key.startswith("pool.") and key.endswith(".fid")]
    most = f"-n{run.plan.counts[-1]}.fid"
    names = [key for key in pooled if key.endswith(most)] or [
        key for key in run.extra if key.endswith((".fid", ".cider"))
    ]
    best = min(names, key=lambda key: run.extra[key][0])
    from cm3leon.evaluation.statistics.paired import METHOD

    value, low, high = run.extra[best]
    run.facts["value_is"] = best
    return value, core.Interval(low, high, 0.95, METHOD)


def load_split(run: Run, split: str, features: Features) -> Asked:
    """Captions of a split and features of its real pictures."""
    from cm3leon.evaluation.statistics.frechet import Reference

    real = np.concatenate(list(batches(Rendered("coco", split, range(REFERENCE), features.size))))
    real_ND = extract(features, np.array_split(real, 16), len(real), f"features of {split}")
    plan = run.plan
    prompts = scenes_prompts(max(plan.weight_prompts, plan.cell_prompts, plan.pool_prompts), split)
    run.facts[f"{split}_prompts_sha256"] = digest(prompts)
    most = max(len(prompts), plan.cell_prompts * len(plan.cell_seeds))
    others = range(REFERENCE, REFERENCE + most)
    further = np.concatenate(list(batches(Rendered("coco", split, others, features.size))))
    further_MD = extract(features, np.array_split(further, 4), most, f"further ones of {split}")
    return Asked(split, prompts, Reference(real_ND), further_MD)


@dataclass(frozen=True)
class Asked:
    """Captions of one split, and what FID compares their pictures with."""

    split: str
    prompts: Sequence[Prompt]
    reference: object  # cm3leon.evaluation.statistics.frechet.Reference
    further_MD: np.ndarray  # features of real pictures that the reference does not hold


def report(options: Options, record: Mapping) -> None:
    """Tables on the terminal and as files, and plots."""
    from cm3leon.reports.benches.decoding import decoding_tables
    from cm3leon.reports.benches.decoding_figures import decoding_plots
    from cm3leon.reports.tables import write_all

    folder = core.report_folder(options.reports, NAME)
    for stem, table in decoding_tables(record).items():
        print(f"\n{table.to_text()}")
        write_all(table, folder, stem)
    decoding_plots(record, folder)
    print(f"\ntables, plots and pictures: {folder}")


NAME = "ablate_decoding"
BENCH = core.Bench("ablate_decoding", 2, "fid_scenes", "lower", protocol={}, measure=measure)


main = core.command(Options, NAME, ablate_decoding, report)


if __name__ == "__main__":
    sys.exit(main())
