"""Shares of fulfilled claims: what the overall score is of, and their intervals."""

import numpy as np
from pytest import approx

from benchmarks.evaluate.composition import ALL, composition, shares
from cm3leon.evaluation.metrics.composition import EXTRAS, TASKS


def test_overall_is_of_genevals_six_alone():
    asked = np.full((10, len(ALL)), 1)
    right = np.zeros_like(asked)
    right[:5, : len(TASKS)] = 1  # half of each of the six
    found = shares(right, asked)
    assert len(found) == len(TASKS) + len(EXTRAS) + 1 and found[-1] == 0.5
    right[:, len(TASKS) :] = 1  # entities, sizes, patterns, places: all right, and left out
    assert shares(right, asked)[-1] == 0.5
    asked[:, 0] = 0  # a task that nobody asked
    found = shares(right, asked)
    assert np.isnan(found[0]) and found[-1] == 0.5


def test_shares_and_intervals_by_name():
    rng = np.random.default_rng(0)
    asked = rng.integers(0, 2, (40, len(ALL)))
    asked[:, ALL.index("entity")] = 0
    right = asked * rng.integers(0, 2, asked.shape)
    found = composition(right, asked, [str(k // 2) for k in range(40)], 50)
    assert "entity" not in found and set(found) == {*ALL, "overall"} - {"entity"}
    for name, (value, low, high) in found.items():
        assert 0 <= low <= value <= high <= 1
        if name != "overall":
            place = ALL.index(name)
            assert value == approx(right[:, place].sum() / asked[:, place].sum())
    assert found["overall"][0] == approx(np.mean([found[name][0] for name in TASKS]))
