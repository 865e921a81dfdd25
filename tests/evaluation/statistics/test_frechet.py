"""Fréchet distance: closed forms, laws, scipy's square root and the peers' formulas as oracles."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.frechet import (
    Moments,
    Reference,
    _comes_later,
    frechet_distance,
    frechet_from_features,
    influence,
    moments,
)

SEEDS = st.integers(0, 2**32 - 1)


def features(seed: int, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    """Not negative, correlated, of falling variance: like pooled activations."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(0).standard_normal((d, d)) / np.sqrt(d)
    hidden = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + shift
    return np.maximum(hidden @ basis + 0.3 + 0.2 * rng.standard_normal((n, d)), 0)


def by_square_root(a, b) -> float:
    """The formula as it is usually coded."""
    (mu_a, sigma_a), (mu_b, sigma_b) = moments(a), moments(b)
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b)
    return ((mu_a - mu_b) ** 2).sum() + np.trace(sigma_a + sigma_b) - 2 * np.trace(root).real


def by_nuclear_norm(a, b) -> float:
    """Tr((S_a S_b)^(1/2)) = nuclear norm of the centred cross-Gram, at any rank."""
    (mu_a, mu_b), parts = (a.mean(0), b.mean(0)), []
    for side in (a, b):
        parts.append((side - side.mean(0)) / np.sqrt(len(side) - 1))
    overlap = np.linalg.norm(parts[0] @ parts[1].T, "nuc")
    return ((mu_a - mu_b) ** 2).sum() + sum((part**2).sum() for part in parts) - 2 * overlap


def both_ways(a, b) -> tuple[float, float]:
    return frechet_distance(*moments(a), *moments(b)), frechet_from_features(a, b)


@given(st.integers(1, 20), st.floats(-5, 5), st.floats(0.1, 5))
def test_closed_forms_of_spheres(d, shift, scale):
    zero, eye, mu = np.zeros(d), np.eye(d), np.full(d, shift)
    assert frechet_distance(zero, eye, mu, eye) == approx(d * shift**2, abs=1e-9)
    stretched = frechet_distance(zero, eye, zero, scale**2 * eye)
    assert stretched == approx(d * (1 - scale) ** 2, abs=1e-9)


def test_closed_form_of_diagonals():
    a, b = np.array([1.0, 4, 0, 9]), np.array([4.0, 0, 0, 1])
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(np.zeros(4), np.diag(a), np.zeros(4), np.diag(b)) == approx(expected)


@given(SEEDS, st.integers(2, 60), st.integers(2, 60), st.integers(1, 24), st.floats(-3, 3))
@settings(deadline=None, max_examples=40)
def test_laws(seed, n, m, d, shift):
    a, b = features(seed, n, d), features(seed + 1, m, d, 0.3)
    through_moments, through_features = both_ways(a, b)
    assert through_moments == approx(through_features, abs=1e-8)
    assert both_ways(b, a) == (through_moments, through_features)  # the same bits
    assert both_ways(a, a) == approx((0, 0), abs=1e-10)
    assert both_ways(a, a + shift) == approx((d * shift**2,) * 2, abs=1e-8)
    assert min(through_moments, through_features) >= 0
    assert frechet_from_features(3 * a, 3 * b) == approx(9 * through_features, abs=1e-8)


@pytest.mark.parametrize("n", [80, 200, 1000])
def test_agrees_with_the_square_root_above_full_rank(n):
    a, b = features(1, n, 64), features(2, n, 64, 0.1)
    assert both_ways(a, b) == approx((by_square_root(a, b),) * 2, abs=1e-6)


@pytest.mark.parametrize("n, m", [(2, 2), (10, 7), (40, 40), (63, 64), (64, 65), (300, 20)])
def test_agrees_with_the_nuclear_norm_below_full_rank(n, m):
    a, b = features(1, n, 64), features(2, m, 64, 0.1)
    assert both_ways(a, b) == approx((by_nuclear_norm(a, b),) * 2, abs=1e-11)


def edge_cases():
    """Inputs on which the usual formula is complex, needs an epsilon or loses digits."""
    a, b = features(1, 200, 48), features(2, 200, 48, 0.1)
    low, high = a.copy(), b.copy()
    low[:, 24:], high[:, :24] = 0, 0
    fade = 10.0 ** np.linspace(0, -8, 48)
    yield "disjoint dead channels", low, high, 1e-12
    yield "the same dead channels", low, low[::-1] * 1.1, 1e-12
    yield "one side constant", a, np.repeat(b[:1], 5, 0), 1e-12
    yield "both sides constant", np.repeat(a[:1], 5, 0), np.repeat(b[:1], 5, 0), 1e-12
    yield "falling over 16 decades of variance", a * fade, b * fade, 1e-12
    yield "tiny", a * 1e-6, b * 1e-6, 1e-12
    yield "huge and deficient", a[:30] * 1e4, b[:30] * 1e4, 1e-12


