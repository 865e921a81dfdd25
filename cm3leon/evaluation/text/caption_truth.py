"""What a caption of the embedded world claims, read back, and whether it is true of a scene.

The grammar of `world/language.py` the other way: a noun, the adjectives before it, stripes or
dots after it, at most one relation, a place. Words it does not know are passed over, so a model's
half-broken sentence is judged by what it does say.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from cm3leon.evaluation.metrics.composition import judge
from cm3leon.world.language import NUMBERS, RELATIONS, Meaning, Said, plural
from cm3leon.world.reader import Found, Reading
from cm3leon.world.scenes import Scene, entities
from cm3leon.world.sprites import COLOURS, PATTERNS, PLACES, SHAPES, SIZES

_COUNTS = {word: count for count, word in NUMBERS.items()}
_AFTER = {"stripes": "striped", "dots": "dotted"}
_KINDS = {"size": SIZES, "colour": COLOURS, "pattern": PATTERNS, "count": _COUNTS}


def read_caption(text: str) -> Meaning | None:
    """What the caption claims, objects in the order it names them; None if it names none."""
    words = re.findall(r"[a-z]+", text.lower())
    places = [place for place, word in enumerate(words) if word in _nouns()]
    if not places:
        return None
    objects = tuple(_object(words, place) for place in places)
    relation = None
    if len(objects) == 2:
        between = " ".join(words[places[0] + 1 : places[1]])
        told = [word for word in RELATIONS if re.search(rf"\b{word}\b", between)]
        relation = (0, told[0], 1) if told else None
    joined = " ".join(words)
    place = next((one for one in PLACES if re.search(rf"\b{one}\b", joined)), None)
    return Meaning(objects, relation, place)


def in_order(meaning: Meaning) -> Meaning:
    """The same claims with the objects in the order in which the caption names them."""
    if meaning.relation is None:
        return meaning
    first, word, second = meaning.relation
    return replace(
        meaning,
        objects=(meaning.objects[first], meaning.objects[second]),
        relation=(0, word, 1),
    )


def true_reading(scene: Scene) -> Reading:
    """The scene's truth in the form in which pictures are read."""
    found = [
        Found(
            thing.shape, thing.colour, thing.size, thing.pattern, thing.entity, thing.cell, 1.0
        )
        for thing in scene.objects
    ]  # fmt: skip
    return Reading(scene.place, tuple(found))


def judge_caption(text: str, scene: Scene) -> dict[str, bool]:
    """For every claim the caption makes: is it true of the scene? Keys of `composition.judge`, and

    "readable": it names something; "named": it names every kind of thing that the scene shows.
    """
    meaning = read_caption(text)
    if meaning is None:
        return {"readable": False, "named": False, "all": False}
    verdict = judge(true_reading(scene), meaning)
    said = {one.entity or one.shape for one in meaning.objects}
    shown = {thing.entity or thing.shape for thing in scene.objects}
    return {"readable": True, "named": shown <= said, **verdict}


def _object(words: list[str], place: int) -> Said:
    """The thing named at a place, with the adjectives before it and stripes or dots after it."""
    name, several = _nouns()[words[place]]
    told: dict = {}
    for word in reversed(words[:place]):
        kind = next((kind for kind, known in _KINDS.items() if word in known), None)
        if kind is None or kind in told:
            break
        told[kind] = word
    if words[place + 1 : place + 2] == ["with"] and len(words) > place + 2:
        told.setdefault("pattern", _AFTER.get(words[place + 2]))
    count = _COUNTS.get(told.get("count"), 2 if several else 1)
    shape, entity = (name, None) if name in SHAPES else (None, name)
    colour, size, pattern = (told.get(kind) for kind in ("colour", "size", "pattern"))
    return Said(shape, colour, size, pattern, entity, count)


@lru_cache(maxsize=1)
def _nouns() -> dict[str, tuple[str, bool]]:
    """Word -> (shape or entity, whether several are meant)."""
    names = [*SHAPES, *(entity.name for entity in entities())]
    single = {name: (name, False) for name in names}
    return {plural(name): (name, True) for name in names} | single
