"""FID as a record holds it, and its scale: what the number means.

The scale are distances, at the same n, of things whose quality is known.

Floor: the reference against as many other real pictures. rFID: the reference through the image
tokenizer; it can lie below the floor, because its pictures show the very scenes of the reference,
while other real pictures differ by the chance of the sample. Ceiling: uniform noise.

Shapes: N pictures, S pixels of a side, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.core import Interval
from benchmarks.images.generated import Pictures
from benchmarks.protocols.scenes import Task, batches
from benchmarks.systems.find import Noise
from cm3leon.evaluation.features.network import Features, extract
from cm3leon.evaluation.metrics.fid import LEVEL, Fid
from cm3leon.evaluation.sides import Held, Side
from cm3leon.evaluation.statistics.frechet import frechet_from_features

KEPT_BYTES = 2**26  # of the scores of single pictures beside a record
SHOWN = 24  # pictures in the grid
NONE = 1e-3  # a Fréchet distance that no two sets of pictures have


def headline(found: Fid) -> dict:
    """Value, values by seed and intervals, as `core.Measurement` takes them."""
    spread = intervals(found)
    told = {"value": found.value, "per_seed": found.per_seed, "interval": spread.pop("both")}
    return told | {"spread": spread}


def intervals(found: Fid) -> dict[str, Interval | None]:
    """The intervals of images, of seeds, and of both (the record's own)."""
    return {
        name: None if ends is None else Interval(*ends, LEVEL, found.methods[name])
        for name, ends in found.spread.items()
    }


def samples(prompts, real: Side, fakes: Sequence[Side]) -> dict:
    """Features of single pictures, for paired comparison; nothing above `KEPT_BYTES`."""
    rows = real.count + sum(fake.count for fake in fakes)
    if rows * real.dim * 4 > KEPT_BYTES:
        return {}
    drawn = [fake.rows(np.ones(fake.count, bool)) for fake in fakes]
    return {
        "prompts": np.array([prompt.id for prompt in prompts]),
        "images": np.array([prompt.image_id for prompt in prompts]),
        "reference_ND": real.rows(real.readable).astype(np.float32),
        "features_KND": np.stack(drawn).astype(np.float32),
    }


def held(features: Features, images: Iterator[np.ndarray], count: int, label: str) -> Held:
    """The features of pictures, in memory."""
    return Held(extract(features, images, count, f"features of {label}"))


def held_sets(features: Features, drawn: Sequence[Pictures], label: str) -> list[Held]:
    """Those of each set of drawn pictures."""
    return [held(features, one.batches(), len(one), label) for one in drawn]


def scale(
    task: Task, real_NSS3: np.ndarray, real: Held, features: Features, tokenizer
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
        name: frechet_from_features(
            real.features_ND, extract(features, made, n, f"features of {name}")
        )
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


def counters(drawn: Sequence[Pictures]) -> dict[str, int]:
    """Pictures drawn, and taken from the cache."""
    return {name: sum(getattr(one, name) for one in drawn) for name in ("drawn", "reused")}


def own_pictures(distances: Sequence[float]) -> list[str]:
    """A warning where a distance is none: the pictures scored are those of the reference."""
    if min(distances) < NONE:
        return ["the pictures scored are the reference's own: their distance is 0"]
    return []


def unasked(drawn: Sequence[Pictures]) -> list[str]:
    """A warning where `--images` holds files that no prompt asked for."""
    extra = list(dict.fromkeys(name for one in drawn for name in one.extra))
    if not extra:
        return []
    return [f"{len(extra)} files of --images belong to no prompt, first {extra[0]}"]


def write_grid(folder: Path | None, prompts: Sequence, drawn: Pictures) -> None:
    """The first pictures with their captions, always the same ones, as grid.png in the folder."""
    from cm3leon.reports.plots import sample_grid

    if folder is not None:
        first = next(drawn.batches(SHOWN))
        captions = [prompt.caption for prompt in prompts[: len(first)]]
        sample_grid(first, captions, folder / "grid.png")
