"""The peer has our shape, draws as many tokens as asked, and is named where it is missing."""

import sys

import pytest
import torch

from benchmarks.speed.peers import hf as opt_peer
from benchmarks.speed.subjects import find_subject
from cm3leon.errors import UserError

pytest.importorskip("transformers")


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_peer_has_our_shape_and_draws(guidance):
    subject = find_subject("2x32x2", 16)
    model = opt_peer.make_opt(subject, "float32", "cpu")
    own = sum(weight.numel() for name, weight in model.named_parameters() if "position" not in name)
    assert own == subject.config.parameters - subject.config.context * subject.config.width
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    codes = opt_peer.opt_drawing(model, 3, guidance, 0.9)(5)
    assert codes.shape == (3, 5) and int(codes.max()) < 4608
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_without_transformers_one_line(monkeypatch):
    opt_peer.check_installed()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="--peers needs transformers; pip install transformers"):
        opt_peer.check_installed()
