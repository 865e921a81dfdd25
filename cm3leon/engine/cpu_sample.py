"""A token drawn from logits on a CPU, as one call of draw.c.

Axes: B rows, V logits.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from cm3leon.engine.native import library

UNCONTRACTED = "-ffp-contract=off"  # each product and each sum is rounded, as by torch


@lru_cache
def compiled() -> ctypes.CDLL | None:
    """draw.c with the types of its functions; None where it cannot be had."""
    found = library("draw", UNCONTRACTED)
    if found is None:
        return None
    pointer, count, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    found.draw_bytes.restype, found.draw_bytes.argtypes = count, [count, ctypes.c_int]
    found.draw.restype = None
    found.draw.argtypes = (
        [pointer] * 4 + [count] * 2 + [ctypes.c_float, count, real] + [ctypes.c_int]
    )
    return found


def draw(
    logits_BV: Tensor,
    uniforms_B: Tensor,
    temperature: float,
    top_k: int | None = None,
    top_p: float = 1.0,
    **others: float,
) -> Tensor | None:
    """One id a row, int64 [B], by temperature, top-k, top-p and inverse CDF; None where another
    must draw: at other options, at temperature 0, for all but float32 rows on a CPU, without a
    compiler, and for rows that cannot be drawn from.
    """
    known = (
        not others
        and temperature > 0
        and logits_BV.device.type == uniforms_B.device.type == "cpu"
        and logits_BV.dtype == torch.float32
        and logits_BV.ndim == 2
        and uniforms_B.shape == logits_BV.shape[:1]
        and (top_k or 1) <= logits_BV.shape[1]
    )
    if not known or (code := compiled()) is None:
        return None
    logits_BV, (rows, size) = logits_BV.contiguous(), logits_BV.shape
    uniforms_B, threads = uniforms_B.to(torch.float64).contiguous(), torch.get_num_threads()
    work = torch.empty(code.draw_bytes(size, threads) // 8 + 1, dtype=torch.float64)
    ids_B = torch.empty(rows, dtype=torch.int64)
    code.draw(
        logits_BV.data_ptr(),
        uniforms_B.data_ptr(),
        ids_B.data_ptr(),
        work.data_ptr(),
        rows,
        size,
        temperature,
        top_k or 0,
        top_p,
        threads,
    )
    return None if (ids_B < 0).any() else ids_B
