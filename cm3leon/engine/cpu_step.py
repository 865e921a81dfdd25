"""A step of generation as one call of step.c, where that is faster than torch.

On a CPU, in float32 or, where the processor multiplies it, in bfloat16, from copies of the matrices
in the order in which it reads them. The logits are float32, those of the same step by torch up to
rounding: between products nothing is rounded to bfloat16 but what is multiplied or kept.

Axes: B rows, D width, V logits.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cm3leon.engine.native import library
from cm3leon.engine.products import kept, parts
from cm3leon.model.kv_cache import Cache

if TYPE_CHECKING:
    from cm3leon.model.transformer import Transformer

Advance = Callable[[Tensor, Cache], Tensor]  # embedded tokens [B, D], used up -> logits [B, V]
MATRICES = ("qkv", "out", "up", "down")  # of a block, in the order of step.c
FLAGS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}  # of step.c, by type of the weights
CONTRACTED = "-ffp-contract=fast"  # a product and a sum are rounded once
MOST_SIZE = 512  # of a head, as in step.c
MOST_BYTES = 2 << 30  # of weights: what takes more is not copied
SLOTS = 64  # of the cache in which the two ways are timed
REPEATS = 3
_faster: dict[tuple, bool] = {}


@lru_cache
def compiled(dtype: torch.dtype = torch.float32) -> ctypes.CDLL | None:
    """step.c for a type of weights, its functions declared; None where it cannot be had."""
    found = library("step", CONTRACTED, *FLAGS[dtype]) if dtype in FLAGS else None
    if found is None:
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("packed_size", count, [count] * 2),
        ("pack", None, [pointer] * 2 + [count] * 2),
        ("work_size", count, [count] * 3 + [ctypes.c_int]),
        ("step", None, [pointer] * 10 + [count] * 7 + [ctypes.c_int]),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def fastest_step(
    model: Transformer,
    rows: int,
    start: int,
    end: int | None,
    by_torch: Callable[[], Advance],
) -> Advance:
    """The faster of step.c and what `by_torch` makes, timed once for a shape, rows and threads."""
    if not possible(model):
        return by_torch()
    config, table_VD = model.config, model.table(start, end)
    rows = 1 << (rows - 1).bit_length()  # one measurement for numbers of rows that are near
    shape = (config.layers, config.width, config.heads, len(table_VD))
    key = (*shape, table_VD.dtype, rows, torch.get_num_threads())
    if _faster.get(key) is False:  # nothing is packed for a way that lost
        return by_torch()
    fused = Fused(model, start, end)
    if key not in _faster:
        _faster[key] = timed(model, rows, fused) < timed(model, rows, by_torch())
    return fused if _faster[key] else by_torch()


def possible(model: Transformer) -> bool:
    """Whether step.c can take this model's steps: its type and shape, a CPU, no weights too large
    to be copied, a compiler.
    """
    weights = [part for weight in model.parameters() for part in parts(weight)]
    config = model.config
    dtype = weights[0].dtype
    return (
        all(one.device.type == "cpu" and one.dtype == dtype for one in weights)
        and config.width % 2 == 0  # bfloat16 is multiplied in pairs
        and config.width // config.heads <= MOST_SIZE
        and sum(one.nbytes for one in weights) <= MOST_BYTES
        and compiled(dtype) is not None
    )


def timed(model: Transformer, rows: int, advance: Advance) -> float:
    """Median seconds of a step on a cache that is nearly full."""
    cache = model.cache(rows, min(SLOTS, model.config.context))
    cache.start(torch.full((rows,), cache.capacity - 1), cache.capacity - 1, even=True)
    seconds = []
    for _ in range(REPEATS + 1):
        x_BD = torch.ones(rows, model.config.width, dtype=cache.kv.dtype)
        started = time.perf_counter()
        advance(x_BD, cache)
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


class Fused:
    """The packed matrices of a model, and the call."""

    def __init__(self, model: Transformer, start: int, end: int | None):
        self.config = model.config
        table_VD = model.table(start, end)
        self.outputs = len(table_VD)
        lists = [[getattr(block, name).weight for block in model.blocks] for name in MATRICES]
        self.packed = kept(model, "packed", lambda: [[*map(packed, few)] for few in lists])
        self.head = kept(model, f"packed head {start} {end}", lambda: packed(table_VD))
        self.tables = [
            (ctypes.c_void_p * len(few))(*[one.data_ptr() for one in few]) for few in self.packed
        ]

    def __call__(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """Write the tokens' keys and values behind what the rows hold, attend; logits [B, V]."""
        code, config, threads = compiled(cache.kv.dtype), self.config, torch.get_num_threads()
        x_BD = x_BD.float()
        rows, capacity = cache.batch, cache.capacity
        logits_BV = torch.empty(rows, self.outputs)
        work = torch.empty(code.work_size(rows, config.width, capacity, threads))
        first_B = None if cache.even else cache.longest - cache.lengths_B
        code.step(
            x_BD.data_ptr(),
            cache.kv.data_ptr(),
            None if first_B is None else first_B.data_ptr(),
            *self.tables,
            self.head.data_ptr(),
            logits_BV.data_ptr(),
            work.data_ptr(),
            config.layers,
            rows,
            config.width,
            config.heads,
            capacity,
            self.outputs,
            cache.longest,
            threads,
        )
        return logits_BV


def packed(weight_NK: Tensor) -> Tensor:
    """A copy in the order of step.c."""
    code, weight_NK = compiled(weight_NK.dtype), weight_NK.detach().contiguous()
    copy = torch.empty(code.packed_size(*weight_NK.shape), dtype=weight_NK.dtype)
    code.pack(weight_NK.data_ptr(), copy.data_ptr(), *weight_NK.shape)
    return copy
