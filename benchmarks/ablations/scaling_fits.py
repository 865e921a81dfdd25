"""From the points of a sweep to laws with intervals; pure.

A point is what `scaling_runs.losses` says; columns are N (all parameters), D (tokens read) and C
(FLOPs by 6ND), the loss that is fitted `LOSS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics import scaling

LOSS = "held_out_loss"
LEVEL = 0.95
COLUMNS = {"N": "parameters", "D": "tokens", "C": "flops"}


def columns_of(points: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """N, D, C of points, [M] each."""
    return {name: np.array([one[key] for one in points], float) for name, key in COLUMNS.items()}


def laws(points: Sequence[Mapping], resamples: int) -> tuple[dict, list[str], np.ndarray]:
    """Numbers of the laws of one arm, (value, low, high) or one value each; why one lacks; and the
    resamples of `loss_exponent`, [R].

    `loss_exponent` is gamma of L - E ~ C^-gamma along the optimum of Chinchilla's law, alpha beta /
    (alpha + beta); `size_exponent` a of N ~ C^a. Raises UserError for too few points.
    """
    columns, seen_M = columns_of(points), np.array([one[LOSS] for one in points])
    law = scaling.fit(scaling.CHINCHILLA, columns, seen_M)
    groups_M = trainings(points)
    draws = scaling.bootstrap(law, columns, seen_M, resamples, groups_M=groups_M)
    found = {f"chinchilla_{name}": around(law[name], draws[name]) for name in draws}
    total_R = draws["alpha"] + draws["beta"]
    a, _ = scaling.compute_exponents(law)
    gamma_R = draws["alpha"] * draws["beta"] / total_R
    found["loss_exponent"] = around(a * law["alpha"], gamma_R)
    found["size_exponent"] = around(a, draws["beta"] / total_R)
    lacking = []
    for name, more in (("left out", left_out), ("isoFLOP", iso_flop), ("selection", selected)):
        try:
            found |= more(points, columns, seen_M)
        except UserError as error:
            lacking.append(f"{name}: {error}")
    return found, lacking, gamma_R


def trainings(points: Sequence[Mapping]) -> list[str] | None:
    """The training that each point is a branch of, to be resampled whole; None where some size has
    one seed, so that its only training could not be left out.
    """
    seeds: dict[str, set[int]] = {}
    for one in points:
        seeds.setdefault(one["size"], set()).add(one["seed"])
    if min(map(len, seeds.values())) < 2:
        return None
    return [f"{one['size']}-{one['seed']}" for one in points]


def around(value: float, draws_R: np.ndarray) -> tuple[float, float, float]:
    """A value with the percentile interval of its resamples, widened to the value where all of them
    lie on one side of it, as those of a fit may.
    """
    low, high = scaling.interval(draws_R, LEVEL)
    return value, min(low, value), max(high, value)


def left_out(points, columns: Mapping, seen_M: np.ndarray) -> dict:
    """The mean relative error of sizes that the law never saw."""
    errors_M = scaling.left_out(scaling.CHINCHILLA, columns, seen_M, "N")
    return {"left_out_error": float(np.abs(errors_M).mean())}


def selected(points, columns: Mapping, seen_M: np.ndarray) -> dict:
    """The exponent of loss without the largest and without the smallest size."""
    found = {}
    for name, kept_M in scaling.selections(columns, "N").items():
        if kept_M.all():
            continue
        law = scaling.fit(
            scaling.CHINCHILLA, {k: v[kept_M] for k, v in columns.items()}, seen_M[kept_M]
        )
        a, _ = scaling.compute_exponents(law)
        found[f"loss_exponent_{name.split()[2]}_left_out"] = a * law["alpha"]
    return found


def iso_flop(points, columns: Mapping, seen_M: np.ndarray) -> dict:
    """The exponent of N along the valleys of equal budgets, and each valley's size."""
    budgets_M = np.array([one["budget"] for one in points], float)
    found = scaling.valleys(budgets_M, columns["N"], seen_M)
    sizes = {f"valley_{at}": float(np.exp(one.log_size)) for at, one in enumerate(found)}
    return {"size_exponent_isoflop": scaling.valley_exponent(found, LEVEL)} | sizes


def gains(plain: Sequence[Mapping], documents: Sequence[Mapping]) -> dict[str, float]:
    """Laws with retrieval on top of the plain one, compared on sizes left out: mean relative error
    of each, its C and eta. D counts a query's own tokens, R those of its documents.
    """
    base = scaling.fit(
        scaling.CHINCHILLA, columns_of(plain), np.array([one[LOSS] for one in plain])
    )
    pair = np.mean([one["tokens"] / one["queries"] for one in plain])
    columns = columns_of(documents)
    own_M = pair * np.array([one["queries"] for one in documents], float)
    columns |= {"R": np.maximum(columns["D"] - own_M, 0.0), "D": own_M}
    seen_M, found = np.array([one[LOSS] for one in documents]), {}
    for gain in scaling.GAINS:
        form = scaling.retrieval(base, gain)
        law = scaling.fit(form, columns, seen_M)
        errors_M = scaling.left_out(form, columns, seen_M, "N")
        name = f"retrieval_{gain.replace(' / ', '_over_').replace(' ', '_')}"
        found |= {f"{name}_{key}": law[key] for key in ("C", "eta")}
        found[f"{name}_left_out_error"] = float(np.abs(errors_M).mean())
    return found