@pytest.mark.parametrize("name, a, b, tolerance", [pytest.param(*c, id=c[0]) for c in edge_cases()])
def test_edges_keep_their_digits(name, a, b, tolerance):
    exact = by_nuclear_norm(a, b)
    scale = np.trace(moments(a)[1] + moments(b)[1]) + ((a.mean(0) - b.mean(0)) ** 2).sum()
    for value in both_ways(a, b):
        assert type(value) is float
        assert value == approx(exact, abs=tolerance * scale + 1e-300), name


@pytest.mark.parametrize("n", [3, 8, 9, 40])
def test_a_reference_gives_the_same_distance(n):
    generator = np.random.default_rng(n)
    real, fake = generator.standard_normal((30, 8)), 2 * generator.standard_normal((n, 8)) + 1
    known = approx(frechet_from_features(real, fake), rel=1e-12)
    assert Reference(real).distance(fake) == known == Reference(fake).distance(real)


def test_two_rows_are_features_on_both_sides():
    real, fake = np.random.default_rng(0).standard_normal((2, 2, 3))
    known = approx(frechet_from_features(real, fake), rel=1e-12)
    assert Reference(real).distance(fake) == known


def test_a_bad_reference_is_one_line():
    with pytest.raises(UserError, match="a reference needs at least 2 rows, got 1"):
        Reference(np.ones((1, 3)))
    for other in (np.ones((1, 3)), np.ones((2, 4))):
        with pytest.raises(UserError, match="must be at least two rows of dimension 3, got"):
            Reference(np.ones((2, 3))).distance(other)


def test_the_usual_formula_loses_digits_where_ours_does_not():
    """An exhibit: rank-deficient covariances, the square root form of the peers."""
    a, b = features(1, 20, 64), features(2, 20, 64, 0.1)
    exact = by_nuclear_norm(a, b)
    assert abs(by_square_root(a, b) - exact) > 1e-9
    assert abs(both_ways(a, b)[0] - exact) < 1e-12


@pytest.mark.filterwarnings("ignore")  # clean-fid's call of sqrtm warns
@pytest.mark.parametrize("n", [200, 20])
def test_agrees_with_clean_fid(n):
    peer = pytest.importorskip("cleanfid.fid", exc_type=ImportError).frechet_distance
    a, b = features(1, n, 32), features(2, n, 32, 0.1)
    try:
        theirs = peer(*moments(a), *moments(b))
    except TypeError:
        pytest.skip("this clean-fid does not run with this scipy")
    assert frechet_from_features(a, b) == approx(theirs, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_torch_fidelity():
    peer = pytest.importorskip("torch_fidelity.metric_fid").fid_statistics_to_metric
    a, b = features(1, 200, 32), features(2, 200, 32, 0.1)
    sides = [dict(zip(("mu", "sigma"), moments(side), strict=True)) for side in (a, b)]
    theirs = peer(*sides, False)["frechet_inception_distance"]
    assert frechet_from_features(a, b) == approx(theirs, abs=1e-6)


@given(SEEDS, st.lists(st.integers(0, 64), max_size=5))
@settings(deadline=None, max_examples=40)
def test_streaming_equals_batch(seed, cuts):
    x = features(seed, 64, 7) + 1000  # a large mean: naive sums of squares would lose digits
    seen = Moments(7)
    for part in np.split(x, sorted(cuts)):
        seen.add(part)
    mu, sigma = seen.finish()
    assert seen.n == 64
    np.testing.assert_allclose(mu, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(sigma, np.cov(x, rowvar=False), atol=1e-12)


def test_merge_in_any_order_and_from_empty():
    parts = [features(seed, 10 + seed, 5) for seed in range(4)]
    results = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        whole = Moments(5)
        for index in order:
            shard = Moments(5)
            shard.add(parts[index].astype(np.float32))
            whole.merge(shard)
        whole.merge(Moments(5))
        results.append(whole.finish())
    for first, second in zip(*results, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-13)


def test_finish_does_not_disturb():
    seen = Moments(3)
    seen.add(features(0, 8, 3))
    seen.finish()[0][:] = 7
    seen.add(features(1, 8, 3))
    both = np.concatenate([features(0, 8, 3), features(1, 8, 3)])
    np.testing.assert_allclose(seen.finish()[1], np.cov(both, rowvar=False))


GOOD = (np.zeros(2), np.eye(2), np.zeros(2), np.eye(2))


@pytest.mark.parametrize(
    "place, bad, message",
    [
        (0, np.array([np.nan, 0]), "mu_a and sigma_a must be finite"),
        (3, np.array([[1, np.inf], [np.inf, 1]]), "mu_b and sigma_b must be finite"),
        (2, np.zeros(3), r"mu_b \[D\] and sigma_b \[D, D\] must fit, got \[3\] and \[2, 2\]"),
        (1, np.zeros((2, 3)), "must fit"),
        (1, np.array([[1, 0.5], [0.1, 1]]), "sigma_a must be symmetric"),
        (3, -np.eye(2), "sigma_b must be positive semi-definite, it has a negative variance"),
        (1, np.array([[1.0, 2], [2, 1]]), "sigma_a must be positive semi-definite"),
        (3, np.array([[1.0, 2], [2, 1]]), "sigma_b must be positive semi-definite"),
        (3, np.array([[0.0, 1], [1, 0]]), "sigma_b must be positive semi-definite"),
    ],
)
def test_bad_moments(place, bad, message):
    arguments = list(GOOD)
    arguments[place] = bad
    with pytest.raises(UserError, match=message) as caught:
        frechet_distance(*arguments)
    assert "\n" not in str(caught.value)


def test_dimensions_that_differ():
    with pytest.raises(UserError, match="one dimension, got 2 and 3"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(UserError, match="one dimension, got 2 and 3"):
        frechet_from_features(np.zeros((4, 2)), np.zeros((4, 3)))


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros((1, 3)), "features b must have at least 2 rows, got 1"),
        (np.zeros((0, 3)), "features b must have at least 2 rows, got 0"),
        (np.zeros(3), r"real numbers \[N, D\], got float64 \[3\]"),
        (np.zeros((4, 3), complex), "real numbers"),
        (np.array([["a", "b", "c"]] * 3), "real numbers"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "row 1 has NaN or infinity"),
    ],
)
def test_bad_features(bad, message):
    with pytest.raises(UserError, match=message):
        frechet_from_features(features(0, 9, 3), bad)


