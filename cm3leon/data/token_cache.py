"""The token cache: documents as the tokenizers left them, in shards on disk (`shards`).

With a CLIP the vectors of pictures and captions lie beside the tokens: what a memory bank and its
queries are made of.

Axes: N documents, T tokens, K codes of a picture, D width of a CLIP vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.data import shards
from cm3leon.data.readers import Form, Readers, Ready, whole
from cm3leon.data.shards import Made
from cm3leon.data.sources import Skipped, Source
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Document

if TYPE_CHECKING:
    from cm3leon.clip import Clip
    from cm3leon.tokenizers.text import TextTokenizer
    from cm3leon.tokenizers.vq import VQ

FORMAT = 3
SMALL = ("texts", "offsets", "captions")  # read into memory
VECTORS = ("image_vectors", "text_vectors")
BATCH = 32  # pictures encoded at once


class TokenCache:
    """A finished cache, open for reading: document i has codes, an id and one or more captions.

    `about` is its identity: the source and, as its "sha256", what was made of it; the digests of
    the tokenizers and the CLIP. `captions` is the most that a document has. `skipped` lists
    (id, reason) of what could not be read. Raises UserError when the folder holds no cache, an
    unfinished one or a damaged one: every digest is checked.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = read_about(self.folder)
        self.has_vectors = self.about["clip_sha256"] is not None
        self.shards = shards.open_shards(self.folder, self.about, SMALL)
        self.skipped = shards.skipped_of(shard["done"] for shard in self.shards)
        counts = [len(shard["codes"]) for shard in self.shards]
        self.starts = np.cumsum([0, *counts])
        most = [np.diff(shard["captions"]).max(initial=0) for shard in self.shards]
        self.captions = int(max(most, default=0))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def codes(self, index: int) -> np.ndarray:
        """Image codes of document `index`, uint16 [K]."""
        shard, row = self._at(index)
        return shard["codes"][row]

    def text(self, index: int, caption: int = 0) -> np.ndarray:
        """Text ids of one caption of document `index`, uint16 [T]; those of a document with fewer
        than `captions` come again in turn.
        """
        shard, row = self._at(index)
        first, last = shard["captions"][row : row + 2]
        at = first + caption % (last - first)
        return shard["texts"][shard["offsets"][at] : shard["offsets"][at + 1]]

    def document(self, index: int, caption: int = 0) -> Document:
        """Caption and picture as a document."""
        return Document.pair(self.text(index, caption), self.codes(index))

    def outline(self, index: int, caption: int = 0) -> Document:
        """A document of the same lengths whose tokens are all 0: nothing of them is read."""
        shard, row = self._at(index)
        first, last = shard["captions"][row : row + 2]
        at = first + caption % (last - first)
        length = int(shard["offsets"][at + 1] - shard["offsets"][at])
        codes = np.zeros(shard["codes"].shape[1], np.uint16)
        return Document.pair(np.zeros(length, np.uint16), codes)

    def address(self, index: int) -> tuple[str, str, int] | None:
        """Dialect, split and index of a document of the embedded world (`scenes.scene`)."""
        source = self.about["source"]
        if source["kind"] != "scenes":
            return None
        return source["dialect"], source["split"], source["start"] + index

    @property
    def mean_text(self) -> float:
        """Text ids of a caption, on average over all."""
        captions = sum(len(shard["offsets"]) - 1 for shard in self.shards)
        return sum(len(shard["texts"]) for shard in self.shards) / captions

    @property
    def ids(self) -> list[str]:
        """Ids of all documents, in order."""
        return [name for shard in self.shards for name in shard["done"]["ids"]]

    def vectors(self, part: str, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """The "image_vectors" or "text_vectors" (of first captions) of all documents, or of some
        in rising order: float32 [N, D].

        Raises UserError when the cache was encoded without a CLIP.
        """
        self._check_vectors()
        if rows is None:
            return np.concatenate([shard[part] for shard in self.shards])
        rows, width = np.asarray(rows, np.int64), self.shards[0][part].shape[1]
        found = [np.empty((0, width), np.float32)]
        numbers = np.searchsorted(self.starts, rows, "right") - 1
        for number in np.unique(numbers):
            found.append(self.shards[number][part][rows[numbers == number] - self.starts[number]])
        return np.concatenate(found)

    def vector_pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image vectors, text vectors) of one shard after the other, for what is too large at
        once; UserError as in `vectors`.
        """
        self._check_vectors()
        yield from ((shard["image_vectors"], shard["text_vectors"]) for shard in self.shards)

    def _check_vectors(self) -> None:
        if not self.has_vectors:
            raise UserError(f"{self.folder} was encoded without a CLIP; encode it again with one")

    def _at(self, index: int) -> tuple[dict, int]:
        if not 0 <= index < len(self):
            raise UserError(f"document must lie in 0..{len(self) - 1}, got {index}")
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.shards[number], index - int(self.starts[number])


class Some:
    """Consecutive documents of a cache, as far as queries need them."""

    def __init__(self, cache: TokenCache, rows: range):
        self.cache, self.rows, self.about = cache, rows, cache.about

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        """As `TokenCache.ids`."""
        return self.cache.ids[self.rows.start : self.rows.stop]

    def text(self, index: int) -> np.ndarray:
        """As `TokenCache.text`."""
        return self.cache.text(self.rows[index])

    def vectors(self, part: str) -> np.ndarray:
        """As `TokenCache.vectors`."""
        return self.cache.vectors(part, self.rows)


def read_about(folder: Path) -> dict:
    """The identity of the finished cache in a folder; see `shards.read_about`."""
    return shards.read_about(folder, FORMAT)


def encode(
    source: Source,
    vq: VQ,
    tokenizer: TextTokenizer,
    folder: str | Path,
    *,
    clip: Clip | None = None,
    workers: int = 0,
) -> TokenCache:
    """Encode all pictures and captions of a source, and vectors with a `clip`; open the cache.

    Continues an unfinished cache, makes anew, and says so on stderr, the shards that are damaged or
    whose source changed; returns a finished one at once. `workers` processes read and crop ahead
    (0: this one; with more, the calling script must guard its main part by
    `if __name__ == "__main__"`). Processes that do the same share the shards. Raises
    UserError for a folder that holds another cache, for ids beyond uint16 or that repeat, for a
    full disk, when a reading process dies and when nothing at all could be read.
    """
    folder = Path(folder)
    with Readers(workers) as readers:
        work = Work(source, vq, tokenizer, clip, readers)
        shards.build(source, folder, _about(source, vq, tokenizer, clip), work.make)
        return TokenCache(folder)


class Work:
    """Shards of a source made one by one, by these tokenizers."""

    def __init__(
        self, source: Source, vq: VQ, tokenizer: TextTokenizer, clip: Clip | None, readers
    ):
        self.source, self.vq, self.tokenizer, self.clip = source, vq, tokenizer, clip
        self.readers = readers
        crop = None if clip is None else getattr(clip, "crop", None) or whole
        self.form = Form(vq.config.resolution, crop)

    def make(self, number: int, advance: Callable[[int], object]) -> Made:
        """One shard."""
        clip = self.clip
        ids, skipped, digests, codes, texts, counts = [], [], [], [], [], []
        vectors = {part: [np.empty((0, clip.width), np.float32)] for part in VECTORS if clip}
        parts = self.readers.load(self.source.parts(number), self.form)
        while batch := list(islice(parts, BATCH)):
            digests += [digest for digest, _ in batch]
            skipped += [item for _, item in batch if isinstance(item, Skipped)]
            read: list[Ready] = [item for _, item in batch if not isinstance(item, Skipped)]
            advance(len(batch))
            if not read:
                continue
            ids += [item.id for item in read]
            counts += [len(item.captions) for item in read]
            squares = np.stack([item.square for item in read])
            codes.append(self.vq.encode(squares).cpu().numpy().astype(np.uint16))
            captions = [text for item in read for text in item.captions]
            texts += self.tokenizer.encode_batch(captions)
            if clip:
                vectors["image_vectors"].append(clip.images([item.picture for item in read]))
                firsts = [item.captions[0] for item in read]
                vectors["text_vectors"].append(clip.texts(firsts))
        grid = self.vq.config.grid
        arrays = {
            "codes": np.concatenate(codes) if codes else np.empty((0, grid**2), np.uint16),
            "texts": np.array([token for text in texts for token in text], dtype=np.uint16),
            "offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
            "captions": np.cumsum([0, *counts], dtype=np.int64),
        } | {part: np.concatenate(found) for part, found in vectors.items()}
        return Made(ids, skipped, digests, arrays)


def _about(source: Source, vq, tokenizer, clip) -> dict:
    """The identity of a cache: everything its bytes depend on."""
    about = shards.about(source, vq, tokenizer, FORMAT)
    return about | {"clip_sha256": clip.sha256 if clip else None}
