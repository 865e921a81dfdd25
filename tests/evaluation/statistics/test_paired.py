"""Two systems on the same prompts: differences, distances and ratios with their intervals."""

import numpy as np
import pytest
from pytest import approx

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.frechet import Reference, frechet_from_features
from cm3leon.evaluation.statistics.intervals import (
    bootstrap_interval,
    frechet_influence,
    mean_interval,
    resamples_of,
)


def test_leads_by_hand():
    ours, others = np.array([1.0, 1, 0, 1, np.nan]), np.array([0.0, 1, 0, 0, 1])
    value, low, high = paired.mean_difference(ours, others)
    assert value == 0.5 and low <= 0.5 <= high
    with pytest.raises(UserError, match="needs two prompts, got 1"):
        paired.mean(np.array([1.0, np.nan]))


def test_a_planted_shift_is_found_and_noise_is_not():
    generator = np.random.default_rng(0)
    real = generator.standard_normal((400, 6))
    good, same = (generator.standard_normal((80, 2, 6)) for _ in range(2))
    reference = Reference(real)
    good, shifted, same = (paired.distance(reference, one) for one in (good, good + 1.5, same))
    value, low, high = paired.frechet_ratio(good, shifted)
    assert low > 1 and low <= value <= high
    _, low, high = paired.frechet_ratio(good, same)
    assert low < 1 < high
    value, low, high = paired.frechet(good)
    assert 0 <= low <= value <= high
    few = paired.distance(reference, np.zeros((40, 2, 6)))
    with pytest.raises(UserError, match="needs the same prompts and resamples, got 80 and 40"):
        paired.frechet_ratio(good, few)
    with pytest.raises(UserError, match="needs 4 prompts, got 3"):
        paired.distance(reference, np.zeros((3, 2, 6)))


def features(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


REFERENCE = Reference(features(0, 60, 4))


def test_a_mean_is_of_the_prompts_that_were_asked():
    values = np.array([1.0, np.nan, 3.0, 8.0, np.inf])
    value, low, high = paired.mean(values, 50)
    assert value == 4 and (low, high) == bootstrap_interval(values[[0, 2, 3]], resamples=50)
    assert paired.mean(values[[0, 2]])[0] == 2  # two are enough
    many = features(7, 40)
    assert paired.mean(many) == paired.mean(many, 1000)
    ours, others = features(1, 2, 30)
    difference = paired.mean_difference(ours, others, 50)
    assert difference == paired.mean(ours - others, 50)
    assert paired.mean_difference(ours, others) == paired.mean(ours - others, 1000)
    other_way = paired.mean_difference(others, ours, 50)
    assert other_way == approx((-difference[0], -difference[2], -difference[1]))


def test_a_distance_is_of_all_drawings_and_its_influence_of_prompts():
    drawn = features(2, 4, 3, 4)  # four prompts, three drawings each: the fewest
    one = paired.distance(REFERENCE, drawn, 30)
    assert one.prompts == 4 and one.resamples == 30
    assert one.value == approx(frechet_from_features(REFERENCE.features, drawn.reshape(12, 4)))
    moved = frechet_influence(REFERENCE.features, drawn.reshape(12, 4)).reshape(4, 3)
    np.testing.assert_allclose(one.influence_P, moved.mean(1))
    assert one.influence_P.mean() == approx(0, abs=1e-12)
    rows = list(resamples_of(4, 30, 0, "prompts"))
    moved_R = np.array([one.influence_P[at].mean() for at in rows])
    np.testing.assert_allclose(one.draws_R, one.value + moved_R)
    assert paired.distance(REFERENCE, drawn).resamples == 200
    assert len(paired.Distance(1.0, np.zeros(5)).draws_R) == 200


def test_the_mean_distance_of_equal_sets_is_that_of_one():
    sets = features(3, 2, 20, 4)
    one, other = (paired.distance(REFERENCE, each[:, None], 30) for each in sets)
    both = paired.mean_distance(REFERENCE, sets, 30)
    assert both.value == approx((one.value + other.value) / 2) and both.resamples == 30
    np.testing.assert_allclose(both.influence_P, (one.influence_P + other.influence_P) / 2)
    assert paired.mean_distance(REFERENCE, sets).resamples == 200


def test_ends_stand_where_the_influence_says():
    one = paired.Distance(5.0, np.array([-1.0, 1.0, -3.0, 3.0]))
    low, high = mean_interval(one.influence_P, 0.95)
    assert paired.frechet(one) == (5.0, max(0, 5 + low), 5 + high)
    assert paired.frechet(paired.Distance(0.5, one.influence_P))[1] == 0.0


def test_a_quotient_is_others_over_ours_to_first_order():
    """Moving one prompt a little moves both sums; the influence says by how much."""
    ours = paired.Distance(2.0, np.array([0.2, -0.2, 0.4, -0.4]), 9)
    others = paired.Distance(6.0, np.array([0.3, 0.3, -0.3, -0.3]), 9)
    found = paired.quotient(ours, others)
    assert found.value == 3 and found.resamples == 9
    step = 1e-6
    moved = (6 + step * others.influence_P) / (2 + step * ours.influence_P)
    np.testing.assert_allclose(found.influence_P, (moved - 3) / step, rtol=1e-4)
    low, high = np.exp(mean_interval(found.influence_P / 3, 0.95))
    assert paired.frechet_ratio(ours, others) == approx((3, 3 * low, 3 * high))
    assert low * high == approx(1)


def test_a_ratio_needs_both_above_rounding_and_the_same_resamples():
    one = paired.Distance(2.0, np.array([0.1, -0.1, 0.2, -0.2]))
    for tiny in (
        paired.Distance(paired.NONE, one.influence_P),
        paired.Distance(0.0, one.influence_P),
    ):
        for pair in ((one, tiny), (tiny, one)):
            with pytest.raises(UserError, match="needs both above 0"):
                paired.quotient(*pair)
    small = paired.Distance(2 * paired.NONE, one.influence_P)
    assert paired.quotient(one, small).value == approx(paired.NONE)
    with pytest.raises(UserError, match="same prompts and resamples, got 4 and 4"):
        paired.quotient(one, paired.Distance(2.0, one.influence_P, 7))


def test_a_difference_turns_its_sign_and_needs_the_same_prompts():
    real, ours, others = features(4, 60, 4), features(5, 1, 30, 4), features(6, 3, 30, 4) + 1
    value, low, high = paired.frechet_difference(real, ours, others)
    assert low < value < high < 0  # ours is nearer
    assert paired.frechet_difference(real, others, ours) == approx((-value, -high, -low))
    with pytest.raises(UserError, match="needs the same prompts, got 30 and 29"):
        paired.frechet_difference(real, ours, others[:, :29])
