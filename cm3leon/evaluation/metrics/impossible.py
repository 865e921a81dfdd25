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
from cm3leon.evaluation.sides import Sides
from cm3leon.evaluation.statistics import paired
from cm3leon.world.scenes import scene

NETWORK = None
PICTURES = 4_000  # of `stock`, `train`
COMMON = 150  # times that a code must occur in them


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
    return never_in(vq.encode(images).cpu().numpy(), vq.config.codebook_size, vq.config.grid)


def measured(sides: Sides) -> dict[str, tuple]:
    """The share of impossible drawings; nothing where pictures have no codes of this world."""
    if sides.truth is None or sides.truth.impossible_N is None:
        return {}
    return {"impossible": paired.mean(sides.truth.impossible_N)}
