"""What documents change at equal FLOPs and at equal queries, against sums written out."""

import numpy as np
import pytest

from benchmarks.ablations.scaling_arms import differences, equal
from cm3leon.evaluation.statistics.intervals import mean_interval

SIZES = {"8x1": 1_000, "16x1": 4_000}
BUDGETS = (1e9, 2.75e9, 7.6e9)


def point(size: str, arm: str, seed: int, at: int) -> dict:
    """Of an arm whose rows with documents are 2.75 times as long; losses grow with their place."""
    loss = SIZES[size] / 1e4 + seed / 7 + at / 3 + (0.5 + seed / 11 if arm == "documents" else 0)
    found = {"size": size, "seed": seed, "budget": BUDGETS[at], "parameters": SIZES[size]}
    found |= {"held_out_image": loss, "held_out_text": 2.0, "held_out_tail_image": loss**2}
    found["queries"] = BUDGETS[at] / SIZES[size] / (2.75 if arm == "documents" else 1.0)
    drawn = {
        "tail.fid_with_0": 40.0 + seed,
        "tail.composition_with_0": 0.25,
        "tail.entity_with_0": 0,
    }
    if arm == "documents":
        drawn |= {"tail.fid_with_2": 20.0 + seed, "tail.composition_with_2": 0.5 + seed / 10}
    return found | drawn


def points(arm: str, seeds=(0, 1, 2)) -> list[dict]:
    return [point(size, arm, seed, at) for size in SIZES for seed in seeds for at in range(3)]


def test_pairs_of_equal_flops_and_of_equal_queries():
    plain, documents = points("plain"), points("documents")
    flops = equal(plain, documents, "budget", 1e-9)
    assert len(flops) == 18 and all(a["budget"] == b["budget"] for a, b in flops)
    queries = equal(plain, documents, "queries", 0.05)
    assert len(queries) == 12  # the least budget with documents has no plain one below
    for one, ours in queries:
        assert BUDGETS.index(ours["budget"]) == BUDGETS.index(one["budget"]) + 1
        assert (one["size"], one["seed"]) == (ours["size"], ours["seed"])


def test_differences_are_means_over_seeds_with_their_interval():
    found = differences(points("plain"), points("documents"))
    own = [0.5 + seed / 11 for seed in range(3)]
    for name in ("8x1", "16x1", "all", "all.first"):
        value = found[f"equal_flops.{name}.held_out_image_minus_plain"]
        assert value == pytest.approx((np.mean(own), *mean_interval(own)))
        assert found[f"equal_flops.{name}.tail.composition_minus_plain"][0] == pytest.approx(0.35)
    queries = found["equal_queries.8x1.held_out_image_minus_plain"]
    assert queries[0] == pytest.approx(np.mean(own) + 1 / 3)
    ratios = [np.log((20 + seed) / (40 + seed)) for seed in range(3)]
    expected = np.exp([np.mean(ratios), *mean_interval(ratios)])
    assert found["equal_flops.all.tail.fid_over_plain"] == pytest.approx(tuple(expected))
    assert not any("entity" in name for name in found)  # the arm with documents did not draw them

    squares = [
        [
            point(size, "documents", seed, 2)["held_out_image"] ** 2
            - point(size, "plain", seed, 2)["held_out_image"] ** 2
            for size in SIZES
        ]
        for seed in range(3)
    ]
    slopes = [(large - small) / np.log(4) for small, large in squares]
    slope = found["equal_flops.slope.held_out_tail_image_minus_plain"]
    assert slope == pytest.approx((np.mean(slopes), *mean_interval(slopes)))


def test_one_seed_has_no_interval():
    found = differences(points("plain", (0,)), points("documents", (0,)))
    assert found["equal_flops.8x1.held_out_image_minus_plain"] == pytest.approx(0.5)


def test_arms_that_never_meet_say_nothing():
    documents = [one | {"seed": 9} for one in points("documents")]
    assert differences(points("plain"), documents) == {}
