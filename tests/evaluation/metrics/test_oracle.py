"""The oracle's chances sum to one, agree with the world's own draws, and with plans counted out."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.oracle import (
    meaning_chance,
    plan_chance,
    same_pictures,
    surprise,
    telling_chance,
)
from cm3leon.world.language import Meaning, Said
from cm3leon.world.scenes import WORLDS, Plan, _layouts, scene
from cm3leon.world.sprites import COLOURS, PATTERNS, PLACES, SHAPES

TONES = tuple(COLOURS)
WORDS = ("left of", "right of", "above", "below")


def meanings(place: str | None) -> Iterator[tuple[int, Meaning]]:
    """Every meaning with this place, or none: one of those that differ in names of shapes and
    colours alone, and how many they are.
    """
    sizes, patterns = (None, "small", "large"), (None, *PATTERNS)
    for count in (1, 2, 3):
        for told in product((False, True), repeat=count):
            ways = math.perm(8, count) * math.perm(8, sum(told))
            colours = [TONES[at] if one else None for at, one in enumerate(told)]
            for looks in product(product(sizes, patterns), repeat=count):
                things = tuple(
                    Said(SHAPES[at], colour, *look)
                    for at, (colour, look) in enumerate(zip(colours, looks, strict=True))
                )
                yield ways, Meaning(things, None, place)
                if count == 2:
                    for word, pair in product(WORDS, ((0, 1), (1, 0))):
                        yield ways, Meaning(things, (pair[0], word, pair[1]), place)
                if count == 1:
                    for several in (2, 3):
                        yield ways, Meaning((replace(things[0], count=several),), None, place)


@pytest.mark.parametrize("dialect", WORLDS)
def test_all_that_can_be_said_has_chance_one(dialect):
    total = sum(ways * meaning_chance(one, dialect) for ways, one in meanings(None))
    told = 0.85 if dialect == "coco" else 0.75
    assert total / (1 - told) == pytest.approx(1, abs=1e-9)


def kind(meaning: Meaning) -> tuple:
    """What of a meaning does not name a shape, a colour or a relation's word."""
    things = tuple((one.count, bool(one.colour), one.size, one.pattern) for one in meaning.objects)
    return len(things), things[0], meaning.relation is not None


@pytest.mark.parametrize("dialect", WORLDS)
def test_captions_say_things_as_often_as_the_oracle_expects(dialect):
    expected, scenes = Counter(), 1_500
    for ways, one in meanings(None):
        expected[kind(one)] += (
            ways * meaning_chance(one, dialect) / (0.15 if dialect == "coco" else 0.25)
        )
    found = Counter(
        kind(one) for at in range(scenes) for one in scene(dialect, "val", at).meanings[:1]
    )
    for name, share in expected.items():
        error = 4.5 * math.sqrt(share * (1 - share) / scenes) + 1 / scenes
        assert abs(found[name] / scenes - share) < error, name
    assert set(found) <= set(expected)


def plans(meaning: Meaning, sizes: tuple[str, ...]) -> Iterator[Plan]:
    """Every plan of things of these sizes whose shapes are those of the meaning, in its order."""
    looks = [product(TONES, PATTERNS) for _ in sizes]
    for place, *each in product(PLACES, *looks):
        if len({colour for colour, _ in each}) < len(each):
            continue
        for cells in _layouts(sizes).tolist():
            things = tuple(
                (said.shape, *look[:1], size, look[1], None, tuple(cell))
                for said, look, size, cell in zip(meaning.objects, each, sizes, cells, strict=True)
            )
            yield Plan(place, things, tuple((at, 1) for at in range(len(sizes))))


@pytest.mark.parametrize(
    "meaning",
    [
        Meaning((Said("star", None, None, "striped"),), None, None),
        Meaning((Said("circle", "red"),), None, "snow"),
    ],
)
def test_one_thing_counted_out(meaning):
    total = sum(
        plan_chance(plan, WORLDS["coco"]) * telling_chance(plan, meaning, "coco")
        for size in ("small", "large")
        for plan in plans(meaning, (size,))
    )
    assert total == pytest.approx(meaning_chance(meaning, "coco"), rel=1e-9)


def test_two_things_counted_out():
    """All is told but where they stand, and in which order they were drawn."""
    said = Said("star", "red", "large", "plain"), Said("ring", "blue", "small", "dotted")
    meaning, total = Meaning(said, None, "snow"), 0.0
    for one, other in (said, said[::-1]):
        groups = ((0, 1), (1, 1))
        for cells in _layouts((one.size, other.size)).tolist():
            things = tuple(
                (part.shape, part.colour, part.size, part.pattern, None, tuple(cell))
                for part, cell in zip((one, other), cells, strict=True)
            )
            plan = Plan("snow", things, groups)
            told = telling_chance(plan, meaning, "stock")
            total += plan_chance(plan, WORLDS["stock"]) * told
    assert total == pytest.approx(meaning_chance(meaning, "stock"), rel=1e-9)


def test_a_large_thing_of_which_all_is_told_can_stand_in_sixteen_places():
    for at in range(400):
        one = scene("stock", "val", at)
        said = one.meanings[0].objects
        if len(said) == 1 and one.meanings[0].place and said[0].count == 1:
            told = said[0].colour and said[0].pattern
            if told and said[0].size == "large":
                assert surprise(one) == pytest.approx(math.log(16))
                break
    else:
        pytest.fail("no such caption")


def test_orders_that_cannot_be_seen_are_one_picture():
    counts = Counter()
    for at in range(40):
        one = scene("coco", "test", at)
        same = list(same_pictures(one))
        counts[len(one.plan.things), len(same)] += 1
        assert one.plan in same
    assert counts[1, 1] and counts[2, 2] and counts[3, 6]
    assert counts[3, 3] == 1  # of scene 3 two things overlap: which is nearer can be seen


def test_a_picture_costs_more_the_less_is_told():
    some = [scene("stock", "val", at) for at in range(60)]
    told = [[bool(one.colour) for one in some_one.meanings[0].objects] for some_one in some]
    nats = np.array([surprise(one) for one in some])
    assert (nats > 2.7).all() and nats[[all(x) for x in told]].mean() < nats.mean()
    with pytest.raises(UserError, match="coco-tail-0 shows an entity"):
        surprise(scene("coco", "tail", 0))
