"""What adapters share: places and their options, digests of folders, pixels, single samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.systems.adapter import (
    Place,
    folder_digest,
    loaded,
    needed,
    one_by_one,
    pixels,
)
from cm3leon.errors import UserError
from cm3leon.seeds import generator


def test_a_place_and_its_options(tmp_path):
    (tmp_path / "sd").mkdir()
    place = Place.parse(
        f"{tmp_path}/sd?steps=20&scale=5.5&negative_prompt=a%20b&x=null&dtype=float16"
    )
    assert place.call == {"steps": 20, "scale": 5.5, "negative_prompt": "a b", "x": None}
    assert (place.dtype, place.device) == ("float16", "auto")
    assert place.name == "sd+steps20+scale5.5+negative_prompta-b+xNone+float16"
    assert Place.parse(str(tmp_path / "sd")) == Place(tmp_path / "sd", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "no folder nowhere; download the model first"),
        ("user/model", "nothing is fetched from a hub"),
        (".?steps", "options 'steps' must be key=value"),
        (".?dtype=int8", "dtype must be one of float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_places_that_are_none(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        Place.parse(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_library_is_named():
    with pytest.raises(UserError, match="no_such_library is not installed; pip install no_such"):
        needed("no_such_library")
    assert needed("json").dumps(1) == "1"


def test_what_a_library_says_is_one_line(tmp_path):
    def fail():
        raise RuntimeError("torn\n  at byte 3")

    with pytest.raises(UserError, match=r"cannot be loaded: torn at byte 3$"):
        loaded(fail, tmp_path)
    assert loaded(lambda: 7, tmp_path) == 7


def test_a_digest_is_of_names_and_contents(tmp_path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "a.safetensors").write_bytes(b"1")
    first = folder_digest(folder)
    for name in ("README.md", "sample.png", ".cache"):
        (folder / name).write_bytes(b"x")
    assert folder_digest(folder) == first
    (folder / "unet" / "a.safetensors").write_bytes(b"2")
    second = folder_digest(folder)
    (folder / "unet" / "a.safetensors").rename(folder / "unet" / "b.safetensors")
    assert len({first, second, folder_digest(folder)}) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        folder_digest(tmp_path / "empty")


@given(st.integers(0, 255), st.floats(-0.49, 0.49))
def test_pixels_are_rounded_and_kept(level, off):
    image = np.full((2, 3, 3), level, np.uint8)
    assert (pixels(image, "x") == image).all()
    floats = np.clip((image + off) / 255, 0, 1).astype(np.float32)
    assert (pixels(floats, "x") == image).all()


BAD_PIXELS = {
    "drew an array of shape [3, 2, 2], not [H, W, 3]": np.zeros((3, 2, 2)),
    "drew an array of shape [2, 2], not": np.zeros((2, 2), np.uint8),
    "drew an array of shape [0, 2, 3], not": np.zeros((0, 2, 3), np.uint8),
    "drew int64; pictures are uint8": np.zeros((2, 2, 3), np.int64),
    "drew NaN or infinite pixels": np.full((2, 2, 3), np.nan),
    "drew NaN or infinite pixels; with": np.full((2, 2, 3), np.inf, np.float32),
    "drew pixels of 0 to 255; floats must lie in 0..1": np.eye(2)[:, :, None] * np.full(3, 255.0),
}


@pytest.mark.parametrize("message", BAD_PIXELS)
def test_bad_pixels_get_one_line(message):
    with pytest.raises(UserError) as caught:
        pixels(BAD_PIXELS[message], "x")
    assert str(caught.value).startswith("x ") and message in str(caught.value)


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2**63 - 1)), max_size=5))
def test_single_samples(rows):
    def draw_one(prompt, seed):
        return generator(seed, prompt).integers(0, 256, (2, 3, 3), np.uint8)

    drawn = one_by_one(draw_one, "x", [row[0] for row in rows], [row[1] for row in rows])
    assert len(drawn) == len(rows) and drawn.dtype == np.uint8
    assert all((drawn[k] == draw_one(*row)).all() for k, row in enumerate(rows))


def test_what_a_library_raises_while_it_draws_is_one_line():
    def fail(prompt, seed):
        raise TypeError("'<=' not supported between instances\n of 'str' and 'int'")

    with pytest.raises(UserError, match=r"^x cannot draw: '<=' not supported between instances of"):
        one_by_one(fail, "x", ["a"], [0])


def test_sizes_that_differ():
    with pytest.raises(UserError, match="x drew pictures of 3x2 and 3x4 pixels"):
        one_by_one(lambda _, seed: np.zeros((seed, 3, 3), np.uint8), "x", ["a", "b"], [2, 4])
    with pytest.raises(UserError, match="got 1 and 2"):
        one_by_one(lambda *_: None, "x", ["a"], [2, 4])
