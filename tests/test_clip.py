"""CLIP: tokens, query dropout, unit vectors, batches, and every way of naming weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.checkpoint import save
from cm3leon.clip import (
    Clip,
    ClipConfig,
    Words,
    drop_tokens,
    load_clip,
    make_clip,
    published_preprocessing,
)
from cm3leon.errors import UserError
from cm3leon.tokenizers.text import TextTokenizer

TINY = ClipConfig(
    width=16, heads=2, image_layers=1, text_layers=1, image_size=16, patch=8, text_size=300,
    context=12,
)  # fmt: skip
TEXTS = ["a red star", "two blue hearts on the sand", "", "snow " * 40]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    made = TextTokenizer.train([f"a red star {k} on the blue sand" for k in range(300)] * 2, 300)
    assert made.size == 300
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A scenes CLIP with random weights, as the recipe leaves it."""
    home = tmp_path_factory.mktemp("weights")
    tokenizer.save(home / "text")
    with seeds.torch_default(0, "clip"):
        model = make_clip(TINY)
    save(home / "clip", "clip", TINY, model.state_dict(), {"text_sha256": tokenizer.digest})
    return home / "clip"


@pytest.fixture(scope="module")
def clip(folder) -> Clip:
    return load_clip(folder)


def pictures(count: int, side: int = 16) -> np.ndarray:
    return seeds.generator(0, "pictures").integers(0, 256, (count, side, side, 3), np.uint8)


def test_unit_vectors_whatever_the_batch(clip, monkeypatch):
    texts, images = clip.texts(TEXTS), clip.images(pictures(5))
    for vectors, count in ((texts, 4), (images, 5)):
        assert vectors.shape == (count, clip.width) == (count, 16) and vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    monkeypatch.setattr("cm3leon.clip.BATCH", 2)
    assert clip.texts(TEXTS) == pytest.approx(texts, abs=1e-5)
    assert clip.images(pictures(5)) == pytest.approx(images, abs=1e-5)
    assert clip.texts([]).shape == clip.images([]).shape == (0, 16)


def test_open_clip_says_the_same(clip):
    """The oracle: open_clip's own forward pass, normalised there."""
    images = pictures(3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        image, text, _ = clip.model(x, clip.words(TEXTS))
    assert clip.images(images) == pytest.approx(image.numpy(), abs=1e-5)
    assert clip.texts(TEXTS) == pytest.approx(text.numpy(), abs=1e-5)


def test_long_texts_keep_their_end(tokenizer):
    words = Words(tokenizer, 12)
    ids = words(TEXTS)
    assert ids.shape == (4, 12) and (ids[:, 0] == words.start).all()
    assert ((ids == words.end).sum(1) == 1).all()
    assert ids[3, -1] == words.end and ids[2].tolist() == [words.start, words.end] + [0] * 10
    assert (ids.argmax(1) == (ids == words.end).int().argmax(1)).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.lists(st.text("abcd ", max_size=30), min_size=1, max_size=6))
def test_dropout_drops_and_closes_the_gaps(tokenizer, seed, texts):
    words = Words(tokenizer, 24)
    ids = words(texts)
    assert torch.equal(drop_tokens(ids, 0.0, seeds.generator(seed)), ids)
    dropped = drop_tokens(ids, 0.5, seeds.generator(seed))
    assert torch.equal(dropped, drop_tokens(ids, 0.5, seeds.generator(seed)))
    for before, after in zip(ids.tolist(), dropped.tolist(), strict=True):
        end = after.index(words.end)
        assert after[0] == words.start and not any(after[end + 1 :])
        inner, rest = after[1:end], iter(before[1 : before.index(words.end)])
        assert all(token in rest for token in inner)  # what is left is in the old order


def test_dropout_has_its_share(tokenizer):
    words = Words(tokenizer, 48)
    ids = words(["the blue sand on a red star " * 3] * 400)
    before = int((ids > 0).sum()) - 800
    after = int((drop_tokens(ids, 0.2, seeds.generator(1)) > 0).sum()) - 800
    assert 1 - after / before == pytest.approx(0.2, abs=0.02)


def test_dropout_reaches_the_vectors(clip):
    plain = clip.texts(TEXTS)
    dropped = clip.texts(TEXTS, dropout=0.5, generator=seeds.generator(0))
    assert not np.allclose(plain[1], dropped[1], atol=1e-3)
    assert dropped[2] == pytest.approx(plain[2], abs=1e-5)  # nothing to drop
    with pytest.raises(UserError, match="needs a generator"):
        clip.texts(TEXTS, dropout=0.2)
    with pytest.raises(UserError, match=r"dropout must lie in \[0, 1\), got 1.0"):
        clip.texts(TEXTS, dropout=1.0, generator=seeds.generator(0))


def test_one_string_is_refused(clip):
    with pytest.raises(UserError, match="sequence of strings, got one string: 'red'"):
        clip.texts("red")


def test_pictures_of_any_size_become_squares(clip):
    large = pictures(1, 16)[0].repeat(2, 0).repeat(2, 1)
    wide = np.concatenate(
        [np.zeros((32, 3, 3), np.uint8), large, np.zeros((32, 3, 3), np.uint8)], 1
    )
    assert clip.images([wide]) == pytest.approx(clip.images([large]), abs=1e-6)
    assert clip.images([wide, pictures(1)[0]]).shape == (2, 16)
    with pytest.raises(UserError, match="a picture must be uint8"):
        clip.images([large.astype(float)])


