"""A draw in one call gives the ids of sampling.choose, and its errors."""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.decoding import sampling
from cm3leon.decoding.config import OF_STREAMS, DecodeConfig
from cm3leon.decoding.loop import Decoder
from cm3leon.engine import cpu_sample
from cm3leon.engine.cpu_sample import compiled, draw
from cm3leon.errors import UserError
from cm3leon.seeds import torch_generator
from tests.decoding.test_text import MODEL, VOCABULARY

needs_compiler = pytest.mark.skipif(compiled() is None, reason="no C compiler here")


def decoder(**settings) -> Decoder:
    return Decoder(MODEL, VOCABULARY, DecodeConfig(**settings))


EDGES = (0.0, 5e-324, 0.25, 0.5, 1 - 2**-53)


def drawn_logits(seed: int, rows: int, size: int, spread: float, kind: str) -> torch.Tensor:
    """Random logits: plain, with many ties, or with impossible ids."""
    generator = torch_generator(seed, "logits")
    logits_BV = spread * torch.randn(rows, size, generator=generator)
    if kind == "ties":
        return (logits_BV * 2).round() / 2  # -0 and 0 among them
    if kind == "impossible":
        kept_BV = torch.rand(rows, size, generator=generator) < 0.5
        kept_BV[:, seed % size] = True
        return logits_BV.where(kept_BV, -torch.inf)
    return logits_BV


@needs_compiler
@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**20),
    rows=st.integers(1, 5),
    size=st.sampled_from([1, 2, 3, 63, 64, 65, 200, 1024]),
    spread=st.sampled_from([0.0, 0.1, 2.0, 30.0, 1e4]),
    kind=st.sampled_from(["plain", "ties", "impossible"]),
    temperature=st.floats(0.05, 4.0),
    top_k=st.one_of(st.none(), st.integers(1, 1024)),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 1e-9]),
    edge=st.sampled_from(EDGES),
)
def test_the_ids_of_decode(seed, rows, size, spread, kind, temperature, top_k, top_p, edge):
    logits_BV = drawn_logits(seed, rows, size, spread, kind)
    uniforms_B = torch.rand(rows, generator=torch_generator(seed, "u"), dtype=torch.float64)
    uniforms_B[0] = edge
    top_k = None if top_k is None else min(top_k, size)
    config = DecodeConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    before_BV = logits_BV.clone()
    found_B = draw(logits_BV, uniforms_B, **config.sampling)
    assert torch.equal(logits_BV, before_BV)
    wanted_B = sampling.choose(logits_BV, uniforms_B, config)
    for row in (found_B != wanted_B).nonzero()[:, 0].tolist():
        assert on_an_edge(logits_BV[row], uniforms_B[row], config, found_B[row], wanted_B[row])


def on_an_edge(logits_V, uniform, config, found, wanted) -> bool:
    """Whether two ids differ by rounding alone: a sum that meets its bound to 1e-12."""
    scaled_V = sampling.temperature(logits_V, config.temperature)
    shares_V = scaled_V.softmax(-1, dtype=torch.float64)
    if config.top_k is not None:
        limit = scaled_V.topk(config.top_k).values[-1]
        shares_V = shares_V.where(scaled_V >= limit, 0)
        shares_V = shares_V / shares_V.sum()
    sums_V = shares_V[scaled_V.argsort(descending=True)].cumsum(-1)
    if config.top_p < 1 and ((sums_V - config.top_p).abs() < 1e-12).any():
        return True  # another nucleus
    low, high = sorted([int(found), int(wanted)])
    kept_V = sampling.top_p(scaled_V.where(shares_V > 0, -torch.inf), config.top_p)
    cdf_V = kept_V.softmax(-1, dtype=torch.float64).cumsum(-1)
    return bool(((cdf_V[low:high] - uniform).abs() < 1e-12).all())


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_strides_do_not_matter(threads):
    logits_BV = torch.randn(700, 7, generator=torch_generator(0, "t")).t()
    uniforms_B = torch.rand(7, 2, generator=torch_generator(0, "u"), dtype=torch.float64)[:, 0]
    config = DecodeConfig(temperature=1.0, top_p=0.9)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found_B = draw(logits_BV, uniforms_B, **config.sampling)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found_B, sampling.choose(logits_BV, uniforms_B, config))


