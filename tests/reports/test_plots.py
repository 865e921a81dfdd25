"""Figures: same input, same bytes; nothing overlaps, nothing is lost; bad input gets one line."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from cm3leon.reports.plots import CELL, GAP, LINES, _font, _wrap, fid_scale_plot, sample_grid


def record(**changes) -> dict:
    extra = {
        "floor": {"value": 0.62, "low": 0.58, "high": 0.66},
        "rfid": {"value": 3.21, "low": None, "high": None},
        "ceiling": 812.4,
    }
    return {
        "system": {"name": "scenes-s", "config": {}},
        "protocol": {"features": "scenes"},
        "unit": "FID",
        "better": "lower",
        "n": 1000,
        "value": 12.3,
        "interval": {"low": 11.0, "high": 14.0, "level": 0.95, "method": "x"},
        "extra": extra,
        **changes,
    }


def pictures(n: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_scale_is_written_twice_alike_and_labelled(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    first = [path.read_bytes() for path in fid_scale_plot(record(), tmp_path)]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    assert [path.read_bytes() for path in fid_scale_plot(record(), tmp_path)] == first
    assert sorted(os.listdir(tmp_path)) == ["fid_scale.png", "fid_scale.svg"]
    for text in (b"scenes-s", b"12.30  [11.00, 14.00]", b"812.40", b"log scale"):
        assert text in first[0]  # matplotlib keeps every text as a comment beside its outline
    with Image.open(tmp_path / "fid_scale.png") as image:
        assert image.width == 1024 and np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {}},
        {"extra": {}, "interval": None},
        {"extra": {"floor": {"value": 0.0, "low": 0.0, "high": 1e-9}, "ceiling": 1e6}},
        {"value": 0.0, "interval": None, "extra": {}},
    ],
)
def test_scale_of_strange_records(tmp_path, changes):
    assert all(path.stat().st_size > 1000 for path in fid_scale_plot(record(**changes), tmp_path))


def test_grid_holds_every_picture_at_its_place(tmp_path):
    images = np.stack([np.full((64, 64, 3), 20 + 30 * index, np.uint8) for index in range(7)])
    path = sample_grid(images, ["a red star"] * 7, tmp_path / "grid.png", columns=3)
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("L"))
    cell = 64 * -(-CELL // 64)
    assert sheet.shape[1] == GAP + 3 * (cell + GAP)
    flat = sheet[:, GAP : GAP + cell]
    tops = [int(np.flatnonzero((flat == 20 + 90 * row).all(axis=1))[0]) for row in range(3)]
    for index in range(7):
        top, left = tops[index // 3], GAP + index % 3 * (cell + GAP)
        assert (sheet[top : top + cell, left : left + cell] == 20 + 30 * index).all()
        assert (sheet[top : top + cell, left + cell : left + cell + GAP] == 255).all()
        assert sheet[top + cell : top + cell + 20, left : left + cell].min() < 100  # the caption
    assert (sheet[tops[2] : tops[2] + cell, GAP + cell + GAP :] == 255).all()  # no eighth picture


def test_grid_is_deterministic_and_large_pictures_stay(tmp_path):
    paths = [sample_grid(pictures(2, 256), ["x", "y"], tmp_path / name) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as sheet:
        assert sheet.width == GAP + 2 * (256 + GAP)


def test_captions_are_wrapped_within_their_picture():
    font = _font()
    for text in (
        "a large red star on the sand " * 9,
        "x" * 300,
        "",
        "one\ntwo\x1b[0m",
        "日本語のキャプション" * 9,
    ):
        lines = _wrap(text, font, 192)
        assert 1 <= len(lines) <= LINES
        assert all(font.getlength(line) <= 192 and line.isprintable() for line in lines)
    words = "a small blue cross to the left of a large dotted yellow circle"
    assert " ".join(_wrap(words, font, 192)) == words
    assert _wrap("word " * 99, font, 192)[-1].endswith("…")


@pytest.mark.parametrize(
    "images, captions, columns, message",
    [
        (pictures(2).astype(float), ["a", "b"], 2, "must be uint8"),
        (pictures(2)[0], ["a"], 2, "must be uint8"),
        (pictures(0), [], 2, "must be uint8"),
        (pictures(2), ["a"], 2, "got 1 captions, 2 pictures"),
        (pictures(2), ["a", "b"], 0, "0 columns"),
    ],
)
def test_bad_grids(tmp_path, images, captions, columns, message):
    with pytest.raises(ValueError, match=message) as caught:
        sample_grid(images, captions, tmp_path / "grid.png", columns)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_caption_without_spaces_is_cut_without_measuring_every_letter_twice():
    """2,000 letters took 35 s: every cut measured every rest. Four lines are all that is shown."""

    class Font:
        measured = 0

        def getlength(self, text):
            Font.measured += 1
            return 10 * len(text)

    lines = _wrap("x" * 4000, Font(), 105)
    assert lines == ["x" * 10, "x" * 10, "x" * 10, "x" * 9 + "…"]
    assert Font.measured < 200
    assert _wrap("abc def", Font(), 40) == ["abc", "def"]
    assert _wrap("abcdefgh", Font(), 40) == ["abcd", "efgh"]
    assert _wrap("雪", Font(), 5) == ["雪"]  # wider than the picture
