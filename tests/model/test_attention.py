"""Attention by products against torch's, values and gradients; packed rows against padded ones."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.config import ModelConfig, VocabularyConfig
from cm3leon.model import attention
from cm3leon.model.attention import Rows, causal, join_heads, split_heads
from cm3leon.model.transformer import IGNORE, Transformer
from cm3leon.seeds import torch_generator

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)
CONFIG = ModelConfig("tiny", 2, 16, 2, 48, VocabularyConfig(24, 16, 4, 8), init_std=0.3,
                     position_std=0.3)  # fmt: skip


def real(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 99), st.sampled_from([7, 16, 96]))
def test_products_are_torchs_attention_row_by_row(lengths, seed, stretch):
    qkv = torch.randn(sum(lengths), 24, generator=torch_generator(seed), dtype=torch.float64)
    wish = torch.randn(sum(lengths), 8, generator=torch_generator(seed, 1), dtype=torch.float64)
    one, two = (qkv.clone().requires_grad_() for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "STRETCH", stretch)
        ours = Rows.of(real(lengths)).attend(one, 2)
        (ours * wish).sum().backward()
    rows = [causal(*split_heads(part[None], 2)) for part in two.split(lengths)]
    theirs = torch.cat([join_heads(row)[0] for row in rows])
    (theirs * wish).sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # drawing takes torch's own
        drawn = Rows.of(real(lengths)).attend(qkv, 2)
    torch.testing.assert_close(drawn, theirs.detach(), rtol=1e-5, atol=1e-6)


def padded_losses(model, ids, targets):
    """The plain computation: every row padded, all tokens through all layers."""
    x = model.token_embedding(ids) + model.position_embedding.weight[: ids.shape[1]]
    for block in model.blocks:
        normal = F.layer_norm(x, (16,))
        seen = join_heads(causal(*split_heads(block.qkv(normal), 2)))
        x = x + block.out(seen)
        x = x + block.down(F.relu(block.up(F.layer_norm(x, (16,)))))
    logits = F.layer_norm(x, (16,)) @ model.token_embedding.weight.T
    return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.integers(0, 99))
def test_packed_rows_are_padded_rows(lengths, seed):
    model = Transformer(CONFIG, torch_generator(seed, "weights"))
    with torch.no_grad():
        for block in model.blocks:  # they begin at zero
            block.out.weight.normal_(std=0.3, generator=torch_generator(seed, "out"))
            block.down.weight.normal_(std=0.3, generator=torch_generator(seed, "down"))
    draws, kept = torch_generator(seed, "ids"), real(lengths)
    ids = torch.randint(0, 40, kept.shape, generator=draws)
    targets = torch.randint(0, 40, kept.shape, generator=draws)
    silent = torch.rand(kept.shape, generator=draws) < 0.2  # no loss inside a row either
    targets[~kept | silent] = IGNORE
    ours = model(ids, targets_BT=targets)
    ours.sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    theirs = padded_losses(model, ids, targets)
    theirs.sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-4)


def test_rows_without_a_target_cost_nothing():
    model = Transformer(CONFIG)
    targets = torch.full((2, 9), IGNORE)
    assert model(torch.zeros(2, 9, dtype=torch.int64), targets_BT=targets).sum() == 0
