"""Rows of tasks: an encoded record -> ids and loss weights, its answer moved behind the row.

A record's segments become `<eos> text <break> picture ... <eos>`; a target that something follows
is rotated as the CM3 objective does (`sequence.masking`), so that it is learned as it is asked for:
`<eos> Question: .. Answer: <mask:0>. <break> picture <eos> <mask:0> answer <eom>`. A target at the
end of its row, the picture that is to be drawn, stays where it is: its prompt ends with `<break>`.
Pure numpy; every draw takes a generator.

Shapes: T tokens of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from cm3leon.config import ModelConfig, RowsConfig
from cm3leon.data.records import Encoded, EncodedRecord
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary
from cm3leon.sequence.masking import Span, draw_spans, masked_rates, rotate

DROPS = ("text", "image", "both")  # what a prompt can lack


@dataclass(frozen=True)
class Laid:
    """A record laid out as a row int64 [T], not rotated: where its parts stand in it."""

    ids: np.ndarray
    targets: tuple[Span, ...]  # neighbouring pieces are one
    texts: tuple[Span, ...]  # whole texts of the prompt, without a target in them
    images: tuple[Span, ...]  # pictures of the prompt

    @property
    def answers(self) -> tuple[Span, ...]:
        """Targets that something follows: those to be moved."""
        return tuple(span for span in self.targets if span[1] < len(self.ids) - 1)


def lay(record: EncodedRecord, vocabulary: Vocabulary) -> Laid:
    """`<eos> segment <break> .. segment <eos>`; neighbouring texts are one segment of the row.

    Raises UserError for ids outside the vocabulary, an empty picture, a record without a target.
    """
    ids, kinds, spans, bounds = [np.array([vocabulary.eos])], [], [], []
    at, before = 1, None
    for part in record.segments:
        own = _checked(part, record.task, vocabulary)
        if before is not None and not (before == part.kind == "text"):
            ids.append(np.array([vocabulary.break_]))
            at += 1
        if before == part.kind == "text":
            bounds[-1] = (bounds[-1][0], at + len(own))
        else:
            bounds.append((at, at + len(own)))
            kinds.append(part.kind)
        if part.role == "target" and len(own):
            spans.append((at, at + len(own)))
        ids.append(own)
        at, before = at + len(own), part.kind
    ids.append(np.array([vocabulary.eos]))
    targets = _joined(spans)
    if not targets:
        raise UserError(f"a record of {record.task} has no target with tokens; name its answer")
    asked = [
        (kind, (start, stop))
        for kind, (start, stop) in zip(kinds, bounds, strict=True)
        if start < stop and not any(start <= one[0] < stop for one in targets)
    ]
    return Laid(
        np.concatenate(ids).astype(np.int64),
        targets,
        tuple(span for kind, span in asked if kind == "text"),
        tuple(span for kind, span in asked if kind == "image"),
    )


def row_of(
    record: EncodedRecord,
    vocabulary: Vocabulary,
    config: RowsConfig,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """One row: ids int64 and loss weights float32 [T], as `masking.rotate`, and its counts.

    Counts are those of `masking.masked_rates`, with "dropped_text" and "dropped_image" (rows
    without a part that they had) and "target_tokens" (with a weight).
    """
    laid = lay(record, vocabulary)
    drop, rotated = _draws(config, generator)
    hidden = _hidden(laid, drop)
    objective = replace(config.objective, document_weight=1.0)
    if config.loss == "cm3":
        drawn = draw_spans(laid.ids, vocabulary, objective, generator)
        moved = [span for span in drawn if not any(_meet(span, one) for one in hidden)]
    else:
        moved = list(laid.answers) if rotated else []
    spans = sorted([*hidden, *moved])
    places = None
    if config.loss == "target":
        places = np.zeros(len(laid.ids), np.float32)
        for start, stop in laid.targets:
            places[start:stop] = 1
            if (start, stop) not in moved:  # the <break> or <eos> behind it closes it
                places[stop] = float(laid.ids[stop] >= vocabulary.pad)
    ids, weights = rotate(laid.ids, spans, vocabulary, objective, places)
    counts = masked_rates(laid.ids, moved, vocabulary)
    counts["dropped_text"] = int(drop in ("text", "both") and bool(laid.texts))
    counts["dropped_image"] = int(drop in ("image", "both") and bool(laid.images))
    counts["target_tokens"] = sum(stop - start for start, stop in laid.targets)
    if hidden:
        ids, weights = _without(ids, weights, spans, set(hidden), len(laid.ids))
    if config.balance and weights.any():
        weights = weights * np.float32(weights.sum() ** -config.balance)
    return ids, weights, counts


def rows_of(
    records: Iterable[EncodedRecord],
    vocabulary: Vocabulary,
    config: RowsConfig,
    generator: np.random.Generator,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], dict[str, int]]:
    """The rows of a batch and their summed counts, in the form of `masking.mask_samples`: what
    `training.batches.collate` pads.
    """
    rows, counts = [], Counter()
    for record in records:
        ids, weights, own = row_of(record, vocabulary, config, generator)
        rows.append((ids, weights))
        counts.update(own)
    return rows, dict(counts)


def prompt_of(record: EncodedRecord, vocabulary: Vocabulary, drop: str | None = None) -> np.ndarray:
    """What a model is given, int64 [T]: the beginning of the record's row up to its first target.

    It ends with the `<mask:i>` behind which an answer is written, or with the `<break>` behind
    which a picture is drawn; a target is read for its place alone. `drop`, one of DROPS, hides a
    part of the prompt as training does: the streams of guidance.
    """
    if drop is not None and drop not in DROPS:
        raise UserError(f"what a prompt can lack is one of {', '.join(DROPS)}, got {drop!r}")
    laid = lay(record, vocabulary)
    hidden = _hidden(laid, drop)
    spans = sorted([*hidden, *laid.answers])
    ids, weights = rotate(laid.ids, spans, vocabulary)
    ids, _ = _without(ids, weights, spans, set(hidden), len(laid.ids))
    if not laid.answers:
        return ids[: len(ids) - 1 - (laid.targets[0][1] - laid.targets[0][0])]
    shown = len(laid.ids) - sum(stop - start - 1 for start, stop in spans)
    return ids[: shown + 1]


def too_long(
    record: EncodedRecord, model: ModelConfig, vocabulary: Vocabulary | None = None
) -> str | None:
    """Why a record has no room in a model, in words; None where it fits.

    Its row, with three tokens for each answer that is moved, must fit the context; where positions
    are not indices, each text the places of a text and all of them the pairs of the table.
    """
    vocabulary = vocabulary or Vocabulary.from_config(model.vocabulary)
    laid = lay(record, vocabulary)
    length = len(laid.ids) + 3 * len(laid.answers)
    if length > model.context:
        return f"a row of {length} tokens, the context has {model.context}"
    if model.positions == "row":
        return None
    stops = np.flatnonzero(laid.ids >= vocabulary.pad)
    pairs, before = 0, None
    for start, stop in pairwise(stops.tolist()):
        kind = "image" if vocabulary.is_image(laid.ids[start + 1]) else "text"
        pairs += not (kind == "image" and before == "text")
        if kind == "text" and stop - start - 1 > model.position_text - 2:
            return (
                f"a text of {stop - start - 1} tokens, the model has {model.position_text - 2} "
                "places for one"
            )
        before = kind
    if pairs > model.position_pairs:
        return f"{pairs} texts with their pictures, the model has places for {model.position_pairs}"
    return None


def _checked(part: Encoded, task: str, vocabulary: Vocabulary) -> np.ndarray:
    """A segment's ids in the one id space."""
    image = part.kind == "image"
    if part.kind not in ("text", "image") or part.role not in ("prompt", "target"):
        raise UserError(f"a record of {task} has a segment of {part.kind!r} as {part.role!r}")
    ids = np.asarray(part.ids, dtype=np.int64)
    size = vocabulary.image_size if image else vocabulary.text_size
    if image and not len(ids):
        raise UserError(f"a picture of a record of {task} has no codes")
    if len(ids) and not (ids.min() >= 0 and ids.max() < size):
        strange = ids.min() if ids.min() < 0 else ids.max()
        raise UserError(f"{part.kind} ids of {task} must lie in [0, {size}), got {strange}")
    return ids + vocabulary.image_start if image else ids


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans with those that touch made one."""
    found: list[Span] = []
    for start, stop in spans:
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
    return tuple(found)


def _draws(config: RowsConfig, generator: np.random.Generator) -> tuple[str | None, bool]:
    """(what the prompt lacks, whether the answer is moved): always two uniforms."""
    one, two = generator.random(2)
    edge = 0.0
    for name in DROPS:
        edge += getattr(config, f"drop_{name}")
        if one < edge:
            return name, two < config.rotated
    return None, two < config.rotated


def _hidden(laid: Laid, drop: str | None) -> tuple[Span, ...]:
    """The segments that a prompt lacks."""
    texts = laid.texts if drop in ("text", "both") else ()
    images = laid.images if drop in ("image", "both") else ()
    return tuple(sorted([*texts, *images]))


def _meet(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _without(ids, weights, spans: Sequence[Span], hidden: set[Span], length: int):
    """A rotated row whose hidden segments do not come behind it; their sentinels stay."""
    at = length - sum(stop - start - 1 for start, stop in spans)  # where the tail begins
    kept = np.ones(len(ids), bool)
    for start, stop in spans:
        end = at + stop - start + 2
        if (start, stop) in hidden:
            kept[at:end] = False
        at = end
    return ids[kept], weights[kept]
