"""Scaling laws: loss (or FID) against parameters, tokens, compute, retrieval; with intervals.

Every law here is separable: a sum of terms, each a coefficient (>= 0, its sign is the law's) times
a function of the data and of few exponents. For given exponents the coefficients are a non-negative
least-squares problem, so that only the exponents are searched (variable projection, the method with
the smallest worst error in arXiv 2603.22339); the best starts are then polished on the objective of
Hoffmann et al. (arXiv 2203.15556, approach 3): the sum of Huber losses of log predicted - log seen.

Laws
    chinchilla   L(N, D) = E + A / N^alpha + B / D^beta
    bimodal      L(N, D) = (L_i + L_j) / 2 - C + A / N^alpha + B / D^beta, arXiv 2301.03728, eq. 4
    power        y(C) = floor + K / C^gamma: a frontier of loss, or of FID
    retrieval    L(N, D) - C gain(R; eta): logarithmic (arXiv 2604.00715), rivals; the base locked

Shapes: M runs, P coefficients, Q exponents, R resamples. Data are columns by name ("N", "D", ...),
in whatever unit; constants belong to those units. Which parameters N counts is the caller's to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.intervals import percentile_interval

DELTA = 1e-3  # of the Huber loss, as Hoffmann et al. and Besiroglu et al. (arXiv 2404.10102)
POLISHED = 4  # starts of the grid that are polished
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Form:
    """A separable law: its coefficients with their signs, its exponents with the values tried."""

    name: str
    coefficients: tuple[str, ...]
    exponents: Mapping[str, tuple[float, ...]]
    terms: Callable[..., Sequence[np.ndarray]]  # (columns, *exponents) -> P arrays [M]
    needs: tuple[str, ...]  # columns
    signs: tuple[int, ...] = ()
    base: Callable[[Columns], np.ndarray] | None = field(default=None, compare=False)  # locked

    def design(self, columns: Columns, exponents: Sequence[float]) -> np.ndarray:
        """[M, P], signs applied."""
        count = len(columns[self.needs[0]])
        terms = [np.broadcast_to(term, (count,)) for term in self.terms(columns, *exponents)]
        return np.stack(terms, axis=1) * np.array(self.signs or (1,) * len(self.coefficients))

    def offset(self, columns: Columns) -> np.ndarray | float:
        """What is locked, [M]."""
        return self.base(columns) if self.base else 0.0


@dataclass(frozen=True)
class Law:
    """A form with its constants."""

    form: Form
    constants: dict[str, float]
    objective: float = np.nan  # the sum of Huber losses it was fitted to
    runs: int = 0

    def __getitem__(self, name: str) -> float:
        return self.constants[name]

    def __call__(self, **columns) -> np.ndarray:
        """What it predicts, [M], for columns of numbers or arrays of one length."""
        wide = np.broadcast_arrays(*(np.atleast_1d(column) for column in columns.values()))
        return _predict(self.form, dict(zip(columns, wide, strict=True)), self.vector)

    @property
    def vector(self) -> np.ndarray:
        """Coefficients, then exponents, [P + Q]."""
        return np.array([self.constants[name] for name in names(self.form)])


def names(form: Form) -> tuple[str, ...]:
    """Of all constants, coefficients first."""
    return (*form.coefficients, *form.exponents)


EXPONENTS = tuple(np.round(np.geomspace(0.05, 2.0, 16), 4))
CHINCHILLA = Form(
    "chinchilla", ("E", "A", "B"), {"alpha": EXPONENTS, "beta": EXPONENTS},
    lambda x, alpha, beta: (1.0, x["N"] ** -alpha, x["D"] ** -beta), ("N", "D"),
)  # fmt: skip
POWER = Form(
    "power", ("floor", "K"), {"gamma": EXPONENTS}, lambda x, gamma: (1.0, x["C"] ** -gamma), ("C",)
)  # fmt: skip


def bimodal(first: Law, second: Law) -> Form:
    """The law of a mixture of two modalities, given that of each alone (columns N, D_i, D_j)."""

    def mean(x: Columns) -> np.ndarray:
        return (first(N=x["N"], D=x["D_i"]) + second(N=x["N"], D=x["D_j"])) / 2

    return Form(
        "bimodal", ("C", "A", "B"), {"alpha": EXPONENTS, "beta": EXPONENTS},
        lambda x, alpha, beta: (1.0, x["N"] ** -alpha, (x["D_i"] + x["D_j"]) ** -beta),
        ("N", "D_i", "D_j"), (-1, 1, 1), mean,
    )  # fmt: skip


def barrier(law: Law, parameters: float) -> float:
    """Tokens of both modalities from which a mixture of this size beats the mean of the two models
    trained alone (arXiv 2301.03728: A/N^alpha + B/D^beta = C); infinite where it never does.
    """
    room = law["C"] - law["A"] * parameters ** -law["alpha"]
    return float((law["B"] / room) ** (1 / law["beta"])) if room > 0 else float("inf")


GAINS: dict[str, Callable[[Columns, float], np.ndarray]] = {  # of retrieval, times C
    "log": lambda x, eta: np.log1p(eta * x["R"]),
    "power": lambda x, eta: 1 - (1 + x["R"]) ** -eta,
    "hill": lambda x, eta: x["R"] / (eta + x["R"]),
    "log of R / D": lambda x, eta: np.log1p(eta * x["R"] / x["D"]),
}
ETAS = tuple(np.geomspace(1e-6, 1e6, 49))


def retrieval(base: Law, gain: str) -> Form:
    """A law with documents, given the one without (columns N, D, R): base - C gain(R; eta)."""
    if gain not in GAINS:
        raise UserError(f"no gain of retrieval named {gain!r}; there are {', '.join(GAINS)}")
    etas = tuple(np.geomspace(0.01, 5, 25)) if gain == "power" else ETAS
    return Form(
        f"retrieval, {gain}", ("C",), {"eta": etas}, lambda x, eta: (GAINS[gain](x, eta),),
        ("N", "D", "R"), (-1,), lambda x: base(N=x["N"], D=x["D"]),
    )  # fmt: skip


def fit(form: Form, columns: Columns, seen_M, delta: float = DELTA) -> Law:
    """The law that fits best; `columns` hold what the form needs, arrays [M] > 0, `seen_M` > 0.

    Raises UserError for fewer runs than constants, values that are not positive and finite, and
    columns that do not vary.
    """
    columns, seen_M = _checked(form, columns, seen_M)
    starts = sorted(_projections(form, columns, seen_M), key=lambda one: one[0])
    found = [_polished(form, columns, seen_M, start, delta) for _, start in starts[:POLISHED]]
    return min(found, key=lambda law: law.objective)


def bootstrap(
    law: Law,
    columns: Columns,
    seen_M,
    resamples: int = 1000,
    seed: int = 0,
    groups_M: Sequence | None = None,
) -> dict[str, np.ndarray]:
    """Constants of refits to runs drawn with replacement, each [R]: `percentile_interval` of a
    constant, or of any function of them, is its interval over runs. With `groups_M`, a label a run,
    whole groups are drawn: branches of one training are not independent.
    """
    columns, seen_M = _checked(law.form, columns, seen_M)
    groups_M = np.arange(len(seen_M)) if groups_M is None else np.asarray(groups_M)
    if len(groups_M) != len(seen_M):
        raise UserError(f"one group a run is needed, got {len(groups_M)} for {len(seen_M)} runs")
    members = [np.flatnonzero(groups_M == label) for label in np.unique(groups_M)]
    draws, found = seeds.generator(seed, "scaling"), []
    for _ in range(resamples):
        places = draws.integers(len(members), size=len(members))
        rows = np.concatenate([members[place] for place in places])
        drawn = {name: column[rows] for name, column in columns.items()}
        found.append(_polished(law.form, drawn, seen_M[rows], law.vector, DELTA).vector)
    return dict(zip(names(law.form), np.array(found).T, strict=True))


def interval(draws_R: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of draws that may hold infinities."""
    return percentile_interval(np.asarray(draws_R, np.float64), level)


