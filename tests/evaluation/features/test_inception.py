"""Inception of FID: pytorch-fid's network is the oracle, folded and joined forms agree with it."""

from __future__ import annotations

import pytest
import torch

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.evaluation.features import inception
from cm3leon.evaluation.features.inception import (
    DIM,
    Fast,
    Packed,
    Plain,
    check_weights,
    convolutions,
    fastest,
    pool3,
    random_weights,
    shapes,
)


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 3, 299, 299, generator=seeds.torch_generator(0, "pictures")) * 2 - 1


@pytest.fixture(scope="module")
def oracle(weights):
    """The network of pytorch-fid as clean-fid carries it, with our random weights in it."""
    module = pytest.importorskip("cleanfid.inception_pytorch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: dict(weights))
        patch.setattr("torchvision.models._utils.warnings.warn", lambda *_, **__: None)
        return module.fid_inception_v3().eval()


@pytest.fixture(scope="module")
def plain_BD(weights, pictures):
    with torch.inference_mode():
        return pool3(Plain(weights), pictures)


def test_names_and_shapes_are_the_published_ones(oracle):
    wanted = {
        key: tuple(value.shape)
        for key, value in oracle.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert shapes() == wanted and len(list(convolutions())) == 94
    assert shapes()["fc.weight"] == (1008, 2048)


def test_the_same_features_and_logits_as_pytorch_fid(oracle, weights, pictures, plain_BD):
    kept = []
    handle = oracle.avgpool.register_forward_hook(lambda *event: kept.append(event[-1].flatten(1)))
    with torch.inference_mode():
        logits_BK = oracle(pictures)
    handle.remove()
    assert plain_BD.shape == (2, DIM) and plain_BD.dtype == torch.float32
    assert (plain_BD - kept[0]).abs().max() <= 1e-4 * kept[0].abs().max()
    ours = plain_BD @ weights["fc.weight"].T + weights["fc.bias"]
    assert (ours - logits_BK).abs().max() <= 1e-4 * logits_BK.abs().max()


def forms(weights):
    found = [Fast(weights)]
    return [*found, Packed(weights)] if Packed.possible("cpu", "float32") else found


def test_fast_and_packed_are_plain(weights, pictures, plain_BD):
    largest = plain_BD.abs().max()
    with torch.inference_mode():
        for net in forms(weights):
            found = pool3(net, pictures)
            again = torch.cat([pool3(net, pictures[k : k + 1]) for k in range(2)])
            assert (found - plain_BD).abs().max() <= 2e-6 * largest
            assert (again - found).abs().max() <= 2e-6 * largest


def test_bfloat16_is_rough(weights, pictures, plain_BD):
    small = pictures[:1, :, :120, :120]
    with torch.inference_mode():
        wanted = pool3(Plain(weights), small)
        rough = pool3(Fast(weights, dtype="bfloat16"), small)
    assert 1e-4 < (rough - wanted).abs().max() / wanted.abs().max() < 3e-2


def test_the_form_for_a_machine(weights, monkeypatch):
    packed = Packed.possible("cpu", "float32")
    assert type(fastest(weights)) is (Packed if packed else Fast)
    assert not Packed.possible("cuda", "float32") and not Packed.possible("cpu", "bfloat16")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert type(fastest(weights)) is Fast


def test_each_difference_to_torchvisions_network_counts(monkeypatch, weights, pictures, plain_BD):
    """With the padding averaged, or the last pool a mean, the features are others."""
    import torch.nn.functional as F

    def changed(x, pool):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=pool == "mean")

    monkeypatch.setattr(inception, "_pooled", changed)
    with torch.inference_mode():
        other = pool3(Plain(weights), pictures[:1])
    assert (other - plain_BD[:1]).abs().max() > 1e-2 * plain_BD.abs().max()


def test_counters_of_training_steps_may_be_there(weights):
    counted = weights | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    assert check_weights(counted, "x").keys() == weights.keys()
    halves = {key: value.half() for key, value in weights.items()}
    assert check_weights(halves, "x")["fc.bias"].dtype == torch.float32


def test_other_weights_are_refused(weights):
    nan = weights["fc.bias"].clone()
    nan[3] = float("nan")
    short = {key: value for key, value in weights.items() if not key.startswith("Mixed_7c")}
    for changed, message in (
        (short, "has no 'Mixed_7c.branch1x1.conv.weight' (45 of 472"),
        (short | {"AuxLogits.fc.bias": torch.ones(1000)}, "torchvision's classifier"),
        (weights | {"fc.weight": torch.ones(1000, 2048)}, r"fc.weight is [1000, 2048], not [1008"),
        (weights | {"head.weight": torch.ones(3)}, "head.weight is too much"),
        (weights | {"fc.bias": nan}, "damaged: fc.bias is not finite"),
        ({}, "472 of 472"),
    ):
        with pytest.raises(UserError) as error:
            check_weights(changed, "file.pth")
        assert message in str(error.value) and str(error.value).startswith("file.pth")
        assert "\n" not in str(error.value)
