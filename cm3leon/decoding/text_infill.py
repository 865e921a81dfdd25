"""Infilling: what a sentinel hides is written behind the prompt, as the CM3 objective trains it.

A prompt with gaps is a training sample whose spans were moved behind it (`objective.rotate`), cut
off where the first of them begins: `<eos> a <mask:0> star <break> image <eos> <mask:0>`. Hiding the
whole caption is captioning (section 2.2).

Shapes: B samples, T tokens of a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cm3leon.config import check
from cm3leon.decoding.loop import Decoder
from cm3leon.decoding.text import BeamConfig, Continuation, beam_text, continue_text
from cm3leon.errors import UserError
from cm3leon.seeds import derive, uniforms
from cm3leon.sequence.documents import (
    UNCONDITIONAL_READINGS,
    Document,
    Text,
    Vocabulary,
    build_sample,
)
from cm3leon.sequence.masking import Span, rotate
from cm3leon.tokenizers.text import TextTokenizer

MASK = "<mask>"  # how a gap is written in a caption
MOST = 64  # tokens of a span of text, where nothing else is said
STAND_IN = (0,)  # stands for what is hidden until it is cut away: its content does not matter


@dataclass(frozen=True)
class Gaps:
    """A caption with gaps: `pieces` are the k + 1 stretches of text ids around k of them.

    `codes` is its picture, or None when that is hidden too; `documents` stand before the caption.
    The pieces `((), ())` hide the whole caption.
    """

    pieces: tuple[tuple[int, ...], ...]
    codes: tuple[int, ...] | None = None
    documents: tuple[Document, ...] = ()

    @property
    def count(self) -> int:
        """k, gaps in the caption."""
        return len(self.pieces) - 1

    def prompt(self, vocabulary: Vocabulary) -> np.ndarray:
        """Ids int64 [T] up to the <mask:0> behind which the first gap is written.

        A hidden picture has the sentinel after those of the caption's gaps, as in a training sample
        that hides both.
        """
        return self._prompt(vocabulary, with_picture=True)

    def unconditional(self, vocabulary: Vocabulary, reading: str = "mask") -> np.ndarray:
        """The prompt without its picture, int64 [T]: the unconditional or the amateur's stream.

        The paper names none for text. These are the readings of `build_unconditional_prompt` with
        caption and picture exchanged: "mask" keeps the documents and puts a sentinel for the
        picture; "drop" keeps them and puts nothing; "bare" has the sentinel and no documents.
        Without documents all three are the bare one.
        """
        if reading not in UNCONDITIONAL_READINGS:
            known = ", ".join(UNCONDITIONAL_READINGS)
            raise UserError(f"decode.unconditional must be one of {known}, got {reading!r}")
        documents = () if reading == "bare" else self.documents
        without = replace(self, codes=None, documents=documents)
        return without._prompt(vocabulary, with_picture=reading != "drop" or not documents)

    def filled(self, spans: Sequence[Continuation]) -> list[int]:
        """The caption's text ids with what was found for each gap."""
        ids = list(self.pieces[0])
        for span, piece in zip(spans, self.pieces[1:], strict=True):
            ids += [*span.ids, *piece]
        return ids

    def _prompt(self, vocabulary: Vocabulary, with_picture: bool) -> np.ndarray:
        text_ids, gaps = list(self.pieces[0]), []
        for piece in self.pieces[1:]:
            gaps.append(len(text_ids))
            text_ids += [*STAND_IN, *piece]
        codes = STAND_IN if self.codes is None else self.codes
        query = Document.pair(text_ids, codes) if with_picture else Document((Text(text_ids),))
        sample = build_sample(query, self.documents, vocabulary)
        picture = len(sample) - 1 - len(codes)
        start = (picture - 1 if with_picture else len(sample) - 1) - len(text_ids)
        spans = [(start + gap, start + gap + 1) for gap in gaps]
        if with_picture and self.codes is None:
            spans.append((picture, picture + 1))
        return opened(sample, spans, vocabulary)


def opened(sample: np.ndarray, spans: Sequence[Span], vocabulary: Vocabulary) -> np.ndarray:
    """A sample int64 [T] with these spans hidden, up to the sentinel that opens the first span."""
    rotated, _ = rotate(sample, spans, vocabulary)
    return rotated[: len(sample) - sum(end - start - 1 for start, end in spans) + 1]


