"""Composition: does a picture of the embedded world hold what its caption claims?

Of what `picture_reader.py` finds in it come GenEval's six scores (Ghosh et al. 2023, arXiv
2310.11513): single object, two objects, counting, colours, position, colour attribution; the
overall score is their mean. A caption takes part in a task when it claims something the task asks
for.
"""

from __future__ import annotations

import numpy as np

from cm3leon.world.language import Meaning, Said
from cm3leon.world.reader import Found, Reading

TASKS = ("single", "two", "counting", "colors", "position", "attribution")
EXTRAS = ("entity", "size", "pattern", "place", "all")  # ours: the rest of what captions claim


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
    """Whether two objects of the nouns and colours said stand so: colours swapped is swapped."""
    i, word, j = meaning.relation
    return any(
        stands(one, word, two)
        for one in reading.objects
        if _fits(one, meaning.objects[i], ("colour",))
        for two in reading.objects
        if two is not one and _fits(two, meaning.objects[j], ("colour",))
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
