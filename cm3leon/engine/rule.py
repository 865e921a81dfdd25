"""Which engine takes the steps of a cache: a rule, never a timing, so that what is drawn does not
hang on what else the machine does.

- A CPU: "c", one call of C a step, wherever it can: float32, or bfloat16 where the processor
  multiplies it, a compiler, at most 2 GiB of weights. It was the faster in every measured cell, 1.3
  to 2.5 times over torch with its best products on AVX2 (8x256 to 24x1024, 2 to 64 rows) and more
  on AVX-512 (LOG.md, 2026-11-25 and 28), so neither shape nor rows have a part in the rule.
- A CUDA device: "graph", a recorded step, replayed. It saves the start of some fifteen kernels a
  layer; no figure of a GPU is known.
- "torch" for all else, and for the steps that a graph is not worth.

They differ by rounding alone.
"""

from __future__ import annotations

from typing import get_args

from cm3leon.config import check
from cm3leon.engine import cpu_step
from cm3leon.engine.cpu_step import Fused
from cm3leon.engine.cuda_graph import Graphed
from cm3leon.engine.torch_step import TorchStep
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.options import Engine

Step = Fused | Graphed | TorchStep


def find(model: Transformer, named: str = "auto") -> str:
    """ "torch", "c" or "graph": the engine that is named, or by the rule.

    Raises UserError for an unknown name and for an engine that cannot take this model's steps.
    """
    names = get_args(Engine)
    check(named in names, "engine", f"be one of {', '.join(names)}", named)
    on_gpu = model.token_embedding.weight.is_cuda
    if named == "auto":
        return "graph" if on_gpu else "torch" if cpu_step.why_not(model) else "c"
    why = None
    if named == "graph" and not on_gpu:
        why = f"the model is on {model.token_embedding.weight.device}, not on a CUDA device"
    elif named == "c":
        why = cpu_step.why_not(model)
    if why:
        raise UserError(f"engine {named!r} cannot take the steps: {why}; leave it to 'auto'")
    return named


def step_of(
    model: Transformer, rows: int, start: int, end: int | None, named: str = "auto"
) -> Step:
    """What takes the steps of one cache of so many rows, for logits of the ids [start, end): to be
    given to `Transformer.step`. Its `name` says what took the last one.
    """
    found = find(model, named)
    if found == "c":
        return Fused(model, start, end)
    if found == "graph":
        return Graphed(model, rows, start, end)
    return TorchStep(model, rows, start, end)
