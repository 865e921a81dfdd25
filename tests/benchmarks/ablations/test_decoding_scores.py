"""Groups, picks and ratios of the decoding ablation, by hand and against the plain route."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ablations.decoding_scores import (
    GROUPS,
    Judged,
    apart_in_steps,
    groups_of,
    mixed_groups,
    numbers,
    optimum,
    picks,
    ratio_of_gains,
)
from cm3leon.evaluation.statistics.frechet import Reference, frechet_from_features
from cm3leon.evaluation.statistics.paired import distance, mean_distance

RANDOM = np.random.default_rng(0)
REAL = Reference(RANDOM.normal(size=(200, 5)))


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_groups_are_disjoint_and_inside_the_pool(sizes):
    samples, count = sizes
    groups = groups_of(samples, count)
    together = np.concatenate(groups)
    assert 1 <= len(groups) <= GROUPS and all(len(one) == count for one in groups)
    assert len(set(together.tolist())) == len(together) and together.max() < samples


@given(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(0, 5))
def test_mixed_groups_take_half_from_each(samples, power):
    count = min(2**power, samples)
    for ours, others in mixed_groups(samples, count):
        assert len(ours) + len(others) == count and len(ours) - len(others) in (0, 1)
        assert max([*ours, *others]) < samples
    firsts = np.concatenate([ours for ours, _ in mixed_groups(samples, count)])
    assert len(set(firsts.tolist())) == len(firsts)


def test_picks_are_the_nearest_of_their_group():
    clip_PK = np.array([[0.1, 0.9, 0.5, 0.2], [0.4, 0.3, 0.2, 0.8]])
    assert picks(clip_PK, [np.array([0, 1]), np.array([2, 3])]).tolist() == [[1, 0], [2, 3]]
    assert picks(clip_PK, [np.arange(4)]).tolist() == [[1, 3]]


def test_one_set_is_the_plain_distance_and_shares_its_resamples():
    fake = RANDOM.normal(0.3, 1, size=(40, 5))
    one, other = mean_distance(REAL, fake[None], 20), distance(REAL, fake[:, None], 20)
    assert one.value == other.value and one.prompts == other.prompts == 40
    np.testing.assert_allclose(one.draws_R, other.draws_R)
    two = mean_distance(REAL, np.stack([fake, fake + 1]), 20)
    values = [frechet_from_features(REAL.features, each) for each in (fake, fake + 1)]
    assert two.value == pytest.approx(np.mean(values))
    assert two.draws_R.mean() == pytest.approx(two.value, rel=0.1)


def test_a_planted_optimum_is_found():
    judged = {
        weight: Judged(RANDOM.normal(shift, 1, size=(80, 1, 5)), np.ones(80))
        for weight, shift in ((1.0, 2.0), (2.0, 0.0), (4.0, 2.0))
    }
    value, draws_R = optimum(judged, REAL, 30)
    assert value == 2.0 and (draws_R == 2.0).all()


def test_steps_between_optima():
    weights = (1.0, 2.0, 4.0)
    ones, fours = np.full(10, 1.0), np.full(10, 4.0)
    assert apart_in_steps(ones, fours, weights, (1.0, 4.0)) == (-2.0, -2.0, -2.0)
    assert apart_in_steps(fours, fours, weights, (4.0, 4.0)) == (0.0, 0.0, 0.0)


def test_a_planted_gain_is_seen():
    def side(shift):
        return mean_distance(REAL, RANDOM.normal(shift, 1, size=(1, 60, 5)), 40)

    improving, still = (side(1.5), side(0.0)), (side(0.8), side(0.8))
    value, low, high = ratio_of_gains(improving, still)
    assert value > 1 and low > 1 and high >= value
    value, low, high = ratio_of_gains(still, improving)
    assert high < 1


def test_numbers_of_a_cell():
    judged = Judged(RANDOM.normal(size=(12, 2, 5)), np.array([0.5] * 11 + [np.nan]))
    found = numbers("part.cell", judged, REAL, 10)
    assert set(found) == {
        f"part.cell.{m}" for m in ("fid", "right", "precision", "recall", "apart")
    }
    assert found["part.cell.right"] == (0.5, 0.5, 0.5)
    alone = numbers("part.cell", Judged(judged.features_PKD[:, :1], judged.right_P), REAL, 10)
    assert "part.cell.apart" not in alone
