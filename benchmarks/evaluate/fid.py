"""FID with its interval, its companions, and its scale: what the number means.

The scale are distances, at the same n, of things whose quality is known.

Floor: the reference against as many other real pictures. rFID: the reference through the image
tokenizer; it can lie below the floor, because its pictures show the very scenes of the reference,
while other real pictures differ by the chance of the sample. Ceiling: uniform noise.

Shapes: N pictures, S pixels of a side, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.harness.core import Interval
from benchmarks.protocols.scenes import Task, batches
from benchmarks.systems.find import Noise
from cm3leon.evaluation.features.network import Features, extract
from cm3leon.evaluation.metrics.kid import kid
from cm3leon.evaluation.statistics.frechet import Reference, frechet_from_features
from cm3leon.evaluation.statistics.intervals import (
    FRECHET_METHOD,
    SEEDS_METHOD,
    extrapolated_frechet,
    frechet_at,
    frechet_spread,
)

LEVEL = 0.95
KEPT_BYTES = 2**26  # of the scores of single pictures beside a record
LEAST = 4  # pictures a side, below which there is neither an interval nor a KID


def per_seed(real_ND: np.ndarray, fakes: Sequence[np.ndarray]) -> list[float]:
    """One Fréchet distance for each set of drawn pictures."""
    return [frechet_from_features(real_ND, fake_ND) for fake_ND in fakes]


def spread(real_ND: np.ndarray, fakes: Sequence[np.ndarray]) -> dict[str, Interval | None]:
    """Intervals of the mean over sets: of images, of seeds, and of both (the record's own).

    All None below 4 pictures a side: half of them has no covariance.
    """
    if min(map(len, [real_ND, *fakes])) < LEAST:
        return {"images": None, "seeds": None, "both": None}
    found = frechet_spread(real_ND, fakes, level=LEVEL)
    methods = {"images": FRECHET_METHOD, "seeds": SEEDS_METHOD, "both": FRECHET_METHOD}
    if found["both"] != found["images"]:
        methods["both"] = f"{FRECHET_METHOD}, widened by the spread over seeds"
    return {
        name: None if ends is None else Interval(*ends, LEVEL, methods[name])
        for name, ends in found.items()
    }


def companions(
    real_ND: np.ndarray, fakes: Sequence[np.ndarray], resamples: int
) -> dict[str, float | tuple]:
    """KID, and the distance at infinite n."""
    extra: dict[str, float | tuple] = {}
    if min(map(len, [real_ND, *fakes])) >= LEAST:
        extra |= kernel(real_ND, fakes)
    limit = extrapolated_frechet(real_ND, fakes[0], resamples, level=LEVEL)
    if limit is not None:  # and the smaller numbers of pictures that it follows
        sizes = [len(fakes[0]) // 2, len(fakes[0]) // 4]
        values = frechet_at(Reference(real_ND), fakes[0], sizes)
        extra |= {f"fid_at_{size}": value for size, value in zip(sizes, values, strict=True)}
        extra["fid_infinity"] = limit
    return extra


def kernel(real_ND: np.ndarray, fakes: Sequence[np.ndarray]) -> dict[str, float]:
    """KID, the mean over seeds; its deviation is that of one subset."""
    mean, deviation = np.mean([kid(real_ND, fake_ND) for fake_ND in fakes], axis=0)
    return {"kid": float(mean), "kid_std": float(deviation)}


def samples(prompts, real_ND: np.ndarray, fakes: Sequence[np.ndarray]) -> dict:
    """What single pictures scored, for paired comparison; nothing above `KEPT_BYTES`."""
    kept = {
        "prompts": np.array([prompt.id for prompt in prompts]),
        "images": np.array([prompt.image_id for prompt in prompts]),
        "reference_ND": real_ND.astype(np.float32),
        "features_KND": np.stack(fakes).astype(np.float32),
    }
    return kept if sum(one.nbytes for one in kept.values()) <= KEPT_BYTES else {}


def scale(
    task: Task, real_NSS3: np.ndarray, real_ND: np.ndarray, features: Features, tokenizer
) -> dict[str, float]:
    """Distances `floor` (where there are pictures enough), `rfid`, `ceiling` to the reference.

    `tokenizer` has encode(uint8 [B, S, S, 3]) and decode(codes), as `cm3leon.tokenizers.vq.VQ`.
    """
    n = len(real_NSS3)
    others = {
        "rfid": (tokenizer.decode(tokenizer.encode(part)) for part in pieces(real_NSS3)),
        "ceiling": noise(n, features.size),
    }
    if task.further is not None:
        others = {"floor": batches(task.further), **others}
    return {
        name: frechet_from_features(real_ND, extract(features, made, n, f"features of {name}"))
        for name, made in others.items()
    }


def noise(n: int, size: int) -> Iterator[np.ndarray]:
    """n pictures of uniform noise, in batches."""
    system = Noise(size)
    for start in range(0, n, 64):
        seeds = range(start, min(n, start + 64))
        yield system.draw([""] * len(seeds), seeds)


def pieces(images_NSS3: np.ndarray, size: int = 64) -> Iterator[np.ndarray]:
    """The pictures in batches."""
    for start in range(0, len(images_NSS3), size):
        yield images_NSS3[start : start + size]


def shipped_tokenizer():
    """The image tokenizer under `baselines/scenes/vq`, for systems that have none of their own."""
    from cm3leon.config import VQConfig
    from cm3leon.files import baselines_folder
    from cm3leon.loading import load_module
    from cm3leon.tokenizers.vq import VQ

    return load_module(baselines_folder() / "scenes" / "vq", "vq", VQConfig, VQ)[0]
