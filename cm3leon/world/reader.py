"""Read a picture of the embedded world back into place, objects and sign: analysis by synthesis.

For each cell position and size it asks how much better the picture is explained by an object
(shape, pattern, colour) than by the bare place, takes the best, removes it and asks again; after
that only what stood in the changed part is asked anew. A sign is looked for first: for each cell
how far it is from each letter and from each part of a board's frame.

Axes: S side of the picture, T looks (shape and pattern), M those of marked ones, P pixels of a
block, L corners of blocks, C colours (white last).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cm3leon.errors import UserError
from cm3leon.world.boards import HEIGHT, INK, LETTERS, LONGEST, PIXELS, Sign, board, board_mask
from cm3leon.world.scenes import entities
from cm3leon.world.sprites import (
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
BOARD = 0.25 * CAP  # mean squared distance from a perfect board up to which it is one
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
    sign: Sign | None = None


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


def _check_picture(image: np.ndarray) -> int:
    """Pixels a cell; UserError for another type, shape or size."""
    square = image.ndim == 3 and image.shape[2] == 3 and image.shape[0] == image.shape[1]
    if image.dtype != np.uint8 or not square:
        raise UserError(
            f"a picture to read must be uint8 [S,S,3], got {image.dtype} {list(image.shape)}"
        )
    return check_size(image.shape[0])


@lru_cache(maxsize=1)
def _board_cells() -> tuple[np.ndarray, np.ndarray]:
    """Ink in the cells of boards at the least size: the letters float32 [26,64] and the frame
    [9,64] row by row from the upper left (its middle is a letter's and not used).
    """
    ink = [(board(letter, CELLS * PIXELS) == INK).all(-1) for letter in LETTERS]
    cells = np.stack([_cells(one[..., None])[..., 0] for one in ink]).astype(np.float32)
    return cells[:, 1, 1], cells[0].reshape(9, -1)


def _cells(picture: np.ndarray) -> np.ndarray:
    """[8 h, 8 w, C] -> [h, w, 64, C]."""
    rows, columns = picture.shape[0] // PIXELS, picture.shape[1] // PIXELS
    cells = picture.reshape(rows, PIXELS, columns, PIXELS, -1).swapaxes(1, 2)
    return cells.reshape(rows, columns, PIXELS**2, -1)


def read_sign(image: np.ndarray) -> Sign | None:
    """The sign in uint8 [S,S,3]; None without one, and at sizes that have no letters.

    Raises UserError for another type, shape or size.
    """
    _check_picture(image)
    size = len(image)
    if size % (CELLS * PIXELS):
        return None
    times = size // (CELLS * PIXELS)
    small = image.reshape(CELLS * PIXELS, times, CELLS * PIXELS, times, 3).mean((1, 3))
    far = _cells(_distance(small.astype(np.float32), np.array([INK, WHITE], np.float32)))
    letter_YXK, frame_YXK = (
        (far[..., 0] @ ink_KP.T + far[..., 1] @ (1 - ink_KP).T) / PIXELS**2
        for ink_KP in _board_cells()
    )
    best, most = None, 0.0
    for count in range(1, LONGEST + 1):
        far_RC = _far_from_board(count, letter_YXK.min(-1), frame_YXK)
        row, column = divmod(int(far_RC.argmin()), far_RC.shape[1])
        if (gain := BOARD * HEIGHT * (count + 2) - far_RC[row, column]) > most:
            spelled = letter_YXK[row + 1, column + 1 : column + count + 1].argmin(-1)
            best, most = Sign("".join(LETTERS[k] for k in spelled), (column, row)), gain
    return best


def _far_from_board(count: int, letter_YX: np.ndarray, frame_YXK: np.ndarray) -> np.ndarray:
    """Sum over the cells of a board of `count` letters with its corner at each (row, column)."""
    rows, columns = CELLS - HEIGHT + 1, CELLS - count - 1
    far_RC = np.zeros((rows, columns), np.float32)
    for y in range(HEIGHT):
        for x in range(count + 2):
            edge = 0 if x == 0 else 2 if x == count + 1 else 1
            part = letter_YX if y == edge == 1 else frame_YXK[..., 3 * y + edge]
            far_RC += part[y : y + rows, x : x + columns]
    return far_RC


def read_picture(image: np.ndarray) -> Reading:
    """Read uint8 [S,S,3], S a multiple of 8 from 32 to 256, back into what it shows.

    Raises UserError for another type, shape or size.
    """
    cell = _check_picture(image)
    size = len(image)
    place, sign = read_place(image), read_sign(image)
    bare = place_picture(place, size).astype(np.float32)
    pixels = image.astype(np.float32)
    nothing = np.minimum(((pixels - bare) ** 2).sum(-1), CAP)
    gains = nothing[..., None] - _distance(pixels, _TONES)
    if sign:
        gains[board_mask(sign, size)] = -CAP / 4  # seen, no part of an object
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
    return Reading(place, tuple(found), sign)


def _found(size_name, look, colours, corner, score, size) -> Found:
    shape, fill = templates(size_name, size)[0][look]
    colour = _NAMES[colours[0]]
    reach = SIZES[size_name] // 2
    cell = (corner[0] + reach, corner[1] + reach)
    if fill in PATTERNS:
        return Found(shape, colour, size_name, fill, None, cell, score)
    name = _entity_by_look().get((shape, colour, _NAMES[colours[1]], fill), "unnamed")
    return Found(shape, colour, size_name, None, name, cell, score)
