"""Two systems on the same prompts: differences with intervals, whole prompts resampled.

Shapes: P prompts, K sampling seeds, D features, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.stats import (
    bootstrap_interval,
    frechet_halves,
    half_scale,
    one_thread,
    percentile_interval,
)
from benchmarks.metrics.frechet import Reference, frechet_from_features
from cm3leon.errors import UserError
from cm3leon.seeds import generator

Triple = tuple[float, float, float]  # value, low, high
METHOD = "bootstrap over prompts; of FID random halves of the prompts, centred on the value"
LEVEL = 0.95


def mean_difference(ours_P: np.ndarray, others_P: np.ndarray, resamples: int = 1000) -> Triple:
    """Mean of ours - others over prompts both were asked, NaN marks one that was not."""
    apart = np.asarray(ours_P, np.float64) - np.asarray(others_P, np.float64)
    return mean(apart, resamples)


def mean(values_P: np.ndarray, resamples: int = 1000) -> Triple:
    """Mean over prompts with its interval, without those that are NaN."""
    values = np.asarray(values_P, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        raise UserError(f"a mean with an interval needs two prompts, got {len(values)}")
    return float(values.mean()), *bootstrap_interval(values, resamples=resamples, level=LEVEL)


@dataclass(frozen=True)
class Halves:
    """Fréchet distance of all drawings of P prompts, and of R random halves of the prompts.

    The halves depend on P and their number alone, so two systems asked the same prompts share them.
    """

    value: float
    draws_R: np.ndarray
    prompts: int


def halves(reference: Reference, fakes_PKD: np.ndarray, resamples: int = 200) -> Halves:
    """Distances of features [P, K, D], K drawings a prompt; P >= 4."""
    prompts, _, width = fakes_PKD.shape
    if prompts < 4:
        raise UserError(f"a Fréchet interval needs 4 prompts, got {prompts}")
    draws_R = np.empty(resamples)
    with one_thread():
        value = frechet_from_features(reference.features, fakes_PKD.reshape(-1, width))
        for index in range(resamples):
            half = generator(0, "half", "prompts", index).permutation(prompts)[: prompts // 2]
            draws_R[index] = reference.distance(fakes_PKD[half].reshape(-1, width))
    return Halves(value, draws_R, prompts)


def frechet(one: Halves) -> Triple:
    """Fréchet distance with its interval over prompts."""
    return _around(one.value, one.draws_R, np.subtract, np.add, lowest=0.0)


def frechet_ratio(ours: Halves, others: Halves) -> Triple:
    """FID of others / FID of ours: above 1 is better. The same halves of prompts for both."""
    if (ours.prompts, len(ours.draws_R)) != (others.prompts, len(others.draws_R)):
        raise UserError(
            f"a paired ratio needs the same prompts and resamples, got {ours.prompts} and "
            f"{others.prompts} prompts"
        )
    draws_R = others.draws_R / ours.draws_R
    return _around(others.value / ours.value, draws_R, np.divide, np.multiply, lowest=0.0)


def frechet_difference(
    real_ND: np.ndarray, ours_KND: np.ndarray, others_KND: np.ndarray, resamples: int = 200
) -> Triple:
    """Mean FID over K sets of ours - that of others, each set the same P = N prompts in one order.

    The numbers of sets may differ; halves of the prompts are the same for all of them.
    """
    if ours_KND.shape[1] != others_KND.shape[1]:
        raise UserError(
            f"a paired difference needs the same prompts, got {ours_KND.shape[1]} and "
            f"{others_KND.shape[1]}"
        )
    sides = []
    for sets in (ours_KND, others_KND):
        values = [frechet_from_features(real_ND, one) for one in sets]
        draws = [frechet_halves(real_ND, one, resamples, 0, False) for one in sets]
        sides.append((np.mean(values), np.mean(draws, axis=0)))
    (ours, our_draws), (others, other_draws) = sides
    draws = (our_draws - other_draws) * half_scale(ours_KND.shape[1])
    low, high = percentile_interval(ours - others + draws - draws.mean(), LEVEL)
    return float(ours - others), low, high


def verdict(difference: Triple, wanted: float = 0.0) -> str:
    """What an interval says of "the difference is above `wanted`"."""
    _, low, high = difference
    return "holds" if low > wanted else "does not" if high < wanted else "not resolved"


def _around(value: float, draws: np.ndarray, away: Callable, back: Callable, lowest: float):
    """Percentiles of the draws, moved from their own middle onto the value (see stats.py)."""
    middle = np.median(draws)
    low, high = percentile_interval(back(value, away(draws, middle)), LEVEL)
    return float(value), max(lowest, float(min(low, value))), float(max(high, value))
