"""Copies of documents: by distance, and by blocks of image codes."""

import numpy as np
import pytest

from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.copying import copies, nearest_distance, shared_block


def test_copies_by_hand():
    documents = np.zeros((4, 2, 3))
    documents[:, 1] = 10
    pictures = np.array([[0, 0, 0], [10, 10, 10], [9, 9, 9], [3, 3, 3]])
    assert nearest_distance(pictures, documents).tolist() == [0, 0, 1, 3]
    real = np.arange(100.0)
    assert copies(np.array([0, 4.9, 5, 50]), real).tolist() == [True, True, False, False]
    with pytest.raises(UserError, match="do not fit documents"):
        nearest_distance(pictures[:2], documents)
    with pytest.raises(UserError, match="must have shape"):
        nearest_distance(pictures, documents[:, :0])
    with pytest.raises(UserError, match="share of the control"):
        copies(real, real, 0)


def test_blocks_are_found_wherever_they_stand():
    """An object of 3 x 3 codes, moved and on another ground; and what plain loops find."""
    rng = np.random.default_rng(0)
    document = np.full((8, 8), 1)
    document[1:4, 2:5] = block = np.arange(10, 19).reshape(3, 3)
    moved = np.full((8, 8), 2)
    moved[4:7, 5:8] = block
    cut = moved.copy()
    cut[5, 6] = 99  # one code in its middle
    nothing = np.full((8, 8), 3)
    pictures = np.stack([document, moved, cut, nothing])
    documents = np.stack([np.stack([np.full((8, 8), 7), document])] * 4)
    assert shared_block(pictures, documents).tolist() == [8, 3, 1, 0]

    def plainly(one, other) -> int:
        places = range(5)
        for size in range(5, 0, -1):
            squares = [
                {
                    tuple(codes[i : i + size, j : j + size].ravel())
                    for i in places
                    for j in places
                    if max(i, j) + size <= 5
                }
                for codes in (one, other)
            ]
            if squares[0] & squares[1]:
                return size
        return 0

    few = rng.integers(0, 2, (30, 5, 5))
    others = rng.integers(0, 2, (30, 2, 5, 5))
    wanted = [max(plainly(one, each) for each in own) for one, own in zip(few, others, strict=True)]
    assert shared_block(few, others).tolist() == wanted
    with pytest.raises(UserError, match="do not fit documents"):
        shared_block(few[:2], others)
    with pytest.raises(UserError, match="must have shape"):
        shared_block(few, others[:, :0])


def test_shapes_that_do_not_fit_are_refused():
    for pictures, documents in (((4, 3), (4, 3)), ((4, 3), (4, 2, 3, 1)), ((4, 2), (4, 2, 3))):
        with pytest.raises(UserError, match=r"must have shape \[N, S, D\]|do not fit documents"):
            nearest_distance(np.zeros(pictures), np.zeros(documents))
    for pictures, documents in (((4, 3, 3), (4, 3, 3)), ((4, 3, 3), (4, 1, 3, 3, 1))):
        with pytest.raises(UserError, match=r"must have shape \[N, S, G, G\]"):
            shared_block(np.zeros(pictures), np.zeros(documents))
    one = np.arange(12.0).reshape(4, 3)
    assert nearest_distance(one, one[:, None]).tolist() == [0] * 4  # one document is enough


def test_as_near_as_the_control_is_no_copy():
    real = np.arange(101.0)  # its twentieth part ends at 5 exactly
    assert copies(np.array([4.99, 5.0, 5.01]), real).tolist() == [True, False, False]
    for share in (0, 1, -0.1, 1.1):
        with pytest.raises(UserError, match="share of the control"):
            copies(real, real, share)


def test_a_block_may_stand_in_the_last_rows_whatever_the_number_of_documents():
    """One document of eight rows: all of them are looked at."""
    picture = np.arange(64).reshape(1, 8, 8)
    document = np.full((1, 1, 8, 8), 99)
    document[0, 0, 4:, 4:] = picture[0, 4:, 4:]
    assert shared_block(picture, document).tolist() == [4]
