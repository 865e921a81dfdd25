"""Verdicts of the report's hypotheses from records made by hand: each as its statement reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.reports.benches import decoding, pretraining, retrieval
from cm3leon.reports.paper.claims import (
    Finding,
    _p,
    _size_finding,
    adjusted_p,
    claims_tables,
    tally,
)
from cm3leon.reports.paper.model import numeral
from cm3leon.reports.paper.results import Run
from cm3leon.reports.verdicts import (
    FAILS,
    HOLDS,
    LEAST,
    OPEN,
    UNMEASURABLE,
    could_see,
    power_cell,
)
from tests.record_maker import record


def triple(value: float, low: float, high: float) -> dict:
    return {"value": value, "low": low, "high": high}


WEIGHTS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def guided(
    steps: tuple, one=(2.0, 2.0, 3.0), other=(2.0, 1.5, 3.0), n=160, fids=(), floor=None
) -> list[str]:
    """Verdicts of H3 from how many steps two best weights are apart, and where they stand; `fids`
    are of small and large at weights 2 and 3.
    """
    extras = {
        "guidance.small.best_weight": triple(*one),
        "guidance.large.best_weight": triple(*other),
        "guidance.large.steps_from_small": triple(*steps),
    }
    cells = {}
    for place, fid in enumerate(fids):
        name, size = f"cell{place}", ("small", "large")[place // 2]
        cells[name] = {"system": size, "decode": {"guidance": 2.0 + place % 2}}
        extras[f"guidance.{name}.fid"] = triple(fid, fid - 9, fid + 9)
    if floor:
        extras["guidance.real.floor"] = triple(*floor)
    plan = {"weights": WEIGHTS, "weight_prompts": n}
    made = {
        "extra": extras,
        "protocol": {"parts": ["guidance"], "plan": plan, "cells": {"guidance": cells}},
    }
    return [one["verdict"] for one in decoding.verdicts(made)]


@pytest.mark.parametrize(
    "steps, verdict",
    [
        ((0, 0, 0), HOLDS),
        ((0, -1, 1), HOLDS),
        ((1, 1, 1), HOLDS),  # a neighbour
        ((0, -2, 1), OPEN),
        ((0, -1, 2), OPEN),
        ((1, -3, 3), OPEN),
        ((2, 1, 3), FAILS),
        ((-2, -3, -1), FAILS),
        ((2, 0, 3), OPEN),
    ],
)
def test_h3_is_of_neighbours_on_the_grid(steps, verdict):
    assert guided(steps) == [verdict]


@pytest.mark.parametrize("steps", [(0, 0, 0), (2, 2, 3), (-1, -1, 1)])
@pytest.mark.parametrize("ends", [(1.0, 1.0, 1.5), (8.0, 6.0, 8.0), (1.5, 1.0, 2.0)])
def test_an_optimum_at_the_grid_s_end_decides_nothing(steps, ends):
    assert guided(steps, one=ends) == guided(steps, other=ends) == [OPEN]


def test_few_captions_and_fids_at_the_floor_carry_no_verdict():
    agree, apart = (0, 0, 0), (2, 1, 3)
    for steps in (agree, apart):
        assert guided(steps, n=LEAST - 1) == [UNMEASURABLE] != guided(steps, n=LEAST)
    floor = (50, 40, 60)
    at = {"fids": (59, 80, 90, 58), "floor": floor}  # the best of each size: 59 and 58
    above = {"fids": (59, 80, 90, 61), "floor": floor}
    assert guided(agree, **at) == [UNMEASURABLE] and guided(agree, **above) == [HOLDS]


def size_finding(small: tuple, large: tuple) -> str:
    runs = []
    for name, (value, low, high) in (("small", small), ("large", large)):
        interval = {"low": low, "high": high, "level": 0.95, "method": "x"}
        size = numeral(1.0, "r", "", shown="1", how="x")
        runs.append((Run(record(value, name, interval=interval), f"{name}.json"), size))
    return _size_finding(*runs).verdict


def test_sizes_at_the_floor_are_not_told_apart():
    assert size_finding((0.6, 0.5, 0.65), (0.3, 0.2, 0.4)) == UNMEASURABLE  # floor 0.62 .. 0.66
    assert size_finding((0.7, 0.68, 0.75), (0.3, 0.2, 0.4)) == HOLDS


def test_h2_needs_intervals_apart_not_points():
    assert size_finding((50, 45, 55), (25, 20, 30)) == HOLDS
    assert size_finding((50, 30, 55), (25, 20, 31)) == OPEN  # the points alone are far apart
    assert size_finding((50, 30, 55), (25, 20, 30)) == OPEN
    assert size_finding((25, 20, 30), (50, 45, 55)) == FAILS
    assert size_finding((25, 20, 45), (50, 45, 55)) == OPEN


EFFECTS = [((1.2, 1.1, 1.3), (0.2, 0.1, 0.3), HOLDS), ((0.8, 0.7, 0.9), (-0.2, -0.3, -0.1), FAILS)]
EFFECTS += [((1.1, 0.9, 1.3), (0.1, -0.1, 0.3), OPEN), ((1.2, 1.0, 1.3), (0.2, 0.0, 0.3), OPEN)]


@pytest.mark.parametrize("ratio, difference, verdict", EFFECTS)
def test_leads_of_the_default_as_the_statements_read(ratio, difference, verdict):
    """H1, H7, H8: FID of the other arm over the default's, shares of the default less the other."""
    extras = {
        f"{split}.default.{measure}_vs_{arm}": triple(*(ratio if measure == "fid" else difference))
        for _, _, split, measure, arm in retrieval.HYPOTHESES
    }
    made = {"extra": extras, "protocol": {"default": "default"}, "n": LEAST}
    found = retrieval.verdicts(made)
    assert len(found) == 13 and {one["verdict"] for one in found} == {verdict}
    few = retrieval.verdicts(made | {"n": 16})
    assert {one["verdict"] for one in few} == {UNMEASURABLE}
    statements = {one["statement"]: one for one in found}
    assert statements["two lift entities never seen in training"]["measure"] == "entity_unseen"


