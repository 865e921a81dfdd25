"""Signs as pixels: a white board with a dark frame and one to four capital letters.

A board is (letters + 2) x 3 cells, its letters stand in the middle row, one a cell, so a letter has
the same pixels, and the same code of a tokenizer that reads cells, wherever the board stands. The
letters are drawn on 8 x 8 pixels: pictures are 64 pixels wide or a multiple of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cm3leon.errors import UserError
from cm3leon.world.sprites import CELLS, WHITE, check_size

INK = (28, 30, 42)  # of frames and letters
PIXELS = 8  # a side of a cell at the least size, on which letters are drawn
FRAME = 2  # pixels at the least size
LONGEST = 4  # letters
HEIGHT = 3  # cells
# Rows from the top, one hexadecimal digit pair each, the leftmost pixel in the highest bit.
GLYPHS = {
    "A": "18 3c 66 66 7e 66 66",
    "B": "7c 66 66 7c 66 66 7c",
    "C": "3c 66 60 60 60 66 3c",
    "D": "78 6c 66 66 66 6c 78",
    "E": "7e 60 60 7c 60 60 7e",
    "F": "7e 60 60 7c 60 60 60",
    "G": "3c 66 60 6e 66 66 3e",
    "H": "66 66 66 7e 66 66 66",
    "I": "7e 18 18 18 18 18 7e",
    "J": "1e 06 06 06 66 66 3c",
    "K": "66 6c 78 70 78 6c 66",
    "L": "60 60 60 60 60 60 7e",
    "M": "c6 ee fe d6 c6 c6 c6",
    "N": "66 76 7e 7e 6e 66 66",
    "O": "3c 66 66 66 66 66 3c",
    "P": "7c 66 66 7c 60 60 60",
    "Q": "3c 66 66 66 6e 3c 0e",
    "R": "7c 66 66 7c 78 6c 66",
    "S": "3e 60 60 3c 06 06 7c",
    "T": "7e 18 18 18 18 18 18",
    "U": "66 66 66 66 66 66 3c",
    "V": "66 66 66 66 66 3c 18",
    "W": "c6 c6 c6 d6 fe ee c6",
    "X": "66 66 3c 18 3c 66 66",
    "Y": "66 66 3c 18 18 18 18",
    "Z": "7e 06 0c 18 30 60 7e",
}
LETTERS = "".join(GLYPHS)


@dataclass(frozen=True)
class Sign:
    """What a board says and the cell (column, row) of its upper left corner.

    Raises UserError for a text the world cannot write and for a board outside the picture.
    """

    text: str
    corner: tuple[int, int]

    def __post_init__(self):
        check_text(self.text)
        column, row = self.corner
        if not (0 <= column <= CELLS - self.width and 0 <= row <= CELLS - HEIGHT):
            raise UserError(
                f"a sign of {self.width} x {HEIGHT} cells at {column}, {row} leaves the picture of "
                f"{CELLS} x {CELLS}; its corner may be 0..{CELLS - self.width}, 0..{CELLS - HEIGHT}"
            )

    @property
    def width(self) -> int:
        """Cells."""
        return len(self.text) + 2


def check_text(text: str) -> None:
    """Raise UserError unless a sign can say this: 1 to 4 letters A to Z."""
    if not 1 <= len(text) <= LONGEST or set(text) - set(LETTERS):
        raise UserError(
            f"a sign with letters the world lacks: {text!r}; it writes 1 to {LONGEST} of A to Z"
        )


def check_sign_size(size: int) -> int:
    """How often the letters' pixels repeat at this size; UserError where they do not fit."""
    check_size(size)
    if size % (CELLS * PIXELS):
        raise UserError(f"letters need a picture of 64, 128, 192 or 256 pixels, got {size}")
    return size // (CELLS * PIXELS)


@lru_cache(maxsize=32)
def glyph(letter: str) -> np.ndarray:
    """Which pixels of a cell at the least size are ink, bool [8,8]."""
    rows = np.array([*bytes.fromhex(GLYPHS[letter]), 0], np.uint8)
    return np.unpackbits(rows[:, None], axis=1).astype(bool)


@lru_cache(maxsize=1024)
def board(text: str, size: int) -> np.ndarray:
    """The board as uint8 [3 cells, letters + 2 cells, 3] for a picture `size` wide, read-only."""
    check_text(text)
    times = check_sign_size(size)
    ink = np.ones((HEIGHT * PIXELS, (len(text) + 2) * PIXELS), bool)
    ink[FRAME:-FRAME, FRAME:-FRAME] = False
    for k, letter in enumerate(text, 1):
        ink[PIXELS : 2 * PIXELS, k * PIXELS : (k + 1) * PIXELS] = glyph(letter)
    picture = np.where(ink[..., None], np.array(INK, np.uint8), np.array(WHITE, np.uint8))
    picture = picture.repeat(times, 0).repeat(times, 1)
    picture.setflags(write=False)
    return picture


def block(sign: Sign, size: int) -> tuple[slice, slice]:
    """Rows and columns of the picture that the board covers."""
    cell, (column, row) = size // CELLS, sign.corner
    return (
        slice(row * cell, (row + HEIGHT) * cell),
        slice(column * cell, (column + sign.width) * cell),
    )


def put_up(image: np.ndarray, sign: Sign) -> None:
    """Draw a sign onto uint8 [S,S,3] in place."""
    image[block(sign, len(image))] = board(sign.text, len(image))


def board_mask(sign: Sign, size: int) -> np.ndarray:
    """The pixels of the board, bool [S,S]."""
    mask = np.zeros((size, size), bool)
    mask[block(sign, size)] = True
    return mask
