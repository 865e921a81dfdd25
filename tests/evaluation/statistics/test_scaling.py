"""Scaling laws against planted constants, closed forms and each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.scaling import (
    CHINCHILLA,
    GAINS,
    POWER,
    Law,
    barrier,
    bimodal,
    bootstrap,
    compute_exponents,
    fit,
    interval,
    left_out,
    optimum,
    retrieval,
    selections,
    valley_exponent,
    valleys,
)

PUBLISHED = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}  # 2203.15556


def plan(sizes=8, budgets=6) -> dict[str, np.ndarray]:
    """Runs of the ladder's shape: every size at every budget that gives it a sensible length."""
    n, c = (one.ravel() for one in np.meshgrid(np.geomspace(1e5, 1e7, sizes),
                                               np.geomspace(1e12, 3e14, budgets)))  # fmt: skip
    d = c / 6 / n
    kept = (d > 2e5) & (d < 1e9)
    return {"N": n[kept], "D": d[kept], "C": c[kept]}


RUNS = plan()


def chinchilla(E, A, B, alpha, beta) -> np.ndarray:
    return E + A / RUNS["N"] ** alpha + B / RUNS["D"] ** beta


def noisy(values: np.ndarray, seed: int, sigma: float = 0.005) -> np.ndarray:
    return values * np.exp(np.random.default_rng(seed).normal(0, sigma, len(values)))


@pytest.mark.parametrize(
    "planted",
    [PUBLISHED, {"E": 1.817, "A": 482.0, "B": 2085.4, "alpha": 0.348, "beta": 0.366},
     {"E": 0.5, "A": 30.0, "B": 9000.0, "alpha": 0.2, "beta": 0.6}],
    ids=["Hoffmann", "Besiroglu", "lopsided"],
)  # fmt: skip
def test_planted_constants_come_back(planted):
    law = fit(CHINCHILLA, RUNS, chinchilla(**planted))
    for name, value in planted.items():
        assert law[name] == pytest.approx(value, rel=0.01), name


@given(st.floats(0.15, 0.7), st.floats(0.15, 0.7), st.floats(0.3, 3.0))
def test_the_optimum_is_where_the_loss_is_least(alpha, beta, floor):
    """The closed form against a search along the budget."""
    law = Law(CHINCHILLA, {"E": floor, "A": 400.0, "B": 900.0, "alpha": alpha, "beta": beta})
    budget = 1e15
    n, d = optimum(law, budget)
    assert 6 * n * d == pytest.approx(budget)
    sizes = n * np.geomspace(0.5, 2, 201)
    losses = law(N=sizes, D=budget / 6 / sizes)
    assert losses.argmin() == 100
    a, b = compute_exponents(law)
    assert a + b == pytest.approx(1)
    assert optimum(law, 100 * budget)[0] / n == pytest.approx(100**a)


def test_outliers_hardly_move_it():
    """The Huber loss on log loss: a run that failed is not the law's business."""
    seen = chinchilla(**PUBLISHED)
    seen[3] *= 1.5
    law = fit(CHINCHILLA, RUNS, seen)
    assert law["alpha"] == pytest.approx(0.34, abs=0.01)
    assert law["beta"] == pytest.approx(0.28, abs=0.01)


