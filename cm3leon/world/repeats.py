"""Pictures of an evaluation split that a training has too, pixel for pixel: the world is small."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from cm3leon.world.scenes import Plan, scene

TRAINED = 65_536  # scenes of `stock`, `train` that the shipped models saw, from the first on


def in_training(
    dialect: str, split: str, indices: Iterable[int], trained: int = TRAINED
) -> np.ndarray:
    """Bool [N]: whether a picture is equal, pixel for pixel, to one of the first `trained` scenes
    of `stock`, `train`.

    Raises UserError for an unknown address, as `scene` does.
    """
    known, found = training_plans(trained), []
    for index in indices:
        one = scene(dialect, split, index)
        others = known.get(content(one.plan), ())  # other words, and other overlaps at most
        found.append(any((one.image == scene("stock", "train", at).image).all() for at in others))
    return np.array(found, bool)


@lru_cache(maxsize=1)
def training_plans(trained: int) -> dict[tuple, list[int]]:
    """Indices of the training's scenes by what stands where."""
    found: dict[tuple, list[int]] = {}
    for index in range(trained):
        found.setdefault(content(scene("stock", "train", index).plan), []).append(index)
    return found


def content(plan: Plan) -> tuple:
    """What stands where, whatever was laid down first (which shows where two overlap alone)."""
    return plan.place, tuple(sorted(map(repr, plan.things))), plan.sign
