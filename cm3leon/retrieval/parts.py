"""A bank of a token cache made on disk, in parts, by any number of processes.

The index is learned once, from a sample; vectors and index of each part are made by whoever holds
its lock (`locks`); one process puts them behind one another, in order, measures the recall and
writes the bank. The bytes do not depend on how many made them.

Axes: N documents, D width of a vector.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from cm3leon.data import locks
from cm3leon.data.token_cache import TokenCache
from cm3leon.errors import UserError
from cm3leon.files import atomic_file, sha256_bytes, sha256_file, write_atomic
from cm3leon.identity import check_file, read_sealed, seal
from cm3leon.retrieval import bank as banks
from cm3leon.retrieval import index as indexes
from cm3leon.retrieval.bank import MemoryBank, check_vectors, unit

PART = 2**20  # documents of a part
FORMAT = "bank-parts-1"
LEARNED = "learned"  # the name of the index that no document is in yet


@dataclass(frozen=True)
class Parts:
    """The making of a bank of `cache` in `folder`, with an index of a kind (`index.KINDS`)."""

    cache: TokenCache
    folder: Path
    kind: str = "exact"
    code_bytes: int = indexes.CODE_BYTES

    def make(self) -> MemoryBank:
        """Make the bank beside other processes that do the same, or find it made, and open it."""
        self.cache.vectors("text_vectors", range(0))  # refused before anything is written
        if not self._made():
            count = -(-len(self.cache) // PART)
            if self.kind != "exact":
                locks.once(self._lock(LEARNED), partial(self._there, LEARNED), self.learn)
            locks.share(range(count), self._lock, self._there, self.part)
            locks.once(self._lock("finish"), self._finished, self.finish)
            locks.tidy(self.folder / locks.FOLDER)
        bank = MemoryBank.load(self.folder)
        bank.cache = Path(self.cache.folder).resolve()
        return bank

    @cached_property
    def key(self) -> str:
        """Names what is made: cache, kind of index, and how it is cut."""
        what = [FORMAT, self.cache.about, self.kind, PART]
        what += [self.code_bytes] if self.kind == "ivfpq" else []
        return sha256_bytes(json.dumps(what, sort_keys=True).encode())[:16]

    def _made(self) -> bool:
        """Whether the folder holds this very bank, whole; a damaged one is made again."""
        if not self._finished():
            return False
        try:
            MemoryBank.load(self.folder)
        except UserError as error:
            print(f"indexed anew: {str(error).split(';')[0]}", file=sys.stderr)
            (self.folder / banks.ABOUT).unlink(missing_ok=True)
            return False
        return True

    def _finished(self) -> bool:
        """Whether the folder says that it holds this very bank."""
        if not (self.folder / banks.ABOUT).is_file():
            return False
        try:
            return banks.read_about(self.folder).get("made") == self.key
        except UserError:
            return False

    @property
    def _place(self) -> Path:
        return self.folder / f".parts-{self.key}"

    def _lock(self, name: int | str) -> Path:
        return self.folder / locks.FOLDER / f"{_called(name)}.lock"

    def _there(self, name: int | str) -> bool:
        """Whether a part, or what was learned, is made: by its marker, which comes last."""
        return (self._place / f"{_called(name)}.json").exists() or self._finished()

    def _seal(self, name: int | str, *files: str) -> None:
        digests = {file: sha256_file(self._place / file) for file in files}
        about = {"format": FORMAT, "key": self.key, "part": name, "files": digests}
        write_atomic(self._place / f"{_called(name)}.json", seal(about))

    def _checked(self, name: int | str, suffix: str) -> Path:
        """A file of a part; UserError, and the part is made again next time, for a damaged one."""
        marker, way_out = self._place / f"{_called(name)}.json", "run the same command again"
        file = f"{_called(name)}{suffix}"
        try:
            about = read_sealed(marker, FORMAT, way_out)
            check_file(self._place / file, about["files"].get(file, ""), way_out)
        except UserError:
            marker.unlink(missing_ok=True)
            raise
        return self._place / file

    def _vectors(self, rows: np.ndarray | range) -> np.ndarray:
        """Vectors of documents, float32 [N, D]: a document's text is its first caption."""
        parts = ("image_vectors", "text_vectors")
        return unit(sum(self.cache.vectors(part, rows) for part in parts))

    def learn(self) -> None:
        """The index of no document yet."""
        import faiss

        count = len(self.cache)
        sample_ND = self._vectors(indexes.sample(count, self.kind))
        index = indexes.train(sample_ND, count, self.kind, self.code_bytes)
        with atomic_file(self._place / f"{LEARNED}.faiss") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        self._seal(LEARNED, f"{LEARNED}.faiss")

    def part(self, number: int) -> Callable[[], None]:
        """Vectors and index of a part, and what writes them."""
        rows = range(number * PART, min((number + 1) * PART, len(self.cache)))
        vectors_ND = self._vectors(rows)
        check_vectors(vectors_ND, vectors_ND.shape[1], f"vectors of {self.cache.folder}")
        index = None
        if self.kind != "exact":
            index = self._read(LEARNED)
            indexes.add(index, vectors_ND)
        return partial(self._write, number, vectors_ND, index)

    def _read(self, name: int | str):
        import faiss

        return faiss.read_index(str(self._checked(name, ".faiss")))

    def _write(self, number: int, vectors_ND: np.ndarray, index) -> None:
        name = _called(number)
        files = [f"{name}.npy"]
        with atomic_file(self._place / files[0]) as file:
            np.save(file, vectors_ND, allow_pickle=False)
        if index is not None:
            import faiss

            files.append(f"{name}.faiss")
            with atomic_file(self._place / files[1]) as file:
                faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        self._seal(number, *files)

    def finish(self) -> None:
        """Put the parts behind one another and write the bank."""
        cache, numbers = self.cache, range(-(-len(self.cache) // PART))
        files = [np.load(self._checked(number, ".npy"), mmap_mode="r") for number in numbers]
        shape = (len(cache), files[0].shape[1])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with atomic_file(self.folder / banks.VECTORS) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for vectors_ND in files:
                for start in range(0, len(vectors_ND), indexes.AT_ONCE):
                    file.write(indexes.block(vectors_ND, start, start + indexes.AT_ONCE).tobytes())
        vectors_ND = np.load(self.folder / banks.VECTORS, mmap_mode="r")
        about = cache.about["clip_sha256"], cache.about["source"]
        bank = MemoryBank(vectors_ND, cache.ids, *about, checked=True)
        bank.cache = Path(cache.folder).resolve()
        if self.kind != "exact":
            bank.index = merged(self._read(number) for number in numbers)
            bank.recall = indexes.tune(bank.index, vectors_ND)
        bank.save_beside(self.folder, made=self.key)
        shutil.rmtree(self._place, ignore_errors=True)


def merged(parts):
    """The index of all documents from those of its parts, in order; the parts are used up."""
    parts = iter(parts)
    whole = next(parts)
    for part in parts:
        whole.merge_from(part, whole.ntotal)
    return whole


def _called(name: int | str) -> str:
    return f"{name:05d}" if isinstance(name, int) else name
