"""What an effect with its interval says of a statement, what it could have seen, and when it cannot
say: no torch, no records.

A verdict needs the whole interval on one side of what is claimed. It also needs a sample that can
carry it: with fewer than `LEAST` captions, or where every FID that is compared stands no higher
than as many real pictures do (the floor), it is "not measurable at this n", whatever the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cm3leon.evaluation.statistics.significance import smallest_effect

HOLDS, FAILS, OPEN = "holds", "does not", "not resolved"
UNMEASURABLE = "not measurable at this n"
# Captions: from here on the coverage of the intervals is tested on the embedded world's features
# (tests/evaluation/statistics/test_intervals.py).
LEAST = 64
FLOOR_NOTE = "not measurable at this n: every FID compared is within real against real (floor)"


def judged(effect: Mapping, wanted: float) -> str:
    """What {low, high} says of "the effect is above `wanted`"."""
    if effect["low"] > wanted:
        return HOLDS
    return FAILS if effect["high"] < wanted else OPEN


def carried(
    verdict: str, n: int, fids: Sequence[Mapping] = (), floor: Mapping | None = None
) -> str:
    """The verdict, or that `n` captions carry none; `fids` are those that it compares."""
    if n < LEAST or (fids and at_floor(fids, floor)):
        return UNMEASURABLE
    return verdict


def at_floor(fids: Sequence[Mapping], floor: Mapping | None) -> bool:
    """Whether no FID is above what as many real pictures reach; False without a floor."""
    if floor is None:
        return False
    most = floor["value"] if floor["high"] is None else floor["high"]
    return all(one["value"] <= most for one in fids)


def could_see(effect: Mapping, ratio: bool) -> float | None:
    """The effect that an interval as wide as this one resolves in four of five runs: a difference,
    or a factor above 1 of a ratio. None without an interval, and for ratios that reach 0.
    """
    if effect.get("low") is None or (ratio and effect["low"] <= 0):
        return None
    return smallest_effect(effect["low"], effect["high"], ratio=ratio)


def power_cell(effect: Mapping, ratio: bool | None) -> str:
    """`could_see` in a table: "x 1.12" or "0.034"; "-" where no number is "no effect"."""
    seen = None if ratio is None else could_see(effect, ratio)
    if seen is None:
        return "-"
    return f"x {seen:.3g}" if ratio else f"{seen:.3g}"


POWER_NOTE = "could have seen: the effect that four of five such runs resolve"
