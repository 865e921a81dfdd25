"""How often a drawn picture is a copy of a document that stood before its prompt.

A real picture of the same prompt is like the documents too, as far as prompt and documents agree,
and is no copy. So "copy" means nearer to a document than all but a small share of the real
pictures: that share is what a system that copies nothing reaches.

Shapes: N pictures, S documents of each, D numbers of a picture: its pixels, or its features.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError


def nearest_distance(pictures_ND: np.ndarray, documents_NSD: np.ndarray) -> np.ndarray:
    """Root mean square difference to the nearest of a picture's own documents, float64 [N]."""
    if documents_NSD.ndim != 3 or not documents_NSD.shape[1]:
        raise UserError(f"documents must have shape [N, S, D], got {list(documents_NSD.shape)}")
    if pictures_ND.shape != documents_NSD[:, 0].shape:
        raise UserError(
            f"pictures of shape {list(pictures_ND.shape)} do not fit documents of shape "
            f"{list(documents_NSD.shape)}"
        )
    apart = pictures_ND[:, None].astype(np.float64) - documents_NSD
    return np.sqrt((apart**2).mean(2)).min(1)


def copies(drawn_N: np.ndarray, real_N: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Bool [N]: drawn pictures nearer to their documents than all but `share` of the real ones."""
    if not 0 < share < 1:
        raise UserError(f"share of the control must lie in (0, 1), got {share}")
    return np.asarray(drawn_N) < np.quantile(np.asarray(real_N), share)
