"""The retrieval strategy (section 2.1): which documents of a memory bank stand before a query.

Relevance: by inner product with the query's text and, where there is one, its image. Diversity: a
candidate too like the query or a document already chosen is passed over, and so is the query
itself. One function, `select`, answers whoever asks.

Axes: Q queries, N documents of the bank, D width of a vector, K candidates of a query, S chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cm3leon.config import RetrievalConfig
from cm3leon.errors import UserError
from cm3leon.retrieval.bank import MemoryBank, check_vectors
from cm3leon.sequence.documents import Document, Image, Text

AT_ONCE = 4096  # queries looked up at once: faiss is several times slower on few
FIRST = 16  # candidates looked at first; those of a query that needs more are looked up again
WIDEST = 2**14  # candidates looked at last
VECTORS_AT_ONCE = 2**17  # candidates' vectors held at once


@dataclass(frozen=True)
class Query:
    """What is asked for: unit vectors float32 [Q,D] of text, image or both, and the ids of the
    documents the queries are taken from (None: no query is in the bank).
    """

    texts: np.ndarray | None = None
    images: np.ndarray | None = None
    ids: Sequence[str] | None = None

    def __post_init__(self):
        given = [part for part in (self.texts, self.images, self.ids) if part is not None]
        if self.texts is None and self.images is None:
            raise UserError("a query needs text vectors or image vectors, got neither")
        if len({len(part) for part in given}) > 1:
            raise UserError(f"a query's parts differ in length: {[len(part) for part in given]}")

    def __len__(self) -> int:
        return len(self.texts if self.texts is not None else self.images)


def select(
    query: Query,
    bank: MemoryBank,
    config: RetrievalConfig,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Rows of the bank to put before each query, int64 [Q, config.documents], in context order.

    "ranked": best score first. "shuffled": drawn from the lists in random order, which needs
    `generator`; the same generator gives the same answer, whatever the batch before it was.
    Raises UserError when a query lacks the vectors that `config.by` asks for and when the bank has
    fewer documents for a query than asked for.
    """
    if config.order == "shuffled" and generator is None:
        raise UserError("retrieval.order 'shuffled' needs a generator; pass one, or 'ranked'")
    lists = _lists(query, bank, config)
    if not config.documents:
        return np.empty((len(query), 0), np.int64)
    own_Q = bank.rows(query.ids) if query.ids is not None else np.full(len(query), -1)
    count = config.each if len(lists) > 1 else config.documents
    found = [
        _choose(
            [vectors[start : start + AT_ONCE] for vectors in lists],
            own_Q[start : start + AT_ONCE],
            bank,
            count,
            config.threshold,
        )
        for start in range(0, len(query), AT_ONCE)
    ]
    if not found:
        return np.empty((0, config.documents), np.int64)
    rows_QS, scores_QS = (np.concatenate(part) for part in zip(*found, strict=True))
    if config.order == "ranked":
        order_QS = np.argsort(-scores_QS, axis=1, kind="stable")
    else:
        order_QS = generator.random(rows_QS.shape).argsort(axis=1)
    return np.take_along_axis(rows_QS, order_QS, 1)[:, : config.documents]


def with_modality(document: Document, modality: str) -> Document:
    """The document with both parts, or with its text or image segments alone.

    Raises UserError when nothing would be left.
    """
    kinds = {"both": (Text, Image), "text": Text, "image": Image}
    if modality not in kinds:
        raise UserError(f"modality must be 'text', 'image' or 'both', got {modality!r}")
    kept = tuple(part for part in document.segments if isinstance(part, kinds[modality]))
    if not kept:
        raise UserError(f"a retrieved document has no {modality} to keep; use modality 'both'")
    return Document(kept)


def _lists(query: Query, bank: MemoryBank, config: RetrievalConfig) -> list[np.ndarray]:
    """The query's vectors, one array for each list asked for, checked against the bank."""
    named = {"text": query.texts, "image": query.images}
    wanted = ("text", "image") if config.by == "both" else (config.by,)
    for name in wanted:
        if named[name] is None:
            raise UserError(f"retrieval.by {config.by!r} needs {name} vectors of the query")
        check_vectors(named[name], bank.width, f"{name} vectors of the query")
    return [named[name] for name in wanted]


def _choose(
    lists: list[np.ndarray], own_Q: np.ndarray, bank: MemoryBank, count: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, scores) [Q, S], `count` of each list in turn; wider and wider searches."""
    wanted, widest = count * len(lists), min(WIDEST, len(bank))
    rows_QS = np.full((len(own_Q), wanted), -1, np.int64)
    scores_QS = np.full((len(own_Q), wanted), -np.inf, np.float32)
    left_Q, width = np.arange(len(own_Q)), min(FIRST, widest)
    while len(left_Q):
        piece = max(1, VECTORS_AT_ONCE // (width * len(lists)))
        for start in range(0, len(left_Q), piece):
            at_Q = left_Q[start : start + piece]
            vectors = [part[at_Q] for part in lists]
            rows_QS[at_Q], scores_QS[at_Q] = _greedy(
                vectors, own_Q[at_Q], bank, count, threshold, width
            )
        left_Q = left_Q[(rows_QS[left_Q] < 0).any(1)]
        if width == widest and len(left_Q):
            raise UserError(
                f"the bank gives {(rows_QS[left_Q[0]] >= 0).sum()} of {wanted} documents for a "
                f"query at threshold {threshold} among its {widest} nearest; raise "
                "retrieval.threshold or use a larger bank"
            )
        width = min(8 * width, widest)
    return rows_QS, scores_QS


def _greedy(
    lists: list[np.ndarray],
    own_Q: np.ndarray,
    bank: MemoryBank,
    count: int,
    threshold: float,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, scores) [Q, S] among the `width` best candidates of each list; -1 where they ran out.

    Exactly the loop over candidates in order of score that takes one unless it is the query's
    own, or its score against the query or against a chosen one exceeds the threshold.
    """
    found = [bank.search(vectors, width) for vectors in lists]
    scores_QK = np.concatenate([scores for scores, _ in found], 1)
    rows_QK = np.concatenate([rows for _, rows in found], 1)
    vectors_QKD = bank.vectors[rows_QK]
    queries = len(rows_QK)
    free_QK = (scores_QK <= threshold) & (rows_QK != own_Q[:, None]) & (rows_QK >= 0)
    rows_QS = np.full((queries, count * len(lists)), -1, np.int64)
    out_QS = np.full(rows_QS.shape, -np.inf, np.float32)
    every_Q = np.arange(queries)
    for slot in range(rows_QS.shape[1]):
        start = slot // count * width
        free_QW = free_QK[:, start : start + width]
        at_Q = start + free_QW.argmax(1)  # the first free candidate of this list
        able_Q = free_QK[every_Q, at_Q]
        rows_QS[able_Q, slot] = rows_QK[every_Q, at_Q][able_Q]
        out_QS[able_Q, slot] = scores_QK[every_Q, at_Q][able_Q]
        alike_QK = (vectors_QKD @ vectors_QKD[every_Q, at_Q][:, :, None])[:, :, 0]
        same_QK = rows_QK == rows_QK[every_Q, at_Q][:, None]
        free_QK &= ~(((alike_QK > threshold) | same_QK) & able_Q[:, None])
    return rows_QS, out_QS
