"""Where a token stands: the row of the position table that each token of a row adds.

The paper says "learned absolute positions" (Table 3) and no more (A61). Read literally a token's
position is its index in the row, "row": then the same cell of a picture stands elsewhere behind
every caption, and the network cannot know its column. "anchored" gives each pair of text and
picture its own stretch of the table, `position_text` places for the text and one for each code:
code k of a picture stands at the same place whatever the caption's length. "grid" has the same
places, but a place's vector is a sum: of a picture's row and column and of the pair, of a text's
index and of the pair.

A place is decided by the ids before it alone (and, for what follows a hidden part of a picture, by
how much is hidden), so that what is read in training and what is drawn stand alike. A moved span
(`objective.rotate`) begins where its sentinel stands. Nothing here imports torch.

Shapes: T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cm3leon.config import ModelConfig
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary


def place(
    ids: np.ndarray,
    vocabulary: Vocabulary,
    config: ModelConfig,
    hidden: Mapping[int, int] | None = None,
) -> np.ndarray:
    """The places of a row, int64 [T]: of a sample, rotated or not, or of a prompt.

    `hidden` tells how many codes the sentinel <mask:i> hides, where a prompt leaves that open: a
    picture with several. Padding stands at 0. Raises UserError for a text, a picture or a number of
    pairs that the table has no places for.
    """
    ids = np.asarray(ids, dtype=np.int64)
    if config.positions == "row":
        return np.arange(len(ids), dtype=np.int64)
    return _Row(ids, vocabulary, config, hidden or {}).places


def text_room(place: int, config: ModelConfig) -> int:
    """Tokens of a text, its <eom> included, that have places from `place` on; 0 where a text has
    none.
    """
    if config.positions == "row":
        return config.context - place
    return max(0, config.position_text - place % config.pair_places)


def place_prompt(
    prompt: np.ndarray,
    follows: int | np.ndarray,
    vocabulary: Vocabulary,
    config: ModelConfig,
    hidden: Mapping[int, int] | None = None,
) -> np.ndarray:
    """The places of a prompt and of the N ids that follow it, int64 [T + N].

    `follows` are stand-ins, of the kind that is to be drawn: a sentinel in a prompt can mean a text
    or a picture until something follows. What is drawn behind the last of them goes on by one.
    Arguments and errors as in `place`.
    """
    return place(np.append(prompt, follows), vocabulary, config, hidden)


class _Row:
    """One row: its segments from left to right, then the spans moved behind it."""

    def __init__(self, ids, vocabulary: Vocabulary, config: ModelConfig, hidden: Mapping[int, int]):
        self.ids, self.vocabulary, self.config, self.hidden = ids, vocabulary, config, hidden
        self.places = np.zeros(len(ids), dtype=np.int64)
        self.stands: dict[int, int] = {}  # a sentinel's place
        end = self._end_of_row()
        self.tail = self._tail(end)
        self._segments(end)
        self._moved()

    def _end_of_row(self) -> int:
        """One past the <eos> that ends the row, or all ids where it does not end."""
        pads = np.flatnonzero(self.ids == self.vocabulary.pad)
        self.length = int(pads[0]) if len(pads) else len(self.ids)
        stops = np.flatnonzero(self.ids[1 : self.length] == self.vocabulary.eos)
        return int(stops[-1]) + 2 if len(stops) else self.length

    def _tail(self, end: int) -> list[tuple[int, int]]:
        """(start, stop) of each moved span, its sentinel included, <eom> too where it has come."""
        starts = np.flatnonzero(self.vocabulary.is_mask(self.ids[end : self.length])) + end
        stops = [*starts.tolist(), self.length][1:]
        return list(zip(starts.tolist(), stops, strict=False))

    def _segments(self, end: int) -> None:
        """Places of the row up to `end`: each <break> and <eos> follows the segment before it."""
        ids, each = self.ids, self.config.pair_places
        stops = np.flatnonzero(
            (ids[:end] == self.vocabulary.break_) | (ids[:end] == self.vocabulary.eos)
        )
        stops = [at for at in stops.tolist() if at]
        pair, before, start = 0, None, 1
        for stop in [*stops, end] if not stops or stops[-1] != end - 1 else stops:
            if start == end:
                break
            picture = self._is_picture(start, stop, before)
            if before is not None and not (picture and before == "text"):
                pair += 1
            before = "picture" if picture else "text"
            if pair >= self.config.position_pairs:
                raise UserError(
                    f"a row of more than {self.config.position_pairs} texts with their pictures "
                    "has no places in this model; use fewer documents"
                )
            if picture:
                after = self._picture(start, stop, pair * each + self.config.position_text)
            else:
                after = self._text(start, stop, pair * each + 1)
            if stop < end:
                self.places[stop] = after
            start = stop + 1

    def _is_picture(self, start: int, stop: int, before: str | None) -> bool:
        """Whether a segment shows, or hides, a picture."""
        ids = self.ids[start:stop]
        if self.vocabulary.is_image(ids).any():
            return True
        if not len(ids) or not self.vocabulary.is_mask(ids).all():
            return False
        for at, end in self.tail:  # what it hides has come, or has begun
            if self.ids[at] in ids and end > at + 1:
                return bool(self.vocabulary.is_image(self.ids[at + 1]))
        follows = self.ids[stop + 1 : stop + 2]
        return before == "text" and not self.vocabulary.is_image(follows).any()

    def _text(self, start: int, stop: int, first: int) -> int:
        """A text at the places from `first` on; returns the place behind it."""
        count, most = stop - start, self.config.position_text - 2  # before it <eos>, behind <break>
        if count > most:
            raise UserError(
                f"a text of {count} tokens has no places in this model, which has {most} for a "
                "text; shorten it"
            )
        self.places[start:stop] = first + np.arange(count)
        self._remember(start, stop)
        return first + count

    def _picture(self, start: int, stop: int, first: int) -> int:
        """A picture's codes in their cells, what is hidden left out; returns the place behind."""
        ids, codes = self.ids[start:stop], self.config.position_grid**2
        steps = np.ones(len(ids), dtype=np.int64)
        masks = np.flatnonzero(self.vocabulary.is_mask(ids)).tolist()
        known = {at: self._hides(int(ids[at])) for at in masks}
        open_ = [at for at, count in known.items() if count is None]
        if open_:  # the picture is whole but for this
            shown = len(ids) - len(masks) + sum(count for count in known.values() if count)
            known |= dict.fromkeys(open_, max(0, codes - shown) if len(open_) == 1 else 0)
        for at, count in known.items():
            steps[at] = count
        cells = np.cumsum(steps) - steps
        if steps.sum() > codes:
            raise UserError(
                f"a picture of {int(steps.sum())} codes has no places in this model, which has "
                f"{codes} for one; use its own image tokenizer"
            )
        self.places[start:stop] = first + cells
        self._remember(start, stop)
        return first + int(steps.sum())

    def _hides(self, sentinel: int) -> int | None:
        """Codes behind a sentinel, where the row or the caller tells."""
        for at, end in self.tail:
            if self.ids[at] == sentinel and self.ids[end - 1] == self.vocabulary.eom:
                return end - at - 2
        return self.hidden.get(sentinel - self.vocabulary.image_end)

    def _remember(self, start: int, stop: int) -> None:
        for at in np.flatnonzero(self.vocabulary.is_mask(self.ids[start:stop])).tolist():
            self.stands[int(self.ids[start + at])] = int(self.places[start + at])

    def _moved(self) -> None:
        """The moved spans: sentinel and first token stand where the sentinel stood."""
        for at, end in self.tail:
            first = self.stands.get(int(self.ids[at]), 0)
            self.places[at] = first
            self.places[at + 1 : end] = np.minimum(
                first + np.arange(end - at - 1), self.config.places - 1
            )
