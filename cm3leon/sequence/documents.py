"""One id space for text and image tokens, and the token sequences made of documents.

A sample is `<eos> T1 <break> I1 <break> ... Tq <break> Iq <eos>` (Figure 9): retrieved documents
first, the query last, a `<break>` between any two segments. Pure numpy, no randomness.

Shapes: T tokens of one sequence.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cm3leon.config import VocabularyConfig
from cm3leon.errors import UserError

UNCONDITIONAL_READINGS = ("mask", "drop", "bare")


@dataclass(frozen=True)
class Vocabulary:
    """The id space: text | image codes | sentinels | <pad> <eos> <break> <eom> | filler (2.1).

    `Vocabulary(56320, 8192, 512, multiple=512).size == 65536` at the paper's scale. Sentinel i is
    written `<mask:i>`; `<eom>` closes a masked span. Raises UserError when a size is below 1.
    """

    text_size: int
    image_size: int
    sentinels: int
    multiple: int = 64

    def __post_init__(self):
        VocabularyConfig(self.text_size, self.image_size, self.sentinels, self.multiple)

    @classmethod
    def from_config(cls, config: VocabularyConfig) -> Vocabulary:
        """The vocabulary of a configuration."""
        return cls(config.text_size, config.image_size, config.sentinels, config.multiple)

    @property
    def image_start(self) -> int:
        """Id of image code 0."""
        return self.text_size

    @property
    def image_end(self) -> int:
        """One past the id of the last image code."""
        return self.text_size + self.image_size

    @property
    def pad(self) -> int:
        """Id of <pad>, the first special: every id from here on is a special or filler."""
        return self.image_end + self.sentinels

    @property
    def eos(self) -> int:
        """Id of <eos>, at both ends of a sample."""
        return self.pad + 1

    @property
    def break_(self) -> int:
        """Id of <break>, between segments."""
        return self.pad + 2

    @property
    def eom(self) -> int:
        """Id of <eom>, after a masked span."""
        return self.pad + 3

    @property
    def size(self) -> int:
        """Number of ids, filler included: a multiple of `multiple`."""
        return -(-(self.pad + 4) // self.multiple) * self.multiple

    def text(self, index: int) -> int:
        """Id of text token `index`; UserError outside [0, text_size)."""
        return _within(index, self.text_size, "text token")

    def image(self, code: int) -> int:
        """Id of image code `code`; UserError outside [0, image_size)."""
        return self.image_start + _within(code, self.image_size, "image code")

    def mask(self, index: int) -> int:
        """Id of sentinel <mask:index>; UserError outside [0, sentinels)."""
        return self.image_end + _within(index, self.sentinels, "sentinel")

    def is_text(self, ids) -> np.ndarray:
        """Bool array of the shape of `ids`: which are text tokens."""
        ids = np.asarray(ids)
        return (ids >= 0) & (ids < self.text_size)

    def is_image(self, ids) -> np.ndarray:
        """Bool array of the shape of `ids`: which are image tokens."""
        ids = np.asarray(ids)
        return (ids >= self.image_start) & (ids < self.image_end)

    def is_mask(self, ids) -> np.ndarray:
        """Bool array of the shape of `ids`: which are sentinels."""
        ids = np.asarray(ids)
        return (ids >= self.image_end) & (ids < self.pad)

    def name(self, token: int) -> str:
        """Readable name of one id, for messages: `text 5`, `image 17`, `<mask:0>`, `<break>`."""
        if 0 <= token < self.text_size:
            return f"text {token}"
        if self.image_start <= token < self.image_end:
            return f"image {token - self.image_start}"
        if self.image_end <= token < self.pad:
            return f"<mask:{token - self.image_end}>"
        specials = {self.pad: "<pad>", self.eos: "<eos>", self.break_: "<break>", self.eom: "<eom>"}
        return specials.get(token, "filler" if self.pad < token < self.size else "no token")


def _within(index: int, size: int, what: str) -> int:
    """The index itself, if it lies in [0, size)."""
    if not 0 <= index < size:
        raise UserError(f"{what} must lie in [0, {size}), got {index}")
    return index


def _integers(values: Iterable[int], what: str) -> tuple[int, ...]:
    """The values as a tuple of plain ints."""
    try:
        return tuple(map(operator.index, np.asarray(values).tolist()))
    except (TypeError, ValueError):
        raise UserError(f"{what} must be a flat sequence of integers, got {values!r}") from None


@dataclass(frozen=True)
class Text:
    """A stretch of text: raw text-token ids, 0-based in the tokenizer's own space; may be empty."""

    ids: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "ids", _integers(self.ids, "text ids"))


