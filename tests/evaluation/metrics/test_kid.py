"""KID: unbiased, equal to torchmetrics', fixed by its seed, refuses what it cannot estimate."""

from __future__ import annotations

import numpy as np
import pytest
from pytest import approx

from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.kid import discrepancy, kid, measured
from cm3leon.evaluation.sides import Held, Lacking, Sides
from cm3leon.seeds import generator


def sample(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 6)) + shift


def by_hand(a, b) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3, written out."""
    n, d = a.shape

    def kernel(x, y):
        return (x @ y.T / d + 1) ** 3

    inside = sum(kernel(x, x).sum() - np.trace(kernel(x, x)) for x in (a, b)) / (n * (n - 1))
    return inside - 2 * kernel(a, b).mean()


def test_one_subset_of_everything_is_the_plain_estimate():
    a, b = sample(0, 20), sample(1, 20, 0.5)
    mean, deviation = kid(a, b, subsets=1, subset_size=20)
    assert mean == approx(by_hand(a, b), abs=1e-12)
    assert deviation == 0


def test_small_sides_are_exact():
    """Over all pairs of both sides, which need not be as many; the deviation is that of halves."""
    a, b = sample(0, 20), sample(1, 31, 0.5)

    def kernel(x, y):
        return (x @ y.T / 6 + 1) ** 3

    wanted = (kernel(a, a).sum() - np.trace(kernel(a, a))) / (20 * 19)
    wanted += (kernel(b, b).sum() - np.trace(kernel(b, b))) / (31 * 30) - 2 * kernel(a, b).mean()
    value, deviation = kid(a, b)
    assert value == approx(wanted, abs=1e-12)
    assert kid(a, b, seed=5)[0] == value
    assert deviation == kid(a, b, subset_size=10)[1] > 0


def test_large_sides_are_cut_into_subsets_of_a_thousand():
    a, b = sample(0, 1100), sample(1, 1000, 0.2)
    assert kid(a, b, subsets=2) == kid(a, b, subsets=2, subset_size=1000)
    assert kid(a, b[:999], subsets=2)[0] == approx(discrepancy(a, b[:999]))
    assert kid(a, b, subsets=2)[0] != approx(discrepancy(a, b), rel=1e-9)


def test_equals_torchmetrics():
    torch = pytest.importorskip("torch")
    oracle = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    a, b = sample(0, 40), sample(1, 40, 0.3)
    wanted = float(oracle(torch.from_numpy(a), torch.from_numpy(b)))
    assert discrepancy(a, b) == approx(wanted, rel=1e-12)


def test_unbiased_between_equal_distributions():
    values = [kid(sample(2 * i, 60), sample(2 * i + 1, 60), subsets=10)[0] for i in range(40)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert kid(sample(0, 60), sample(1, 60, 1.0), subsets=10)[0] > 1


def test_the_seed_fixes_it_and_more_subsets_keep_the_first():
    a, b = sample(0, 50), sample(1, 50, 0.2)
    assert kid(a, b, seed=3) == kid(a, b, seed=3)
    assert kid(a, b, seed=3) != kid(a, b, seed=4)  # the deviation
    assert kid(a, b, seed=3, subset_size=9)[0] != kid(a, b, seed=4, subset_size=9)[0]
    assert kid(a.astype(np.float32), b)[0] == approx(kid(a, b)[0], rel=1e-4)


@pytest.mark.parametrize(
    "a, b, options, message",
    [
        (sample(0, 3), sample(1, 50), {}, "at least 4 features a side, got 3"),
        (sample(0, 9), sample(1, 9)[:, :5], {}, "one dimension, got 6 and 5"),
        (sample(0, 9) * np.nan, sample(1, 9), {}, "row 0 has NaN"),
        (sample(0, 9), sample(1, 9), {"subset_size": 10}, r"subset_size must lie in \[2, 9\]"),
        (sample(0, 9), sample(1, 9), {"subsets": 0}, "subsets must be at least 1"),
    ],
)
def test_bad_input(a, b, options, message):
    with pytest.raises(UserError, match=message):
        kid(a, b, **options)


def test_defaults_and_the_ends_of_what_is_allowed():
    a, b = sample(0, 12), sample(1, 14, 0.5)
    assert kid(a, b) == kid(a, b, 100, None, 0)
    assert kid(a, b, 5, 2)[0] != kid(a, b, 5, 3)[0]  # two rows are a subset
    assert kid(a, b, 5, 12)[1] >= 0
    for size in (1, 13):
        with pytest.raises(UserError, match="subset_size must lie in"):
            kid(a, b, 5, size)
    assert kid(a[:4], b[:4], 3)[0] == approx(by_hand(a[:4], b[:4]))  # four are enough


def test_a_run_has_both_means_over_seeds():
    real, fakes = Held(sample(0, 12)), [Held(sample(seed, 14, 0.5)) for seed in (1, 2)]
    each = [kid(real.features_ND, one.features_ND[one.chosen(14)]) for one in fakes]
    value, deviation = np.mean(each, axis=0)
    found = measured(Sides(real, fakes, None, real))
    assert found == {"kid": approx(value), "kid_std": approx(deviation)}


@pytest.mark.parametrize(("real", "drawn"), [(4, 9), (9, 4), (3, 9), (9, 3)])
def test_a_run_needs_four_pictures_a_side(real, drawn):
    enough = min(real, drawn) == 4
    real, drawn = Held(sample(0, real)), Held(sample(1, drawn))
    sides = Sides(real, [drawn], None, real)
    if enough:
        assert set(measured(sides)) == {"kid", "kid_std"}
    else:
        with pytest.raises(Lacking, match="more pictures"):
            measured(sides)


def test_the_same_subsets_for_ever():
    """The seed's rows, by number: a golden, as a number hangs on them."""
    rng = generator(0, "kid", 0)
    assert rng.choice(12, 3, replace=False).tolist() == [1, 0, 10]
    a, b = sample(0, 12), sample(1, 12)
    again = generator(0, "kid", 0)
    rows_a, rows_b = (again.choice(12, 3, replace=False) for _ in range(2))
    assert kid(a, b, 1, 3)[0] == approx(by_hand(a[rows_a], b[rows_b]))
