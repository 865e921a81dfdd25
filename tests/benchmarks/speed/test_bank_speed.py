"""The memory bank's speeds: vectors that do not depend on who asks, and the formulas."""

import numpy as np
import pytest

from benchmarks.speed import bank_speed as bench
from benchmarks.speed.bank_speed import Made, Options, extrapolated, make, search
from cm3leon.errors import UserError
from cm3leon.retrieval import index as indexes


def test_a_document_is_the_same_whoever_asks(monkeypatch):
    monkeypatch.setattr(bench, "PIECE", 64)
    cache, rows = Made(200, 16), np.array([0, 5, 63, 64, 130, 199])
    whole = cache.vectors("text_vectors")
    assert (cache.vectors("image_vectors", rows) == whole[rows]).all()
    assert (cache.vectors("image_vectors", range(60, 70)) == whole[60:70]).all()
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-5)
    assert len(np.unique(whole, axis=0)) == 200


@pytest.mark.parametrize("kind", ["ivfpq", "exact"])
def test_a_size_is_made_and_searched(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(indexes, "CENTROIDS", 16)
    options = Options(documents=(600,), width=16, index=kind, queries=30)
    found = make(options, 600, tmp_path) | search(options, 600, tmp_path)
    assert found["recall_at_10"] > (0.8 if kind == "ivfpq" else 0.999)
    names = {measure.name for measure in bench.MEASURES}
    assert set(found) <= names and all(value >= 0 for value in found.values())
    if kind == "ivfpq":
        assert found["index_bytes"] == (tmp_path / "index.faiss").stat().st_size


def test_what_340_million_take_is_by_the_formula():
    found = {"index_bytes": 72e6 + 4 * 4000 * 512, "lists": 4000, "query_ms": 2.0,
             "learn_s": 10.0, "add_s": 30.0}  # fmt: skip
    numbers, lines = extrapolated(10**6, found, Options())
    assert numbers["index_bytes"] == pytest.approx(72 * 340e6 + 4 * 4000 * 340**0.5 * 512)
    assert numbers["query_ms"] == pytest.approx(2 * 340**0.5)
    assert (numbers["learn_s"], numbers["add_s"]) == pytest.approx((3400, 30 * 340**1.5))
    assert numbers["neighbours_h"] == pytest.approx(2 * 340e6 * 2e-3 * 340**0.5 / 3600)
    assert len(lines) == 6 and "from n = 1,000,000 to N = 340,000,000" in lines[0]


def test_sizes_rise():
    for sizes in ((), (5, 5), (7, 2)):
        with pytest.raises(UserError, match="--documents must rise"):
            Options(documents=sizes)
