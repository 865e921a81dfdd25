"""mIoU and pixel accuracy of label maps, accumulated over all pictures (confusion matrices).

Shapes: N pictures, C classes.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError


def confusion(truth, read, classes: int) -> np.ndarray:
    """Places of two integer maps of one shape by (true class, class read), int64 [C, C].

    Raises UserError for maps of two shapes and classes that there are not.
    """
    truth, read = np.asarray(truth), np.asarray(read)
    if truth.shape != read.shape:
        raise UserError(f"maps must have one shape, got {truth.shape} and {read.shape}")
    for found in (truth, read):
        if found.size and not (found.min() >= 0 and found.max() < classes):
            raise UserError(f"classes lie in 0..{classes - 1}, got {found.min()}..{found.max()}")
    places = truth.astype(np.int64).ravel() * classes + read.ravel()
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def mean_iou(confusion_NCC) -> float:
    """Mean over the classes that the truth shows of TP / (TP + FP + FN), summed over pictures."""
    total_CC = _total(confusion_NCC)
    both_C = np.diag(total_CC)
    any_C = total_CC.sum(0) + total_CC.sum(1) - both_C
    there_C = total_CC.sum(1) > 0
    return float((both_C[there_C] / any_C[there_C]).mean()) if there_C.any() else float("nan")


def pixel_accuracy(confusion_NCC) -> float:
    """Share of places with the right class."""
    total_CC = _total(confusion_NCC)
    return float(np.trace(total_CC) / total_CC.sum()) if total_CC.sum() else float("nan")


def _total(confusion_NCC) -> np.ndarray:
    found = np.asarray(confusion_NCC)
    return found.reshape(-1, *found.shape[-2:]).sum(0)
