"""Rows that come and go against whole rows read at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.decoding.loop import ALL, Decoder, Rows, Written, generate, pad
from cm3leon.errors import UserError
from cm3leon.seeds import generator
from tests.decoding.test_text import CONTEXT, FREE, MODEL, PROMPTS, VOCABULARY

IDS = (3, 20)


def whole(rows: list[list[int]], ids=IDS) -> torch.Tensor:
    """The logits after each row, [X, V]: no cache, padding on the right, which nothing sees."""
    ids_XT, lengths_X = pad(rows, 0)
    return MODEL(ids_XT)[torch.arange(len(rows)), lengths_X - 1, slice(*ids)]


def rows_of(prompts, most: int, width: int = 1, ids=IDS, **options) -> Rows:
    """Rows of a model of positions "row"."""
    places = [[np.arange(len(row) + 1) for row in stream] for stream in prompts]
    return Rows(Decoder(MODEL, VOCABULARY, **options), prompts, places, most, ids, width)


def random_prompts(random, count: int, samples: int) -> list[list[np.ndarray]]:
    """Streams of a sample share a beginning, of any length, two of three often more; some samples
    are alike.
    """
    shared = [random.integers(0, 3, random.integers(0, 6)) for _ in range(3)]
    before = [shared[random.integers(3)] for _ in range(samples)]
    return [
        [np.append(head, random.integers(0, 3, random.integers(1, 9)))
         for head in before]
        for _ in range(count)
    ]  # fmt: skip


class Checked:
    """Gives every sample random tokens, other ones in each stream, until its own number of them,
    and holds the logits of every row against those of the whole row. Beams change at random.
    """

    def __init__(self, random, prompts, ends: np.ndarray, width: int, own_places: bool):
        self.random, self.prompts, self.ends, self.width = random, prompts, ends, width
        self.own_places, self.seen, self.given = own_places, [], 0
        self.rows = {
            sample: [[list(stream[sample]) for _ in range(width)] for stream in prompts]
            for sample in range(len(ends))
        }

    def __call__(self, samples, given, logits) -> Written:
        samples = np.arange(len(self.ends))[samples]
        given = np.broadcast_to(given, len(samples))
        streams, width = len(self.prompts), self.width
        now = [self.rows[one][stream] for stream in range(streams) for one in samples]
        wanted = whole([row for rows in now for row in rows])
        torch.testing.assert_close(torch.cat(list(logits)), wanted, atol=1e-3, rtol=0)
        self.seen += [one for one in samples if one not in self.seen]
        ended = given + 1 >= self.ends[samples]
        self.given += int((given < self.ends[samples]).sum()) * streams * width
        parents = self.random.integers(0, width, (len(samples), width))
        ids = self.random.integers(0, VOCABULARY.size, (streams, len(samples), width))
        for at, one in enumerate(samples):
            for stream in range(streams):
                old = self.rows[one][stream]
                self.rows[one][stream] = [
                    [*old[parents[at, w]], int(ids[stream, at, w])] for w in range(width)
                ]
        lengths = [[len(self.rows[one][stream][0]) - 1 for one in samples]
                   for stream in range(streams)]  # fmt: skip
        places = torch.tensor(np.repeat(lengths, width, 1)) if self.own_places else None
        ids = torch.tensor(ids).flatten(1)
        return Written(ids, ended, places, parents if width > 1 else None)


@given(
    st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 4, None]),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=20)
def test_any_coming_and_going(seed, count, width, slots, own_places):
    """Samples of other lengths come while others go on; beams of a sample differ and are sorted."""
    random, most, counters = generator(seed, "refill"), 7, {}
    prompts = random_prompts(random, count, 9)
    ends = random.integers(1, most + 1, 9)  # tokens of each sample
    rows = rows_of(prompts, most, width, slots=slots, counters=counters)
    write = Checked(random, prompts, ends, width, own_places)
    generate(rows, write)
    assert sorted(write.seen) == list(range(9))
    assert write.seen[: rows.slots] == list(range(rows.slots))
    # The last token of each is not read any more.
    assert counters["step_tokens"] - counters["idle_tokens"] == write.given - 9 * count * width


def test_a_short_row_outgrows_the_place_beside_a_long_one():
    prompts = [[np.arange(CONTEXT - 2), np.arange(3)]]
    rows = rows_of(prompts, 25)
    write = Checked(generator(0), prompts, np.array([2, 25]), 1, False)
    generate(rows, write)
    assert len(write.rows[1][0][0]) == 28 and rows.capacity == CONTEXT


@pytest.mark.parametrize("streams", [1, 2])
def test_equal_prompts_are_read_once(monkeypatch, streams):
    read, prefill = [], MODEL.prefill
    monkeypatch.setattr(MODEL, "prefill", lambda ids, *a: read.append(len(ids)) or prefill(ids, *a))
    prompts = [PROMPTS[:3] * 4, FREE[:3] * 4][:streams]
    logits = rows_of(prompts, 2).asked(ALL)[2]
    assert read == [3 * streams]
    wanted = whole([row for stream in prompts for row in stream])
    torch.testing.assert_close(torch.cat(list(logits)), wanted, atol=1e-3, rtol=0)


def test_slots_are_checked():
    with pytest.raises(UserError, match="slots must be at least 1, got 0"):
        Decoder(MODEL, VOCABULARY, slots=0)


DECODER = Decoder(MODEL, VOCABULARY)


def test_limits():
    found = DECODER.limits([PROMPTS, FREE], len(PROMPTS), 9)
    longest = [max(len(one), len(two)) for one, two in zip(PROMPTS, FREE, strict=True)]
    assert found.tolist() == [min(9, CONTEXT - length) for length in longest]
    assert DECODER.limits([[]], 0, 9).tolist() == []


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
        DECODER.limits(prompts, samples, most)
    assert "\n" not in str(caught.value)
