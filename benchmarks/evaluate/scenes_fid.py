"""FID on the embedded world: splits of captions, each drawn with 0, 1 and 2 documents.

FID is against other real pictures of the split, so that a set of real pictures has one too (the
floor). `fid_own` is against the pictures the captions were written for: the floor of that kind is
0, and what knows the captions may lie below other real pictures. Numbers of a record are named
`split.arm.measure`; what scales them, `split.measure`.

Shapes: N captions, M other real pictures, K sampling seeds, T composition tasks, D features, S
pixels of a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.evaluate import clip_beside, composition, fid, networks
from benchmarks.harness import core
from benchmarks.images import generated as images
from benchmarks.protocols.prompts import Prompt, digest
from benchmarks.protocols.scenes import Task, batches, scenes_task
from benchmarks.systems.settings import Arm, main_arm
from cm3leon.evaluation.features.network import Features, load_features
from cm3leon.evaluation.measures import Missing
from cm3leon.evaluation.metrics.composition import ALL, asks_for_unseen
from cm3leon.evaluation.metrics.fid import Fid
from cm3leon.evaluation.metrics.fid import fid as fid_of
from cm3leon.evaluation.metrics.impossible import columns_of, impossible
from cm3leon.evaluation.sides import LEAST, Held, Sides, Truth, numbers
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.frechet import Reference
from cm3leon.evaluation.statistics.intervals import one_thread
from cm3leon.files import sha256_bytes
from cm3leon.training import ranks
from cm3leon.workers import side_by_side
from cm3leon.world.repeats import in_training

CAPTIONS = {"natural": 1000, "test": 200, "tail": 200, "val": 1000}
QUICK = {"natural": 128, "test": 64, "tail": 64, "val": 128}
RESAMPLES = 200


@dataclass(frozen=True)
class Measured:
    """One arm on one split as numbers, and what is missing; each caption's influence on FID is
    None for fewer than four pictures a side.
    """

    measures: Mapping[str, float | tuple]  # fid, fid_own, kid, .. -> value, or with its ends
    fid: Fid
    distance: paired.Distance | None
    missing: Sequence[Missing]


@dataclass
class Split:
    """Captions of a split, their real pictures, what each arm drew, and what came of it."""

    name: str
    task: Task
    drawn: dict[str, list[images.Pictures]] = field(default_factory=dict)  # arm -> a set a seed
    sides: dict[str, Sides] = field(default_factory=dict)  # arm -> against the other pictures
    own_NSS3: np.ndarray | None = None  # the pictures the captions were written for
    own: Held | None = None
    others: Held | None = None
    pixels_sha256: str = ""  # of the captions' own pictures, then of the others

    @property
    def prompts(self) -> list[Prompt]:
        """Its captions."""
        return self.task.prompts


def protocol(options) -> dict:
    """What is known of the protocol before anything is measured."""
    captions = captions_of(options)
    return {
        "prompts": f"scenes coco {', '.join(captions)}; one caption a picture",
        "reference": "other real pictures of the split, behind those of the captions",
        "headline": next(iter(captions)),
        "captions": captions,
        "real": options.real,
        "documents": list(options.counts),
    }


def captions_of(options) -> dict[str, int]:
    """Captions of each split asked for, the headline's first."""
    usual = QUICK if options.quick else CAPTIONS
    return {split: options.n or usual[split] for split in options.split}


def measure(
    options,
    group: ranks.Group,
    arms: Sequence[Arm],
    system,
    protocol: Mapping,
    phases: core.Phases,
) -> core.Measurement:
    """Draw every arm on every split and judge it; `plain` on the headline's split alone."""
    features = load_features(protocol["features"])
    named, missing = networks.find_all(options, features.name, variables=False)
    with phases("prompts"):
        splits = [
            Split(name, scenes_task(count, features.size, name, options.real))
            for name, count in protocol["captions"].items()
        ]
    with phases("draw"):
        if options.images is None:
            draw(group, arms, splits, options.seeds, options.cache, options.batch_size)
        else:
            given(options.images, arms[0].name, splits, features.size)
    group.part()
    for split in splits:
        with phases("features"):
            embed(split, features)
        with phases("composition"):
            read_back(split, features, getattr(system, "vq", None))
    main, arm = splits[0], main_arm(system)
    with phases("statistics"):
        measured = {split.name: measure_split(split, options.resamples, arm) for split in splits}
    extra = dict(pair for split in splits for pair in told(split, measured[split.name]))
    with phases("features"):
        extra |= scale(main, features, system)
        beside = networks.take(networks.sides_by(named, partial(by_network, main, arm)))
    with phases("report"):
        folder = core.report_folder(options.reports, "fid_coco")
        fid.write_grid(folder, main.prompts, main.drawn[arm][0])
        near, unpicked = clip_beside.score_picked(system, main.prompts, main.drawn[arm])
    head, pictures = measured[main.name][arm], drawings(splits)
    extra |= {f"{main.name}.{arm}.{key}": value for key, value in (beside.extra | near).items()}
    return core.Measurement(
        **fid.headline(head.fid),
        n=len(main.prompts),
        samples=samples(splits),
        extra=extra,
        by={f"{main.name}.{arm}.{key}": network for key, network in beside.by.items()},
        missing=[*head.missing, *missing, *beside.missing, *unpicked],
        warnings=[*warnings(splits, features), *own_pictures(measured), *beside.remarks],
        protocol=found(splits, features),
        counters=fid.counters(pictures),
        device=getattr(system, "device", None),
    )


