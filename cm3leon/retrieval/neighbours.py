"""Retrieved documents of training samples: found once for every document, drawn anew each epoch.

Section 2.1: two lists of neighbours a document, by its text (with query dropout) and by its image;
three of them, in random order, stand before a sample. How many stand before the samples of a step
is drawn from shares, so that prompts with fewer documents, or none, are learned too (A21).

Axes: N documents, S neighbours found for each, D width of a CLIP vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.config import RetrievalConfig, check
from cm3leon.errors import UserError
from cm3leon.retrieval.select import Query, select, with_modality
from cm3leon.sequence.documents import Document

if TYPE_CHECKING:
    from cm3leon.clip import Clip
    from cm3leon.data.token_cache import Some, TokenCache
    from cm3leon.retrieval.bank import MemoryBank
    from cm3leon.tokenizers.text import TextTokenizer

Shares = Sequence[float]  # of the steps with 0, 1, 2, .. documents before every sample


class Neighbours:
    """The neighbours of every document, as rows of `documents`: int [N, S].

    Raises UserError for shares that are no probabilities or ask for more than S documents.
    """

    def __init__(
        self, rows_NS: np.ndarray, documents: TokenCache, shares: Shares, modality: str = "both"
    ):
        check_shares(shares)
        if len(shares) - 1 > rows_NS.shape[1]:
            raise UserError(
                f"shares ask for up to {len(shares) - 1} documents, {rows_NS.shape[1]} were found"
            )
        self.rows_NS, self.documents = rows_NS, documents
        self.shares, self.modality = tuple(shares), modality

    def count(self, generator: np.random.Generator) -> int:
        """How many documents stand before each sample of a step."""
        found = np.searchsorted(np.cumsum(self.shares), generator.random(), "right")
        return min(int(found), len(self.shares) - 1)  # the sum may fall short of 1 by rounding

    def draw(
        self, index: int, count: int, generator: np.random.Generator, outlines: bool = False
    ) -> list[Document]:
        """`count` of the neighbours of document `index`, without repetition, in random order; as
        `TokenCache.outline` with `outlines`.
        """
        chosen = generator.permutation(self.rows_NS.shape[1])[:count]
        return self._documents(self.rows_NS[index, chosen], outlines)

    def first(self, index: int, count: int) -> list[Document]:
        """The `count` best neighbours of document `index`, best first."""
        return self._documents(self.rows_NS[index, :count])

    def _documents(self, rows_S: np.ndarray, outlines: bool = False) -> list[Document]:
        read = self.documents.outline if outlines else self.documents.document
        found = [read(int(row)) for row in rows_S]
        return [with_modality(document, self.modality) for document in found]


def check_shares(shares: Shares) -> None:
    """Raise UserError unless the shares are probabilities of 0, 1, .. documents."""
    right = len(shares) and all(share >= 0 for share in shares)
    check(
        bool(right) and abs(sum(shares) - 1) < 1e-6,
        "shares of documents",
        "be probabilities of 0, 1, .. documents that sum to 1",
        tuple(shares),
    )


def find_neighbours(
    queries: TokenCache | Some,
    bank: MemoryBank,
    clip: Clip,
    text: TextTokenizer,
    config: RetrievalConfig,
    seed: int,
) -> np.ndarray:
    """Rows of the bank for every document of a cache, best first: int64 [N, config.documents].

    The cache was encoded with `clip`, or with none where texts alone are looked up. With
    `config.query_dropout` the texts are encoded again without the dropped tokens, drawn from
    `seed`; a document of the bank never finds itself. Raises UserError for a cache or bank of
    another CLIP and as in `retrieve.select`.
    """
    own = queries.about["clip_sha256"]
    anew = config.by == "text" and own is None
    for name, digest in (("cache", own), ("bank", bank.clip_sha256)):
        if digest != clip.sha256 and not (anew and digest is own):
            raise UserError(
                f"the {name} was made with CLIP {str(digest)[:12]}, this is {clip.sha256[:12]}; "
                "encode it again"
            )
    from cm3leon.seeds import generator

    if anew or (config.query_dropout and config.by != "image"):
        captions = [text.decode(queries.text(index)) for index in range(len(queries))]
        draws = generator(seed, "query-dropout")
        texts_ND = clip.texts(captions, dropout=config.query_dropout, generator=draws)
    else:
        texts_ND = queries.vectors("text_vectors")
    images_ND = None if anew else queries.vectors("image_vectors")
    query = Query(texts_ND, images_ND, queries.ids)
    return select(query, bank, config, generator(seed, "neighbours"))
