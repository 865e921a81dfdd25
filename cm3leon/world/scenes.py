"""The embedded world: pictures with exact truth and captions, drawn from a seed.

`scene(dialect, split, index, size)` is a pure function: same arguments, same bytes, on every
machine and in any order. Scenes hold one to three objects on a place; positions are cells of an 8 x
8 grid, so a scene is the same at every size. No index is shared between splits: each has its own
stream of generators. What may be trained on (`stock`, `train`) is a rule of the recipes, not of
this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.world.boards import Sign, put_up
from cm3leon.world.language import Meaning, captions, sign_captions
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

ROOT = 0  # the world's seed; raise it and every picture changes
DIALECTS = ("stock", "coco")
SPLITS = {
    "train": None,
    "val": 5_000,
    "test": 30_000,
    "tail": 2_000,
    "natural": 30_000,
    "study": 44_000,
    "bank": 44_000,
}  # None: endless
# Generators of a split bear its name, but for `study`, which was once called the bank.
STREAMS = {"study": "bank", "bank": "memory"}
ENTITIES = 4_000
SEEN_ENTITIES = 3_800  # the first ones occur in `train`; the other 200 never
PLAIN = 20_000  # scenes of `study` and documents of `bank` before those about the entities
ABOUT_ONE = 6  # scenes of `study`, and documents of `bank`, about one entity
SEEN = PLAIN + ABOUT_ONE * SEEN_ENTITIES  # of either, before those about unseen entities


@dataclass(frozen=True)
class World:
    """What differs between dialects: distributions, never rules."""

    counts: tuple[float, float, float]  # of 1, 2, 3 objects
    alike: float  # several objects are alike ("three red stars")
    places: tuple[float, ...]
    entity: float  # a `train` scene holds a tail entity


WORLDS = {
    "stock": World((0.45, 0.37, 0.18), 0.28, (0.20, 0.16, 0.18, 0.14, 0.16, 0.16), 0.04),
    "coco": World((0.30, 0.45, 0.25), 0.34, (0.14, 0.24, 0.12, 0.16, 0.22, 0.12), 0.0),
}


@dataclass(frozen=True)
class Thing:
    """One object and its truth; pixels refer to the picture's own size."""

    shape: str
    colour: str
    size: str
    pattern: str | None  # None for an entity
    entity: str | None
    cell: tuple[int, int]  # centre (column, row)
    depth: int  # 0 is farthest; later objects cover earlier ones
    centre: tuple[float, float]  # x, y in pixels
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 of the visible part
    mask: np.ndarray  # bool [S,S], the visible part


@dataclass(frozen=True)
class Entity:
    """A tail entity: an invented noun for a silhouette in two colours with a mark."""

    name: str
    shape: str
    first: str
    second: str
    mark: str


@dataclass(frozen=True)
class Plan:
    """A scene before it is drawn: what stands where."""

    place: str
    things: tuple[
        tuple, ...
    ]  # (shape, colour, size, pattern or None, entity or None, (column, row))
    groups: tuple[tuple[int, int], ...]  # (index of a thing, how many are alike)
    sign: Sign | None = None  # stands behind everything else


class Scene:
    """A picture with its truth; the pixels, boxes and captions are made when they are asked for."""

    def __init__(self, dialect: str, split: str, index: int, size: int, plan: Plan):
        self.dialect, self.split, self.index, self.size = dialect, split, index, size
        self.place, self.plan = plan.place, plan
        self.id = f"{dialect}-{split}-{index}"

    @property
    def image(self) -> np.ndarray:
        """uint8 [S,S,3]."""
        picture = place_picture(self.place, self.size).copy()
        if self.plan.sign:
            put_up(picture, self.plan.sign)
        for thing in self.plan.things:
            left, top, piece = _piece(thing, self.size)
            lay(picture, left, top, piece)
        return picture

    @property
    def objects(self) -> tuple[Thing, ...]:
        """The things with boxes and visible masks, farthest first."""
        masks = [_mask(thing, self.size) for thing in self.plan.things]
        cell = self.size // CELLS
        out = []
        for depth, (thing, mask) in enumerate(zip(self.plan.things, masks, strict=True)):
            for nearer in masks[depth + 1 :]:
                mask = mask & ~nearer
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            column, row = thing[5]
            centre = ((column + 0.5) * cell, (row + 0.5) * cell)
            out.append(Thing(*thing, depth, centre, tuple(map(float, box)), mask))
        return tuple(out)

    @property
    def language(self) -> tuple[tuple[str, ...], tuple[Meaning, ...]]:
        """Five captions and what each of them claims."""
        stream = STREAMS.get(self.split, self.split)
        generator = seeds.generator(ROOT, "captions", self.dialect, stream, self.index)
        named = [_Named(*thing[:5]) for thing in self.plan.things]
        if self.plan.sign:
            text, groups = self.plan.sign.text, self.plan.groups
            return sign_captions(self.dialect, text, named, groups, self.place, generator)
        relations = clear_relations(self.plan)
        return captions(self.dialect, named, self.plan.groups, relations, self.place, generator)

    @property
    def captions(self) -> tuple[str, ...]:
        """Five captions in the scene's dialect."""
        return self.language[0]

    @property
    def meanings(self) -> tuple[Meaning, ...]:
        """What each of the five captions claims."""
        return self.language[1]


