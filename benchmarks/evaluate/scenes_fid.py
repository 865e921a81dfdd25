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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.ablations.retrieval_scores import asks_for_unseen
from benchmarks.evaluate import clip_beside, composition, fid
from benchmarks.evaluate.pinned import write_grid
from benchmarks.harness import core, sharding
from benchmarks.images import generated as images
from benchmarks.protocols.prompts import Prompt, digest
from benchmarks.protocols.scenes import Task, batches, scenes_task
from benchmarks.systems.settings import Arm, main_arm
from cm3leon.evaluation.features.network import Features, extract, load_features
from cm3leon.evaluation.metrics.impossible import columns_of, impossible
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.frechet import Reference, frechet_from_features
from cm3leon.evaluation.statistics.intervals import one_thread
from cm3leon.files import sha256_bytes
from cm3leon.workers import side_by_side

if TYPE_CHECKING:
    from benchmarks.fid_coco import Options

CAPTIONS = {"natural": 1000, "test": 200, "tail": 200, "val": 1000}
QUICK = {"natural": 128, "test": 64, "tail": 64, "val": 128}
RESAMPLES = 200


@dataclass(frozen=True)
class Judged:
    """What one arm drew for a split: features, and answers to what the captions claim."""

    features_KND: np.ndarray
    right_NT: np.ndarray  # summed over the seeds, as is asked_NT
    asked_NT: np.ndarray
    impossible_N: np.ndarray | None = None  # share of the seeds; None for pictures without codes


@dataclass(frozen=True)
class Measured:
    """One arm on one split as numbers: the parts of FID's interval, and each caption's influence.

    The latter is None for fewer than four pictures a side.
    """

    measures: Mapping[str, float | tuple]  # fid, fid_own, kid, .. -> value, or with its ends
    spread: Mapping[str, core.Interval | None]
    distance: paired.Distance | None


@dataclass
class Split:
    """Captions of a split, their real pictures, what each arm drew, and what came of it."""

    name: str
    task: Task
    drawn: dict[str, list[images.Pictures]] = field(default_factory=dict)  # arm -> a set a seed
    judged: dict[str, Judged] = field(default_factory=dict)
    own_NSS3: np.ndarray | None = None  # the pictures the captions were written for
    own_ND: np.ndarray | None = None
    others_MD: np.ndarray | None = None
    pixels_sha256: str = ""  # of the captions' own pictures, then of the others

    @property
    def prompts(self) -> list[Prompt]:
        """Its captions."""
        return self.task.prompts


def protocol(options: Options) -> dict:
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


def captions_of(options: Options) -> dict[str, int]:
    """Captions of each split asked for, the headline's first."""
    usual = QUICK if options.quick else CAPTIONS
    return {split: options.n or usual[split] for split in options.split}


def measure(
    options: Options,
    group: sharding.Group,
    arms: Sequence[Arm],
    system,
    protocol: Mapping,
    phases: core.Phases,
) -> core.Measurement:
    """Draw every arm on every split and judge it; `plain` on the headline's split alone."""
    features = load_features(protocol["features"])
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
    extra = dict(pair for split in splits for pair in numbers(split, measured[split.name]))
    with phases("features"):
        extra |= scale(main, features, system)
    with phases("report"):
        write_grid(options.reports / "fid_coco", main.prompts, main.drawn[arm][0])
        near, missing = clip_beside.score_picked(system, main.prompts, main.drawn[arm])
    spread = dict(measured[main.name][arm].spread)
    per_seed = fid.per_seed(main.others_MD, main.judged[arm].features_KND)
    return core.Measurement(
        value=float(np.mean(per_seed)),
        n=len(main.prompts),
        interval=spread.pop("both"),
        spread=spread,
        per_seed=per_seed,
        samples=samples(splits),
        extra=extra | {f"{main.name}.{arm}.{key}": value for key, value in near.items()},
        missing=missing,
        warnings=warnings(splits, features),
        protocol=found(splits, features),
        counters=counters(splits),
        device=getattr(system, "device", None),
    )


