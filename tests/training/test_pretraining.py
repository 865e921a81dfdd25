"""Assembling a training: what is held out stays unseen, and parts that do not belong together."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cm3leon.cli import main as cli
from cm3leon.clip import load_clip
from cm3leon.config import ModelConfig, RetrievalConfig, TrainConfig, from_dict
from cm3leon.data.token_cache import TokenCache
from cm3leon.errors import UserError
from cm3leon.loading import load_tokenizers
from cm3leon.retrieval import training_bank
from cm3leon.retrieval.training_bank import Place
from cm3leon.training.pretraining import Corpus, absolute_clip, first_of, last_of, open_cache
from cm3leon.training.recipe import Recipe, find_model_config, fitted
from cm3leon.training.trainer import place_tokenizers
from tests.paper_maker import CODES, NEAR, PREPARE, SHAPE, TRAIN, write_start

SMALL = from_dict(ModelConfig, SHAPE)
LOOSE = RetrievalConfig(documents=4, threshold=2.0)  # a random CLIP finds all alike


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An encoded source with its tokenizers and CLIP, and a second one of the same tokenizers."""
    folder = write_start(tmp_path_factory.mktemp("pretrain"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in PREPARE:
            assert cli.main(command) == 0
        assert cli.main(["encode", "cc/00001.tar", "other", *PREPARE[2][3:]]) == 0
    return folder


@pytest.fixture(scope="module")
def corpus(place):
    text, vq = load_tokenizers(place / "home")
    cache = open_cache(place / "cache", text, vq, place / "home")
    clip = load_clip(f"local-dir:{place / 'clip'}")
    held = last_of(cache, 5)
    return Corpus(cache, held.start, cache, held, text, place / "home", Place(cache.folder), clip)


def recipe(*shares: float) -> Recipe:
    return Recipe(SMALL, TrainConfig(steps=2, warmup=1), shares=shares, retrieval=LOOSE)


def test_what_is_held_out_is_never_retrieved(corpus, tmp_path, monkeypatch):
    """Neither before what is learned nor before what is held out; and nothing finds itself."""
    near, held = corpus.neighbours(recipe(0.5, 0.5), tmp_path, "cpu")
    assert near.rows_NS.shape == (24, 4) and held is near
    assert near.rows_NS.max() < corpus.trained == 19
    assert not (near.rows_NS == np.arange(24)[:, None]).any()
    (kept,) = tmp_path.glob("neighbours-*.npy")
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(training_bank, "open_bank", None)  # a run that goes on looks nothing up
    again, _ = corpus.neighbours(recipe(0.5, 0.5), tmp_path, "cpu")
    np.testing.assert_array_equal(again.rows_NS, near.rows_NS)
    assert kept.stat().st_mtime_ns == before
    assert corpus.neighbours(recipe(1.0), tmp_path, "cpu") == (None, None)


def test_another_cache_held_out(corpus, place, tmp_path):
    other = TokenCache(place / "other")
    held = first_of(other, 4, corpus.cache)
    assert held == range(4)
    one = replace(corpus, trained=24, held_cache=other, held=held)
    near, held_near = one.neighbours(recipe(0.0, 1.0), tmp_path, "cpu")
    gone = [
        corpus.cache.ids.index(name) for name in other.ids[:4]
    ]  # the same pictures are in the bank
    for rows_NS in (near.rows_NS, held_near.rows_NS):
        assert not set(rows_NS.ravel().tolist()) & set(gone)
    assert "held_out_cache" in one.about(recipe(1.0))
    with pytest.raises(UserError, match="holds what is trained on; leave --held-out out"):
        first_of(corpus.cache, 4, corpus.cache)


def test_what_is_held_out_is_the_end_of_the_cache(corpus):
    cache = corpus.cache
    assert corpus.held == range(19, 24)
    lengths = [len(cache.text(index)) for index in range(24)]
    assert corpus.pair == pytest.approx(np.mean(lengths) + 16 + 2)
    assert len(last_of(cache, None)) == 1  # a sixteenth of 24
    with pytest.raises(UserError, match=r"hold_out must leave some of 24 documents .*, got 24"):
        last_of(cache, 24)


def test_a_vocabulary_is_that_of_the_tokenizers_or_made_to_be():
    assert fitted(SMALL, 300, CODES, 4, fit=False) == SMALL
    with pytest.raises(UserError, match="mini has 300 text ids, the text tokenizer 290; take anot"):
        fitted(SMALL, 290, CODES, 4, fit=False)
    with pytest.raises(
        UserError, match=r"mini has 40 image ids, the image tokenizer 64; .*--fit-v"
    ):
        fitted(SMALL, 300, 64, 4, fit=False)
    made = fitted(SMALL, 290, 64, 4, fit=True).vocabulary
    assert (made.text_size, made.image_size, made.sentinels) == (290, 64, 4)


def test_places_of_a_picture_are_those_of_the_tokenizer_or_made_to_be():
    placed = replace(SMALL, positions="grid", position_grid=8)
    assert fitted(placed, 300, CODES, 8, fit=False) == placed
    with pytest.raises(UserError, match=r"mini has places for pictures of 8 x 8 codes, .* 4 x 4"):
        fitted(placed, 300, CODES, 4, fit=False)
    assert fitted(placed, 300, CODES, 4, fit=True).position_grid == 4
    assert fitted(SMALL, 300, CODES, 4, fit=True) == SMALL  # knows no places


def test_models_by_name_and_by_file(tmp_path):
    assert find_model_config("350m").width == 1024
    path = tmp_path / "mini.json"
    path.write_text(json.dumps(SHAPE))
    assert find_model_config(str(path)) == SMALL
    path.write_text(json.dumps(SHAPE | {"depth": 3}))
    with pytest.raises(UserError, match=r"mini.json: ModelConfig has no field 'depth'"):
        find_model_config(str(path))
    with pytest.raises(UserError, match=r"unknown model '351m'; name 350m, .* or a .json file"):
        find_model_config("351m")


def test_tokenizers_are_copied_once_and_never_mixed(corpus, tmp_path):
    place_tokenizers(corpus.home, tmp_path)
    place_tokenizers(corpus.home, tmp_path)
    text, vq = load_tokenizers(tmp_path)
    assert text.digest == corpus.text.digest
    open_cache(corpus.cache.folder, text, vq, tmp_path)
    (tmp_path / "text" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is of another tokenizer than .*; name another --out"):
        place_tokenizers(corpus.home, tmp_path)


def test_names_of_clips_stay_true_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert absolute_clip("scenes") == "scenes"
    assert absolute_clip("mine") == str(tmp_path / "mine")
    assert absolute_clip("local-dir:mine") == f"local-dir:{tmp_path / 'mine'}"
    assert absolute_clip("ViT-B-32:mine/w.pt") == f"ViT-B-32:{tmp_path / 'mine' / 'w.pt'}"


def test_recomputing_changes_no_byte_of_the_model(place, monkeypatch):
    monkeypatch.chdir(place)
    for name, more in (("kept", []), ("anew", ["--recompute"])):
        assert cli.main([*TRAIN, *NEAR, *more, "--steps", "3", "--out", name]) == 0
    assert (place / "kept/model.safetensors").read_bytes() == (
        place / "anew/model.safetensors"
    ).read_bytes()
