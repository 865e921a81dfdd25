"""The measure of an image tokenizer's codes: entropies by hand, and what counts as drawn where."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evaluate.codes import (
    LEAST,
    Options,
    condition_readings,
    conditional_entropy,
    conditions,
    f1,
    letters_right,
    mean_iou,
    readings,
    run,
    sign_readings,
)
from cm3leon.errors import UserError
from cm3leon.world.scenes import scene


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


def test_maps_are_compared_by_class_over_all_pictures():
    truth, read = np.array([[0, 0, 1], [1, 2, 2]]), np.array([[0, 0, 1], [0, 2, 3]])
    assert mean_iou(truth, read) == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert mean_iou(truth, truth) == 1.0
    edge, found = truth == 1, read == 1
    assert f1(edge, found) == pytest.approx(2 * 1 / (2 + 1)) and f1(edge, edge) == 1.0
    assert f1(edge & False, found & False) == 1.0 and f1(edge, edge & False) == 0.0


@pytest.mark.parametrize(
    ("text", "read", "right"), [("MORN", "MORN", 4), ("MORN", "NORM", 2), ("AB", "ABC", 0)]
)
def test_a_letter_is_right_at_its_place(text, read, right):
    assert letters_right(text, read) == right and letters_right(text, "") == 0


class Blurred:
    """A tokenizer that keeps pictures whole (0) or but the mean of each block of so many pixels."""

    def __init__(self, side: int = 0):
        self.side = side

    def encode(self, images):
        return images

    def decode(self, codes):
        if not self.side:
            return codes
        blocks = codes.reshape(-1, 64 // self.side, self.side, 64 // self.side, self.side, 3)
        means = blocks.mean((2, 4), keepdims=True).astype(np.uint8)
        return np.broadcast_to(means, blocks.shape).reshape(codes.shape)


def test_what_a_perfect_tokenizer_and_a_blur_lose():
    def values(vq):
        found = readings(vq, 2) | sign_readings(vq, 2) | condition_readings(vq, 3)
        return {name: value for name, value in found.items() if not name.startswith("PSNR")}

    assert set(values(Blurred()).values()) == {1.0}
    for name, value in values(Blurred(8)).items():
        assert value < 0.9, name
    fine = condition_readings(Blurred(4), 3)  # what is flat on the lattice is kept
    assert fine["segmentation: mIoU"] == fine["depth: mIoU"] == 1.0 > fine["edges: F1"]


def test_every_cell_is_ground_or_one_objects():
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
