"""KID: unbiased squared maximum mean discrepancy with the polynomial kernel (x.y / D + 1)^3.

The same numbers as torchmetrics gives for the same subsets; a seed fixes ours. Below 1,000 rows a
side the value is over all pairs (fid_coco 2; before, the mean over subsets of half of them). Unlike
FID it has no bias in the number of pictures (Binkowski et al. 2018, arXiv 1801.01401).
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.sides import LEAST, MORE, Lacking, Sides
from cm3leon.evaluation.statistics.frechet import check_features
from cm3leon.seeds import generator

NETWORK = None
SUBSET = 1000  # rows of a subset, as is usual
ROWS = 5_000  # pictures a side that subsets are taken from


def kid(
    a, b, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """(value, standard deviation) of the discrepancy of features a [N, D] and b [M, D].

    The value is the mean over random subsets of 1,000 (or of `subset_size`); of sides smaller than
    that it is exact, over all pairs: subsets of nearly everything would all be the same. The
    deviation is that of one subset (of half of the smaller side where the value is exact), as is
    usual in print, not the standard error of the value, which may be slightly negative. Raises
    UserError for fewer than 4 features a side, NaN, unlike dimensions.
    """
    a, b = check_features(a, "features a"), check_features(b, "features b")
    smaller = min(len(a), len(b))
    if a.shape[1] != b.shape[1]:
        raise UserError(f"both sides must have one dimension, got {a.shape[1]} and {b.shape[1]}")
    if smaller < 4:
        raise UserError(f"KID needs at least 4 features a side, got {smaller}; add pictures")
    exact = subset_size is None and smaller < SUBSET
    size = (max(2, smaller // 2) if exact else SUBSET) if subset_size is None else subset_size
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
    value = discrepancy(a, b) if exact else float(np.mean(values))
    return value, float(np.std(values))


def discrepancy(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two samples, unbiased: no row with itself."""
    inside = 0.0
    for one in (a_ND, b_MD):
        pairs = cubic(one, one)
        inside += (pairs.sum() - pairs.trace()) / (len(one) * (len(one) - 1))
    return float(inside - 2 * cubic(a_ND, b_MD).mean())


def cubic(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """(a.b / D + 1) ** 3 of every pair, float64 [N, M]."""
    base = a_ND @ b_MD.T / a_ND.shape[1] + 1
    return base * base * base


def measured(sides: Sides) -> dict[str, float]:
    """KID of at most 5,000 pictures a side, mean over seeds; its deviation is that of a subset."""
    real_ND = sides.real_rows(ROWS)
    if min(len(real_ND), sides.fakes[0].count) < LEAST:
        raise Lacking(MORE)
    found = [kid(real_ND, fake_ND) for fake_ND in sides.fake_rows(ROWS)]
    value, deviation = np.mean(found, axis=0)
    return {"kid": float(value), "kid_std": float(deviation)}
