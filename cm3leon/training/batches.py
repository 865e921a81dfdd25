"""Training data: a token cache -> batches of masked samples, and the loss on them.

A batch is a pure function of (seed, step): documents come in a fresh order every epoch, without
replacement, each with one of its captions and, where there is a memory bank, with retrieved
documents before it.

Axes: B samples of a batch, T tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cm3leon import seeds
from cm3leon.config import ModelConfig, ObjectiveConfig
from cm3leon.data.token_cache import TokenCache
from cm3leon.retrieval.neighbours import Neighbours
from cm3leon.sequence.documents import Document, Vocabulary, build_sample
from cm3leon.sequence.masking import mask_samples, rotate
from cm3leon.sequence.positions import place

if TYPE_CHECKING:
    from torch import nn

ROUND = 8  # batches are padded to a multiple of this many tokens


class Joined:
    """The documents of several caches, one cache after the other."""

    def __init__(self, caches: Sequence[TokenCache]):
        self.caches = list(caches)
        self.ends = np.cumsum([len(one) for one in self.caches])
        self.captions = min(one.captions for one in self.caches)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def document(self, index: int, caption: int = 0) -> Document:
        """As `TokenCache.document`."""
        at = int(np.searchsorted(self.ends, index, "right"))
        start = int(self.ends[at - 1]) if at else 0
        return self.caches[at].document(index - start, caption)


def pair_batches(
    cache: TokenCache | Joined,
    vocabulary: Vocabulary,
    objective: ObjectiveConfig,
    batch: int,
    seed: int,
    *,
    model: ModelConfig | None = None,
    neighbours: Neighbours | None = None,
    among: np.ndarray | None = None,
) -> Callable[[int], dict]:
    """The batch source of a transformer: step (from 1) -> {"ids_BT", "weights_BT", "positions_BT",
    "counts"}.

    ids and positions int64 and weights float32 are torch tensors padded to the longest sample,
    rounded up to 8 tokens; rows longer than the context of `model` are cut there and counted. With
    `neighbours`, those of the cache's documents, all samples of a step have the same number of
    documents before them. Only the documents `among` are trained on; left out: all of the cache.
    """
    size = len(cache) if among is None else len(among)

    @lru_cache(maxsize=2)
    def epoch_of(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = seeds.generator(seed, "order", epoch).permutation(size)
        return order, seeds.generator(seed, "caption", epoch).integers(cache.captions, size=size)

    def sample(position: int, documents: int) -> np.ndarray:
        epoch, at = divmod(position, size)
        order, captions = epoch_of(epoch)
        index, found = int(order[at]), []
        caption = int(captions[index])
        if among is not None:
            index = int(among[index])
        if documents:
            draws = seeds.generator(seed, "near", epoch, index)
            found = neighbours.draw(index, documents, draws)
        return build_sample(cache.document(index, caption), found, vocabulary)

    def batch_of(step: int) -> dict:
        start = (step - 1) * batch
        documents = 0
        if neighbours is not None:
            documents = neighbours.count(seeds.generator(seed, "documents", step))
        samples = [sample(position, documents) for position in range(start, start + batch)]
        generator = seeds.generator(seed, "mask", step)
        rows, counts = mask_samples(samples, vocabulary, objective, generator)
        return collate(rows, counts, vocabulary, model)

    return batch_of


def collate(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    counts: dict[str, int],
    vocabulary: Vocabulary,
    model: ModelConfig | None = None,
) -> dict:
    """Pad (ids, weights) rows to a batch; `counts` gains "seen" (tokens kept), "cut" (rows).

    The places of the tokens are those of `model`; without one they are indices and nothing is cut.
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
    return {
        "ids_BT": torch.from_numpy(ids_BT),
        "weights_BT": torch.from_numpy(weights_BT),
        "positions_BT": torch.from_numpy(positions_BT),
        "counts": counts | more,
    }


def pair_loss(vocabulary: Vocabulary) -> Callable:
    """The loss of a transformer for `train`: the weighted mean of nats per token over the batch.

    Logs text and image tokens apart (unweighted means over tokens with a weight) and what the
    objective masked: text segments touched, captions whole, pictures touched (FACTS 1.4).
    """

    def loss(module: nn.Module, batch: dict, step: int):
        ids_BT, weights_BT, counts = batch["ids_BT"], batch["weights_BT"], batch["counts"]
        losses = module.loss_per_token(ids_BT, weights_BT, batch["positions_BT"])
        weights = weights_BT[:, 1:]
        value = (losses * weights).sum() / weights.sum().clamp(min=1e-9)
        parts = _parts(losses.detach(), ids_BT[:, 1:], weights > 0, vocabulary)
        scalars = {
            f"{kind}_loss": total / number.clamp(min=1) for kind, (total, number) in parts.items()
        }
        for name in ("text_masked", "text_full", "image_masked"):
            segments = counts[f"{name.split('_')[0]}_segments"]
            scalars[f"{name}_rate"] = counts[name] / max(1, segments)
        if counts["cut"]:
            scalars["cut_rate"] = counts["cut"] / counts["rows"]
        return value, scalars | {"tokens": counts["seen"]}

    return loss


