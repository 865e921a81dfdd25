"""A step of generation recorded once as a CUDA graph and replayed for every token.

With few rows a GPU needs less time for the kernels of a step than the processor to start them one
by one. A graph starts them together, but always at the same addresses and with the same shapes: so
here the slot that a step writes is a number on the device, and attention runs over the filled slots
rounded up to a multiple of `BUCKET`, of which a mask hides what a row does not hold. Weights, keys,
values and lengths are read where they lie. The logits are those of the same step by torch up to
rounding.

Axes: B rows, D width, H heads, K head size, S slots of a bucket, V logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cm3leon.engine.capture import Captured, capture, pool_of
from cm3leon.engine.prepared import parts
from cm3leon.engine.torch_step import TorchStep
from cm3leon.model.kv_cache import Cache, attend_newest
from cm3leon.model.transformer import Transformer

BUCKET = 128  # slots
LEAST = 16  # steps that a bucket has left to be worth recording, which costs about as much as four
TOLERANCE = 0.05  # of the largest logit: more is no rounding, not even in bfloat16
_right: dict[tuple, bool] = {}


class Bucket:
    """The first slots of a cache, for the network of a step: no shape depends on how many are full.

    `at` int64 [1]: the slot to write, where all rows end; it must lie in the bucket.
    """

    def __init__(self, cache: Cache, at: Tensor, slots: int):
        self.kv, self.at, self.slots = cache.kv, at, slots
        slots_S = torch.arange(slots, device=at.device)
        hidden_BS = (slots_S < (at - cache.lengths_B)[:, None]) | (slots_S > at)
        mask_BS = torch.zeros(hidden_BS.shape, dtype=cache.kv.dtype, device=at.device)
        self.mask_B1S = mask_BS.masked_fill_(hidden_BS, -torch.inf)[:, None]

    def extend(self, layer: int, qkv_BM: Tensor) -> Tensor:
        """As `Cache.extend`: store one token a row and attend, [B, 3 D] -> [B, D]."""
        kv_2BHLK = self.kv[layer]
        _, rows, heads, _, size = kv_2BHLK.shape
        qkv_B3HK = qkv_BM.view(rows, 3, heads, size)
        kv_2BHLK.index_copy_(3, self.at, qkv_B3HK[:, 1:].transpose(0, 1).unsqueeze(3))
        return attend_newest(qkv_B3HK[:, 0], kv_2BHLK[:, :, :, : self.slots], self.mask_B1S)


def bucket(longest: int, capacity: int) -> int:
    """Slots of the bucket that holds slot `longest`, the next to be written."""
    return min(capacity, (longest // BUCKET + 1) * BUCKET)


class Graphed:
    """The graphs of one cache, one a bucket, each recorded when it is first worth it.

    torch's step is what is recorded, made anew when weights were replaced since; weights that were
    changed in place are seen. It is taken as it is near the end of a bucket, where recording fails,
    and where the first graph of such a step gave other logits.
    """

    def __init__(self, model: Transformer, rows: int, start: int, end: int | None):
        self.by_torch = lambda: TorchStep(model, rows, start, end)
        kind = type(model.blocks[0].up.weight)
        self.key = (model.config, kind, rows, len(model.table(start, end)))
        # The dictionaries that own the weights: to ask the modules takes as long as a small step.
        self.owners = [one._parameters for one in model.modules() if one._parameters]
        self.stamp: tuple | None = None
        self.lost = False
        self.name = "torch"  # what took the last step: this, or "graph"

    def __call__(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """Write the tokens' keys and values behind what the rows hold, attend; logits [B, V]."""
        stamp = self._stamp(x_BD)
        if stamp != self.stamp:
            self._begin(x_BD, stamp)
        graph = self._graph(x_BD, cache)
        self.name = "torch" if graph is None else "graph"
        if graph is None:
            return self.advance(x_BD, cache)
        self.x_BD.copy_(x_BD)
        self.at.fill_(cache.longest)
        graph.replay()
        return graph.made.clone()  # the next replay writes there

    def _stamp(self, x_BD: Tensor) -> tuple:
        """Where the weights lie."""
        held = (one for owner in self.owners for one in owner.values() if one is not None)
        return (x_BD.dtype, *(part.data_ptr() for one in held for part in parts(one)))

    def _begin(self, x_BD: Tensor, stamp: tuple) -> None:
        """Forget all graphs: they read weights that are no longer there."""
        self.stamp, self.advance = stamp, self.by_torch()
        self.x_BD = torch.empty_like(x_BD)
        self.at = torch.zeros(1, dtype=torch.int64, device=x_BD.device)
        self.graphs: dict[int, Captured] = {}
        self.pool = None

    def _graph(self, x_BD: Tensor, cache: Cache) -> Captured | None:
        """The graph of the bucket that the next token is in; None: take the step by torch."""
        slots, key = bucket(cache.longest, cache.capacity), (*self.key, x_BD.dtype, x_BD.device)
        if slots in self.graphs or self.lost or _right.get(key) is False:
            return self.graphs.get(slots)
        if slots - cache.longest < LEAST:
            return None
        try:
            graph = self._record(x_BD, cache, slots)
        except RuntimeError:  # what cannot be recorded, or no memory for it
            self.lost = True
            return None
        if key not in _right:
            _right[key] = self._agrees(graph, x_BD, cache)
        if not _right[key]:
            return None
        self.graphs[slots] = graph
        return graph

    def _agrees(self, graph: Captured, x_BD: Tensor, cache: Cache) -> bool:
        """Whether a graph gives torch's logits. A step may be repeated: it writes the same numbers
        again.
        """
        wanted_BV = self.advance(x_BD.clone(), cache).float()
        graph.replay()
        off = (graph.made.float() - wanted_BV).abs().max()
        return bool(off <= TOLERANCE * wanted_BV.abs().max())

    def _record(self, x_BD: Tensor, cache: Cache, slots: int) -> Captured:
        if self.pool is None:
            self.pool = pool_of(x_BD.device)
        self.x_BD.copy_(x_BD)
        self.at.fill_(cache.longest)
        # The recording keeps nothing of the cache alive but its memory's addresses.
        return capture(
            lambda: self.advance(self.x_BD, Bucket(cache, self.at, slots)), x_BD.device, self.pool
        )
