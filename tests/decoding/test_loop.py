"""Rows that come and go against whole rows read at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.decoding.images import pad
from cm3leon.decoding.loop import Streams, limits
from cm3leon.errors import UserError
from cm3leon.seeds import generator
from tests.decoding.test_text import CONTEXT, FREE, MODEL, PROMPTS, VOCABULARY


def read(rows: list[list[int]]) -> torch.Tensor:
    """The logits after each row, [X, V]: no cache, padding on the right, which nothing sees."""
    ids_XT, lengths_X = pad(rows, 0)
    return MODEL(ids_XT)[torch.arange(len(rows)), lengths_X - 1]


def indices(prompts: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Where tokens of a model of positions "row" stand, and what follows them."""
    return [[np.arange(len(row) + 1) for row in stream] for stream in prompts]


def close(streams: Streams, rows: list[list[int]]) -> bool:
    found = torch.cat(streams.logits)
    wanted = read(rows)[:, slice(*streams.range)]
    return torch.allclose(found, wanted, atol=1e-3)


def random_prompts(random, count: int, samples: int) -> list[list[np.ndarray]]:
    return [[random.integers(0, VOCABULARY.size, random.integers(1, 9)) for _ in range(samples)]
            for _ in range(count)]  # fmt: skip


def appended(rows: list[list[int]], ids: torch.Tensor) -> list[list[int]]:
    return [[*row, token] for row, token in zip(rows, ids.tolist(), strict=True)]


@given(st.integers(0, 2**32), st.integers(1, 2), st.integers(1, 5))
@settings(max_examples=15)
def test_any_coming_and_going(seed, count, samples):
    random = generator(seed, "streams")
    prompts = random_prompts(random, count, samples)
    streams = Streams(MODEL, prompts, indices(prompts), 6, 3, 20)
    rows = [row.tolist() for stream in prompts for row in stream]
    for _ in range(6):
        assert close(streams, rows) and len(streams.logits) == count
        left = len(rows) // count
        if random.random() < 0.5:
            places = random.integers(0, left, random.integers(1, left + 3))
            streams.take(places)
            rows = [rows[stream * left + place] for stream in range(count) for place in places]
        ids = torch.tensor(random.integers(0, VOCABULARY.size, len(rows)))
        streams.step(ids)
        rows = appended(rows, ids)
    assert close(streams, rows)


@given(st.integers(0, 2**32), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=25)
def test_refilled_rows_are_rows_read_alone(seed, count, width, slots):
    """Samples of other lengths come while others go on; beams of a sample differ and are sorted."""
    random, most, counters = generator(seed, "refill"), 7, {}
    prompts = random_prompts(random, count, 9)
    ends = random.integers(1, most + 1, 9)  # tokens of each sample
    streams = Streams(MODEL, prompts, indices(prompts), most, 3, 20, slots, width, counters)
    drawn = {sample: [[] for _ in range(width)] for sample in range(9)}
    seen, fed = [], 0

    def rows():
        return [[*stream[sample], *ids] for stream in prompts
                for sample in streams.sample_R for ids in drawn[sample]]  # fmt: skip

    while True:
        assert close(streams, rows())
        streams.ended_R = np.array([len(drawn[one][0]) >= ends[one] for one in streams.sample_R])
        seen += [one for one in streams.sample_R if one not in seen]
        if len(places := streams.refill()):
            assert not streams.ended_R[places].any()
            continue
        if streams.ended_R.all():
            break
        streams.shrink()
        parents_RW = random.integers(0, width, (len(streams.sample_R), width))
        streams.reorder(parents_RW, max(len(drawn[one][0]) for one in streams.sample_R))
        for sample, parents in zip(streams.sample_R, parents_RW, strict=True):
            drawn[sample] = [drawn[sample][w] + [int(random.integers(20))] for w in parents]
        last = [ids[-1] for sample in streams.sample_R for ids in drawn[sample]]
        streams.step(torch.tensor(last * count))
        fed += len(last) * count
    assert sorted(seen) == list(range(9)) and seen[: streams.slots] == list(range(streams.slots))
    assert counters["step_tokens"] == fed
    assert counters["step_tokens"] - counters["idle_tokens"] == int(ends.sum()) * count * width


def test_a_short_row_outgrows_the_place_beside_a_long_one():
    long, short = np.arange(CONTEXT - 2), np.arange(3)
    prompts = [[long, short]]
    streams = Streams(MODEL, prompts, indices(prompts), 25, 0, VOCABULARY.size)
    for step in range(2):
        assert not streams.full
        streams.step(torch.tensor([step, step]))
    assert streams.full
    streams.take(np.array([1]))  # the long one is done
    rows = [[0, 1, 2, 0, 1]]
    for step in range(2, 25):
        streams.step(torch.tensor([step % 7]))
        rows[0].append(step % 7)
        assert close(streams, rows)
    assert len(rows[0]) == 28


def test_equal_prompts_are_read_once(monkeypatch):
    rows, prefill = [], MODEL.prefill
    monkeypatch.setattr(MODEL, "prefill", lambda ids, *a: rows.append(len(ids)) or prefill(ids, *a))
    prompts = [PROMPTS[:3] * 4, FREE[:3] * 4]
    streams = Streams(MODEL, prompts, indices(prompts), 2, 0, VOCABULARY.size)
    assert rows == [6] and close(streams, [list(row) for stream in prompts for row in stream])


def test_slots_are_checked():
    with pytest.raises(UserError, match="slots must be at least 1, got 0"):
        Streams(MODEL, [PROMPTS], indices([PROMPTS]), 2, 0, 3, slots=0)


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
