"""Scenes with a sign: one board, and in half of them a small object beside it.

`sign_scene(dialect, split, index, size)` is as pure as `scenes.scene`, with generators of its own.
"""

from __future__ import annotations

from functools import lru_cache

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.world.boards import HEIGHT, LETTERS, LONGEST, Sign, check_sign_size
from cm3leon.world.scenes import DIALECTS, ROOT, SPLITS, WORLDS, Plan, Scene, draw_index
from cm3leon.world.sprites import CELLS, COLOURS, PATTERNS, PLACES, SHAPES, SIZES

SIGN_SPLITS = {split: SPLITS[split] for split in ("train", "val", "test")}
SMALL = SIZES["small"]  # cells a side of the object beside a board


def sign_scene(dialect: str, split: str, index: int, size: int = 64) -> Scene:
    """The signed scene with this address: splits train (endless), val and test; size 64 to 256.

    Its `split` and id say `signs-train`, so that no id is shared with other scenes. One to four
    letters, each number and each letter as likely as any other. Raises UserError for an unknown
    address and for sizes on which letters cannot be drawn.
    """
    if dialect not in DIALECTS:
        raise UserError(f"no dialect {dialect!r}; the world speaks {', '.join(DIALECTS)}")
    if split not in SIGN_SPLITS:
        raise UserError(f"no split {split!r} of signs; there are {', '.join(SIGN_SPLITS)}")
    last = SIGN_SPLITS[split]
    if index < 0 or (last is not None and index >= last):
        end = "" if last is None else last - 1
        raise UserError(f"split {split!r} of signs has indices 0..{end}, got {index}")
    check_sign_size(size)
    generator = seeds.generator(ROOT, "sign", dialect, split, index)
    return Scene(dialect, f"signs-{split}", index, size, _plan(WORLDS[dialect].places, generator))


@lru_cache(maxsize=LONGEST)
def layouts(letters: int) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """All (corner of a board of so many letters, centre cell of a small object) a cell or more
    apart.
    """
    width, reach = letters + 2, SMALL // 2
    line = range(reach, CELLS - reach)
    found = []
    for row in range(CELLS - HEIGHT + 1):
        for column in range(CELLS - width + 1):
            for y in line:
                for x in line:
                    beside = x + reach < column - 1 or x - reach > column + width
                    if beside or y + reach < row - 1 or y - reach > row + HEIGHT:
                        found.append(((column, row), (x, y)))
    return tuple(found)


def _plan(places, generator) -> Plan:
    """Draw what the board says, where it stands, and what stands beside it."""
    u = generator.random(7)
    count = 1 + int(u[0] * LONGEST)
    text = "".join(LETTERS[k] for k in generator.integers(0, len(LETTERS), count))
    place = PLACES[draw_index(places, u[1])]
    if u[2] < 0.5:
        corner = (int(u[3] * (CELLS - count - 1)), int(u[4] * (CELLS - HEIGHT + 1)))
        return Plan(place, (), (), Sign(text, corner))
    spots = layouts(count)
    corner, cell = spots[int(u[3] * len(spots))]
    shape, colour = SHAPES[int(u[4] * len(SHAPES))], list(COLOURS)[int(u[5] * len(COLOURS))]
    thing = (shape, colour, "small", PATTERNS[int(u[6] * len(PATTERNS))], None, cell)
    return Plan(place, (thing,), ((0, 1),), Sign(text, corner))
