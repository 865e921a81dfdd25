"""Inception score: how sure the classifier is of each picture, and how many classes there are.

    exp( mean over pictures of KL( p(class | picture) || mean of p(class) ) ), Salimans et al. 2016

Take logits without the bias of the last layer, as the published code and torch-fidelity do
(`Features.logits` of the Inception networks). It knows nothing of real pictures.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.sides import MORE, Lacking, Sides
from cm3leon.evaluation.statistics.frechet import check_features
from cm3leon.evaluation.statistics.intervals import mean_interval
from cm3leon.seeds import generator

NETWORK = "inception"  # in any form that has classes
SPLITS = 10  # parts


def inception_score(logits_NK, splits: int = 10, seed: int | None = None) -> tuple[float, float]:
    """(mean, standard deviation) of the scores of `splits` consecutive parts of logits [N, K].

    The deviation has the divisor `splits`, as in the published code (torchmetrics: splits - 1).
    With a seed the pictures are shuffled first: needed where neighbours are alike, as in a folder
    sorted by class. Raises UserError for fewer pictures than splits, NaN, or one class.
    """
    logits = check_features(logits_NK, "logits")
    if not 1 <= splits <= len(logits):
        raise UserError(f"inception_score.splits must lie in [1, {len(logits)}], got {splits}")
    if logits.shape[1] < 2:
        raise UserError(f"the Inception score needs 2 or more classes, got {logits.shape[1]}")
    if seed is not None:
        logits = logits[generator(seed, "inception score").permutation(len(logits))]
    scores = [_score(logits[part]) for part in parts(len(logits), splits)]
    return float(np.mean(scores)), float(np.std(scores))


def parts(count: int, splits: int) -> list[slice]:
    """Consecutive parts of so many pictures, as the published code cuts them."""
    edges = [index * count // splits for index in range(splits + 1)]
    return [slice(*ends) for ends in pairwise(edges)]


def _score(logits_NK: np.ndarray) -> float:
    """The score of one part; float64 throughout, no logarithm of zero."""
    shifted = logits_NK - logits_NK.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    peak_K = log_p.max(0)
    log_mean_K = peak_K + np.log(np.exp(log_p - peak_K).mean(0))
    divergence_N = (np.exp(log_p) * (log_p - log_mean_K)).sum(1)
    return float(np.exp(divergence_N.mean()))


def measured(sides: Sides) -> dict[str, tuple]:
    """The mean over ten parts (of the first prompts, the next, ...), over seeds.

    Its interval is Student's t over the parts. The parts are read one by one: memory does not grow.
    """
    logits, count = sides.network.logits, sides.fakes[0].count
    splits = min(SPLITS, count // 2)
    if logits is None:
        raise Lacking(f"a network with classes, not {sides.network.name}")
    if splits < 2:
        raise Lacking(MORE)

    def score(fake, part: slice) -> float:
        marked = np.zeros(count, bool)
        marked[part] = True
        return inception_score(logits(fake.rows(marked)), 1)[0]

    cut = parts(count, splits)
    scores_P = np.mean([[score(fake, part) for part in cut] for fake in sides.fakes], axis=0)
    return {"inception_score": (float(scores_P.mean()), *mean_interval(scores_P))}
