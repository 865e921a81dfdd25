"""Sources of records: a task asked of a data set's examples, or records as they are in JSON lines.

A line of a record file is `{"task": .., "segments": [..], "source": ..}`; docs/records.md describes
it. A file is checked to its end before anything is read of its pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cm3leon.data.examples import Example, readable
from cm3leon.data.layouts.find import find_examples
from cm3leon.data.record_cache import Bundle
from cm3leon.data.records import ROLES, Record, Segment
from cm3leon.data.sources import SHARD, Item, Skipped, Source, bytes_of, chunk, stamp_of
from cm3leon.errors import UserError
from cm3leon.files import parse_json
from cm3leon.identity import joined
from cm3leon.images import decode_picture
from cm3leon.tasks.task import Task, find_task

BLANK = np.zeros((1, 1, 3), np.uint8)  # stands for a picture that is not read yet


def find_records(
    name: str, task: str | None, tasks: Mapping[str, Task], size: int, wordings: str, **where
) -> Source:
    """The records at a path or address: of a .jsonl file those it holds, which may be of one `task`
    alone; else the task asked of the examples there (`layouts.find.find_examples`).

    Raises UserError for an unknown task, and for none where the file does not tell it.
    """
    known = None if task is None else find_task(task, tasks)
    if name.endswith(".jsonl"):
        return RecordFile(name, tasks, task, where.get("pictures"))
    if known is None:
        raise UserError(f"{name} needs a task: {', '.join(tasks)}")
    return Asked(find_examples(name, task, size, **where), known, wordings)


class AskedPart(NamedTuple):
    """An example with the task that makes records of it."""

    part: object  # `data.examples.ExamplePart`, or a pair of `data.sources`
    task: Task
    wordings: str

    @property
    def id(self) -> str:
        """As of the example."""
        return self.part.id

    def digest(self) -> str:
        """As of the example: the task is told by the source."""
        return self.part.digest()

    def load(self) -> tuple[str, Bundle | Skipped]:
        """The digest and the records, or what is wrong with the example."""
        digest, found = self.part.load()
        if isinstance(found, Skipped):
            return digest, found
        if isinstance(found, Item):  # a captioned picture, as pretraining reads it
            captions = ({"caption": one} for one in found.captions)
            found = Example.of(found.id, {"image": found.image}, captions)
        return digest, self.task.records(found, self.wordings)


@dataclass(frozen=True)
class Asked:
    """A task asked of all examples of a source, each in a wording drawn by its name."""

    examples: Source
    task: Task
    wordings: str = "table"

    def __post_init__(self):
        self.task.wordings(self.wordings)  # its check

    @property
    def about(self) -> dict:
        """That of the examples, with the task and what its records depend on."""
        own = {"task": self.task.name, "task_sha256": self.task.digest, "wordings": self.wordings}
        return self.examples.about | own

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self.examples.shards

    def parts(self, shard: int) -> Iterator[AskedPart | Skipped]:
        """The examples of a shard, with the task."""
        for part in self.examples.parts(shard):
            yield part if isinstance(part, Skipped) else AskedPart(part, self.task, self.wordings)

    def stamp(self, shard: int) -> str:
        """As of the examples."""
        return self.examples.stamp(shard)


class Line(NamedTuple):
    """One line of a record file: its JSON, and the folder of its pictures."""

    id: str
    data: bytes
    folder: Path

    def digest(self) -> str:
        """Hex SHA-256 of the line and of its pictures' files."""
        return self._digest([bytes_of(path) for path in self._paths()])

    def load(self) -> tuple[str, Bundle | Skipped]:
        """The digest and the record, or why its pictures cannot be read."""
        paths = self._paths()
        data = [bytes_of(path) for path in paths]
        pictures = []
        try:
            for path, one in zip(paths, data, strict=True):
                pictures.append(decode_picture(readable(one, path), path))
            record = as_record(json.loads(self.data), self.id, pictures)
        except UserError as error:
            return self._digest(data), Skipped(self.id, str(error))
        return self._digest(data), Bundle((record,))

    def _paths(self) -> list[Path]:
        segments = json.loads(self.data)["segments"]
        return [self.folder / one["image"] for one in segments if "image" in one]

    def _digest(self, data: list[bytes | OSError]) -> str:
        told = (f"error {one.errno}" if isinstance(one, OSError) else one for one in data)
        return joined([self.id, self.data, *told])


