"""The memory bank: one unit vector a document, searched by inner product.

A document's vector is the normalised mean of its normalised text and image vectors (A25). Search is
exact up to `EXACT` documents and by an index above (`index`), whose recall against exact search is
measured when it is built and stored. On disk: `vectors.npy` (memory-mapped), `ids.json`,
`bank.json`, and `index.faiss` where there is one; `parts` makes them of caches of any size.

Axes: Q queries, N documents, D width of a vector, K results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import atomic_file, parse_json, sha256_file, write_atomic
from cm3leon.identity import check_file, read_sealed, seal
from cm3leon.retrieval import index as indexes

if TYPE_CHECKING:
    from cm3leon.clip import Clip
    from cm3leon.data.token_cache import TokenCache

EXACT = 1_000_000  # documents up to which every vector is compared
FORMAT = 2
BATCH = 256
LENGTH_TOLERANCE = 1e-3
ABOUT, VECTORS, IDS, INDEX = "bank.json", "vectors.npy", "ids.json", "index.faiss"
FIELDS = {"clip_sha256": str, "source": dict, "count": int, "width": int, "files": dict}


class MemoryBank:
    """Unit vectors [N,D] with the ids of their documents; rows are numbered 0..N-1.

    `clip_sha256` names the weights that made the vectors, `source` says what the documents are.
    Raises UserError for no documents, ids that repeat and vectors that are not unit float32, unless
    they were `checked`.
    """

    def __init__(
        self,
        vectors_ND: np.ndarray,
        ids: Sequence[str],
        clip_sha256: str,
        source: dict,
        checked: bool = False,
    ):
        if not len(vectors_ND):
            raise UserError("a memory bank needs at least one document, got none")
        if vectors_ND.ndim != 2 or len(ids) != len(vectors_ND):
            raise UserError(
                f"a memory bank needs one vector an id, got {list(vectors_ND.shape)} vectors "
                f"and {len(ids)} ids"
            )
        if not checked:
            check_vectors(vectors_ND, vectors_ND.shape[1], "vectors of the bank")
        self.vectors, self.ids = vectors_ND, list(ids)
        self.clip_sha256, self.source = clip_sha256, source
        self.row_of = {name: row for row, name in enumerate(self.ids)}
        if len(self.row_of) < len(self.ids):
            twice = next(name for row, name in enumerate(self.ids) if self.row_of[name] != row)
            raise UserError(f"id {twice!r} stands twice in the bank; ids must differ")
        self.index = None  # of faiss, where exact search would be too slow
        self.recall: float | None = None  # of the index at 10 against exact search
        self.cache: Path | None = None  # where the documents lie, as far as it is known

    @classmethod
    def build(
        cls,
        documents: Iterable[tuple[str, str | None, np.ndarray | None]],
        clip: Clip,
        source: dict,
        *,
        exact: int = EXACT,
    ) -> MemoryBank:
        """A bank of (id, text, picture uint8 [H,W,3]) triples; text or picture may be None.

        Above `exact` documents an inverted file is trained and its recall measured.
        """
        ids, parts = [], []
        for batch in _batches(documents, BATCH):
            names, texts, images = zip(*batch, strict=True)
            ids += names
            parts.append(document_vectors(texts, images, clip))
        vectors_ND = np.concatenate(parts) if parts else np.empty((0, clip.width), np.float32)
        bank = cls(vectors_ND, ids, clip.sha256, source)
        if len(bank) > exact:
            bank.train_index()
        return bank

    @classmethod
    def of_cache(cls, cache: TokenCache, *, exact: int = EXACT) -> MemoryBank:
        """A bank of the documents of a token cache with vectors: row i is document i.

        A document's text is its first caption.
        """
        vectors_ND = np.concatenate([unit(a + b) for a, b in cache.vector_pairs()])
        bank = cls(vectors_ND, cache.ids, cache.about["clip_sha256"], cache.about["source"])
        bank.cache = Path(cache.folder).resolve()
        if len(bank) > exact:
            bank.train_index()
        return bank

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.vectors.shape[1]

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Row of each id, int64; -1 for one that the bank does not hold."""
        return np.array([self.row_of.get(name, -1) for name in ids], np.int64)

    def check_clip(self, clip: Clip) -> None:
        """Raise UserError unless `clip` has the weights that made this bank."""
        if clip.sha256 != self.clip_sha256:
            raise UserError(
                f"the bank was built with CLIP weights {self.clip_sha256[:12]}, this CLIP has "
                f"{clip.sha256[:12]}; build the bank again or name the other CLIP"
            )

    def search(self, vectors_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32, rows int64) [Q, count], best first; row -1 where the index ran out.

        Raises UserError for vectors of another width than the bank's, and for a count out of range.
        """
        if not 1 <= count <= len(self):
            raise UserError(f"count of results must lie in 1..{len(self)}, got {count}")
        queries_QD = np.ascontiguousarray(vectors_QD, np.float32)
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.width:
            shape = list(queries_QD.shape)
            raise UserError(f"queries must be vectors [Q, {self.width}], got {shape}")
        if self.index is not None:
            return indexes.search(self.index, self.vectors, queries_QD, count)
        return self.search_exact(queries_QD, count)

    def search_exact(self, vectors_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, by comparing all vectors."""
        import faiss

        return faiss.knn(vectors_QD, self.vectors, count, metric=faiss.METRIC_INNER_PRODUCT)

    def train_index(
        self,
        wanted: float = indexes.RECALL_WANTED,
        kind: str = "ivf",
        code_bytes: int = indexes.CODE_BYTES,
    ) -> None:
        """Build an index of a kind (`index.KINDS`), and have as many of its lists searched as the
        wanted recall needs.
        """
        sample_ND = self.vectors[indexes.sample(len(self), kind)]
        self.index = indexes.train(sample_ND, len(self), kind, code_bytes)
        indexes.add(self.index, self.vectors)
        self.recall = indexes.tune(self.index, self.vectors, wanted)

    def save(self, folder: str | Path) -> None:
        """Write the bank; `bank.json`, which names the digests of the rest, comes last."""
        with atomic_file(Path(folder) / VECTORS) as file:
            np.save(file, self.vectors, allow_pickle=False)
        self.save_beside(folder)

    def save_beside(self, folder: str | Path, made: str | None = None) -> None:
        """Write all but the vectors, which lie in the folder; `made` names what was made of what
        (`parts`).
        """
        folder = Path(folder)
        write_atomic(folder / IDS, json.dumps(self.ids))
        files = [VECTORS, IDS]
        about = {
            "format": FORMAT,
            "clip_sha256": self.clip_sha256,
            "source": self.source,
            "count": len(self),
            "width": self.width,
            "cache": None if self.cache is None else str(self.cache),
            "made": made,
        }
        if self.index is not None:
            import faiss

            with atomic_file(folder / INDEX) as file:
                faiss.write_index(self.index, faiss.PyCallbackIOWriter(file.write))
            files.append(INDEX)
            about |= {"recall_at_10": self.recall, "lists_searched": self.index.nprobe}
        about["files"] = {name: sha256_file(folder / name) for name in files}
        write_atomic(folder / ABOUT, seal(about))

    @classmethod
    def load(cls, folder: str | Path) -> MemoryBank:
        """Open a saved bank, vectors memory-mapped; UserError when a file is missing or damaged."""
        folder = Path(folder)
        about = read_about(folder)
        for name, digest in about["files"].items():
            check_file(folder / name, digest, way_out(folder))
        vectors_ND = np.load(folder / VECTORS, mmap_mode="r")
        ids = parse_json((folder / IDS).read_bytes(), folder / IDS)
        told = about["clip_sha256"], about["source"]
        bank = cls(vectors_ND, ids, *told, checked=True)  # when it was written: its digest fits
        if INDEX in about["files"]:
            import faiss

            bank.index = faiss.read_index(str(folder / INDEX))
            bank.index.nprobe, bank.recall = about["lists_searched"], about["recall_at_10"]
        return bank


