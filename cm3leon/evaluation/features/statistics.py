"""Statistics of reference pictures: mean and covariance, exchanged as pytorch-fid's `.npz`.

    mu [D], sigma [D, D]     float64, as pytorch-fid and clean-fid write and read them
    about                    JSON: which pictures, crop, network; other readers ignore it

Cached by content under `$CM3LEON_CACHE/reference` (features by shard, see feature_cache.py).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.sides import Side
from cm3leon.files import check_unpacked, open_file, sha256_file, write_atomic


def cache_folder(kind: str = "reference", images: Path | None = None) -> Path:
    """Where features are kept: `$CM3LEON_CACHE/<kind>`, else `.cache/<kind>` where we stand.

    Where drawings have a folder of their own (`--cache`), below that: `images/_<kind>`.
    """
    if images is not None:
        return Path(images) / f"_{kind}"  # no system's name begins so
    return Path(os.environ.get("CM3LEON_CACHE") or ".cache") / kind


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance [D, D] of the features of reference pictures."""

    mu: np.ndarray
    sigma: np.ndarray
    about: Mapping
    sha256: str = ""  # of the file they came from

    def distance(self, fake: Side, wanted: np.ndarray | None = None) -> float:
        """Squared Fréchet distance to the features of a side, or to those that `wanted` marks."""
        from cm3leon.evaluation.statistics.frechet import frechet_distance

        moments = fake.moments(wanted).finish()
        return frechet_distance(self.mu, self.sigma, *moments, check=False)

    def distance_to(self, other: Statistics) -> float:
        """Squared Fréchet distance to other moments; UserError where the dimensions differ."""
        from cm3leon.evaluation.statistics.frechet import frechet_distance

        return frechet_distance(self.mu, self.sigma, other.mu, other.sigma)

    def influence(self, fake: Side) -> np.ndarray:
        """How much each picture of a side moves the distance (`intervals.frechet_influence`):
        float64 [N], mean 0."""
        from cm3leon.evaluation.statistics.frechet import influence

        moved = influence(self.mu, self.sigma, *fake.moments().finish())
        found = np.concatenate([moved(one.features_BD) for one in fake.shards()])
        return found - found.mean()


def export_statistics(path: str | Path, statistics: Statistics) -> Path:
    """Write an `.npz` that pytorch-fid reads; the same statistics, the same bytes."""
    out = io.BytesIO()
    about = json.dumps(dict(statistics.about), sort_keys=True)
    np.savez(out, mu=statistics.mu, sigma=statistics.sigma, about=np.array(about))
    return write_atomic(path, out.getvalue())


def import_statistics(path: str | Path, dim: int) -> Statistics:
    """Statistics of another's or our own `.npz`, checked.

    Raises UserError for a missing or torn file, one without `mu` and `sigma`, another dimension
    than `dim`, NaN, and a sigma that is no covariance.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}; statistics are an .npz with mu and sigma")
    check_unpacked(path, {"mu.npy", "sigma.npy", "about.npy"})
    try:
        with open_file(path) as raw, np.load(raw, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files if name in ("mu", "sigma", "about")}
    except Exception:  # zip, zlib and numpy each have their own
        raise UserError(f"{path} is no whole .npz of plain arrays; fetch it again") from None
    if not {"mu", "sigma"} <= set(found):
        raise UserError(f"{path} lacks mu or sigma; it must hold both, as pytorch-fid writes them")
    mu, sigma = (_real(found[name], path, name) for name in ("mu", "sigma"))
    if mu.shape != (dim,) or sigma.shape != (dim, dim):
        raise UserError(
            f"{path} has mu {list(mu.shape)} and sigma {list(sigma.shape)}, the network of this "
            f"protocol gives {dim} features; take the statistics of the same network"
        )
    scale = float(np.abs(sigma).max())
    if float(np.abs(sigma - sigma.T).max()) > 1e-6 * scale or float(np.diagonal(sigma).min()) < 0:
        raise UserError(f"{path}: sigma is no covariance (not symmetric, or a negative variance)")
    return Statistics(mu, (sigma + sigma.T) / 2, _about(found), sha256_file(path))


def _real(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Float64 of finite real numbers."""
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UserError(f"{path}: {name} must be finite real numbers, got {array.dtype}")
    return array.astype(np.float64)


def _about(found: dict) -> dict:
    """What a file of ours says of itself."""
    try:
        about = json.loads(str(found["about"]))
    except (KeyError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}
