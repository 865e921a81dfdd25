"""Inception score: its bounds, torchmetrics' numbers, the parts, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from scipy.special import stdtrit

from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import Features
from cm3leon.evaluation.metrics.inception_score import inception_score, measured, parts
from cm3leon.evaluation.sides import Held, Lacking, Sides

NETWORK = Features("inception", "0" * 64, 7, 8, len, logits=lambda x_BD: x_BD)


def logits(seed: int, n: int, k: int = 7, scale: float = 3.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((n, k))


def by_hand(part) -> float:
    p = np.exp(part) / np.exp(part).sum(1, keepdims=True)
    total = 0.0
    for row in p:
        total += sum(q * np.log(q / m) for q, m in zip(row, p.mean(0), strict=True))
    return np.exp(total / len(p))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 30), st.floats(-500, 500))
def test_laws(seed, n, scale, shift):
    x = logits(seed, n, scale=scale)
    value, deviation = inception_score(x, splits=1)
    assert 1 - 1e-9 <= value <= min(n, 7) + 1e-9 and deviation == 0
    moved = x + shift * np.arange(n)[:, None]  # a row's logits are free up to a constant
    assert inception_score(moved, 1)[0] == approx(value, rel=1e-6)
    assert inception_score(x[::-1], 1)[0] == approx(value, rel=1e-9)


def test_sure_and_even_is_the_number_of_classes_and_alike_is_one():
    sure = 1000.0 * np.eye(5)[np.arange(50) % 5]
    assert inception_score(sure, 10) == (approx(5), approx(0))
    assert inception_score(np.tile(logits(0, 1), (20, 1)), 4)[0] == approx(1)
    by_class = np.repeat(1000.0 * np.eye(5), 10, 0)  # every part holds one class
    assert inception_score(by_class, 5)[0] == approx(1)
    assert inception_score(by_class, 5, seed=0)[0] > 3
    assert inception_score(by_class, 5, seed=0) == inception_score(by_class, 5, seed=0)


@pytest.mark.parametrize(("n", "splits"), [(40, 4), (23, 5)])
def test_parts_are_those_of_the_published_code(n, splits):
    x = logits(1, n)
    parts = [x[k * n // splits : (k + 1) * n // splits] for k in range(splits)]
    wanted = [by_hand(part) for part in parts]
    assert inception_score(x, splits) == (approx(np.mean(wanted)), approx(np.std(wanted)))


@pytest.mark.filterwarnings("ignore:Metric .InceptionScore. will save")
def test_equals_torchmetrics():
    torch = pytest.importorskip("torch")
    metric_of = pytest.importorskip("torchmetrics.image.inception").InceptionScore
    metric = metric_of(feature=torch.nn.Identity(), splits=4)
    metric.update(torch.from_numpy(logits(2, 40)))
    state = torch.get_rng_state()
    mean, deviation = metric.compute()
    torch.set_rng_state(state)
    shuffled = logits(2, 40)[torch.randperm(40).numpy()]
    value, spread = inception_score(shuffled, 4)
    assert value == approx(float(mean), rel=1e-9)
    assert spread * np.sqrt(4 / 3) == approx(
        float(deviation), rel=1e-9
    )  # its divisor is splits - 1


@pytest.mark.parametrize(
    ("x", "splits", "message"),
    [
        (logits(0, 3), 4, "must lie in .1, 3., got 4"),
        (logits(0, 3), 0, "got 0"),
        (logits(0, 3, k=1), 1, "2 or more classes, got 1"),
        (np.full((3, 2), np.nan), 1, "row 0 has NaN"),
    ],
)
def test_mistakes(x, splits, message):
    with pytest.raises(UserError, match=message):
        inception_score(x, splits)


def test_parts_are_the_published_code_s():
    """`preds[(i * n // splits):((i + 1) * n // splits)]`: all pictures once, in order."""
    for count, splits in ((50_000, 10), (23, 10), (10, 10), (7, 3)):
        found = [range(count)[part] for part in parts(count, splits)]
        assert [one for part in found for one in part] == list(range(count))
        assert [one.start for one in found] == [i * count // splits for i in range(splits)]


@pytest.mark.parametrize(("count", "splits"), [(40, 10), (20, 10), (19, 9), (4, 2)])
def test_a_run_has_ten_parts_or_as_many_as_have_two_pictures(count, splits):
    sides = Sides(None, [Held(logits(seed, count)) for seed in range(2)], NETWORK)
    value, low, high = measured(sides)["inception_score"]
    each = [inception_score(one.features_ND, splits) for one in sides.fakes]
    assert value == approx(np.mean([mean for mean, _ in each])) and low < value < high
    one = measured(replace(sides, fakes=sides.fakes[:1]))["inception_score"]
    half = stdtrit(splits - 1, 0.975) * each[0][1] / np.sqrt(splits - 1)  # Student's t
    assert one == approx((each[0][0], each[0][0] - half, each[0][0] + half))


def test_without_classes_or_pictures_there_is_none():
    with pytest.raises(Lacking, match="a network with classes, not plain"):
        measured(Sides(None, [Held(logits(0, 40))], replace(NETWORK, name="plain", logits=None)))
    with pytest.raises(Lacking, match="more pictures"):
        measured(Sides(None, [Held(logits(0, 3))], NETWORK))
