"""decode.choose as one call of draw.c, for logits on a CPU; by torch for everything else.

Axes: B rows, V logits.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from cm3leon.decoding import sampling
from cm3leon.decoding.config import DecodeConfig
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


def choose(logits_BV: Tensor, uniforms_B: Tensor, config: DecodeConfig) -> Tensor:
    """One id a row, int64 [B], as `sampling.choose` draws it; it also says what is wrong with a row
    that cannot be drawn from.
    """
    if not possible(logits_BV, uniforms_B, config):
        return sampling.choose(logits_BV, uniforms_B, config)
    code, threads = compiled(), torch.get_num_threads()
    logits_BV, (rows, size) = logits_BV.contiguous(), logits_BV.shape
    uniforms_B = uniforms_B.to(torch.float64).contiguous()
    work = torch.empty(code.draw_bytes(size, threads) // 8 + 1, dtype=torch.float64)
    ids_B = torch.empty(rows, dtype=torch.int64)
    code.draw(
        logits_BV.data_ptr(),
        uniforms_B.data_ptr(),
        ids_B.data_ptr(),
        work.data_ptr(),
        rows,
        size,
        config.temperature,
        config.top_k or 0,
        config.top_p,
        threads,
    )
    if (ids_B < 0).any():
        return sampling.choose(logits_BV, uniforms_B, config)
    return ids_B


def possible(logits_BV: Tensor, uniforms_B: Tensor, config: DecodeConfig) -> bool:
    """Whether draw.c can draw: float32 rows on a CPU, a temperature above 0, a compiler."""
    return (
        logits_BV.device.type == uniforms_B.device.type == "cpu"
        and logits_BV.dtype == torch.float32
        and logits_BV.ndim == 2
        and uniforms_B.shape == logits_BV.shape[:1]
        and config.temperature > 0
        and (config.top_k or 1) <= logits_BV.shape[1]
        and compiled() is not None
    )
