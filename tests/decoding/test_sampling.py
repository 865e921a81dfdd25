"""The decoding functions against plain numpy readings, for all inputs.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cm3leon.decoding import sampling
from cm3leon.decoding.config import DecodeConfig, EditGuidance
from cm3leon.decoding.sampling import (
    choose,
    combine,
    contrast,
    draw,
    guide,
    guide_edit,
    restrict,
    temperature,
    top_k,
    top_p,
)
from cm3leon.errors import UserError

SETTINGS = settings(max_examples=60, deadline=None)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])
HUGE = 1e38  # the last power of ten that bfloat16 and float32 hold
LAST = math.nextafter(1.0, 0.0)
INF = math.inf


def rows(low: float = -30, high: float = 30, holes: bool = False):
    """Logits float64 [B, V] with many ties; with `holes`, some are -inf but never a whole row."""
    value = st.one_of(st.integers(-3, 3).map(float), st.floats(low, high))
    shape = st.tuples(st.integers(1, 3), st.integers(1, 12))
    plain = shape.flatmap(lambda s: hnp.arrays(np.float64, s, elements=value))
    if not holes:
        return plain

    def pierced(logits):
        masks = hnp.arrays(np.bool_, logits.shape)
        return masks.map(lambda mask: np.where(mask & ~mask.all(-1, keepdims=True), -INF, logits))

    return plain.flatmap(pierced)


def softmax(logits_BV: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits_BV - logits_BV.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@given(rows(), st.floats(-10, 10), DTYPES, st.integers(0, 2**31))
@SETTINGS
def test_guide_is_equation_2(cond, weight, dtype, seed):
    cond = torch.tensor(cond).to(dtype)
    free = torch.tensor(np.random.default_rng(seed).normal(size=cond.shape)).to(dtype)
    kept = cond.clone(), free.clone()
    exact = free.double() + weight * (cond.double() - free.double())
    guided = guide(cond, free, weight)
    np.testing.assert_allclose(guided, exact, rtol=1e-5, atol=1e-4)
    assert guided.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (guide(cond, free, 1) == cond).all() and (guide(cond, free, 0) == free).all()
    assert (guide(cond, free, 1.0) == cond).all()
    assert (cond == kept[0]).all() and (free == kept[1]).all()


@given(rows(), st.floats(-5, 5), st.floats(-20, 20), st.floats(-20, 20))
@SETTINGS
def test_guide_ignores_constants(cond, weight, one, two):
    cond = torch.tensor(cond)
    free = cond.flip(-1) * 0.5
    plain = guide(cond, free, weight).softmax(-1)
    np.testing.assert_allclose(
        guide(cond + one, free + two, weight).softmax(-1), plain, rtol=1e-7, atol=1e-7
    )


@given(rows(), DTYPES, st.data())
@SETTINGS
def test_restrict_keeps_a_range(logits, dtype, data):
    logits = torch.tensor(logits).to(dtype)
    start = data.draw(st.integers(0, logits.shape[1] - 1))
    end = data.draw(st.integers(start + 1, logits.shape[1]))
    kept = logits.clone()
    limited = restrict(logits, start, end)
    assert (limited[:, start:end] == logits[:, start:end]).all() and (logits == kept).all()
    assert (limited[:, :start] == -INF).all() and (limited[:, end:] == -INF).all()


@given(rows(holes=True), st.floats(0.05, 20), DTYPES)
@SETTINGS
def test_temperature_divides(logits, value, dtype):
    logits = torch.tensor(logits).to(dtype)
    kept = logits.clone()
    np.testing.assert_allclose(
        temperature(logits, value), logits.double() / value, rtol=1e-6, atol=1e-6
    )
    assert (temperature(logits, 1.0) == kept).all() and (logits == kept).all()


def plain_top_p(logits_V: np.ndarray, mass: float) -> np.ndarray:
    """Which tokens stay: add groups of equal logits, largest first, until the mass is held."""
    probabilities_V, kept_V = softmax(logits_V), np.zeros(len(logits_V), bool)
    for value in np.unique(logits_V)[::-1]:
        kept_V |= logits_V == value
        if math.fsum(probabilities_V[kept_V]) >= mass:
            break
    return kept_V


@given(rows(holes=True), st.floats(1e-9, 1, exclude_max=True), st.integers(1, 5))
@SETTINGS
def test_top_p_looks_further_where_few_tokens_do_not_hold_the_mass(logits, mass, few):
    logits, before = torch.tensor(logits), sampling.FEW
    whole = top_p(logits, mass)
    try:
        sampling.FEW = few
        torch.testing.assert_close(top_p(logits, mass), whole, rtol=0, atol=0)
    finally:
        sampling.FEW = before


@given(rows(holes=True), st.floats(1e-9, 1, exclude_max=True), DTYPES)
@SETTINGS
def test_top_p_is_the_smallest_set(logits, mass, dtype):
    logits = torch.tensor(logits).to(dtype)
    held = logits.double().numpy()
    before = logits.clone()
    found = top_p(logits, mass).double()
    for row in range(len(held)):
        # Rounding may decide the one token at which the sum meets the mass exactly.
        sums = np.cumsum(np.sort(softmax(held[row]))[::-1])
        assume(np.abs(sums - mass).min() > 1e-12)
        kept = plain_top_p(held[row], mass)
        np.testing.assert_array_equal(found[row].numpy(), np.where(kept, held[row], -INF))
        assert softmax(held[row])[kept].sum() >= mass - 1e-12 and kept.any()
    assert (logits == before).all()


def test_top_p_at_its_very_boundary():
    """Half, a quarter, an eighth, an eighth, exactly: a sum that equals the mass is enough."""
    logits = torch.tensor([[0.0, -1.0, -2.0, -2.0]], dtype=torch.float64) * np.log(2)
    assert logits.softmax(-1).tolist() == [[0.5, 0.25, 0.125, 0.125]]
    for mass, kept in ((0.5, 1), (0.5 + 1e-9, 2), (0.75, 2), (0.75 + 1e-9, 4), (0.4, 1)):
        assert int(torch.isfinite(top_p(logits, mass)).sum()) == kept, mass


@given(rows(holes=True), DTYPES)
@SETTINGS
def test_top_p_ends(logits, dtype):
    logits = torch.tensor(logits).to(dtype)
    assert (top_p(logits, 1.0) == logits).all()
    best = logits == logits.amax(-1, keepdim=True)
    assert ((top_p(logits, 1e-300) > -INF) == best).all()
    assert ((top_p(logits, LAST) > -INF) <= (logits > -INF)).all()


@given(rows(holes=True), st.floats(1e-3, 1), st.randoms(use_true_random=False))
@SETTINGS
def test_top_p_does_not_see_the_order_of_tokens(logits, mass, random):
    logits = torch.tensor(logits)
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    shuffled = top_p(logits[:, order], mass)
    # Float64 sums over sorted values: the same numbers in the same order.
    assert (shuffled == top_p(logits, mass)[:, order]).all()


@st.composite
def pairs(draw_from):
    """An expert with holes and an amateur without, float64 [B, V]."""
    expert = draw_from(rows(-20, 20, holes=True))
    amateur = draw_from(
        hnp.arrays(np.float64, expert.shape, elements=st.one_of(st.integers(-3, 3).map(float)))
    )
    return torch.tensor(expert), torch.tensor(amateur)


def plain_contrast(expert_V, amateur_V, alpha: float, k: int) -> tuple[np.ndarray, float]:
    """CD-K by its definition, and how near a token lies to the edge of V."""
    expert, amateur = softmax(expert_V), softmax(amateur_V)
    limit = alpha * np.sort(expert)[::-1][k - 1]
    kept = (expert >= limit) & (expert > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(kept, np.log(expert) - np.log(amateur), -INF)
        edge = np.abs(np.log(expert) - np.log(limit))
    return score, np.nanmin(np.where((expert > 0) & (edge > 0), edge, INF), initial=INF)


@given(pairs(), st.floats(1e-6, 1), st.data())
@SETTINGS
def test_contrast_is_equation_3(pair, alpha, data):
    expert, amateur = pair
    k = data.draw(st.integers(1, expert.shape[1]))
    before = expert.clone(), amateur.clone()
    found = contrast(expert, amateur, alpha, k)
    for row in range(len(expert)):
        wanted, edge = plain_contrast(expert[row].numpy(), amateur[row].numpy(), alpha, k)
        if edge > 1e-9 and alpha < 1:  # rounding decides at the edge
            np.testing.assert_allclose(found[row], wanted, rtol=1e-9, atol=1e-9)
    kept = (found > -INF).sum(-1)
    assert (kept >= (expert > -INF).sum(-1).clamp(max=k)).all()  # at least k, where there are k
    assert (expert == before[0]).all() and (amateur == before[1]).all()


@given(pairs(), st.data())
@SETTINGS
def test_laws_of_contrast(pair, data):
    expert, amateur = pair
    size = expert.shape[1]
    k = data.draw(st.integers(1, size))
    possible = expert > -INF
    # alpha = 1 keeps the k most likely, ties included; alpha -> 0 the whole vocabulary.
    limit = expert.sort(-1, descending=True).values[:, k - 1 : k]
    sharp = contrast(expert, amateur, 1.0, k)
    assert ((sharp > -INF) == ((expert >= limit) & possible)).all()
    loose = contrast(expert, amateur, 1e-300, k) > -INF
    assert (loose == possible).all()
    # A uniform amateur leaves the expert's ranking; equal streams are uniform on V.
    flat = contrast(expert, torch.zeros_like(expert), 0.3, k)
    kept = flat > -INF
    apart = flat - expert.log_softmax(-1)
    for row in range(len(expert)):
        values = apart[row][kept[row]]
        assert (values - values[0]).abs().max() < 1e-9
    same = contrast(expert, expert.clamp(min=-50), 0.3, k).softmax(-1)
    share = kept.double() / kept.sum(-1, keepdim=True)
    np.testing.assert_allclose(same, share, atol=1e-6)
    # Constants in either stream leave the distribution.
    moved = contrast(expert + 3, amateur - 7, 0.3, k).softmax(-1)
    np.testing.assert_allclose(moved, contrast(expert, amateur, 0.3, k).softmax(-1), atol=1e-7)


def test_contrast_by_hand():
    """p_EXP = .5, .3, .15, .05; p_AMA = .25 each, then .7 on the first token."""
    expert = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    flat, first = torch.zeros(1, 4), torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()
    assert contrast(expert, flat, 0.5, 1)[0].isinf().tolist() == [False, False, True, True]
    assert contrast(expert, flat, 0.5, 2)[0].isinf().tolist() == [False, False, False, True]
    assert contrast(expert, flat, 0.5, 4)[0].isinf().tolist() == [False] * 4
    score = contrast(expert, first, 0.5, 1)[0]
    assert score.argmax() == 1 and score[0] == pytest.approx(math.log(0.5 / 0.7))
    colder = contrast(expert, first, 0.5, 1, amateur_temperature=0.5)[0]
    assert colder[0] < score[0] and colder[1] > score[1]


def test_contrast_survives_extremes():
    """bfloat16 logits as far apart as it can hold."""
    expert = torch.tensor([[HUGE, -HUGE, 0.0, -INF]], dtype=torch.bfloat16)
    amateur = torch.tensor([[-HUGE, HUGE, 0.0, 1.0]], dtype=torch.bfloat16)
    found = contrast(expert, amateur, 0.1, 1)
    assert found.dtype == torch.float32 and (found[0] > -INF).tolist() == [
        True,
        False,
        False,
        False,
    ]
    assert not contrast(expert, amateur, 0.1, 3).isnan().any()


@given(rows(holes=True), st.data())
@SETTINGS
def test_top_k_keeps_the_most_likely_and_their_ties(logits, data):
    logits = torch.tensor(logits)
    k = data.draw(st.integers(1, logits.shape[1]))
    kept = top_k(logits, k)
    limit = logits.sort(-1, descending=True).values[:, k - 1 : k]
    assert (kept == logits.where(logits >= limit, -INF)).all()
    assert (top_k(logits, logits.shape[1]) == logits).all()


@given(rows(), st.floats(-3, 8), st.floats(-3, 8), st.integers(0, 9))
@SETTINGS
def test_guidance_with_two_weights(full, image_weight, text_weight, seed):
    generator = torch.Generator().manual_seed(seed)
    full = torch.tensor(full)
    image, free = (torch.randn(full.shape, generator=generator).double() for _ in range(2))
    found = guide_edit(full, image, free, image_weight, text_weight)
    wanted = free + image_weight * (image - free) + text_weight * (full - image)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(guide_edit(full, image, free, 1, 1), full, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(guide_edit(full, image, free, 0, 0), free, atol=1e-9)


def test_the_strategies_compose():
    generator = torch.Generator().manual_seed(0)
    cond, free = (torch.randn(5, 12, generator=generator) for _ in range(2))
    config = DecodeConfig(guidance=3.0, alpha=0.2, k=3, amateur_temperature=0.5)
    assert torch.equal(combine(cond, free, config), guide(cond, free, 3.0))
    assert torch.equal(combine(cond, None, config), cond)
    contrasted = replace(config, strategy="contrast")
    assert torch.equal(combine(cond, free, contrasted), contrast(cond, free, 0.2, 3, 0.5))
    guided = replace(contrasted, guided_expert=True)
    expert = guide(cond, free, 3.0)
    assert torch.equal(combine(cond, free, guided), contrast(expert, free, 0.2, 3, 0.5))
    assert (config.streams, contrasted.streams) == (2, 2)
    assert replace(config, guidance=1.0).streams == 1
    assert replace(contrasted, guidance=1.0).streams == 2


def test_choosing_a_token():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 0.0, -INF, 1.0]])
    last = torch.full((2,), LAST, dtype=torch.float64)
    greedy = DecodeConfig(temperature=0)
    assert choose(logits, last, greedy).tolist() == [1, 0]  # the first of equals
    assert choose(logits, last, DecodeConfig(temperature=1)).tolist() == [3, 3]
    assert choose(logits, last, DecodeConfig(temperature=1, top_k=2)).tolist() == [2, 3]
    assert choose(logits, last, DecodeConfig(temperature=1, top_k=1)).tolist() == [2, 0]
    assert choose(logits, last, DecodeConfig(temperature=1, top_p=0.5)).tolist() == [2, 0]
    with pytest.raises(UserError, match="logits of row 0 hold NaN"):
        choose(logits * math.nan, last, greedy)


def plain_draw(logits_V: np.ndarray, uniform: float) -> tuple[int, float]:
    """The token, and how far the uniform lies from the nearest edge between two tokens."""
    edges = np.cumsum(softmax(logits_V))
    return int(np.searchsorted(edges, uniform, side="right")), np.abs(edges[:-1] - uniform).min(
        initial=1.0
    )


@given(rows(holes=True), st.floats(0, 1, exclude_max=True), DTYPES)
@SETTINGS
def test_draw_is_the_inverse_cdf(logits, uniform, dtype):
    logits = torch.tensor(logits).to(dtype)
    drawn = draw(logits, torch.full((len(logits),), uniform, dtype=torch.float64))
    assert drawn.dtype == torch.int64 and drawn.shape == (len(logits),)
    for row, token in enumerate(drawn.tolist()):
        wanted, gap = plain_draw(logits[row].double().numpy(), uniform)
        assert token == wanted or gap < 1e-12
        assert logits[row, token] > -INF


@given(rows(-HUGE, HUGE, holes=True), st.sampled_from([0.0, 1e-300, 0.5, LAST]), DTYPES)
@SETTINGS
def test_impossible_tokens_are_never_drawn(logits, uniform, dtype):
    logits = torch.tensor(logits).to(dtype)
    drawn = draw(logits, torch.full((len(logits),), uniform, dtype=torch.float64))
    probabilities = logits.double().softmax(-1)
    assert (probabilities.gather(-1, drawn[:, None]) > 0).all()


@pytest.mark.parametrize("uniform", [0.0, 5e-324, 0.25, LAST])
@pytest.mark.parametrize("only", [0, 3, 4095])
def test_one_possible_token_is_always_drawn(uniform, only):
    logits = torch.full((1, 4096), -INF)
    logits[0, only] = -1e30
    assert draw(logits, torch.tensor([uniform], dtype=torch.float64)).item() == only


def test_draw_has_the_right_frequencies():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = draw(probabilities.log().expand(1000, 4), uniforms)
    assert drawn.bincount(minlength=4).tolist() == [500, 0, 300, 200]


def test_the_rows_of_a_draw_are_apart():
    logits = torch.tensor(np.random.default_rng(0).normal(size=(32, 50)))
    uniforms = torch.tensor(np.random.default_rng(1).random(32))
    alone = [draw(logits[i : i + 1], uniforms[i : i + 1]).item() for i in range(32)]
    assert draw(logits, uniforms).tolist() == alone


ONE = torch.zeros(2, 4)
HALF = torch.full((2,), 0.5)
BAD_CALLS = {
    "decode.guidance must be finite, got nan": lambda: guide(ONE, ONE, math.nan),
    r"one shape, got \[2, 4\] and \[2, 3\]": lambda: guide(ONE, ONE[:, :3], 2.0),
    r"ids \[2, 5\) must be a range inside \[0, 4\)": lambda: restrict(ONE, 2, 5),
    r"ids \[2, 2\) must be": lambda: restrict(ONE, 2, 2),
    "decode.temperature must be finite and positive, got 0": lambda: temperature(ONE, 0),
    "decode.temperature .*, got inf": lambda: temperature(ONE, INF),
    r"decode.top_p must lie in \(0, 1\], got 2.0": lambda: top_p(ONE, 2.0),
    r"decode.top_p .*, got 0": lambda: top_p(ONE, 0),
    r"decode.top_p .*, got nan": lambda: top_p(ONE, math.nan),
    "decode.temperature .*, got -1": lambda: temperature(ONE, -1),
    r"decode.alpha must lie in \(0, 1\], got 0": lambda: contrast(ONE, ONE, 0, 1),
    r"decode.alpha .*, got 1.5": lambda: contrast(ONE, ONE, 1.5, 1),
    r"decode.alpha .*, got nan": lambda: contrast(ONE, ONE, math.nan, 1),
    "decode.k must be an integer from 1 to 4, the voc.*, got 0": lambda: contrast(ONE, ONE, 0.5, 0),
    "decode.k must be .*, got 5": lambda: contrast(ONE, ONE, 0.5, 5),
    r"one shape, got \[2, 4\] and \[2, 2\]": lambda: contrast(ONE, ONE[:, :2], 0.5, 1),
    "decode.top_k must be .*, got 5": lambda: top_k(ONE, 5),
    r"uniforms must lie in \[0, 1\), got 1.0": lambda: draw(ONE, torch.ones(2)),
    r"uniforms must lie in \[0, 1\), got nan": lambda: draw(ONE, HALF * math.nan),
    r"one uniform a row, got shape \[3\]": lambda: draw(ONE, torch.zeros(3)),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_mistakes_get_one_line(message):
    with pytest.raises(UserError, match=message) as caught:
        BAD_CALLS[message]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ([0.0, math.nan, 0.0], "NaN"),
        ([0.0, INF, 0.0], r"\+inf"),
        ([-INF, -INF, -INF], "only -inf"),
        ([math.nan, -INF, INF], "NaN"),
    ],
)
@pytest.mark.parametrize("mass", [0.7, 1.0])
def test_broken_logits_are_reported(broken, name, mass):
    logits = torch.tensor([[0.0, 1.0, 2.0], broken])
    with pytest.raises(UserError, match=f"logits of row 1 hold {name}, so no token"):
        draw(top_p(temperature(logits, 0.9), mass), HALF)
    several = torch.stack([torch.zeros(2, 3), logits])  # rows are counted over all axes before V
    with pytest.raises(UserError, match=f"logits of row 3 hold {name}, so no token"):
        draw(several, torch.full((2, 2), 0.5))


def test_streams_are_mixed_by_their_number():
    """One is itself; of two the first is the conditional one; of three an edit's."""
    cond, free, image = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    decode = DecodeConfig(strategy="guide", guidance=3.0)
    torch.testing.assert_close(sampling.mix([cond], decode), cond)
    torch.testing.assert_close(sampling.mix([cond, free], decode), free + 3.0 * (cond - free))
    edit = EditGuidance(image=1.5, text=4.0)
    wanted = free + 1.5 * (image - free) + 4.0 * (cond - image)
    torch.testing.assert_close(sampling.mix([cond, image, free], decode, edit), wanted)


