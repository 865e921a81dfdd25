"""Precision and recall on sets whose answer is known."""

import numpy as np
import pytest

from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.precision_recall import (
    distances,
    measured,
    precision_recall,
    radii,
    spread_of_samples,
)
from cm3leon.evaluation.sides import Held, Lacking, Sides
from cm3leon.evaluation.statistics.intervals import binomial_interval

RANDOM = np.random.default_rng(0)


def by_hand(real, fake, k):
    def covered(point, members):
        gaps = [sorted(np.linalg.norm(members - one, axis=1))[k] for one in members]
        away = np.linalg.norm(members - point, axis=1)
        return any(d <= r for d, r in zip(away, gaps, strict=True))

    precision = np.mean([covered(one, real) for one in fake])
    return precision, np.mean([covered(one, fake) for one in real])


@pytest.mark.parametrize("k", [1, 3])
def test_equals_the_definition(k):
    real, fake = RANDOM.normal(size=(20, 4)), RANDOM.normal(0.5, 0.7, size=(15, 4))
    assert precision_recall(real, fake, k) == pytest.approx(by_hand(real, fake, k))


def test_known_sets():
    real = RANDOM.normal(size=(60, 3))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    half = real[real[:, 0] > 0]  # drawn pictures that lack half of what is real
    precision, recall = precision_recall(real, half)
    assert precision == 1.0 and 0.4 < recall < 0.9
    assert precision_recall(half, real) == (recall, precision)  # the two sides change places


def test_distances_and_radii():
    rows = np.array([[0.0, 0], [3, 4], [6, 8]])
    assert distances(rows, rows).tolist() == [[0, 5, 10], [5, 0, 5], [10, 5, 0]]
    assert radii(rows, 1).tolist() == [5, 5, 5] and radii(rows, 2).tolist() == [10, 5, 10]


def test_samples_of_one_prompt():
    features = np.zeros((2, 3, 2))
    features[1, 0] = [0, 6]
    assert spread_of_samples(features).tolist() == [0, 4]  # of the second: 6, 6 and 0


@pytest.mark.parametrize(
    "real, fake, k, message",
    [
        (RANDOM.normal(size=(3, 2)), RANDOM.normal(size=(9, 2)), 3, r"k must lie in \[1, 2\]"),
        (RANDOM.normal(size=(9, 2)), RANDOM.normal(size=(9, 3)), 3, "one dimension, got 2, 3"),
    ],
)
def test_bad_input(real, fake, k, message):
    with pytest.raises(UserError, match=message):
        precision_recall(real, fake, k)


def test_one_sample_has_no_spread():
    with pytest.raises(UserError, match="two or more to differ, got 1"):
        spread_of_samples(np.zeros((2, 1, 4)))


def test_a_run_has_the_means_over_seeds_and_wilson_s_intervals():
    real, *fakes = (Held(RANDOM.normal(size=(count, 2))) for count in (30, 20, 20))
    found = measured(Sides(real, fakes, None, real))
    each = [precision_recall(real.features_ND, one.features_ND, 3) for one in fakes]
    for (name, count), share in zip(
        {"precision": 20, "recall": 30}.items(), np.mean(each, axis=0), strict=True
    ):
        assert found[name] == (share, *binomial_interval(round(share * count), count))


@pytest.mark.parametrize(("real", "drawn"), [(4, 9), (9, 4), (3, 9), (9, 3)])
def test_a_run_needs_more_pictures_than_neighbours(real, drawn):
    enough = min(real, drawn) == 4
    real, drawn = (Held(RANDOM.normal(size=(count, 2))) for count in (real, drawn))
    sides = Sides(real, [drawn], None, real)
    if enough:
        assert set(measured(sides)) == {"precision", "recall"}
    else:
        with pytest.raises(Lacking, match="more pictures"):
            measured(sides)


def test_a_point_on_the_edge_is_covered():
    """Real at 0, 1, 2, 3 with the next at distance 1: a drawn one at 4 stands on 3's edge."""
    real = np.array([[0.0], [1], [2], [3]])
    fake = np.array([[4.0], [14], [24], [34]])
    precision, recall = precision_recall(real, fake, 1)
    assert (precision, recall) == (0.25, 1.0)  # drawn ones reach 10 far
    assert precision_recall(real, fake[:, ::-1], 3) == precision_recall(real, fake)
