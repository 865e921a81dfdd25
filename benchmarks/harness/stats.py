"""Intervals for benchmark numbers: bootstrap, Student's t over seeds, Wilson for yes/no scores.

Every random draw comes from a counter-based generator of (seed, purpose, number of the resample),
so resample 7 is the same whether 10 or 1,000 are drawn. Intervals are two-sided pairs (low, high).
Shapes: N samples (rows), R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.metrics.frechet import Reference, check_features, frechet_from_features
from cm3leon.errors import UserError
from cm3leon.seeds import generator

FRECHET_METHOD = "random half-samples of the pictures, percentiles centred on the value"
SEEDS_METHOD = "Student t over seeds"
WILSON_METHOD = "Wilson score"


def resamples_of(count: int, resamples: int, seed: int, purpose: str) -> Iterator[np.ndarray]:
    """R index arrays int64 [count], each drawn with replacement from range(count)."""
    for index in range(resamples):
        yield generator(seed, "bootstrap", purpose, index).integers(0, count, count)


def percentile_interval(draws: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The central `level` share of resampled values; R draws cut the line into R + 1 parts."""
    check_level(level)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.asarray(draws, np.float64), ends, method="weibull")
    return float(low), float(high)


def bootstrap_interval(
    samples,
    statistic: Callable[[np.ndarray], float] = np.mean,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap of `statistic` over the rows of samples [N] or [N, ...], N >= 2.

    Right for statistics with little bias (means, rates, differences); for FID use
    `bootstrap_frechet`.
    """
    samples = _finite(samples, "samples", least=2)
    _check_resamples(resamples)
    rows = resamples_of(len(samples), resamples, seed, "statistic")
    return percentile_interval([float(statistic(samples[index])) for index in rows], level)


def bootstrap_frechet(
    real,
    fake,
    resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
    resample_real: bool = False,
) -> tuple[float, float]:
    """Interval for the Fréchet distance of features real [M, D] and fake [N, D]; M, N >= 4.

    What is estimated: the expected distance at this very N against this reference (both belong to
    every protocol). The reference stays as it is for that reason; `resample_real=True` adds the
    chance of its choice, for a floor in which both sides are samples.

    The ordinary bootstrap is biased here: it repeats rows, which looks like a smaller sample, so
    all its values lie above the measured one (in simulations its percentiles never covered the
    truth), and its spread is up to 1.7 times too wide. Random halves WITHOUT replacement repeat
    nothing, and the variance of a half within the whole, s^2/(N/2) (1 - 1/2), is that of the whole,
    s^2/N. Halves are biased upwards as well (FID falls with N), so their percentiles are moved onto
    the measured value. In simulations with Gaussians 95 % intervals cover 94-98 %. The interval
    contains the value and never goes below 0. It says nothing about retraining, nor about the bias
    at N itself.
    """
    real, fake = check_features(real, "real features"), check_features(fake, "fake features")
    check_level(level)
    _check_resamples(resamples)
    for name, features in (("real", real), ("fake", fake)):
        if len(features) < 4:
            raise UserError(
                f"{name} features must have at least 4 rows for an interval, got {len(features)}"
            )
    value = frechet_from_features(real, fake)
    draws = frechet_halves(real, fake, resamples, seed, resample_real)
    half = len(fake) // 2
    draws = (draws - draws.mean()) * np.sqrt(half / (len(fake) - half))  # 1 unless N is odd
    low, high = percentile_interval(value + draws, level)
    return max(0.0, min(low, value)), max(high, value)


def frechet_halves(real, fake, resamples: int, seed: int, resample_real: bool) -> np.ndarray:
    """Fréchet distances float64 [R] of random halves of `fake` (and of `real`), as they come."""
    draws, fixed = np.empty(resamples), Reference(real)
    for index in range(resamples):
        part = fake[_half(len(fake), seed, "fake", index)]
        if resample_real:
            rows = _half(len(real), seed, "real", index)
            draws[index] = frechet_from_features(real[rows], part)
        else:
            draws[index] = fixed.distance(part)
    return draws


def seed_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean over independent seeds (Student's t); needs at least 2 values."""
    return mean_interval(values, level)


def mean_interval(values, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of values [N], N >= 2."""
    from scipy.special import stdtrit

    check_level(level)
    values = _finite(values, "values", least=2).ravel()
    half = stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def binomial_interval(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate: inside [0, 1], sensible at 0 and at `count` successes."""
    from scipy.special import ndtri

    check_level(level)
    if count < 1 or not 0 <= successes <= count:
        raise UserError(
            f"binomial_interval needs 0 <= successes <= count, got {successes} of {count}"
        )
    z2 = float(ndtri((1 + level) / 2)) ** 2
    rate = successes / count
    centre = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * count)) / count) / (1 + z2 / count)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def check_level(level: float) -> None:
    """Raise UserError unless the confidence level lies inside (0, 1)."""
    if not 0 < level < 1:
        raise UserError(f"level must lie in (0, 1), got {level}; 0.95 is usual")


def _check_resamples(resamples: int) -> None:
    if resamples < 2:
        raise UserError(f"resamples must be at least 2, got {resamples}; 200 is usual")


def _finite(values, name: str, least: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) < least:
        raise UserError(f"{name} must hold at least {least} numbers, got {values.size}")
    if not np.isfinite(values).all():
        raise UserError(f"{name} must be finite, got NaN or infinity")
    return values


def _half(count: int, seed: int, purpose: str, index: int) -> np.ndarray:
    return generator(seed, "half", purpose, index).permutation(count)[: count // 2]
