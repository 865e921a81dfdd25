"""What a tokenizer takes and gives: uint8 pictures <-> floats in [-1, 1], and codes as checked.

A byte b is b / 127.5 - 1. On the way back values are cut to [-1, 1] and (x + 1) * 127.5 is rounded
to the nearest byte (of two equally near ones the even one): every byte comes back as itself.

Axes: B batch, H height, W width, N codes of a picture.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cm3leon.errors import UserError


def check_images(images: np.ndarray | Tensor) -> None:
    """Raise UserError unless these are pictures, uint8 [B,H,W,3]."""
    name = str(images.dtype).removeprefix("torch.")
    if name != "uint8" or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            f"pictures must be uint8 [B,H,W,3], got {name} {list(images.shape)}; "
            "convert them to RGB bytes"
        )


def to_unit(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [B,H,W,3] -> float32 [B,3,H,W] in [-1,1]; UserError for another type or shape."""
    check_images(images)
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images, order="C"))  # a copy: it may be read-only
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_bytes(pictures: Tensor) -> np.ndarray:
    """float [B,3,H,W] in [-1,1] -> uint8 [B,H,W,3], clipped."""
    scaled = pictures.float().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def check_codes(codes: np.ndarray | Tensor, size: int) -> Tensor:
    """The codes as int64 [B,N]; UserError unless whole, in 0..size-1, and N a square."""
    name = str(codes.dtype).removeprefix("torch.")
    if "int" not in name or codes.ndim != 2:
        raise UserError(f"codes must be integers [B,N], got {name} {list(codes.shape)}")
    if isinstance(codes, np.ndarray):
        codes = codes.astype(np.int64)  # a copy: it may be read-only
    codes = torch.as_tensor(codes).long()
    count = codes.shape[1]
    if not count or math.isqrt(count) ** 2 != count:
        raise UserError(f"codes of a picture must be a square number, got {count}")
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if low < 0 or high >= size:
        raise UserError(
            f"codes must lie in 0..{size - 1}, got {low}..{high}; use the tokenizer that made them"
        )
    return codes
