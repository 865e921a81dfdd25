"""Object keypoint similarity (pycocotools' cocoeval): how near a pose's points are to the true.

exp(-d^2 / (2 s^2 k^2)) of each true point that is labelled, their mean; s^2 is the person's area, k
twice the point's sigma.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError

# nose, then left and right: eye, ear, shoulder, elbow, wrist, hip, knee, ankle
SIGMAS = np.array([26, *np.repeat([25, 35, 79, 72, 62, 107, 87, 89], 2)]) / 1000


def oks(true, found, area: float, sigmas=SIGMAS) -> float:
    """OKS of points [K, 2] against true ones [K, 3] (x, y, visibility), those with visibility 0
    left out. Raises UserError for other shapes, an area that is not above 0, no labelled point.
    """
    true, found, sigmas = (np.asarray(one, float) for one in (true, found, sigmas))
    if true.shape != (len(sigmas), 3) or found.shape[:1] != true.shape[:1] or area <= 0:
        raise UserError(
            f"OKS needs {len(sigmas)} points x, y, visibility and an area above 0, got "
            f"{list(true.shape)}, {list(found.shape)} and {area}"
        )
    seen = true[:, 2] > 0
    if not seen.any():
        raise UserError("OKS needs a labelled point, got none")
    squared = ((true[:, :2] - found[:, :2]) ** 2).sum(1)
    similar = np.exp(-squared / (2 * sigmas) ** 2 / (area + np.spacing(1)) / 2)
    return float(similar[seen].mean())
