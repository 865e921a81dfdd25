"""Tests of differences: known values, stated error rates, planted effects found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.frechet import Reference, frechet_from_features
from cm3leon.evaluation.statistics.intervals import frechet_influence, mean_interval
from cm3leon.evaluation.statistics.paired import frechet_difference
from cm3leon.evaluation.statistics.significance import (
    benjamini_hochberg,
    bootstrap_p,
    difference_p,
    effect_p,
    holm,
    paired_difference,
    smallest_effect,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_as_its_definition(values):
    """Rejected at q: the k smallest, k the largest rank with p_(k) <= k q / m."""
    p, adjusted = np.array(values), benjamini_hochberg(values)
    ordered = np.sort(p)
    ranks = np.arange(1, len(p) + 1)
    for q in (0.01, 0.05, 0.2, 0.5):
        fitting = np.flatnonzero(ordered * (len(p) / ranks) <= q)
        limit = ordered[fitting[-1]] if len(fitting) else -1.0
        np.testing.assert_array_equal(adjusted <= q, p <= limit)
    assert (adjusted >= p).all() and (adjusted <= 1).all()


def test_bad_p():
    with pytest.raises(UserError, match="p must be numbers of"):
        benjamini_hochberg([0.1, 1.1])


def test_paired_differences_keep_their_error_rate_and_find_effects():
    generator, null, found = np.random.default_rng(0), [], []
    for seed in range(150):
        common = generator.standard_normal(60)
        ours, others = common + generator.standard_normal((2, 60)) * 0.5
        null.append(paired_difference(ours, others, 200, seed)[3] < 0.05)
        found.append(paired_difference(ours + 0.4, others, 200, seed)[3] < 0.05)
    assert np.mean(null) <= 0.10 and np.mean(found) >= 0.95


def test_clusters_widen_where_captions_share_an_image():
    generator = np.random.default_rng(1)
    images = np.repeat(np.arange(40), 5)
    scores = generator.standard_normal(40)[images] + 0.1 * generator.standard_normal(200)
    zeros = np.zeros(200)
    value, low, high, _ = paired_difference(scores, zeros)
    assert paired_difference(scores, zeros) == paired_difference(scores, zeros, 1000, 0)
    clustered, wide_low, wide_high, _ = paired_difference(scores, zeros, clusters=images)
    assert clustered == value and (wide_high - wide_low) > 1.7 * (high - low)
    scores[:5] = np.nan  # an image whose captions were not asked
    assert paired_difference(scores, zeros, clusters=images)[0] == approx(np.nanmean(scores))
    with pytest.raises(UserError, match="must be as many"):
        paired_difference(scores, zeros[:10])


def test_p_of_resamples_and_of_intervals():
    assert bootstrap_p(np.arange(1, 100.0)) == 2 / 100
    assert bootstrap_p(np.array([-1.0, 1.0])) == 1.0
    for shift in (-2.0, -0.3, 0.0, 0.5):  # whichever side is taken from the other
        draws = np.random.default_rng(0).standard_normal(99) + shift
        assert bootstrap_p(draws) == bootstrap_p(-draws)
    assert bootstrap_p(np.array([0.0, 0.0, 1.0])) == 1.0  # a draw of 0 is on both sides
    zeros = np.array([0.0] * 3 + [1.0] * 6)
    assert bootstrap_p(zeros) == bootstrap_p(-zeros) == 0.8
    assert difference_p(1.96, 0.0, 3.92) == approx(0.05, abs=1e-4)
    assert difference_p(0.0, 0.0, 0.0) == 1.0 and difference_p(1.0, 1.0, 1.0) == 0.0


def test_the_smallest_effect_is_found_four_times_in_five():
    """An estimate with standard error 1: 1.96 + 0.84."""
    assert smallest_effect(-1.959964, 1.959964) == approx(2.8016, abs=1e-3)
    draws = np.random.default_rng(0).standard_normal(20_000) + smallest_effect(-1.96, 1.96)
    assert np.mean(draws > 1.96) == approx(0.8, abs=0.01)
    with pytest.raises(UserError, match="power must lie"):
        smallest_effect(0, 1, power=1.0)


def test_a_paired_frechet_difference_is_narrower_than_its_parts():
    generator = np.random.default_rng(0)
    real, prompts = generator.standard_normal((300, 6)), generator.standard_normal((200, 6))
    ours, others = (prompts + 0.2 * generator.standard_normal((1, 200, 6)) for _ in range(2))
    others = others + 0.3
    value, low, high = frechet_difference(real, ours, others)
    each = [frechet_from_features(real, side[0]) for side in (ours, others)]
    assert value == approx(each[0] - each[1]) and low <= value <= high < 0
    assert frechet_difference(real, ours, ours) == (0, 0, 0)
    swapped = frechet_difference(real, others, ours)
    assert swapped == approx((-value, -high, -low))
    with pytest.raises(UserError, match="same prompts, got 200 and 100"):
        frechet_difference(real, ours, others[:, :100])


def two_sides(seed: int = 0, count: int = 60) -> tuple[Reference, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    prompts = generator.standard_normal((count, 1, 6))
    ours, others = (prompts + 0.3 * generator.standard_normal((count, 2, 6)) for _ in range(2))
    return Reference(generator.standard_normal((300, 6))), ours, others + 0.6


def test_a_ratio_turned_over_is_the_inverse():
    reference, *sides = two_sides()
    ours, others = (paired.distance(reference, one) for one in sides)
    value, low, high = paired.frechet_ratio(ours, others)
    assert value == approx(others.value / ours.value) and 1 < low < value < high
    assert paired.frechet_ratio(others, ours) == approx((1 / value, 1 / high, 1 / low))
    assert paired.frechet_ratio(ours, ours) == (1, 1, 1)
    assert (value / low, high / value) == approx((high / value,) * 2)  # symmetric on a log scale
    moved = others.influence_P / others.value - ours.influence_P / ours.value
    assert np.log(high / value) == approx(mean_interval(moved)[1])


def test_a_prompt_s_drawings_move_the_distance_together():
    reference, ours, _ = two_sides()
    one = paired.distance(reference, ours)
    flat = ours.reshape(-1, 6)
    each = frechet_influence(reference.features, flat).reshape(60, 2)
    assert one.value == approx(frechet_from_features(reference.features, flat))
    assert one.influence_P == approx(each.mean(1)) and one.influence_P.mean() == approx(0)
    assert paired.frechet(one) == approx(
        (one.value, *(one.value + end for end in mean_interval(one.influence_P)))
    )
    draws = one.draws_R  # resampled prompts, centred on the value
    assert draws.mean() == approx(one.value, abs=4 * draws.std() / len(draws) ** 0.5)
    assert draws.std() == approx(one.influence_P.std() / 60**0.5, rel=0.15)


def test_a_distance_of_nothing_has_no_ratio():
    reference, ours, _ = two_sides(count=300)
    own = paired.distance(reference, reference.features[:, None])
    with pytest.raises(UserError, match="needs both above 0"):
        paired.frechet_ratio(own, paired.distance(reference, ours))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_stricter_than_the_false_discovery_rate(p):
    found = holm(p)
    assert (found >= benjamini_hochberg(p) - 1e-12).all() and (found >= p).all()
    assert (found <= np.minimum(np.array(p) * len(p), 1) + 1e-12).all()  # Bonferroni
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == approx([0.03, 0.06, 0.06])
    assert len(holm([])) == 0
    with pytest.raises(UserError, match="p must be numbers"):
        holm([1.5])


def test_p_of_an_effect():
    assert effect_p(0.2, 0.0, 0.4, 0.0) == approx(0.05, abs=1e-4)
    assert effect_p(1.2, 1.0, 1.44, 1.0, ratio=True) == approx(0.05, abs=1e-4)
    assert effect_p(1 / 1.2, 1 / 1.44, 1.0, 1.0, ratio=True) == approx(0.05, abs=1e-4)
    assert effect_p(0.5, 0.0, 1.0, 1.0, ratio=True) == 1.0


def test_an_effect_is_judged_by_its_way_from_no_effect():
    assert effect_p(5, 3, 7, 2) == approx(difference_p(3, 1, 5))
    assert effect_p(5, 3, 7, 2) == approx(effect_p(8, 6, 10, 5)) == approx(effect_p(-1, -3, 1, 2))
    logs = np.log([1.5, 1.2, 1.875])
    assert effect_p(1.5, 1.2, 1.875, 1, True) == approx(difference_p(*logs))
    assert effect_p(3.0, 2.4, 3.75, 2, True) == approx(difference_p(*logs))
    assert effect_p(1.5, 0.0, 3, 1, True) == 1.0  # no log of 0, nor of less
    assert effect_p(1.5, -0.5, 3, 1, True) == effect_p(-0.5, -1, 3, 1, True) == 1.0


def test_the_smallest_ratio_is_the_same_whichever_way_it_is_turned():
    found = smallest_effect(1.2, 1.875, ratio=True)
    assert found == approx(np.exp(smallest_effect(*np.log([1.2, 1.875]))))
    assert found == approx(smallest_effect(1 / 1.875, 1 / 1.2, ratio=True)) and found > 1


def test_power_and_level_lie_inside_0_and_1():
    for level in (0.0, 1.0):
        with pytest.raises(UserError, match="level must lie in"):
            smallest_effect(0, 1, level)
    for power in (0.0, 1.0):
        with pytest.raises(UserError, match="power must lie in"):
            smallest_effect(0, 1, 0.95, power)
