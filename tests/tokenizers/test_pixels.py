"""Bytes to floats and back: every byte comes back, and what lies between goes to the nearest."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.tokenizers.pixels import check_codes, check_images, to_bytes, to_unit


@given(st.integers(0, 255), st.floats(-0.499, 0.499))
def test_the_nearest_byte(byte, rest):
    value = torch.full((1, 3, 1, 1), (byte + rest) / 127.5 - 1, dtype=torch.float64)
    assert to_bytes(value).tolist() == [[[[byte] * 3]]]


def test_channels_move_and_values_are_cut():
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    unit = to_unit(images)
    assert unit.shape == (2, 3, 4, 5) and unit.dtype == torch.float32
    assert torch.equal(unit[1, 2], torch.from_numpy(images[1, :, :, 2]) / 127.5 - 1)
    assert (to_bytes(unit) == images).all() and (to_bytes(unit * 1000) % 255 == 0).all()


def test_what_is_no_picture_and_no_code():
    with pytest.raises(UserError, match=r"uint8 \[B,H,W,3\], got float32 \[2, 2\]"):
        check_images(np.zeros((2, 2), np.float32))
    check_images(torch.zeros(0, 4, 4, 3, dtype=torch.uint8))
    assert check_codes(np.array([[3, 0, 1, 2]], np.uint16), 4).dtype == torch.int64
    with pytest.raises(UserError, match=r"0\.\.3, got 0\.\.4"):
        check_codes(torch.arange(4).view(1, 4) + torch.tensor([0, 0, 0, 1]), 4)
