"""Two systems on the same prompts: differences with intervals, whole prompts resampled.

Shapes: P prompts, K sampling seeds, D features, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.harness.stats import bootstrap_interval, percentile_interval
from benchmarks.metrics.frechet import frechet_distance, frechet_from_features, moments
from cm3leon.errors import UserError
from cm3leon.seeds import generator

Triple = tuple[float, float, float]  # value, low, high
METHOD = "bootstrap over prompts; of FID random halves of the prompts, centred on the value"
LEVEL = 0.95


def mean_difference(ours_P: np.ndarray, others_P: np.ndarray, resamples: int = 1000) -> Triple:
    """Mean of ours - others over prompts both were asked, NaN marks one that was not."""
    apart = np.asarray(ours_P, np.float64) - np.asarray(others_P, np.float64)
    return mean(apart, resamples)


def mean(values_P: np.ndarray, resamples: int = 1000) -> Triple:
    """Mean over prompts with its interval, without those that are NaN."""
    values = np.asarray(values_P, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        raise UserError(f"a mean with an interval needs two prompts, got {len(values)}")
    return float(values.mean()), *bootstrap_interval(values, resamples=resamples, level=LEVEL)


def frechet(real_ND: np.ndarray, fakes_PKD: np.ndarray, resamples: int = 200) -> Triple:
    """Fréchet distance of all drawings of all prompts; halves of the prompts for the interval."""
    value, draws = _with_halves(real_ND, fakes_PKD, resamples)
    return _around(value, draws, np.subtract, np.add, lowest=0.0)


def frechet_ratio(
    real_ND: np.ndarray, ours_PKD: np.ndarray, others_PKD: np.ndarray, resamples: int = 200
) -> Triple:
    """FID of others / FID of ours: above 1 is better. The same halves of prompts for both."""
    if ours_PKD.shape[0] != others_PKD.shape[0]:
        raise UserError(
            f"a paired ratio needs the same prompts, got {len(ours_PKD)} and {len(others_PKD)}"
        )
    ours, our_draws = _with_halves(real_ND, ours_PKD, resamples)
    others, other_draws = _with_halves(real_ND, others_PKD, resamples)
    return _around(others / ours, other_draws / our_draws, np.divide, np.multiply, lowest=0.0)


def verdict(difference: Triple, wanted: float = 0.0) -> str:
    """What an interval says of "the difference is above `wanted`"."""
    _, low, high = difference
    return "holds" if low > wanted else "does not" if high < wanted else "not resolved"


def _with_halves(
    real_ND: np.ndarray, fakes_PKD: np.ndarray, resamples: int
) -> tuple[float, np.ndarray]:
    prompts, seeds, width = fakes_PKD.shape
    if prompts < 4:
        raise UserError(f"a Fréchet interval needs 4 prompts, got {prompts}")
    value = frechet_from_features(real_ND, fakes_PKD.reshape(-1, width))
    many = prompts // 2 * seeds > width and len(real_ND) > width
    fixed = moments(real_ND) if many else None
    draws = np.empty(resamples)
    for index in range(resamples):
        half = generator(0, "half", "prompts", index).permutation(prompts)[: prompts // 2]
        part = fakes_PKD[half].reshape(-1, width)
        if fixed is not None:
            draws[index] = frechet_distance(*fixed, *moments(part), check=False)
        else:
            draws[index] = frechet_from_features(real_ND, part)
    return value, draws


def _around(value: float, draws: np.ndarray, away: Callable, back: Callable, lowest: float):
    """Percentiles of the draws, moved from their own middle onto the value (see stats.py)."""
    middle = np.median(draws)
    low, high = percentile_interval(back(value, away(draws, middle)), LEVEL)
    return float(value), max(lowest, float(min(low, value))), float(max(high, value))
