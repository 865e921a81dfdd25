"""Cells of the decoding ablation as numbers, and the pool re-ranked for every number of samples.

Shapes: P prompts, K drawings of each, D features, G disjoint groups of samples, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.evaluate.composition import answers
from benchmarks.images.generated import Pictures
from benchmarks.protocols.prompts import Prompt
from cm3leon.clip import Clip
from cm3leon.evaluation.features.network import Features, extract
from cm3leon.evaluation.metrics.composition import TASKS
from cm3leon.evaluation.metrics.precision_recall import precision_recall, spread_of_samples
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.frechet import Reference
from cm3leon.evaluation.statistics.intervals import percentile_interval
from cm3leon.evaluation.statistics.paired import LEVEL, Distance

GROUPS = 4  # disjoint groups of samples whose FIDs are averaged, at most


@dataclass(frozen=True)
class Judged:
    """Drawings of the same prompts with K seeds: features, and the share of claims they fulfil."""

    features_PKD: np.ndarray
    right_P: np.ndarray  # mean over the seeds; NaN where GenEval's six ask nothing
    clip_P: np.ndarray | None = None  # cosine of caption and picture, mean over the seeds


def judge_sets(
    sets: Sequence[Pictures],
    prompts: Sequence[Prompt],
    features: Features,
    label: str,
    clip: Clip | None = None,
) -> Judged:
    """Pictures of the prompts, one set a seed; with a CLIP also how near they are to the text."""
    rows = [extract(features, one.batches(), len(one), f"features of {label}") for one in sets]
    right_P, clip_P = shares_right(*answers(prompts, sets, features.size)), None
    if clip is not None:
        texts_PD = clip.texts([prompt.caption for prompt in prompts])
        near = [(clip.images(np.concatenate([*one.batches()])) * texts_PD).sum(1) for one in sets]
        clip_P = np.mean(near, axis=0)
    return Judged(np.stack(rows, 1), right_P, clip_P)


def shares_right(right_PT: np.ndarray, asked_PT: np.ndarray) -> np.ndarray:
    """Share of GenEval's questions about each caption that were answered right, float64 [P]."""
    six = slice(0, len(TASKS))
    asked_P, right_P = asked_PT[:, six].sum(1), right_PT[:, six].sum(1)
    return np.where(asked_P > 0, right_P / np.maximum(asked_P, 1), np.nan)


def numbers(name: str, one: Judged, reference: Reference, resamples: int) -> dict[str, tuple]:
    """`name.measure` -> (value, low, high) of one cell; diversity where a prompt has two."""
    found = {
        f"{name}.fid": paired.frechet(paired.distance(reference, one.features_PKD, resamples)),
        f"{name}.right": paired.mean(one.right_P),
    }
    flat = one.features_PKD.reshape(-1, one.features_PKD.shape[2])
    precision, recall = precision_recall(reference.features, flat)
    found |= {f"{name}.precision": precision, f"{name}.recall": recall}
    if one.clip_P is not None:
        found[f"{name}.clip"] = paired.mean(one.clip_P)
    if one.features_PKD.shape[1] > 1:
        found[f"{name}.apart"] = paired.mean(spread_of_samples(one.features_PKD))
    return found


def optimum(
    judged: Mapping[float, Judged], reference: Reference, resamples: int
) -> tuple[float, np.ndarray]:
    """The setting of the lowest FID, and that of each resample of the prompts, float64 [R]."""
    settings = list(judged)
    sides = [paired.distance(reference, judged[key].features_PKD, resamples) for key in settings]
    best_R = np.stack([one.draws_R for one in sides]).argmin(0)
    value = settings[int(np.argmin([one.value for one in sides]))]
    return value, np.array(settings, np.float64)[best_R]


def apart_in_steps(
    one_R: np.ndarray, other_R: np.ndarray, settings: Sequence[float], values: tuple[float, float]
) -> tuple[float, float, float]:
    """How many settings of the grid two optima are apart, with its interval over resamples."""
    places = {value: place for place, value in enumerate(settings)}
    draws = [places[a] - places[b] for a, b in zip(one_R, other_R, strict=True)]
    low, high = percentile_interval(np.array(draws, np.float64), LEVEL)
    return float(places[values[0]] - places[values[1]]), float(low), float(high)


def groups_of(samples: int, count: int) -> list[np.ndarray]:
    """Disjoint groups of `count` of so many samples, int64 [count] each; at most `GROUPS`."""
    return [
        np.arange(start, start + count)
        for start in range(0, samples - count + 1, count)
    ][:GROUPS]  # fmt: skip


def mixed_groups(samples: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of a mixed set: half of the samples from each of two ways (A41); of 1 the first's."""
    ours, others = count - count // 2, count // 2
    pairs = []
    for group in range(samples // max(ours, 1)):
        pair = np.arange(ours) + group * ours, np.arange(others) + group * others
        pairs.append(pair)
    return pairs[:GROUPS]


def picks(clip_PK: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """The sample that CLIP finds nearest to its prompt in each group, int64 [G, P]."""
    return np.stack([group[clip_PK[:, group].argmax(1)] for group in groups])


def ratio_of_gains(
    ours: tuple[Distance, Distance], others: tuple[Distance, Distance]
) -> tuple[float, float, float]:
    """How much more the first pair falls from its first to its second: above 1 is more."""
    sides = [paired.quotient(many, few) for few, many in (ours, others)]
    return paired.frechet_ratio(sides[1], sides[0])
