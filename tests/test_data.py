"""Batches: a function of the step, shaped and masked as told, and fit to learn from."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from test_cache import Blocks
from test_cache import source as scenes
from torch import nn

from cm3leon.cache import encode
from cm3leon.checkpoint import module_digest
from cm3leon.config import ModelConfig, ObjectiveConfig, TrainConfig, VocabularyConfig
from cm3leon.data import collate, pair_batches, pair_held_out, pair_loss
from cm3leon.objective import unrotate
from cm3leon.scenes import scene
from cm3leon.sequence import Vocabulary, build_sample, parse_sample
from cm3leon.text import TextTokenizer
from cm3leon.train import train
from cm3leon.transformer import Transformer

SIZES = VocabularyConfig(300, 64, 4)
VOCABULARY = Vocabulary.from_config(SIZES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """22 training scenes in three shards."""
    captions = [text for index in range(60) for text in scene("stock", "train", index).captions]
    tokenizer = TextTokenizer.train(captions, 300)
    return encode(scenes(), Blocks(), tokenizer, tmp_path_factory.mktemp("data") / "cache")


def batches(cache, batch=4, seed=0, objective=None, **more):
    return pair_batches(cache, VOCABULARY, objective or ObjectiveConfig(), batch, seed, **more)


def rows(found) -> list[np.ndarray]:
    """The samples of a batch as they were before masking and padding."""
    ids = [row[row != VOCABULARY.pad] for row in found["ids_BT"].numpy()]
    return [unrotate(row, VOCABULARY) for row in ids]


def test_a_batch_is_a_function_of_the_step(cache):
    forward = [batches(cache)(step) for step in range(1, 13)]
    source = batches(cache)
    for step in reversed(range(1, 13)):
        found = source(step)
        assert torch.equal(found["ids_BT"], forward[step - 1]["ids_BT"])
        assert torch.equal(found["weights_BT"], forward[step - 1]["weights_BT"])
        assert found["counts"] == forward[step - 1]["counts"]
    assert not torch.equal(batches(cache, seed=1)(1)["ids_BT"], forward[0]["ids_BT"])


def test_every_document_once_an_epoch(cache):
    names = {
        tuple(cache.codes(i)) + tuple(cache.text(i, k)): (i, k) for i in range(22) for k in range(5)
    }
    source, seen = batches(cache, batch=11), []
    for step in range(1, 41):
        for row in rows(source(step)):
            text, image = parse_sample(row, VOCABULARY)[0].segments
            seen.append(names[image.codes + text.ids])
    for epoch in range(20):
        part = [index for index, _ in seen[epoch * 22 : epoch * 22 + 22]]
        assert sorted(part) == list(range(22))
    assert seen[:22] != seen[22:44]
    assert set(Counter(k for _, k in seen)) == {0, 1, 2, 3, 4}


def test_shapes_and_padding(cache):
    found = batches(cache)(3)
    ids_BT, weights_BT = found["ids_BT"], found["weights_BT"]
    assert ids_BT.dtype == torch.int64 and weights_BT.dtype == torch.float32
    assert ids_BT.shape == weights_BT.shape and ids_BT.shape[0] == 4 and ids_BT.shape[1] % 8 == 0
    longest = int((ids_BT != VOCABULARY.pad).sum(1).max())
    assert longest > ids_BT.shape[1] - 8
    assert (weights_BT[ids_BT == VOCABULARY.pad] == 0).all() and (weights_BT[:, 0] == 0).all()
    assert found["counts"]["seen"] == int((ids_BT != VOCABULARY.pad).sum())
    assert found["counts"]["rows"] == 4 and found["counts"]["cut"] == 0


def test_rows_beyond_the_context_are_cut_and_counted(cache):
    whole, cut = batches(cache)(2), batches(cache, context=20)(2)
    assert cut["ids_BT"].shape == (4, 20)
    assert torch.equal(cut["ids_BT"], whole["ids_BT"][:, :20])
    assert cut["counts"]["cut"] == 4 and cut["counts"]["seen"] == 80


def test_neighbours_stand_before_the_document(cache):
    asked = []

    def neighbours(index, generator):
        asked.append((index, generator.random()))
        return [cache.document((index + 1) % 22), cache.document((index + 2) % 22)]

    near = rows(batches(cache, neighbours=neighbours)(2))
    plain = rows(batches(cache)(2))
    for (index, _), with_context, alone in zip(asked, near, plain, strict=True):
        one, two, query = parse_sample(with_context, VOCABULARY)
        assert (one, two) == (cache.document((index + 1) % 22), cache.document((index + 2) % 22))
        assert [query] == parse_sample(alone, VOCABULARY)
    before = list(asked)
    asked.clear()
    batches(cache, neighbours=neighbours)(2)
    assert asked == before and len({draw for _, draw in asked}) == 4


class Known(nn.Module):
    """A model whose loss on every target is the target's own id, in thousandths."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def loss_per_token(self, ids_BT, weights_BT=None):
        return ids_BT[:, 1:] / 1000 * (weights_BT[:, 1:] != 0) + self.zero


