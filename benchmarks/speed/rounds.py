"""One configuration timed: how many tokens and rounds its budget allows, then rounds in turn.

In a round every engine draws the whole picture and, once more, a few tokens: the difference is the
decoding alone, without what comes before the first tokens. Engines take turns inside a round, so
that a disturbance falls on all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

FEW = 4  # tokens of the short drawing
SHORTEST, STEP = 16, 8  # tokens of a shortened drawing: at least, and in multiples of
LEAST = 3  # rounds, before drawings become shorter
INTERVAL_METHOD = "order statistics of the rounds around their median"


@dataclass(frozen=True)
class Plan:
    """Tokens drawn and rounds timed; `warm`: one more round runs before and is not counted."""

    tokens: int
    rounds: int
    warm: bool = True

    def shortfall(self, tokens: int, rounds: int) -> str:
        """What the budget cut, in words; nothing for a whole run."""
        cuts = []
        if self.tokens < tokens:
            cuts.append(f"{self.tokens} of {tokens} tokens drawn, seconds extrapolated")
        if self.rounds < rounds:
            cuts.append(f"{self.rounds} of {rounds} rounds")
        return ", ".join(cuts)


def plan(few_s: float, step_s: float, tokens: int, rounds: int, budget_s: float) -> Plan:
    """The largest plan that fits the budget: fewer rounds first, then fewer tokens.

    `few_s` is the time of `FEW` tokens, `step_s` of one more. A round is one drawing and one of
    `FEW` tokens; one more is run to warm up. The smallest plan is one round, even over budget.
    """
    short = min(FEW, tokens)

    def fits(count: int, times: int) -> bool:
        return times * (2 * few_s + (count - short) * step_s) <= budget_s

    least, shortest = min(LEAST, rounds), min(SHORTEST, tokens)
    for times in range(rounds, least - 1, -1):
        if fits(tokens, times + 1):
            return Plan(tokens, times)
    longest = short + (budget_s / (least + 1) - 2 * few_s) / max(step_s, 1e-12)
    count = min(tokens, int(longest) // STEP * STEP)
    if count >= shortest:
        return Plan(count, least)
    for times in range(least, 1, -1):
        if fits(shortest, times):
            return Plan(shortest, times, warm=False)
    return Plan(shortest, 1, warm=False)


@dataclass
class Times:
    """Seconds of every counted round of one engine, and of its very first call."""

    full_s: list[float]
    few_s: list[float]
    first_s: float = 0.0


def estimate(engines: Mapping[str, Callable], tokens: int) -> tuple[float, float, dict]:
    """(few_s, step_s) of all engines together, and the first call's seconds of each."""
    few, more = min(FEW, tokens), min(SHORTEST, tokens)
    few_s = step_s = 0.0
    firsts = {}
    for name, draw in engines.items():
        firsts[name] = seconds(draw, few)
        short, longer = seconds(draw, few), seconds(draw, more)
        few_s += short
        step_s += max(longer - short, 0.0) / max(more - few, 1)
    return few_s, step_s, firsts


def run_rounds(engines: Mapping[str, Callable], chosen: Plan, tokens: int) -> dict[str, Times]:
    """Times of every engine by name; an engine is a function of a number of tokens."""
    few = min(FEW, tokens)
    times = {name: Times([], []) for name in engines}
    for place in range(chosen.rounds + chosen.warm):
        for name, draw in engines.items():
            spent = seconds(draw, chosen.tokens), seconds(draw, few)
            if place >= chosen.warm:
                times[name].full_s.append(spent[0])
                times[name].few_s.append(spent[1])
    return times


def seconds(draw: Callable, tokens: int) -> float:
    """Seconds of one drawing, by the clock."""
    started = time.perf_counter()
    draw(tokens)
    return time.perf_counter() - started


def steps_s(times: Times, drawn: int) -> list[float]:
    """Seconds of one decode step, of every round: prefill and the first `FEW` tokens taken out."""
    few = min(FEW, drawn)
    if drawn == few:
        return []
    pairs = zip(times.full_s, times.few_s, strict=True)
    return [(full - short) / (drawn - few) for full, short in pairs]


def batch_s(times: Times, drawn: int, tokens: int) -> list[float]:
    """Seconds of a batch of whole pictures, of every round; steps not drawn cost a mean step."""
    if drawn == tokens:
        return list(times.full_s)
    steps = steps_s(times, drawn)
    return [full + (tokens - drawn) * step for full, step in zip(times.full_s, steps, strict=True)]


def middle(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """(median, low, high): the narrowest pair of order statistics that holds the median with
    `level`, or the smallest and largest value where even they do not (fewer than 6).
    """
    ordered, count = sorted(values), len(values)
    place = 0
    while place + 1 < (count - 1) / 2 and coverage(count, place + 1) >= level:
        place += 1
    return statistics.median(ordered), ordered[place], ordered[count - 1 - place]


def spread(values: list[float]) -> tuple[float, float, float] | float:
    """`middle` for a record; of one round the value alone, which has no interval."""
    return middle(values) if len(values) > 1 else values[0]


def coverage(count: int, place: int = 0) -> float:
    """Chance that the median of a distribution lies between the order statistics `place` from the
    two ends of `count` independent values.
    """
    tail = sum(math.comb(count, hits) for hits in range(place + 1))
    return max(0.0, 1 - 2 * tail / 2**count)
