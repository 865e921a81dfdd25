"""Pictures -> features, by one frozen network whose digest is part of every protocol.

"scenes" is the small network of the embedded world (`scenes.py`, 64 pixels). Pictures
of another size are cropped to a square and resized to the network's with PIL's Lanczos filter,
which antialiases. The published networks (`feature_networks.py`) take pictures of any size and have
a resize of their own. Real and drawn pictures go through the same function, because the resize is
part of the metric.

Shapes: B pictures of a batch, N of all, H x W pixels, D features, K logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cm3leon import checkpoint
from cm3leon.errors import UserError, did_you_mean
from cm3leon.files import baselines_folder
from cm3leon.images import crop_square
from cm3leon.progress import progress

NAMES = (
    "scenes",
    "inception",  # pytorch-fid's file and resize
    "inception-clean",  # the same file, clean-fid's resize
    "inception-tf",  # the same file, the resize of the first FID and of torch-fidelity
    "inception-jit",  # clean-fid's TorchScript and resize
    "dinov2",  # ViT-L/14: its Fréchet distance is FD-DINOv2
    "dinov2-b14",
    "dinov2-s14",
)
TOWERS = "open_clip:ARCHITECTURE[:FILE]"


@dataclass(frozen=True)
class Features:
    """A frozen network. `embed` takes uint8 [B, size, size, 3] and gives float32 [B, dim]."""

    name: str
    digest: str  # SHA-256 of the weights
    dim: int
    size: int  # pixels of a side that the network sees
    embed: Callable[[np.ndarray], np.ndarray]
    any_size: bool = False  # `embed` takes uint8 [B, H, W, 3] and resizes by itself
    logits: Callable[[np.ndarray], np.ndarray] | None = None  # features [B, dim] -> [B, K]
    warning: str = ""  # what a record must say of it

    def __call__(self, images_BHW3: np.ndarray) -> np.ndarray:
        """Float32 [B, dim] of uint8 [B, H, W, 3]; UserError for another type or shape."""
        shape = images_BHW3.shape
        if images_BHW3.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise UserError(
                f"pictures must be uint8 [B, H, W, 3], got {images_BHW3.dtype} {list(shape)}"
            )
        if shape[1:3] != (self.size, self.size) and not self.any_size:
            images_BHW3 = np.stack([crop_square(image, self.size) for image in images_BHW3])
        return np.asarray(self.embed(images_BHW3), np.float32)

    def rows(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Float32 [B, dim] of uint8 [H, W, 3] of any sizes, in order: those of a size together."""
        found_BD = np.zeros((len(images), self.dim), np.float32)
        for shape in dict.fromkeys(image.shape for image in images):
            own = [place for place, image in enumerate(images) if image.shape == shape]
            found_BD[own] = self(np.stack([images[place] for place in own]))
        return found_BD


def load_features(
    name: str = "scenes",
    device: str = "cpu",
    weights: str | Path | None = None,
    *,
    sha256: str | None = None,
    download: bool = False,
    dtype: str = "float32",
) -> Features:
    """The feature network of that name: one of `NAMES`, or `TOWERS` for an image tower of CLIP.

    `weights` names its file (of scenes: its folder); left out, the environment variable and the
    libraries' caches are looked at, and nothing is fetched unless `download`. `sha256` is the
    expected digest or its beginning: left out the published one, "any" for no check. `dtype`
    bfloat16, for Inception alone, makes another name, and `warning` states its error.
    Raises UserError, one line, for an unknown name and for weights that are not here, truncated,
    of another digest, or of another network.
    """
    if name not in NAMES and not name.startswith(TOWERS.partition(":")[0] + ":"):
        near = did_you_mean(name, NAMES)
        raise UserError(f"unknown features {name!r}; there are: {', '.join(NAMES)}, {TOWERS}{near}")
    given = None if weights is None else Path(weights)
    if name != "scenes":
        from cm3leon.evaluation.features.published import load_network

        return load_network(name, device, given, sha256, download, dtype)
    from cm3leon.evaluation.features.scenes import DIM, SIDE
    from cm3leon.evaluation.features.scenes import load_network as load_scenes

    folder = given or baselines_folder() / name / "features"
    network = load_scenes(folder).to(device)
    return Features(name, checkpoint.digest(folder), DIM, SIDE, network.embed)


def read_ahead(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same batches; the next one is made in a thread while the last one is used."""
    iterator, end = iter(batches), object()
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        coming = pool.submit(next, iterator, end)
        while (batch := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield batch


def extract(
    features: Features,
    batches: Iterable[np.ndarray],
    total: int,
    label: str = "features",
    ahead: bool | None = None,
) -> np.ndarray:
    """Float32 [N, dim] of all pictures, with a progress bar; UserError naming the first NaN.

    `ahead`: the next batch is read from its files meanwhile; left out: for all but the network of
    scenes, whose pictures are sooner made than handed over.
    """
    ahead = features.name != "scenes" if ahead is None else ahead
    rows = [np.zeros((0, features.dim), np.float32)]
    with progress(total, label) as bar:
        for images_BHW3 in read_ahead(batches) if ahead else batches:
            rows.append(features(images_BHW3))
            bar.update(len(images_BHW3))
    return check_rows(np.concatenate(rows), features, repr(label))


def check_rows(rows_ND: np.ndarray, features: Features, label: str) -> np.ndarray:
    """The rows themselves; UserError naming the first that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(rows_ND).all(axis=1))
    if bad.size:
        raise UserError(
            f"{features.name} features of picture {bad[0]} of {label} are not finite "
            f"({bad.size} of {len(rows_ND)} pictures); the weights {features.digest[:12]} are "
            "broken"
        )
    return rows_ND