@dataclass(frozen=True)
class Image:
    """A picture: raw image codes, 0-based in the codebook; never empty."""

    codes: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "codes", _integers(self.codes, "image codes"))
        if not self.codes:
            raise UserError("image codes must not be empty; leave the segment out instead")


@dataclass(frozen=True)
class Mask:
    """A segment that is missing: the sentinel <mask:index> stands in its place."""

    index: int = 0


Segment = Text | Image | Mask


@dataclass(frozen=True)
class Document:
    """Text and image segments in order, neighbours of different modality.

    Caption and picture: `Document.pair`. Text-only and image-only documents have one segment.
    """

    segments: tuple[Text | Image, ...]

    def __post_init__(self):
        segments = tuple(self.segments)
        object.__setattr__(self, "segments", segments)
        if not segments:
            raise UserError("document must have at least one segment, got none")
        for segment in segments:
            if not isinstance(segment, Text | Image):
                raise UserError(f"document segment must be Text or Image, got {segment!r}")
        if any(type(left) is type(right) for left, right in pairwise(segments)):
            raise UserError(f"document segments must alternate in modality, got {segments!r}")

    @classmethod
    def pair(cls, text_ids: Iterable[int], codes: Iterable[int]) -> Document:
        """Caption then picture: one image-text document."""
        return cls((Text(text_ids), Image(codes)))


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt; `asks` is "image" (codes come next) or "text" (what <mask:0> hides)."""

    asks: str
    segments: tuple[Segment, ...]


def build_sample(
    query: Document, retrieved: Sequence[Document], vocabulary: Vocabulary
) -> np.ndarray:
    """Training sample, int64 [T]: `<eos> T1 <break> I1 <break> ... Tq <break> Iq <eos>` (Figure 9).

    d retrieved pairs give 2 <eos> and 2d + 1 <break>. Raises UserError for an id outside its space.
    """
    return _assemble(_flat([*retrieved, query]), [vocabulary.eos], vocabulary)


def build_prompt(
    text_ids: Iterable[int], retrieved: Sequence[Document], vocabulary: Vocabulary
) -> np.ndarray:
    """Text-to-image prompt, int64 [T]: `<eos> docs <break> Tq <break>`; codes follow (2.2)."""
    return _assemble([*_flat(retrieved), Text(text_ids)], [vocabulary.break_], vocabulary)


def build_unconditional_prompt(
    retrieved: Sequence[Document], vocabulary: Vocabulary, reading: str = "mask"
) -> np.ndarray:
    """Text-masked twin of `build_prompt`, int64 [T]: the unconditional stream of Eq. 1-2.

    The paper does not say what becomes of the documents (A32): "mask" keeps them and puts <mask:0>
    for the query's text; "drop" keeps them and puts nothing; "bare" is `<eos> <mask:0> <break>`.
    Without documents all three are the bare one.
    """
    if reading not in UNCONDITIONAL_READINGS:
        known = ", ".join(UNCONDITIONAL_READINGS)
        raise UserError(f"decode.unconditional must be one of {known}, got {reading!r}")
    documents = [] if reading == "bare" else _flat(retrieved)
    query = [] if reading == "drop" and documents else [Mask(0)]
    return _assemble([*documents, *query], [vocabulary.break_], vocabulary)


def build_caption_prompt(
    codes: Iterable[int], retrieved: Sequence[Document], vocabulary: Vocabulary
) -> np.ndarray:
    """Image-to-text prompt, int64 [T]: `<eos> docs <break> <mask:0> <break> image <eos> <mask:0>`.

    The caption and <eom> follow: it is exactly how a training sample with its whole caption masked
    begins, so captioning is infilling (2.2).
    """
    segments = [*_flat(retrieved), Mask(0), Image(codes)]
    return _assemble(segments, [vocabulary.eos, vocabulary.mask(0)], vocabulary)


def image_codes(ids, vocabulary: Vocabulary) -> np.ndarray:
    """Raw codes, int64, of image ids of any shape; UserError names the first other id."""
    ids = np.asarray(ids, dtype=np.int64)
    strange = np.flatnonzero(~vocabulary.is_image(ids))
    if strange.size:
        token = int(ids.reshape(-1)[strange[0]])
        raise UserError(
            f"image ids must lie in [{vocabulary.image_start}, {vocabulary.image_end}), "
            f"got {token} ({vocabulary.name(token)}) at position {strange[0]}"
        )
    return ids - vocabulary.image_start


def parse_segments(ids, vocabulary: Vocabulary) -> tuple[Text | Image, ...]:
    """All segments of a sample in order: lossless for every sample `build_sample` can make.

    Which segments form a document is not in the ids: `parse_sample` recovers it when all are pairs.
    An empty stretch is an empty Text. Raises UserError naming position and id when malformed; a
    rotated sample must go through `objective.unrotate` first.
    """
    ids = _checked(ids, vocabulary)
    if len(ids) < 2 or ids[-1] != vocabulary.eos:
        raise _malformed(ids, len(ids) - 1, vocabulary, "a sample ends with <eos>")
    segments = _parse_chunks(ids, len(ids) - 1, vocabulary)
    for segment, (start, _) in zip(segments, _bounds(ids, len(ids) - 1, vocabulary), strict=True):
        if isinstance(segment, Mask):
            raise _malformed(ids, start, vocabulary, "a sample has no masks; unrotate it first")
    return segments


def parse_sample(ids, vocabulary: Vocabulary) -> list[Document]:
    """Documents of a sample of caption-picture pairs, the query last: `build_sample` undone.

    Lossless when every document is a `Document.pair`. A sample in which text and image do not
    alternate raises UserError: its document boundaries are not in the ids; use `parse_segments`.
    """
    segments = parse_segments(ids, vocabulary)
    kinds = [type(segment) for segment in segments]
    if kinds != [Text, Image] * (len(kinds) // 2):
        shown = " ".join(kind.__name__ for kind in kinds)
        raise UserError(f"sample must be Text Image pairs, got {shown}; use parse_segments")
    return [Document(segments[at : at + 2]) for at in range(0, len(segments), 2)]


def parse_prompt(ids, vocabulary: Vocabulary) -> Prompt:
    """What a prompt holds and asks for, lossless in its segments: the prompt builders undone.

    Not in the ids: the documents' boundaries, and whether a last Text is the query or a text-only
    document of a "drop" prompt. Raises UserError naming position and id when malformed.
    """
    ids = _checked(ids, vocabulary)
    if len(ids) >= 2 and ids[-1] == vocabulary.break_:
        return Prompt("image", _parse_chunks(ids, len(ids) - 1, vocabulary))
    if ids[-1] != vocabulary.mask(0) or len(ids) < 3 or ids[-2] != vocabulary.eos:
        rule = "a prompt ends with <break> or with <eos> <mask:0>"
        raise _malformed(ids, len(ids) - 1, vocabulary, rule)
    segments = _parse_chunks(ids, len(ids) - 2, vocabulary)
    if Mask(0) not in segments:
        raise _malformed(ids, len(ids) - 1, vocabulary, "the prompt before it has no <mask:0>")
    return Prompt("text", segments)


def _flat(documents: Sequence[Document]) -> list[Text | Image]:
    """The segments of all documents, in order."""
    for document in documents:
        if not isinstance(document, Document):
            raise UserError(f"documents must be of type Document, got {type(document).__name__}")
    return [segment for document in documents for segment in document.segments]


def _chunk(segment: Segment, vocabulary: Vocabulary) -> np.ndarray:
    """The ids of one segment, int64, checked against its part of the id space."""
    if isinstance(segment, Mask):
        return np.array([vocabulary.mask(segment.index)], dtype=np.int64)
    if isinstance(segment, Text):
        values, size, offset, what = segment.ids, vocabulary.text_size, 0, "text token"
    else:
        values, size = segment.codes, vocabulary.image_size
        offset, what = vocabulary.image_start, "image code"
    if values:
        _within(min(values), size, what)
        _within(max(values), size, what)
    return np.array(values, dtype=np.int64) + offset


def _assemble(segments: list[Segment], ending: list[int], vocabulary: Vocabulary) -> np.ndarray:
    """`<eos> segment <break> segment ... segment` and the ending, int64 [T]."""
    separator = np.array([vocabulary.break_], dtype=np.int64)
    parts = [np.array([vocabulary.eos], dtype=np.int64)]
    for segment in segments:
        parts += [_chunk(segment, vocabulary), separator]
    parts[-1] = np.array(ending, dtype=np.int64)
    return np.concatenate(parts)


def _malformed(ids: np.ndarray, position: int, vocabulary: Vocabulary, rule: str) -> UserError:
    """The error for a broken sequence: position, id and the rule it breaks."""
    if not len(ids):
        return UserError(f"sequence is empty; {rule}")
    token = int(ids[position])
    return UserError(f"position {position} holds id {token} ({vocabulary.name(token)}); {rule}")


def _checked(ids, vocabulary: Vocabulary) -> np.ndarray:
    """The ids as int64 [T]: at least one, known, starting with <eos>, no padding and no <eom>."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise UserError(f"ids must be integers of shape [T], got {ids.dtype} {list(ids.shape)}")
    ids = ids.astype(np.int64)
    if not len(ids) or ids[0] != vocabulary.eos:
        raise _malformed(ids, 0, vocabulary, "a sequence starts with <eos>")
    known = (ids >= 0) & (ids <= vocabulary.break_) & (ids != vocabulary.pad)
    if not known.all():
        position = int(np.flatnonzero(~known)[0])
        rule = "of the ids behind the sentinels only <eos> and <break> stand in samples and prompts"
        raise _malformed(ids, position, vocabulary, rule)
    return ids