def test_no_start_of_the_grid_is_better():
    """Two routes: variable projection, and log-sum-exp from the published starts (scipy's BFGS)."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    seen = np.log(noisy(chinchilla(**PUBLISHED), 0))
    n, d = np.log(RUNS["N"]), np.log(RUNS["D"])

    def objective(at):
        a, b, e, alpha, beta = at
        rest = logsumexp([a - alpha * n, b - beta * d, np.full_like(n, e)], axis=0) - seen
        size = np.abs(rest)
        return np.where(size <= 1e-3, rest**2 / 2, 1e-3 * (size - 5e-4)).sum()

    starts = [
        (a, b, e, x, x) for a in (5, 10) for b in (5, 10) for e in (0, 0.5) for x in (0.3, 0.5)
    ]
    best = min(
        (minimize(objective, at, method="Nelder-Mead",
                  options={"maxiter": 4000, "maxfev": 4000, "xatol": 1e-7, "fatol": 1e-12})
         for at in starts[:6]), key=lambda found: found.fun)  # fmt: skip
    law = fit(CHINCHILLA, RUNS, np.exp(seen))
    assert law.objective <= best.fun * (1 + 1e-6)
    own = objective(
        [np.log(law["A"]), np.log(law["B"]), np.log(law["E"]), law["alpha"], law["beta"]]
    )
    assert own == pytest.approx(law.objective, rel=1e-6)  # the same objective


def covers(form, columns, truth, repetitions, resamples, constants):
    """Share of noisy repetitions whose 95 % interval holds each constant."""
    hits = dict.fromkeys(constants, 0)
    for repetition in range(repetitions):
        seen = noisy(truth, 1000 + repetition)
        draws = bootstrap(fit(form, columns, seen), columns, seen, resamples, repetition)
        for name, value in constants.items():
            low, high = interval(draws[name])
            hits[name] += low <= value <= high
    return {name: hit / repetitions for name, hit in hits.items()}


@pytest.mark.full
def test_intervals_cover_what_was_planted():
    found = covers(CHINCHILLA, RUNS, chinchilla(**PUBLISHED), 300, 150,
                   {name: PUBLISHED[name] for name in ("E", "alpha", "beta")})  # fmt: skip
    assert all(0.92 <= share <= 0.98 for share in found.values()), found


def test_a_power_law_with_a_floor_and_its_interval():
    c = np.geomspace(1e12, 1e15, 24)
    truth = 4.0 + 3e4 * c**-0.25
    law = fit(POWER, {"C": c}, truth)
    assert law.constants == pytest.approx({"floor": 4.0, "K": 3e4, "gamma": 0.25}, rel=0.01)
    seen = noisy(truth, 5, 0.02)
    draws = bootstrap(fit(POWER, {"C": c}, seen), {"C": c}, seen, 100)
    low, high = interval(draws["gamma"])
    assert low < 0.25 < high and high - low < 0.2


def modalities():
    """Laws of two modalities, and runs of their mixture at one share and at another."""
    text = Law(CHINCHILLA, {"E": 1.7, "A": 90.0, "B": 120.0, "alpha": 0.3, "beta": 0.3})
    image = Law(CHINCHILLA, {"E": 0.4, "A": 30.0, "B": 50.0, "alpha": 0.25, "beta": 0.28})
    n, d = (
        one.ravel() for one in np.meshgrid(np.geomspace(1e5, 1e7, 7), np.geomspace(1e7, 1e9, 6))
    )
    return text, image, {"N": n, "D_i": 0.3 * d, "D_j": 0.7 * d}


PAIR = {"C": 0.3, "A": 20.0, "B": 80.0, "alpha": 0.37, "beta": 0.32}


def test_the_bimodal_law_and_its_barrier():
    text, image, x = modalities()
    form = bimodal(text, image)
    law = fit(form, x, Law(form, PAIR)(**x))
    assert law.constants == pytest.approx(PAIR, rel=0.01)
    tokens = barrier(law, 1e6)
    share = {"N": 1e6, "D_i": 0.3 * tokens, "D_j": 0.7 * tokens}
    mean = (text(N=1e6, D=share["D_i"]) + image(N=1e6, D=share["D_j"])) / 2
    assert law(**share) == pytest.approx(mean)  # neither wins there
    more = {"N": 1e6, "D_i": 0.6 * tokens, "D_j": 1.4 * tokens}
    assert law(**more) < (text(N=1e6, D=more["D_i"]) + image(N=1e6, D=more["D_j"])) / 2
    assert barrier(law, 1e3) == np.inf  # too small: competition for capacity alone is more than C


@pytest.mark.full
def test_intervals_of_the_bimodal_law_cover():
    text, image, x = modalities()
    form = bimodal(text, image)
    found = covers(
        form, x, Law(form, PAIR)(**x), 300, 150, {name: PAIR[name] for name in ("C", "beta")}
    )
    assert all(0.92 <= share <= 0.98 for share in found.values()), found


ETA = {"log": 50.0, "power": 0.6, "hill": 0.02, "log of R / D": 1e5}


def retrieved(gain: str) -> tuple[Law, dict[str, np.ndarray], np.ndarray]:
    base = Law(CHINCHILLA, PUBLISHED)
    n, d, r = (one.ravel() for one in np.meshgrid(
        np.geomspace(1e5, 1e7, 6), np.geomspace(1e8, 1e10, 5), [0, 0.01, 0.1, 1, 10]))  # fmt: skip
    x = {"N": n, "D": d, "R": r}
    size = {"log": 0.05, "power": 0.3, "hill": 0.3, "log of R / D": 1e3}[gain]
    if gain == "log of R / D":
        size = 0.3 / np.log1p(ETA[gain] * (r / d).max())
    return base, x, Law(retrieval(base, gain), {"C": size, "eta": ETA[gain]})(**x)


@pytest.mark.parametrize("gain", GAINS)
def test_laws_of_retrieval_are_told_apart_out_of_sample(gain):
    """Data of each: the law that made them predicts sizes it has not seen best."""
    base, x, truth = retrieved(gain)
    seen = noisy(truth, 3, 2e-4)
    errors = {rival: np.sqrt((left_out(retrieval(base, rival), x, seen, "N") ** 2).mean())
              for rival in GAINS}  # fmt: skip
    assert min(errors, key=errors.get) == gain, errors
    law = fit(retrieval(base, gain), x, truth)
    assert law["eta"] == pytest.approx(ETA[gain], rel=0.02)


def lattice() -> dict[str, np.ndarray]:
    c, n = (one.ravel() for one in np.meshgrid(np.geomspace(1e13, 1e16, 7), np.ones(9)))
    law = Law(CHINCHILLA, PUBLISHED)
    n = optimum(law, c)[0] * np.repeat(np.geomspace(0.25, 4, 9), 7)
    return {"C": c, "N": n, "L": law(N=n, D=c / 6 / n)}


def test_valleys_lie_where_the_law_has_them():
    runs = lattice()
    found = valleys(runs["C"], runs["N"], runs["L"])
    law = Law(CHINCHILLA, PUBLISHED)
    for one in found:
        assert np.exp(one.log_size) == pytest.approx(optimum(law, one.flops)[0], rel=0.05)
    a, low, high = valley_exponent(found)
    assert a == pytest.approx(compute_exponents(law)[0], rel=0.01) and low <= a <= high


def valley_coverage(repetitions: int) -> float:
    runs, a = lattice(), compute_exponents(Law(CHINCHILLA, PUBLISHED))[0]
    hits = 0
    for repetition in range(repetitions):
        seen = noisy(runs["L"], repetition, 0.003)
        _, low, high = valley_exponent(valleys(runs["C"], runs["N"], seen, 100, repetition))
        hits += low <= a <= high
    return hits / repetitions


def test_the_exponent_s_interval_covers():
    """300 noisy repetitions: nominal coverage within its sampling error."""
    assert 0.92 <= valley_coverage(300) <= 0.98


def test_choices_of_runs():
    found = selections(RUNS, "N")
    assert found["all"].all()
    assert not found["without the largest N"][RUNS["N"] == RUNS["N"].max()].any()
    assert found["without the smallest N"].sum() == (RUNS["N"] > RUNS["N"].min()).sum()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit(CHINCHILLA, {"N": RUNS["N"]}, RUNS["N"]), "needs N, D; 'D' is missing"),
        (lambda: fit(CHINCHILLA, {"N": [1, 2, 3, 4, 5], "D": [1, 2, 3, 4, 5]}, [1] * 5),
         "5 runs; a chinchilla law needs at least 6"),
        (lambda: fit(CHINCHILLA, RUNS, RUNS["N"] * np.nan), "must be .* finite numbers above 0"),
        (lambda: fit(POWER, {"C": [7.0] * 9}, [1.0] * 9), "all runs have C = 7"),
        (lambda: retrieval(Law(CHINCHILLA, PUBLISHED), "magic"), "no gain of retrieval"),
        (lambda: valleys([1, 1, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1]), "no budget has five sizes"),
        (lambda: valley_exponent([]), "0 budgets have a minimum inside their sizes"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_one_line(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_branches_of_a_training_are_resampled_together():
    """What a training's branches share widens the interval by the root of how many they are; groups
    of one are the plain bootstrap.
    """
    c = np.repeat(np.geomspace(1e11, 1e14, 24), 4)
    shared = np.repeat(np.random.default_rng(3).normal(0, 0.03, 24), 4)
    seen = (0.4 + 3e4 / c**0.4) * np.exp(shared)
    law = fit(POWER, {"C": c}, seen)
    spread = {
        name: bootstrap(law, {"C": c}, seen, 80, groups_M=groups)["gamma"]
        for name, groups in (("none", None), ("alone", range(96)), ("four", np.arange(96) // 4))
    }
    np.testing.assert_array_equal(spread["none"], spread["alone"])
    assert 1.4 < spread["four"].std() / spread["none"].std() < 2.8
    with pytest.raises(UserError, match="one group a run is needed, got 3 for 96 runs"):
        bootstrap(law, {"C": c}, seen, 2, groups_M=[1, 2, 3])
