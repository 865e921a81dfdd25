"""Pictures -> features, by one frozen network whose digest is part of every protocol.

"scenes" is the small network of the embedded world (`baselines/features.py`, 64 pixels). Pictures
of another size are cropped to a square and resized to the network's with PIL's Lanczos filter,
which antialiases: real and drawn pictures go through the same function, because the resize is part
of the metric.

Shapes: B pictures of a batch, N of all, H x W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.progress import progress
from cm3leon import checkpoint
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.pictures import crop_square

NAMES = ("scenes",)


@dataclass(frozen=True)
class Features:
    """A frozen network. `embed` takes uint8 [B, size, size, 3] and gives float32 [B, dim]."""

    name: str
    digest: str  # SHA-256 of the weights
    dim: int
    size: int  # pixels of a side that the network sees
    embed: Callable[[np.ndarray], np.ndarray]

    def __call__(self, images_BHW3: np.ndarray) -> np.ndarray:
        """Float32 [B, dim] of uint8 [B, H, W, 3]; UserError for another type or shape."""
        shape = images_BHW3.shape
        if images_BHW3.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise UserError(
                f"pictures must be uint8 [B, H, W, 3], got {images_BHW3.dtype} {list(shape)}"
            )
        if shape[1:3] != (self.size, self.size):
            images_BHW3 = np.stack([crop_square(image, self.size) for image in images_BHW3])
        return np.asarray(self.embed(images_BHW3), np.float32)


def load_features(name: str = "scenes", device: str = "cpu") -> Features:
    """The feature network of that name; UserError for an unknown name or broken weights."""
    if name not in NAMES:
        raise UserError(f"unknown features {name!r}; there are: {', '.join(NAMES)}")
    from baselines.features import DIM, SIDE, load_network

    folder = baselines_folder() / name / "features"
    network = load_network(folder).to(device)
    return Features(name, checkpoint.digest(folder), DIM, SIDE, network.embed)


def extract(
    features: Features, batches: Iterable[np.ndarray], total: int, label: str = "features"
) -> np.ndarray:
    """Float32 [N, dim] of all pictures, with a progress bar; UserError naming the first NaN."""
    rows = [np.zeros((0, features.dim), np.float32)]
    with progress(total, label) as bar:
        for images_BHW3 in batches:
            rows.append(features(images_BHW3))
            bar.update(len(images_BHW3))
    all_ND = np.concatenate(rows)
    bad = np.flatnonzero(~np.isfinite(all_ND).all(axis=1))
    if bad.size:
        raise UserError(
            f"{features.name} features of picture {bad[0]} of {label!r} are not finite "
            f"({bad.size} of {len(all_ND)} pictures); the weights {features.digest[:12]} are broken"
        )
    return all_ND
