"""Whether drawn pictures hold what their captions claim, with intervals over prompts.

Shapes: N prompts, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.images.generated import Pictures
from benchmarks.protocols.prompts import Prompt
from cm3leon.evaluation.metrics.composition import EXTRAS, TASKS, judge
from cm3leon.evaluation.progress import progress
from cm3leon.evaluation.statistics.intervals import one_thread, percentile_interval, resamples_of
from cm3leon.images import crop_square
from cm3leon.workers import portions, side_by_side
from cm3leon.world.reader import read_picture

ALL = TASKS + EXTRAS
METHOD = "bootstrap over prompts, percentiles"
AT_ONCE = 16  # pictures that a worker reads before it takes others


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


def answers(
    prompts: Sequence[Prompt], drawn: Sequence[Pictures], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often each task was right, and how often it was asked: int64 [N, K], summed over sets.

    `drawn` holds one set of pictures a sampling seed; they are read at `size` pixels.
    """
    right_NK = np.zeros((len(prompts), len(ALL)), np.int64)
    asked_NK = np.zeros_like(right_NK)
    with progress(len(prompts) * len(drawn), "read pictures back") as bar, one_thread():
        for one in drawn:
            images = [image for batch in one.batches() for image in batch]

            def verdicts(part: slice, images=images) -> list[dict[str, bool]]:
                pairs = list(zip(prompts[part], images[part], strict=True))
                bar.update(len(pairs))
                return [
                    judge(read_picture(crop_square(image, size)), prompt.meaning)
                    for prompt, image in pairs
                ]

            parts = portions(len(prompts), AT_ONCE, 1)
            for part, found in zip(parts, side_by_side(verdicts, parts), strict=True):
                right_NK[part] += [[one.get(task, False) for task in ALL] for one in found]
                asked_NK[part] += [[task in one for task in ALL] for one in found]
    return right_NK, asked_NK


def shares(right_NK: np.ndarray, asked_NK: np.ndarray) -> np.ndarray:
    """Share right by task and, last, the mean of GenEval's six; NaN where a task was not asked."""
    asked_K = asked_NK.sum(0)
    share_K = np.where(asked_K > 0, right_NK.sum(0) / np.maximum(asked_K, 1), np.nan)
    six = share_K[: len(TASKS)]
    overall = np.mean(six[np.isfinite(six)]) if np.isfinite(six).any() else np.nan
    return np.append(share_K, overall)
