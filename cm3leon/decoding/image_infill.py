"""Infilling of pictures: the codes of a box are drawn anew, the others stay as they are.

Three ways to ask the model, all of which it was trained for:
- "forward": the codes before the first hidden one are the prompt; from there on every place is
  visited in order, hidden codes are drawn and known ones put in by force. What follows is not seen.
- "span": one span from the first to the last hidden code moves behind the picture (section 2.2), so
  that what follows is seen; known codes inside the span are put in by force.
- "spans": every run of hidden codes is a span of its own, so that all known codes are seen.

Shapes: S streams, B samples, N codes of a picture, M planned places, G codes a side of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from cm3leon.config import check
from cm3leon.decoding.config import EditGuidance
from cm3leon.decoding.images import DRAW, Plan, draw_plans
from cm3leon.decoding.loop import Decoder
from cm3leon.decoding.text_infill import apart, opened
from cm3leon.errors import UserError
from cm3leon.seeds import derive, uniforms
from cm3leon.sequence.documents import (
    Document,
    Vocabulary,
    build_prompt,
    build_sample,
    build_unconditional_prompt,
)
from cm3leon.sequence.masking import Span

METHODS = ("forward", "span", "spans")


@dataclass(frozen=True)
class Hole:
    """A picture with hidden codes: `codes` [N], `hidden` [N], which of them are to be drawn.

    `text_ids` is its caption, None where there is none; `documents` stand before it. Raises
    UserError when nothing is hidden.
    """

    codes: tuple[int, ...]
    hidden: tuple[bool, ...]
    text_ids: tuple[int, ...] | None = None
    documents: tuple[Document, ...] = ()

    def __post_init__(self):
        check(len(self.codes) == len(self.hidden), "hidden", "have one value a code",
              len(self.hidden))  # fmt: skip
        check(any(self.hidden), "hidden", "hide at least one code", "none")

    @property
    def bounds(self) -> Span:
        """First hidden code, and one past the last."""
        places = np.flatnonzero(self.hidden)
        return int(places[0]), int(places[-1]) + 1

    @property
    def runs(self) -> list[Span]:
        """The maximal runs of hidden codes, in order."""
        runs, at = [], 0
        for hidden, run in groupby(self.hidden):
            start, at = at, at + len(list(run))
            if hidden:
                runs.append((start, at))
        return runs

    def plan(self, vocabulary: Vocabulary, method: str = "forward", rest: bool = False) -> Plan:
        """Prompt, and what follows it place by place. `rest`: known codes behind the last hidden
        one follow too, so that they can be scored ("forward" alone, which has not seen them).
        """
        start, end = self.bounds
        ids_N = np.array(self.codes, dtype=np.int64) + vocabulary.image_start
        planned_N = np.where(self.hidden, DRAW, ids_N)
        if method == "forward":
            prompt = self._caption(vocabulary, "mask")
            stop = len(ids_N) if rest else end
            return Plan(np.concatenate([prompt, ids_N[:start]]), planned_N[start:stop])
        check(method in METHODS, "method", f"be one of {', '.join(METHODS)}", method)
        spans = [(start, end)] if method == "span" else self.runs
        prompt, first = self._rotated(vocabulary, spans)
        parts = []
        for index, (left, right) in enumerate(spans):
            if index:
                parts.append([vocabulary.eom, vocabulary.mask(first + index)])
            parts.append(planned_N[left:right])
        return Plan(prompt, np.concatenate(parts))

    def unconditional(
        self, vocabulary: Vocabulary, method: str, reading: str, rest: bool = False
    ) -> Plan:
        """The plan without the caption: the unconditional stream (A32), which still sees the
        picture. `reading` is of the documents, as in `build_unconditional_prompt`.
        """
        documents = () if reading == "bare" else self.documents
        without = replace(self, text_ids=None, documents=documents)
        plan = without.plan(vocabulary, method, rest)
        if method != "forward":
            return plan
        # The one that can leave the sentinel out.
        before = plan.prompt[len(plan.prompt) - self.bounds[0] :]
        prompt = build_unconditional_prompt(documents, vocabulary, reading)
        return replace(plan, prompt=np.concatenate([prompt, before]))

    def blind(self, vocabulary: Vocabulary, reading: str, rest: bool = False) -> Plan:
        """The "forward" plan without caption and without the codes before the hidden ones: what
        editing calls unconditional. A sentinel stands for either, as where both are hidden in
        training.
        """
        plan, start = self.unconditional(vocabulary, "forward", reading, rest), self.bounds[0]
        if not start:
            return plan
        shown = plan.prompt[: len(plan.prompt) - start]
        return Plan(np.append(shown, vocabulary.mask(1)), plan.planned, {1: start})

    def filled(self, drawn: Sequence[int]) -> np.ndarray:
        """The codes int64 [N] with these in the hidden places."""
        codes_N = np.array(self.codes, dtype=np.int64)
        codes_N[np.array(self.hidden)] = drawn
        return codes_N

    def _caption(self, vocabulary: Vocabulary, reading: str) -> np.ndarray:
        """What stands before the picture."""
        if self.text_ids is None:
            return build_unconditional_prompt(self.documents, vocabulary, reading)
        return build_prompt(self.text_ids, self.documents, vocabulary)

    def _rotated(self, vocabulary: Vocabulary, spans: list[Span]) -> tuple[np.ndarray, int]:
        """The prompt with these spans of the picture hidden, and the sentinel of the first.

        Without a caption <mask:0> stands in its place, as where caption and picture are hidden
        both; its span, which comes first, is written as empty.
        """
        text_ids = (0,) if self.text_ids is None else self.text_ids
        query = Document.pair(text_ids, self.codes)
        sample = build_sample(query, self.documents, vocabulary)
        picture = len(sample) - 1 - len(self.codes)
        hidden = [(picture + left, picture + right) for left, right in spans]
        if self.text_ids is not None:
            return opened(sample, hidden, vocabulary), 0
        prompt = opened(sample, [(picture - 2, picture - 1), *hidden], vocabulary)
        return np.concatenate([prompt, [vocabulary.eom, vocabulary.mask(1)]]), 1


@dataclass(frozen=True)
class InfillConfig:
    """How hidden codes are drawn: one of METHODS, under `edit`'s two weights if given, the best of
    so many `tries`; `fill_holes` tells of them.
    """

    method: str = "forward"
    edit: EditGuidance | None = None
    tries: int = 1


FORWARD = InfillConfig()


def fill_holes(
    decoder: Decoder,
    holes: Sequence[Hole],
    seeds: Sequence[int],
    method: str = "forward",
    edit: EditGuidance | None = None,
    tries: int = 1,
) -> list[np.ndarray]:
    """The pictures' codes, B of int64 [N], with the hidden ones drawn, the others as given.

    One uniform a place from the picture's own seed. With `tries` K each hole is drawn K times and
    the one kept after which the model finds the known codes likeliest, caption and all: so what
    is drawn forward fits what follows it too. Guidance and contrast as in `generate_images`; with
    `edit` instead three streams, "forward" only, as are tries, of which each is a sample. Raises
    UserError for counts that do not match, another method, and a picture that does not fit the
    context.
    """
    check(len(seeds) == len(holes), "seeds", f"be one a picture ({len(holes)})", len(seeds))
    check(method in METHODS, "method", f"be one of {', '.join(METHODS)}", method)
    check(tries >= 1, "tries", "be at least 1", tries)
    if method != "forward" and (edit or tries > 1):
        raise UserError(f"method {method!r} takes one try and one guidance; use 'forward'")

    def fill(rows: list[int]) -> list[np.ndarray]:
        many = [holes[row] for row in rows for _ in range(tries)]
        own = [derive(seeds[row], "try", k) if k else seeds[row]
               for row in rows for k in range(tries)]  # fmt: skip
        plans_SB = _plans(decoder, many, method, edit, rest=tries > 1)
        noise_BM = uniforms(own, max(len(plan.planned) for plan in plans_SB[0]))
        codes_BM, scores_B = draw_plans(decoder, plans_SB, noise_BM, edit, scored=tries > 1)
        codes_BM = codes_BM.cpu().numpy()
        best = scores_B.view(-1, tries).argmax(1).cpu().numpy() + np.arange(len(rows)) * tries
        planned = [plans_SB[0][at].planned for at in best]
        return [
            holes[row].filled(codes_BM[at, : len(ids)][ids == DRAW])
            for row, at, ids in zip(rows, best, planned, strict=True)
        ]

    return apart([hole.text_ids is None for hole in holes], fill)


def _plans(decoder, holes, method, edit, rest: bool) -> list[list[Plan]]:
    """Each stream's plans: with the caption; without; and, to edit, without what is before.

    All holes have a caption, or none has: then guidance and contrast have nothing to compare.
    """
    vocabulary, decode = decoder.vocabulary, decoder.decode
    reading = decode.unconditional
    plans_SB = [[hole.plan(vocabulary, method, rest) for hole in holes]]
    if edit or (holes[0].text_ids is not None and decode.streams == 2):
        plans_SB.append([hole.unconditional(vocabulary, method, reading, rest) for hole in holes])
    if edit:
        plans_SB.append([hole.blind(vocabulary, reading, rest) for hole in holes])
    return plans_SB


def hidden_by_box(box: Sequence[int], size: int, grid: int) -> np.ndarray:
    """Which codes a box of pixels touches, bool [grid * grid] row by row.

    `box` is x0, y0, x1, y1, the last two exclusive, in a picture of `size` pixels a side: snapped
    outwards to whole codes. Raises UserError for a box that is empty or leaves the picture.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size):
        raise UserError(
            f"a box x0 y0 x1 y1 must have 0 <= x0 < x1 <= {size} and 0 <= y0 < y1 <= {size}, got "
            f"{x0} {y0} {x1} {y1}"
        )
    stride = size // grid
    hidden_GG = np.zeros((grid, grid), bool)
    hidden_GG[y0 // stride : -(-y1 // stride), x0 // stride : -(-x1 // stride)] = True
    return hidden_GG.ravel()