def find_gaps(caption: str, text: TextTokenizer) -> tuple[tuple[int, ...], ...]:
    """The pieces around each `<mask>` of a caption: one more than there are gaps.

    A gap stands for whole words. Raises UserError for a caption without a gap, for two gaps with
    nothing between them, and for a gap inside a word.
    """
    shown = repr(caption[:40] + "..." if isinstance(caption, str) and caption[40:] else caption)
    if not isinstance(caption, str) or MASK not in caption:
        raise UserError(f"text to fill in must hold {MASK}, got {shown}")
    if re.search(rf"\w{MASK}|{MASK}\w", caption):
        raise UserError(f"{MASK} stands for whole words, put spaces around it: {shown}")
    if re.search(rf"{MASK}\s*{MASK}", caption):
        raise UserError(f"two {MASK} with nothing between them are one; got {shown}")
    first, *rest = caption.split(MASK)
    return (tuple(text.encode(first.rstrip())), *(_after_gap(piece, text) for piece in rest))


def _after_gap(piece: str, text: TextTokenizer) -> tuple[int, ...]:
    """Text ids of what follows a gap: words with their space, a comma or full stop without one."""
    piece = piece.rstrip()
    if not piece or piece[0].isspace():
        return tuple(text.encode(piece.lstrip()))
    before = text.encode("a")  # the tokenizer puts a space before every text; this takes it
    return tuple(text.encode("a" + piece)[len(before) :])


def fill_gaps(
    decoder: Decoder,
    captions: Sequence[Gaps],
    seeds: Sequence[int],
    beam: BeamConfig | None = None,
    most: int = MOST,
) -> list[list[Continuation]]:
    """What each gap of each caption hides, in order; of at most `most` tokens each.

    Sampled with one uniform a token from the caption's own seed, or the best of a beam search,
    which needs no seeds. Several gaps are filled one after the other, each knowing those before it,
    as in a training sample of several spans. Where the picture is hidden one stream stands alone:
    guidance and contrast have nothing to compare. At most `decoder.slots` rows, of a beam search
    its width for each caption, are worked on at once; errors as in `continue_text`.
    """
    check(len(seeds) == len(captions), "seeds", f"be one a caption ({len(captions)})", len(seeds))
    if decoder.slots and beam:
        decoder = replace(decoder, slots=max(1, decoder.slots // beam.width))

    def fill(rows: list[int]) -> list[list[Continuation]]:
        part, own = [captions[row] for row in rows], [seeds[row] for row in rows]
        streams = [[one.prompt(decoder.vocabulary) for one in part]]
        if decoder.decode.streams == 2 and part[0].codes is not None:
            asked = decoder.vocabulary, decoder.decode.unconditional
            streams.append([one.unconditional(*asked) for one in part])
        return _fill(decoder, part, streams, own, beam, most)

    return apart([one.codes is None for one in captions], fill)


def apart(kinds: Sequence[bool], fill: Callable[[list[int]], Sequence]) -> list:
    """What `fill` makes of the rows of each kind, in the order of the rows."""
    found: list = [None] * len(kinds)
    for kind in (False, True):
        rows = [row for row, own in enumerate(kinds) if own == kind]
        for row, one in zip(rows, fill(rows) if rows else (), strict=True):
            found[row] = one
    return found


def _fill(decoder, captions, streams, seeds, beam, most) -> list[list[Continuation]]:
    """`fill_gaps` of captions with these prompts, stream by stream."""
    found: list[list[Continuation]] = [[] for _ in captions]
    for gap in range(max(one.count for one in captions)):
        left = [row for row, one in enumerate(captions) if one.count > gap]
        prompts, without = [*([stream[row] for row in left] for stream in streams), None][:2]
        if beam:
            spans = [best[0] for best in beam_text(decoder, prompts, without, beam, most)]
        else:
            own = [seeds[row] if gap == 0 else derive(seeds[row], "gap", gap) for row in left]
            spans = continue_text(decoder, prompts, without, uniforms(own, most))
        for row, span in zip(left, spans, strict=True):
            found[row].append(span)
            if captions[row].count > gap + 1:
                behind = [*span.ids, decoder.vocabulary.eom, decoder.vocabulary.mask(gap + 1)]
                for stream in streams:
                    stream[row] = np.concatenate([stream[row], behind])
    return found