def read_about(folder: Path) -> dict:
    """What `bank.json` says of a saved bank; UserError when it is damaged or of another format."""
    about = read_sealed(folder / ABOUT, FORMAT, way_out(folder))
    for name, kind in FIELDS.items():
        if not isinstance(about.get(name), kind):
            raise UserError(f"{folder / ABOUT} has no {kind.__name__} {name!r}; it is no bank")
    return about


def way_out(folder: Path) -> str:
    """What to do about a bank that is damaged."""
    return f"copy the bank again, or run `cm3leon index CACHE {folder}`"


def document_vectors(
    texts: Sequence[str | None], images: Sequence[np.ndarray | None], clip: Clip
) -> np.ndarray:
    """Normalised means of the unit vectors of the parts a document has: float32 [N, D].

    Raises UserError for a document with neither text nor picture.
    """
    sums_ND = np.zeros((len(texts), clip.width), np.float32)
    for parts, encode in ((texts, clip.texts), (images, clip.images)):
        there = [row for row, part in enumerate(parts) if part is not None]
        if there:
            sums_ND[there] += encode([parts[row] for row in there])
    empty = np.flatnonzero(~sums_ND.any(1))
    if len(empty):
        raise UserError(f"document {empty[0]} of a batch has neither text nor picture")
    return unit(sums_ND)


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors at length 1."""
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def check_vectors(vectors_ND: np.ndarray, width: int, name: str) -> None:
    """Raise UserError unless the vectors are float32 [N, width], finite and of length 1."""
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != width or vectors_ND.dtype != np.float32:
        raise UserError(
            f"{name} must be float32 of width {width}, got {vectors_ND.dtype} "
            f"{list(vectors_ND.shape)}"
        )
    for start in range(0, len(vectors_ND), 2**16):
        lengths_N = np.linalg.norm(vectors_ND[start : start + 2**16], axis=1)
        wrong = np.flatnonzero(~(abs(lengths_N - 1) < LENGTH_TOLERANCE))  # NaN is wrong too
        if len(wrong):
            raise UserError(
                f"{name} must have length 1, row {start + wrong[0]} has {lengths_N[wrong[0]]:.4g}"
            )


def _batches(items: Iterable, size: int) -> Iterable[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