@needs_compiler
def test_the_share_of_each_id():
    """Ids come as often as the nucleus says: a grid of uniforms is an exact count."""
    logits_V = torch.tensor([2.0, -torch.inf, 0.0, 1.0, 0.0])
    count = 100_000
    grid_B = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    config = DecodeConfig(temperature=1.0, top_p=0.8)
    ids_B = draw(logits_V.expand(count, -1), grid_B, **config.sampling)
    shares_V = ids_B.bincount(minlength=5) / count
    wanted = math.exp(2) / (math.exp(2) + math.exp(1))
    torch.testing.assert_close(
        shares_V, torch.tensor([wanted, 0, 0, 1 - wanted, 0]), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("row", "uniform", "why"),
    [
        ([0.0, math.nan], 0.5, "row 1 hold NaN"),
        ([0.0, math.inf], 0.5, r"row 1 hold \+inf"),
        ([-math.inf, -math.inf], 0.5, "row 1 hold only -inf"),
        ([0.0, 1.0], 1.0, r"lie in \[0, 1\), got 1.0"),
        ([0.0, 1.0], -0.1, r"lie in \[0, 1\), got -0.1"),
        ([0.0, 1.0], math.nan, r"lie in \[0, 1\), got nan"),
    ],
)
def test_rows_that_cannot_be_drawn_from(row, uniform, why):
    logits_BV = torch.tensor([[0.0, 1.0], row])
    uniforms_B = torch.tensor([0.1, uniform], dtype=torch.float64)
    with pytest.raises(UserError, match=why):
        decoder(temperature=1.0, top_p=0.9).choose(logits_BV, uniforms_B)


@pytest.mark.parametrize("why", ["no library", "double", "greedy", "a row alone"])
def test_torch_where_it_is_not_for(why, monkeypatch):
    logits_BV = torch.randn(3, 9, generator=torch_generator(0, "t"))
    uniforms_B = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    config = DecodeConfig(temperature=0.0 if why == "greedy" else 1.0)
    if why == "no library":
        monkeypatch.setattr(cpu_sample, "compiled", lambda: None)
    elif why == "double":
        logits_BV = logits_BV.double()
    elif why == "a row alone":
        logits_BV, uniforms_B = logits_BV[0], uniforms_B[0]
    assert draw(logits_BV, uniforms_B, **config.sampling) is None
    found_B = replace(decoder(), decode=config).choose(logits_BV, uniforms_B)
    assert torch.equal(found_B, sampling.choose(logits_BV, uniforms_B, config))


@dataclass(frozen=True)
class LaterConfig(DecodeConfig):
    """Settings of a later version: the engine's sampler was written before `min_p`."""

    min_p: float = 0.0


@needs_compiler
def test_a_setting_that_the_engine_does_not_know_is_left_to_torch(monkeypatch):
    """And never left out: torch is asked with all settings."""
    logits_BV, uniforms_B, asked = torch.zeros(2, 5), torch.tensor([0.1, 0.9]).double(), []
    monkeypatch.setattr(sampling, "choose", lambda *_: asked.append(_[2]) or torch.full((2,), 3))
    off, on = (LaterConfig(temperature=1.0, top_p=0.9, min_p=value) for value in (0.0, 0.1))
    assert on.sampling == {"temperature": 1.0, "top_p": 0.9, "min_p": 0.1}
    assert replace(decoder(), decode=off).choose(logits_BV, uniforms_B).tolist() == [0, 4]
    assert not asked
    assert replace(decoder(), decode=on).choose(logits_BV, uniforms_B).tolist() == [3, 3]
    assert asked == [on]
    named = replace(decoder(), decode=off, engine="torch")
    assert named.choose(logits_BV, uniforms_B).tolist() == [3, 3] and asked == [on, off]


def test_settings_of_streams_are_none_of_the_draw():
    """All that DecodeConfig has is either known to `combine` and the prompts, or to the draw."""
    other = DecodeConfig(2.0, 0.5, 0.9, "drop", "contrast", 0.3, 4, 0.7, True, 9)
    assert other.sampling == {"temperature": 0.5, "top_p": 0.9, "top_k": 9}
    assert {field.name for field in fields(other)} == OF_STREAMS | other.sampling.keys()


def test_a_top_k_beyond_the_ids_is_refused():
    uniforms_B = torch.tensor([0.5], dtype=torch.float64)
    with pytest.raises(UserError, match=r"decode\.top_k"):
        decoder(temperature=1.0, top_k=5).choose(torch.zeros(1, 4), uniforms_B)
