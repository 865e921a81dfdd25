"""Impossible drawings: a table of small counts by hand, real pictures pass, moved ones do not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.config import VQConfig
from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.impossible import columns_of, impossible, measured, never_in
from cm3leon.evaluation.sides import Sides, Truth
from cm3leon.evaluation.statistics import paired
from cm3leon.files import baselines_folder
from cm3leon.loading import load_module
from cm3leon.tokenizers.vq import VQ
from cm3leon.world.scenes import scene


def test_by_hand():
    """Two columns; code 0 stands in both, 1 in the left one alone, 2 too seldom, 3 never."""
    codes = np.array([[1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 2, 0]])
    never = never_in(codes, 4, columns=2, common=3)
    assert never.tolist() == [[False, False], [False, True], [False, False], [False, False]]
    drawn = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 2, 3, 2], [0, 0, 0, 1]])
    assert impossible(drawn, never).tolist() == [False, True, False, True]
    with pytest.raises(UserError, match=r"2 columns wide .* got \[3, 3\]"):
        impossible(np.zeros((3, 3), int), never)


@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 9))
def test_what_was_seen_is_possible(seed, pictures, common):
    codes = np.random.default_rng(seed).integers(0, 12, (pictures, 16))
    never = never_in(codes, 12, 4, common)
    assert not impossible(codes, never).any()
    assert (never <= never_in(codes, 12, 4, 1)).all()  # a lower floor forbids more


@pytest.fixture(scope="module")
def vq():
    return load_module(baselines_folder() / "scenes" / "vq", "vq", VQConfig, VQ)[0]


def test_real_pictures_pass_and_pictures_moved_sideways_do_not(vq):
    never = columns_of(vq, 1200)
    assert columns_of(vq, 1200) is never  # made once
    real = vq.encode(np.stack([scene("coco", "test", at).image for at in range(300)])).numpy()
    assert impossible(real, never).mean() <= 0.01
    grid = real.reshape(-1, 8, 8)
    for columns in (1, 2, 3):
        moved = np.roll(grid, columns, axis=2).reshape(real.shape)
        assert impossible(moved, never).mean() > 0.1


class Shades:
    """An image tokenizer of four columns: whether a cell is dark, and where it stands."""

    config = VQConfig(resolution=32, codebook_size=8)

    def encode(self, images):
        dark = images.reshape(len(images), 4, 8, 4, 8, 3).mean((2, 4, 5)) < 128
        codes = 4 * dark + np.array([0, 1, 3, 3])
        return torch.from_numpy(codes.astype(np.int64).reshape(len(images), 16))


def test_columns_are_those_of_the_first_pictures_of_the_training_split():
    vq = Shades()
    assert vq.config.grid == 4
    drawn = np.stack([scene("stock", "train", at, 32).image for at in range(99)])
    wanted = never_in(vq.encode(drawn).numpy(), 8, 4)
    assert (columns_of(vq, 99) == wanted).all() and 0 < wanted.sum() < wanted.size


def test_a_run_has_the_share_where_its_pictures_have_codes():
    found = measured(Sides(None, [], None, truth=truth(np.arange(9) % 3 == 0)))
    assert found == {"impossible": paired.mean(np.arange(9) % 3 == 0)}
    assert measured(Sides(None, [], None, truth=truth(None))) == {}
    assert measured(Sides(None, [], None)) == {}


def truth(impossible_N) -> Truth:
    return Truth(np.ones((9, 1)), np.ones((9, 1)), ["a"] * 9, np.zeros(9, bool), impossible_N)
