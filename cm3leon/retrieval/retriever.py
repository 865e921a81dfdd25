"""Caption -> the documents that stand before it: CLIP, memory bank and strategy together.

Shapes: B captions, S documents of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cm3leon.clip import Clip, load_clip
from cm3leon.config import RetrievalConfig, check, to_dict
from cm3leon.data.token_cache import TokenCache
from cm3leon.errors import UserError
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.packed import BANK, unpack
from cm3leon.retrieval.select import Query, select, with_modality
from cm3leon.sequence.documents import Document


class Documents(Protocol):
    """What holds the documents of a bank: a token cache, or a packed bank."""

    def document(self, row: int, /) -> Document:
        """Document of row 0..N-1 of the bank."""
        ...


@dataclass(frozen=True)
class Found:
    """A document that was found for a caption; `score` is the cosine of their CLIP vectors."""

    id: str
    text: str
    image: np.ndarray  # uint8 [H, W, 3], as the image tokenizer gives it back
    score: float


@dataclass(frozen=True)
class Retriever:
    """Finds `config.documents` documents for a caption by its text; there is no picture yet.

    `sha256` names the bank. Raises UserError for a bank of another CLIP and for `config.by` other
    than "text".
    """

    clip: Clip
    bank: MemoryBank
    documents: Documents
    config: RetrievalConfig
    sha256: str

    def __post_init__(self):
        self.bank.check_clip(self.clip)
        check(self.config.by == "text", "retrieval.by", "be 'text' to draw", self.config.by)

    def rows(self, captions: Sequence[str]) -> np.ndarray:
        """Rows of the bank for each caption, int64 [B, S], in the order of the context.

        Query dropout belongs to training. Raises UserError when the bank has too few documents.
        """
        if not self.config.documents or not captions:
            return np.empty((len(captions), self.config.documents), np.int64)
        # One caption at a time: CLIP's rounding hangs on the batch, and a caption must not.
        texts_BD = np.concatenate([self.clip.texts([caption]) for caption in captions])
        return select(Query(texts=texts_BD), self.bank, self.config)

    def find(self, captions: Sequence[str]) -> list[list[Document]]:
        """The documents of each caption, in the order of the context."""
        return [self.take(rows_S) for rows_S in self.rows(captions)]

    def scores(self, caption: str, rows_S: np.ndarray) -> np.ndarray:
        """Cosine of the caption's CLIP vector and those of the documents in these rows."""
        return self.bank.vectors[rows_S] @ self.clip.texts([caption])[0]

    def take(self, rows_S: Sequence[int]) -> list[Document]:
        """The documents of these rows, in the modality of the strategy."""
        found = [self.documents.document(int(row)) for row in rows_S]
        return [with_modality(document, self.config.modality) for document in found]

    def with_config(self, config: RetrievalConfig) -> Retriever:
        """The same bank under another strategy."""
        return replace(self, config=config)

    @property
    def about(self) -> dict | None:
        """Everything that moves what is found, as plain JSON values; None when nothing is."""
        if not self.config.documents:
            return None
        return {"bank_sha256": self.sha256, "bank_size": len(self.bank)} | to_dict(self.config)


def load_retriever(
    folder: Path,
    config: RetrievalConfig,
    digests: dict[str, str],
    tokens: Path | None = None,
    *,
    clip: str | None = None,
    index: Path | None = None,
) -> Retriever:
    """The retriever shipped beside a model, with `clip/` and `bank/` of `folder`; or with the
    documents of `tokens`, a folder that `cm3leon encode` made with that CLIP.

    `clip` names another CLIP (`clip.load_clip`), `index` what `cm3leon index` made of `tokens`.
    `digests` are those of the "text" and "vq" tokenizers, which the bank's tokens must be of.
    Raises UserError for other tokenizers, another CLIP, and files that are missing or damaged.
    """
    encoder = load_clip(clip or folder / "clip")
    if tokens is None:
        where = folder / "bank" / BANK
        documents = unpack(where)
        bank, digest = documents.bank, documents.sha256
    else:
        where, documents = tokens, TokenCache(tokens)
        bank = MemoryBank.of_cache(documents) if index is None else MemoryBank.load(index)
        if index is not None and bank.ids != documents.ids:
            raise UserError(f"the bank {index} was not made of {tokens}; index it again")
        digest = bank_digest(bank, documents)
    for part, wanted in digests.items():
        check_tokens(where, part, documents.about[f"{part}_sha256"], wanted)
    return Retriever(encoder, bank, documents, config, digest)


def check_tokens(where: Path, part: str, found: str, wanted: str) -> None:
    """Raise UserError unless the documents' tokens are those the model was trained with."""
    if found != wanted:
        raise UserError(
            f"{where} holds {part} tokens of {str(found)[:12]}, the model was trained with "
            f"{str(wanted)[:12]}; encode the documents again"
        )


def bank_digest(bank: MemoryBank, cache: TokenCache) -> str:
    """Names what a token cache holds, and the vectors that find it."""
    digest = hashlib.sha256(json.dumps(cache.about, sort_keys=True).encode())
    digest.update(bank.vectors.tobytes())
    return digest.hexdigest()
