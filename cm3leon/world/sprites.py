"""The pictures of the embedded world: shapes, patterns, marks and places as exact pixels.

Everything is measured in cells: a picture has 8 x 8 of them whatever its size, and a cell is as
wide as a code of the image tokenizer. A small object fills 3 x 3 cells, a large one 5 x 5, its
centre is a cell's centre, stripes and dots repeat with the cell: so the same object gives nearly
the same codes wherever it stands. Coverage is counted on a fixed grid of sample points and mixed in
integers, so that every machine makes the same bytes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cm3leon.errors import UserError

CELLS = 8  # cells a side of every picture
SHAPES = ("circle", "square", "triangle", "star", "heart", "hexagon", "crescent", "cross")
COLOURS = {
    "red": (214, 36, 40),
    "orange": (246, 134, 10),
    "yellow": (252, 216, 36),
    "green": (24, 136, 58),
    "blue": (26, 76, 200),
    "purple": (122, 44, 164),
    "pink": (252, 122, 186),
    "cyan": (0, 186, 196),
}
WHITE = (255, 255, 255)  # the second tone of stripes and dots
SIZES = {"small": 3, "large": 5}  # cells a side
RADII = {"small": 11.5 / 8, "large": 19.0 / 8}  # in cells: 11.5 and 19 px at 64
RIM = 1.6 / 8  # cells: the width of the rim around stripes and dots
PATTERNS = ("plain", "striped", "dotted")
MARKS = ("bar", "pillar", "plus", "disc", "left", "top", "slant", "frame", "checker")
PLACES = ("sand", "grass", "snow", "night sky", "water", "brick wall")


def _star() -> np.ndarray:
    turn = np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2 == 0, 1.04, 0.45)
    return np.stack([reach * np.sin(turn), 0.08 - reach * np.cos(turn)], 1)


def _heart() -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = np.sin(turn) ** 3
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([x, -0.1 - y / 16], 1)


def _hexagon() -> np.ndarray:
    turn = np.arange(6) * np.pi / 3
    return np.stack([1.03 * np.cos(turn), 0.92 * np.sin(turn)], 1)


POLYGONS = {
    "triangle": np.array([(0.0, -1.0), (1.0, 0.84), (-1.0, 0.84)]),
    "star": _star(),
    "heart": _heart(),
    "hexagon": _hexagon(),
}


def _inside_polygon(x, y, corners) -> np.ndarray:
    """Even-odd rule for points x, y (same shape) and corners [K, 2]."""
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie in the shape of radius 1 (x to the right, y down)."""
    if shape == "circle":
        return x * x + y * y <= 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.86
    if shape == "crescent":
        return (x * x + y * y <= 1) & ((x - 0.5) ** 2 + (y + 0.1) ** 2 >= 0.56)
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.35) & (np.maximum(abs(x), abs(y)) <= 1)
    return _inside_polygon(x, y, POLYGONS[shape])


