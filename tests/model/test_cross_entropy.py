"""The head's loss against torch's: values, gradients, what is ignored, any size of a piece."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.model import cross_entropy
from cm3leon.model.cross_entropy import head_loss
from cm3leon.seeds import torch_generator


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 500), st.integers(0, 99))
def test_against_torch(tokens, vocabulary, piece, seed):
    draws = torch_generator(seed)
    hidden = torch.randn(tokens, 6, generator=draws, dtype=torch.float64)
    table = torch.randn(vocabulary, 6, generator=draws, dtype=torch.float64)
    weights = torch.rand(tokens, generator=draws)
    targets = torch.randint(0, vocabulary, (tokens,), generator=draws)
    targets[torch.rand(tokens, generator=draws) < 0.3] = -100
    found = []
    for ours in (True, False):
        h, t = hidden.clone().requires_grad_(), table.clone().requires_grad_()
        if ours:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cross_entropy, "PIECE", piece)
                losses = head_loss(h, t, targets, -100)
                (losses * weights).sum().backward()
        else:
            losses = F.cross_entropy(h @ t.T, targets, ignore_index=-100, reduction="none")
            (losses * weights).sum().backward()
        found.append((losses.detach().double(), h.grad, t.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_what_is_nearly_learned_keeps_its_gradient_in_bfloat16():
    """p = 1 - 1.2e-4 rounds to 1 in bfloat16; the gradient of its logit is not 0."""
    hidden = torch.tensor([[9.0, 0.0]], requires_grad=True)
    table = torch.eye(2)
    with torch.autocast("cpu", torch.bfloat16):
        head_loss(hidden, table, torch.tensor([0]), -100).sum().backward()
    exact = torch.tensor([9.0, 0.0]).softmax(0)[0] - 1
    assert hidden.grad[0, 0].item() == pytest.approx(exact.item(), rel=0.01)
