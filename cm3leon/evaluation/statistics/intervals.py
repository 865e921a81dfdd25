"""Intervals for benchmark numbers: bootstrap, Student's t over seeds, Wilson for yes/no scores.

Whether two numbers differ is asked in `significance.py`; two systems on the same prompts meet in
`paired.py`.

Every random draw comes from a counter-based generator of (seed, purpose, number of the resample),
so resample 7 is the same whether 10 or 1,000 are drawn. Intervals are two-sided pairs (low, high).
Shapes: N samples (rows), R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.frechet import (
    Reference,
    check_features,
    frechet_from_features,
    influence,
    moments,
)
from cm3leon.seeds import generator

FRECHET_METHOD = "Student t over the pictures' influence (infinitesimal jackknife)"
SEEDS_METHOD = "Student t over seeds"
WILSON_METHOD = "Wilson score"


def one_thread():
    """A `with` block in which BLAS uses one thread: on matrices of some hundred rows two threads
    are slower than one (7 times here, 200 distances of 150 rows beside an idle torch).
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")


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
    clusters: Sequence | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap of `statistic` over the rows of samples [N] or [N, ...], N >= 2.

    Right for statistics with little bias (means, rates, differences); for FID there is
    `frechet_interval`. With `clusters`, one label a row (the image, where several captions share
    it), whole clusters are drawn; at least two of them.
    """
    draws = bootstrap_draws(samples, statistic, resamples, seed, clusters)
    return percentile_interval(draws, level)


def bootstrap_draws(
    samples,
    statistic: Callable[[np.ndarray], float] = np.mean,
    resamples: int = 1000,
    seed: int = 0,
    clusters: Sequence | None = None,
) -> np.ndarray:
    """`statistic` of R resamples of the rows, or of whole clusters of them: float64 [R]."""
    samples = _finite(samples, "samples", least=2)
    _check_resamples(resamples)
    groups = _groups(len(samples), clusters)
    count = len(samples) if groups is None else len(groups)
    draws = np.empty(resamples)
    for place, drawn in enumerate(resamples_of(count, resamples, seed, "statistic")):
        rows = drawn if groups is None else np.concatenate([groups[group] for group in drawn])
        draws[place] = statistic(samples[rows])
    return draws


def frechet_influence(real, fake) -> np.ndarray:
    """How much each row of fake [N, D] moves its Fréchet distance to real [M, D]: mean 0.

    Float64 [N]. Whatever is made of distances (a mean over sets, a ratio, a difference) has an
    interval by the same combination of these, prompt by prompt: `mean_interval` of it, moved onto
    the value.

    What is estimated: the expected distance at this very N against this reference (both belong to
    every protocol; nothing is said of retraining, nor of the bias at N). Resampling is biased here:
    the bootstrap repeats rows, which looks like a smaller sample (its percentiles never covered the
    truth), and halves of the pictures have larger distances than the whole: their spread was up to
    1.65 times too wide for a distance, that of their ratios up to 0.64 times too narrow. In
    simulations with Gaussians, heavy tails and the scenes network's features, at N of half to eight
    times D, intervals by influence cover 0.92 to 0.98 (tests: test_intervals.py).
    """
    real, fake = check_features(real, "real features"), check_features(fake, "fake features")
    for name, features in (("real", real), ("fake", fake)):
        if len(features) < 4:
            raise UserError(
                f"{name} features must have at least 4 rows for an interval, got {len(features)}"
            )
    if real.shape[1] != fake.shape[1]:
        raise UserError(
            f"both sides must have one dimension, got {real.shape[1]} and {fake.shape[1]}"
        )
    with one_thread():
        found = influence(*moments(real), *moments(fake))(fake)
    return found - found.mean()


def frechet_interval(
    real, fake, level: float = 0.95, resample_real: bool = False
) -> tuple[float, float]:
    """Interval for the Fréchet distance of features real [M, D] and fake [N, D]; M, N >= 4.

    The reference stays as it is; `resample_real=True` adds the chance of its choice, for a floor in
    which both sides are samples. It contains the value and never goes below 0.
    """
    value = frechet_from_features(real, fake)
    low, high = mean_interval(frechet_influence(real, fake), level)
    if resample_real:
        other = mean_interval(frechet_influence(fake, real), level)
        low, high = -float(np.hypot(low, other[0])), float(np.hypot(high, other[1]))
    return max(0.0, value + low), value + high


def spread_of(
    values: Sequence[float], influence_KN: np.ndarray, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Intervals of the mean Fréchet distance over K sets of pictures, one set a sampling seed, from
    the sets' values and how much each of N pictures moves them (`frechet_influence`).

    "images": over the prompts, each with all its pictures: the chance of the prompts and, as each
    picture has a seed of its own, that of the drawing too. "seeds": Student's t over the sets,
    prompts fixed; None for one set. "both": the former, widened by what the sets differ more than
    independent drawing explains (a system whose seed moves all pictures at once).
    The sets are of the same prompts in the same order.
    """
    from scipy.special import ndtri

    check_level(level)
    sets, count = influence_KN.shape
    value = float(np.mean(values))
    half = mean_interval(influence_KN.mean(0), level)[1]
    found = {"images": half, "seeds": None, "both": half}
    if sets > 1:
        drawn = float(influence_KN.var(0, ddof=1).mean()) / count  # of one set, its prompts fixed
        excess = max(0.0, float(np.var(values, ddof=1)) - drawn) / sets
        found["both"] = float(np.hypot(half, ndtri((1 + level) / 2) * np.sqrt(excess)))
        found["seeds"] = seed_interval(values, level)
    return {
        name: (max(0.0, value - one), value + one) if isinstance(one, float) else one
        for name, one in found.items()
    }


