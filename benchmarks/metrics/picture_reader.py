"""Read a picture of the embedded world back into a place and objects, by analysis by synthesis.

For each cell position and size it asks how much better the picture is explained by an object
(shape, pattern, colour) than by the bare place, takes the best, removes it and asks again; after
that only what stood in the changed part is asked anew.

Axes: S side of the picture, T looks (shape and pattern), M those of marked ones, P pixels of a
block, L corners of blocks, C colours (white last).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cm3leon.errors import UserError
from cm3leon.scenes import entities
from cm3leon.sprites import (
    CELLS,
    COLOURS,
    MARKS,
    PATTERNS,
    PLACES,
    SHAPES,
    SIZES,
    WHITE,
    check_size,
    coverage,
    lay,
    place_picture,
    sprite,
)

CAP = 110.0**2  # squared colour distance beyond which a pixel is simply wrong
ACCEPT = 0.5  # an object must explain this share of what a perfect one would
MOST = 8  # objects looked for in one picture
_TONES = np.array([*COLOURS.values(), WHITE], np.float32)
_NAMES = tuple(COLOURS)


@dataclass(frozen=True)
class Found:
    """One object read from a picture; `pattern` is None for a two-coloured one."""

    shape: str
    colour: str
    size: str
    pattern: str | None
    entity: str | None  # the noun of a two-coloured object, None where the language has none
    cell: tuple[int, int]  # centre (column, row)
    score: float  # 1 is a perfect match


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    place: str
    objects: tuple[Found, ...]


@lru_cache(maxsize=1)
def _entity_by_look() -> dict[tuple, str]:
    return {(e.shape, e.first, e.second, e.mark): e.name for e in entities()}


@lru_cache(maxsize=8)
def templates(size_name: str, size: int):
    """Looks of a block: labels, first and second tone's coverage float32 [T,P], which are plain."""
    labels, first, second = [], [], []
    for shape in SHAPES:
        for fill in PATTERNS + MARKS:
            one, two, full = coverage(shape, size_name, fill, size)
            if fill in MARKS and not two.any():
                continue
            labels.append((shape, fill))
            first.append(one.ravel() / full)
            second.append(two.ravel() / full)
    plain = np.array([fill in PATTERNS for _, fill in labels])
    return labels, np.array(first, np.float32), np.array(second, np.float32), plain


