"""F1 of two maps of edges, strokes or any yes and no (ControlNet++: BinaryF1 of 0/1 maps)."""

from __future__ import annotations

import numpy as np


def edge_f1(truth, read) -> float:
    """Harmonic mean of precision and recall of two bool maps, over all their places together; 1
    where both are empty.
    """
    truth, read = np.asarray(truth, bool), np.asarray(read, bool)
    total = truth.sum() + read.sum()
    return float(2 * (truth & read).sum() / total) if total else 1.0
