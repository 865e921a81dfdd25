"""The scan of looks and corners: what is updated equals what is asked from the beginning."""

import numpy as np
import pytest

from cm3leon.world.reader import Scan
from cm3leon.world.sprites import SIZES


def by_hand(gains, first_P, second_P, spot, cell, cells, plain):
    """The most one look explains at one corner: over colours, the two tones' never the same."""
    column, row = spot
    side = cells * cell
    block = gains[row * cell : row * cell + side, column * cell : column * cell + side]
    block_PC = block.reshape(side * side, -1)
    one, two = first_P @ block_PC, second_P @ block_PC
    if plain:
        return one[:-1].max() + two[-1]
    pairs = one[:-1, None] + two[None, :-1]
    return pairs[~np.eye(len(pairs), dtype=bool)].max()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [32, 64])
def test_totals_are_what_looks_explain(name, size):
    random = np.random.default_rng(size)
    scan = Scan(name, size)
    gains = random.normal(0, 100, (size, size, scan.one_TLC.shape[2] + 1)).astype(np.float32)
    scan.update(gains)
    from cm3leon.world.reader import templates

    _, first, second, plain = templates(name, size)
    for look in random.integers(0, len(first), 12):
        row, column = random.integers(0, scan.steps, 2)
        wanted = by_hand(
            gains, first[look], second[look], (column, row), scan.cell, scan.cells, plain[look]
        )
        found = scan.total_TL[look, row * scan.steps + column]
        assert found == pytest.approx(wanted, rel=1e-4, abs=0.1)
    gain, look, _, (column, row) = scan.best()
    assert gain == scan.total_TL.max() == scan.total_TL[look, row * scan.steps + column]


@pytest.mark.parametrize("corner", [(0, 0), (2, 1), (5, 3)])
@pytest.mark.parametrize("changed", SIZES)
def test_a_change_reaches_every_block_that_it_touches(corner, changed):
    random = np.random.default_rng(7)
    scans = [Scan(name, 32) for name in SIZES for _ in range(2)]
    gains = random.normal(0, 100, (32, 32, scans[0].one_TLC.shape[2] + 1)).astype(np.float32)
    for scan in scans:
        scan.update(gains)
    column, row = corner
    side = SIZES[changed] * 4
    gains[row * 4 : row * 4 + side, column * 4 : column * 4 + side] -= 1000
    for kept, fresh in zip(scans[::2], scans[1::2], strict=True):
        kept.update(gains, corner, SIZES[changed])
        fresh.update(gains)
        np.testing.assert_allclose(kept.total_TL, fresh.total_TL, rtol=1e-4, atol=0.5)
        assert kept.best()[1:] == fresh.best()[1:]
