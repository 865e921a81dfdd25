"""The measure of an image tokenizer's codes: entropies by hand, and what counts as drawn where."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.codes import LEAST, Options, conditional_entropy, conditions, run
from cm3leon.errors import UserError
from cm3leon.scenes import scene


def test_entropy_by_hand():
    codes = {"a": [1] * 8 + [2] * 8, "b": [5] * 16, "rare": list(range(LEAST - 1))}
    of_a = math.log(2) + 1 / 32
    assert conditional_entropy(codes) == pytest.approx(of_a / 2)
    assert math.isnan(conditional_entropy({"rare": [1] * (LEAST - 1)}))


@given(st.lists(st.integers(0, 5), min_size=LEAST, max_size=60))
def test_entropy_is_a_matter_of_counts(codes):
    value = conditional_entropy({0: codes})
    kinds = len(set(codes))
    assert -1e-12 <= value <= math.log(kinds) + (kinds - 1) / (2 * len(codes)) + 1e-9
    renamed = [code * 7 + 1 for code in reversed(codes)]
    assert conditional_entropy({9: renamed}) == pytest.approx(value)


def test_every_cell_is_ground_or_one_objects():
    import numpy as np

    names = np.arange(64).reshape(8, 8)
    for index in range(40):
        one = scene("stock", "train", index)
        found = list(conditions(one, names))
        cells = [code for _, _, code in found]
        assert len(cells) == len(set(cells))  # no cell twice
        for kind, condition, code in found:
            assert condition[0] == one.place
            y, x = divmod(code, 8)
            covered = [
                thing
                for thing in one.objects
                if thing.mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].any()
            ]
            if kind == "ground":
                assert condition[1:] == (x, y) and not covered
            else:
                owner = [thing for thing in one.plan.things if thing[:4] == condition[1:5]]
                assert (x - condition[5], y - condition[6]) in [thing[5] for thing in owner]


def test_too_few_pictures_are_refused():
    with pytest.raises(UserError, match="n >= 100 and read >= 1, got 5 and 400"):
        run(Options(n=5))
