"""How an edited picture's pixels differ: PSNR of what was to stay, L1 and L2 against the true edit.

MagicBrush (evaluation/image_eval.py) takes L1 and L2 of values in 0..1 against the reference edit.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError


def squared_error(one, other, where=None) -> tuple[float, int]:
    """(sum of squared differences in levels 0..255, how many values) of two uint8 pictures [H,W,3],
    where the bool mask [H,W] is true: what PSNR over several pictures is made of.
    """
    one, other = _checked(one, other)
    difference = one - other if where is None else (one - other)[np.asarray(where, bool)]
    return float((difference**2).sum()), difference.size


def psnr(squared: float, values: int) -> float:
    """10 log10(255^2 / MSE) in dB; infinite where nothing differs."""
    if not values:
        return float("nan")
    return float(10 * np.log10(255**2 * values / squared)) if squared else float("inf")


def l1(one, other) -> float:
    """Mean absolute difference of two uint8 pictures, values in 0..1."""
    one, other = _checked(one, other)
    return float(np.abs(one - other).mean() / 255)


def l2(one, other) -> float:
    """Mean squared difference of two uint8 pictures, values in 0..1."""
    one, other = _checked(one, other)
    return float(((one - other) ** 2).mean() / 255**2)


def _checked(one, other) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != np.uint8 or other.dtype != np.uint8:
        kinds = f"{one.dtype} {list(one.shape)} and {other.dtype} {list(other.shape)}"
        raise UserError(f"pictures to compare must be uint8 of one shape, got {kinds}")
    return one.astype(float), other.astype(float)
