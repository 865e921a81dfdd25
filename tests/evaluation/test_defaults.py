"""Constants that a number is made with: the published ones, and ours, on which records hang.

Another value is another measure: it needs a new version of the benchmarks that tell the number.
"""

import inspect

import pytest

from cm3leon.evaluation.metrics import (
    clip_score,
    cmmd,
    composition,
    copying,
    fid,
    impossible,
    inception_score,
    kid,
    precision_recall,
)
from cm3leon.evaluation.statistics import intervals, paired, significance
from cm3leon.retrieval import select

DEFAULTS = {
    cmmd.cmmd: {"sigma": 10.0, "scale": 1000.0},  # Jayasumana et al. 2024, section 4
    inception_score.inception_score: {"splits": 10, "seed": None},  # Salimans et al. 2016
    kid.kid: {"subsets": 100, "subset_size": None, "seed": 0},  # Binkowski et al. 2018
    precision_recall.precision_recall: {"k": 3},  # Kynkaanniemi et al. 2019
    composition.composition: {"resamples": 1000, "level": 0.95},
    copying.copies: {"share": 0.05},
    impossible.never_in: {"common": 150},
    impossible.columns_of: {"pictures": 4000},
    intervals.percentile_interval: {"level": 0.95},
    intervals.bootstrap_interval: {"resamples": 1000, "seed": 0, "level": 0.95, "clusters": None},
    intervals.bootstrap_draws: {"resamples": 1000, "seed": 0, "clusters": None},
    intervals.frechet_interval: {"level": 0.95, "resample_real": False},
    intervals.spread_of: {"level": 0.95},
    intervals.extrapolated_frechet: {"resamples": 200, "seed": 0, "level": 0.95},
    intervals.frechet_at: {"seed": 0},
    intervals.seed_interval: {"level": 0.95},
    intervals.mean_interval: {"level": 0.95},
    intervals.binomial_interval: {"level": 0.95},
    paired.mean: {"resamples": 1000},
    paired.mean_difference: {"resamples": 1000},
    paired.distance: {"resamples": 200},
    paired.mean_distance: {"resamples": 200},
    significance.paired_difference: {"resamples": 1000, "seed": 0, "clusters": None},
    significance.difference_p: {"level": 0.95},
    significance.effect_p: {"ratio": False},
    significance.smallest_effect: {"level": 0.95, "power": 0.8, "ratio": False},
}
CONSTANTS = {
    clip_score: {"WEIGHT": 2.5},  # Hessel et al. 2021, equation 1
    kid: {"SUBSET": 1000, "ROWS": 5000},
    inception_score: {"SPLITS": 10},
    precision_recall: {"NEIGHBOUR": 3, "ROWS": 5000},
    cmmd: {"PICTURES": 30_000},
    fid: {"LEVEL": 0.95, "SIZES": (5000, 10_000, 20_000)},
    paired: {"LEVEL": 0.95},
    select: {"WIDEST": 2**14},  # a query that finds too few among so many is refused
}


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda one: one.__name__)
def test_defaults(function):
    given = inspect.signature(function).parameters.values()
    found = {one.name: one.default for one in given if one.default is not one.empty}
    found.pop("statistic", None)  # the mean
    assert found == DEFAULTS[function]


@pytest.mark.parametrize("module", CONSTANTS, ids=lambda one: one.__name__.rpartition(".")[2])
def test_constants(module):
    assert {name: getattr(module, name) for name in CONSTANTS[module]} == CONSTANTS[module]
