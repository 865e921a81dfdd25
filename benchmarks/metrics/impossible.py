"""Impossible drawings: those with a code in a column where no picture of `stock`, `train` has it.

An object stands wholly inside a picture, so codes of its left side are never in the last column,
and the pattern of a place repeats with every second one. A network that has lost count of the
column cuts objects off or wraps them into the next row. Only codes that are common in training
count, for of a rare one nobody knows where it may stand: so the share is a lower bound. With the
tokenizer of the first edition 0.03 % of 4,000 real pictures of `coco`, `test` are counted, 12.6 %
of what the `scenes-s` of then draws for the first 500, and 17 % of real pictures moved by a column.

Shapes: N pictures, K codes of each, row by row; C codes of the codebook, W columns.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cm3leon.errors import UserError
from cm3leon.scenes import scene

PICTURES = 4_000  # of `stock`, `train`
COMMON = 150  # times that a code must occur in them
BATCH = 100  # pictures encoded at once


def impossible(codes_NK: np.ndarray, never_CW: np.ndarray) -> np.ndarray:
    """Bool [N]: pictures that hold a code in a column where it is never (`never_in`)."""
    columns = never_CW.shape[1]
    if codes_NK.ndim != 2 or codes_NK.shape[1] % columns:
        raise UserError(
            f"codes of pictures {columns} columns wide must have shape [N, K], K a multiple of "
            f"{columns}, got {list(codes_NK.shape)}"
        )
    return never_CW[codes_NK, np.arange(codes_NK.shape[1]) % columns].any(1)


def never_in(
    codes_NK: np.ndarray, codebook_size: int, columns: int, common: int = COMMON
) -> np.ndarray:
    """Bool [C, W]: codes that occur `common` times in these pictures, but never in that column."""
    counts_CW = np.zeros((codebook_size, columns), np.int64)
    column_K = np.arange(codes_NK.shape[1]) % columns
    np.add.at(counts_CW, (codes_NK, np.broadcast_to(column_K, codes_NK.shape)), 1)
    return (counts_CW == 0) & (counts_CW.sum(1, keepdims=True) >= common)


@lru_cache(maxsize=2)
def columns_of(vq, pictures: int = PICTURES) -> np.ndarray:
    """`never_in` of the first pictures of `stock`, `train` through an image tokenizer."""
    size = vq.config.resolution
    images = np.stack([scene("stock", "train", at, size).image for at in range(pictures)])
    return never_in(encoded(images, vq), vq.config.codebook_size, vq.config.grid)


def encoded(images_NSS3: np.ndarray, vq) -> np.ndarray:
    """Codes int64 [N, K] of uint8 pictures; where a code depends on its own cell's pixels alone,
    cells that occur again, nine of ten in this world, are encoded once.
    """
    if vq.config.reach != "cell":
        return _encode(images_NSS3, vq).reshape(len(images_NSS3), -1)
    grid, side = vq.config.grid, vq.config.stride
    cells = _cells(images_NSS3, side)
    _, first, place = np.unique(
        cells.view(f"V{cells.shape[1]}").ravel(), return_index=True, return_inverse=True
    )
    sheets = -(-len(first) // grid**2)
    padded = np.resize(first, sheets * grid**2)
    codes = _encode(_pictures(cells[padded], grid, side), vq).ravel()
    return codes[place].reshape(len(images_NSS3), grid**2)


def _cells(images_NSS3: np.ndarray, side: int) -> np.ndarray:
    """Cells of pictures, row by row: uint8 [N * K, side * side * 3]."""
    count, size = images_NSS3.shape[:2]
    cells = images_NSS3.reshape(count, size // side, side, size // side, side, 3).swapaxes(2, 3)
    return np.ascontiguousarray(cells).reshape(-1, side * side * 3)


def _pictures(cells: np.ndarray, grid: int, side: int) -> np.ndarray:
    """Pictures of such cells, uint8 [N, S, S, 3]."""
    cells = cells.reshape(-1, grid, grid, side, side, 3).swapaxes(2, 3)
    return cells.reshape(-1, grid * side, grid * side, 3)


def _encode(images: np.ndarray, vq) -> np.ndarray:
    parts = [vq.encode(images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    return np.concatenate([part.cpu().numpy() for part in parts])