def second_tone(fill: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Which points wear the second colour; u, v in cells from the object's centre.

    `fill` is a pattern (second colour white) or an entity's mark.
    """
    cell_u, cell_v = np.floor(u + 0.5), np.floor(v + 0.5)
    if fill == "plain":
        return np.zeros(u.shape, dtype=bool)
    if fill == "striped":
        return cell_v % 2 == 0
    if fill == "dotted":
        return (u - cell_u) ** 2 + (v - cell_v) ** 2 <= 0.34**2
    bar, pillar = cell_v == 0, cell_u == 0
    marks = {
        "bar": bar,
        "pillar": pillar,
        "plus": bar | pillar,
        "disc": u * u + v * v <= (0.52 * radius) ** 2,
        "left": cell_u < 0,
        "top": cell_v < 0,
        "slant": u + v < -0.5,
        "frame": np.maximum(abs(u), abs(v)) >= 0.5 * radius,
        "checker": (cell_u + cell_v) % 2 == 1,
    }
    return marks[fill]


def check_size(size: int) -> int:
    """Return the width of a cell in pixels; raise UserError unless size is a multiple of 8 in
    32..256.
    """
    if size % CELLS or not 32 <= size <= 256:
        raise UserError(f"a scene's size must be a multiple of 8 from 32 to 256, got {size}")
    return size // CELLS


def _samples(width: int, cell: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Sample points of a block `width` cells wide, in cells from its centre, and points a pixel
    side.
    """
    fine = 8 if cell <= 8 else 4
    line = (np.arange(width * cell * fine) + 0.5) / (cell * fine) - width / 2
    u, v = np.meshgrid(line, line)
    return u, v, fine


@lru_cache(maxsize=1024)
def coverage(
    shape: str, size_name: str, fill: str, size: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Points of each pixel in the first and in the second colour: two int32 [P, P] and the full
    count.

    P = 3 or 5 cells in pixels of a picture `size` pixels wide.
    """
    cell = check_size(size)
    width, radius = SIZES[size_name], RADII[size_name]
    u, v, fine = _samples(width, cell)
    covered = inside(shape, u / radius, v / radius)
    second = covered & second_tone(fill, u, v, radius)
    if fill in PATTERNS:  # a rim of the first colour keeps the outline readable on any place
        within = radius - RIM
        second &= inside(shape, u / within, v / within)
    pixels = width * cell

    def count(points):
        return points.reshape(pixels, fine, pixels, fine).sum((1, 3), dtype=np.int32)

    return count(covered & ~second), count(second), fine * fine


@lru_cache(maxsize=8192)
def sprite(shape: str, size_name: str, fill: str, first: tuple, second: tuple, size: int):
    """An object ready to be laid on a picture: colour sums int32 [P,P,3] and what shows through
    [P,P,1].
    """
    one, two, full = coverage(shape, size_name, fill, size)
    sums = one[..., None] * np.array(first, np.int32) + two[..., None] * np.array(second, np.int32)
    return sums, (full - one - two)[..., None], full


def lay(image: np.ndarray, left: int, top: int, piece) -> None:
    """Draw a sprite onto uint8 [S,S,3] in place; it must lie wholly inside."""
    sums, through, full = piece
    height, width = sums.shape[:2]
    part = image[top : top + height, left : left + width]
    part[...] = (sums + part.astype(np.int32) * through + full // 2) // full


# A place is layers of (colour, test): the test says which points of the 2 x 2-cell tile wear it.
def _wave(u, v):
    return (
        abs(
            (v % 1.0) - 0.5 - 0.18 * np.where(u % 1.0 < 0.5, 1, -1) * (0.5 - abs((u % 0.5) * 4 - 1))
        )
        < 0.1
    )


def _mortar(u, v):
    shifted = (u + np.floor(v)) % 2.0
    return ((v % 1.0) > 0.82) | (shifted > 1.8)


def _spot(cx, cy, radius):
    return lambda u, v: ((u % 2.0) - cx) ** 2 + ((v % 2.0) - cy) ** 2 <= radius**2


def _blade(cx, cy, lean):
    def test(u, v):
        du, dv = (u % 1.0) - cx, (v % 1.0) - cy
        return (abs(dv) <= 0.22) & (abs(du - lean * dv) <= 0.09)

    return test


_DRY, _TUFT, _FLAKE = (206, 178, 128), (128, 176, 102), (186, 204, 226)
_PLACE_LAYERS = {
    "sand": [
        ((228, 204, 158), None),
        (_DRY, _spot(0.5, 0.5, 0.15)),
        (_DRY, _spot(1.5, 1.5, 0.15)),
    ],
    "grass": [
        ((170, 206, 138), None),
        (_TUFT, _blade(0.35, 0.45, 0.4)),
        (_TUFT, _blade(0.7, 0.6, -0.4)),
    ],
    "snow": [
        ((218, 230, 242), None),
        (_FLAKE, _spot(0.5, 1.5, 0.16)),
        (_FLAKE, _spot(1.5, 0.5, 0.16)),
    ],
    "night sky": [
        ((34, 38, 74), None),
        ((198, 202, 170), _spot(0.5, 0.5, 0.12)),
        ((120, 126, 160), _spot(1.5, 1.5, 0.12)),
    ],
    "water": [((142, 190, 226), None), ((108, 160, 206), _wave)],
    "brick wall": [((188, 128, 108), None), ((220, 204, 190), _mortar)],
}


@lru_cache(maxsize=64)
def place_picture(place: str, size: int) -> np.ndarray:
    """The background as uint8 [S,S,3], read-only: a tile of 2 x 2 cells repeated."""
    cell = check_size(size)
    u, v, fine = _samples(2, cell)
    u, v = u + 1, v + 1
    points = np.empty((*u.shape, 3), np.int32)
    for colour, test in _PLACE_LAYERS[place]:
        points[slice(None) if test is None else test(u, v)] = colour
    pixels = 2 * cell
    sums = points.reshape(pixels, fine, pixels, fine, 3).sum((1, 3))
    tile = ((sums + fine * fine // 2) // (fine * fine)).astype(np.uint8)
    picture = np.tile(tile, (CELLS // 2, CELLS // 2, 1))
    picture.setflags(write=False)
    return picture
