"""Weights of the layers in 8 bits, by torchao, and how few rows are multiplied by them.

Each row of a matrix is whole numbers from -127 to 127 times one scale; the embeddings stay as they
are. What a step reads is halved against bfloat16, where a product reads the whole numbers
themselves; torchao's own makes a bfloat16 copy of the matrix in each call.

Axes: M rows, N outputs, K inputs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from cm3leon.config import check
from cm3leon.errors import UserError

TYPES = ("float32", "bfloat16", "int8")
FEW = 8  # rows for which the sums of all are taken in one pass over the weights
Model = TypeVar("Model", bound=nn.Module)
LARGE = 2**22  # weights: compiling costs seconds and gains nothing for a small matrix


def check_torchao() -> None:
    """UserError unless torchao is installed."""
    if importlib.util.find_spec("torchao") is None:
        raise UserError("int8 needs torchao, which is not installed; pip install -e '.[int8]'")


def quantised(model: Model) -> Model:
    """The model with the matrices of its `blocks` in int8, changed in place; UserError without
    torchao. It can no longer be trained.
    """
    check_torchao()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def of_a_block(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name.startswith("blocks.")

    quantize_(model, Int8WeightOnlyConfig(), filter_fn=of_a_block)
    return model


def with_weights(model: Model, kind: str) -> Model:
    """The model in one of TYPES, changed in place; beside int8 the rest is bfloat16 on a GPU and
    float32 elsewhere. Raises UserError for another type, and for int8 without torchao.
    """
    check(kind in TYPES, "weights", f"be one of {', '.join(TYPES)}", kind)
    weight = next(model.parameters())
    if kind == "int8":
        return quantised(model.bfloat16() if weight.is_cuda else model)
    return model.to(getattr(torch, kind))


def kind(model: nn.Module) -> str:
    """The type of the layers' weights by name: "float32", "bfloat16", "int8"."""
    weight = next(model.parameters())
    if any(whole(one) is not None for one in model.parameters()):
        return "int8"
    return str(weight.dtype).removeprefix("torch.")


def whole(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """(int8 [N, K], scales [N]) of what `quantised` made; None for any other weight."""
    numbers_NK, scale = getattr(weight, "qdata", None), getattr(weight, "scale", None)
    if numbers_NK is None or scale is None or scale.numel() != len(numbers_NK):
        return None
    return numbers_NK, scale.flatten()


def rule(weight: Tensor, rows: int) -> Callable[[Tensor], Callable] | None:
    """What makes the product of such a weight for so many rows; None: torchao's own.

    Whichever reads the whole numbers themselves, half the bytes of bfloat16: on a CPU torch's, on a
    GPU the compiled sums, where one pass over a large matrix serves all rows.
    """
    if weight.device.type == "cpu":
        return packed
    return summed if rows <= FEW and weight.numel() >= LARGE else None


def packed(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """torch's own product with int8 on a CPU."""
    numbers_NK, scale_N = whole(weight)
    scale_N = scale_N.to(weight.dtype)
    return lambda x_MK: torch._weight_int8pack_mm(x_MK, numbers_NK, scale_N)


def summed(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The sums written out and compiled: every number is read once for all rows."""
    numbers_NK, scale_N = whole(weight)
    product = compiled_sums()
    return lambda x_MK: product(x_MK, numbers_NK, scale_N)


def sums(x_MK: Tensor, numbers_NK: Tensor, scale_N: Tensor) -> Tensor:
    """x times the transposed matrix, [M, N], in float32 until the end."""
    rows = [(x_K.float() * numbers_NK.float()).sum(-1) for x_K in x_MK.unbind()]
    return (torch.stack(rows) * scale_N).to(x_MK.dtype)


@lru_cache
def compiled_sums() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`sums` by torch.compile, once for each shape."""
    return torch.compile(sums, fullgraph=True, dynamic=False)