def _bounds(ids: np.ndarray, end: int, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """Half-open bounds of the stretches between breaks in ids[1:end]; empty stretches included."""
    breaks = (np.flatnonzero(ids[1:end] == vocabulary.break_) + 1).tolist()
    return list(zip([1, *(at + 1 for at in breaks)], [*breaks, end], strict=True))


def _parse_chunks(ids: np.ndarray, end: int, vocabulary: Vocabulary) -> tuple[Segment, ...]:
    """The segments of ids[1:end]."""
    inner = np.flatnonzero(ids[1:end] == vocabulary.eos)
    if inner.size:
        raise _malformed(ids, int(inner[0]) + 1, vocabulary, "<eos> stands only at the two ends")
    return tuple(_parse_chunk(ids, *bounds, vocabulary) for bounds in _bounds(ids, end, vocabulary))


def _parse_chunk(ids: np.ndarray, start: int, end: int, vocabulary: Vocabulary) -> Segment:
    """The segment in ids[start:end]: text, image codes or one sentinel, never a mixture."""
    chunk = ids[start:end]
    for test, make, offset in (
        (vocabulary.is_text, Text, 0),
        (vocabulary.is_image, Image, vocabulary.image_start),
    ):
        fits = test(chunk)
        if fits.all():
            return make((chunk - offset).tolist())
        if fits[0]:
            position = start + int(np.flatnonzero(~fits)[0])
            rule = f"it follows {make.__name__} tokens; a <break> must part segments"
            raise _malformed(ids, position, vocabulary, rule)
    if len(chunk) > 1:
        raise _malformed(ids, start + 1, vocabulary, "a sentinel stands alone in its segment")
    return Mask(int(chunk[0]) - vocabulary.image_end)
