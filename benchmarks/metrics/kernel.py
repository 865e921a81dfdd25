"""KID: unbiased squared maximum mean discrepancy with the polynomial kernel (x.y / D + 1)^3.

The same numbers as torchmetrics gives for the same subsets; a seed fixes ours. Unlike FID it has
no bias in the number of pictures (Binkowski et al. 2018, arXiv 1801.01401).
"""

from __future__ import annotations

import numpy as np

from benchmarks.metrics.frechet import check_features
from cm3leon.errors import UserError
from cm3leon.seeds import generator


def kid(
    a, b, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """(mean, standard deviation) over random subsets of features a [N, D] and b [M, D].

    The subset size is 1,000, but never more than half of the smaller side (at least 2): subsets of
    nearly everything would all be the same and the deviation would say nothing. The deviation is
    that of one subset, as is usual in print, not the standard error of the mean; the mean may be
    slightly negative. Raises UserError for fewer than 4 features a side, NaN, unlike dimensions.
    """
    a, b = check_features(a, "features a"), check_features(b, "features b")
    smaller = min(len(a), len(b))
    if a.shape[1] != b.shape[1]:
        raise UserError(f"both sides must have one dimension, got {a.shape[1]} and {b.shape[1]}")
    if smaller < 4:
        raise UserError(f"KID needs at least 4 features a side, got {smaller}; add pictures")
    size = min(1000, max(2, smaller // 2)) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise UserError(f"kid.subset_size must lie in [2, {smaller}], got {size}")
    if subsets < 1:
        raise UserError(f"kid.subsets must be at least 1, got {subsets}")
    values = []
    for index in range(subsets):
        rng = generator(seed, "kid", index)
        rows_a = rng.choice(len(a), size, replace=False)
        rows_b = rng.choice(len(b), size, replace=False)
        values.append(discrepancy(a[rows_a], b[rows_b]))
    return float(np.mean(values)), float(np.std(values))


def discrepancy(a_MD: np.ndarray, b_MD: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two samples of M rows, unbiased: no row with itself."""
    size = len(a_MD)
    aa, ab, bb = cubic(a_MD, a_MD), cubic(a_MD, b_MD), cubic(b_MD, b_MD)
    apart = aa.sum() - aa.trace() + bb.sum() - bb.trace()
    return float(apart / (size * (size - 1)) - 2 * ab.mean())


def cubic(a_MD: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """(a.b / D + 1) ** 3 of every pair, float64 [M, M]."""
    base = a_MD @ b_MD.T / a_MD.shape[1] + 1
    return base * base * base
