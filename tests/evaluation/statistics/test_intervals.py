"""Intervals: nominal coverage in simulation, known values, counter-based draws."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from pytest import approx

from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.fid import fid
from cm3leon.evaluation.sides import Held
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.frechet import (
    Reference,
    frechet_distance,
    frechet_from_features,
    moments,
)
from cm3leon.evaluation.statistics.intervals import (
    binomial_interval,
    bootstrap_draws,
    bootstrap_interval,
    extrapolated_frechet,
    frechet_at,
    frechet_influence,
    frechet_interval,
    half_scale,
    mean_interval,
    percentile_interval,
    resamples_of,
    seed_interval,
    spread_of,
)


def frechet_spread(real, fakes) -> dict:
    """As records have it."""
    return fid(Held(real), [Held(fake) for fake in fakes]).spread


def gauss(seed: int, n: int, d: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) * scale + shift


class World:
    """A population of rows that two systems drew for the same prompts, and a fixed reference."""

    def __init__(self, dim: int, tail: float, size: int = 20_000):
        rng = np.random.default_rng(dim)
        scales = np.sqrt(3 * np.exp(-np.arange(dim) / (dim / 3)))

        def rows():
            heavy = np.exp(tail * rng.standard_normal((size, 1)))
            return rng.standard_normal((size, dim)) * scales * heavy

        self.real, base = rows()[:1000], rows()
        self.sides = []
        for share in (0.15, 0.45):  # of pictures that are wrong in one way
            side = base + 0.25 * rng.standard_normal(base.shape)
            side[rng.random(size) < share] += np.linspace(0.4, 1.6, dim)
            self.sides.append(side)

    def draw(self, seed: int, count: int) -> list[np.ndarray]:
        rows = np.random.default_rng(seed).integers(0, len(self.sides[0]), count)
        return [side[rows] for side in self.sides]


def coverage(draw, reference: Reference, repetitions: int) -> dict[str, tuple[float, float]]:
    """Share of 95 % intervals that hold the expected value, and their width against the nominal.

    `draw(seed)` gives what two systems drew for the same prompts.
    """
    real = reference.features
    values, ends = [], {"fid": [], "ratio": [], "difference": []}
    for seed in range(4 * repetitions):
        drawn = draw(seed)
        values.append([reference.distance(one) for one in drawn])
        if seed < repetitions:
            ours, others = (paired.distance(reference, one[:, None]) for one in drawn)
            ends["fid"].append(frechet_interval(real, drawn[0]))
            ends["ratio"].append(paired.frechet_ratio(ours, others)[1:])
            sets = (one[None] for one in drawn)
            ends["difference"].append(paired.frechet_difference(real, *sets)[1:])
    one, other = np.array(values).T
    truth = {
        "fid": (one.mean(), one),
        "ratio": (other.mean() / one.mean(), other / one),
        "difference": ((one - other).mean(), one - other),
    }
    found = {}
    for name, (expected, scattered) in truth.items():
        low, high = np.array(ends[name]).T
        width = np.median(high - low) / (2 * 1.96 * scattered.std())
        found[name] = float(np.mean((low <= expected) & (expected <= high))), float(width)
    return found


@pytest.mark.parametrize(
    "dim, tail, count", [(16, 0.0, 9), (16, 0.0, 33), (8, 0.3, 64), (4, 0.3, 250)]
)
def test_intervals_of_distances_are_as_wide_as_they_scatter(dim, tail, count):
    """N from half of D to sixty times D; the test below has the repetitions for nominal."""
    world = World(dim, tail)
    found = coverage(lambda seed: world.draw(seed, count), Reference(world.real), 80)
    for name, (covered, width) in found.items():
        assert 0.88 <= covered <= 1.0, (name, covered)
        assert 0.85 <= width <= 1.35, (name, width)


@pytest.mark.full
@pytest.mark.parametrize(
    "dim, tail, count", [(128, 0.0, 64), (128, 0.0, 120), (16, 0.0, 64), (16, 0.2, 1000)]
)
def test_coverage_is_nominal(dim, tail, count):
    """Distances, ratios and differences: 0.92 to 0.98 of 500 intervals hold the expected value."""
    world = World(dim, tail)
    found = coverage(lambda seed: world.draw(seed, count), Reference(world.real), 500)
    for name, (covered, _) in found.items():
        assert 0.92 <= covered <= 0.98, (name, covered)


@cache
def pictures_and_worse() -> tuple[np.ndarray, list[np.ndarray]]:
    """Features of 1,000 pictures, and of 8,000 others of which 30 and 50 % are noisy."""
    from cm3leon.evaluation.features.network import load_features
    from cm3leon.world.scenes import scene

    network, rng = load_features("scenes"), np.random.default_rng(0)

    def features(index: int, share: float) -> np.ndarray:
        images = np.stack([scene("coco", "test", index + k).image for k in range(200)])
        noisy = rng.random(200) < share
        noise = rng.normal(0, 25, images.shape) * noisy[:, None, None, None]
        return network((images + noise).clip(0, 255).astype(np.uint8))

    real = np.concatenate([features(start, 0) for start in range(0, 1000, 200)])
    return real, [
        np.concatenate([features(start, share) for start in range(10_000, 18_000, 200)])
        for share in (0.3, 0.5)
    ]


@pytest.mark.full
@pytest.mark.parametrize("count", [64, 120, 400, 1000])
def test_coverage_is_nominal_on_pictures(count):
    """The same on pictures of the embedded world through its feature network, 128 features."""
    real, sides = pictures_and_worse()

    def draw(seed: int) -> list[np.ndarray]:
        rows = np.random.default_rng(seed).integers(0, len(sides[0]), count)
        return [side[rows] for side in sides]

    for name, (covered, _) in coverage(draw, Reference(real), 300).items():
        assert 0.92 <= covered <= 0.98, (name, covered)


@pytest.mark.parametrize("n, d", [(50, 4), (9, 30), (30, 30), (200, 12)])
def test_influence_is_the_derivative_of_the_distance(n, d):
    """A row counted once more moves the distance by its influence / N, to first order."""
    real, fake = gauss(0, 3 * d, d), gauss(1, n, d, 1.3, 0.2)
    mu, sigma = moments(real)
    found, weight = frechet_influence(real, fake), 1e-6

    def weighted(row: int | None) -> float:
        weights = np.full(n, 1.0)
        weights[row if row is not None else slice(0)] += weight * n
        weights /= weights.sum()
        mean = weights @ fake
        centred = fake - mean
        scatter = (centred * weights[:, None]).T @ centred * n / (n - 1)
        return frechet_distance(mu, sigma, mean, scatter)

    whole = weighted(None)
    assert whole == approx(frechet_from_features(real, fake))
    slopes = np.array([(weighted(row) - whole) / weight for row in range(6)])
    # the divisor N - 1 of the covariance is not moved by a weight: the derivative's own scale
    centred = fake - fake.mean(0)
    trace = (centred**2).sum() / n
    assert np.isfinite(trace) and found.mean() == approx(0, abs=1e-9)
    assert slopes == approx(found[:6], rel=0.08, abs=0.05 * np.abs(found).max())


def test_influences_of_a_shift_alone_have_a_closed_form():
    """Equal covariances: T is the identity on them, and 2 c.(mu_b - mu_a) is all that is left."""
    real = gauss(0, 400, 3)
    fake = real + np.array([2.0, 0.0, 0.0])
    found = frechet_influence(real, fake)
    assert found == approx(4.0 * (fake[:, 0] - fake[:, 0].mean()), abs=1e-8)
    low, high = frechet_interval(real, fake)
    half = mean_interval(found)[1]
    assert (low, high) == approx((4 - half, 4 + half))
    wide = frechet_interval(real, fake, resample_real=True)
    assert wide == approx((4 - half * 2**0.5, 4 + half * 2**0.5))  # both sides scatter alike


def test_the_spread_in_closed_form():
    """Two sets of four pictures, by hand: t(0.975, 3) = 3.1824, z = 1.9600."""
    influence = np.array([[1.0, -1.0, 3.0, -3.0], [-1.0, 1.0, 3.0, -3.0]])
    found = spread_of([10.0, 20.0], influence)
    mean = np.array([0.0, 0.0, 3.0, -3.0])
    half = 3.1824 * mean.std(ddof=1) / 2
    assert found["images"] == approx((15 - half, 15 + half), abs=1e-3)
    drawn = np.mean([2.0, 2.0, 0.0, 0.0]) / 4  # variances within prompts, over four pictures
    excess = (50.0 - drawn) / 2  # of a mean over two sets
    both = np.hypot(half, 1.96 * excess**0.5)
    assert found["both"] == approx((15 - both, 15 + both), abs=1e-2)
    assert found["seeds"] == approx(seed_interval([10.0, 20.0]))
    alike = spread_of([10.0, 10.1], 10 * influence)  # no more than drawing explains
    assert alike["both"] == alike["images"]
    assert spread_of([1.0], influence[:1])["both"][0] == 0  # never below


@pytest.mark.parametrize("count", [4, 5, 9, 100, 101])
def test_halves_stand_for_the_whole(count):
    """s^2 / h (1 - h / N), times the square of the scale, is s^2 / N."""
    half = count // 2
    assert half_scale(count) ** 2 * (1 / half - 1 / count) == approx(1 / count)


@pytest.mark.parametrize(
    "n, d, sets, repetitions",
    [pytest.param(60, 4, 1, 1000, marks=pytest.mark.full), (60, 3, 3, 250)],
)
def test_coverage_in_many_simulations(n, d, sets, repetitions):
    """95 % intervals hold the expected distance in 92 to 98 % of the repetitions."""
    scale, shift = 1.1, 0.3
    real, values, intervals = gauss(9, n, d), [], []
    for index in range(repetitions):
        fakes = [gauss(100 + 10 * index + k, n, d, scale, shift) for k in range(sets)]
        values.append(np.mean([frechet_from_features(real, fake) for fake in fakes]))
        intervals.append(frechet_spread(real, fakes)["both"])
    expected = np.mean(values)
    covered = np.mean([low <= expected <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


def test_the_parts_of_the_spread():
    real, fakes = gauss(0, 100, 6), [gauss(k, 100, 6, 1.2) for k in range(1, 4)]
    one = frechet_spread(real, fakes[:1])
    assert one["seeds"] is None and one["both"] == one["images"]
    assert one["images"] == approx(frechet_interval(real, fakes[0]))
    three = frechet_spread(real, fakes)
    values = [frechet_from_features(real, fake) for fake in fakes]
    assert three["seeds"] == approx(seed_interval(values))
    width = {name: high - low for name, (low, high) in three.items()}
    assert width["images"] < one["images"][1] - one["images"][0]  # a mean of three
    moved = [fake + shift for fake, shift in zip(fakes, (0, 0.5, 1.0), strict=True)]
    apart = frechet_spread(real, moved)  # a seed that moves all pictures at once
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


def test_whole_clusters_are_drawn():
    labels = np.repeat(np.arange(12), 4)
    values = gauss(3, 12, 1).ravel()[labels]
    narrow, wide = bootstrap_interval(values), bootstrap_interval(values, clusters=labels)
    assert wide[1] - wide[0] > 1.6 * (narrow[1] - narrow[0])
    with pytest.raises(UserError, match="clusters must label all 48 rows, got 2 labels"):
        bootstrap_interval(values, clusters=[0, 1])
    with pytest.raises(UserError, match="clusters must be at least 2, got 1"):
        bootstrap_interval(values, clusters=[0] * 48)


@pytest.mark.parametrize("n, d", [(60, 8), (13, 8), (9, 30), (4, 2)])
@pytest.mark.parametrize("resample_real", [False, True])
def test_frechet_interval_contains_the_value(n, d, resample_real):
    real, fake = gauss(0, n + 1, d), gauss(1, n, d, 1.5)
    value = frechet_from_features(real, fake)
    low, high = frechet_interval(real, fake, resample_real=resample_real)
    assert 0 <= low <= value <= high < np.inf
    assert low < high


def test_resampling_the_reference_widens():
    real, fake = gauss(0, 100, 8), gauss(1, 100, 8, 1.2)
    narrow, wide = (frechet_interval(real, fake, resample_real=both) for both in (False, True))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


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
        (lambda: frechet_interval(gauss(0, 9, 2), gauss(1, 3, 2)), "fake features must have at"),
        (lambda: frechet_interval(gauss(0, 3, 2), gauss(1, 9, 2)), "real features must have at"),
        (lambda: frechet_interval(gauss(0, 9, 2), gauss(1, 9, 2), level=1.0), "level must lie"),
        (lambda: frechet_influence(gauss(0, 9, 2), gauss(1, 9, 3)), "one dimension"),
        (lambda: extrapolated_frechet(gauss(0, 9, 2), gauss(1, 9, 2), 1), "resamples must be at"),
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


def test_defaults_are_a_thousand_resamples_at_95():
    values = np.random.default_rng(0).gamma(2.0, size=40)
    assert bootstrap_interval(values) == bootstrap_interval(values, np.mean, 1000, 0, 0.95)
    real, fake = (gauss(seed, 60, 2) for seed in (0, 1))
    assert extrapolated_frechet(real, fake) == extrapolated_frechet(real, fake, 200, 0, 0.95)


def test_two_rows_and_two_resamples_are_enough():
    draws = bootstrap_draws([1.0, 3.0], resamples=2)
    assert len(draws) == 2 and set(draws) <= {1.0, 2.0, 3.0}


def test_levels_lie_inside_0_and_1():
    for level in (0, 1, -0.1, 1.5):
        with pytest.raises(UserError, match="level must lie in"):
            mean_interval([1.0, 2.0], level)
    assert mean_interval([1.0, 2.0], 1e-9)[0] == approx(1.5)


def test_resamples_are_the_same_for_ever():
    """A golden: intervals in records hang on these rows."""
    assert [rows.tolist() for rows in resamples_of(6, 2, 0, "statistic")] == [
        [0, 0, 1, 0, 1, 5],
        [3, 1, 4, 1, 1, 4],
    ]


def test_an_interval_of_a_rate_holds_the_rate():
    """To the last bit, also where all or none succeed: records refuse a value outside its ends."""
    for count in range(1, 200):
        for successes in {0, 1, count // 2, count - 1, count}:
            low, high = binomial_interval(successes, count)
            assert 0 <= low <= successes / count <= high <= 1
