"""Infilling of pictures: the codes of a box are drawn anew, the others stay as they are.

Three ways to ask the model, all of which it was trained for:
- "forward": the codes before the first hidden one are the prompt; from there on every place is
  visited in order, hidden codes are drawn and known ones put in by force. What follows is not seen.
- "span": one span from the first to the last hidden code moves behind the picture (section 2.2), so
  that what follows is seen; known codes inside the span are put in by force.
- "spans": every run of hidden codes is a span of its own, so that all known codes are seen.

Shapes: S streams, B samples, R of them still in the cache, N codes of a picture, M planned places,
G codes a side of the picture, V image codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from cm3leon.config import ModelConfig, check
from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.loop import Streams, limits
from cm3leon.decoding.sampling import combine, guide_edit
from cm3leon.decoding.text_infill import apart, opened
from cm3leon.engine.cpu_sample import choose
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import derive, uniforms
from cm3leon.sequence.documents import (
    Document,
    Vocabulary,
    build_free_prompt,
    build_prompt,
    build_sample,
    image_codes,
)
from cm3leon.sequence.masking import Span
from cm3leon.sequence.positions import place_prompt

METHODS = ("forward", "span", "spans")
DRAW = -1  # in a plan: a code to be drawn


@dataclass(frozen=True)
class Plan:
    """`prompt` int64 [T]; what follows it, `planned` int64 [M]: an id or DRAW. `hidden` says how
    many codes <mask:i> hides where neither these nor a whole picture tell.
    """

    prompt: np.ndarray
    planned: np.ndarray
    hidden: dict[int, int] = field(default_factory=dict)

    def places(self, vocabulary: Vocabulary, config: ModelConfig) -> np.ndarray:
        """Where prompt and planned ids stand, int64 [T + M]; errors as in `positions.place`."""
        ids_M = np.where(self.planned == DRAW, vocabulary.image_start, self.planned)
        return place_prompt(self.prompt, ids_M, vocabulary, config, self.hidden)


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

    def free(self, vocabulary: Vocabulary, method: str, reading: str, rest: bool = False) -> Plan:
        """The plan without the caption: the unconditional stream (A32), which still sees the
        picture. `reading` is of the documents, as in `build_free_prompt`.
        """
        documents = () if reading == "bare" else self.documents
        without = replace(self, text_ids=None, documents=documents)
        plan = without.plan(vocabulary, method, rest)
        if method != "forward":
            return plan
        # The one that can leave the sentinel out.
        before = plan.prompt[len(plan.prompt) - self.bounds[0] :]
        prompt = np.concatenate([build_free_prompt(documents, vocabulary, reading), before])
        return replace(plan, prompt=prompt)

    def blind(self, vocabulary: Vocabulary, reading: str, rest: bool = False) -> Plan:
        """The "forward" plan without caption and without the codes before the hidden ones: the
        free stream of editing. A sentinel stands for either, as where both are hidden in training.
        """
        plan, start = self.free(vocabulary, "forward", reading, rest), self.bounds[0]
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
            return build_free_prompt(self.documents, vocabulary, reading)
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
class EditGuidance:
    """Three streams and two weights instead of `decode.guidance` (`decode.guide_edit`).

    `image` strengthens the codes before the hidden ones, `text` the caption; 1 and 1 are the
    conditional stream alone, and `text` alone is guidance by that weight.
    """

    image: float = 1.0
    text: float = 1.0

    def __post_init__(self):
        for name in ("image", "text"):
            value = getattr(self, name)
            check(math.isfinite(value), f"{name} guidance", "be finite", value)


def fill_holes(
    model: Transformer,
    vocabulary: Vocabulary,
    holes: Sequence[Hole],
    seeds: Sequence[int],
    decode: DecodeConfig,
    method: str = "forward",
    edit: EditGuidance | None = None,
    tries: int = 1,
    slots: int | None = None,
    counters: dict[str, int] | None = None,
) -> list[np.ndarray]:
    """The pictures' codes, B of int64 [N], with the hidden ones drawn, the others as given.

    One uniform a place from the picture's own seed. With `tries` K each hole is drawn K times and
    the one kept after which the model finds the known codes likeliest, caption and all: so what
    is drawn forward fits what follows it too. Guidance and contrast as in `generate_images`; with
    `edit` instead three streams, "forward" only, as are tries. At most `slots` tries are drawn at
    once (None: all); one that is done makes room for the next. `counters` as in `Streams`. Raises
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
        plans_SB = _plans(vocabulary, many, decode, method, edit, rest=tries > 1)
        drawn, scores = _draw(model, vocabulary, plans_SB, own, decode, edit, slots, counters)
        best = np.array(scores).reshape(-1, tries).argmax(1) + np.arange(len(rows)) * tries
        return [
            holes[row].filled(image_codes(drawn[at], vocabulary))
            for row, at in zip(rows, best, strict=True)
        ]

    return apart([hole.text_ids is None for hole in holes], fill)


def _plans(vocabulary, holes, decode, method, edit, rest: bool) -> list[list[Plan]]:
    """Each stream's plans: with the caption; without; and, to edit, without what is before.

    All holes have a caption, or none has: then guidance and contrast have nothing to compare.
    """
    plans_SB = [[hole.plan(vocabulary, method, rest) for hole in holes]]
    if edit or (holes[0].text_ids is not None and decode.streams == 2):
        plans_SB.append([hole.free(vocabulary, method, decode.free, rest) for hole in holes])
    if edit:
        plans_SB.append([hole.blind(vocabulary, decode.free, rest) for hole in holes])
    return plans_SB


