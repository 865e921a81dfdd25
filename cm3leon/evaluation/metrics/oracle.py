"""The least loss a picture of the embedded world can have, given its caption: exact, by Bayes.

A scene is drawn by known chances (`scenes._plan`), and so is what its caption says
(`language.caption`). The surprise of a picture to one who knows both is
-log p(picture | what the caption says), in nats; its mean is the entropy that no network can go
below, as far as the codes tell pictures apart. Only scenes without entities: `val` and `test`, not
`train`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from cm3leon.errors import UserError
from cm3leon.world.language import Meaning, Said
from cm3leon.world.scenes import (
    WORLDS,
    Plan,
    Scene,
    World,
    _layouts,
    clear_relations,
    relation_between,
)
from cm3leon.world.sprites import COLOURS, PATTERNS, PLACES, SHAPES, SIZES

DETAILS = (1.0, 0.6)  # how much a caption tells, each as likely
LARGE = (0.5, 0.3, 0.0)  # chance that one of 1, 2, 3 unlike things is large
RELATES = 0.6  # chance to tell a relation where one is clear
REVERSES = 0.1  # chance to name the things in reverse where no relation is told
TELLS_PLACE = {"stock": 0.75, "coco": 0.85}


def surprise(one: Scene, caption: int = 0) -> float:
    """-log p(picture | what its caption says), nats. UserError for a scene with an entity."""
    if any(thing[4] for thing in one.plan.things):
        raise UserError(f"{one.id} shows an entity; the oracle knows scenes without")
    meaning, world = one.meanings[caption], WORLDS[one.dialect]
    both = sum(
        plan_chance(plan, world) * telling_chance(plan, meaning, one.dialect)
        for plan in same_pictures(one)
    )
    return math.log(meaning_chance(meaning, one.dialect)) - math.log(both)


def same_pictures(one: Scene) -> Iterator[Plan]:
    """All plans that are drawn as this scene is: its things in other orders, where no pixel of
    one lies on another.
    """
    plan, picture = one.plan, one.image
    apart = not any(_touch(a, b) for a, b in product(plan.things, repeat=2) if a is not b)
    for things in permutations(plan.things):
        other = replace(plan, things=things)
        drawn = Scene(one.dialect, one.split, one.index, one.size, other)
        if apart or np.array_equal(drawn.image, picture):
            yield other


def _touch(one: tuple, other: tuple) -> bool:
    """Whether the blocks of two things share cells."""
    reach = SIZES[one[2]] // 2 + SIZES[other[2]] // 2
    return all(abs(a - b) <= reach for a, b in zip(one[5], other[5], strict=True))


def plan_chance(plan: Plan, world: World) -> float:
    """Chance that a scene is planned so, its things in this order."""
    count = len(plan.things)
    chance = world.counts[count - 1] * world.places[PLACES.index(plan.place)]
    sizes = tuple(thing[2] for thing in plan.things)
    chance /= len(_layouts(sizes))
    if alike(plan):
        return chance * world.alike / (len(SHAPES) * len(COLOURS) * len(PATTERNS))
    if count > 1:
        chance *= 1 - world.alike
    chance *= sizes_chance(sizes) / len(PATTERNS) ** count
    return chance / (math.perm(len(SHAPES), count) * math.perm(len(COLOURS), count))


def alike(plan: Plan) -> bool:
    """Whether a plan's things are one group of several."""
    return plan.groups[0][1] > 1


def sizes_chance(sizes: Sequence[str]) -> float:
    """Chance of the sizes of unlike things in this order: one may be large, each as likely."""
    large, count = sizes.count("large"), len(sizes)
    if large > 1:
        return 0.0
    return LARGE[count - 1] / count if large else 1 - LARGE[count - 1]


def telling_chance(plan: Plan, meaning: Meaning, dialect: str) -> float:
    """Chance that a caption of this plan says so."""
    groups = [(plan.things[index], count) for index, count in plan.groups]
    relations = clear_relations(plan)
    chance = sum(_told(groups, relations, meaning, detail) for detail in DETAILS) / len(DETAILS)
    told = TELLS_PLACE[dialect]
    if meaning.place is None:
        return chance * (1 - told)
    return chance * told * (meaning.place == plan.place)


def _told(groups: list, relations: list, meaning: Meaning, detail: float) -> float:
    """Chance of the things and the relation told, at a level of detail."""
    said = meaning.objects
    if meaning.relation is None:
        if len(said) != len(groups):
            return 0.0
        chance = 1 - RELATES if relations else 1.0
        turned = REVERSES if len(said) > 1 else 0.0
        orders = ((1 - turned, said), (turned, said[::-1]))
        return chance * sum(
            share
            * math.prod(
                _said(thing, one, detail) * (one.count == count)
                for (thing, count), one in zip(groups, order, strict=True)
            )
            for share, order in orders
        )
    i, word, j = meaning.relation
    found = 0.0
    for a, name, b in relations:
        if name == word and (a, b) in told_pairs(meaning, len(groups)):
            first, second = groups[a][0], groups[b][0]
            found += _said(first, said[i], detail) * _said(second, said[j], detail)
    return found * RELATES / max(1, len(relations))


