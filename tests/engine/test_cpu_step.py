"""A step in one call gives torch's logits and writes torch's keys and values."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.config import MODELS
from cm3leon.engine import cpu_step
from cm3leon.engine.cpu_step import Fused, compiled, why_not
from cm3leon.engine.rule import find, step_of
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import torch_generator

pytestmark = pytest.mark.skipif(compiled() is None, reason="no C compiler here")


needs_bfloat16 = pytest.mark.skipif(
    compiled(torch.bfloat16) is None, reason="no bfloat16 in this processor"
)


def small(layers: int = 2, width: int = 48, heads: int = 3) -> Transformer:
    config = replace(MODELS["scenes-xs"](), layers=layers, width=width, heads=heads, context=40)
    model = Transformer(config, torch_generator(0, "init")).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(0, 0.1, generator=torch_generator(1, str(weight.shape)))
    return model


def read(model: Transformer, lengths: list[int], capacity: int = 20):
    """A cache that holds prompts of these lengths."""
    cache = model.cache(len(lengths), capacity)
    ids_BT = torch.arange(len(lengths) * max(lengths)).view(len(lengths), -1) % 500
    places_BT = torch.arange(max(lengths)).expand_as(ids_BT)  # of a text
    model.prefill(ids_BT, torch.tensor(lengths), cache, positions_BT=places_BT)
    return cache


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=27),
    shape=st.sampled_from([(48, 3), (32, 1), (64, 2), (40, 5), (128, 1)]),
    ids=st.sampled_from([(0, None), (512, 512 + 64), (3, 10), (7, 8), (500, 561)]),
)
def test_the_logits_and_the_cache_of_torch(lengths, shape, ids):
    agree(lengths, shape, ids, threads=1)


@pytest.mark.parametrize("lengths", [[3], [5, 2, 9, 9, 1, 4, 7]])
def test_threads_share_the_work(lengths):
    agree(lengths, (48, 3), (500, 561), threads=2)


def agree(lengths: list[int], shape: tuple, ids: tuple, threads: int) -> None:
    """Three steps by both ways."""
    model = small(2, *shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, theirs = read(model, lengths), read(model, lengths)
        fused = Fused(model, *ids)
        for step in range(3):
            ids_B = (torch.arange(len(lengths)) * 7 + step) % 500
            found = [model.step(ids_B, ours, *ids, fused), model.step(ids_B, theirs, *ids)]
            torch.testing.assert_close(*found, rtol=1e-5, atol=2e-5)
        assert torch.equal(ours.lengths_B, theirs.lengths_B)
        torch.testing.assert_close(ours.kv, theirs.kv, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


@needs_bfloat16
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=27),
    shape=st.sampled_from([(48, 3), (32, 1), (64, 2), (40, 5), (128, 1)]),
    ids=st.sampled_from([(0, None), (512, 512 + 64), (3, 10), (7, 8), (500, 561)]),
    threads=st.sampled_from([1, 2]),
)
def test_bfloat16_is_nearer_to_float32_than_torch(lengths, shape, ids, threads):
    """Of weights that bfloat16 holds: sums and the residual stream are float32 here."""
    model = small(2, *shape).bfloat16()
    exact = small(2, *shape)
    exact.load_state_dict(model.float().state_dict())
    model.bfloat16()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for one, way in ((model, Fused), (model, None), (exact, None)):
            cache = read(one, lengths)
            cache.kv.copy_(read(exact, lengths).kv)
            by = way(one, *ids) if way else None
            tokens = (torch.arange(len(lengths)) * 7 + step for step in range(3))
            found.append(torch.stack([one.step(ids_B % 500, cache, *ids, by) for ids_B in tokens]))
    finally:
        torch.set_num_threads(before)
    ours, theirs, wanted = (one.float() for one in found)
    scale = wanted.std(correction=0) + 0.1
    assert found[0].dtype == torch.float32
    assert (ours - wanted).abs().mean() <= (theirs - wanted).abs().mean() + 1e-3 * scale
    assert (ours - wanted).abs().max() < 0.1 * scale


@needs_bfloat16
def test_what_bfloat16_keeps_is_rounded_to_even():
    """Keys and values in the cache are the float32 ones, rounded as torch rounds."""
    model = small(1, 32, 1).bfloat16()
    cache = read(model, [3])
    Fused(model, 0, None)(torch.linspace(-1, 1, 32).bfloat16()[None], cache)
    x_BD = torch.nn.functional.layer_norm(torch.linspace(-1, 1, 32).bfloat16().float(), (32,))
    wanted = (x_BD.bfloat16().double() @ model.blocks[0].qkv.weight.double().T)[32:]
    kept = cache.kv[0, :, 0, 0, 3].reshape(-1)
    torch.testing.assert_close(kept.double(), wanted.float().bfloat16().double(), rtol=1e-2, atol=0)
    assert (kept == wanted.float().bfloat16()).float().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["qkv", "out", "up", "down"])
def test_a_weight_that_is_no_number_is_not_hidden(dtype, name):
    if compiled(dtype) is None:
        pytest.skip("no bfloat16 in this processor")
    model = small().to(dtype)
    getattr(model.blocks[0], name).weight[3, 2] = torch.nan
    logits_BV = Fused(model, 0, None)(
        torch.ones(2, 48, dtype=dtype), read(small().to(dtype), [3, 4])
    )
    assert logits_BV.isnan().any(1).all()


def test_the_logits_of_the_whole_row():
    model = small()
    cache = read(model, [5, 9])
    fused = Fused(model, 0, None)
    rows = [[i % 500 for i in range(9)][:5], [(9 + i) % 500 for i in range(9)]]
    for token in (11, 12, 13):
        found = model.step(torch.tensor([token, token]), cache, by=fused)
        for row, logits in zip(rows, found, strict=True):
            row.append(token)
            places = torch.arange(len(row))[None]
            torch.testing.assert_close(
                logits, model(torch.tensor([row]), places)[0, -1], rtol=1e-4, atol=1e-4
            )


def test_weights_of_any_size_in_one_softmax():
    """Scores far apart and far from 0: no overflow, the least weights vanish."""
    model = small(1, 32, 1)
    for block in model.blocks:
        block.qkv.weight.mul_(40)
    ours, theirs = read(model, [12, 3]), read(model, [12, 3])
    fused, ids_B = Fused(model, 0, None), torch.tensor([1, 2])
    found = [model.step(ids_B, ours, by=fused), model.step(ids_B, theirs)]
    assert torch.isfinite(found[0]).all()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


WHERE_NOT = {
    "no library": "step.c is not compiled for torch.float32 here",
    "double": "neither float32 nor bfloat16",
    "mixed": "neither float32 nor bfloat16",
    "meta": "not on a CPU",
    "too large": "the weights take more than",
    "a large head": "width 48 of 3 heads",
}


@pytest.mark.parametrize("why", WHERE_NOT)
def test_torch_where_it_is_not_for(why, monkeypatch):
    """By the rule; whoever names the engine is told."""
    model = small()
    assert why_not(model) is None and find(model) == "c" and step_of(model, 2, 0, None).name == "c"
    if why == "no library":
        monkeypatch.setattr(cpu_step, "compiled", lambda dtype: None)
    elif why == "double":
        model.double()
    elif why == "mixed":
        model.blocks[1].up.bfloat16()
    elif why == "meta":
        model.to("meta")
    elif why == "a large head":
        monkeypatch.setattr(cpu_step, "MOST_SIZE", 15)
    else:
        monkeypatch.setattr(cpu_step, "MOST_BYTES", 1000)
    assert find(model) == "torch"
    with pytest.raises(UserError, match=f"engine 'c' cannot take the steps: .*{WHERE_NOT[why]}"):
        find(model, "c")


def test_changed_weights_are_packed_anew():
    model = small()
    first = Fused(model, 0, None)
    assert Fused(model, 0, None).head is first.head
    model.blocks[0].up.weight.mul_(3)
    ours, theirs = read(model, [4]), read(model, [4])
    fused, ids_B = Fused(model, 0, None), torch.tensor([5])
    found = [model.step(ids_B, ours, by=fused), model.step(ids_B, theirs)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=2e-5)