def draw(
    group: ranks.Group,
    arms: Sequence[Arm],
    splits: Sequence[Split],
    seeds: Sequence[int],
    cache: Path | None,
    batch_size: int,
) -> None:
    """The pictures of every split by every arm, drawn or taken from the cache; `plain` on the first
    split alone.
    """
    for split in splits:
        for arm in arms:
            if arm.name != "plain" or split is splits[0]:
                split.drawn[arm.name] = [
                    images.draw_together(group, arm.system, split.prompts, seed, cache, batch_size)
                    for seed in seeds
                ]


def given(folder: Path, arm: str, splits: Sequence[Split], size: int) -> None:
    """Pictures of a folder, which holds those of all splits."""
    prompts = [prompt for split in splits for prompt in split.prompts]
    everything, start = images.from_folder(folder, prompts, size), 0
    for split in splits:
        end = start + len(split.prompts)
        one = replace(everything, paths=everything.paths[start:end], reused=end - start)
        split.drawn[arm], start = [one], end


def embed(split: Split, features: Features) -> None:
    """Features of the real pictures and of all that was drawn."""
    own_NSS3 = np.concatenate(list(batches(split.task.reference)))
    others_MSS3 = np.concatenate(list(batches(split.task.further)))
    split.own_NSS3 = own_NSS3
    split.own, split.others = (
        fid.held(features, fid.pieces(real), len(real), name)
        for name, real in ((split.name, own_NSS3), (f"other {split.name}", others_MSS3))
    )
    both = own_NSS3.tobytes() + others_MSS3.tobytes()
    split.pixels_sha256 = hashlib.sha256(both).hexdigest()
    for name, sets in split.drawn.items():
        fakes = fid.held_sets(features, sets, f"{split.name}, {name}")
        split.sides[name] = Sides(split.others, fakes, features, split.others)


def by_network(split: Split, arm: str, features: Features) -> Sides:
    """What one arm drew for a split against the other pictures, by another network."""
    count = len(split.task.further)
    others = fid.held(features, batches(split.task.further), count, f"other {split.name}")
    fakes = fid.held_sets(features, split.drawn[arm], f"{split.name}, {arm}")
    captions = [prompt.caption for prompt in split.prompts]
    return Sides(others, fakes, features, others, captions=captions)


def read_back(split: Split, features: Features, vq) -> None:
    """What the drawn pictures show of what the captions claim, and how many cannot be.

    `vq` is the system's image tokenizer, None where it has none of our kind.
    """
    unseen_N = np.array([asks_for_unseen(prompt.meaning) for prompt in split.prompts])
    pictured = [prompt.image_id for prompt in split.prompts]
    for name, sets in split.drawn.items():
        right_NT, asked_NT = composition.answers(split.prompts, sets, features.size)
        codes = [one.codes() for one in sets] if hasattr(vq, "encode") else [None]
        impossible_N = None
        if all(one is not None for one in codes):
            never_CW = columns_of(vq)
            impossible_N = np.mean([impossible(one, never_CW) for one in codes], axis=0)
        truth = Truth(right_NT, asked_NT, pictured, unseen_N, impossible_N)
        split.sides[name] = replace(split.sides[name], truth=truth)


def measure_split(split: Split, resamples: int | None, main: str) -> dict[str, Measured]:
    """Every arm as numbers, arms side by side; of the main one FID at endless pictures too."""
    resamples = RESAMPLES if resamples is None else resamples

    def of_arm(name: str) -> Measured:
        sides = replace(split.sides[name], resamples=resamples)
        return measure_arm(split, sides, () if name == main else ("fid",))

    with one_thread():
        return dict(zip(split.sides, side_by_side(of_arm, list(split.sides)), strict=True))


