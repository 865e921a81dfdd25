"""CLIP score: both forms, torchmetrics' number, the prefix, 77 tokens with the end kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from cm3leon import seeds
from cm3leon.clip import Clip, ClipConfig, make_clip
from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.clip_score import (
    PREFIX,
    ClipScores,
    clip_s,
    cosines,
    full_share,
    measured,
    prefixed,
    remarks,
    score_captions,
)
from cm3leon.evaluation.sides import Held, Lacking, Sides
from cm3leon.evaluation.statistics.intervals import mean_interval
from cm3leon.tokenizers.pixels import to_unit


def vectors(seed: int, n: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0.01, 100))
def test_laws(seed, n, size):
    a, b = vectors(seed, n), vectors(seed + 1, n)
    found = cosines(a, b)
    by_hand = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    assert found == approx(np.array(by_hand), abs=1e-12)
    assert (np.abs(found) <= 1 + 1e-12).all()
    assert cosines(size * a, b) == approx(found, abs=1e-12)
    assert cosines(a, -b) == approx(-found, abs=1e-12)
    assert clip_s(found) == approx(np.where(found > 0, 2.5 * found, 0))
    scores = ClipScores(found, 0.0)
    assert (scores.plain, scores.clip_s) == (approx(found.mean()), approx(clip_s(found).mean()))
    assert scores.clip_s >= 2.5 * scores.plain - 1e-12


WORDS = 77
END = 49407


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A tiny CLIP with OpenAI's words and 77 tokens."""
    open_clip = pytest.importorskip("open_clip")
    config = ClipConfig(width=16, heads=2, image_layers=1, text_layers=1, image_size=32, patch=8,
                        text_size=END - 1, context=WORDS)  # fmt: skip
    with seeds.torch_default(0, "clip score"):
        model = make_clip(config)
    words = open_clip.get_tokenizer("ViT-B-32")
    return Clip(model, words, lambda image: to_unit(image[None])[0], "tiny")


PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
CAPTIONS = ["a dog", "two red kites over the sea", "word " * 100]


def test_a_long_text_keeps_its_end(clip):
    ids = clip.words([PREFIX + caption for caption in CAPTIONS])
    assert ids.shape == (3, WORDS)
    ends = ids.argmax(1)
    assert ids.max(1).values.tolist() == [END] * 3
    assert ends[0] < ends[1] < ends[2] == WORDS - 1
    assert full_share(ids) == approx(1 / 3)


def test_an_independent_computation(clip):
    found = score_captions(clip, PICTURES, CAPTIONS)
    with torch.inference_mode():
        x = torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 127.5 - 1
        images = clip.model.encode_image(x).double().numpy()
        texts = clip.model.encode_text(clip.words([PREFIX + c for c in CAPTIONS])).double().numpy()
    wanted = (images * texts).sum(1)
    wanted /= np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    assert found.cosine_N == approx(wanted, abs=1e-6)
    assert found.full == approx(1 / 3)
    bare = cosines(clip.images(PICTURES), clip.texts(CAPTIONS))
    assert np.abs(bare - found.cosine_N).max() > 1e-3  # the prefix counts


def test_equals_torchmetrics(clip):
    """Its score of one picture is 100 max(0, cosine) of the same vectors."""
    update = pytest.importorskip("torchmetrics.functional.multimodal.clip_score")._clip_score_update

    class Model(torch.nn.Module):
        config = None

        def get_image_features(self, pixels):
            return torch.from_numpy(clip.images(list(pixels.permute(0, 2, 3, 1).numpy())))

        def get_text_features(self, ids, mask):
            return clip.model.encode_text(ids)

    def processor(text=None, images=None, **_):
        if text is None:
            return {"pixel_values": torch.stack(images)}
        ids = clip.words([PREFIX + one for one in text])
        return {"input_ids": ids, "attention_mask": ids != 0}

    pictures = list(torch.from_numpy(PICTURES).permute(0, 3, 1, 2))
    with torch.inference_mode():
        scores, n = update(pictures, CAPTIONS, Model(), processor)
    found = score_captions(clip, PICTURES, CAPTIONS)
    assert n == 3 and 100 * found.cosine_N == approx(scores.numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (vectors(0, 3), vectors(1, 2), r"every picture needs one caption, got vectors \[3, 6\]"),
        (vectors(0, 2), np.zeros((2, 6)), "pair 0 have length zero"),
        (vectors(0, 2) * [[1], [0]], vectors(1, 2), "pair 1 have length zero"),
        (vectors(0, 2) * np.nan, vectors(1, 2), "row 0 has NaN"),
    ],
)
def test_mistakes(a, b, message):
    with pytest.raises(UserError, match=message):
        cosines(a, b)


def test_other_numbers_of_captions_are_refused(clip):
    for captions in ([], ["a"]):
        with pytest.raises(UserError, match="got 3 pictures"):
            score_captions(clip, PICTURES, captions)


def test_captions_that_filled_the_words_are_told(clip):
    """With their share; those of the embedded world's CLIP are read without the usual words."""
    sides = Sides(None, [], None, captions=CAPTIONS, clip=clip)
    assert prefixed(sides) == [PREFIX + one for one in CAPTIONS]
    assert remarks(sides) == [f"33.3% of the captions filled CLIP's {WORDS} tokens"]
    assert remarks(replace(sides, captions=CAPTIONS[:2])) == []
    assert prefixed(replace(sides, clip=SimpleNamespace(name="scenes"))) == CAPTIONS


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_run_has_both_forms_over_seeds_and_then_prompts(count):
    """A caption's number is the mean over its drawings; one caption alone has no interval."""
    fakes, texts = [Held(vectors(seed, count)) for seed in range(2)], vectors(7, count)
    tower = SimpleNamespace(name="tiny", texts=lambda told: texts if len(told) == count else None)
    found = measured(Sides(None, fakes, None, captions=["a"] * count, clip=tower))
    each_KN = np.array([cosines(one.features_ND, texts) for one in fakes])
    wanted_N = {"clip_score": each_KN.mean(0), "clip_score_s": clip_s(each_KN).mean(0)}
    for name, scores_N in wanted_N.items():
        ends = mean_interval(scores_N) if count > 1 else (None, None)
        assert found[name] == (approx(scores_N.mean()), *ends)


def test_without_a_clip_there_is_none():
    with pytest.raises(Lacking, match="a CLIP's tower, not inception"):
        measured(Sides(None, [], SimpleNamespace(name="inception")))
