"""Rows that come and go against whole rows read at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_text_decode import CONTEXT, FREE, MODEL, PROMPTS, VOCABULARY

from cm3leon.errors import UserError
from cm3leon.seeds import generator
from cm3leon.streams import Streams, limits


def read(rows: list[list[int]]) -> list[torch.Tensor]:
    """The logits after each row: no cache."""
    return [MODEL(torch.tensor([row]))[0, -1] for row in rows]


def close(streams: Streams) -> bool:
    found = torch.cat(streams.logits)
    return torch.allclose(found, torch.stack(read(streams.rows_X))[:, slice(*streams.range)],
                          atol=1e-3)  # fmt: skip


@given(st.integers(0, 2**32), st.integers(1, 2), st.integers(1, 5))
@settings(max_examples=15)
def test_any_coming_and_going(seed, count, samples):
    random = generator(seed, "streams")
    prompts = [[random.integers(0, VOCABULARY.size, random.integers(1, 9)) for _ in range(samples)]
               for _ in range(count)]  # fmt: skip
    streams = Streams(MODEL, prompts, 6, 3, 20)
    for _ in range(6):
        assert close(streams) and len(streams.logits) == count
        left = len(streams.rows_X) // count
        if random.random() < 0.5:
            streams.take(random.integers(0, left, random.integers(1, left + 3)))
        streams.step(torch.tensor(random.integers(0, VOCABULARY.size, len(streams.rows_X))))
    assert close(streams)


def test_a_short_row_outgrows_the_place_beside_a_long_one():
    long, short = np.arange(CONTEXT - 2), np.arange(3)
    streams = Streams(MODEL, [[long, short]], 25, 0, VOCABULARY.size)
    for step in range(2):
        assert not streams.full
        streams.step(torch.tensor([step, step]))
    assert streams.full
    streams.take(np.array([1]))  # the long one is done
    for step in range(2, 25):
        streams.step(torch.tensor([step % 7]))
        assert close(streams)
    assert len(streams.rows_X[0]) == 28


def test_equal_prompts_are_read_once(monkeypatch):
    rows, prefill = [], MODEL.prefill
    monkeypatch.setattr(MODEL, "prefill", lambda ids, *a: rows.append(len(ids)) or prefill(ids, *a))
    streams = Streams(MODEL, [PROMPTS[:3] * 4, FREE[:3] * 4], 2, 0, VOCABULARY.size)
    assert rows == [6] and close(streams)


def test_limits():
    found = limits(MODEL, VOCABULARY, [PROMPTS, FREE], len(PROMPTS), 9)
    longest = [max(len(one), len(two)) for one, two in zip(PROMPTS, FREE, strict=True)]
    assert found.tolist() == [min(9, CONTEXT - length) for length in longest]
    assert limits(MODEL, VOCABULARY, [[]], 0, 9).tolist() == []


@pytest.mark.parametrize(
    ("prompts", "samples", "most", "message"),
    [
        ([PROMPTS[:2]], 3, 4, "3 samples need 3 prompts, got 2"),
        ([PROMPTS[:2]], 2, 0, "most must be at least 1, got 0"),
        ([[np.arange(0)]], 1, 4, "prompt 0 has 0 tokens"),
        ([[np.arange(CONTEXT)]], 1, 4, "prompt 0 has 32 tokens and must have 1 to 31"),
    ],
)
def test_what_cannot_follow(prompts, samples, most, message):
    with pytest.raises(UserError, match=message) as caught:
        limits(MODEL, VOCABULARY, prompts, samples, most)
    assert "\n" not in str(caught.value)
