"""What a model answers to records of a task: pictures drawn by several streams, text by infilling.

Every stream is the prompt of the record (`rows.prompt_of`) with what `Task.streams` names hidden;
the one decoding loop mixes them, two by guidance or contrast, three by two weights.

Shapes: B records, N image codes of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from cm3leon.data.records import EncodedRecord
from cm3leon.decoding.config import DecodeConfig, EditGuidance
from cm3leon.decoding.images import DRAW, Plan, draw_plans
from cm3leon.decoding.loop import Decoder
from cm3leon.decoding.text import continue_text
from cm3leon.seeds import uniforms
from cm3leon.tasks.rows import prompt_of
from cm3leon.tasks.task import Task

OF_EDITS = {"image_guidance": "image", "text_guidance": "text"}  # names of EditGuidance's weights


def settings(
    task: Task, decode: DecodeConfig, changes: Mapping[str, float] | None = None
) -> tuple[DecodeConfig, EditGuidance | None]:
    """How a task is decoded: `decode` with the task's own settings and, above them, `changes`, by
    the names of DecodeConfig and `image_guidance`, `text_guidance`. Two weights belong to tasks of
    three streams; they stand instead of guidance.
    """
    named = dict(task.decode) | dict(changes or {})
    weights = {OF_EDITS[name]: named.pop(name) for name in tuple(named) if name in OF_EDITS}
    decode = replace(decode, **named)
    return decode, EditGuidance(**weights) if len(task.streams) == 3 else None


def draw_answers(
    decoder: Decoder,
    task: Task,
    records: Sequence[EncodedRecord],
    seeds: Sequence[int],
    tokens: int,
    edit: EditGuidance | None = None,
) -> Tensor:
    """The pictures that records ask for, codes int64 [B, N], N = `tokens`; row b depends on its
    record and seed alone. Guidance as `decoder.decode` says, or two weights of `edit`.

    Raises UserError for a record that leaves no room for a picture.
    """
    vocabulary = decoder.vocabulary
    hidden = task.streams if edit else task.streams[: decoder.decode.streams]
    open_N = np.full(tokens, DRAW)
    plans_SB = [
        [Plan(prompt_of(record, vocabulary, drop), open_N) for record in records] for drop in hidden
    ]
    return draw_plans(decoder, plans_SB, uniforms(seeds, tokens), edit)[0]


def write_answers(
    decoder: Decoder,
    task: Task,
    records: Sequence[EncodedRecord],
    seeds: Sequence[int],
    most: int,
) -> list[list[int]]:
    """Text ids of what records ask for, of at most `most` tokens each, in the records' order."""
    vocabulary = decoder.vocabulary
    streams = [
        [prompt_of(record, vocabulary, drop) for record in records]
        for drop in task.streams[: decoder.decode.streams]
    ]
    prompts, without = [*streams, None][:2]
    found = continue_text(decoder, prompts, without, uniforms(seeds, most))
    return [list(one.ids) for one in found]
