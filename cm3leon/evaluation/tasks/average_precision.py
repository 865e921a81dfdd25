"""AP of boxes as MS-COCO measures it (pycocotools' cocoeval), and the recall of single boxes.

Each picture is matched once (`matches`), the precision is accumulated over any of them
(`average_precision`): so resampling pictures costs no new matching. No crowds, no areas, at most
100 detections of a picture and category.

Shapes: T = 10 thresholds of IoU, D detections, G boxes that are true.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


class Detection(NamedTuple):
    """A box found in a picture, what it is said to be, and how sure."""

    category: Hashable
    box: Box
    score: float


class Matched(NamedTuple):
    """Of one category of one picture: scores [D], which detections are right [T, D], boxes G."""

    scores: np.ndarray
    right: np.ndarray
    boxes: int


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width, height = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def matches(
    found: Sequence[Detection], true: Sequence[tuple[Hashable, Box]]
) -> dict[Hashable, Matched]:
    """One picture's detections against its boxes (category, box), by category: the surest first,
    each takes the free box it overlaps most, from the threshold on.
    """
    result = {}
    for category in {one.category for one in found} | {name for name, _ in true}:
        own = [one for one in found if one.category == category]
        own = sorted(own, key=lambda one: -one.score)[:MOST]
        boxes = [box for name, box in true if name == category]
        overlaps_DG = np.array([[iou(one.box, box) for box in boxes] for one in own])
        right_TD = np.zeros((len(THRESHOLDS), len(own)), bool)
        for at, threshold in enumerate(THRESHOLDS):
            free = list(range(len(boxes)))
            for row in range(len(own)):
                fits = [k for k in free if overlaps_DG[row, k] >= min(threshold, 1 - 1e-10)]
                if fits:
                    # of equal ones cocoeval takes the last
                    free.remove(max(reversed(fits), key=lambda k, r=row: overlaps_DG[r, k]))
                    right_TD[at, row] = True
        scores = np.array([one.score for one in own], float)
        result[category] = Matched(scores, right_TD, len(boxes))
    return result


def average_precision(pictures: Sequence[dict[Hashable, Matched]]) -> tuple[float, float]:
    """(AP, AP50): means over the categories that have boxes, over thresholds or at 0.5 alone; NaN
    where there is no box.
    """
    by_category = defaultdict(list)
    for picture in pictures:
        for category, matched in picture.items():
            by_category[category].append(matched)
    each = [_precision(parts) for parts in by_category.values() if sum(one.boxes for one in parts)]
    if not each:
        return float("nan"), float("nan")
    each_CT = np.array(each)
    return float(each_CT.mean()), float(each_CT[:, 0].mean())


def _precision(parts: Sequence[Matched]) -> np.ndarray:
    """Precision averaged over 101 recalls at each threshold, [T]."""
    scores = np.concatenate([one.scores for one in parts])
    right_TD = np.concatenate([one.right for one in parts], 1)
    right_TD = right_TD[:, np.argsort(-scores, kind="mergesort")]
    boxes, found = sum(one.boxes for one in parts), np.zeros(len(THRESHOLDS))
    if not len(scores):
        return found
    hits_TD = right_TD.cumsum(1)
    precision_TD = hits_TD / np.arange(1, len(scores) + 1)
    envelope_TD = np.maximum.accumulate(precision_TD[:, ::-1], 1)[:, ::-1]
    for at in range(len(THRESHOLDS)):
        places = np.searchsorted(hits_TD[at] / boxes, RECALLS, side="left")
        inside = places < len(scores)
        found[at] = envelope_TD[at, places[inside]].sum() / len(RECALLS)
    return found


def iou_recall(
    found: Sequence[Detection], true: Sequence[tuple[Hashable, Box]], least: float = 0.5
) -> float:
    """Share of a picture's boxes that something found of their category overlaps so much; NaN
    without boxes.
    """
    hits = [
        any(one.category == name and iou(one.box, box) >= least for one in found)
        for name, box in true
    ]
    return float(np.mean(hits)) if hits else float("nan")
