"""The record cache: records of tasks as the tokenizers left them, in shards on disk (`shards`).

A picture that several records of a shard show is encoded and kept once. What a row is made of is
`cache[i]`; what could not be read is in `skipped`, by name and reason.

Axes: N records, S segments, X token ids of a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cm3leon.data import shards
from cm3leon.data.readers import Readers
from cm3leon.data.records import KINDS, ROLES, Encoded, EncodedRecord, Record, encode_record
from cm3leon.data.shards import Made
from cm3leon.data.sources import Skipped, Source
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.images import crop_square

if TYPE_CHECKING:
    from cm3leon.tokenizers.text import TextTokenizer
    from cm3leon.tokenizers.vq import VQ

FORMAT = "records-1"
SMALL = ("spans", "kinds", "segments", "tasks")  # read into memory
BATCH = 32  # parts of a source worked on at once


class Bundle(NamedTuple):
    """The records of one part of a source, and what could not be made a record."""

    records: tuple[Record, ...]
    skipped: tuple[Skipped, ...] = ()


class RecordCache:
    """A finished cache of records, open for reading: `cache[i]` is an `EncodedRecord`.

    `about` is its identity: the source and, as its "sha256", what was made of it; the digests of
    the tokenizers; pixels of a picture as "size". `skipped` lists (id, reason) of what could not be
    read. Raises UserError when the folder holds no such cache, an unfinished one or a damaged one:
    every digest is checked.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = read_about(self.folder)
        self.shards = shards.open_shards(self.folder, self.about, SMALL)
        self.skipped = shards.skipped_of(shard["done"] for shard in self.shards)
        self.starts = np.cumsum([0, *(len(shard["tasks"]) for shard in self.shards)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> EncodedRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"record must lie in 0..{len(self) - 1}, got {index}")
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        shard, row = self.shards[number], index - int(self.starts[number])
        parts = []
        for at in range(*shard["segments"][row : row + 2].tolist()):
            start, stop = shard["spans"][at].tolist()
            role, kind = divmod(int(shard["kinds"][at]), len(KINDS))
            ids = np.array(shard["ids"][start:stop], np.int32)
            parts.append(Encoded(KINDS[kind], ROLES[role], ids))
        return EncodedRecord(shard["done"]["tasks"][shard["tasks"][row]], tuple(parts))

    def __iter__(self) -> Iterator[EncodedRecord]:
        return (self[index] for index in range(len(self)))

    @property
    def ids(self) -> list[str]:
        """Names of all records, in order."""
        return [name for shard in self.shards for name in shard["done"]["ids"]]

    @property
    def tasks(self) -> dict[str, int]:
        """Records of each task, by name."""
        found: Counter = Counter()
        for shard in self.shards:
            names = shard["done"]["tasks"]
            found.update(names[at] for at in shard["tasks"].tolist())
        return dict(sorted(found.items()))

    @property
    def lengths(self) -> np.ndarray:
        """Token ids of each record's segments in all, int64 [N]: its row has a few more."""
        found = [np.empty(0, np.int64)]
        for shard in self.shards:
            sums = np.cumsum([0, *(shard["spans"][:, 1] - shard["spans"][:, 0])])
            found.append(np.diff(sums[shard["segments"]]))
        return np.concatenate(found)


def open_records(folder: str | Path) -> RecordCache:
    """The finished record cache in a folder; see `RecordCache`."""
    return RecordCache(folder)


def read_about(folder: Path) -> dict:
    """The identity of the finished cache in a folder; see `shards.read_about`."""
    return shards.read_about(Path(folder), FORMAT)


def encode_records(
    source: Source, vq: VQ, tokenizer: TextTokenizer, folder: str | Path, *, workers: int = 0
) -> RecordCache:
    """Encode all records of a source, whose parts load as a `Bundle`; open the cache.

    Everything else as `token_cache.encode`.
    """
    with Readers(workers) as readers:
        work = Work(source, vq, tokenizer, readers)
        about = shards.about(source, vq, tokenizer, FORMAT)
        shards.build(source, Path(folder), about, work.make, "part")
    return RecordCache(folder)


class Squares(NamedTuple):
    """Records with pictures of `size` pixels a side: the centre squares, as in pretraining.

    Pictures of one record must have one shape: a condition is that of its picture.
    """

    size: int

    def __call__(self, bundle: Bundle) -> Bundle:
        """The records of a part in this form; those that cannot be are skipped."""
        made: dict[int, np.ndarray] = {}
        records, skipped = [], list(bundle.skipped)
        for record in bundle.records:
            try:
                records.append(self._square(record, made))
            except UserError as error:
                skipped.append(Skipped(record.source, str(error)))
        return Bundle(tuple(records), tuple(skipped))

    def _square(self, record: Record, made: dict[int, np.ndarray]) -> Record:
        shapes = {one.image.shape[:2] for one in record.segments if one.kind == "image"}
        if len(shapes) > 1:
            sizes = " and ".join(f"{width} x {height}" for height, width in sorted(shapes))
            raise UserError(f"pictures of one record must have one size, got {sizes} pixels")
        parts = []
        for one in record.segments:
            if one.kind == "image":
                if id(one.image) not in made:
                    made[id(one.image)] = crop_square(one.image, self.size)
                one = type(one)(one.role, image=made[id(one.image)])
            parts.append(one)
        return Record(record.task, tuple(parts), record.source)


class Work:
    """Shards of records made one by one, by these tokenizers."""

    def __init__(self, source: Source, vq: VQ, tokenizer: TextTokenizer, readers: Readers):
        self.source, self.vq, self.tokenizer, self.readers = source, vq, tokenizer, readers
        self.form = Squares(vq.config.resolution)

    def make(self, number: int, advance: Callable[[int], object]) -> Made:
        """One shard."""
        ids, skipped, digests, pool = [], [], [], Pool()
        parts = self.readers.load(self.source.parts(number), self.form)
        while batch := list(islice(parts, BATCH)):
            digests += [digest for digest, _ in batch]
            advance(len(batch))
            records = []
            for _, item in batch:
                if isinstance(item, Skipped):
                    skipped.append(item)
                else:
                    skipped += item.skipped
                    records += item.records
            codes = self._codes(records)
            for record in records:
                own = [codes[key] for key in map(picture_key, pictures_of(record))]
                pool.add(encode_record(record, self.tokenizer, own))
            ids += [record.source for record in records]
        return Made(ids, skipped, digests, pool.arrays, {"tasks": pool.names})

    def _codes(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Codes of each picture, by its digest."""
        found = {picture_key(one): one for record in records for one in pictures_of(record)}
        if not found:
            return {}
        codes = self.vq.encode(np.stack(list(found.values()))).cpu().numpy()
        return dict(zip(found, codes, strict=True))


class Pool:
    """The token ids of a shard's records; equal pictures are kept once."""

    def __init__(self):
        self.ids: list[np.ndarray] = []
        self.spans: list[tuple[int, int]] = []
        self.kinds: list[int] = []
        self.segments, self.tasks, self.names = [0], [], []
        self._size, self._seen = 0, {}

    def add(self, record: EncodedRecord) -> None:
        """Take a record in."""
        for part in record.segments:
            ids = part.ids.astype(np.uint16)
            key = ids.tobytes() if part.kind == "image" else None
            span = self._seen.get(key)
            if span is None:
                span = (self._size, self._size + len(ids))
                self.ids.append(ids)
                self._size = span[1]
                if key is not None:
                    self._seen[key] = span
            self.spans.append(span)
            self.kinds.append(ROLES.index(part.role) * len(KINDS) + KINDS.index(part.kind))
        self.segments.append(len(self.spans))
        if record.task not in self.names:
            self.names.append(record.task)
        self.tasks.append(self.names.index(record.task))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """As they are written."""
        return {
            "ids": np.concatenate([np.empty(0, np.uint16), *self.ids]),
            "spans": np.array(self.spans, np.int64).reshape(-1, 2),
            "kinds": np.array(self.kinds, np.uint8),
            "segments": np.array(self.segments, np.int64),
            "tasks": np.array(self.tasks, np.uint8),
        }


def pictures_of(record: Record) -> list[np.ndarray]:
    """The pictures of a record, in order."""
    return [one.image for one in record.segments if one.kind == "image"]


def picture_key(image: np.ndarray) -> str:
    """A digest of pixels and shape."""
    return sha256_bytes(repr(image.shape).encode() + image.tobytes())