def _said(thing: tuple, said: Said, detail: float) -> float:
    """Chance to say this of a thing."""
    shape, colour, size, pattern = thing[:4]
    return (
        (said.shape == shape)
        * _attribute(said.colour, colour, 0.55 + 0.42 * detail)
        * _attribute(said.size, size, 0.7 * detail)
        * _attribute(said.pattern, pattern, _pattern_told(pattern) * detail)
    )


def _attribute(said: str | None, true: str, told: float) -> float:
    return 1 - told if said is None else told * (said == true)


def _pattern_told(pattern: str) -> float:
    return 0.2 if pattern == "plain" else 0.9


def meaning_chance(meaning: Meaning, dialect: str) -> float:
    """Chance that a caption of any scene without entities says so."""
    world = WORLDS[dialect]
    told = TELLS_PLACE[dialect]
    place = 1 - told if meaning.place is None else told * world.places[PLACES.index(meaning.place)]
    return place * sum(_any_scene(meaning, world, detail) for detail in DETAILS) / len(DETAILS)


def _any_scene(meaning: Meaning, world: World, detail: float) -> float:
    """Sum over all plans, at a level of detail: looks do not hang on where things stand."""
    said = meaning.objects
    if said[0].count > 1:
        shares = world.counts[said[0].count - 1] * world.alike
        return shares * _looks_told(said, detail) * _size_told(said[0], "small", detail)
    looks, found = _looks_told(said, detail), 0.0
    for count in range(len(said), 4) if meaning.relation else (len(said),):
        unlike = 1.0 if count == 1 else 1 - world.alike
        for sizes in product(SIZES, repeat=count):
            chance = world.counts[count - 1] * unlike * sizes_chance(sizes)
            if chance:
                found += chance * looks * _sizes_told(meaning, sizes, detail)
    return found


def _looks_told(said: Sequence[Said], detail: float) -> float:
    """Chance of what is said of shapes, colours and patterns of things that are all unlike."""
    colours = [one.colour for one in said if one.colour]
    if len(set(colours)) < len(colours) or len({one.shape for one in said}) < len(said):
        return 0.0
    told = 0.55 + 0.42 * detail
    chance = 1 / (math.perm(len(SHAPES), len(said)) * math.perm(len(COLOURS), len(colours)))
    chance *= told ** len(colours) * (1 - told) ** (len(said) - len(colours))
    for one in said:
        chance *= sum(
            _attribute(one.pattern, pattern, _pattern_told(pattern) * detail)
            for pattern in PATTERNS
        ) / len(PATTERNS)
    return chance


def _size_told(said: Said, size: str, detail: float) -> float:
    return _attribute(said.size, size, 0.7 * detail)


def _sizes_told(meaning: Meaning, sizes: tuple[str, ...], detail: float) -> float:
    """Chance of what is said of sizes and of the relation, over all layouts of these sizes."""
    said, relations = meaning.objects, relation_shares(sizes)
    if meaning.relation is None:  # to be reversed changes nothing: the order of things is free
        sized = math.prod(_size_told(*pair, detail) for pair in zip(said, sizes, strict=True))
        return sized * relations[None]
    i, word, j = meaning.relation
    return sum(
        relations.get((a, word, b), 0.0)
        * _size_told(said[i], sizes[a], detail)
        * _size_told(said[j], sizes[b], detail)
        for a, b in told_pairs(meaning, len(sizes))
    )


def told_pairs(meaning: Meaning, count: int) -> list[tuple[int, int]]:
    """Things of a scene of so many that the relation may be about: of three any two, which are then
    named in the relation's order.
    """
    i, _, j = meaning.relation
    if count == 2:
        return [(i, j)]
    return list(permutations(range(count), 2)) if i < j else []


@lru_cache(maxsize=32)
def relation_shares(sizes: tuple[str, ...]) -> dict:
    """Chance to tell each relation (i, word, j), and under None to tell none, over all layouts."""
    layouts, shares = _layouts(sizes), {None: 0.0}
    for cells in layouts.tolist():
        found = [
            (a, word, b)
            for a, b in permutations(range(len(sizes)), 2)
            if (word := relation_between(cells[a], cells[b], 2))
        ]
        shares[None] += (1 - RELATES if found else 1.0) / len(layouts)
        for one in found:
            shares[one] = shares.get(one, 0.0) + RELATES / len(found) / len(layouts)
    return shares
