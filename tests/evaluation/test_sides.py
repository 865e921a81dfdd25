"""The one way from features to numbers: in memory and on disk, every measure of the table."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from cm3leon.evaluation import measures
from cm3leon.evaluation import sides as sides_module
from cm3leon.evaluation.features.cache import Kept, Shard, write_shard
from cm3leon.evaluation.features.network import Features
from cm3leon.evaluation.features.statistics import Statistics
from cm3leon.evaluation.measures import MEASURES, Measure, find_measure
from cm3leon.evaluation.metrics.composition import ALL
from cm3leon.evaluation.metrics.fid import fid
from cm3leon.evaluation.metrics.kid import kid
from cm3leon.evaluation.metrics.precision_recall import precision_recall
from cm3leon.evaluation.sides import (
    Held,
    Lacking,
    Sides,
    Truth,
    lacking,
    modules,
    numbers,
    serves,
)
from cm3leon.evaluation.statistics.frechet import moments
from cm3leon.seeds import generator

N, D = 40, 6


def rows(purpose: str, count: int = N, shift: float = 0.0) -> np.ndarray:
    return (generator(0, purpose).standard_normal((count, D)) + shift).astype(np.float32)


def network(name="inception") -> Features:
    head_KD = rows("head", 5)
    return Features(name, "0" * 64, D, 8, len, logits=lambda x_BD: x_BD @ head_KD.T)


class Clip:
    name = "scenes"

    def texts(self, texts):
        return rows("texts", len(texts))


def truth() -> Truth:
    asked_NT = np.ones((N, len(ALL)), int)
    right_NT = (generator(0, "right").random(asked_NT.shape) < 0.7).astype(int)
    images = [str(k // 2) for k in range(N)]
    return Truth(right_NT, asked_NT, images, np.arange(N) % 4 == 0, np.arange(N) % 5 == 0)


def in_memory(**given) -> Sides:
    real = Held(rows("real", 60))
    fakes = [Held(rows(f"fake {k}", shift=0.3)) for k in range(2)]
    return Sides(real, fakes, network(), real, resamples=3, **given)


def on_disk(folder, features_ND: np.ndarray) -> Kept:
    shard = Shard(features_ND, np.arange(len(features_ND)), {}, {})
    write_shard(folder / "00000.npz", shard)
    return Kept(folder, len(features_ND), D)


@pytest.mark.parametrize("name", [name for name, _ in modules()])
def test_every_module_of_the_table_gives_the_numbers_of_its_rows(name):
    """No number but those of the module's own rows, with a value inside its interval."""
    module = dict(modules())[name]
    sides = in_memory(captions=["a"] * N, clip=Clip(), truth=truth())
    found = module.measured(sides)
    assert found
    for number, value in found.items():
        assert find_measure(number)[1].module == name
        if isinstance(value, tuple):
            assert value[1] <= value[0] <= value[2]
    assert module.NETWORK is None or isinstance(module.NETWORK, str)


def test_a_new_measure_is_one_file_and_one_row(monkeypatch):
    """A module, and a row that names it: its numbers are there and say what they are."""
    made = types.ModuleType("cm3leon.evaluation.metrics.warmth")
    made.NETWORK = None
    made.measured = lambda sides: {"warmth": float(sides.fake_rows(9)[0].mean())}
    monkeypatch.setitem(sys.modules, made.__name__, made)
    rows = (*MEASURES, Measure("warmth", "warmth", "K", "higher", "warmth"))
    for place in (measures, sides_module):
        monkeypatch.setattr(place, "MEASURES", rows)
    found, missing = numbers(in_memory())
    assert "warmth" in found and not missing
    assert measures.declared(found)["warmth"] == {
        "title": "warmth",
        "unit": "K",
        "better": "higher",
    }