def compute_exponents(law: Law) -> tuple[float, float]:
    """(a, b) of N ~ C^a, D ~ C^b along the optimum of a chinchilla law."""
    total = law["alpha"] + law["beta"]
    return law["beta"] / total, law["alpha"] / total


def optimum(law: Law, flops, flops_per: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) of least loss under flops = `flops_per` N D (a chinchilla law; 2203.15556, eq. 4)."""
    a, b = compute_exponents(law)
    total = law["alpha"] + law["beta"]
    ratio = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / total)
    budget = np.asarray(flops, np.float64) / flops_per
    return ratio * budget**a, budget**b / ratio


def left_out(form: Form, columns: Columns, seen_M, by: str) -> np.ndarray:
    """Relative errors [M] of each run, predicted by a law that never saw runs of its own `by` (a
    column): how rivals are compared out of sample, a size at a time.
    """
    columns, seen_M = _checked(form, columns, seen_M)
    errors_M = np.empty(len(seen_M))
    for value in np.unique(columns[by]):
        out_M = columns[by] == value
        rest = {name: column[~out_M] for name, column in columns.items()}
        own = {name: column[out_M] for name, column in columns.items()}
        law = fit(form, rest, seen_M[~out_M])
        errors_M[out_M] = law(**own) / seen_M[out_M] - 1
    return errors_M


def selections(columns: Columns, by: str) -> dict[str, np.ndarray]:
    """Choices of runs, as masks [M], under which an exponent must hold: all, without the largest,
    without the smallest value of a column.
    """
    column = np.asarray(columns[by], np.float64)
    return {
        "all": np.ones(len(column), bool),
        f"without the largest {by}": column < column.max(),
        f"without the smallest {by}": column > column.min(),
    }


@dataclass(frozen=True)
class Valley:
    """The size of least loss of one budget, in log N, with its standard error."""

    flops: float
    log_size: float
    error: float


def valleys(flops_M, sizes_M, seen_M, resamples: int = 200, seed: int = 0) -> list[Valley]:
    """Minima of the loss over size for every budget (isoFLOP, approach 2): a cubic of log N through
    log loss, which may be lopsided as a parabola may not; errors by redrawing noise of the size of
    the residuals, pooled over budgets (Porian et al., arXiv 2406.19146, redraw seeds' noise).

    Arrays [M]. Budgets whose least loss lies at an end say nothing and are left out. Raises
    UserError where no budget has five sizes.
    """
    flops_M, sizes_M, seen_M = (np.asarray(one, np.float64) for one in (flops_M, sizes_M, seen_M))
    budgets = {}
    for budget in np.unique(flops_M):
        x, y = np.log(sizes_M[flops_M == budget]), np.log(seen_M[flops_M == budget])
        if len(np.unique(x)) >= 5:
            design = np.vander(x - x.mean(), 4)
            budgets[budget] = (x, design, np.linalg.lstsq(design, y, rcond=None)[0], y)
    if not budgets:
        raise UserError("no budget has five sizes or more: a valley needs them; train more sizes")
    freedom = sum(len(y) - 4 for *_, y in budgets.values())
    squares = sum(((y - design @ at) ** 2).sum() for _, design, at, y in budgets.values())
    noise = np.sqrt(squares / freedom) if freedom else 0.0
    draws, found = seeds.generator(seed, "valleys"), []
    for budget, (x, design, at, _) in budgets.items():
        lowest = float(_lowest(x, at[:, None])[0])
        if np.isnan(lowest):
            continue
        again = np.linalg.pinv(design) @ draws.normal(0, noise, (len(x), resamples))
        moved = _lowest(x, at[:, None] + again)
        inside = np.isfinite(moved)
        error = float(moved[inside].std()) if inside.mean() > 0.5 else np.inf
        found.append(Valley(float(budget), lowest, max(error, 1e-9)))
    return found


def _lowest(x: np.ndarray, cubics_4R: np.ndarray) -> np.ndarray:
    """Where each cubic of x - mean has its minimum, [R]; NaN where that is not inside the sizes."""
    third, second, first, _ = cubics_4R
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(second**2 - 3 * third * first)  # of the slope, where it rises
        lowest = x.mean() - first / (second + root)
    return np.where((lowest > x.min()) & (lowest < x.max()), lowest, np.nan)


def valley_exponent(found: Sequence[Valley], level: float = 0.95) -> tuple[float, float, float]:
    """(a, low, high) of N ~ C^a: weighted regression of the valleys' log N on log C, with Student's
    t. Raises UserError for fewer than three valleys.
    """
    from scipy.stats import t

    if len(found) < 3:
        raise UserError(f"{len(found)} budgets have a minimum inside their sizes; three are needed")
    x = np.log([one.flops for one in found])
    y = np.array([one.log_size for one in found])
    weights = np.array([one.error for one in found]) ** -2.0
    mean = np.average(x, weights=weights)
    spread = (weights * (x - mean) ** 2).sum()
    slope = (weights * (x - mean) * y).sum() / spread
    rest = y - np.average(y, weights=weights) - slope * (x - mean)
    freedom = len(found) - 2
    scatter = (weights * rest**2).sum() / freedom
    half = t.ppf(0.5 + level / 2, freedom) * np.sqrt(scatter / spread)
    return float(slope), float(slope - half), float(slope + half)


def _checked(form: Form, columns: Columns, seen_M) -> tuple[dict, np.ndarray]:
    missing = [name for name in form.needs if name not in columns]
    if missing:
        raise UserError(
            f"a {form.name} law needs {', '.join(form.needs)}; {missing[0]!r} is missing"
        )
    columns = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    seen_M = np.asarray(seen_M, np.float64)
    for name, column in (*columns.items(), ("the losses", seen_M)):
        low = column >= 0 if name == "R" else column > 0  # no retrieval is a value too
        if column.shape != seen_M.shape or not (low & np.isfinite(column)).all():
            raise UserError(f"{name} must be {len(seen_M)} finite numbers above 0, got {column!r}")
    if len(seen_M) < (least := len(names(form)) + 1):
        raise UserError(f"{len(seen_M)} runs; a {form.name} law needs at least {least}")
    for name in form.needs:
        if np.ptp(columns[name]) == 0:
            raise UserError(f"all runs have {name} = {columns[name][0]:g}; a law needs several")
    return columns, seen_M


def _predict(form: Form, columns: Columns, vector: np.ndarray) -> np.ndarray:
    width = len(form.coefficients)
    return form.offset(columns) + form.design(columns, vector[width:]) @ vector[:width]


def _projections(form: Form, columns: Columns, seen_M: np.ndarray):
    """(sum of squared relative errors, [P + Q]) at every point of the exponents' grid."""
    from scipy.optimize import nnls

    target_M = (seen_M - form.offset(columns)) / seen_M
    for exponents in itertools.product(*form.exponents.values()):
        design_MP = form.design(columns, exponents) / seen_M[:, None]
        size_P = np.linalg.norm(design_MP, axis=0) + 1e-300
        coefficients_P, rest = nnls(design_MP / size_P, target_M)
        yield rest**2, np.array([*(coefficients_P / size_P), *exponents])


def _polished(form: Form, columns: Columns, seen_M, start: np.ndarray, delta: float) -> Law:
    """The nearest minimum of the sum of Huber losses. Searched are the root mean squares of the
    terms, not their coefficients, which at other exponents are of other sizes.
    """
    from scipy.optimize import least_squares

    width, offset, seen = len(form.coefficients), form.offset(columns), np.log(seen_M)

    def sizes(exponents) -> tuple[np.ndarray, np.ndarray]:
        design_MP = form.design(columns, exponents)
        return design_MP, np.sqrt((design_MP**2).mean(0)) + 1e-300

    def residuals(at: np.ndarray) -> np.ndarray:
        design_MP, size_P = sizes(at[width:])
        return np.log(np.maximum(offset + design_MP @ (at[:width] / size_P), 1e-12)) - seen

    first = start.copy()
    first[:width] *= sizes(start[width:])[1]
    low = np.array([0.0] * width + [values[0] / 4 for values in form.exponents.values()])
    high = np.array([np.inf] * width + [values[-1] * 4 for values in form.exponents.values()])
    found = least_squares(
        residuals, np.clip(first, low, high), bounds=(low, high), loss="huber", f_scale=delta,
        x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=400,
    )  # fmt: skip
    vector = found.x.copy()
    vector[:width] /= sizes(found.x[width:])[1]
    return Law(form, dict(zip(names(form), map(float, vector), strict=True)),
               float(found.cost), len(seen_M))  # fmt: skip
