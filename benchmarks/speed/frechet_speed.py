"""Time of one Fréchet distance from (mu, sigma): ours against the formulas of the peers.

Run: python -m benchmarks.speed.frechet_speed --dims 2048 --threads 1    three minutes at d = 2048
All are timed in one run on the same inputs, in turn; compare the ratios, not the seconds. clean-fid
and torch-fidelity are optional: a peer that is not installed, or fails, is named and left out.
Cases: `full` has 3 d features a side, `deficient` d / 4 (fewer than dimensions).
Shown are medians. One thread: CPU seconds far below the wall's tell of a busy machine.
Expected at d = 2048, full: at least 10 times clean-fid, 2.5 times torch-fidelity.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass

from cm3leon.cli.main import guarded, parse
from cm3leon.errors import UserError
from cm3leon.options import Batch, Count, Threads

BACKENDS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def inputs(dim: int, count: int) -> tuple:
    """(features a, features b) float64 [count, dim]: not negative, few strong directions."""
    import numpy as np

    from cm3leon.seeds import generator

    strong = min(dim, 256)
    basis = generator(0, "basis").standard_normal((strong, dim)) / np.sqrt(strong)
    strength = np.arange(1, strong + 1) ** -0.5

    def side(name: str, shift: float):
        rng = generator(0, name)
        hidden = rng.standard_normal((count, strong)) * strength + shift
        noise = 0.2 * rng.standard_normal((count, dim))
        return 0.4 * np.maximum(hidden @ basis + 0.3 + noise, 0)

    return side("a", 0.0), side("b", 0.1)


def ours() -> Callable:
    from cm3leon.evaluation.statistics.frechet import frechet_distance

    return frechet_distance


def clean_fid() -> Callable:
    from cleanfid.fid import frechet_distance

    return frechet_distance


def torch_fidelity() -> Callable:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    def distance(mu_a, sigma_a, mu_b, sigma_b):
        a, b = {"mu": mu_a, "sigma": sigma_a}, {"mu": mu_b, "sigma": sigma_b}
        return fid_statistics_to_metric(a, b, False)["frechet_inception_distance"]

    return distance


METHODS = {"ours": ours, "torch-fidelity": torch_fidelity, "clean-fid": clean_fid}


def times(
    methods: dict[str, Callable], arguments: tuple, repeats: int
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """(wall, CPU) seconds of every call and the last value, by method; the methods take turns.

    Ours runs `repeats` times, a peer at least once and no longer than about 30 s in all.
    """
    import numpy as np

    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    values: dict[str, float] = {}
    for _ in range(repeats):
        for name, method in methods.items():
            if name != "ours" and sum(wall for wall, _ in seconds[name]) > 30:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            values[name] = float(np.real(method(*arguments)))
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            seconds[name].append(spent)
    return seconds, values


def available() -> dict[str, Callable]:
    """The methods whose package can be imported; the others are named on stderr."""
    found = {}
    for name, load in METHODS.items():
        try:
            found[name] = load()
        except Exception as error:  # also a peer that does not fit its own dependencies
            print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
    return found


def medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    wall, cpu = zip(*pairs, strict=True)
    return statistics.median(wall), statistics.median(cpu)


def compare(dim: int, case: str, repeats: int) -> None:
    """Time one case and print its rows."""
    from cm3leon.evaluation.statistics.frechet import frechet_from_features, moments

    a, b = inputs(dim, 3 * dim if case == "full" else max(2, dim // 4))
    exact = frechet_from_features(a, b)
    methods = available()
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # the peers' own, about sqrtm
        seconds, values = times(methods, (*moments(a), *moments(b)), repeats)
    base = medians(seconds["ours"])[0]
    for name in methods:
        wall, cpu = medians(seconds[name])
        print(
            f"{dim:>5}  {case:<9}  {name:<14}  {wall:>8.3f}  {cpu:>8.3f}  {len(seconds[name]):>4}"
            f"  {wall / base:>11.1f}x  {abs(values[name] - exact):>9.1e}",
            flush=True,
        )


@dataclass(frozen=True)
class Options:
    """Time the Fréchet distance of ours, torch-fidelity and clean-fid on the same inputs."""

    dims: tuple[Batch, ...] = (2048,)
    """dimensions of the features"""
    repeats: Count = 5
    """runs of ours, at least 5; the median is shown"""
    threads: Threads = 1
    """threads of the linear algebra"""

    def __post_init__(self):
        if self.repeats < 5 or self.threads < 1 or not self.dims or min(self.dims) < 2:
            raise UserError(
                f"frechet_speed needs repeats >= 5, threads >= 1, dims >= 2, "
                f"got {self.repeats}, {self.threads}, {self.dims}"
            )


def run(options: Options) -> int:
    """Time every case and print the table; the exit code."""
    threads = str(options.threads)
    if "numpy" in sys.modules and any(os.environ.get(name) != threads for name in BACKENDS):
        raise UserError(f"set {BACKENDS[0]}={threads} before numpy is imported")
    os.environ.update(dict.fromkeys(BACKENDS, threads))
    print("  dim  case       method            wall_s     cpu_s  runs  against ours    |error|")
    for dim in options.dims:
        for case in ("full", "deficient"):
            compare(dim, case, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(parse(Options, None, "frechet_speed"))))
