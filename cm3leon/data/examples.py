"""Examples of tasks as data sets hold them: pictures by name, and one or more texts about them.

A layout (`data.layouts`) reads a data set into parts, each of which any process can load for
itself; a task's templates make records of them (`tasks.task`). An example knows nothing of
templates, a task nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from cm3leon.data.sources import SHARD, Skipped, bytes_of, chunk, stamp_of
from cm3leon.errors import UserError
from cm3leon.identity import joined
from cm3leon.images import decode_picture


class Example(NamedTuple):
    """`pictures` uint8 [H,W,3] by field; `texts` one dict of fields for each record to be made,
    `names` what to call them.
    """

    names: tuple[str, ...]
    pictures: dict[str, np.ndarray]
    texts: tuple[dict[str, str], ...]

    @classmethod
    def of(cls, name: str, pictures: dict[str, np.ndarray], texts: Iterable[dict]) -> Example:
        """With its records numbered, where there are several."""
        texts = tuple(texts)
        names = (name,) if len(texts) == 1 else tuple(f"{name}#{k}" for k in range(len(texts)))
        return cls(names, pictures, texts)


class ExamplePart(Protocol):
    """An example as it lies on disk."""

    id: str

    def digest(self) -> str:
        """Hex SHA-256 of its bytes; no picture is decoded."""

    def load(self) -> tuple[str, Example | Skipped]:
        """The digest and the example, or what is wrong with it."""

    def seen(self) -> tuple[list[Path], list[str]]:
        """Files it is read from, and what it was told beside: what a stamp looks at."""


class Shown(NamedTuple):
    """An example of picture files by field, its texts already read."""

    id: str
    pictures: dict[str, Path]
    texts: tuple[dict[str, str], ...]

    def digest(self) -> str:
        """As `ExamplePart.digest`."""
        return self._digest({name: bytes_of(one) for name, one in self.pictures.items()})

    def load(self) -> tuple[str, Example | Skipped]:
        """As `ExamplePart.load`."""
        data = {name: bytes_of(one) for name, one in self.pictures.items()}
        digest = self._digest(data)
        try:
            paths = self.pictures
            pictures = {
                name: decode_picture(readable(one, paths[name]), paths[name])
                for name, one in data.items()
            }
        except UserError as error:
            return digest, Skipped(self.id, str(error))
        return digest, Example.of(self.id, pictures, self.texts)

    def seen(self) -> tuple[list[Path], list[str]]:
        """As `ExamplePart.seen`."""
        return list(self.pictures.values()), [self.id, *map(told, self.texts)]

    def _digest(self, data: Mapping[str, bytes | OSError]) -> str:
        parts = [self.id, *map(told, self.texts)]
        for name, one in sorted(data.items()):
            parts += [name, f"error {one.errno}" if isinstance(one, OSError) else one]
        return joined(parts)


def readable(data: bytes | OSError, path: Path) -> bytes:
    """A file's bytes; UserError where they could not be read."""
    if isinstance(data, OSError):
        raise UserError(f"cannot read {path}: {data.strerror}")
    return data


def told(texts: Mapping[str, str]) -> str:
    """Fields as one text, for digests."""
    return repr(sorted(texts.items()))


@dataclass(frozen=True)
class Examples:
    """The parts of a data set as a source, read shard by shard; `more` says what it is of.

    Raises UserError where there is none.
    """

    kind: str
    all: Sequence[ExamplePart]
    lost: Sequence[Skipped] = ()
    more: dict = field(default_factory=dict)
    shard: int = SHARD

    def __post_init__(self):
        if not self.all:
            first = self.lost[0] if self.lost else Skipped(self.kind, "it is empty")
            raise UserError(f"no example to encode; the first: {first.id}: {first.reason}")

    @property
    def about(self) -> dict:
        """Kind, and the names found."""
        ids = joined(part.id for part in self.all)
        about = {"kind": self.kind, "fingerprint": ids, "count": len(self.all), "shard": self.shard}
        return about | self.more

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.all) // self.shard)

    def parts(self, shard: int) -> Iterator[ExamplePart | Skipped]:
        """The examples of a shard; before the first, what is lost."""
        yield from self.lost if shard == 0 else ()
        yield from self._own(shard)

    def stamp(self, shard: int) -> str:
        """Of the files of a shard, and of what is said of them."""
        paths, said = [], []
        for part in self._own(shard):
            own, beside = part.seen()
            paths += own
            said += beside
        return stamp_of(paths, [said, *(self.lost if shard == 0 else ())])

    def _own(self, shard: int) -> Iterator[ExamplePart]:
        return (self.all[index] for index in chunk(len(self.all), self.shard, shard))