@dataclass(frozen=True)
class _Named:
    shape: str
    colour: str
    size: str
    pattern: str | None
    entity: str | None


def scene(dialect: str, split: str, index: int, size: int = 64) -> Scene:
    """The scene with this address; size in pixels, a multiple of 8 from 32 to 256.

    `natural` asks for entities as often as `stock`, `train` shows them, in either dialect.
    `tail`: even indices ask for entities that occur in `train`, odd ones for the 200 that never do.
    `study` (to train on) and `bank` (to retrieve from): 20,000 plain scenes, then 6 for each
    entity: among other objects in `study`, in `bank` alone, small and once on each place. Raises
    UserError for an unknown address.
    """
    check_address(dialect, split, index)
    check_size(size)
    generator = seeds.generator(ROOT, "scene", dialect, STREAMS.get(split, split), index)
    return Scene(dialect, split, index, size, _plan(WORLDS[dialect], split, index, generator))


def check_address(dialect: str, split: str, index: int) -> None:
    """Raise UserError unless the world has this dialect, split and index."""
    if dialect not in DIALECTS:
        raise UserError(f"no dialect {dialect!r}; the world speaks {', '.join(DIALECTS)}")
    if split not in SPLITS:
        raise UserError(f"no split {split!r}; the world has {', '.join(SPLITS)}")
    last = SPLITS[split]
    if index < 0 or (last is not None and index >= last):
        end = "" if last is None else last - 1
        raise UserError(f"split {split!r} has indices 0..{end}, got {index}")


