"""RMSE of depth maps in grey levels 0..255 (ControlNet++: each map over its own maximum)."""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError


def depth_rmse(truth, read) -> float:
    """Root of the mean squared difference of two maps [H, W], each scaled so that its maximum is
    255 and cut to whole levels; UserError for two shapes and values below 0.
    """
    one, other = _levels(truth), _levels(read)
    if one.shape != other.shape:
        raise UserError(f"depth maps must have one shape, got {one.shape} and {other.shape}")
    return float(np.sqrt(((one - other) ** 2).mean()))


def _levels(depth) -> np.ndarray:
    depth = np.asarray(depth, float)
    if not (depth >= 0).all():
        raise UserError("depths must be at least 0")
    return np.floor(255 * depth / depth.max()) if depth.any() else depth
