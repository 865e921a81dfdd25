"""Gradient accumulation: a batch in pieces whose losses sum to that of the whole batch.

The loss is a weighted mean over the batch (`data.pair_loss`), so a piece counts by its share of the
batch's weights, and each logged mean by its share of the batch's tokens of that kind.

Axes: B samples of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary


def split(batch: dict, count: int, vocabulary: Vocabulary) -> list[dict]:
    """A batch of `data.pair_batches` in `count` pieces of rows; each holds its "shares".

    Raises UserError for more pieces than rows.
    """
    ids_BT, weights_BT = batch["ids_BT"], batch["weights_BT"]
    if not 1 <= count <= len(ids_BT):
        raise UserError(f"accumulate must lie in 1..{len(ids_BT)} (the batch), got {count}")
    text = ids_BT[:, 1:] < vocabulary.image_start
    image = (ids_BT[:, 1:] < vocabulary.image_end) & ~text
    weighted = weights_BT[:, 1:] > 0
    sums_B = {  # of each row: the weights behind its loss, the tokens behind its logged means
        "loss": weights_BT[:, 1:].sum(1),
        "text_loss": (text & weighted).sum(1),
        "image_loss": (image & weighted).sum(1),
    }
    nothing = dict.fromkeys(batch["counts"], 0)
    pieces, start = [], 0
    tensors = (ids_BT, weights_BT, batch["positions_BT"])
    for ids, weights, positions in zip(*(x.tensor_split(count) for x in tensors), strict=True):
        rows, start = slice(start, start + len(ids)), start + len(ids)
        pieces.append(
            {
                "ids_BT": ids,
                "weights_BT": weights,
                "positions_BT": positions,
                # What is counted is counted once, with the first piece.
                "counts": nothing if pieces else batch["counts"],
                "shares": {
                    name: sums[rows].sum() / sums.sum().clamp(min=1e-9)
                    for name, sums in sums_B.items()
                },
            }
        )
    return pieces


def shared(loss: Callable) -> Callable:
    """The loss of `train` for pieces of `split`: its value and scalars, summed over the pieces, are
    those of the whole batch.
    """

    def of_piece(module, piece: dict, step: int):
        value, scalars = loss(module, piece, step)
        shares = piece["shares"]
        return value * shares["loss"], {
            name: scalar * shares.get(name, 1) for name, scalar in scalars.items()
        }

    return of_piece
