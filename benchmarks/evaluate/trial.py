"""MS-COCO files by the network of the embedded world: a trial of the way, and no score.

Shapes: N pictures, S pixels of a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.evaluate import fid, networks
from benchmarks.harness import core
from benchmarks.images import generated as images
from benchmarks.protocols.coco import QUICK
from benchmarks.protocols.prompts import digest
from benchmarks.protocols.scenes import Task, batches, coco_task
from cm3leon.evaluation.features.network import Features, load_features
from cm3leon.evaluation.metrics.fid import fid as fid_of
from cm3leon.evaluation.sides import Sides, numbers
from cm3leon.training.ranks import Group

NAMED = 5  # unreadable pictures named in the record
RESAMPLES = 200


def measure(options, group: Group, system, protocol: dict, phases: core.Phases) -> core.Measurement:
    """Everything between a system and its record; `protocol` comes back with the digests found."""
    features = load_features(protocol["features"])
    named, missing = networks.find_all(options, features.name, variables=False)
    with phases("prompts"):
        task = load_task(options, features.size)
        real_NSS3 = np.concatenate(
            list(batches(task.reference)) or [np.zeros((0, 1, 1, 3), np.uint8)]
        )
    with phases("draw"):
        drawn = pictures(options, group, system, task, features.size)
    group.part()
    with phases("features"):
        sides = sides_of(task, real_NSS3, drawn, options.resamples or RESAMPLES, features)
        tokenizer = getattr(system, "vq", None) or fid.shipped_tokenizer()
        extra = fid.scale(task, real_NSS3, sides.real, features, tokenizer)
        others = networks.sides_by(
            named, partial(sides_of, task, real_NSS3, drawn, options.resamples or RESAMPLES)
        )
    with phases("statistics"):
        found = fid_of(sides.reference, sides.fakes)
        more, lacks = numbers(sides)
        beside = networks.take(others)
    with phases("report"):
        folder = core.report_folder(options.reports, "fid_coco")
        fid.write_grid(folder, task.prompts, drawn[0])
    return core.Measurement(
        **fid.headline(found),
        n=len(task.prompts),
        samples=fid.samples(task.prompts, sides.real, sides.fakes),
        extra=extra | more | beside.extra,
        by=beside.by,
        missing=[*lacks, *missing, *beside.missing],
        warnings=[
            *warnings(task, len(real_NSS3), features, drawn),
            *fid.own_pictures([found.value]),
            *beside.remarks,
        ],
        protocol=known(task, real_NSS3, features),
        counters=fid.counters(drawn),
        device=getattr(system, "device", None),
    )


def load_task(options, size: int) -> Task:
    """Prompts and real pictures of MS-COCO that the options ask for."""
    most = QUICK if options.quick else None
    return coco_task(options.coco_root, options.coco_split, options.n, size, most, options.quick)


def pictures(options, group: Group, system, task: Task, size: int) -> list[images.Pictures]:
    """The pictures to score, one set a seed: drawn, taken from the cache, or from `--images`."""
    if options.images is not None:
        return [images.from_folder(options.images, task.prompts, size)]
    return [
        images.draw_together(group, system, task.prompts, seed, options.cache, options.batch_size)
        for seed in options.seeds
    ]


def sides_of(
    task: Task,
    real_NSS3: np.ndarray,
    drawn: Sequence[images.Pictures],
    resamples: int,
    features: Features,
) -> Sides:
    """The pictures of the prompts against the drawn ones, as features of a network."""
    real = fid.held(features, fid.pieces(real_NSS3), len(real_NSS3), "real pictures")
    fakes = fid.held_sets(features, drawn, "drawn pictures")
    captions = [prompt.caption for prompt in task.prompts]
    return Sides(real, fakes, features, real, captions=captions, resamples=resamples)


def known(task: Task, real_NSS3: np.ndarray, features: Features) -> dict:
    """What the protocol could not know before: the very prompts, pictures and weights."""
    return task.about | {
        "n": len(task.prompts),
        "prompts_sha256": digest(task.prompts),
        "reference_sha256": hashlib.sha256(real_NSS3.tobytes()).hexdigest(),
        "features_sha256": features.digest,
    }


def warnings(
    task: Task, n_real: int, features: Features, drawn: Sequence[images.Pictures]
) -> list[str]:
    """What a reader must know before quoting the number."""
    n = len(task.prompts)
    said = [f"a trial of the way, not a score: features=scenes on photographs, n={n}"]
    said += task.warnings
    if min(n, n_real) <= features.dim:
        said.append(
            f"n={min(n, n_real)} is not above the {features.dim} features: FID is far too high"
        )
    for name, source in (("reference", task.reference), ("floor", task.further)):
        if gone := getattr(source, "unreadable", ()):
            shown = ", ".join(f"{one.image_id} ({one.path.name})" for one in gone[:NAMED])
            said.append(f"{len(gone)} unreadable pictures left out of the {name}: {shown}")
    return said + fid.unasked(drawn)
