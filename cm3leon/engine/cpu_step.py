"""A step of generation as one call of step.c.

On a CPU, in float32 or, where the processor multiplies it, in bfloat16, from copies of the matrices
in the order in which it reads them. The logits are float32, those of the same step by torch up to
rounding: between products nothing is rounded to bfloat16 but what is multiplied or kept.

Axes: B rows, D width, V logits.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from cm3leon.engine.native import library
from cm3leon.engine.prepared import kept, parts
from cm3leon.engine.torch_step import MATRICES, MOST_BYTES
from cm3leon.model.kv_cache import Cache
from cm3leon.model.transformer import Transformer

FLAGS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}  # of step.c, by type of the weights
CONTRACTED = "-ffp-contract=fast"  # a product and a sum are rounded once
MOST_SIZE = 512  # of a head, as in step.c


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


def why_not(model: Transformer) -> str | None:
    """Why step.c cannot take this model's steps, None where it can: its type and shape, a CPU, no
    weights too large to be copied, a compiler.
    """
    weights = [part for weight in model.parameters() for part in parts(weight)]
    config, dtype = model.config, weights[0].dtype
    if any(one.device.type != "cpu" for one in weights):
        return "the weights are not on a CPU"
    if any(one.dtype != dtype for one in weights) or dtype not in FLAGS:
        return "the weights are neither float32 nor bfloat16"
    if config.width % 2 or config.width // config.heads > MOST_SIZE:  # bfloat16 goes in pairs
        return f"width {config.width} of {config.heads} heads is odd, or heads exceed {MOST_SIZE}"
    if sum(one.nbytes for one in weights) > MOST_BYTES:
        return f"the weights take more than {MOST_BYTES / 2**30:g} GiB, of which a copy is made"
    if compiled(dtype) is None:
        return f"step.c is not compiled for {dtype} here"
    return None


class Fused:
    """The packed matrices of a model, and the call."""

    name = "c"

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
