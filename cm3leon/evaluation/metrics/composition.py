"""Composition: does a picture of the embedded world hold what its caption claims?

Of what `picture_reader.py` finds in it come GenEval's six scores (Ghosh et al. 2023, arXiv
2310.11513): single object, two objects, counting, colours, position, colour attribution; the
overall score is their mean. A caption takes part in a task when it claims something the task asks
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from cm3leon.evaluation.sides import Sides
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.intervals import percentile_interval, resamples_of
from cm3leon.world.language import Meaning, Said
from cm3leon.world.reader import Found, Reading
from cm3leon.world.scenes import SEEN_ENTITIES, entities

NETWORK = None
TASKS = ("single", "two", "counting", "colors", "position", "attribution")
EXTRAS = ("entity", "size", "pattern", "place", "all")  # ours: the rest of what captions claim
ALL = TASKS + EXTRAS
METHOD = "bootstrap over prompts, percentiles"


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


def composition(
    right_NK: np.ndarray,
    asked_NK: np.ndarray,
    images: Sequence[str],
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, tuple[float, float, float]]:
    """Task -> (share right, low, high) for every task asked; `overall`: mean of GenEval's six.

    The answers to all captions of one of the `images` (one name a caption), and of all seeds, stay
    together when images are resampled.
    """
    point = shares(right_NK, asked_NK)
    order = {image: place for place, image in enumerate(dict.fromkeys(images))}
    image_N = [order[image] for image in images]
    right_IK, asked_IK = np.zeros((2, len(order), right_NK.shape[1]), np.int64)
    np.add.at(right_IK, image_N, right_NK)
    np.add.at(asked_IK, image_N, asked_NK)
    draws = np.array(
        [
            shares(right_IK[rows], asked_IK[rows])
            for rows in resamples_of(len(order), resamples, 0, "composition")
        ]
    )
    found = {}
    for name, value, column in zip((*ALL, "overall"), point, draws.T, strict=True):
        if np.isfinite(value):
            found[name] = (float(value), *percentile_interval(column[np.isfinite(column)], level))
    return found


def shares(right_NK: np.ndarray, asked_NK: np.ndarray) -> np.ndarray:
    """Share right by task and, last, the mean of GenEval's six; NaN where a task was not asked."""
    asked_K = asked_NK.sum(0)
    share_K = np.where(asked_K > 0, right_NK.sum(0) / np.maximum(asked_K, 1), np.nan)
    six = share_K[: len(TASKS)]
    overall = np.mean(six[np.isfinite(six)]) if np.isfinite(six).any() else np.nan
    return np.append(share_K, overall)


def measured(sides: Sides) -> dict[str, tuple]:
    """Every task's share right and `overall`; of captions about entities that training never shows
    `entity_unseen`. Nothing where no truth is known, as of photographs.
    """
    truth = sides.truth
    if truth is None:
        return {}
    found = composition(truth.right_NT, truth.asked_NT, truth.images)
    if truth.unseen_N.sum() >= 2:
        place = ALL.index("entity")
        right_N, asked_N = (one[truth.unseen_N, place] for one in (truth.right_NT, truth.asked_NT))
        found["entity_unseen"] = paired.mean(right_N / asked_N)
    return found


def asks_for_unseen(meaning: Meaning) -> bool:
    """Whether a caption names an entity that never occurs in training."""
    return any(said.entity in unseen_names() for said in meaning.objects)


@cache
def unseen_names() -> frozenset[str]:
    """Nouns of the entities that never occur in `train`."""
    return frozenset(entity.name for entity in entities()[SEEN_ENTITIES:])


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
