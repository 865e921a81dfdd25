"""FID's interval over sets, and FID at few and at endless pictures, in memory and on disk."""

import numpy as np
import pytest

from cm3leon.evaluation.features.statistics import Statistics
from cm3leon.evaluation.metrics import fid as module
from cm3leon.evaluation.metrics.fid import by_first, fid, measured
from cm3leon.evaluation.sides import Held, Lacking, Sides
from cm3leon.evaluation.statistics.frechet import frechet_from_features, moments
from cm3leon.evaluation.statistics.intervals import extrapolated_frechet, spread_of
from cm3leon.seeds import generator

D = 6


def held(purpose: str, count: int, shift: float = 0.0) -> Held:
    """Features of so many pictures."""
    rows = generator(0, purpose).standard_normal((count, D)) + shift
    return Held(rows.astype(np.float32))


REAL, FAKES = held("real", 60), [held(f"fake {k}", 40, 0.3) for k in range(2)]
IMPORTED = Statistics(*moments(REAL.features_ND), {})


def test_in_memory_it_is_followed_through_random_halves_and_quarters():
    found = measured(Sides(REAL, FAKES, None, REAL, resamples=5))
    assert list(found) == ["fid_at_20", "fid_at_10", "fid_infinity"]
    real_ND, fake_ND = REAL.features_ND, FAKES[0].features_ND
    assert found["fid_infinity"] == extrapolated_frechet(real_ND, fake_ND, 5, level=0.95)
    assert found["fid_at_10"] > found["fid_at_20"] > found["fid_infinity"][0]
    with pytest.raises(Lacking, match="more pictures"):  # a quarter is not above the dimension
        measured(Sides(REAL, [held("few", 4 * D)], None, REAL))


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [((10, 20, 40), [10, 20]), ((5, 8, 30), [8, 30]), ((100,), [10, 20]), ((40,), [10, 20])],
)
def test_on_disk_it_is_of_the_first_pictures_and_of_a_line(monkeypatch, sizes, wanted):
    """Sizes below the number of pictures and above the dimension; without any, parts of it."""
    monkeypatch.setattr(module, "SIZES", sizes)
    found, rows = by_first(IMPORTED, FAKES[0]), FAKES[0].features_ND
    limit = found.pop("fid_infinity")
    at = {size: frechet_from_features(REAL.features_ND, rows[:size]) for size in (*wanted, 40)}
    assert found == pytest.approx({f"fid_at_{size}": at[size] for size in wanted})
    over = np.stack([1 / np.array([*at]), np.ones(len(at))], 1)
    assert limit == pytest.approx(np.linalg.lstsq(over, np.array([*at.values()]))[0][1])


def test_on_disk_as_few_as_the_dimension_are_no_size(monkeypatch):
    monkeypatch.setattr(module, "SIZES", (100,))
    for count, sizes in ((4 * (D + 1), [D + 1, 2 * (D + 1)]), (4 * D, [2 * D])):
        found = by_first(IMPORTED, held("some", count))
        assert list(found) == [*(f"fid_at_{size}" for size in sizes), "fid_infinity"]
    with pytest.raises(Lacking, match="more pictures"):
        by_first(IMPORTED, held("few", 2 * D + 1))


def test_an_interval_is_that_of_the_sets_and_says_how_it_was_made():
    found = fid(REAL, FAKES)
    moved_KN = np.stack([REAL.influence(one) for one in FAKES])
    assert found.spread == spread_of(found.per_seed, moved_KN, 0.95)
    assert found.value == np.mean(found.per_seed)
    assert found.number == (found.value, *found.spread["both"])
    assert found.methods["images"] in found.methods["both"]
    # Sets that differ more than drawing explains widen it, equal ones do not.
    apart = fid(REAL, [FAKES[0], held("far", 40, 1.0)])
    alike = fid(REAL, [FAKES[0], FAKES[0]])
    assert apart.spread["both"] != apart.spread["images"] and "widened" in apart.methods["both"]
    assert alike.spread["both"] == alike.spread["images"] and "widened" not in alike.methods["both"]


@pytest.mark.parametrize(("real", "drawn", "has"), [(60, 4, True), (60, 3, False), (3, 40, False)])
def test_below_four_pictures_a_side_there_is_no_interval(real, drawn, has):
    found = fid(held("real", real), [held("few", drawn)])
    assert (found.spread["both"] is not None) == has
    assert isinstance(found.number, tuple) == has
