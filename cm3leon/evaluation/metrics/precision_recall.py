"""Precision and recall of a set of pictures, and how far apart they are: what FID mixes together.

Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): a picture is covered by
a set when it lies within the distance of one of its members to that member's k-th nearest other.

Shapes: N, M rows of features, D features, P prompts, K drawings of each.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.sides import MORE, Lacking, Sides
from cm3leon.evaluation.statistics.frechet import check_features
from cm3leon.evaluation.statistics.intervals import binomial_interval

NETWORK = None
ROWS = 5_000  # pictures a side: both fall with fewer
NEIGHBOUR = 3


def precision_recall(real_ND, fake_MD, k: int = 3) -> tuple[float, float]:
    """(share of drawn pictures that the real ones cover, share of real ones that the drawn cover).

    Both fall with fewer pictures: compare at equal N, M and k. Raises UserError for sets of k or
    fewer rows and for unlike dimensions.
    """
    real, fake = check_features(real_ND, "real"), check_features(fake_MD, "fake")
    if real.shape[1] != fake.shape[1]:
        raise UserError(f"both sides must have one dimension, got {real.shape[1]}, {fake.shape[1]}")
    if not 1 <= k < min(len(real), len(fake)):
        raise UserError(f"k must lie in [1, {min(len(real), len(fake)) - 1}], got {k}")
    apart_NM = distances(real, fake)
    precision = (apart_NM <= radii(real, k)[:, None]).any(0).mean()
    recall = (apart_NM <= radii(fake, k)[None]).any(1).mean()
    return float(precision), float(recall)


def radii(rows_ND: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row to its k-th nearest other row, float64 [N]."""
    return np.partition(distances(rows_ND, rows_ND), k, axis=1)[:, k]


def distances(one_ND: np.ndarray, other_MD: np.ndarray) -> np.ndarray:
    """Euclidean distances float64 [N, M]."""
    one, other = np.asarray(one_ND, np.float64), np.asarray(other_MD, np.float64)
    squared = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    if one_ND is other_MD:
        np.fill_diagonal(squared, 0.0)
    return np.sqrt(np.maximum(squared, 0.0))


def spread_of_samples(features_PKD: np.ndarray) -> np.ndarray:
    """Mean distance between two drawings of one prompt, float64 [P]; K >= 2."""
    prompts, count, _ = features_PKD.shape
    if count < 2:
        raise UserError(f"drawings of a prompt must be two or more to differ, got {count}")
    upper = np.triu_indices(count, 1)
    return np.array([distances(one, one)[upper].mean() for one in features_PKD]).reshape(prompts)


def measured(sides: Sides) -> dict[str, tuple]:
    """Precision and recall of at most 5,000 pictures a side, mean over seeds.

    Intervals are Wilson's for the pictures that are asked whether they are covered; what covers
    them stays as it is.
    """
    real_ND, fakes = sides.real_rows(ROWS), sides.fake_rows(ROWS)
    if min(len(real_ND), len(fakes[0])) <= NEIGHBOUR:
        raise Lacking(MORE)
    shares = np.mean([precision_recall(real_ND, fake_MD, NEIGHBOUR) for fake_MD in fakes], axis=0)
    counts = {"precision": len(fakes[0]), "recall": len(real_ND)}
    return {
        name: (float(share), *binomial_interval(round(share * count), count))
        for (name, count), share in zip(counts.items(), shares, strict=True)
    }
