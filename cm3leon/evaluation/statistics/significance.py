"""Whether numbers differ: McNemar, paired bootstrap, Benjamini-Hochberg, smallest visible effect.

Shapes: N prompts, M measures, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.intervals import (
    bootstrap_draws,
    check_level,
    percentile_interval,
)


def paired_difference(
    ours_N, others_N, resamples: int = 1000, seed: int = 0, clusters: Sequence | None = None
) -> tuple[float, float, float, float]:
    """Mean of ours - others on the same prompts: (value, low, high, p), 95 % bootstrap.

    Prompts where either is NaN were not asked and are left out; with `clusters` (one label a
    prompt) whole clusters are drawn. Raises UserError for other lengths or fewer than two prompts.
    """
    ours_N, others_N = np.asarray(ours_N, np.float64), np.asarray(others_N, np.float64)
    if ours_N.shape != others_N.shape or ours_N.ndim != 1:
        raise UserError(
            f"paired scores must be as many, got {list(ours_N.shape)} and {list(others_N.shape)}"
        )
    apart_N = ours_N - others_N
    asked_N = np.isfinite(apart_N)
    if clusters is not None:
        clusters = [label for label, asked in zip(clusters, asked_N, strict=True) if asked]
    draws_R = bootstrap_draws(apart_N[asked_N], np.mean, resamples, seed, clusters)
    low, high = percentile_interval(draws_R)
    return float(apart_N[asked_N].mean()), low, high, bootstrap_p(draws_R)


def bootstrap_p(draws_R: np.ndarray) -> float:
    """Two-sided p of "no difference" from resampled differences: never 0, at most 1."""
    draws_R = np.asarray(draws_R, np.float64)
    tail = min(int((draws_R <= 0).sum()), int((draws_R >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(draws_R) + 1))


def difference_p(value: float, low: float, high: float, level: float = 0.95) -> float:
    """Two-sided p of "no difference" for a difference with a roughly normal interval."""
    from scipy.special import ndtr

    half = (high - low) / 2
    if half <= 0:
        return 0.0 if value else 1.0
    return float(2 * ndtr(-abs(value) / (half / _quantile(level))))


def holm(p_M: Sequence[float]) -> np.ndarray:
    """Adjusted p of M measures tested at once (Holm 1979): the chance of one false among all.

    Raises UserError for a p outside [0, 1]. Shape and order stay.
    """
    p_M = _checked(p_M)
    order = np.argsort(p_M, kind="stable")
    steps = np.minimum(p_M[order] * (len(p_M) - np.arange(len(p_M))), 1.0)
    out = np.empty_like(p_M)
    out[order] = np.maximum.accumulate(steps)
    return out


def effect_p(value: float, low: float, high: float, none: float, ratio: bool = False) -> float:
    """Two-sided p that an effect with a 95 % interval is no effect (`none`: 0, or 1 of a ratio).

    Of a ratio on a log scale, on which its intervals are symmetric.
    """
    if ratio:
        if min(value, low, none) <= 0:
            return 1.0
        value, low, high, none = (float(np.log(one)) for one in (value, low, high, none))
    return difference_p(value - none, low - none, high - none)


def benjamini_hochberg(p_M: Sequence[float]) -> np.ndarray:
    """Adjusted p of M measures tested at once: those below q have a false-discovery rate below q.

    Raises UserError for a p outside [0, 1]. Shape and order stay.
    """
    p_M = _checked(p_M)
    order = np.argsort(-p_M, kind="stable")  # the largest first
    ranks = np.arange(len(p_M), 0, -1)
    adjusted = np.minimum.accumulate(np.minimum(p_M[order] * (len(p_M) / ranks), 1.0))
    out = np.empty_like(p_M)
    out[order] = adjusted
    return out


def _checked(p_M: Sequence[float]) -> np.ndarray:
    p_M = np.asarray(p_M, np.float64)
    if p_M.ndim != 1 or not ((p_M >= 0) & (p_M <= 1)).all():
        raise UserError(f"p must be numbers of [0, 1], got {p_M.tolist()}")
    return p_M


def smallest_effect(
    low: float, high: float, level: float = 0.95, power: float = 0.8, ratio: bool = False
) -> float:
    """The difference that an interval as wide as this one finds with probability `power`.

    For a roughly normal estimate with standard error s: (z_level + z_power) s. Of a `ratio`, whose
    interval is symmetric on a log scale and above 0, the factor above 1.
    """
    from scipy.special import ndtri

    check_level(level)
    if not 0 < power < 1:
        raise UserError(f"power must lie in (0, 1), got {power}; 0.8 is usual")
    if ratio:
        low, high = np.log(low), np.log(high)
    error = (high - low) / 2 / _quantile(level)
    found = float((_quantile(level) + ndtri(power)) * error)
    return float(np.exp(found)) if ratio else found


def _quantile(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))
