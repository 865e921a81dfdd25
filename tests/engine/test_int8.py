"""Layers in 8 bits: every product is that of the widened numbers, and the model's logits are near.

The products are tested on a stand-in for torchao's weights; what needs torchao itself is skipped
without it.
"""

import importlib.util
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cm3leon.engine import int8 as int8_weights
from cm3leon.engine import torch_step
from cm3leon.engine.cuda_graph import Bucket
from cm3leon.engine.int8 import kind, packed, quantised, summed, sums, whole, with_weights
from cm3leon.engine.prepared import kept, parts
from cm3leon.engine.rule import find
from cm3leon.engine.torch_step import TorchStep, plain, products, rule
from cm3leon.errors import UserError
from cm3leon.loading import load_system
from cm3leon.model.kv_cache import Cache
from tests.engine.test_cpu_step import small
from tests.test_pipeline import PROMPTS, SEEDS, write_tiny_baselines

TORCHAO = importlib.util.find_spec("torchao") is not None
NEEDS_TORCHAO = pytest.mark.skipif(not TORCHAO, reason="no torchao here")
STEP = 1 / 127 / 12**0.5  # of a number uniformly off by up to half a step: rms, in largest values


@pytest.fixture
def model():
    """A small model in float32 and the same in int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchao's import
        return small(), quantised(small())


def stand_in(outputs: int, inputs: int, dtype=torch.float32, device: str = "cpu"):
    numbers_NK = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, device=device)
    scale_N1 = torch.rand(outputs, 1, device=device) / 100
    return SimpleNamespace(
        qdata=numbers_NK, scale=scale_N1, dtype=dtype, device=torch.device(device),
        numel=numbers_NK.numel,
    )  # fmt: skip


@pytest.mark.parametrize("way", [packed, "sums"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_every_product_is_that_of_the_widened_numbers(way, dtype, rows):
    weight = stand_in(48, 64, dtype)
    product = (lambda x: sums(x, *whole(weight))) if way == "sums" else way(weight)
    x_MK = torch.randn(rows, 64).to(dtype)
    found_MN = product(x_MK)
    wanted_MN = x_MK.double() @ (weight.qdata.double() * weight.scale).T
    assert found_MN.dtype == dtype and found_MN.shape == (rows, 48)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found_MN.double(), wanted_MN, rtol=close, atol=close)


def test_the_rule(monkeypatch):
    weight = stand_in(4, 4)
    assert rule(weight, 2, 100) is packed
    weight.device = torch.device("cuda")
    assert rule(weight, 8, 100) is plain  # torchao's own product
    monkeypatch.setattr(int8_weights, "LARGE", 16)
    assert rule(weight, 8, 100) is summed and rule(weight, 9, 100) is plain
    weight.scale = torch.ones(1)  # one for the whole matrix
    assert whole(weight) is None and rule(weight, 2, 100) is plain


def test_unknown_types_are_one_line():
    with pytest.raises(UserError, match=r"weights must be one of float32, bfloat16, int8") as error:
        with_weights(small(), "int4")
    assert "int4" in str(error.value) and "\n" not in str(error.value)


def test_without_torchao_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UserError, match="int8 needs torchao, which is not installed; pip install"):
        with_weights(small(), "int8")


def test_types_by_name():
    assert kind(small()) == "float32" and kind(with_weights(small(), "bfloat16")) == "bfloat16"
    assert with_weights(small(), "float32").token_embedding.weight.dtype == torch.float32


def test_a_system_in_bfloat16_draws(tmp_path):
    folder = write_tiny_baselines(tmp_path)
    plain, half = load_system(folder), load_system(folder, weights="bfloat16")
    assert half.config == plain.config | {"dtype": "bfloat16"}
    assert half.draw(PROMPTS, SEEDS).shape == plain.draw(PROMPTS, SEEDS).shape


@NEEDS_TORCHAO
def test_only_the_matrices_of_the_layers_are_rounded(model):
    plain, int8 = model
    assert kind(int8) == "int8" and kind(plain) == "float32"
    assert torch.equal(int8.token_embedding.weight, plain.token_embedding.weight)
    for name, weight in plain.blocks.named_parameters():
        numbers_NK, scale_N = whole(int8.blocks.get_parameter(name))
        off_NK = numbers_NK * scale_N[:, None] - weight
        assert (off_NK.abs() <= 0.51 * scale_N[:, None]).all()
        torch.testing.assert_close(scale_N, weight.abs().amax(1) / 127, rtol=1e-2, atol=0)


@NEEDS_TORCHAO
def test_logits_are_as_near_as_the_rounding_of_the_weights(model):
    plain, int8 = model
    ids_BT = torch.arange(60).view(3, 20) * 7 % 500
    places_BT = torch.arange(20).expand_as(ids_BT)  # of a text
    logits, near = plain(ids_BT, places_BT), int8(ids_BT, places_BT)
    off = float((near - logits).norm() / logits.norm())
    # A normal row of 48 to 192 numbers peaks at 2.5 to 3 standard deviations; the errors of the
    # eight matrices add up like independent ones.
    assert 0.3 * STEP < off < 3 * STEP * 8**0.5


@NEEDS_TORCHAO
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[5, 5], [6, 2, 4]])
def test_steps_give_the_logits_of_whole_rows(dtype, lengths):
    int8 = quantised(small().to(dtype))  # in this order, as `with_weights` does
    assert kind(int8) == "int8"
    rows = [(torch.arange(length) * 13 % 500).tolist() for length in lengths]
    ids_BT = (torch.arange(max(lengths)) * 13 % 500).expand(len(lengths), -1)
    places_BT = torch.arange(max(lengths)).expand_as(ids_BT)  # of a text
    caches = [int8.cache(len(lengths), 20) for _ in range(2)]
    for cache in caches:
        int8.prefill(ids_BT, torch.tensor(lengths), cache, positions_BT=places_BT)
    advance, at = TorchStep(int8, len(lengths), 0, None), torch.zeros(1, dtype=torch.int64)

    def fixed(x_BD: torch.Tensor, cache: Cache) -> torch.Tensor:
        return advance(x_BD, Bucket(cache, at.fill_(cache.longest), 16))

    close = 1e-4 if dtype == torch.float32 else 3e-2
    for token in (3, 4, 5):
        for cache, by in zip(caches, (advance, fixed), strict=True):
            found_BV = int8.step(torch.full((len(lengths),), token), cache, by=by)
            for row, logits in zip(rows, found_BV, strict=True):
                places_1T = torch.arange(len(row) + 1)[None]
                whole_V = int8(torch.tensor([[*row, token]]), places_1T)[0, -1]
                torch.testing.assert_close(logits, whole_V.float(), rtol=close, atol=close)
        rows = [[*row, token] for row in rows]


@NEEDS_TORCHAO
def test_nothing_takes_a_wrapper_for_a_plain_weight(model):
    """No step of step.c, no copy that only a plain weight can have."""
    whole_numbers, other = model[1], model[1].blocks[0].up.weight
    assert find(whole_numbers) == "torch" and rule(other, 2, 100) is packed
    assert rule(model[0].blocks[0].up.weight, 2, 100) is torch_step.packed
    x_MK = torch.randn(2, 48)
    (product,) = products(whole_numbers, "up", [other], 2)
    torch.testing.assert_close(product(x_MK), torch.nn.functional.linear(x_MK, other))


@NEEDS_TORCHAO
def test_replaced_int8_weights_are_noticed(model):
    int8, made = model[1], []
    assert len(parts(int8.blocks[0].up.weight)) > 1  # numbers, scales
    for _ in range(2):
        kept(int8, "thing", lambda: made.append(1))
    assert len(made) == 1
    other = quantised(small())
    int8.blocks[0].up.weight = other.blocks[0].up.weight
    kept(int8, "thing", lambda: made.append(1))
    assert len(made) == 2
    int8.blocks[0].up.weight.qdata.zero_()  # in place
    kept(int8, "thing", lambda: made.append(1))
    assert len(made) == 3


@NEEDS_TORCHAO
def test_a_system_in_int8_draws(tmp_path):
    system = load_system(write_tiny_baselines(tmp_path), weights="int8")
    images = system.draw(PROMPTS, SEEDS)
    assert system.config["dtype"] == "int8" and images.shape == (5, 32, 32, 3)
    assert np.array_equal(system.draw(PROMPTS, SEEDS), images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("way", [packed, summed])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_on_a_gpu(way, rows):
    weight = stand_in(256, 512, torch.bfloat16, "cuda")
    x_MK = torch.randn(rows, 512, device="cuda").bfloat16()
    wanted_MN = x_MK.double() @ (weight.qdata.double() * weight.scale).T
    torch.testing.assert_close(way(weight)(x_MK).double(), wanted_MN, rtol=2e-2, atol=2e-2)
