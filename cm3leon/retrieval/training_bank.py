"""The memory bank of a training: found by its folder, checked, and without what is held out.

Axes: N queries or documents of the bank, K documents kept, S documents found for a query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cm3leon.config import RetrievalConfig, to_dict
from cm3leon.data import locks, shards
from cm3leon.data import token_cache as caches
from cm3leon.data.token_cache import Some, TokenCache
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.identity import read_array, write_array
from cm3leon.progress import alive
from cm3leon.retrieval import bank as banks
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.neighbours import find_neighbours
from cm3leon.seeds import derive

if TYPE_CHECKING:
    from cm3leon.clip import Clip
    from cm3leon.tokenizers.text import TextTokenizer


PART = 2**20  # queries whose documents are found at once, by one process


class Place(NamedTuple):
    """Where a bank lies: the cache with its documents, and what `cm3leon index` made of it."""

    cache: Path
    index: Path | None = None


@dataclass(frozen=True)
class TrainingBank:
    """A bank's documents, found once for all queries of a cache and kept in `folder`.

    Documents with the ids `left_out` are never found.
    """

    place: Place
    documents: TokenCache
    clip: Clip
    text: TextTokenizer
    folder: Path
    left_out: Sequence[str] = ()
    device: str = "cpu"

    @cached_property
    def searched(self) -> tuple[MemoryBank, np.ndarray]:
        """The bank without what is left out, and each of its rows among all: int64 [K]."""
        return without(open_bank(self.place, self.documents), self.left_out)

    def rows(self, queries: TokenCache, config: RetrievalConfig, seed: int) -> np.ndarray:
        """Documents found for each of the queries, best first: int64 [N, S].

        Found in parts, beside other processes that look for the same.
        """
        index = None if self.place.index is None else banks.read_about(self.place.index)
        what = [queries.about, self.documents.about, index, list(self.left_out)]
        what += [to_dict(config), seed]
        name = f"neighbours-{sha256_bytes(json.dumps(what).encode())[:12]}"
        spans = [range(at, min(at + PART, len(queries))) for at in range(0, len(queries), PART)]
        tails = [f"-{number:05d}" for number in range(len(spans))] if len(spans) > 1 else [""]
        paths = [self.folder / f"{name}{tail}.npy" for tail in tails]

        def there(number: int) -> bool:
            return read_array(paths[number]) is not None

        def found(number: int) -> Callable[[], None]:
            own = seed if not number else derive(seed, "part", number)
            part = Some(queries, spans[number])
            bank, kept_K = self.searched
            found_NS = find_neighbours(part, bank, self.clip, self.text, config, own)
            return partial(write_array, paths[number], kept_K[found_NS])

        todo = [number for number in range(len(paths)) if not there(number)]  # or damaged
        if todo:
            self.clip.model.to(self.device)
            folder = self.folder / locks.FOLDER
            with alive("documents of every query"):
                locks.share(todo, lambda at: folder / f"{paths[at].stem}.lock", there, found)
            self.clip.model.to("cpu")
            locks.tidy(folder)
        return np.concatenate([read_array(path) for path in paths])


def find_bank(folder: Path, queries: TokenCache) -> Place:
    """The bank in a folder: a token cache, or what `cm3leon index` made of the cache `queries`.

    Raises UserError when it is neither, of other tokenizers, or of another CLIP than the queries;
    nothing large is read.
    """
    wanted = queries.about["clip_sha256"]
    if wanted is None:
        raise UserError(f"{queries.folder} was encoded without a CLIP; encode it again with one")
    if (folder / shards.ABOUT).is_file():
        place, about = Place(folder), caches.read_about(folder)
        for part in ("text_sha256", "vq_sha256"):
            if about.get(part) != queries.about[part]:
                raise UserError(
                    f"{folder} has {part} {str(about.get(part))[:12]}, {queries.folder} "
                    f"{queries.about[part][:12]}; encode both with the same tokenizers"
                )
    elif (folder / banks.ABOUT).is_file():
        place, about = Place(queries.folder, folder), banks.read_about(folder)
        if about.get("source") != queries.about["source"]:
            raise UserError(
                f"{folder} is no bank of {queries.folder}; give the cache it was made of as --bank"
            )
    else:
        raise UserError(
            f"no memory bank at {folder}; name what `cm3leon encode` or `cm3leon index` made"
        )
    if about.get("clip_sha256") != wanted:
        raise UserError(
            f"{folder} was made with CLIP {str(about.get('clip_sha256'))[:12]}, {queries.folder} "
            f"with {wanted[:12]}; encode both with the same --clip"
        )
    return place


def check_clip(queries: TokenCache, clip: Clip) -> None:
    """Raise UserError unless the cache was encoded with this CLIP."""
    found = queries.about["clip_sha256"]
    if found != clip.sha256:
        raise UserError(
            f"{queries.folder} was made with CLIP {str(found)[:12]}, {clip.name} is "
            f"{clip.sha256[:12]}; name the --clip it was encoded with"
        )


def open_documents(place: Place, queries: TokenCache) -> TokenCache:
    """The cache with the bank's documents."""
    same = place.cache.resolve() == queries.folder.resolve()
    return queries if same else TokenCache(place.cache)


def open_bank(place: Place, documents: TokenCache) -> MemoryBank:
    """The bank of these documents; UserError when its index was not made of them."""
    if place.index is None:
        return MemoryBank.of_cache(documents)
    bank = MemoryBank.load(place.index)
    if bank.ids != documents.ids:
        raise UserError(f"the bank {place.index} was not made of {place.cache}; index it again")
    return bank


def without(bank: MemoryBank, ids: Sequence[str]) -> tuple[MemoryBank, np.ndarray]:
    """The bank without the documents of these ids, and the old row of each new one: int64 [K].

    The last documents of a bank are taken from its index; others cost an index built anew. Raises
    UserError when nothing would be left.
    """
    gone = np.unique(bank.rows(ids))
    gone = gone[gone >= 0]
    if not len(gone):
        return bank, np.arange(len(bank))
    kept_K = np.setdiff1d(np.arange(len(bank)), gone)
    last = len(kept_K) == 0 or kept_K[-1] == len(kept_K) - 1
    rows = slice(0, len(kept_K)) if last else kept_K  # a slice copies nothing
    names = [bank.ids[row] for row in kept_K]
    cut = MemoryBank(bank.vectors[rows], names, bank.clip_sha256, bank.source)
    if bank.index is not None and last:
        import faiss

        bank.index.remove_ids(faiss.IDSelectorRange(len(kept_K), len(bank)))
        cut.index, cut.recall = bank.index, bank.recall
    elif bank.index is not None:
        cut.train_index()
    return cut, kept_K
