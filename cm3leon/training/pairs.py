"""The rows of pretraining: caption and picture, masked, behind retrieved documents (section 2).

A batch is a pure function of (seed, step): documents come in a fresh order every epoch, without
replacement, each with one of its captions and, where there is a memory bank, with retrieved
documents before it.

Axes: B samples of a batch, T tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cm3leon import seeds
from cm3leon.config import ModelConfig, ObjectiveConfig
from cm3leon.data.token_cache import TokenCache
from cm3leon.retrieval.neighbours import Neighbours
from cm3leon.sequence.documents import Document, Vocabulary, build_sample
from cm3leon.sequence.masking import mask_samples, rotate
from cm3leon.training.batches import collate, of_kind, rows_at_once

if TYPE_CHECKING:
    from torch import nn


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
        cache, own = self._at(index)
        return cache.document(own, caption)

    def outline(self, index: int, caption: int = 0) -> Document:
        """As `TokenCache.outline`."""
        cache, own = self._at(index)
        return cache.outline(own, caption)

    def _at(self, index: int) -> tuple[TokenCache, int]:
        at = int(np.searchsorted(self.ends, index, "right"))
        return self.caches[at], index - (int(self.ends[at - 1]) if at else 0)


@dataclass(frozen=True)
class Queries:
    """The documents of a cache that are trained on, all or those `among`; with `neighbours`, those
    of the cache's documents, all samples of a step have the same number of documents before them.
    """

    cache: TokenCache | Joined
    neighbours: Neighbours | None = None
    among: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.cache) if self.among is None else len(self.among)


def pair_batches(
    queries: Queries,
    vocabulary: Vocabulary,
    objective: ObjectiveConfig,
    batch: int,
    seed: int,
    model: ModelConfig | None = None,
) -> Callable[..., dict]:
    """Step (from 1) -> batch, as `batches.collate` makes it for `model`; with a slice as a second
    argument only these of its rows, the same ones, and of the others nothing is read but lengths.
    """
    size, cache, neighbours = len(queries), queries.cache, queries.neighbours

    @lru_cache(maxsize=2)
    def epoch_of(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = seeds.generator(seed, "order", epoch).permutation(size)
        return order, seeds.generator(seed, "caption", epoch).integers(cache.captions, size=size)

    def sample(position: int, documents: int, outline: bool) -> np.ndarray:
        epoch, at = divmod(position, size)
        order, captions = epoch_of(epoch)
        index, found = int(order[at]), []
        caption = int(captions[index])
        if queries.among is not None:
            index = int(queries.among[index])
        if documents:
            draws = seeds.generator(seed, "near", epoch, index)
            found = neighbours.draw(index, documents, draws, outline)
        read = cache.outline if outline else cache.document
        return build_sample(read(index, caption), found, vocabulary)

    def batch_of(step: int, part: slice = slice(None)) -> dict:
        start, kept = (step - 1) * batch, range(batch)[part]
        documents = 0
        if neighbours is not None:
            documents = neighbours.count(seeds.generator(seed, "documents", step))
        samples = [sample(start + at, documents, at not in kept) for at in range(batch)]
        generator = seeds.generator(seed, "mask", step)
        rows, counts = mask_samples(samples, vocabulary, objective, generator, kept)
        return collate(rows, counts, vocabulary, model)

    return batch_of


@dataclass(frozen=True)
class HeldOut:
    """Documents `which` of a cache that losses are measured on, each with its first caption, behind
    the best `documents` of its neighbours.
    """

    cache: TokenCache
    which: Sequence[int]
    neighbours: Neighbours | None = None
    documents: int = 3

    def samples(self, vocabulary: Vocabulary, alone: bool = False) -> list[np.ndarray]:
        """As `build_sample` makes them; `alone` without documents."""
        found = [] if alone else self.neighbours
        near = [found.first(at, self.documents) if found else [] for at in self.which]
        pairs = zip(self.which, near, strict=True)
        return [build_sample(self.cache.document(at), some, vocabulary) for at, some in pairs]


def pair_held_out(
    held: HeldOut, vocabulary: Vocabulary, model: ModelConfig | None = None, batch: int = 64
) -> Callable[[nn.Module], dict]:
    """The held-out losses for `train`, nats per token; at most `batch` rows are read at once.

    "text" and "image" are losses of unmasked samples; "image_free" is that of the same pictures
    when the caption is masked (the unconditional stream of guidance), so image_free - image says
    how much the text tells; "loss" is the mean over unmasked tokens. With neighbours all the above
    are those of the query alone, "image_alone" is that of the query without documents, so
    image_alone - image says how much they tell, and "image_at_d" is that of the picture in place d:
    at 0 the first document.
    """
    samples = held.samples(vocabulary)
    captions = [len(held.cache.text(at)) for at in held.which]
    pictures = len(held.cache.codes(held.which[0]))
    rows = {"": [rotate(ids, [], vocabulary) for ids in samples], "free": []}
    for ids, length in zip(samples, captions, strict=True):
        start = len(ids) - pictures - length - 2  # before <break> and <eos>
        spans = [(start, start + length)] if length else []
        rows["free"].append(rotate(ids, spans, vocabulary))
    if held.neighbours:
        alone = held.samples(vocabulary, alone=True)
        rows["alone"] = [rotate(ids, [], vocabulary) for ids in alone]

    def evaluate(module: nn.Module) -> dict:
        sums = {name: _sums(module, part, vocabulary, batch, model) for name, part in rows.items()}
        last = held.documents if held.neighbours else 0
        text, image = sums[""]["text", last], sums[""]["image", last]
        found = {
            "loss": (text[0] + image[0]) / (text[1] + image[1]),
            "text": text[0] / max(1, text[1]),
            "image": image[0] / max(1, image[1]),
            "image_free": _mean(sums["free"], "image", last),
        }
        if held.neighbours:
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
    batch = rows_at_once(rows, batch)
    for start in range(0, len(rows), batch):
        inputs = collate(rows[start : start + batch], {}, vocabulary, model)
        ids_BT, weights_BT = inputs["ids_BT"].to(device), inputs["weights_BT"].to(device)
        with torch.no_grad():
            losses = module.loss_per_token(ids_BT, weights_BT, inputs["positions_BT"].to(device))
        # Pairs have a <break> before each segment but the first: two a document.
        pairs = (ids_BT[:, 1:] == vocabulary.break_).cumsum(1) // 2
        for pair in range(int(pairs.max()) + 1):
            counted = (weights_BT[:, 1:] > 0) & (pairs == pair)
            kinds = of_kind(ids_BT[:, 1:], counted, vocabulary)
            for kind, chosen in kinds.items():
                total, number = sums[kind, pair]
                found = float((losses * chosen).sum()), int(chosen.sum())
                sums[kind, pair] = (total + found[0], number + found[1])
    return sums
