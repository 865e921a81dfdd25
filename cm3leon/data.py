"""Training data: a token cache -> batches of masked samples, and the loss on them.

A batch is a pure function of (seed, step): documents come in a fresh order every epoch, without
replacement, each with one of its captions.

Axes: B samples of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cm3leon import seeds
from cm3leon.cache import TokenCache
from cm3leon.config import ObjectiveConfig
from cm3leon.objective import mask_samples, rotate
from cm3leon.sequence import Document, Vocabulary, build_sample

if TYPE_CHECKING:
    from torch import nn

Neighbours = Callable[[int, np.random.Generator], list[Document]]
ROUND = 8  # batches are padded to a multiple of this many tokens


def pair_batches(
    cache: TokenCache,
    vocabulary: Vocabulary,
    objective: ObjectiveConfig,
    batch: int,
    seed: int,
    *,
    context: int | None = None,
    neighbours: Neighbours | None = None,
) -> Callable[[int], dict]:
    """The batch source of a transformer: step (from 1) -> {"ids_BT", "weights_BT", "counts"}.

    ids int64 and weights float32 are torch tensors padded to the longest sample, rounded up to 8
    tokens; rows longer than `context` are cut there and counted. `neighbours(index, generator)`
    gives retrieved documents to put before document `index` of the cache.
    """
    size = len(cache)

    @lru_cache(maxsize=2)
    def epoch_of(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = seeds.generator(seed, "order", epoch).permutation(size)
        return order, seeds.generator(seed, "caption", epoch).integers(cache.captions, size=size)

    def sample(position: int) -> np.ndarray:
        epoch, place = divmod(position, size)
        order, captions = epoch_of(epoch)
        index = int(order[place])
        found = neighbours(index, seeds.generator(seed, "near", epoch, index)) if neighbours else []
        return build_sample(cache.document(index, int(captions[index])), found, vocabulary)

    def at(step: int) -> dict:
        start = (step - 1) * batch
        samples = [sample(position) for position in range(start, start + batch)]
        generator = seeds.generator(seed, "mask", step)
        rows, counts = mask_samples(samples, vocabulary, objective, generator)
        return collate(rows, counts, vocabulary, context)

    return at


def collate(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    counts: dict[str, int],
    vocabulary: Vocabulary,
    context: int | None = None,
) -> dict:
    """Pad (ids, weights) rows to a batch; `counts` gains "seen" (tokens kept), "cut" (rows)."""
    import torch

    lengths = [len(ids) for ids, _ in rows]
    longest = -(-max(lengths) // ROUND) * ROUND
    if context is not None:
        longest = min(longest, context)
    ids_BT = np.full((len(rows), longest), vocabulary.pad, dtype=np.int64)
    weights_BT = np.zeros((len(rows), longest), dtype=np.float32)
    for row, (ids, weights) in enumerate(rows):
        kept = min(len(ids), longest)
        ids_BT[row, :kept], weights_BT[row, :kept] = ids[:kept], weights[:kept]
    more = {
        "seen": sum(min(length, longest) for length in lengths),
        "cut": sum(length > longest for length in lengths),
    }
    return {
        "ids_BT": torch.from_numpy(ids_BT),
        "weights_BT": torch.from_numpy(weights_BT),
        "counts": counts | more,
    }


def pair_loss(vocabulary: Vocabulary) -> Callable:
    """The loss of a transformer for `train`: the weighted mean of nats per token over the batch.

    Logs text and image tokens apart (unweighted means over tokens with a weight) and what the
    objective masked: text segments touched, captions whole, pictures touched (FACTS 1.4).
    """

    def loss(module: nn.Module, batch: dict, step: int):
        ids_BT, weights_BT, counts = batch["ids_BT"], batch["weights_BT"], batch["counts"]
        losses = module.loss_per_token(ids_BT, weights_BT)
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
    context: int | None = None,
    neighbours: Neighbours | None = None,
) -> Callable[[nn.Module], dict]:
    """The held-out losses for `train`, nats per token over the first `count` pictures of a cache.

    "text" and "image" are losses of unmasked samples, with the first caption; "image_free" is that
    of the same pictures when the caption is masked (the unconditional stream of guidance), so
    image_free - image says how much the text tells; "loss" is the mean over unmasked tokens.
    """
    plain, masked = [], []
    for index in range(min(count, len(cache))):
        document = cache.document(index)
        found = neighbours(index, seeds.generator(0, "held-out", index)) if neighbours else []
        ids = build_sample(document, found, vocabulary)
        text, image = document.segments
        start = len(ids) - len(image.codes) - len(text.ids) - 2  # before <break> and <eos>
        caption = [(start, start + len(text.ids))] if text.ids else []
        plain.append(rotate(ids, [], vocabulary))
        masked.append(rotate(ids, caption, vocabulary))

    def evaluate(module: nn.Module) -> dict:
        found = _sums(module, plain, vocabulary, batch, context)
        free = _sums(module, masked, vocabulary, batch, context)
        total, number = (sum(values) for values in zip(*found.values(), strict=True))
        return {
            "loss": total / number,
            "text": found["text"][0] / max(1, found["text"][1]),
            "image": found["image"][0] / max(1, found["image"][1]),
            "image_free": free["image"][0] / max(1, free["image"][1]),
        }

    return evaluate


def _sums(module, rows, vocabulary: Vocabulary, batch: int, context: int | None) -> dict:
    """Per kind of token: (sum of nats, number of tokens) over all rows."""
    import torch

    device = next(module.parameters()).device
    sums = {"text": (0.0, 0), "image": (0.0, 0)}
    for start in range(0, len(rows), batch):
        inputs = collate(rows[start : start + batch], {}, vocabulary, context)
        ids_BT, weights_BT = inputs["ids_BT"].to(device), inputs["weights_BT"].to(device)
        with torch.no_grad():
            losses = module.loss_per_token(ids_BT, weights_BT)
            parts = _parts(losses, ids_BT[:, 1:], weights_BT[:, 1:] > 0, vocabulary)
        for kind, (total, number) in parts.items():
            sums[kind] = (sums[kind][0] + float(total), sums[kind][1] + int(number))
    return sums


def _parts(losses, targets, counted, vocabulary: Vocabulary) -> dict:
    """Sum of nats and number of tokens, of text and of image targets, as 0-d tensors."""
    image = (targets >= vocabulary.image_start) & (targets < vocabulary.image_end) & counted
    text = (targets < vocabulary.image_start) & counted
    return {
        kind: ((losses * chosen).sum(), chosen.sum())
        for kind, chosen in (("text", text), ("image", image))
    }
