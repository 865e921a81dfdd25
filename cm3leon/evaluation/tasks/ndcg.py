"""NDCG of VisDial: how well candidate answers are ranked by what humans hold relevant.

As the challenge has it (batra-mlp-lab/visdial-challenge-starter-pytorch, metrics.py): with K
candidates of relevance above 0, the discounted gain of the first K of the ranking over that of the
best ranking.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError


def ndcg(scores_C, relevance_C) -> float:
    """NDCG in [0, 1] of C candidates' scores (higher stands first; equal ones in their order).

    Raises UserError for counts that differ, a relevance below 0, and none above it.
    """
    scores_C, relevance_C = np.asarray(scores_C, float), np.asarray(relevance_C, float)
    if scores_C.shape != relevance_C.shape or scores_C.ndim != 1:
        shapes = f"{list(scores_C.shape)} and {list(relevance_C.shape)}"
        raise UserError(f"NDCG needs a relevance for each candidate's score, got {shapes}")
    if not (relevance_C >= 0).all() or not relevance_C.any() or np.isnan(scores_C).any():
        raise UserError("NDCG needs scores, relevances of at least 0, and one of them above")
    best = int((relevance_C > 0).sum())
    discounts_K = np.log2(np.arange(best) + 2)
    ranked_K = relevance_C[np.argsort(-scores_C, kind="stable")][:best]
    ideal_K = np.sort(relevance_C)[::-1][:best]
    return float((ranked_K / discounts_K).sum() / (ideal_K / discounts_K).sum())