def _distance(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Squared distance of each pixel to each colour, capped; float32 [S,S,C]."""
    difference = image[:, :, None, :] - colours
    return np.minimum((difference**2).sum(-1), CAP)


def read_place(image: np.ndarray) -> str:
    """The place that explains most of the picture."""
    size = image.shape[0]
    pixels = image.astype(np.float32)
    errors = [
        np.minimum(((pixels - place_picture(place, size)) ** 2).sum(-1), CAP).mean()
        for place in PLACES
    ]
    return PLACES[int(np.argmin(errors))]


class Scan:
    """How much every object of one size at every corner explains, kept true as gains change."""

    def __init__(self, size_name: str, size: int):
        self.cell, self.cells = size // CELLS, SIZES[size_name]
        self.name, self.steps = size_name, CELLS - self.cells + 1
        labels, self.first_TP, second_TP, self.plain_T = templates(size_name, size)
        self.marked_MP, self.white_TP = second_TP[~self.plain_T], second_TP[self.plain_T]
        spots, colours = self.steps**2, len(_TONES)
        self.one_TLC = np.empty((len(labels), spots, colours - 1), np.float32)
        self.two_MLC = np.empty((len(self.marked_MP), spots, colours - 1), np.float32)
        self.total_TL = np.empty((len(labels), spots), np.float32)

    def update(self, gains_SSC: np.ndarray, corner: tuple[int, int] | None = None, cells: int = 0):
        """Ask anew at the corners whose blocks touch the square of `cells` cells at `corner`
        (column, row); without one at all of them.
        """
        side = self.cells * self.cell
        blocks = sliding_window_view(gains_SSC, (side, side), axis=(0, 1))
        blocks = blocks[:: self.cell, :: self.cell]  # [rows, columns, C, side, side]
        column, row = corner or (0, 0)
        reach = cells if corner else self.steps
        rows, columns = (
            slice(max(0, at - self.cells + 1) if corner else 0, min(self.steps, at + reach))
            for at in (row, column)
        )
        part = blocks[rows, columns]
        count, colours = part.shape[0] * part.shape[1], part.shape[2]
        spots_L = np.arange(self.steps**2).reshape(self.steps, -1)[rows, columns].ravel()
        block_PLC = part.transpose(3, 4, 0, 1, 2).reshape(side * side, count, colours)
        tones = np.ascontiguousarray(block_PLC[..., :-1]).reshape(side * side, -1)
        one_TLC = (self.first_TP @ tones).reshape(-1, count, colours - 1)
        two_MLC = (self.marked_MP @ tones).reshape(-1, count, colours - 1)
        total_TL = np.empty((len(self.first_TP), count), np.float32)
        total_TL[self.plain_T] = one_TLC[self.plain_T].max(-1) + self.white_TP @ block_PLC[..., -1]
        total_TL[~self.plain_T] = _best_pair(one_TLC[~self.plain_T], two_MLC)
        self.one_TLC[:, spots_L], self.two_MLC[:, spots_L] = one_TLC, two_MLC
        self.total_TL[:, spots_L] = total_TL

    def best(self) -> tuple[float, int, tuple[int, int], tuple[int, int]]:
        """The best object: gain, look, first and second colour, corner (column, row)."""
        look, spot = np.unravel_index(self.total_TL.argmax(), self.total_TL.shape)
        row, column = divmod(int(spot), self.steps)
        if self.plain_T[look]:
            colours = (int(self.one_TLC[look, spot].argmax()), len(_NAMES))
        else:
            marked = int((~self.plain_T[:look]).sum())
            table = self.one_TLC[look, spot][:, None] + self.two_MLC[marked, spot][None]
            np.fill_diagonal(table, -np.inf)
            first, second = np.unravel_index(table.argmax(), table.shape)
            colours = (int(first), int(second))
        return float(self.total_TL[look, spot]), int(look), colours, (column, row)


def _best_pair(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Largest one[..., a] + two[..., b] over a != b."""
    top_one, top_two = np.partition(one, -2, -1)[..., -2:], np.partition(two, -2, -1)[..., -2:]
    same = one.argmax(-1) == two.argmax(-1)
    apart = np.maximum(top_one[..., 1] + top_two[..., 0], top_one[..., 0] + top_two[..., 1])
    return np.where(same, apart, top_one[..., 1] + top_two[..., 1])


def _ideal(size_name: str, size: int, look: int, colours, part: np.ndarray) -> float:
    """The gain of a perfect drawing of this object on this part [P,P,3] of the place."""
    (shape, fill), first, second = (table[look] for table in templates(size_name, size)[:3])
    tones = [tuple(int(v) for v in _TONES[k]) for k in colours]
    drawn = part.astype(np.uint8)
    lay(drawn, 0, 0, sprite(shape, size_name, fill, *tones, size))
    perfect = drawn.astype(np.float32)
    nothing = np.minimum(((perfect - part) ** 2).sum(-1), CAP).ravel()
    away = _distance(perfect, _TONES[list(colours)]).reshape(-1, 2)
    return float(first @ (nothing - away[:, 0]) + second @ (nothing - away[:, 1]))


def read_picture(image: np.ndarray) -> Reading:
    """Read uint8 [S,S,3], S a multiple of 8 from 32 to 256, back into a place and objects.

    Raises UserError for another type, shape or size.
    """
    square = image.ndim == 3 and image.shape[2] == 3 and image.shape[0] == image.shape[1]
    if image.dtype != np.uint8 or not square:
        raise UserError(
            f"a picture to read must be uint8 [S,S,3], got {image.dtype} {list(image.shape)}"
        )
    size = image.shape[0]
    cell = check_size(size)
    place = read_place(image)
    bare = place_picture(place, size).astype(np.float32)
    pixels = image.astype(np.float32)
    nothing = np.minimum(((pixels - bare) ** 2).sum(-1), CAP)
    gains = nothing[..., None] - _distance(pixels, _TONES)
    scans, found = [Scan(name, size) for name in SIZES], []
    for scan in scans:
        scan.update(gains)
    while len(found) < MOST:
        tries = [(*scan.best(), scan.name) for scan in scans]
        gain, look, colours, (column, row), name = max(tries, key=lambda one: one[0])
        side, top, left = SIZES[name] * cell, row * cell, column * cell
        part = bare[top : top + side, left : left + side]
        score = gain / max(_ideal(name, size, look, colours, part), 1e-9)
        if score < ACCEPT:
            break
        found.append(_found(name, look, colours, (column, row), score, size))
        _, first, second, _ = templates(name, size)
        open_ = ((first[look] + second[look]) < 0.25).reshape(side, side, 1)
        gains[top : top + side, left : left + side] *= open_
        gains[top : top + side, left : left + side] -= CAP / 4 * ~open_  # seen once, not again
        for scan in scans:
            scan.update(gains, (column, row), SIZES[name])
    return Reading(place, tuple(found))


def _found(size_name, look, colours, corner, score, size) -> Found:
    shape, fill = templates(size_name, size)[0][look]
    colour = _NAMES[colours[0]]
    reach = SIZES[size_name] // 2
    cell = (corner[0] + reach, corner[1] + reach)
    if fill in PATTERNS:
        return Found(shape, colour, size_name, fill, None, cell, score)
    name = _entity_by_look().get((shape, colour, _NAMES[colours[1]], fill), "unnamed")
    return Found(shape, colour, size_name, None, name, cell, score)