def pair_held_out(
    cache: TokenCache,
    vocabulary: Vocabulary,
    count: int,
    *,
    batch: int = 64,
    model: ModelConfig | None = None,
    neighbours: Neighbours | None = None,
    documents: int = 3,
) -> Callable[[nn.Module], dict]:
    """The held-out losses for `train`, nats per token over the first `count` pictures of a cache.

    "text" and "image" are losses of unmasked samples, with the first caption; "image_free" is that
    of the same pictures when the caption is masked (the unconditional stream of guidance), so
    image_free - image says how much the text tells; "loss" is the mean over unmasked tokens.
    With `neighbours` the best `documents` stand before each sample, all the above are those of the
    query alone, "image_alone" is that of the query without documents, so image_alone - image says
    how much they tell, and "image_at_d" is that of the picture in place d: at 0 the first document.
    """
    count = min(count, len(cache))
    near = [neighbours.first(at, documents) if neighbours else [] for at in range(count)]
    samples = [build_sample(cache.document(at), near[at], vocabulary) for at in range(count)]
    captions = [len(cache.text(at)) for at in range(count)]
    pictures = len(cache.codes(0))
    rows = {"": [rotate(ids, [], vocabulary) for ids in samples], "free": []}
    for ids, length in zip(samples, captions, strict=True):
        start = len(ids) - pictures - length - 2  # before <break> and <eos>
        spans = [(start, start + length)] if length else []
        rows["free"].append(rotate(ids, spans, vocabulary))
    if neighbours:
        alone = [build_sample(cache.document(at), [], vocabulary) for at in range(count)]
        rows["alone"] = [rotate(ids, [], vocabulary) for ids in alone]

    def evaluate(module: nn.Module) -> dict:
        sums = {name: _sums(module, part, vocabulary, batch, model) for name, part in rows.items()}
        last = documents if neighbours else 0
        text, image = sums[""]["text", last], sums[""]["image", last]
        found = {
            "loss": (text[0] + image[0]) / (text[1] + image[1]),
            "text": text[0] / max(1, text[1]),
            "image": image[0] / max(1, image[1]),
            "image_free": _mean(sums["free"], "image", last),
        }
        if neighbours:
            found["image_alone"] = _mean(sums["alone"], "image", 0)
            found |= {f"image_at_{at}": _mean(sums[""], "image", at) for at in range(last + 1)}
        return found

    return evaluate


def _mean(sums: dict, kind: str, place: int) -> float:
    total, number = sums[kind, place]
    return total / max(1, number)


def _sums(module, rows, vocabulary: Vocabulary, batch: int, model: ModelConfig | None) -> dict:
    """Per (kind of token, place of its document): (sum of nats, number of tokens) over all rows."""
    import torch

    device = next(module.parameters()).device
    sums = defaultdict(lambda: (0.0, 0))
    for start in range(0, len(rows), batch):
        inputs = collate(rows[start : start + batch], {}, vocabulary, model)
        ids_BT, weights_BT = inputs["ids_BT"].to(device), inputs["weights_BT"].to(device)
        with torch.no_grad():
            losses = module.loss_per_token(ids_BT, weights_BT, inputs["positions_BT"].to(device))
        # Pairs have a <break> before each segment but the first: two a document.
        pairs = (ids_BT[:, 1:] == vocabulary.break_).cumsum(1) // 2
        for pair in range(int(pairs.max()) + 1):
            counted = (weights_BT[:, 1:] > 0) & (pairs == pair)
            for kind, found in _parts(losses, ids_BT[:, 1:], counted, vocabulary).items():
                total, number = sums[kind, pair]
                sums[kind, pair] = (total + float(found[0]), number + int(found[1]))
    return sums


def _parts(losses, targets, counted, vocabulary: Vocabulary) -> dict:
    """Sum of nats and number of tokens, of text and of image targets, as 0-d tensors."""
    image = (targets >= vocabulary.image_start) & (targets < vocabulary.image_end) & counted
    text = (targets < vocabulary.image_start) & counted
    return {
        kind: ((losses * chosen).sum(), chosen.sum())
        for kind, chosen in (("text", text), ("image", image))
    }