def draw(
    group: sharding.Group,
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
    split.own_ND, split.others_MD = (
        extract(features, fid.pieces(real), len(real), f"features of {name}")
        for name, real in ((split.name, own_NSS3), (f"other {split.name}", others_MSS3))
    )
    both = own_NSS3.tobytes() + others_MSS3.tobytes()
    split.pixels_sha256 = hashlib.sha256(both).hexdigest()
    for name, sets in split.drawn.items():
        label, count = f"features of {split.name}, {name}", len(split.prompts)
        rows = [extract(features, one.batches(), count, label) for one in sets]
        split.judged[name] = Judged(np.stack(rows), *np.zeros((2, count, 0)))


def read_back(split: Split, features: Features, vq) -> None:
    """What the drawn pictures show of what the captions claim, and how many cannot be.

    `vq` is the system's image tokenizer, None where it has none of our kind.
    """
    for name, sets in split.drawn.items():
        right_NT, asked_NT = composition.answers(split.prompts, sets, features.size)
        codes = [one.codes() for one in sets] if hasattr(vq, "encode") else [None]
        impossible_N = None
        if all(one is not None for one in codes):
            never_CW = columns_of(vq)
            impossible_N = np.mean([impossible(one, never_CW) for one in codes], axis=0)
        split.judged[name] = replace(
            split.judged[name], right_NT=right_NT, asked_NT=asked_NT, impossible_N=impossible_N
        )


def measure_split(split: Split, resamples: int | None, main: str) -> dict[str, Measured]:
    """Every arm as numbers, arms side by side; of the main one FID at endless pictures too."""
    resamples = RESAMPLES if resamples is None else resamples

    def of_arm(name: str) -> Measured:
        return measure_arm(split, split.judged[name], resamples, name == main)

    with one_thread():
        return dict(zip(split.judged, side_by_side(of_arm, list(split.judged)), strict=True))


def measure_arm(split: Split, one: Judged, resamples: int, endless: bool) -> Measured:
    """FID of both kinds, KID and composition of one arm on one split."""
    fakes, measures, spreads = one.features_KND, {}, {}
    for name, real_ND in (("fid", split.others_MD), ("fid_own", split.own_ND)):
        value = float(np.mean(fid.per_seed(real_ND, fakes)))
        spreads[name] = fid.spread(real_ND, fakes)
        ends = spreads[name]["both"]
        measures[name] = value if ends is None else (value, ends.low, ends.high)
    enough = min(len(split.prompts), len(split.others_MD)) >= fid.LEAST
    if endless:
        measures |= fid.companions(split.others_MD, fakes, resamples)
    elif enough:
        measures |= fid.kernel(split.others_MD, fakes)
    images = [prompt.image_id for prompt in split.prompts]
    measures |= composition.composition(one.right_NT, one.asked_NT, images)
    unseen_N = np.array([asks_for_unseen(prompt) for prompt in split.prompts])
    if unseen_N.sum() >= 2:
        entity = composition.ALL.index("entity")
        rights_N, asked_N = one.right_NT[unseen_N, entity], one.asked_NT[unseen_N, entity]
        measures["entity_unseen"] = paired.mean(rights_N / asked_N)
    if one.impossible_N is not None:
        measures["impossible"] = paired.mean(one.impossible_N)
    some = paired.mean_distance(Reference(split.others_MD), fakes) if enough else None
    return Measured(measures, spreads["fid"], some)


def numbers(split: Split, measured: Mapping[str, Measured]) -> Iterator[tuple[str, float | tuple]]:
    """`split.arm.measure` and its value; FID over that without documents, paired over captions."""
    yield f"{split.name}.floor", frechet_from_features(split.others_MD, split.own_ND)
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
        rows_ND = extract(features, pictures, count, f"features of {name}")
        extra |= {
            f"{split.name}.{name}": frechet_from_features(split.others_MD, rows_ND),
            f"{split.name}.{name}_own": frechet_from_features(split.own_ND, rows_ND),
        }
    return extra


def samples(splits: Sequence[Split]) -> dict[str, np.ndarray]:
    """What single pictures scored, for paired comparison; nothing above `fid.KEPT_BYTES`."""
    kept = {
        "prompts": np.array([prompt.id for split in splits for prompt in split.prompts]),
        "tasks": np.array(composition.ALL),
    }
    for split in splits:
        kept |= {
            f"{split.name}.unseen_N": np.array([asks_for_unseen(one) for one in split.prompts]),
            f"{split.name}.images": np.array([prompt.image_id for prompt in split.prompts]),
            f"{split.name}.own_ND": split.own_ND.astype(np.float32),
            f"{split.name}.others_MD": split.others_MD.astype(np.float32),
        }
        for name, one in split.judged.items():
            kept |= {
                f"{split.name}.{name}.features_KND": one.features_KND.astype(np.float32),
                f"{split.name}.{name}.right_NT": one.right_NT.astype(np.int8),
                f"{split.name}.{name}.asked_NT": one.asked_NT.astype(np.int8),
            }
    return kept if sum(one.nbytes for one in kept.values()) <= fid.KEPT_BYTES else {}


def warnings(splits: Sequence[Split], features: Features) -> list[str]:
    """What a reader must know before quoting the numbers."""
    said = []
    for split in splits:
        n = min(len(split.prompts), len(split.others_MD))
        if n <= features.dim:
            said.append(
                f"{split.name}: n={n} is not above the {features.dim} features: FID is far too high"
            )
    sets = [one for split in splits for each in split.drawn.values() for one in each]
    extra = list(dict.fromkeys(name for one in sets for name in one.extra))
    if extra:
        said.append(f"{len(extra)} files of --images belong to no prompt, first {extra[0]}")
    return said


def found(splits: Sequence[Split], features: Features) -> dict:
    """What the protocol could not know before: the very prompts, pictures and weights."""
    return {
        "n": len(splits[0].prompts),
        "prompts_sha256": digest([prompt for split in splits for prompt in split.prompts]),
        "reference_sha256": sha256_bytes(" ".join(one.pixels_sha256 for one in splits).encode()),
        "features_sha256": features.digest,
    }


def counters(splits: Sequence[Split]) -> dict[str, int]:
    """Pictures drawn, and taken from the cache."""
    sets = [one for split in splits for each in split.drawn.values() for one in each]
    return {name: sum(getattr(one, name) for one in sets) for name in ("drawn", "reused")}
