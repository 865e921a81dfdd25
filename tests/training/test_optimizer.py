"""Muon: against torch's own, orthogonality, what it leaves to AdamW, and exact resume."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cm3leon import seeds
from cm3leon.checkpoint import load_state, save_state
from cm3leon.config import ModelConfig, TrainConfig, VocabularyConfig
from cm3leon.model.transformer import Transformer
from cm3leon.training.optimizer import (
    MOMENTUM,
    QUINTIC,
    ROUNDS,
    Muon,
    make_optimizer,
    orthogonal,
    pieces,
)

MUON = TrainConfig(rate=2e-3, optimizer="muon", matrix_ratio=2.0, weight_decay=0.1)
TINY = ModelConfig(
    "tiny", layers=2, width=16, heads=2, context=12, vocabulary=VocabularyConfig(20, 20, 2)
)


def transformer() -> Transformer:
    return Transformer(TINY, seeds.torch_generator(0, "tiny"))


def learn(module: Transformer, optimizer, steps) -> None:
    for step in steps:
        ids = torch.randint(0, 40, (3, 12), generator=seeds.torch_generator(1, step))
        optimizer.zero_grad()
        module.loss_per_token(ids).mean().backward()
        optimizer.step()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.integers(0, 9))
def test_orthogonal(count, one, other, seed):
    rows, columns = sorted((one, other))
    drawn = torch.randn(count, rows, columns, generator=seeds.torch_generator(seed))
    u, _, v = torch.linalg.svd(drawn, full_matrices=False)
    with_known_values = u * torch.linspace(1.0, 0.1, rows) @ v
    result = orthogonal(with_known_values)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.65 and values.max() < 1.21
    along = u.mT @ result @ v.mT  # the same singular vectors: only the values moved
    crossed = along - torch.diag_embed(along.diagonal(dim1=1, dim2=2))
    assert crossed.abs().max() < 2e-3
    torch.testing.assert_close(orthogonal(3.7 * with_known_values), result, atol=2e-4, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 9))
def test_orthogonal_in_bfloat16(one, other, seed):
    rows, columns = sorted((one, other))
    drawn = torch.randn(1, rows, columns, generator=seeds.torch_generator(seed))
    u, _, v = torch.linalg.svd(drawn, full_matrices=False)
    result = orthogonal(u * torch.linspace(1.0, 0.1, rows) @ v, torch.bfloat16)
    values = torch.linalg.svdvals(result.float())
    assert result.dtype == torch.bfloat16
    assert values.min() > 0.6 and values.max() < 1.25


def test_orthogonal_of_nothing_is_nothing():
    assert orthogonal(torch.zeros(2, 3, 5)).abs().max() == 0


def test_pieces_are_views():
    stacked = torch.arange(24.0).view(6, 4)
    first, second = pieces(stacked, 2)
    assert first.shape == second.shape == (3, 4)
    (tall,) = pieces(stacked, 1)
    assert tall.shape == (4, 6)
    tall.zero_()
    assert stacked.abs().sum() == 0


def test_like_torchs_own():
    """torch's Muon multiplies in bfloat16, hence the tolerance."""
    ours = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(24, 40, bias=False)])})
    name, weight = next(iter(ours.named_parameters()))
    assert name == "blocks.0.weight"
    theirs = weight.detach().clone().requires_grad_()
    other = torch.optim.Muon(
        [theirs],
        lr=MUON.rate * MUON.matrix_ratio,
        weight_decay=MUON.weight_decay,
        momentum=MOMENTUM,
        nesterov=True,
        ns_coefficients=QUINTIC,
        ns_steps=ROUNDS,
        adjust_lr_fn="match_rms_adamw",
    )
    optimizer = make_optimizer(ours, MUON)
    assert isinstance(optimizer, Muon)
    before = weight.detach().clone()
    for step in range(5):
        gradient = torch.randn(40, 24, generator=seeds.torch_generator(step, "gradient"))
        weight.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        other.step()
    moved, expected = weight.detach() - before, theirs.detach() - before
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_queries_keys_and_values_apart():
    """One of the three with a large gradient leaves the updates of the other two as they were."""
    gradient = torch.randn(48, 16, generator=seeds.torch_generator(3))
    moves = []
    for scale in (1.0, 1000.0):
        module = transformer()
        optimizer = make_optimizer(module, MUON)
        qkv = module.blocks[0].qkv.weight
        before = qkv.detach().clone()
        qkv.grad = gradient.clone()
        qkv.grad[:16] *= scale
        optimizer.step()
        moves.append(qkv.detach() - before)
    torch.testing.assert_close(moves[0], moves[1], atol=1e-6, rtol=1e-3)


def test_tables_stay_with_adamw():
    plain, muon = transformer(), transformer()
    config = TrainConfig(rate=2e-3)
    a, b = make_optimizer(plain, config), make_optimizer(muon, MUON)
    assert isinstance(a, torch.optim.AdamW) and isinstance(b, Muon)
    learn(plain, a, [1])
    learn(muon, b, [1])
    for name, weight in plain.named_parameters():
        same = torch.equal(weight, dict(muon.named_parameters())[name])
        # Zero residual outputs: before the first update nothing inside a block has a gradient,
        # so that qkv and up only decay, at another rate.
        assert same == ("blocks." not in name), name
    covered = [p for group in b.param_groups for p in group["params"]]
    assert len(covered) == len(set(covered)) == len(list(muon.parameters()))


def test_one_schedule_for_all():
    module = transformer()
    optimizer = make_optimizer(module, MUON)
    before = copy.deepcopy(module.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    learn(module, optimizer, [1, 2])
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_resumes_exactly(tmp_path):
    whole = transformer()
    learn(whole, make_optimizer(whole, MUON), range(1, 9))
    first = transformer()
    optimizer = make_optimizer(first, MUON)
    learn(first, optimizer, range(1, 5))
    save_state(tmp_path, first, optimizer, {}, {"step": 4})
    second = transformer()
    optimizer = make_optimizer(second, MUON)
    assert load_state(tmp_path, second, optimizer, {}) == {"step": 4}
    learn(second, optimizer, range(5, 9))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_learns_faster_than_adamw_in_tokens():
    """A lookup with rare entries, which is what it is here for."""
    losses = {}
    for kind, rate in (("adamw", 5e-3), ("muon", 5e-3)):
        module = transformer()
        optimizer = make_optimizer(module, TrainConfig(rate=rate, optimizer=kind))
        generator = seeds.torch_generator(0, "lookup")
        weights = 1.0 / torch.arange(1, 21)
        for _ in range(150):
            keys = torch.multinomial(weights, 64, replacement=True, generator=generator)
            ids = torch.stack([keys, 20 + (keys * 7) % 20], 1)
            optimizer.zero_grad()
            loss = module.loss_per_token(ids).mean()
            loss.backward()
            optimizer.step()
        losses[kind] = loss.item()
    assert losses["muon"] < losses["adamw"] and losses["muon"] < 0.1


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_without_blocks_it_is_adamw(kind):
    assert type(make_optimizer(nn.Linear(3, 4), TrainConfig(optimizer=kind))) is torch.optim.AdamW
