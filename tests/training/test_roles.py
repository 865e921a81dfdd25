"""Loss by role: the truth against pixels, a network whose distribution is known, two routes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cm3leon.config import ModelConfig, VocabularyConfig, VQConfig
from cm3leon.data.token_cache import encode
from cm3leon.model.transformer import Transformer
from cm3leon.retrieval.neighbours import Neighbours
from cm3leon.seeds import torch_generator
from cm3leon.sequence.documents import Vocabulary
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.training.pairs import HeldOut, pair_held_out
from cm3leon.training.roles import BEGINS, GROUND, REST, ROLES, block_of, role_losses, truth_of
from cm3leon.world.scenes import Scene, scene
from cm3leon.world.sprites import CELLS, place_picture
from tests.data.test_token_cache import source as scenes

SIZES = VocabularyConfig(300, 64, 4)
VOCABULARY = Vocabulary.from_config(SIZES)
MODEL = ModelConfig("tiny", 1, 16, 2, 400, SIZES, init_std=0.5)


def cells(picture: np.ndarray) -> list[bytes]:
    """The cells of a picture in raster order, as bytes."""
    side = len(picture) // CELLS
    parts = picture.reshape(CELLS, side, CELLS, side, 3).swapaxes(1, 2)
    return [part.tobytes() for part in parts.reshape(CELLS**2, -1)]


def touched(one: Scene, things: tuple) -> np.ndarray:
    """Bool [K]: cells in which these things of a scene alone change a pixel of the place."""
    bare = cells(place_picture(one.place, one.size))
    plan = replace(one.plan, things=things)
    drawn = cells(Scene(one.dialect, one.split, one.index, one.size, plan).image)
    return np.array([a != b for a, b in zip(bare, drawn, strict=True)])


@settings(max_examples=4, deadline=None)
@given(st.sampled_from(["stock", "coco"]), st.integers(0, 4_000))
def test_roles_are_what_the_pixels_show(dialect, start):
    """With a code for every different cell a role is a fact about pixels."""
    some = [scene(dialect, "val", start + at, 32) for at in range(48)]
    every = [cells(one.image) for one in some]
    book = {cell: code for code, cell in enumerate(sorted({c for row in every for c in row}))}
    codes_NK = np.array([[book[cell] for cell in row] for row in every])
    truth = truth_of([one.plan for one in some], codes_NK, len(book))
    for one, roles_K, codes_K, ground_KC in zip(
        some, truth.roles_NK, codes_NK, truth.ground_NKC, strict=True
    ):
        assert not set(roles_K[touched(one, one.plan.things)]) - {BEGINS, REST}
        begins = {int(touched(one, (thing,)).argmax()) for thing in one.plan.things}
        hidden = any(touched(one, (thing,)).sum() == 0 for thing in one.plan.things)
        assert not hidden and len(begins) >= len(set(np.flatnonzero(roles_K == BEGINS)))
        assert set(np.flatnonzero(roles_K == BEGINS)) <= begins | shared(one)
        shown = ~ground_KC[np.arange(CELLS**2), codes_K]
        assert (shown == touched(one, one.plan.things)).all()
        assert not shown[roles_K == GROUND].any() and shown[roles_K == BEGINS].all()


def shared(one: Scene) -> set:
    """Cells of more than one block: there what is first in raster order may be another thing's."""
    return set(np.flatnonzero(sum(block_of(thing).astype(int) for thing in one.plan.things) > 1))


def test_a_thing_begins_once_and_what_comes_before_is_ground():
    """One small thing in the middle whose block's first cell shows ground."""
    plan = replace(scene("stock", "val", 0).plan, things=(("circle", "red", "small", "plain", None,
                                                           (3, 3)),))  # fmt: skip
    codes_K = np.zeros(64, np.int64)
    codes_K[[19, 20, 26, 27, 28, 35]] = [1, 2, 3, 4, 5, 6]
    truth = truth_of([plan], codes_K[None], 8)
    assert np.flatnonzero(truth.roles_NK[0] == BEGINS).tolist() == [19]
    assert np.flatnonzero(truth.roles_NK[0] == REST).tolist() == [20, 26, 27, 28, 34, 35, 36]
    assert truth.ground_NKC[0, 18].tolist() == [True] + [False] * 7


class Greys(nn.Module):
    """A stand-in for the image tokenizer: codes are the mean grey of the 64 cells."""

    def __init__(self):
        super().__init__()
        self.config = VQConfig(resolution=32, multipliers=(1, 2, 4), codebook_size=64)
        self.none = nn.Parameter(torch.zeros(()))

    def encode(self, images) -> torch.Tensor:
        grey = torch.as_tensor(images).float().mean(3)
        return grey.unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)).div(4).long().flatten(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    captions = [text for index in range(60) for text in scene("stock", "train", index).captions]
    tokenizer = TextTokenizer.train(captions, 300)
    return encode(scenes(), Greys(), tokenizer, tmp_path_factory.mktemp("roles") / "cache")


class Even(nn.Module):
    """Every code is as likely as every other, and nothing else can come."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.zeros(()))

    def hidden(self, ids_BT, positions_BT):
        return torch.zeros(*ids_BT.shape, 1)

    def logits(self, hidden):
        logits = torch.full((*hidden.shape[:-1], VOCABULARY.size), -torch.inf)
        logits[..., VOCABULARY.image_start : VOCABULARY.image_end] = 0
        return logits


def test_an_even_distribution(cache):
    found = role_losses(HeldOut(cache, range(20)), VOCABULARY)(Even())
    assert found["ground"] == pytest.approx(math.log(64))
    assert found["rest"] == pytest.approx(math.log(64))
    assert found["picture"] == pytest.approx(64 * math.log(64), rel=1e-5)
    assert found["where"] + found["what"] == pytest.approx(math.log(64), rel=1e-5)
    assert 0 < found["where"] < found["what"]


@pytest.mark.parametrize("documents", [0, 2])
def test_roles_sum_to_the_loss_of_the_picture(cache, documents):
    model = Transformer(MODEL, torch_generator(0, "roles")).eval()
    near = None
    if documents:
        rows_NS = (np.arange(len(cache))[:, None] + [1, 2]) % len(cache)
        near = Neighbours(rows_NS, cache, (0.0, 0.0, 1.0))
    held = HeldOut(cache, range(18), near, documents)
    with torch.no_grad():
        whole = pair_held_out(held, VOCABULARY, MODEL)(model)
        found = role_losses(held, VOCABULARY, MODEL)(model)
    assert set(found) == {*ROLES, "picture"}
    assert found["picture"] == pytest.approx(64 * whole["image"], rel=1e-5)
    assert all(math.isfinite(value) and value >= 0 for value in found.values())


def test_pictures_of_elsewhere_have_no_roles(cache):
    class Other:
        def address(self, index):
            return None

        def __getattr__(self, name):
            return getattr(cache, name)

        def __len__(self):
            return len(cache)

    assert role_losses(HeldOut(Other(), range(20)), VOCABULARY)(Even()) == {}