def test_weights_of_another_tokenizer_are_refused(folder, tmp_path):
    other = TextTokenizer.train(["green grass on green grass"] * 9, 256)
    other.save(tmp_path / "text")
    (tmp_path / "clip").mkdir()
    for path in folder.iterdir():
        (tmp_path / "clip" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"was trained with text tokenizer .*text is [0-9a-f]{12};"):
        load_clip(tmp_path / "clip")


def test_a_clip_keeps_its_own_tokenizer_when_that_beside_it_is_another(folder, clip, tmp_path):
    """As in the world outside: a language model's text tokenizer changes, the CLIP's does not."""
    shutil.copytree(folder, tmp_path / "clip")
    shutil.copy(folder.parent / "text" / "tokenizer.json", tmp_path / "clip")
    TextTokenizer.train(["green grass on green grass"] * 9, 256).save(tmp_path / "text")
    moved = load_clip(tmp_path / "clip")
    assert np.array_equal(moved.texts(TEXTS), clip.texts(TEXTS))
    assert np.array_equal(moved.images(pictures(3)), clip.images(pictures(3)))
    assert moved.sha256 == clip.sha256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model:file", "no CLIP 'no-such-model': name 'scenes', a folder"),
        ("ViT-B-32", "no weights for ViT-B-32 at any path; nothing is downloaded"),
        ("ViT-B-32:nowhere.safetensors", "no weights for ViT-B-32 at nowhere.safetensors"),
        ("local-dir:nowhere", "cannot load CLIP local-dir:nowhere: .*not found"),
    ],
)
def test_names_without_weights(name, message):
    with pytest.raises(UserError, match=message) as error:
        load_clip(name)
    assert "\n" not in str(error.value)


def test_what_does_not_fit(tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "weights.safetensors"
    save_file({"token_embedding.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(UserError, match=r"cannot load CLIP ViT-B-32:.*; name other weights"):
        load_clip(f"ViT-B-32:{file}")


OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF, PLAIN = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("architecture", "program", "wanted"),
    [
        ("ViT-B-32", False, (*OPENAI, "bicubic", "shortest")),
        ("ViT-B-16-SigLIP", False, (*HALF, "bicubic", "squash")),
        ("MobileCLIP2-S0", False, (*PLAIN, "bilinear", "shortest")),
        ("ViT-L-14", True, (*OPENAI, "bicubic", "shortest")),
        ("ViT-L-14", False, "publishes several preprocessings for ViT-L-14; give local-dir:FOLDER"),
        ("ViT-S-32", False, ()),
    ],
)
def test_the_published_preprocessing_or_a_refusal(architecture, program, wanted):
    if isinstance(wanted, str):
        with pytest.raises(UserError, match=wanted):
            published_preprocessing(architecture, program)
    else:
        assert tuple(published_preprocessing(architecture, program).values()) == wanted


@pytest.mark.parametrize(
    ("architecture", "white"),
    [("MobileCLIP2-S0", (1.0,) * 3), ("ViT-B-16-SigLIP", (1.0,) * 3),
     ("ViT-B-32", tuple((1 - m) / s for m, s in zip(*OPENAI, strict=True)))],
)  # fmt: skip
def test_pictures_are_normalised_as_published(tmp_path, monkeypatch, architecture, white):
    """SigLIP's 0.5 makes 1 of white too, of black -1."""
    import open_clip
    from open_clip import factory

    small = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    monkeypatch.setitem(factory._MODEL_CONFIGS, architecture, small)
    words = open_clip.get_tokenizer("ViT-B-32")  # SigLIP's own would be fetched
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda _: words)
    path = tmp_path / "weights.pt"
    with seeds.torch_default(0, "small"):
        torch.save(open_clip.create_model(architecture, pretrained=None).state_dict(), path)
    clip = load_clip(f"{architecture}:{path}")
    seen = [clip.pixels(np.full((40, 40, 3), level, np.uint8))[:, 0, 0] for level in (255, 0)]
    assert seen[0].tolist() == pytest.approx(white, abs=1e-6)
    black = {"ViT-B-16-SigLIP": -1.0, "MobileCLIP2-S0": 0.0}.get(architecture)
    assert black is None or seen[1].tolist() == [black] * 3


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A folder in open_clip's own form: OpenAI's tokenizer, a small network, random weights."""
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("local")
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    text = {"width": 16, "heads": 2, "layers": 1}
    with seeds.torch_default(0, "local"):
        model = CLIP(8, vision, text)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder, model.eval()


def test_a_folder_in_open_clips_form(local):
    folder, model = local
    clip = load_clip(f"local-dir:{folder}")
    image = pictures(1, 32)[0]
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    x = ((torch.from_numpy(image).float() / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.encode_image(x), dim=-1)
    assert clip.images([image]) == pytest.approx(expected.numpy(), abs=1e-5)
    many = [image, pictures(1, 50)[0], pictures(1, 64)[0][:40]]  # any size, resized and cropped
    assert clip.images(many).shape == (3, 8) == (3, clip.width)
    long = clip.words(["word " * 200])
    assert int(long[0, -1]) == int(long.max())  # cut, the end token kept
    assert np.linalg.norm(clip.texts(["", "word " * 200]), axis=1) == pytest.approx(1)
