"""Composition: read a picture of the embedded world back into objects and judge a caption's claims.

The reader is analysis by synthesis. For each cell position and size it asks how much better the
picture is explained by an object (shape, pattern, colour) than by the bare place, takes the best,
removes it and asks again. From what it finds come GenEval's six scores (Ghosh et al. 2023, arXiv
2310.11513): single object, two objects, counting, colours, position, colour attribution; the
overall score is their mean. A caption takes part in a task when it claims something the task asks
for.

Axes: S side of the picture, T templates, P pixels of a block, L positions, C colours (white last).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cm3leon.errors import UserError
from cm3leon.language import Meaning, Said
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

TASKS = ("single", "two", "counting", "colors", "position", "attribution")
EXTRAS = ("entity", "size", "pattern", "place", "all")  # ours: the rest of what captions claim
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
def _templates(size_name: str, size: int):
    """Looks of a block: labels, first and second tone's coverage float32 [T,P]."""
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


def _blocks(gains: np.ndarray, size_name: str, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of a gain map [S,S,C] as [P, L*C], their corners in cells [L,2] (column, row)."""
    width = SIZES[size_name]
    steps = range(CELLS - width + 1)
    corners = np.array([(column, row) for row in steps for column in steps])
    side = width * cell
    cut = [gains[r * cell : r * cell + side, c * cell : c * cell + side] for c, r in corners]
    return np.stack([block.reshape(-1, gains.shape[2]) for block in cut], 1), corners


def _best_pair(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Largest one[..., a] + two[..., b] over a != b."""
    top_one, top_two = np.partition(one, -2, -1)[..., -2:], np.partition(two, -2, -1)[..., -2:]
    same = one.argmax(-1) == two.argmax(-1)
    apart = np.maximum(top_one[..., 1] + top_two[..., 0], top_one[..., 0] + top_two[..., 1])
    return np.where(same, apart, top_one[..., 1] + top_two[..., 1])


def _best_of_size(gains: np.ndarray, size_name: str, size: int):
    """Best (gain, label, first colour, second colour, corner) among objects of one size."""
    labels, first, second, plain = _templates(size_name, size)
    blocks, corners = _blocks(gains, size_name, size // CELLS)
    flat = blocks.reshape(len(blocks), -1)
    one = (first @ flat).reshape(len(labels), len(corners), -1)  # [T,L,C]
    two = (second @ flat).reshape(one.shape)
    one, white, two = one[..., :-1], two[..., -1], two[..., :-1]
    total = np.empty(white.shape, np.float32)
    total[plain] = one[plain].max(-1) + white[plain]
    total[~plain] = _best_pair(one[~plain], two[~plain])
    look, spot = np.unravel_index(total.argmax(), total.shape)
    if plain[look]:
        colours = (int(one[look, spot].argmax()), len(_NAMES))
    else:
        table = one[look, spot][:, None] + two[look, spot][None]
        np.fill_diagonal(table, -np.inf)
        colours = tuple(int(k) for k in np.unravel_index(table.argmax(), table.shape))
    return float(total[look, spot]), int(look), colours, tuple(int(k) for k in corners[spot])


def _ideal(size_name: str, size: int, look: int, colours, part: np.ndarray) -> float:
    """The gain of a perfect drawing of this object on this part [P,P,3] of the place."""
    (shape, fill), first, second = (table[look] for table in _templates(size_name, size)[:3])
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
    found = []
    while len(found) < MOST:
        tries = [(*_best_of_size(gains, name, size), name) for name in SIZES]
        gain, look, colours, (column, row), name = max(tries, key=lambda one: one[0])
        side, top, left = SIZES[name] * cell, row * cell, column * cell
        part = bare[top : top + side, left : left + side]
        score = gain / max(_ideal(name, size, look, colours, part), 1e-9)
        if score < ACCEPT:
            break
        found.append(_found(name, look, colours, (column, row), score, size))
        _, first, second, _ = _templates(name, size)
        open_ = ((first[look] + second[look]) < 0.25).reshape(side, side, 1)
        gains[top : top + side, left : left + side] *= open_
        gains[top : top + side, left : left + side] -= CAP / 4 * ~open_  # seen once, not again
    return Reading(place, tuple(found))


def _found(size_name, look, colours, corner, score, size) -> Found:
    shape, fill = _templates(size_name, size)[0][look]
    colour = _NAMES[colours[0]]
    reach = SIZES[size_name] // 2
    cell = (corner[0] + reach, corner[1] + reach)
    if fill in PATTERNS:
        return Found(shape, colour, size_name, fill, None, cell, score)
    name = _entity_by_look().get((shape, colour, _NAMES[colours[1]], fill), "unnamed")
    return Found(shape, colour, size_name, None, name, cell, score)


def is_class(found: Found, said: Said) -> bool:
    """Whether the object is of the noun said: its shape, or the entity."""
    if said.entity:
        return found.entity == said.entity
    return found.shape == said.shape and found.entity is None


def _fits(found: Found, said: Said, attributes=("colour", "size", "pattern")) -> bool:
    return is_class(found, said) and all(
        getattr(said, name) is None or getattr(found, name) == getattr(said, name)
        for name in attributes
    )


def _any(reading: Reading, said: Said, *attributes: str) -> bool:
    return any(_fits(found, said, attributes) for found in reading.objects)


def stands(first: Found, word: str, second: Found) -> bool:
    """Whether the first object's centre stands so to the second's, by at least one cell."""
    dx, dy = first.cell[0] - second.cell[0], first.cell[1] - second.cell[1]
    along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[word]
    across = abs(dy) if word.endswith("of") else abs(dx)
    return along >= 1 and along >= across


def _related(reading: Reading, meaning: Meaning) -> bool:
    i, word, j = meaning.relation
    return any(
        stands(one, word, two)
        for one in reading.objects
        if is_class(one, meaning.objects[i])
        for two in reading.objects
        if two is not one and is_class(two, meaning.objects[j])
    )


def _count(reading: Reading, said: Said, *attributes: str) -> int:
    return sum(_fits(found, said, attributes) for found in reading.objects)


def judge(reading: Reading, meaning: Meaning) -> dict[str, bool]:
    """For every task the meaning takes part in: is the claim true of the picture?"""
    said, verdict = meaning.objects, {}
    several = [one for one in said if one.count > 1]
    if len(said) == 1 and not several:
        verdict["single"] = _any(reading, said[0])
        if said[0].colour:
            verdict["colors"] = _any(reading, said[0], "colour")
    if len(said) > 1:
        verdict["two"] = all(_any(reading, one) for one in said)
        if all(one.colour or one.entity for one in said):
            verdict["attribution"] = all(_any(reading, one, "colour") for one in said)
    if several:
        verdict["counting"] = all(_count(reading, one) == one.count for one in several)
    if meaning.relation:
        verdict["position"] = _related(reading, meaning)
    for name, attributes in (("entity", ()), ("size", ("size",)), ("pattern", ("pattern",))):
        told = [one for one in said if getattr(one, name)]
        if told:
            verdict[name] = all(_any(reading, one, *attributes) for one in told)
    if meaning.place:
        verdict["place"] = reading.place == meaning.place
    everything = all(
        _count(reading, one, "colour", "size", "pattern") >= one.count for one in said
    ) and len(reading.objects) >= sum(one.count for one in said)
    verdict["all"] = everything and all(
        verdict.get(task, True) for task in ("counting", "position", "place")
    )
    return verdict


def scores(verdicts: list[dict[str, bool]]) -> dict[str, tuple[float, int]]:
    """Share right and number of captions for each task that was asked, and `overall`.

    Overall is the mean of the task scores that were asked (GenEval: of all six).
    """
    out = {}
    for task in TASKS + EXTRAS:
        answers = [verdict[task] for verdict in verdicts if task in verdict]
        if answers:
            out[task] = (float(np.mean(answers)), len(answers))
    asked = [out[task][0] for task in TASKS if task in out]
    if asked:
        out["overall"] = (float(np.mean(asked)), len(verdicts))
    return out


def objects_right(reading: Reading, truth) -> tuple[int, int]:
    """(objects of the truth read right in every attribute and place, objects of the truth).

    Each object read answers for one object; an object too many counts as one wrong.
    """
    left = [(f.shape, f.colour, f.size, f.pattern, f.entity, f.cell) for f in reading.objects]
    right = 0
    for thing in truth:
        key = (thing.shape, thing.colour, thing.size, thing.pattern, thing.entity, thing.cell)
        if key in left:
            left.remove(key)
            right += 1
    return right, max(len(truth), len(reading.objects))
