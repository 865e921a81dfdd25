"""Boxes as text, as the paper writes them (Figures 5 and 15): `(32, 64) -> (127, 159)`.

The numbers are the corner pixels, top left and bottom right, of a picture 256 pixels wide, whatever
the size of the picture meant. Both corners belong to the box, so the last pixel is 255 and a block
of cells of the embedded world comes back exactly at every size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cm3leon.errors import UserError

SIDE = 256
_PAIR = r"\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\)"
_LOCATION = re.compile(rf"{_PAIR}\s*->\s*{_PAIR}")

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 lie outside


def location(box: Sequence[float], size: float) -> str:
    """`(x1, y1) -> (x2, y2)` of a box x0, y0, x1, y1 in pixels of a picture `size` wide.

    Rounded to the grid of 256; exact where the box lies on it. Raises UserError for a box that is
    empty, reversed or leaves the picture.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size):
        raise UserError(
            f"a box must have 0 <= x0 < x1 <= {size:g} and likewise y, got {tuple(box)}"
        )
    low = [min(SIDE - 1, round(value * SIDE / size)) for value in (x0, y0)]
    high = [round(value * SIDE / size) - 1 for value in (x1, y1)]
    high = [max(one, other) for one, other in zip(low, high, strict=True)]
    return f"({low[0]}, {low[1]}) -> ({high[0]}, {high[1]})"


def at_location(box: Sequence[float], size: float) -> str:
    """`at location (x1, y1) -> (x2, y2)`; see `location`."""
    return f"at location {location(box, size)}"


def read_locations(text: str, size: float) -> list[Box]:
    """All boxes that a text names, in order, in pixels of a picture `size` wide.

    Raises UserError for a number outside 0..255 and for corners that are reversed.
    """
    return [_box(match, size) for match in _LOCATION.finditer(text)]


def read_location(text: str, size: float) -> Box:
    """The one box a text names; see `read_locations`. UserError also when it names none or more."""
    found = read_locations(text, size)
    if len(found) != 1:
        raise UserError(f"one location like (32, 64) -> (127, 159) is needed, got {text!r}")
    return found[0]


def _box(match: re.Match, size: float) -> Box:
    x1, y1, x2, y2 = numbers = [int(group) for group in match.groups()]
    if strange := [number for number in numbers if not 0 <= number < SIDE]:
        raise UserError(f"coordinates must lie in 0..255, got {strange[0]} in {match[0]!r}")
    if x2 < x1 or y2 < y1:
        raise UserError(f"a location goes from top left to bottom right, got {match[0]!r}")
    scale = size / SIDE
    return x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
