"""Boxes as text: exact for blocks of cells at every size, within half a step for any other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.world.coordinates import at_location, location, read_location, read_locations

SIZES = st.sampled_from(range(32, 257, 8))


@given(SIZES, st.integers(0, 7), st.integers(0, 7), st.integers(1, 8), st.integers(1, 8))
def test_blocks_of_cells_come_back_exactly(size, column, row, width, height):
    cell = size // 8
    block = (column, row, min(8, column + width), min(8, row + height))
    box = tuple(value * cell for value in block)
    assert read_location(at_location(box, size), size) == box
    assert at_location(box, size) == at_location(block, 8)  # the same words at every size


@given(st.integers(1, 256), st.data())
def test_any_box_comes_back_within_half_a_step(size, data):
    x0, y0 = (data.draw(st.floats(0, size * 0.99)) for _ in "xy")
    x1, y1 = (data.draw(st.floats(low + size / 200, size)) for low in (x0, y0))
    if x1 > size or y1 > size:
        return
    box = (x0, y0, x1, y1)
    for value, wanted in zip(read_location(location(box, size), size), box, strict=True):
        assert abs(value - wanted) <= size / 256 + 1e-9


def test_the_paper_s_notation():
    assert location((0, 0, 24, 24), 64) == "(0, 0) -> (95, 95)"
    assert location((0, 0, 64, 64), 64) == "(0, 0) -> (255, 255)"
    figure = (
        "a room with bottle at location (199, 130) -> (204, 150) and bed at (0, 169)->(67, 255)"
    )
    assert read_locations(figure, 256) == [(199, 130, 205, 151), (0, 169, 68, 256)]
    assert read_locations("no place named", 64) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at (0, 0) -> (256, 9)", "coordinates must lie in 0..255, got 256 in"),
        ("at (-1, 0) -> (6, 9)", "coordinates must lie in 0..255, got -1 in"),
        ("at (9, 0) -> (6, 9)", "from top left to bottom right, got"),
        ("at (0, 9) -> (6, 3)", "from top left to bottom right, got"),
        ("nowhere", "one location like .* is needed, got 'nowhere'"),
        ("(0, 0) -> (1, 1) or (2, 2) -> (3, 3)", "one location like"),
    ],
)
def test_bad_text_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        read_location(text, 64)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("box", [(0, 0, 65, 8), (-1, 0, 8, 8), (8, 0, 8, 8), (0, 9, 8, 3)])
def test_a_bad_box_is_one_line(box):
    with pytest.raises(UserError, match=r"a box must have 0 <= x0 < x1 <= 64"):
        location(box, 64)
