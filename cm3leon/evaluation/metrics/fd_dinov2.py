"""FD-DINOv2: the Fréchet distance of DINOv2's features (Stein et al. 2023, arXiv 2306.04675)."""

from __future__ import annotations

from cm3leon.evaluation.metrics.fid import fid
from cm3leon.evaluation.sides import Sides

NETWORK = "dinov2"  # ViT-L/14, as published


def measured(sides: Sides) -> dict[str, float | tuple]:
    """Of all sets, with its interval."""
    return {"fd_dinov2": fid(sides.reference, sides.fakes).number}