class RecordFile:
    """The records of a JSON lines file as a source.

    Raises UserError, naming the line, for one that is no JSON or no record, for an unknown task or
    role, an answer outside its text, a picture outside the folder; and for an empty file.
    """

    def __init__(
        self,
        path: str | Path,
        tasks: Mapping[str, Task],
        only: str | None = None,
        pictures: Path | None = None,
        shard: int = SHARD,
    ):
        self.path, self.folder, self.shard = Path(path), pictures or Path(path).parent, shard
        data = readable(bytes_of(self.path), self.path)
        lines = [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]
        if not lines:
            raise UserError(f"{path} holds no records")
        for number, line in lines:
            self._check(number, line, tasks, only)
        self.lines = [Line(f"{self.path.name}:{n}", line, self.folder) for n, line in lines]
        self.about = {
            "kind": "records",
            "fingerprint": joined(line.id for line in self.lines),
            "count": len(self.lines),
            "shard": shard,
            "task": only,
        }
        self.shards = -(-len(self.lines) // shard)

    def parts(self, shard: int) -> Iterator[Line]:
        """The records of a shard."""
        yield from (self.lines[k] for k in chunk(len(self.lines), self.shard, shard))

    def stamp(self, shard: int) -> str:
        """Of the lines themselves and of the pictures' files."""
        lines = list(self.parts(shard))
        paths = [path for line in lines for path in line._paths()]
        return stamp_of(paths, [[line.data for line in lines]])

    def _check(self, number: int, line: bytes, tasks: Mapping[str, Task], only: str | None) -> None:
        name = f"{self.path} line {number}"
        content = parse_json(line, name)
        try:
            if not isinstance(content, dict):
                raise UserError(f"a record is an object, got {type(content).__name__}")
            segments = content.get("segments")
            shown = segments if isinstance(segments, list) else []
            blanks = [BLANK for one in shown if isinstance(one, dict) and "image" in one]
            record = as_record(content, name, blanks)
            task = find_task(record.task, tasks)
            if only not in (None, record.task):
                raise UserError(f"task is {record.task!r}, asked for are records of {only!r}")
            task.checked(record)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None


def as_record(content: dict, source: str, pictures: list[np.ndarray]) -> Record:
    """The record in an object of a record file, with its pictures in their order.

    Raises UserError for what is no record.
    """
    segments, images = content.get("segments"), iter(pictures)
    if not isinstance(content.get("task"), str) or not isinstance(segments, list):
        raise UserError("a record needs a text 'task' and a list 'segments'")
    if not isinstance(content.get("source", ""), str):
        raise UserError(f"source must be a text, got {content['source']!r}")
    found = []
    for one in segments:
        if not isinstance(one, dict):
            raise UserError(f"a segment is an object, got {one!r}")
        if strange := set(one) - {"role", "text", "image", "answer"}:
            raise UserError(f"a segment has role, text or image, answer; got {min(strange)!r}")
        role = one.get("role")
        if role not in ROLES:
            raise UserError(f"a segment's role is {' or '.join(ROLES)}, got {role!r}")
        if "image" in one:
            _check_path(one["image"])
            found.append(Segment(role, one.get("text"), next(images)))
        else:
            found += _pieces(role, one)
    return Record(content["task"], tuple(found), source)


def _pieces(role: str, one: dict) -> list[Segment]:
    """A text, cut where its answer stands."""
    whole = Segment(role, one.get("text"))
    span = one.get("answer")
    if span is None:
        return [whole]
    length, ends = len(whole.text), span if isinstance(span, list) else ()
    whole_numbers = all(type(end) is int for end in ends)
    if len(ends) != 2 or not whole_numbers or not 0 <= ends[0] < ends[1] <= length:
        raise UserError(f"an answer is [start, stop] inside its text of {length}, got {span!r}")
    start, stop = ends
    if start and whole.text[start - 1] == " ":  # the space before a word is its own
        start -= 1
    cuts = (("prompt", 0, start), ("target", start, stop), ("prompt", stop, length))
    return [Segment(kind, whole.text[a:b]) for kind, a, b in cuts if a < b]


def _check_path(name) -> None:
    """Refuse a picture that is no text, or lies outside the folder."""
    parts = PurePosixPath(name) if isinstance(name, str) else None
    if not name or parts is None or parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise UserError(f"an image is a path inside the folder, got {name!r}")
