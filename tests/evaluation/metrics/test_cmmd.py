"""CMMD: the published formula, its laws, blocks that cannot be seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from cm3leon.errors import UserError
from cm3leon.evaluation.metrics import cmmd as module
from cm3leon.evaluation.metrics.cmmd import cmmd


def unit(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, 8)) + shift
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def published(x, y) -> float:
    """As the paper's code has it: gamma = 1 / (2 * 10^2), means over all pairs, times 1,000."""

    def kernel(a, b):
        return np.exp(-(np.square(a[:, None] - b[None]).sum(-1)) / 200).mean()

    return 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.floats(-2, 2))
def test_is_the_published_formula(seed, n, m, shift):
    x, y = unit(seed, n), unit(seed + 1, m, shift)
    value = cmmd(x, y)
    assert value == approx(published(x, y), abs=1e-9)
    assert value >= -1e-12 and cmmd(y, x) == approx(value, abs=1e-12)
    assert cmmd(x, x) == approx(0, abs=1e-12)


def test_equals_the_closed_form_of_two_points():
    """One vector a side at distance r: 1000 (2 - 2 exp(-r^2 / 200))."""
    x, y = np.array([[3.0, 0.0]]), np.array([[0.0, 4.0]])
    assert cmmd(x, y) == approx(2000 * (1 - np.exp(-25 / 200)), rel=1e-12)
    assert cmmd(x, y, sigma=5, scale=1) == approx(2 * (1 - np.exp(-25 / 50)), rel=1e-12)


def test_blocks_cannot_be_seen(monkeypatch):
    x, y = unit(0, 50), unit(1, 40, 0.3)
    whole = cmmd(x, y)
    monkeypatch.setattr(module, "ROWS", 7)
    assert cmmd(x, y) == approx(whole, rel=1e-12)
    assert cmmd(x.astype(np.float32), y) == approx(whole, rel=1e-5)


def test_small_differences_keep_their_digits():
    """The kernel of near vectors is nearly 1: the ones are left out before sums are made."""
    x = unit(0, 4)
    near = x + 1e-6
    inner = np.square(x[:, None] - x[None]).sum(-1)
    outer = np.square(x[:, None] - near[None]).sum(-1)
    wanted = 1000 * 2 * (np.expm1(-inner / 200).mean() - np.expm1(-outer / 200).mean())
    assert cmmd(x, near) == approx(wanted, rel=0.05, abs=1e-13)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (unit(0, 3), unit(0, 3)[:, :5], {}, "one dimension, got 8 and 5"),
        (unit(0, 3), np.zeros((0, 8)), {}, "got 3 and 0"),
        (np.zeros((0, 8)), unit(0, 3), {}, "got 0 and 3"),
        (unit(0, 3), unit(0, 3), {"sigma": 0}, "sigma must be above 0"),
        (unit(0, 3), unit(0, 3), {"sigma": -0.5}, "sigma must be above 0"),
        (unit(0, 3) * np.nan, unit(0, 3), {}, "row 0 has NaN"),
    ],
)
def test_mistakes(x, y, options, message):
    with pytest.raises(UserError, match=message):
        cmmd(x, y, **options)