GUIDED = DecodeConfig(strategy="guide", guidance=3.0, temperature=0.7, top_k=9, top_p=0.8)
CONTRASTED = DecodeConfig(strategy="contrast", alpha=0.3, k=2, temperature=0.7, top_p=0.8)
EACH = {  # of two streams of logits and uniforms, all with any axes before their last
    "guide": lambda one, other, uniforms: guide(one, other, 3.0),
    "edit": lambda one, other, uniforms: guide_edit(one, other, one.flip(-1), 1.5, 4.0),
    "contrast": lambda one, other, uniforms: contrast(one, other, 0.3, 2),
    "restrict": lambda one, other, uniforms: restrict(one, 3, 60),
    "temperature": lambda one, other, uniforms: temperature(one, 0.7),
    "top_p": lambda one, other, uniforms: top_p(one, 0.8),
    "top_k": lambda one, other, uniforms: top_k(one, 9),
    "draw": lambda one, other, uniforms: draw(one, uniforms),
    "guided": lambda one, other, uniforms: choose(combine(one, other, GUIDED), uniforms, GUIDED),
    "contrasted": lambda one, other, uniforms: choose(
        combine(one, other, CONTRASTED), uniforms, CONTRASTED
    ),
}


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_apart_on_any_axes_and_half_precision_is_widened_first(name, dtype):
    """Sharp rows beside flat ones, whose nucleus is wider than what is looked at first."""
    function, noise = EACH[name], torch.Generator().manual_seed(0)
    streams = torch.randn(2, 2, 3, 200, generator=noise) * torch.tensor([[0.01], [1], [20]])
    uniforms = torch.rand(2, 3, generator=noise)
    streams = streams.to(dtype)
    found = function(*streams, uniforms)
    assert found.dtype == (torch.int64 if found.ndim == 2 else torch.float32)
    for at in ((k, row) for k in range(2) for row in range(3)):
        rows = streams[:, at[0], at[1]][:, None].float()
        alone = function(*rows, uniforms[at][None])[0]
        torch.testing.assert_close(found[at], alone)