def pooled(n=LEAST, **changes) -> dict[tuple, str]:
    """Verdicts of H4 and H5 by statement's first words; effects that hold unless changed."""
    extras = {
        "pool.cd-k-n1.fid_vs_top-p": (1.0, 0.95, 1.1),
        "pool.cd-k-n32.fid_vs_top-p": (1.0, 0.95, 1.1),
        "pool.top-p.gain": (1.0, 0.98, 1.05),
        "pool.cd-k.gain": (1.0, 0.98, 1.05),
        "pool.mixed.gain": (1.2, 1.1, 1.3),
        "pool.mixed.gain_vs_top-p": (1.2, 1.1, 1.3),
        "pool.mixed.gain_vs_cd-k": (1.2, 1.1, 1.3),
    } | changes
    made = {
        "extra": {key: triple(*value) for key, value in extras.items()},
        "protocol": {
            "parts": ["pool"], "gain_from": 8, "gain_to": 32, "plan": {"pool_prompts": n},
        },
    }  # fmt: skip
    return {one["key"]: one["verdict"] for one in decoding.verdicts(made)}


def test_a_pool_at_the_floor_tells_nothing_of_what_stands_there():
    names = [f"{way}-n{n}" for way in ("top-p", "cd-k", "mixed") for n in (1, 8, 32)]
    fids = {f"pool.{name}.fid": (70, 60, 80) for name in names}
    fids |= {"pool.cd-k-n1.fid": (120, 100, 140), "pool.real.floor": (78.7, 65.9, 91.5)}
    found = pooled(**fids)
    assert found.pop("pool.cd-k-n1.fid_vs_top-p") == HOLDS  # one of its two stands above
    assert set(found.values()) == {UNMEASURABLE} and len(found) == 6
    lower = pooled(**fids | {"pool.real.floor": (60, 50, 69.9)})
    assert set(lower.values()) == {HOLDS}
    assert set(pooled(LEAST - 1).values()) == {UNMEASURABLE}