def test_loss_and_what_is_logged(cache):
    objective = ObjectiveConfig(fewest=1, p_full=0.7)
    found = batches(cache, batch=16, objective=objective)(1)
    value, logged = pair_loss(VOCABULARY)(Known(), found, 1)
    ids, weights = found["ids_BT"][:, 1:].numpy(), found["weights_BT"][:, 1:].numpy()
    assert value.item() == pytest.approx((ids * weights).sum() / weights.sum() / 1000, rel=1e-5)
    for kind, chosen in (("text", VOCABULARY.is_text(ids)), ("image", VOCABULARY.is_image(ids))):
        expected = ids[chosen & (weights > 0)].mean() / 1000
        assert logged[f"{kind}_loss"].item() == pytest.approx(expected, rel=1e-5)
    counts = found["counts"]
    assert logged["text_masked_rate"] == counts["text_masked"] / 16 > 0
    assert logged["text_full_rate"] == counts["text_full"] / 16 > 0
    assert logged["tokens"] == counts["seen"] and "cut_rate" not in logged


def test_masking_rates_show_the_options(cache):
    def rate(name, **options):
        source = batches(cache, batch=32, objective=ObjectiveConfig(fewest=1, **options))
        logged = [pair_loss(VOCABULARY)(Known(), source(step), step)[1] for step in range(1, 11)]
        return np.mean([one[name] for one in logged])

    assert rate("text_full_rate", p_full=1.0) > 0.5
    assert rate("text_full_rate", p_full=0.0, spans="block") < 0.2


def test_held_out_losses_are_apart(cache):
    found = pair_held_out(cache, VOCABULARY, 6, batch=4)(Known())
    targets = [build_sample(cache.document(i), [], VOCABULARY)[1:] for i in range(6)]
    ids = np.concatenate(targets)
    text, image = ids[VOCABULARY.is_text(ids)], ids[VOCABULARY.is_image(ids)]
    assert found["text"] == pytest.approx(text.mean() / 1000, rel=1e-5)
    assert found["image"] == pytest.approx(image.mean() / 1000, rel=1e-5)
    assert found["image_free"] == pytest.approx(found["image"])  # the same pictures
    both = np.concatenate([text, image])
    assert found["loss"] == pytest.approx(both.mean() / 1000, rel=1e-5)
    assert pair_held_out(cache, VOCABULARY, 6, batch=1)(Known()) == pytest.approx(found)


def test_held_out_prompt_of_the_free_stream_hides_the_caption(cache):
    seen = []

    class Watch(Known):
        def loss_per_token(self, ids_BT, weights_BT=None):
            seen.extend(ids_BT.tolist())
            return super().loss_per_token(ids_BT, weights_BT)

    def neighbours(index, generator):
        return [cache.document(index + 1)]

    pair_held_out(cache, VOCABULARY, 1, neighbours=neighbours)(Watch())
    plain, masked = ([token for token in row if token != VOCABULARY.pad] for row in seen)
    assert plain == build_sample(cache.document(0), [cache.document(1)], VOCABULARY).tolist()
    context = 2 + len(cache.text(1, 0)) + 1 + 16  # <eos>, document with its <break>, <break>
    assert masked[context : context + 2] == [VOCABULARY.mask(0), VOCABULARY.break_]
    assert unrotate(np.array(masked), VOCABULARY).tolist() == plain


def test_a_tiny_transformer_learns_and_resumes(cache, tmp_path):
    model = ModelConfig("tiny", 1, 32, 2, 96, SIZES, init_std=0.05, position_std=0.02)
    config = TrainConfig(
        steps=30, batch=8, rate=1e-2, warmup=3, save_every=10, eval_every=30, log_every=5,
        precision="float32",
    )  # fmt: skip

    def run(folder, source):
        module = Transformer(model)
        evaluate = pair_held_out(cache, VOCABULARY, 8)
        train(module, pair_loss(VOCABULARY), source, config, folder, evaluate=evaluate)
        return module_digest(module)

    def dying(step):
        if step == 17:
            raise KeyboardInterrupt
        return batches(cache, batch=8, context=96)(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", dying)
    source = batches(cache, batch=8, context=96)
    assert run(tmp_path / "killed", source) == run(tmp_path / "whole", source)
    log = [
        json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    ]
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert {"held_out_text", "held_out_image", "text_full_rate", "tokens_per_s"} <= set(log[-1])


def test_collate_one_row():
    found = collate([(np.arange(3), np.ones(3, np.float32))], {"rows": 1}, VOCABULARY)
    assert found["ids_BT"].tolist() == [[0, 1, 2] + [VOCABULARY.pad] * 5]
    assert found["counts"] == {"rows": 1, "seen": 3, "cut": 0}
