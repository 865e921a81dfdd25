"""Every product gives the plain one, by a rule; weights that changed are seen."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cm3leon.engine import torch_step
from cm3leon.engine.torch_step import MOST_BYTES, TorchStep, packed, plain, products, rule
from tests.engine.test_cpu_step import read, small


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("shape", [(48, 16), (7, 33)])
def test_all_products_agree(rows, shape):
    weight, x_MK = torch.randn(shape), torch.randn(rows, shape[1])
    for product in (plain, packed):
        torch.testing.assert_close(product(weight)(x_MK), x_MK @ weight.T, rtol=1e-5, atol=1e-5)


def test_the_rule(monkeypatch):
    weight = torch.zeros(4, 4)
    assert rule(weight, 2, MOST_BYTES) is packed and rule(weight, 2, MOST_BYTES + 1) is plain
    for other in (weight.bfloat16(), weight.double(), weight.to("meta")):
        assert rule(other, 2, 100) is plain
    without = SimpleNamespace(mkldnn=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(torch_step.torch, "backends", without)
    assert rule(weight, 2, 100) is plain


@pytest.mark.parametrize("lengths", [[3], [5, 2, 9]])
def test_a_step_is_the_models_own(lengths):
    model, ids = small(), (500, 561)
    caches = [read(model, lengths) for _ in range(2)]
    by = TorchStep(model, len(lengths), *ids)
    for step in range(3):
        ids_B = (torch.arange(len(lengths)) * 7 + step) % 500
        found = model.step(ids_B, caches[0], *ids, by), model.step(ids_B, caches[1], *ids)
        torch.testing.assert_close(*found, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(caches[0].kv, caches[1].kv, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [plain, packed])
def test_changed_weights_are_prepared_anew(monkeypatch, make):
    monkeypatch.setattr(torch_step, "rule", lambda *_: make)
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