def test_numbers_are_the_pure_functions_and_name_what_is_missing():
    sides = in_memory(truth=truth())
    found, missing = numbers(sides)
    real_ND, fakes = sides.real.features_ND, [one.features_ND for one in sides.fakes]
    assert found["kid"] == pytest.approx(np.mean([kid(real_ND, one)[0] for one in fakes]))
    shares = np.mean([precision_recall(real_ND, one) for one in fakes], axis=0)
    assert (found["precision"][0], found["recall"][0]) == pytest.approx(tuple(shares))
    assert {"inception_score", "overall", "entity_unseen", "impossible"} < found.keys()
    assert not missing and "fd_dinov2" not in found  # of a network of its own
    few = Held(rows("few", 3))
    found, missing = numbers(Sides(few, [few], network("scenes"), few))
    assert not found
    assert [(one.measure, one.needs) for one in missing] == [
        (name, "more pictures")
        for name in ("FID at infinitely many pictures", "KID", "precision", "recall")
    ]
    imported = Sides(Statistics(*moments(real_ND), {}), sides.fakes, network())
    _, missing = numbers(imported, skip=["fid"])
    assert {one.needs for one in missing} == {"the real pictures, not --reference alone"}


def test_features_on_disk_give_what_those_in_memory_give(tmp_path):
    """Two routes to each number: the rows side by side, and by moments and shards."""
    held = in_memory()
    real = on_disk(tmp_path / "real", held.real.features_ND)
    fakes = [on_disk(tmp_path / str(k), one.features_ND) for k, one in enumerate(held.fakes)]
    kept = Sides(Statistics(*real.moments().finish(), {}), fakes, network(), real)
    one, other = fid(held.reference, held.fakes), fid(kept.reference, kept.fakes)
    assert one.per_seed == pytest.approx(other.per_seed, rel=1e-9)
    for name, ends in one.spread.items():
        assert ends == pytest.approx(other.spread[name], rel=1e-6)
    assert one.number == (one.value, *one.spread["both"]) and one.methods == other.methods
    mine, theirs = (numbers(sides, skip=["fid"])[0] for sides in (held, kept))
    assert mine.keys() == theirs.keys()
    for number, value in mine.items():
        assert value == pytest.approx(theirs[number], rel=1e-9), number


def test_rows_are_chosen_among_those_that_can_be_read():
    side = Held(rows("real"), {3: "torn"})
    among = np.arange(N) < 10
    marked = side.chosen(5, among)
    assert marked.sum() == 5 and not marked[3] and not (marked & ~among).any()
    assert (side.chosen(N, among) == (among & side.readable)).all()
    assert (side.chosen(5, among) == marked).all()
    with pytest.raises(Lacking, match="the real pictures"):
        Sides(side, [side], network()).real_rows(5)


def test_networks_that_serve():
    assert serves(None, "scenes") and serves("dinov2", "dinov2")
    assert serves("inception", "inception-clean") and not serves("inception", "scenes")
    assert not serves("dinov2", "dinov2-b14")
    assert [one.measure for one in lacking("clip_score", "x")] == [
        "CLIP score, plain cosine", "CLIP score, 2.5 max(0, cosine)"
    ]  # fmt: skip
    files = {one.module for one in MEASURES if one.module}
    assert files == {name for name, _ in modules()}


def test_means_over_seeds_are_of_each_seed_s_own_number():
    """Two sets of drawings: every module's number is the mean of what each set has alone."""
    both = in_memory(captions=["a"] * N, clip=Clip(), truth=truth())
    alone = [replace(both, fakes=[one]) for one in both.fakes]
    for name, module in modules():
        if name in ("clip_score", "cmmd", "kid", "precision_recall", "inception_score"):
            sides = module.measured(both), *(module.measured(one) for one in alone)
            for number in sides[0]:
                whole, *parts = (one[number] for one in sides)
                first = [one[0] if isinstance(one, tuple) else one for one in (whole, *parts)]
                assert first[0] == pytest.approx(np.mean(first[1:]), rel=1e-6), number
