"""Pieces of a batch: their losses, scalars and gradients sum to those of the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.config import ModelConfig, ObjectiveConfig, VocabularyConfig
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.sequence.documents import Document, Vocabulary, build_sample
from cm3leon.sequence.masking import mask_samples
from cm3leon.training.batches import collate, split, token_loss, totals

SIZES = VocabularyConfig(12, 8, 4, 8)
VOCABULARY = Vocabulary.from_config(SIZES)
CONFIG = ModelConfig("tiny", 1, 8, 2, 40, SIZES, init_std=0.3, position_std=0.3)


def batch_of(lengths: list[int], seed: int, weight: float, context: int = 40) -> dict:
    """Rows with a document each, weighted otherwise than the query; captions of these lengths."""
    draws = seeds.generator(seed, "accumulate")

    def pair(length: int) -> Document:
        return Document.pair(draws.integers(0, 12, length), draws.integers(0, 8, 4))

    samples = [build_sample(pair(length), [pair(2)], VOCABULARY) for length in lengths]
    objective = ObjectiveConfig(rate=2.0, document_weight=weight)
    rows, counts = mask_samples(samples, VOCABULARY, objective, draws)
    return collate(rows, counts, VOCABULARY, replace(CONFIG, context=context))


def network() -> Transformer:
    model = Transformer(CONFIG, seeds.torch_generator(3, "accumulate"))
    with torch.no_grad():  # residual outputs begin at zero: no gradient would reach the blocks
        for block in model.blocks:
            block.out.weight.normal_(std=0.3, generator=seeds.torch_generator(4, "out"))
            block.down.weight.normal_(std=0.3, generator=seeds.torch_generator(5, "down"))
    return model.double()


def gradients(pieces: list, loss) -> tuple[dict, dict]:
    """Summed scalars and the gradient of the summed loss."""
    module, sums = network(), {}
    for piece in pieces:
        value, scalars = loss(module, piece, 1)
        value.backward()
        for name, scalar in {"loss": value.detach(), **scalars}.items():
            sums[name] = sums.get(name, 0.0) + float(scalar)
    return sums, {name: value.grad for name, value in module.named_parameters()}


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99),
    st.sampled_from([0.0, 0.1, 1.0]), st.integers(1, 6), st.sampled_from([16, 40]),
)  # fmt: skip
@settings(max_examples=30)
def test_any_pieces_give_the_gradient_of_the_batch(lengths, seed, weight, count, context):
    batch = batch_of(lengths, seed, weight, context)
    count, loss = min(count, len(lengths)), token_loss(VOCABULARY)
    pieces = split(batch, count)
    assert torch.equal(torch.cat([piece["ids_BT"] for piece in pieces]), batch["ids_BT"])
    whole, expected = gradients([batch], loss)
    sums, found = gradients(pieces, loss)
    assert sums == pytest.approx(whole, rel=1e-5, abs=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-8)


def test_equal_weighting_of_pieces_would_be_wrong():
    """Why pieces keep the totals of the batch: where they differ in length the mean of their own
    means is not the loss.
    """
    batch = batch_of([0, 9], 1, 0.1)
    loss, module = token_loss(VOCABULARY), network()
    pieces = split(batch, 2)
    with torch.no_grad():
        whole = float(loss(module, batch, 1)[0])
        alone = [one | {"totals": totals(one, VOCABULARY)} for one in pieces]
        means = [float(loss(module, one, 1)[0]) for one in alone]
        total = sum(float(loss(module, one, 1)[0]) for one in pieces)
    assert abs(np.mean(means) - whole) > 1e-3
    assert total == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("count", [0, 3])
def test_no_more_pieces_than_rows(count):
    with pytest.raises(UserError, match=rf"accumulate must lie in 1..2 .*, got {count}"):
        split(batch_of([1, 2], 0, 1.0), count)
