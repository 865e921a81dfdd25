"""Plans keep to their budget, rounds are in turn, and the numbers are those of a known engine."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speed import rounds
from benchmarks.speed.rounds import (
    FEW,
    SHORTEST,
    STEP,
    Plan,
    Times,
    batch_s,
    middle,
    plan,
    steps_s,
)

COSTS = (st.floats(1e-4, 10), st.floats(1e-5, 1), st.integers(8, 1024), st.integers(1, 9))


@given(*COSTS, st.floats(0.01, 1000))
def test_a_plan_fits_its_budget_or_is_the_smallest(few_s, step_s, tokens, wanted, budget):
    found = plan(few_s, step_s, tokens, wanted, budget)
    cost = (found.rounds + found.warm) * (2 * few_s + (found.tokens - FEW) * step_s)
    smallest = Plan(min(SHORTEST, tokens), 1, warm=False)
    assert cost <= budget * (1 + 1e-9) or found == smallest
    assert min(SHORTEST, tokens) <= found.tokens <= tokens and 1 <= found.rounds <= wanted
    assert found.tokens in (tokens, smallest.tokens) or found.tokens % STEP == 0
    assert bool(found.shortfall(tokens, wanted)) == (found.tokens < tokens or found.rounds < wanted)


@given(*COSTS, st.floats(0.01, 100))
def test_more_budget_never_measures_less(few_s, step_s, tokens, wanted, budget):
    less, more = (plan(few_s, step_s, tokens, wanted, one) for one in (budget, 1.5 * budget))
    assert more.tokens >= less.tokens and more.tokens * more.rounds >= less.tokens * less.rounds


def test_rounds_go_before_tokens_and_the_note_says_so():
    assert plan(1.0, 1.0, 20, 5, 1e9) == Plan(20, 5)
    assert plan(1.0, 1.0, 20, 5, 5 * 18) == Plan(20, 4)
    assert plan(1.0, 1.0, 20, 5, 4 * 18) == Plan(20, 3)
    short = plan(1.0, 1.0, 200, 5, 4 * (2 + 36))
    assert short == Plan(40, 3)
    assert short.shortfall(200, 5) == (
        "40 of 200 tokens drawn, seconds extrapolated, 3 of 5 rounds"
    )
    assert plan(1.0, 1.0, 200, 5, 2 * 14) == Plan(16, 2, warm=False)
    assert plan(1.0, 1.0, 200, 5, 1e-3) == Plan(16, 1, warm=False)
    assert plan(1.0, 1.0, 8, 1, 1e-3) == Plan(8, 1, warm=False)


@given(st.floats(0, 5), st.floats(1e-3, 1), st.integers(16, 64))
def test_prefill_is_taken_out(prefill_s, step_s, tokens):
    """Of an engine that needs `prefill + tokens * step` nothing but the step is left."""
    spent = [prefill_s + count * step_s for count in (tokens, FEW)]
    times = Times([spent[0]] * 3, [spent[1]] * 3)
    assert steps_s(times, tokens) == pytest.approx([step_s] * 3)
    assert batch_s(times, tokens, tokens) == times.full_s
    whole = prefill_s + 200 * step_s  # 200 tokens, of which `tokens` were drawn
    assert batch_s(times, tokens, 200) == pytest.approx([whole] * 3)


def test_engines_take_turns_and_the_first_round_does_not_count(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])

    def engine(name, cost):
        def draw(tokens):
            calls.append((name, tokens))
            clock[0] += cost * tokens + (100 if len(calls) <= 4 else 0)

        return draw

    engines = {"a": engine("a", 1.0), "b": engine("b", 2.0)}
    times = rounds.run_rounds(engines, Plan(16, 2), 64)
    assert calls == 3 * [("a", 16), ("a", FEW), ("b", 16), ("b", FEW)]
    assert times["a"].full_s == [16.0, 16.0] and times["b"].few_s == [8.0, 8.0]


def test_an_estimate_sums_the_engines(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])
    first = {"a": 50.0, "b": 70.0}  # what the first call costs more

    def engine(name, cost):
        def draw(tokens):
            clock[0] += first.pop(name, 0.0) + 3.0 + cost * tokens

        return draw

    few_s, step_s, firsts = rounds.estimate({"a": engine("a", 1.0), "b": engine("b", 2.0)}, 64)
    assert few_s == 6.0 + 3 * FEW and step_s == pytest.approx(3.0)
    assert firsts == {"a": 53.0 + FEW, "b": 73.0 + 2 * FEW}


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40))
def test_an_interval_holds_the_median(values):
    value, low, high = middle(values)
    assert min(values) <= low <= value <= high <= max(values)


def test_coverage_is_the_binomial():
    assert rounds.spread([2.0]) == 2.0 and rounds.spread([2.0, 4.0]) == (3.0, 2.0, 4.0)
    assert rounds.coverage(5) == 1 - 2 / 32 and rounds.coverage(1) == 0
    for count in (3, 6, 11):
        for place in range((count - 1) // 2):
            inside = sum(math.comb(count, hits) for hits in range(place + 1, count - place))
            assert rounds.coverage(count, place) == pytest.approx(inside / 2**count)
    assert middle([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 1.0, 5.0)
    values = [float(value) for value in range(21)]
    assert middle(values) == (10.0, 5.0, 15.0)  # the textbook's 6th and 16th of 21
