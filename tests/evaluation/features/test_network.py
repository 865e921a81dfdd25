"""The feature network of `fid_scenes`: what it is asked, what it takes, how it is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import features
from baselines.features import answers
from cm3leon import seeds
from cm3leon.checkpoint import save
from cm3leon.errors import UserError
from cm3leon.evaluation.features.scenes import (
    ANSWERS,
    ARCHITECTURE,
    DIM,
    FeatureNetwork,
    load_network,
)
from cm3leon.world.scenes import Plan, Scene, scene
from cm3leon.world.sprites import COLOURS, PATTERNS, PLACES, SHAPES


def made() -> FeatureNetwork:
    with seeds.torch_default(0, "test"):
        return FeatureNetwork().eval()


def images(count: int) -> np.ndarray:
    return np.stack([scene("coco", "val", index).image for index in range(count)])


def ones(vector) -> set[int]:
    return set(np.flatnonzero(vector).tolist())


def test_answers_to_a_scene_made_by_hand():
    things = (
        ("star", "red", "large", "striped", None, (2, 5)),
        ("cross", "cyan", "small", None, "bagozu", (6, 1)),
    )
    found = answers(Scene("stock", "train", 0, 64, Plan("grass", things, ((0, 1), (1, 1)))))
    assert found.shape == (ANSWERS,) and found.dtype == np.float32
    assert set(np.unique(found)) == {0, 1}
    colours, star, cross = list(COLOURS), SHAPES.index("star"), SHAPES.index("cross")
    assert ones(found[:6]) == {PLACES.index("grass")} == {1}
    pairs = {star * 8 + colours.index("red"), cross * 8 + colours.index("cyan")}
    assert ones(found[6:70]) == pairs == {24, 63}
    assert ones(found[70:94]) == {star * 3 + PATTERNS.index("striped")}  # an entity has no pattern
    assert ones(found[94:110]) == {star * 2 + 1, cross * 2}  # small, large
    assert found[110:113].tolist() == [0, 1, 0]  # two objects
    assert found[113] == 1  # an entity is there
    assert ones(found[114:122]) == {2, 6} and ones(found[122:130]) == {5, 1}  # columns, rows


@settings(max_examples=25)
@given(st.sampled_from(["stock", "coco"]), st.sampled_from(["val", "tail"]), st.integers(0, 1999))
def test_answers_are_of_one_length_and_say_what_is_there(dialect, split, index):
    one = scene(dialect, split, index)
    found = answers(one)
    assert len(found) == ANSWERS == FeatureNetwork().head.out_features
    assert found[:6].sum() == 1 and found[110:113].argmax() == len(one.plan.things) - 1
    assert found[113] == (split == "tail")
    assert found[6:70].sum() == len({thing[:2] for thing in one.plan.things})


def test_a_batch_cannot_be_seen():
    network, pictures = made(), images(7)
    together = network.embed(pictures)
    assert together.shape == (7, DIM) and together.dtype == np.float32
    for size in (1, 3):
        parts = [network.embed(pictures[k : k + size]) for k in range(0, 7, size)]
        assert np.allclose(np.concatenate(parts), together, atol=1e-5)
    assert np.unique(together.round(4), axis=0).shape[0] == 7
    assert network.embed(pictures[:0]).shape == (0, DIM)


def test_embedding_reads_only(recwarn):
    network, pictures = made(), images(2)
    expected = network.embed(pictures.copy())
    pictures.setflags(write=False)
    assert (network.embed(pictures) == expected).all()
    assert not recwarn and all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((2, 32, 32, 3), np.uint8),
        np.zeros((2, 64, 128, 3), np.uint8),
        np.zeros((2, 3, 64, 64), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((2, 64, 64, 4), np.uint8),
    ],
    ids=lambda pictures: f"{pictures.dtype}{list(pictures.shape)}",
)
def test_other_pictures_are_refused(pictures):
    with pytest.raises(UserError, match=r"uint8 .* resize first") as error:
        made().embed(pictures)
    text = str(error.value)
    assert str(pictures.dtype) in text and str(list(pictures.shape)) in text and "\n" not in text


def test_a_saved_network_comes_back(tmp_path):
    network, pictures = made(), images(3)
    save(tmp_path, "features", ARCHITECTURE, network.state_dict())
    loaded = load_network(tmp_path)
    assert not loaded.training
    assert (loaded.embed(pictures) == network.embed(pictures)).all()


@pytest.mark.parametrize(
    ("kind", "config", "tensors", "message"),
    [
        ("vq", ARCHITECTURE, made().state_dict(), "holds a 'vq', not a 'features'"),
        ("features", ARCHITECTURE | {"dim": 64}, made().state_dict(), "features of another shape"),
        ("features", {}, made().state_dict(), "features of another shape"),
        ("features", ARCHITECTURE, {"x": torch.ones(1)}, "the weights have no 'stages.0.weight'"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, kind, config, tensors, message):
    save(tmp_path, kind, config, tensors)
    with pytest.raises(UserError, match=message) as error:
        load_network(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        load_network(tmp_path)


def test_it_learns_on_scenes_of_train_alone(monkeypatch, tmp_path):
    """Both dialects (it is no model that is measured), never a split that evaluates."""
    asked, scene_of = [], features.scene

    def noted(dialect, split, index):
        asked.append((dialect, split, index))
        return scene_of(dialect, split, index)

    def keep(network, problem, config, run):
        for step in (1, 2, config.steps):
            value, _ = problem.loss(network, problem.batch(step), step)
            assert torch.isfinite(value)
        (run / "log.jsonl").write_bytes(b"{}\n")
        return {"seconds": 1.5}

    monkeypatch.setattr(features, "scene", noted)
    monkeypatch.setattr(features, "train", keep)
    features.train_features(tmp_path, tmp_path / "out", "cpu")
    assert {split for _, split, _ in asked} == {"train"}
    assert [index for _, _, index in asked[:128]] == list(range(128))
    assert {dialect for dialect, _, _ in asked} == {"stock", "coco"}
    assert isinstance(load_network(tmp_path / "out"), FeatureNetwork)
    before = torch.get_rng_state()
    asked.clear()
    found = features._evaluate(made())
    assert {split for _, split, _ in asked} == {"val"}
    assert set(found) == {"loss", "answers_right", "scenes_right"}
    assert torch.equal(torch.get_rng_state(), before)