def measure_arm(split: Split, sides: Sides, skip: Sequence[str]) -> Measured:
    """FID of both kinds, and everything else that can be told of one arm on one split."""
    one, own = fid_of(split.others, sides.fakes), fid_of(split.own, sides.fakes)
    more, missing = numbers(sides, skip)
    some = None
    if min(split.others.count, len(split.prompts)) >= LEAST:
        fakes_KND = np.stack([fake.features_ND for fake in sides.fakes])
        some = paired.mean_distance(Reference(split.others.features_ND), fakes_KND)
    return Measured({"fid": one.number, "fid_own": own.number} | more, one, some, missing)


def told(split: Split, measured: Mapping[str, Measured]) -> Iterator[tuple[str, float | tuple]]:
    """`split.arm.measure` and its value; FID over that without documents, paired over captions."""
    yield f"{split.name}.floor", split.others.distance(split.own)
    numbers_N = [int(prompt.image_id.rsplit("-", 1)[1]) for prompt in split.prompts]
    yield f"{split.name}.in_training", float(in_training("coco", split.name, numbers_N).mean())
    none = measured.get("documents0")
    for name, one in measured.items():
        for key, value in one.measures.items():
            yield f"{split.name}.{name}.{key}", value
        if name not in ("documents0", "plain") and none and none.distance and one.distance:
            ratio = paired.frechet_ratio(none.distance, one.distance)
            yield f"{split.name}.{name}.fid_over_documents0", ratio


def scale(split: Split, features: Features, system) -> dict[str, float]:
    """Both distances of the reconstructions of the captions' pictures (rFID) and of noise."""
    tokenizer = getattr(system, "vq", None) or fid.shipped_tokenizer()
    count = len(split.prompts)
    made = {
        "rfid": (tokenizer.decode(tokenizer.encode(part)) for part in fid.pieces(split.own_NSS3)),
        "ceiling": fid.noise(count, features.size),
    }
    extra = {}
    for name, pictures in made.items():
        rows = fid.held(features, pictures, count, name)
        extra |= {
            f"{split.name}.{name}": split.others.distance(rows),
            f"{split.name}.{name}_own": split.own.distance(rows),
        }
    return extra


def samples(splits: Sequence[Split]) -> dict[str, np.ndarray]:
    """What single pictures scored, for paired comparison; nothing above `fid.KEPT_BYTES`."""
    kept = {
        "prompts": np.array([prompt.id for split in splits for prompt in split.prompts]),
        "tasks": np.array(ALL),
    }
    for split in splits:
        kept |= {
            f"{split.name}.unseen_N": next(iter(split.sides.values())).truth.unseen_N,
            f"{split.name}.images": np.array([prompt.image_id for prompt in split.prompts]),
            f"{split.name}.own_ND": split.own.features_ND.astype(np.float32),
            f"{split.name}.others_MD": split.others.features_ND.astype(np.float32),
        }
        for name, one in split.sides.items():
            fakes_KND = np.stack([fake.features_ND for fake in one.fakes])
            kept |= {
                f"{split.name}.{name}.features_KND": fakes_KND.astype(np.float32),
                f"{split.name}.{name}.right_NT": one.truth.right_NT.astype(np.int8),
                f"{split.name}.{name}.asked_NT": one.truth.asked_NT.astype(np.int8),
            }
    return kept if sum(one.nbytes for one in kept.values()) <= fid.KEPT_BYTES else {}


def warnings(splits: Sequence[Split], features: Features) -> list[str]:
    """What a reader must know before quoting the numbers."""
    said = []
    for split in splits:
        n = min(len(split.prompts), split.others.count)
        if n <= features.dim:
            said.append(
                f"{split.name}: n={n} is not above the {features.dim} features: FID is far too high"
            )
    return said + fid.unasked(drawings(splits))


def own_pictures(measured: Mapping[str, Mapping[str, Measured]]) -> list[str]:
    """A line on splits whose pictures are those that the captions were written for."""
    same = []
    for split, arms in measured.items():
        told = [one.measures["fid_own"] for one in arms.values()]
        if min(one[0] if isinstance(one, tuple) else one for one in told) < fid.NONE:
            same.append(split)
    if not same:
        return []
    return [f"the pictures of {', '.join(same)} are the captions' own: fid_own is 0"]


def found(splits: Sequence[Split], features: Features) -> dict:
    """What the protocol could not know before: the very prompts, pictures and weights."""
    return {
        "n": len(splits[0].prompts),
        "prompts_sha256": digest([prompt for split in splits for prompt in split.prompts]),
        "reference_sha256": sha256_bytes(" ".join(one.pixels_sha256 for one in splits).encode()),
        "features_sha256": features.digest,
    }


def drawings(splits: Sequence[Split]) -> list[images.Pictures]:
    """All sets of pictures."""
    return [one for split in splits for sets in split.drawn.values() for one in sets]
