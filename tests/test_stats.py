"""Intervals: nominal coverage in simulation, known values, counter-based draws."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest import approx

from benchmarks.harness.stats import (
    bca_interval,
    binomial_interval,
    bootstrap_frechet,
    bootstrap_interval,
    extrapolated_frechet,
    frechet_at,
    frechet_halves,
    frechet_spread,
    mean_interval,
    percentile_interval,
    resamples_of,
    seed_interval,
)
from benchmarks.metrics.frechet import Reference, frechet_from_features
from cm3leon.errors import UserError


def gauss(seed: int, n: int, d: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) * scale + shift


@pytest.mark.parametrize(
    "n, d, scale, shift", [(120, 8, 1.2, 0.0), (80, 16, 1.1, 0.1), (24, 32, 1.3, 0.2)]
)
def test_frechet_interval_covers_the_expected_distance(n, d, scale, shift):
    """95 % intervals over 60 repeated draws: the expected share, and not much too wide."""
    real, values, intervals = gauss(9, n, d), [], []
    for index in range(60):
        fake = gauss(100 + index, n, d, scale, shift)
        values.append(frechet_from_features(real, fake))
        intervals.append(bootstrap_frechet(real, fake, resamples=50, seed=index))
    expected, deviation = np.mean(values), np.std(values)
    covered = np.mean([low <= expected <= high for low, high in intervals])
    width = np.mean([high - low for low, high in intervals])
    assert 0.88 <= covered <= 1
    assert 0.8 <= width / (2 * 1.96 * deviation) <= 1.35


@pytest.mark.slow
@pytest.mark.parametrize("n, d, sets, repetitions", [(60, 4, 1, 1000), (60, 3, 3, 250)])
def test_coverage_in_many_simulations(n, d, sets, repetitions):
    """95 % intervals hold the expected distance in 92 to 98 % of 1,000 repetitions."""
    scale, shift = 1.1, 0.3
    real, values, intervals = gauss(9, n, d), [], []
    for index in range(repetitions):
        fakes = [gauss(100 + 10 * index + k, n, d, scale, shift) for k in range(sets)]
        values.append(np.mean([frechet_from_features(real, fake) for fake in fakes]))
        intervals.append(frechet_spread(real, fakes, resamples=40, seed=index)["both"])
    expected = np.mean(values)
    covered = np.mean([low <= expected <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


def test_the_parts_of_the_spread():
    real, fakes = gauss(0, 100, 6), [gauss(k, 100, 6, 1.2) for k in range(1, 4)]
    one = frechet_spread(real, fakes[:1], 50)
    assert one["seeds"] is None and one["both"] == one["images"]
    assert one["images"] == bootstrap_frechet(real, fakes[0], 50)
    three = frechet_spread(real, fakes, 50)
    values = [frechet_from_features(real, fake) for fake in fakes]
    assert three["seeds"] == approx(seed_interval(values))
    width = {name: high - low for name, (low, high) in three.items()}
    assert width["images"] < one["images"][1] - one["images"][0]  # a mean of three
    moved = [fake + shift for fake, shift in zip(fakes, (0, 0.5, 1.0), strict=True)]
    apart = frechet_spread(real, moved, 50)  # a seed that moves all pictures at once
    assert apart["both"][1] - apart["both"][0] > 2 * (apart["images"][1] - apart["images"][0])
    for low, high in apart.values():
        assert low <= np.mean([frechet_from_features(real, fake) for fake in moved]) <= high


def test_extrapolation_removes_the_bias_of_few_pictures():
    """The distance of equal Gaussians is 0 at infinitely many pictures, and far from it at 200."""
    real = gauss(0, 40_000, 8)
    found = [extrapolated_frechet(real, gauss(k, 200, 8), resamples=20) for k in range(1, 21)]
    plain = np.mean([frechet_from_features(real, gauss(k, 200, 8)) for k in range(1, 21)])
    assert abs(np.mean([value for value, _, _ in found])) < 0.1 * plain
    assert all(low <= value <= high for value, low, high in found)
    assert extrapolated_frechet(real, gauss(1, 35, 8)) is None  # no line yet
    whole, half, few = frechet_at(Reference(real), gauss(1, 200, 8), [200, 100, 25])
    assert whole == approx(frechet_from_features(real, gauss(1, 200, 8)))
    assert whole < half < few
    with pytest.raises(UserError, match=r"sizes must lie in 2\.\.200, got 201"):
        frechet_at(Reference(real), gauss(1, 200, 8), [201])


def test_bca_of_a_skewed_statistic():
    """The mean of few exponentials: covers better than percentiles do; equal values are a point."""
    covered = {"bca": 0, "percentile": 0}
    for seed in range(200):
        values = np.random.default_rng(seed).exponential(size=20)
        for name, interval in (("bca", bca_interval), ("percentile", bootstrap_interval)):
            low, high = interval(values, resamples=300, seed=seed)
            covered[name] += low <= 1 <= high
    assert covered["bca"] >= covered["percentile"] >= 160
    assert bca_interval(np.ones(5), resamples=20) == (1, 1)
    normal = gauss(0, 200, 1).ravel()
    assert bca_interval(normal) == approx(mean_interval(normal), abs=0.03)


def test_whole_clusters_are_drawn():
    labels = np.repeat(np.arange(12), 4)
    values = gauss(3, 12, 1).ravel()[labels]
    narrow, wide = bootstrap_interval(values), bootstrap_interval(values, clusters=labels)
    assert wide[1] - wide[0] > 1.6 * (narrow[1] - narrow[0])
    assert bca_interval(values, clusters=labels) == approx(wide, abs=0.15)
    with pytest.raises(UserError, match="clusters must label all 48 rows, got 2 labels"):
        bootstrap_interval(values, clusters=[0, 1])
    with pytest.raises(UserError, match="clusters must be at least 2, got 1"):
        bootstrap_interval(values, clusters=[0] * 48)


@pytest.mark.parametrize("n, d", [(60, 8), (13, 8), (9, 30), (4, 2)])
@pytest.mark.parametrize("resample_real", [False, True])
def test_frechet_interval_contains_the_value(n, d, resample_real):
    real, fake = gauss(0, n + 1, d), gauss(1, n, d, 1.5)
    value = frechet_from_features(real, fake)
    low, high = bootstrap_frechet(real, fake, 20, resample_real=resample_real)
    assert 0 <= low <= value <= high < np.inf
    assert low < high


def test_resampling_the_reference_widens():
    real, fake = gauss(0, 100, 8), gauss(1, 100, 8, 1.2)
    narrow, wide = (bootstrap_frechet(real, fake, resample_real=both) for both in (False, True))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_halves_are_counter_based():
    real, fake = gauss(0, 50, 4), gauss(1, 50, 4)
    few, many = (frechet_halves(real, fake, count, 5, False) for count in (3, 9))
    assert (few == many[:3]).all()
    assert (few != frechet_halves(real, fake, 3, 6, False)).all()
    both = frechet_halves(real, fake, 3, 5, True)
    assert (few != both).all()


def test_200_resamples_take_seconds():
    real, fake = gauss(0, 1000, 128), gauss(1, 1000, 128, 1.2)
    start = time.process_time()
    bootstrap_frechet(real, fake, 200)
    assert time.process_time() - start < 10  # about 1 s on a quiet core


def test_bootstrap_of_a_mean_is_close_to_t():
    values = gauss(0, 200, 1).ravel()
    low, high = bootstrap_interval(values, resamples=2000)
    assert (low, high) == approx(mean_interval(values), abs=0.03)
    assert bootstrap_interval(values, resamples=50) == bootstrap_interval(values, resamples=50)
    rows = list(resamples_of(7, 4, 0, "x"))
    assert [list(row) for row in rows[:2]] == [list(row) for row in resamples_of(7, 2, 0, "x")]


def test_bootstrap_of_rows():
    pairs = np.stack([np.arange(50.0), np.arange(50.0) * 2], axis=1)
    low, high = bootstrap_interval(pairs, lambda rows: rows[:, 1].sum() / rows[:, 0].sum())
    assert (low, high) == approx((2, 2))


def test_percentiles():
    assert percentile_interval(np.arange(1, 100), 0.9) == approx((5, 95))


def test_t_interval_of_seeds():
    """Three seeds: t(0.975, 2) = 4.3027."""
    low, high = seed_interval([1.0, 2.0, 3.0])
    assert (low, high) == approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)


def test_wilson():
    assert binomial_interval(5, 10) == approx((0.2366, 0.7634), abs=1e-4)
    low, high = binomial_interval(0, 10)
    assert low == 0 and high == approx(0.2775, abs=1e-4)
    assert binomial_interval(10, 10)[1] == 1
    inside = [
        binomial_interval(k, 40)[0] <= 0.3 <= binomial_interval(k, 40)[1]
        for k in np.random.default_rng(0).binomial(40, 0.3, 2000)
    ]
    assert 0.92 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bootstrap_frechet(gauss(0, 9, 2), gauss(1, 3, 2)), "fake features must have at"),
        (lambda: bootstrap_frechet(gauss(0, 3, 2), gauss(1, 9, 2)), "real features must have at"),
        (lambda: bootstrap_frechet(gauss(0, 9, 2), gauss(1, 9, 2), 1), "resamples must be at"),
        (lambda: bootstrap_frechet(gauss(0, 9, 2), gauss(1, 9, 2), level=1.0), "level must lie"),
        (lambda: bootstrap_frechet(gauss(0, 9, 2), gauss(1, 9, 3)), "one dimension"),
        (lambda: seed_interval([1.0]), "at least 2 numbers, got 1"),
        (lambda: mean_interval([1.0, np.nan]), "must be finite"),
        (lambda: bootstrap_interval([1.0]), "at least 2 numbers"),
        (lambda: binomial_interval(3, 2), "got 3 of 2"),
        (lambda: binomial_interval(0, 0), "got 0 of 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
