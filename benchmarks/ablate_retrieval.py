"""What each part of retrieval is worth, in a world where the answer is known (Table 1, 2.1).

    nox -s ablate_retrieval             scenes-s, 120 captions a split, three seeds
    nox -s ablate_retrieval -- --quick  24 captions, one seed: a look, and another protocol

Cost on 2 cores: eight to nine minutes. A killed run keeps its drawings. Every arm draws the
same captions with the same seeds and differs from `documents-2`, the default, in one thing: how
many documents stand before a caption, what finds them, what is kept of them, how alike they may be,
how many there are to choose from, how good they are. FID is by the scenes features against 1,000
real pictures of the split. "entity" is the share of captions about an entity whose picture holds
it. Differences to the default come with intervals over captions. Nothing was chosen on these
captions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.ablations.retrieval_conditions import Arm, ArmSystem, Asked, arms, ask
from benchmarks.harness import core
from benchmarks.images import generated as images
from benchmarks.protocols.prompts import Prompt, digest, scenes_prompts
from benchmarks.protocols.scenes import Rendered, batches
from benchmarks.systems.find import find_system
from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import Features, extract, load_features
from cm3leon.options import Batch, Count, Resamples

SPLITS = ("test", "tail")
DEFAULT = "documents-2"
REFERENCE = 1000  # real pictures of a split that FID compares with
SHOWN = 6  # captions of a split on the picture page
HYPOTHESES = ("text-only", "image-only", "no-diversity")  # arms drawn with all seeds


@dataclass(frozen=True)
class Options:
    """The retrieval ablation of one system (H1, H7, H8)."""

    system: str = "scenes-s"
    """a system with a memory bank"""
    n: Count | None = None
    """captions of each split; left out: 120"""
    seeds: tuple[int, ...] | None = None
    """sampling seeds of the arms that hypotheses compare, the first alone of the others"""
    only: str = ""
    """arms whose name holds this, beside the default: a look, and another protocol"""
    quick: bool = False
    """24 captions, one seed"""
    batch_size: Batch = 64
    """captions drawn at once; moves speed, not pictures"""
    resamples: Resamples = 200
    """of the intervals of FID"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where tables, plots and the picture page go"""
    cache: Path | None = None
    """where drawings are kept; left out: $CM3LEON_CACHE/images or .cache/images"""

    def __post_init__(self):
        if self.n is not None and self.n < 4:
            raise UserError(f"n must be at least 4 (intervals of FID), got {self.n}")
        seeds = self.seeds
        if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
            raise UserError(f"seeds must be different numbers, got {list(seeds)}")

    @property
    def captions(self) -> int:
        """Of each split."""
        return self.n or (24 if self.quick else 120)

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """All of them for what the hypotheses compare."""
        seeds = self.seeds or ((0,) if self.quick else (0, 1, 2))
        return seeds if arm.name.startswith("documents") or arm.name in HYPOTHESES else seeds[:1]


def ablate_retrieval(options: Options, system=None) -> tuple[dict, Path]:
    """Measure and save: (record, its path). `system`, if given, stands for `options.system`."""
    system = system or find_system(options.system)
    if getattr(system, "retriever", None) is None:
        raise UserError(f"system {system.name} has no memory bank to ablate; use scenes-s")
    config = replace(system.retriever.config, documents=2)
    chosen = [arm for arm in arms(config) if options.only in arm.name or arm.name == DEFAULT]
    protocol = {
        "splits": list(SPLITS),
        "captions": options.captions,
        "seeds": {arm.name: list(options.seeds_of(arm)) for arm in chosen},
        "reference": f"the first {REFERENCE} pictures of the split",
        "features": "scenes",
        "default": DEFAULT,
    }
    bench = replace(BENCH, measure=partial(measure, options, chosen))
    return core.run(bench, system, protocol, options.results)


