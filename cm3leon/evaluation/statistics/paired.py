"""Two systems on the same prompts: differences with intervals, whole prompts resampled.

Shapes: P prompts, K sampling seeds, D features, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.frechet import Reference, frechet_from_features
from cm3leon.evaluation.statistics.intervals import (
    bootstrap_interval,
    frechet_influence,
    mean_interval,
    one_thread,
    resamples_of,
)

Triple = tuple[float, float, float]  # value, low, high
METHOD = "bootstrap over prompts; of FID Student t over the prompts' influence"
LEVEL = 0.95
NONE = 1e-9  # a distance up to which is rounding of 0


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
class Distance:
    """Fréchet distance of the drawings of P prompts, and how much each prompt moves it, mean 0.

    `draws_R` are its values in R resamples of the prompts, to first order; they depend on P and
    their number alone, so two systems asked the same prompts share them.
    """

    value: float
    influence_P: np.ndarray
    resamples: int = 200

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.influence_P)

    @property
    def draws_R(self) -> np.ndarray:
        """Float64 [R]."""
        rows = resamples_of(self.prompts, self.resamples, 0, "prompts")
        return self.value + np.array([self.influence_P[one].mean() for one in rows])


def distance(reference: Reference, fakes_PKD: np.ndarray, resamples: int = 200) -> Distance:
    """The distance of all features [P, K, D] together, K drawings a prompt; P >= 4."""
    prompts, drawings, width = fakes_PKD.shape
    if prompts < 4:
        raise UserError(f"a Fréchet interval needs 4 prompts, got {prompts}")
    flat = fakes_PKD.reshape(-1, width)
    with one_thread():
        value = frechet_from_features(reference.features, flat)
        moved = frechet_influence(reference.features, flat).reshape(prompts, drawings)
    return Distance(value, moved.mean(1), resamples)


def mean_distance(reference: Reference, sets_KPD: np.ndarray, resamples: int = 200) -> Distance:
    """The mean distance over K sets of features, each of the same P prompts in one order."""
    each = [distance(reference, one[:, None], resamples) for one in sets_KPD]
    moved = np.mean([one.influence_P for one in each], axis=0)
    return Distance(float(np.mean([one.value for one in each])), moved, resamples)


def frechet(one: Distance) -> Triple:
    """Fréchet distance with its interval over prompts."""
    low, high = mean_interval(one.influence_P, LEVEL)
    return one.value, max(0.0, one.value + low), one.value + high


def quotient(ours: Distance, others: Distance) -> Distance:
    """Others / ours on the same prompts; the influence of its logarithm times the quotient itself.

    Raises UserError for other prompts, and for distances of 0, which no quotient is of.
    """
    if (ours.prompts, ours.resamples) != (others.prompts, others.resamples):
        raise UserError(
            f"a paired ratio needs the same prompts and resamples, got {ours.prompts} and "
            f"{others.prompts} prompts"
        )
    if min(ours.value, others.value) <= NONE:
        raise UserError(
            f"a ratio of Fréchet distances needs both above 0, got {others.value:g} / "
            f"{ours.value:g}: pictures that are the reference's own"
        )
    value = others.value / ours.value
    moved = others.influence_P / others.value - ours.influence_P / ours.value
    return Distance(value, value * moved, ours.resamples)


def frechet_ratio(ours: Distance, others: Distance) -> Triple:
    """Others' distance / ours: above 1 is better. Prompt by prompt, symmetric on a log scale."""
    one = quotient(ours, others)
    low, high = np.exp(mean_interval(one.influence_P / one.value, LEVEL))
    return one.value, one.value * float(low), one.value * float(high)


def frechet_difference(real_ND: np.ndarray, ours_KND: np.ndarray, others_KND: np.ndarray) -> Triple:
    """Mean FID over K sets of ours - that of others, each set the same P = N prompts in one order.

    The numbers of sets may differ.
    """
    if ours_KND.shape[1] != others_KND.shape[1]:
        raise UserError(
            f"a paired difference needs the same prompts, got {ours_KND.shape[1]} and "
            f"{others_KND.shape[1]}"
        )
    ours, others = (mean_distance(Reference(real_ND), one) for one in (ours_KND, others_KND))
    apart = ours.value - others.value
    low, high = mean_interval(ours.influence_P - others.influence_P, LEVEL)
    return apart, apart + low, apart + high