def extrapolated_frechet(
    real, fake, resamples: int = 200, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float] | None:
    """Fréchet distance at N -> infinity generated pictures: (value, low, high) (Chong & Forsyth).

    The distance falls with 1/N in good approximation; the line through those of N, N/2 and N/4
    pictures (random parts, averaged) is followed to 1/N = 0. None where N/4 is not above the
    dimension: there is no line yet. The interval is that of random halves of the pictures, moved
    onto the value; the reference stays as it is.
    """
    real, fake = check_features(real, "real features"), check_features(fake, "fake features")
    check_level(level)
    _check_resamples(resamples)
    if len(fake) // 4 <= fake.shape[1] or len(real) <= fake.shape[1]:
        return None
    fixed = Reference(real)

    def limit(part: np.ndarray) -> float:
        sizes = [len(part), len(part) // 2, len(part) // 4]
        return float(np.polyfit(1 / np.array(sizes), frechet_at(fixed, part, sizes, seed), 1)[1])

    with one_thread():
        value = limit(fake)
        halves = (fake[_half(len(fake), seed, "fake", index)] for index in range(resamples))
        draws = np.array([limit(half) for half in halves])
    low, high = percentile_interval(value + (draws - draws.mean()) * half_scale(len(fake)), level)
    return value, min(low, value), max(high, value)


def frechet_at(reference: Reference, fake, sizes: Sequence[int], seed: int = 0) -> list[float]:
    """Mean Fréchet distance of the disjoint parts of each size into which `fake` [N, D] is cut,
    after one seeded shuffle. Raises UserError for a size below 2 or above N.
    """
    fake = check_features(fake, "fake features")
    if bad := [size for size in sizes if not 2 <= size <= len(fake)]:
        raise UserError(f"sizes must lie in 2..{len(fake)}, got {bad[0]}")
    mixed = fake[generator(seed, "parts", len(fake)).permutation(len(fake))]
    return [
        float(np.mean([reference.distance(part) for part in _cut(mixed, size)])) for size in sizes
    ]


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
    # Where all or none succeed an end is the rate itself, which rounding must not cut off.
    return max(0.0, min(rate, float(centre - half))), min(1.0, max(rate, float(centre + half)))


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


def half_scale(count: int) -> float:
    """What deviations of random halves of `count` rows are multiplied by: 1 unless it is odd."""
    half = count // 2
    return float(np.sqrt(half / (count - half)))


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def _groups(count: int, clusters: Sequence | None) -> list[np.ndarray] | None:
    """Row numbers of each cluster, in the order of their labels' first rows."""
    if clusters is None:
        return None
    if len(clusters) != count:
        raise UserError(f"clusters must label all {count} rows, got {len(clusters)} labels")
    groups: dict = {}
    for row, label in enumerate(clusters):
        groups.setdefault(label, []).append(row)
    if len(groups) < 2:
        raise UserError(f"clusters must be at least 2, got {len(groups)}")
    return [np.array(rows) for rows in groups.values()]
