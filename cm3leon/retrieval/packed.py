"""A memory bank with its documents in one file, small enough to ship.

`cm3leon encode` leaves shards and `cm3leon index` a bank of float32 vectors; here both are one
compressed file: codes and first captions as they are, vectors in half precision.

Axes: N documents, K codes of a picture, T text tokens, D width of a CLIP vector.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import atomic_file, check_unpacked, open_file
from cm3leon.retrieval.bank import MemoryBank, unit
from cm3leon.sequence.documents import Document

if TYPE_CHECKING:
    from cm3leon.data.token_cache import TokenCache

BANK = "bank.npz"  # its name in a folder of weights
FORMAT = 1
ARRAYS = {"codes": "uint16", "texts": "uint16", "offsets": "int64", "vectors": "float16"}


@dataclass(frozen=True)
class Packed:
    """Documents by row, and the bank that finds them. `sha256` is that of the contents."""

    codes_NK: np.ndarray
    texts_T: np.ndarray
    offsets: np.ndarray  # [N + 1], where each document's text starts
    vectors_ND: np.ndarray
    ids: list[str]
    about: dict  # the cache's: source and digests of tokenizers and CLIP
    sha256: str

    def __repr__(self) -> str:
        return f"{len(self):,} documents ({self.sha256[:12]})"

    def __len__(self) -> int:
        return len(self.ids)

    def document(self, row: int) -> Document:
        """Caption and picture of row 0..N-1."""
        text = self.texts_T[self.offsets[row] : self.offsets[row + 1]]
        return Document.pair(text, self.codes_NK[row])

    @cached_property
    def bank(self) -> MemoryBank:
        """The memory bank, its vectors at length 1 again."""
        vectors_ND = unit(self.vectors_ND.astype(np.float32))
        return MemoryBank(vectors_ND, self.ids, self.about["clip_sha256"], self.about["source"])


def pack(cache: TokenCache, bank: MemoryBank, path: str | Path) -> None:
    """Write the documents of a cache with the vectors of its bank.

    Raises UserError when the bank was not made of this cache, and for a full disk.
    """
    if bank.ids != cache.ids:
        raise UserError("the bank's ids are not the cache's; index this cache and pack again")
    texts = [cache.text(row) for row in range(len(cache))]
    arrays = {
        "codes": np.concatenate([np.asarray(shard["codes"]) for shard in cache.shards]),
        "texts": np.concatenate(texts),
        "offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
        "vectors": bank.vectors.astype(np.float16),
    }
    about = {"format": FORMAT, **{k: v for k, v in cache.about.items() if k != "format"}}
    text = json.dumps(about | {"ids": bank.ids}).encode()
    with atomic_file(path) as file:
        np.savez_compressed(file, about=np.frombuffer(text, np.uint8), **arrays)


def unpack(path: str | Path) -> Packed:
    """Open a packed bank; UserError when the file is missing, damaged or something else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no packed bank at {path}; `nox -s train_baselines` makes the shipped one")
    check_unpacked(path)
    try:
        with open_file(path) as raw, np.load(raw, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            arrays = {name: file[name] for name in ARRAYS}
        ids, found = about.pop("ids"), about["format"]
    except Exception as error:  # zip, zlib, numpy and JSON each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is no packed bank or damaged: {reason}; copy it again") from None
    if found != FORMAT:
        raise UserError(f"{path} has format {found}, this version reads {FORMAT}")
    for name, kind in ARRAYS.items():
        if arrays[name].dtype != kind:
            raise UserError(f"{path}: {name} must be {kind}, got {arrays[name].dtype}")
    codes, texts, offsets, vectors = arrays.values()
    whole = len(codes) == len(vectors) == len(offsets) - 1 == len(ids) and offsets[-1] == len(texts)
    if not whole:
        raise UserError(f"{path} is damaged: its parts differ in length; copy it again")
    digest = hashlib.sha256(json.dumps([about, ids], sort_keys=True).encode())
    for array in arrays.values():
        digest.update(array.tobytes())
    return Packed(codes, texts, offsets, vectors, ids, about, digest.hexdigest())
