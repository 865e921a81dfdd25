"""The three resizes of Inception features against the libraries' own, to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.evaluation.features.resize import RESIZES, SIDE, bilinear, clean, tensorflow

SIZES = [(64, 64), (300, 301), (299, 299), (17, 400), (256, 256)]


def pictures(height: int, width: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (n, height, width, 3), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_is_pytorch_fids(size):
    images = pictures(*size)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
    wanted = torch.nn.functional.interpolate(
        x, size=(299, 299), mode="bilinear", align_corners=False
    )
    assert (bilinear(images) - (2 * wanted - 1)).abs().max() <= 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_clean_is_clean_fids(size):
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    images = pictures(*size)
    wanted = np.stack([resize(image) for image in images]).transpose(0, 3, 1, 2)
    assert np.abs(clean(images).numpy() - (wanted - 128) / 128).max() <= 1e-6


@pytest.mark.parametrize("size", [(40, 64), (350, 310), (299, 299)])
def test_tensorflow_is_its_formula(size):
    """Output (i, j) is read at (i H / 299, j W / 299), between the four pixels around it."""
    images = pictures(*size, 1)
    height, width = size
    found = tensorflow(images)[0].numpy() * 128 + 128
    for i, j in ((0, 0), (5, 298), (298, 298), (150, 77)):
        y, x = i * height / SIDE, j * width / SIDE
        rows = [min(int(y), height - 1), min(int(y) + 1, height - 1)]
        columns = [min(int(x), width - 1), min(int(x) + 1, width - 1)]
        wanted = sum(
            weight_y * weight_x * images[0, row, column].astype(float)
            for row, weight_y in zip(rows, (1 - y % 1, y % 1), strict=True)
            for column, weight_x in zip(columns, (1 - x % 1, x % 1), strict=True)
        )
        assert np.abs(found[:, i, j] - wanted).max() < 2e-3  # float32 of places up to 350


@settings(max_examples=15)
@given(st.sampled_from(sorted(RESIZES)), st.integers(0, 255), st.integers(2, 90))
def test_a_plain_picture_stays_plain(name, value, size):
    images = np.full((1, size, size + 3, 3), value, np.uint8)
    x = RESIZES[name](images)
    assert x.shape == (1, 3, SIDE, SIDE) and x.dtype == torch.float32
    wanted = value / 127.5 - 1 if name == "bilinear" else (value - 128) / 128
    assert (x - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("name", RESIZES)
def test_it_reads_only_and_a_batch_cannot_be_seen(name):
    images = pictures(30, 20, 3)
    expected = RESIZES[name](images.copy())
    images.setflags(write=False)
    assert torch.equal(RESIZES[name](images), expected)
    assert torch.equal(torch.cat([RESIZES[name](images[k : k + 1]) for k in range(3)]), expected)
