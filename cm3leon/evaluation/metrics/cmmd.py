"""CMMD: maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024, arXiv 2401.09603).

    1000 * ( mean k(a, a) + mean k(b, b) - 2 mean k(a, b) ),   k = exp(-|x - y|^2 / (2 * 10^2))

Every pair counts, a picture with itself too, as in the published code: the value is never negative
and has a bias of about 1000 (1 - mean k) (1/N + 1/M), so compare at equal numbers. Published values
use unit vectors of OpenAI's ViT-L/14 at 336 pixels.

Shapes: N, M pictures, D width of the embeddings.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.sides import Sides
from cm3leon.evaluation.statistics.frechet import check_features

NETWORK = "open_clip:ViT-L-14-336-quickgelu"
SIGMA, SCALE = 10.0, 1000.0
PICTURES = 30_000  # a side, at most
ROWS = 1024  # of a block of the kernel matrix: memory does not grow with N * M


def cmmd(a_ND, b_MD, sigma: float = SIGMA, scale: float = SCALE) -> float:
    """CMMD of embeddings a [N, D] and b [M, D]; float64, O(N + M) memory.

    Raises UserError for no rows, NaN, unlike dimensions, or a sigma that is not positive.
    """
    a, b = check_features(a_ND, "embeddings a"), check_features(b_MD, "embeddings b")
    if a.shape[1] != b.shape[1]:
        raise UserError(f"both sides must have one dimension, got {a.shape[1]} and {b.shape[1]}")
    if not len(a) or not len(b):
        raise UserError(f"CMMD needs embeddings on both sides, got {len(a)} and {len(b)}")
    if not sigma > 0:
        raise UserError(f"cmmd.sigma must be above 0, got {sigma}")
    inside = _mean_kernel(a, a, sigma) + _mean_kernel(b, b, sigma)
    return float(scale * (inside - 2 * _mean_kernel(a, b, sigma)))


def _mean_kernel(a_ND: np.ndarray, b_MD: np.ndarray, sigma: float) -> float:
    """Mean of k - 1 over all pairs: the ones cancel in CMMD, and small distances keep digits."""
    squares_M = (b_MD**2).sum(1)
    total = 0.0
    for start in range(0, len(a_ND), ROWS):
        part = a_ND[start : start + ROWS]
        apart = (part**2).sum(1)[:, None] + squares_M - 2 * part @ b_MD.T
        total += float(np.expm1(-np.maximum(apart, 0.0) / (2 * sigma**2)).sum())
    return total / (len(a_ND) * len(b_MD))


def measured(sides: Sides) -> dict[str, float]:
    """CMMD of at most 30,000 pictures a side, mean over seeds."""
    real_ND = sides.real_rows(PICTURES)
    return {"cmmd": float(np.mean([cmmd(real_ND, one) for one in sides.fake_rows(PICTURES)]))}