@lru_cache(maxsize=1)
def entities() -> tuple[Entity, ...]:
    """All 4,000 tail entities; the last 200 never occur in `train`."""
    generator = seeds.generator(ROOT, "entities")
    syllables = [a + b for a, b in product("bdfgklmnprtvz", "aeiou")]
    words = generator.choice(len(syllables) ** 3, ENTITIES, replace=False)
    colours = [(a, b) for a, b in product(COLOURS, COLOURS) if a != b]
    looks = list(product(SHAPES, colours, MARKS))
    order = generator.permutation(len(looks))[:ENTITIES]
    out = []
    for word, look in zip(words, order, strict=True):
        n, shape, (first, second), mark = len(syllables), *looks[look]
        name = syllables[word // n**2] + syllables[word // n % n] + syllables[word % n]
        out.append(Entity(name, shape, first, second, mark))
    return tuple(out)


@lru_cache(maxsize=1)
def _entity_of() -> dict[str, Entity]:
    return {entity.name: entity for entity in entities()}


def _draw_entity(split: str, index: int, world: World, generator) -> Entity | None:
    if split == "tail":
        seen = index % 2 == 0
        low, high = (0, SEEN_ENTITIES) if seen else (SEEN_ENTITIES, ENTITIES)
        return entities()[int(generator.integers(low, high))]
    if split in ("study", "bank") and index >= PLAIN:
        return entities()[(index - PLAIN) // ABOUT_ONE]
    share = {"train": world.entity, "natural": WORLDS["stock"].entity}.get(split)
    if share is not None and generator.random() < share:
        rank = np.exp(generator.random() * np.log(SEEN_ENTITIES + 1)) - 1  # Zipf: density 1 / rank
        return entities()[min(int(rank), SEEN_ENTITIES - 1)]
    return None


@lru_cache(maxsize=8)
def _layouts(sizes: tuple[str, ...]) -> np.ndarray:
    """All placements of these sizes: int8 [L, n, 2] of centre cells (column, row).

    Blocks of cells share at most one corner cell, so objects overlap little or not at all.
    """
    spots = []
    for name in sizes:
        reach = SIZES[name] // 2
        line = range(reach, CELLS - reach)
        spots.append(np.array([(c, r) for c in line for r in line], np.int8))
    found = spots[0][:, None]
    for k in range(1, len(sizes)):
        left = np.repeat(found, len(spots[k]), axis=0)
        right = np.tile(spots[k], (len(found), 1))[:, None]
        joined = np.concatenate([left, right], axis=1)
        keep = np.ones(len(joined), bool)
        for earlier in range(k):
            apart = (SIZES[sizes[earlier]] + SIZES[sizes[k]]) // 2
            overlap = np.maximum(apart - abs(joined[:, earlier] - joined[:, k]), 0)
            keep &= overlap.prod(1) <= 1
        found = joined[keep]
    return found


def draw_index(probabilities, uniform: float) -> int:
    """Index drawn from probabilities by one uniform."""
    return int(
        min(np.searchsorted(np.cumsum(probabilities), uniform, "right"), len(probabilities) - 1)
    )


def _looks(count: int, alike: bool, generator) -> list[tuple]:
    """(shape, colour, pattern) for each object; unlike objects differ in shape and in colour."""
    if alike:
        shape, colour, pattern = generator.integers((8, 8, 3))
        chosen = [(shape, colour, pattern)] * count
    else:
        shapes, colours = generator.permutation(8)[:count], generator.permutation(8)[:count]
        chosen = list(zip(shapes, colours, generator.integers(0, 3, count), strict=True))
    names = tuple(COLOURS)
    return [(SHAPES[s], names[c], PATTERNS[p]) for s, c, p in chosen]


def _plan(world: World, split: str, index: int, generator) -> Plan:
    """Draw what stands where."""
    entity = _draw_entity(split, index, world, generator)
    u = generator.random(6)
    count = 1 + draw_index(world.counts, u[0])
    place = PLACES[draw_index(world.places, u[1])]
    portrait = split == "bank" and entity is not None
    if portrait:
        count, place = 1, PLACES[(index - PLAIN) % ABOUT_ONE]
    alike = count > 1 and u[2] < world.alike and entity is None
    sizes = ["large" if u[3] < (0.5, 0.3, 0.0)[count - 1] else "small"] + ["small"] * (count - 1)
    if alike or portrait:
        sizes = ["small"] * count
    looks = _looks(count, alike, generator)
    layouts = _layouts(tuple(sizes))
    cells = layouts[int(u[4] * len(layouts))]
    things = [
        (shape, colour, size, pattern, None, (int(cell[0]), int(cell[1])))
        for (shape, colour, pattern), size, cell in zip(looks, sizes, cells, strict=True)
    ]
    if entity is not None:
        size, cell = things[0][2], things[0][5]
        things[0] = (entity.shape, entity.first, size, None, entity.name, cell)
    if not alike and u[5] < 0.5:
        things.reverse()
    groups = ((0, count),) if alike else tuple((k, 1) for k in range(count))
    return Plan(place, tuple(things), groups)


def relation_between(
    first: tuple[float, float], second: tuple[float, float], least: float
) -> str | None:
    """How `first` stands to `second` (centres x, y): the word when one direction clearly rules."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    if max(abs(dx), abs(dy)) < least or max(abs(dx), abs(dy)) < 1.5 * min(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def clear_relations(plan: Plan) -> list[tuple[int, str, int]]:
    """All (i, word, j) between groups of one whose centres lie clearly apart."""
    found = []
    for i, (one, count_one) in enumerate(plan.groups):
        for j, (two, count_two) in enumerate(plan.groups):
            if i == j or count_one > 1 or count_two > 1:
                continue
            word = relation_between(plan.things[one][5], plan.things[two][5], 2)
            if word:
                found.append((i, word, j))
    return found


def _fill(thing) -> tuple[str, tuple, tuple]:
    """Pattern or mark, first and second colour of a planned thing."""
    if thing[4]:
        entity = _entity_of()[thing[4]]
        return entity.mark, COLOURS[entity.first], COLOURS[entity.second]
    return thing[3], COLOURS[thing[1]], WHITE


def _corner(thing, size: int) -> tuple[int, int]:
    cell, reach = size // CELLS, SIZES[thing[2]] // 2
    return (thing[5][0] - reach) * cell, (thing[5][1] - reach) * cell


def _piece(thing, size: int):
    left, top = _corner(thing, size)
    return left, top, sprite(thing[0], thing[2], *_fill(thing), size)


def _mask(thing, size: int) -> np.ndarray:
    """bool [S,S]: pixels of which the object covers at least half, were it alone."""
    one, two, full = coverage(thing[0], thing[2], _fill(thing)[0], size)
    left, top = _corner(thing, size)
    mask = np.zeros((size, size), bool)
    mask[top : top + len(one), left : left + len(one)] = 2 * (one + two) >= full
    return mask


def export_coco(folder, dialect: str, split: str, count: int, size: int = 64):
    """Write the first `count` scenes as MS-COCO files; see `world.coco_export.export_coco`."""
    from cm3leon.world.coco_export import export_coco as write

    return write(folder, dialect, split, count, size)