def test_h4_and_h5_as_their_statements_read():
    assert set(pooled().values()) == {HOLDS}
    key = "pool.cd-k-n32.fid_vs_top-p"  # at most 1.1 times: top-p / CD-K above 1 / 1.1
    assert pooled(**{key: (0.95, 0.90, 1.0)})[key] == OPEN
    assert pooled(**{key: (0.8, 0.7, 0.9)})[key] == FAILS
    assert pooled(**{key: (0.95, 0.92, 1.0)})[key] == HOLDS
    key = "pool.top-p.gain"  # under a tenth is stagnation
    assert pooled(**{key: (1.05, 0.99, 1.12)})[key] == OPEN
    assert pooled(**{key: (1.2, 1.01, 1.3)})[key] == FAILS
    key = "pool.mixed.gain_vs_cd-k"
    assert pooled(**{key: (1.1, 0.9, 1.3)})[key] == OPEN
    assert pooled(**{key: (0.9, 0.8, 0.99)})[key] == FAILS


@given(st.integers(1, 4), st.sampled_from([(0.2, 0.1, 0.3), (-0.2, -0.3, -0.1)]))
def test_one_training_seed_resolves_nothing(seeds, effect):
    extras = {
        f"{arm}.{score}_minus_default": triple(*effect)
        for _, _, arm, score, _ in pretraining.HYPOTHESES
    }
    made = {"extra": extras, "protocol": {"seeds": list(range(seeds)), "arms": {}}}
    found = pretraining.verdicts(made)
    assert len(found) == len(pretraining.HYPOTHESES) == 8
    for one, (_, _, _, _, sign) in zip(found, pretraining.HYPOTHESES, strict=True):
        resolved = HOLDS if sign * effect[0] > 0 else FAILS
        assert one["verdict"] == (OPEN if seeds == 1 else resolved)


def test_the_tally_counts_every_verdict():
    class One:
        def __init__(self, claim, verdict):
            self.claim, self.verdict = claim, verdict

    found = [One("H1", HOLDS), One("H1", FAILS), One("H2", HOLDS), One("H3", OPEN)]
    wanted = {HOLDS: 2, FAILS: 1, OPEN: 1, UNMEASURABLE: 0, "not measured yet": 7}
    assert tally(found) == wanted
    assert tally([*found, One("H4", UNMEASURABLE)])[UNMEASURABLE] == 1


def test_power_is_of_the_interval():
    """A ratio's is a factor on the log scale: the same whichever way it is turned."""
    from math import exp

    wide = triple(1.2, 1.2 / exp(0.1959964), 1.2 * exp(0.1959964))  # s = 0.1
    assert could_see(wide, True) == pytest.approx(exp(0.28016), rel=1e-4)
    turned = triple(1 / wide["value"], 1 / wide["high"], 1 / wide["low"])
    assert could_see(turned, True) == pytest.approx(could_see(wide, True))
    assert could_see(triple(5, 5 - 1.959964, 5 + 1.959964), False) == pytest.approx(
        2.8016, abs=1e-3
    )
    assert could_see(triple(1, 0, 2), True) is None is could_see(triple(1, None, None), False)
    assert power_cell(wide, True) == "x 1.32" and power_cell(wide, None) == "-"


def test_p_over_all_statements_together():
    """Three effects with p of 0.05, of 0.001 and none: Holm and BH over two of them."""
    made = {
        "extra": {
            "test.default.fid_vs_documents-0": triple(1.2, 1.0, 1.44),
            "tail.default.entity_vs_documents-0": triple(0.2, 0.2 - 0.1191, 0.2 + 0.1191),
        },
        "protocol": {"default": "default"},
        "n": 100,
    }
    found = [
        Finding(one["hypothesis"], (), "", (), one["verdict"], _p(one))
        for one in retrieval.verdicts(made)
    ]
    found.append(Finding("H3", (), "", (), OPEN))
    adjusted = [adjusted_p(found)[id(one)] for one in found[:2]]
    assert adjusted[0] == pytest.approx((0.05, 0.05), rel=1e-2)
    assert adjusted[1] == pytest.approx((0.002, 0.002), rel=5e-2)
    table = claims_tables(found, "95%")[0].panels[0]
    assert all(len(row.cells) in (1, 7) for row in table.rows) and len(table.headers) == 7
