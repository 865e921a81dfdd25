"""Cells change what they say and nothing else; the pool takes the best of each strategy."""

from dataclasses import dataclass, field, replace

from benchmarks.ablations.decoding_settings import (
    GREEDY,
    QUICK,
    Plan,
    guidance_cells,
    label,
    nucleus_cells,
    strategies,
    surface_cells,
)
from cm3leon.decoding.config import DecodeConfig


@dataclass(frozen=True)
class Stub:
    """A system with settings of drawing."""

    name: str = "stub"
    retriever: None = None
    decode: DecodeConfig = field(
        default_factory=lambda: DecodeConfig(guidance=2.0, unconditional="bare")
    )

    def with_decode(self, decode):
        return replace(self, decode=decode)


def test_names_have_no_dots_and_differ():
    for plan in (Plan(), QUICK):
        groups = (
            guidance_cells([Stub("a"), Stub("b")], plan),
            surface_cells(Stub(), plan),
            nucleus_cells(Stub(), plan),
        )
        for cells in groups:
            names = [cell.name for cell in cells]
            assert len(set(names)) == len(names) and not any("." in name for name in names)
    assert label(1.5) == "1_5" and label(2.0) == "2"


def test_counts_are_powers_of_two_up_to_the_pool():
    assert Plan().counts == (1, 2, 4, 8, 16, 32) and QUICK.counts == (1, 2, 4)
    assert replace(Plan(), pool_samples=6).counts == (1, 2, 4)


def test_cells_keep_what_they_do_not_name():
    for cell in [*surface_cells(Stub(), QUICK), *nucleus_cells(Stub(), QUICK)]:
        assert cell.system.decode.unconditional == "bare" and cell.system.decode.guidance == 2.0
    weights = [cell.system.decode.guidance for cell in guidance_cells([Stub()], QUICK)]
    assert weights == list(QUICK.weights)
    limit = next(cell for cell in surface_cells(Stub(), QUICK) if cell.name == GREEDY)
    assert limit.system.decode.temperature == 0 and limit.system.decode.k == 1


def test_the_pool_takes_the_lowest_fid_of_each_strategy():
    surface = {cell.name: 50.0 for cell in surface_cells(Stub(), QUICK)} | {"k4-a1": 10.0}
    surface[GREEDY] = 1.0  # no strategy of the pool: all its samples are the same
    nucleus = {cell.name: 50.0 for cell in nucleus_cells(Stub(), QUICK)}
    nucleus |= {"t1-p1": 20.0, "t0_6-p0_9": 30.0}
    found = strategies(Stub(), surface, nucleus, QUICK)
    assert (found["cd-k"].k, found["cd-k"].alpha, found["cd-k"].strategy) == (4, 1.0, "contrast")
    assert (found["temperature"].temperature, found["temperature"].top_p) == (1.0, 1.0)
    assert (found["top-p"].temperature, found["top-p"].top_p) == (0.6, 0.9)
