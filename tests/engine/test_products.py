"""Every way to multiply gives the plain product; the fastest is taken only where it is faster."""

import pytest
import torch
from torch import nn

from cm3leon.engine import products as linears
from cm3leon.engine.products import WAYS, choose_way, fastest_way, products, timed


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("shape", [(48, 16), (7, 33)])
def test_all_ways_agree(rows, shape):
    weights = [torch.randn(shape) for _ in range(2)]
    x_MK = torch.randn(rows, shape[1])
    seconds = timed(weights, rows)
    assert set(seconds) <= set(WAYS) and "plain" in seconds and min(seconds.values()) > 0
    for way in seconds:
        for weight in weights:
            found = WAYS[way](weight)(x_MK)
            torch.testing.assert_close(found, x_MK @ weight.T, rtol=1e-5, atol=1e-5)


def test_a_way_must_be_clearly_faster():
    assert choose_way({"plain": 1.0, "packed": 0.95}) == "plain"
    assert choose_way({"plain": 1.0, "packed": 0.8, "transposed": 0.7}) == "transposed"
    assert choose_way({"plain": 1.0}) == "plain"


def test_a_way_that_the_machine_lacks_is_left_out(monkeypatch):
    def broken(weight):
        raise RuntimeError("no such operator")

    monkeypatch.setitem(WAYS, "packed", broken)
    assert "packed" not in timed([torch.randn(4, 4)], 2)


def test_the_choice_is_measured_once(monkeypatch):
    monkeypatch.setattr(linears, "_chosen", {})
    calls = []
    monkeypatch.setattr(
        linears, "timed", lambda *_: calls.append(1) or {"plain": 1.0, "transposed": 0.1}
    )
    weight = torch.randn(6, 5)
    assert [fastest_way([weight], 3) for _ in range(2)] == ["transposed"] * 2 and len(calls) == 1
    assert fastest_way([weight], 4) == "transposed" and len(calls) == 1  # 3 and 4 are near
    assert fastest_way([weight], 5) == "transposed" and len(calls) == 2
    assert fastest_way([weight.to("meta")], 9) == "plain" and len(calls) == 2


@pytest.mark.parametrize("way", WAYS)
def test_changed_weights_are_prepared_anew(monkeypatch, way):
    monkeypatch.setattr(linears, "fastest_way", lambda *_: way)
    module, x_MK = nn.Linear(8, 5, bias=False).requires_grad_(False), torch.randn(3, 8)

    def found():
        return products(module, "weight", [module.weight], 3)[0](x_MK)

    torch.testing.assert_close(found(), x_MK @ module.weight.T)
    module.weight.mul_(2)
    torch.testing.assert_close(found(), x_MK @ module.weight.T)
    module.load_state_dict({"weight": torch.randn(5, 8)})
    torch.testing.assert_close(found(), x_MK @ module.weight.T)
    module.weight = nn.Parameter(torch.randn(5, 8), requires_grad=False)
    torch.testing.assert_close(found(), x_MK @ module.weight.T)