def _draw(
    model, vocabulary, plans_SB, seeds, decode, edit, slots, counters
) -> tuple[list[list[int]], list[float]]:
    """Ids drawn for each sample, and log p of the known codes among its planned places."""
    counts_B = np.array([len(plan.planned) for plan in plans_SB[0]])
    samples, most = len(seeds), int(counts_B.max())
    prompts_SB = [[plan.prompt for plan in plans] for plans in plans_SB]
    if (limits(model, vocabulary, prompts_SB, samples, most) < counts_B).any():
        raise UserError(
            f"a picture, its caption and documents do not fit the context of "
            f"{model.config.context} tokens; shorten the caption or use fewer documents"
        )
    images = (vocabulary.image_start, vocabulary.image_end)
    places_SB = [[plan.places(vocabulary, model.config) for plan in plans] for plans in plans_SB]
    rows = Streams(model, prompts_SB, places_SB, most, *images, slots, counters=counters)
    noise_BM = torch.as_tensor(uniforms(seeds, most), device=rows.device)
    planned_SB = [[plan.planned for plan in plans] for plans in plans_SB]
    planned_SBM = torch.as_tensor(_padded(planned_SB, most, vocabulary.pad), device=rows.device)
    behind_SB = [
        [at[-len(ids) :] for at, ids in zip(*both, strict=True)]
        for both in zip(places_SB, planned_SB, strict=True)
    ]
    places_SBM = torch.as_tensor(_padded(behind_SB, most, 0), device=rows.device)
    holes = [_Drawn(int(count)) for count in counts_B]
    new_R = np.arange(len(rows.sample_R))  # whose next place is to be filled
    ids_SR = torch.zeros((rows.count, len(new_R)), dtype=torch.int64, device=rows.device)
    stand_SR = torch.zeros_like(ids_SR)
    while True:
        samples_R, at_R = rows.sample_R[new_R], torch.as_tensor(new_R, device=rows.device)
        places_R = [min(holes[sample].places, most - 1) for sample in samples_R]
        logits = [logits_RV[at_R] for logits_RV in rows.logits]
        planned_SR = planned_SBM[:, samples_R, places_R]
        chosen_R = choose(_mix(logits, decode, edit), noise_BM[samples_R, places_R], decode)
        chosen_R = chosen_R + vocabulary.image_start
        ids_SR[:, at_R] = planned_SR.where(planned_SR != DRAW, chosen_R)
        stand_SR[:, at_R] = places_SBM[:, samples_R, places_R]
        known_R = _known(logits[0], planned_SR[0], vocabulary)
        ids_R = chosen_R.where(planned_SR[0] == DRAW, DRAW)
        for sample, token, gain in zip(samples_R, ids_R.tolist(), known_R.tolist(), strict=True):
            holes[sample].add(token, gain)
        rows.ended_R = np.array([holes[sample].ended for sample in rows.sample_R])
        new_R = rows.refill()
        if len(new_R):
            continue
        if rows.ended_R.all():
            return [hole.ids for hole in holes], [hole.score for hole in holes]
        left_R = torch.as_tensor(rows.shrink(), device=rows.device)
        ids_SR, stand_SR = ids_SR[:, left_R], stand_SR[:, left_R]
        rows.step(ids_SR.flatten(), stand_SR.flatten())
        new_R = np.arange(ids_SR.shape[1])


class _Drawn:
    """What has been drawn of one sample, and how likely its known codes are."""

    def __init__(self, count: int):
        self.count, self.places = count, 0
        self.ids: list[int] = []
        self.score = 0.0

    def add(self, token: int, gain: float) -> None:
        """Go one place on, with its drawn id or DRAW where it was known, unless all is done."""
        if not self.ended:
            self.places += 1
            self.score += gain
            if token != DRAW:
                self.ids.append(token)

    @property
    def ended(self) -> bool:
        """Whether all places are done."""
        return self.places == self.count


def _padded(rows_SB: Sequence[Sequence[np.ndarray]], most: int, filler: int) -> np.ndarray:
    """Ragged rows as one array, int64 [S, B, M]."""
    padded_SBM = np.full((len(rows_SB), len(rows_SB[0]), most), filler, np.int64)
    for stream, rows in enumerate(rows_SB):
        for at, row in enumerate(rows):
            padded_SBM[stream, at, : len(row)] = row
    return padded_SBM


def _mix(logits: list[Tensor], decode: DecodeConfig, edit: EditGuidance | None) -> Tensor:
    """The streams as one distribution over image codes, [R, V]."""
    if edit:
        return guide_edit(*logits, edit.image, edit.text)
    return combine(logits[0], logits[1] if len(logits) == 2 else None, decode)


def _known(logits_RV: Tensor, planned_R: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Log p of a planned image code, [R]; 0 where there is none."""
    codes_R = planned_R - vocabulary.image_start
    known_R = (codes_R >= 0) & (codes_R < vocabulary.image_size)
    places_R1 = codes_R.where(known_R, 0)[:, None]
    return logits_RV.double().log_softmax(-1).gather(-1, places_R1)[:, 0].where(known_R, 0)


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
