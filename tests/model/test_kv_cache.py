"""Rows that are put into a running cache, moved and reordered, against rows read alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.decoding.loop import pad
from cm3leon.errors import UserError
from cm3leon.model.kv_cache import SLACK, Cache
from cm3leon.seeds import generator
from tests.decoding.test_loop import whole
from tests.decoding.test_text import CONTEXT, MODEL, VOCABULARY


def prompts(random, count: int, longest: int = 9) -> list[list[int]]:
    return [random.integers(0, VOCABULARY.size, random.integers(1, longest + 1)).tolist()
            for _ in range(count)]  # fmt: skip


def read(rows: list[list[int]], capacity: int) -> Cache:
    cache = MODEL.cache(len(rows), capacity)
    MODEL.prefill(*pad(rows, 0), cache)
    return cache


def stepped(cache: Cache, rows: list[list[int]], token: int) -> list[list[int]]:
    """One token more in every row; the logits must be those of the rows read alone."""
    rows = [[*row, token] for row in rows]
    found_BV = MODEL.step(torch.full((len(rows),), token), cache)
    torch.testing.assert_close(found_BV, whole(rows, (0, VOCABULARY.size)), rtol=1e-3, atol=1e-3)
    return rows


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 8))
@settings(max_examples=25)
def test_rows_may_be_put_into_a_running_cache(seed, count, steps):
    random = generator(seed, "put")
    rows = prompts(random, count)
    cache = read(rows, 24)
    for step in range(steps):
        rows = stepped(cache, rows, step)
    for turn in range(3):
        new = prompts(random, int(random.integers(1, count + 1)), 14)
        places = random.permutation(count)[: len(new)]
        cache.put(torch.tensor(places), read(new, 14), torch.arange(len(new)))
        for place, row in zip(places, new, strict=True):
            rows[place] = row
        assert cache.lengths_B.tolist() == [len(row) for row in rows]
        longest = max(map(len, rows))
        assert longest <= cache.longest <= longest + longest // SLACK
        rows = stepped(cache, rows, turn)


def test_a_full_cache_settles():
    cache = read([[1], [2] * 9], 10)
    rows = stepped(cache, [[1], [2] * 9], 3)
    with pytest.raises(UserError, match="the cache is full at 10 tokens"):
        MODEL.step(torch.tensor([1, 1]), cache)
    cache.settle()
    assert cache.longest == 10  # the longest row holds them all
    cache.put(torch.tensor([1]), read([[5, 6]], 2), torch.tensor([0]))
    rows[1] = [5, 6]
    assert cache.longest == 2
    for step in range(8):
        rows = stepped(cache, rows, step)


def test_a_prompt_longer_than_the_cache_is_refused():
    cache = read([[1], [2]], 4)
    with pytest.raises(UserError, match="a prompt of 5 tokens does not fit a cache of 4") as caught:
        cache.put(torch.tensor([1]), read([[3] * 5], 5), torch.tensor([0]))
    assert "\n" not in str(caught.value)


@given(st.integers(0, 2**32), st.integers(1, 5))
@settings(max_examples=20)
def test_reordering_newest_tokens_is_taking_whole_rows(seed, width):
    """Rows with one beginning, of which each goes on from any other."""
    random = generator(seed, "reorder")
    start = prompts(random, 1, CONTEXT // 2)[0]
    rows = [start] * width
    cache = read(rows, CONTEXT)
    for newest in range(5):
        parents = random.integers(0, width, width)
        cache.reorder(torch.tensor(parents), newest)
        tokens = random.integers(0, VOCABULARY.size, width)
        rows = [[*rows[at], int(token)] for at, token in zip(parents, tokens, strict=True)]
        found_BV = MODEL.step(torch.tensor(tokens), cache)
        torch.testing.assert_close(
            found_BV, whole(rows, (0, VOCABULARY.size)), rtol=1e-3, atol=1e-3
        )