def measure(
    options: Options, chosen: Sequence[Arm], system, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Draw every arm on every split, judge, compare; `protocol` comes back with digests."""
    from benchmarks.ablations import (
        retrieval_scores as judged_arms,  # scipy: imported late, `--help` answers at once
    )

    features = load_features(protocol["features"])
    extra, warnings, facts = {}, [], {"features_sha256": features.digest}
    counters = {"drawn": 0, "reused": 0}
    for split in SPLITS:
        with phases("prompts"):
            asked, real_ND, real_images = load_split(options, split, system, features)
            facts[f"{split}_prompts_sha256"] = digest(asked.prompts)
        lookups(asked, system, extra)
        seeds = next(len(options.seeds_of(arm)) for arm in chosen if arm.name == DEFAULT)
        extra |= floor(split, options.captions * seeds, real_ND, features)
        drawn = {}
        with phases("draw"):
            for arm in (one for one in chosen if split in one.splits):
                one = ArmSystem(replace(system, batch_size=options.batch_size), arm, asked)
                drawn[arm.name] = one, pictures(options, one, arm, asked.prompts)
        for _, sets in drawn.values():
            for one in sets:
                counters["drawn"] += one.drawn
                counters["reused"] += one.reused
        with phases("judge"):
            found = judged_arms.judge_arms(drawn, asked, real_ND, real_images, features)
        with phases("statistics"):
            extra |= judged_arms.numbers(split, found, real_ND, DEFAULT, options.resamples)
        with phases("report"):
            write_page(options, split, drawn)
    name = f"tail.{DEFAULT}.entity_vs_documents-0"
    value = extra.get(name) or extra[f"tail.{DEFAULT}.entity"]
    return core.Measurement(
        value=value[0],
        n=options.captions,
        interval=core.Interval(value[1], value[2], 0.95, judged_arms.METHOD),
        extra=extra,
        warnings=warnings,
        protocol=facts,
        counters=counters,
        device=system.device,
    )


def load_split(
    options: Options, split: str, system, features: Features
) -> tuple[Asked, np.ndarray, np.ndarray]:
    """Captions with their vectors, features of the reference, and the captions' own pictures."""
    prompts = different(scenes_prompts(REFERENCE, split))
    if len(prompts) < options.captions:
        raise UserError(f"n must be at most {len(prompts)} for split {split}, got {options.n}")
    real = np.concatenate(list(batches(Rendered("coco", split, range(REFERENCE), features.size))))
    own = {f"coco-{split}-{index}": image for index, image in enumerate(real)}
    prompts = prompts[: options.captions]
    own_images = np.stack([own[prompt.image_id] for prompt in prompts])
    asked = ask(split, prompts, system.retriever.clip, own_images)
    real_ND = extract(features, np.array_split(real, 16), len(real), f"features of {split}")
    return asked, real_ND, own_images


def floor(split: str, count: int, real_ND: np.ndarray, features: Features) -> dict[str, tuple]:
    """`split.real.floor`: FID of as many real pictures as the default arm draws; nothing where the
    split has too few beside the reference.
    """
    from cm3leon.evaluation.statistics import paired
    from cm3leon.evaluation.statistics.frechet import Reference
    from cm3leon.world.scenes import SPLITS as SIZES

    if REFERENCE + count > SIZES[split]:
        return {}
    others = range(REFERENCE, REFERENCE + count)
    images = np.concatenate(list(batches(Rendered("coco", split, others, features.size))))
    further_MD = extract(features, np.array_split(images, 4), count, f"further ones of {split}")
    distance = paired.distance(Reference(real_ND), further_MD[:, None])
    return {f"{split}.real.floor": paired.frechet(distance)}


def different(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those whose caption no earlier one has: an arm chooses documents by the caption."""
    seen: dict[str, Prompt] = {}
    for prompt in prompts:
        seen.setdefault(prompt.caption, prompt)
    return list(seen.values())


def lookups(asked: Asked, system, extra: dict) -> None:
    """How long a thousand look-ups take, best score of each prompt, and near-duplicates.

    A document that scores above 0.9 against the picture a caption was written for is a near
    duplicate of an evaluation picture (A27).
    """
    from cm3leon.retrieval.select import select

    bank, split = system.retriever.bank, asked.split
    start = time.perf_counter()
    select(asked.query, bank, system.retriever.config)
    spent = time.perf_counter() - start
    extra[f"{split}.seconds_per_1000_lookups"] = 1000 * spent / len(asked.prompts)
    best_P = bank.search(asked.query.images, 1)[0][:, 0]
    extra[f"{split}.highest_image_score"] = float(best_P.max())
    extra[f"{split}.near_duplicate_share"] = float((best_P > 0.9).mean())


def pictures(
    options: Options, system: ArmSystem, arm: Arm, prompts: Sequence[Prompt]
) -> list[images.Pictures]:
    """One set of drawings a seed."""
    seeds = options.seeds_of(arm)
    return images.draw_sets(system, prompts, seeds, options.cache, options.batch_size)


def write_page(options: Options, split: str, drawn: dict) -> None:
    """Captions, what was retrieved for them, and what was drawn with 0, 1 and 2 documents."""
    from cm3leon.reports.plots import picture_page

    wanted = [f"documents-{count}" for count in (0, 1, 2)]
    if any(name not in drawn for name in wanted):
        return
    system, _ = drawn[DEFAULT]
    rows, captions = [], []
    made = {name: next(drawn[name][1][0].batches(SHOWN)) for name in wanted}
    for index in range(min(SHOWN, len(system.asked.prompts))):
        codes = [one.segments[-1].codes for one in system.documents(index)]
        found = system.base.decode_codes(_tensor(codes))
        texts = [system.base.text.decode(one.segments[0].ids) for one in system.documents(index)]
        rows.append([*found, *(made[name][index] for name in wanted)])
        captions.append([*texts, *("" for _ in wanted)])
    heads = ["document 1", "document 2", "drawn with none", "with one", "with both"]
    prompts = [prompt.caption for prompt in system.asked.prompts[:SHOWN]]
    folder = core.report_folder(options.reports, NAME)
    picture_page(rows, captions, prompts, heads, folder / f"{split}.png")


def _tensor(codes):
    import torch

    return torch.tensor(codes)


def report(options: Options, record: dict) -> None:
    """Tables on the terminal and as files, and plots."""
    from cm3leon.reports.benches.retrieval import retrieval_plots, retrieval_tables
    from cm3leon.reports.tables import read_published, write_all

    folder = core.report_folder(options.reports, NAME)
    for stem, table in retrieval_tables(record, read_published()).items():
        print(f"\n{table.to_text()}")
        write_all(table, folder, stem)
    retrieval_plots(record, folder)
    print(f"\ntables, plots and pictures: {folder}")


NAME = "ablate_retrieval"
BENCH = core.Bench("ablate_retrieval", 2, "entity_lift", "higher", protocol={}, measure=measure)


main = core.command(Options, NAME, ablate_retrieval, report)


if __name__ == "__main__":
    sys.exit(main())
