"""Records of tasks: `{task, segments, source}`, each segment a text or a picture with a role.

Role `prompt` is what a model is given, `target` what it answers. Neighbouring texts are the pieces
of one text and join without anything between them (`Question: what colour? Answer:`, ` red`, `.`);
between a text and a picture, and between two pictures, stands a `<break>`. Encoded, a segment has
token ids in its tokenizer's own space: what `tasks.rows` makes rows of.

Axes: H height, W width, 3 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from cm3leon.errors import UserError
from cm3leon.images import check_picture
from cm3leon.tokenizers.text import TextTokenizer

ROLES = ("prompt", "target")
KINDS = ("text", "image")


@dataclass(frozen=True, eq=False)
class Segment:
    """A text or a uint8 picture [H,W,3], and its role; UserError for anything else."""

    role: str
    text: str | None = None
    image: np.ndarray | None = None

    def __post_init__(self):
        if self.role not in ROLES:
            raise UserError(f"a segment's role is {' or '.join(ROLES)}, got {self.role!r}")
        if (self.text is None) == (self.image is None):
            raise UserError(f"a {self.role} segment is either a text or an image, got both or none")
        if self.image is not None:
            check_picture(self.image)
        elif not isinstance(self.text, str):
            raise UserError(f"a segment's text must be a string, got {self.text!r}")

    @property
    def kind(self) -> str:
        """ "text" or "image"."""
        return "text" if self.image is None else "image"


@dataclass(frozen=True, eq=False)
class Record:
    """What one task asks and what is right: its name, its segments, and where it comes from.

    Raises UserError for a record without segments or without a target, and for a blank one.
    """

    task: str
    segments: tuple[Segment, ...]
    source: str = ""

    def __post_init__(self):
        object.__setattr__(self, "segments", tuple(self.segments))
        targets = [one for one in self.segments if one.role == "target"]
        if not targets:
            raise UserError(f"a record needs a target segment, {self.task} {self.source} has none")
        if any(one.kind == "text" and not one.text.strip() for one in targets):
            raise UserError(f"the target of a record must not be blank: {self.task} {self.source}")


class Encoded(NamedTuple):
    """An encoded segment: `ids` int32 [T] are text ids or image codes, counted from 0."""

    kind: str  # "text" or "image"
    role: str  # "prompt" or "target"
    ids: np.ndarray


class EncodedRecord(NamedTuple):
    """A record as the tokenizers left it."""

    task: str
    segments: tuple[Encoded, ...]


def encode_pieces(pieces: Sequence[str], tokenizer: TextTokenizer) -> list[list[int]]:
    """Text ids of each piece of one text, each encoded alone, so that a prompt has the same ids
    whatever its answer.

    Joined they decode to the joined text. The tokenizer puts a space before every text: a piece
    that begins with one gives it up, one that does not is encoded behind a sign that is cut away.
    """
    return [_encode_piece(piece, k == 0, tokenizer) for k, piece in enumerate(pieces)]


def _encode_piece(piece: str, first: bool, tokenizer: TextTokenizer) -> list[int]:
    if first or not piece:
        return tokenizer.encode(piece)
    if piece[0] == " " and piece[1:]:
        return tokenizer.encode(piece[1:])
    return _behind(piece, tokenizer)


def _behind(piece: str, tokenizer: TextTokenizer) -> list[int]:
    """Ids of a text inside another: behind a letter, or behind a full stop if it begins with one.
    Neither grows together with what follows.
    """
    before = "." if piece[0].isalnum() else "a"
    return tokenizer.encode(before + piece)[len(tokenizer.encode(before)) :]


def encode_record(
    record: Record, tokenizer: TextTokenizer, codes: Sequence[np.ndarray]
) -> EncodedRecord:
    """A record with the codes [K] of its pictures in their order."""
    segments, pictures = [], iter(codes)
    for kind, run in groupby(record.segments, lambda one: one.kind):
        run = list(run)
        if kind == "text":
            ids = encode_pieces([one.text for one in run], tokenizer)
        else:
            ids = [next(pictures) for _ in run]
        for one, own in zip(run, ids, strict=True):
            segments.append(Encoded(kind, one.role, np.asarray(own, np.int32)))
    return EncodedRecord(record.task, tuple(segments))
