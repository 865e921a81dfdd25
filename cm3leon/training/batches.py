"""Batches of masked rows: padded, cut into pieces, and the loss on them.

The loss of a batch is a sum over its tokens by a total of the batch (`totals`), so those of its
pieces, or of the parts of several processes that know the batch's totals, add up to it.

Axes: B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.config import ModelConfig
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary
from cm3leon.sequence.positions import place

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUND = 8  # batches are padded to a multiple of this many tokens
PIECE_TOKENS = 2**15  # of a piece of a batch, where the user does not say in how many to cut it
KINDS = ("text", "image")  # of tokens
ROWS = ("ids_BT", "weights_BT", "positions_BT")  # what a batch holds of each row


def collate(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    counts: dict[str, int],
    vocabulary: Vocabulary,
    model: ModelConfig | None = None,
) -> dict:
    """Pad (ids, weights) rows to a batch: {"ids_BT", "weights_BT", "positions_BT", "counts",
    "totals"}, ids and positions int64, weights float32, padded to the longest row, rounded up to 8
    tokens.

    Rows longer than the context of `model` are cut there; `counts` gains "seen" (tokens kept) and
    "cut" (rows). The places of the tokens are those of `model`; without one they are indices and
    nothing is cut.
    """
    import torch

    lengths = [len(ids) for ids, _ in rows]
    longest = -(-max(lengths) // ROUND) * ROUND
    if model is not None:
        longest = min(longest, model.context)
    ids_BT = np.full((len(rows), longest), vocabulary.pad, dtype=np.int64)
    weights_BT = np.zeros((len(rows), longest), dtype=np.float32)
    positions_BT = np.tile(np.arange(longest), (len(rows), 1))
    for row, (ids, weights) in enumerate(rows):
        kept = min(len(ids), longest)
        ids_BT[row, :kept], weights_BT[row, :kept] = ids[:kept], weights[:kept]
        if model is not None and model.positions != "row":
            positions_BT[row, :kept] = place(ids, vocabulary, model)[:kept]
            positions_BT[row, kept:] = 0
    more = {
        "seen": sum(min(length, longest) for length in lengths),
        "cut": sum(length > longest for length in lengths),
    }
    tensors = [torch.from_numpy(array) for array in (ids_BT, weights_BT, positions_BT)]
    batch = dict(zip(ROWS, tensors, strict=True)) | {"counts": counts | more}
    return batch | {"totals": totals(batch, vocabulary)}


def totals(batch: dict, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """What the sums of a loss are divided by: the weights as "loss", and the number of "text" and
    of "image" tokens with a weight; 0-d.
    """
    weights = batch["weights_BT"][:, 1:]
    kinds = of_kind(batch["ids_BT"][:, 1:], weights > 0, vocabulary)
    return {"loss": weights.sum()} | {kind: chosen.sum() for kind, chosen in kinds.items()}


def of_kind(targets: Tensor, counted: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Which of the counted targets are text and which image, bool of their shape."""
    text = targets < vocabulary.image_start
    image = (targets < vocabulary.image_end) & ~text
    return {"text": text & counted, "image": image & counted}


def split(batch: dict, count: int) -> list[dict]:
    """A batch in `count` pieces of rows, with the totals of the whole; what is counted is counted
    once, with the first. Raises UserError for more pieces than rows.
    """
    rows = len(batch["ids_BT"])
    if not 1 <= count <= rows:
        raise UserError(f"accumulate must lie in 1..{rows} (the batch), got {count}")
    parts = zip(*(batch[name].tensor_split(count) for name in ROWS), strict=True)
    nothing = dict.fromkeys(batch["counts"], 0)
    return [
        batch | dict(zip(ROWS, part, strict=True)) | ({"counts": nothing} if at else {})
        for at, part in enumerate(parts)
    ]


def token_loss(vocabulary: Vocabulary) -> Callable:
    """The loss of a transformer for `train`: the weighted mean of nats per token over the batch.

    Logs text and image tokens apart (unweighted means over tokens with a weight) and what the
    objective masked: text segments touched, captions whole, pictures touched (FACTS 1.4).
    """

    def loss(module: nn.Module, batch: dict, step: int):
        ids_BT, weights_BT, counts = batch["ids_BT"], batch["weights_BT"], batch["counts"]
        losses = module.loss_per_token(ids_BT, weights_BT, batch["positions_BT"])
        weights, number = weights_BT[:, 1:], batch["totals"]
        value = (losses * weights).sum() / number["loss"].clamp(min=1e-9)
        scalars = {
            f"{kind}_loss": (losses.detach() * chosen).sum() / number[kind].clamp(min=1)
            for kind, chosen in of_kind(ids_BT[:, 1:], weights > 0, vocabulary).items()
        }
        for name in ("text_masked", "text_full", "image_masked"):
            segments = counts[f"{name.split('_')[0]}_segments"]
            scalars[f"{name}_rate"] = counts[name] / max(1, segments)
        if counts["cut"]:
            scalars["cut_rate"] = counts["cut"] / counts["rows"]
        return value, scalars | {"tokens": counts["seen"]}

    return loss


def rows_at_once(rows: Sequence[tuple[np.ndarray, np.ndarray]], most: int = 64) -> int:
    """How many of some rows to read at once when no gradient is asked for."""
    longest = max((len(ids) for ids, _ in rows), default=1)
    return max(1, min(most, PIECE_TOKENS // longest))
