"""Intervals: nominal coverage in simulation, known values, counter-based draws."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest import approx

from benchmarks.harness.stats import (
    binomial_interval,
    bootstrap_frechet,
    bootstrap_interval,
    frechet_halves,
    mean_interval,
    percentile_interval,
    resamples_of,
    seed_interval,
)
from benchmarks.metrics.frechet import frechet_from_features
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