def test_bad_moments_are_not_counted():
    with pytest.raises(UserError, match=r"Moments\.dim must be at least 1, got 0"):
        Moments(0)
    seen = Moments(3)
    with pytest.raises(UserError, match="at least 2 features, got 0"):
        seen.finish()
    for bad in (np.full((2, 3), np.inf), np.zeros((2, 4)), np.zeros(3)):
        with pytest.raises(UserError):
            seen.add(bad)
    with pytest.raises(UserError, match="cannot merge moments of dimension 4 into 3"):
        seen.merge(Moments(4))
    assert seen.n == 0


def test_a_step_of_the_bootstrap_is_cheap():
    a, b = moments(features(1, 1000, 128)), moments(features(2, 1000, 128))
    start = time.process_time()
    for _ in range(20):
        frechet_distance(*a, *b, check=False)
    assert (time.process_time() - start) / 20 < 0.05  # about 2 ms on a quiet core


@given(st.integers(0, 2**32 - 1))
def test_of_two_matrices_one_comes_later_whichever_is_named_first(seed):
    """Else swapping the sides would swap the way of computing, and the last bits."""
    x, y = np.random.default_rng(seed).integers(0, 3, (2, 3, 3)).astype(float)
    found = _comes_later(x, y, 1.0, 1.0), _comes_later(y, x, 1.0, 1.0)
    assert found.count(True) == (x != y).any()
    assert _comes_later(x, y, 2.0, 1.0) and not _comes_later(x, y, 1.0, 2.0)
    assert _comes_later(x, y[:2], 1.0, 1.0) and not _comes_later(x[:2], y, 1.0, 1.0)


def nudged(mu, sigma, row, share: float):
    """Moments of a population of which a share becomes one row."""
    apart = row - mu
    kept = (1 - share) * sigma + share * (1 - share) * np.outer(apart, apart)
    return mu + share * apart, kept


@pytest.mark.parametrize("rank", [5, 3])  # of the other side: whole, and singular
def test_influence_is_the_derivative_towards_one_more_row(rank):
    a = np.random.default_rng(0).standard_normal((40, rank)) @ np.eye(5)[:rank] + 0.3
    b = np.random.default_rng(1).standard_normal((30, 5)) * np.arange(1, 6)
    (mu_a, sigma_a), (mu_b, sigma_b) = moments(a), moments(b)
    found = influence(mu_a, sigma_a, mu_b, sigma_b)(b)
    value, step = frechet_distance(mu_a, sigma_a, mu_b, sigma_b), 1e-6
    moved = [
        (frechet_distance(mu_a, sigma_a, *nudged(mu_b, sigma_b, row, step)) - value) / step
        for row in b
    ]
    np.testing.assert_allclose(found - found[0], np.array(moved) - moved[0], atol=2e-3, rtol=1e-3)
    lists = (one.tolist() for one in (mu_a, sigma_a, mu_b, sigma_b))
    np.testing.assert_array_equal(influence(*lists)(b), found)


def test_influence_towards_a_point_is_the_square_of_the_way():
    """Without spread on the other side the distance is the mean square of the way to its mean."""
    b = np.random.default_rng(2).standard_normal((9, 3))
    mu_b, sigma_b = moments(b)
    mu_a = np.array([1.0, 2.0, 3.0])
    found = influence(mu_a, np.zeros((3, 3)), mu_b, sigma_b)(b)
    wanted = ((b - mu_a) ** 2).sum(1)
    np.testing.assert_allclose(found - found.mean(), wanted - wanted.mean())
