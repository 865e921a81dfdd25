"""A step of generation by torch, its matrices multiplied by the product that a rule names.

A step multiplies few rows by every matrix of the model. On a CPU torch's own float32 product takes
up to 2.5 times as long at this as oneDNN's from weights laid out for it beforehand (LOG.md,
2026-11-24: 0.4 to 0.6 of the time at 2 rows, 0.9 at 128). The products differ by rounding only.

Axes: B rows of the cache, M rows, N outputs, K inputs, D width, V logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3leon.engine import int8
from cm3leon.engine.prepared import kept
from cm3leon.model.kv_cache import Cache
from cm3leon.model.transformer import Transformer, norm, widen

Product = Callable[[Tensor], Tensor]  # [M, K] -> [M, N]
MATRICES = ("qkv", "out", "up", "down")  # of a block
MOST_BYTES = 2 << 30  # of weights: what takes more is not copied


class TorchStep:
    """A step of so many rows by torch; call it with embedded tokens."""

    name = "torch"

    def __init__(self, model: Transformer, rows: int, start: int, end: int | None):
        columns = []
        for name in MATRICES:
            weights = [getattr(block, name).weight for block in model.blocks]
            columns.append(products(model, name, weights, rows))
        self.layers = list(zip(*columns, strict=True))
        (self.head,) = products(model, f"head {start} {end}", [model.table(start, end)], rows)

    def __call__(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """Write the tokens' keys and values behind what the rows hold, attend; logits [B, V]."""
        for layer, (qkv, out, up, down) in enumerate(self.layers):
            x_BD = x_BD + out(cache.extend(layer, qkv(norm(x_BD))))
            x_BD = x_BD + down(up(norm(x_BD)).relu_())
        return widen(self.head(norm(x_BD)))


def products(model: Transformer, name: str, weights: Sequence[Tensor], rows: int) -> list[Product]:
    """The product of each of the model's `weights` [N, K], all of one kind, for `rows` rows.

    `name` tells this list of weights from the model's others.
    """
    make = rule(weights[0], rows, sum(one.nbytes for one in model.parameters()))
    return kept(model, f"{name} {make.__name__}", lambda: [make(weight) for weight in weights])


def rule(weight: Tensor, rows: int, bytes_of_model: int) -> Callable[[Tensor], Product]:
    """What makes the product of such a weight: oneDNN's for float32 on a CPU, where a copy of the
    model may be had; of int8 its own; else torch's plain one.
    """
    if int8.whole(weight) is not None:
        return int8.rule(weight, rows) or plain
    alone = weight.device.type == "cpu" and weight.dtype == torch.float32
    if alone and bytes_of_model <= MOST_BYTES and torch.backends.mkldnn.is_available():
        return packed
    return plain


def plain(weight_NK: Tensor) -> Product:
    """What torch does by itself, from the weights where they lie."""
    return lambda x_MK: F.linear(x_MK, weight_NK)


def packed(weight_NK: Tensor) -> Product:
    """oneDNN's product from a copy in its own blocks."""
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight_NK)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x_MK: product(x_MK, blocks, None, "none", [], "")
