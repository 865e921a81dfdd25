"""Batches: a function of the step, shaped and masked as told, and fit to learn from."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cm3leon.checkpoint import module_digest
from cm3leon.config import ModelConfig, ObjectiveConfig, TrainConfig, VocabularyConfig
from cm3leon.data.token_cache import encode
from cm3leon.model.transformer import Transformer
from cm3leon.retrieval.neighbours import Neighbours
from cm3leon.sequence.documents import Vocabulary, build_sample, parse_sample
from cm3leon.sequence.masking import unrotate
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.training.batches import collate, token_loss
from cm3leon.training.loop import Problem, train
from cm3leon.training.pairs import HeldOut, Queries, pair_batches, pair_held_out
from cm3leon.world.scenes import scene
from tests.data.test_token_cache import Blocks
from tests.data.test_token_cache import source as scenes

SIZES = VocabularyConfig(300, 64, 4)
VOCABULARY = Vocabulary.from_config(SIZES)
MODEL = ModelConfig("tiny", 1, 16, 2, 96, SIZES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """22 training scenes in three shards."""
    captions = [text for index in range(60) for text in scene("stock", "train", index).captions]
    tokenizer = TextTokenizer.train(captions, 300)
    return encode(scenes(), Blocks(), tokenizer, tmp_path_factory.mktemp("data") / "cache")


def batches(cache, batch=4, seed=0, objective=None, model=None, **more):
    queries = Queries(cache, **more)
    return pair_batches(queries, VOCABULARY, objective or ObjectiveConfig(), batch, seed, model)


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
    whole, cut = batches(cache)(2), batches(cache, model=replace(MODEL, context=20))(2)
    assert cut["ids_BT"].shape == (4, 20)
    assert torch.equal(cut["ids_BT"], whole["ids_BT"][:, :20])
    assert cut["counts"]["cut"] == 4 and cut["counts"]["seen"] == 80


def near(cache, shares) -> Neighbours:
    """Document i has the neighbours i + 1, i + 2, i + 3 and i + 4, in a circle."""
    rows = (np.arange(22)[:, None] + np.arange(1, 5)) % 22
    return Neighbours(rows, cache, shares)


def test_neighbours_stand_before_the_document(cache):
    names = {cache.document(i, k): i for i in range(22) for k in range(5)}
    drawn = set()
    for step in range(1, 12):
        found = batches(cache, batch=2, neighbours=near(cache, (0, 0, 0, 1)))(step)
        alone = rows(batches(cache, batch=2)(step))
        for row, query in zip(rows(found), alone, strict=True):
            *before, last = parse_sample(row, VOCABULARY)
            assert [last] == parse_sample(query, VOCABULARY)
            shifts = [(names[document] - names[last]) % 22 for document in before]
            assert len(set(shifts)) == 3 and set(shifts) <= {1, 2, 3, 4}
            assert before == [cache.document(names[document]) for document in before]
            drawn.add(tuple(shifts))
    assert len(drawn) > 10  # of 24: which ones and in which order is drawn


def test_documents_of_a_step_follow_the_shares(cache):
    source = batches(cache, neighbours=near(cache, (0.5, 0.0, 0.5)))
    counts = []
    for step in range(1, 61):
        (count,) = {len(parse_sample(row, VOCABULARY)) - 1 for row in rows(source(step))}
        counts.append(count)
    assert set(counts) == {0, 2} and 18 <= counts.count(0) <= 42
    again = batches(cache, neighbours=near(cache, (0.5, 0.0, 0.5)))
    assert torch.equal(again(7)["ids_BT"], source(7)["ids_BT"])


def test_without_documents_it_is_the_plain_training(cache):
    plain, none = batches(cache), batches(cache, neighbours=near(cache, (1.0,)))
    assert all(torch.equal(plain(k)["ids_BT"], none(k)["ids_BT"]) for k in range(1, 9))


def test_only_the_chosen_documents_are_trained_on(cache):
    chosen = np.array([3, 7, 8, 20, 21])
    names = {tuple(cache.codes(i)) for i in chosen}
    source = batches(cache, batch=5, among=chosen)
    seen = [parse_sample(row, VOCABULARY)[0] for step in (1, 2, 3) for row in rows(source(step))]
    assert {document.segments[1].codes for document in seen} == names
    whole = batches(cache, batch=5, among=np.arange(22))
    assert torch.equal(whole(3)["ids_BT"], batches(cache, batch=5)(3)["ids_BT"])


class Known(nn.Module):
    """A model whose loss on every target is the target's own id, in thousandths."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def loss_per_token(self, ids_BT, weights_BT=None, positions_BT=None):
        return ids_BT[:, 1:] / 1000 * (weights_BT[:, 1:] != 0) + self.zero


def test_loss_and_what_is_logged(cache):
    objective = ObjectiveConfig(fewest=1, p_full=0.7)
    found = batches(cache, batch=16, objective=objective)(1)
    value, logged = token_loss(VOCABULARY)(Known(), found, 1)
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
        logged = [token_loss(VOCABULARY)(Known(), source(step), step)[1] for step in range(1, 11)]
        return np.mean([one[name] for one in logged])

    assert rate("text_full_rate", p_full=1.0) > 0.5
    assert rate("text_full_rate", p_full=0.0, spans="block") < 0.2


def test_held_out_losses_are_apart(cache):
    found = pair_held_out(HeldOut(cache, range(6)), VOCABULARY, batch=4)(Known())
    targets = [build_sample(cache.document(i), [], VOCABULARY)[1:] for i in range(6)]
    ids = np.concatenate(targets)
    text, image = ids[VOCABULARY.is_text(ids)], ids[VOCABULARY.is_image(ids)]
    assert found["text"] == pytest.approx(text.mean() / 1000, rel=1e-5)
    assert found["image"] == pytest.approx(image.mean() / 1000, rel=1e-5)
    assert found["image_free"] == pytest.approx(found["image"])  # the same pictures
    both = np.concatenate([text, image])
    assert found["loss"] == pytest.approx(both.mean() / 1000, rel=1e-5)
    assert pair_held_out(HeldOut(cache, range(6)), VOCABULARY, batch=1)(Known()) == pytest.approx(
        found
    )


def test_held_out_prompt_of_the_free_stream_hides_the_caption(cache):
    seen = []

    class Watch(Known):
        def loss_per_token(self, ids_BT, weights_BT=None, positions_BT=None):
            seen.extend(ids_BT.tolist())
            return super().loss_per_token(ids_BT, weights_BT, positions_BT)

    held = HeldOut(cache, range(1), near(cache, (0, 1.0)), documents=1)
    found = pair_held_out(held, VOCABULARY)(Watch())
    plain, masked, alone = ([token for token in row if token != VOCABULARY.pad] for row in seen)
    assert plain == build_sample(cache.document(0), [cache.document(1)], VOCABULARY).tolist()
    assert alone == build_sample(cache.document(0), [], VOCABULARY).tolist()
    context = 2 + len(cache.text(1, 0)) + 1 + 16  # <eos>, document with its <break>, <break>
    assert masked[context : context + 2] == [VOCABULARY.mask(0), VOCABULARY.break_]
    assert unrotate(np.array(masked), VOCABULARY).tolist() == plain
    # Known's loss is the id, so the means tell which tokens were counted where.
    codes = {at: np.array(cache.codes(at)) + VOCABULARY.image_start for at in (0, 1)}
    assert found["image_at_0"] == pytest.approx(codes[1].mean() / 1000)
    for name in ("image", "image_at_1", "image_alone", "image_free"):
        assert found[name] == pytest.approx(codes[0].mean() / 1000)
    assert found["text"] == pytest.approx(cache.text(0).mean() / 1000)


@pytest.mark.parametrize("positions", ["row", "grid"])
@pytest.mark.parametrize("documents", [False, True], ids=["alone", "documents"])
def test_a_tiny_transformer_learns_and_resumes(cache, tmp_path, positions, documents):
    """Killed and begun again it ends with the bytes of an unbroken run, in packed rows of different
    lengths, with documents before them and without.
    """
    model = ModelConfig(
        "tiny", 1, 32, 2, 320, SIZES, init_std=0.05, position_std=0.02,
        positions=positions, position_text=60, position_grid=4,
    )  # fmt: skip
    config = TrainConfig(
        steps=30, batch=8, rate=1e-2, warmup=3, save_every=10, eval_every=30, log_every=5,
        precision="float32", optimizer="muon",
    )  # fmt: skip
    found = near(cache, (0.3, 0.2, 0.2, 0.3)) if documents else None
    source = batches(cache, batch=8, model=model, neighbours=found)
    lengths = {len(row) for step in range(1, 9) for row in rows(source(step))}
    assert len(lengths) > 4

    def run(folder, source):
        module = Transformer(model)
        evaluate = pair_held_out(HeldOut(cache, range(8)), VOCABULARY, model)
        train(module, Problem(token_loss(VOCABULARY), source, evaluate=evaluate), config, folder)
        return module_digest(module)

    def dying(step):
        if step == 17:
            raise KeyboardInterrupt
        return source(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", dying)
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
    assert {name: float(total) for name, total in found["totals"].items()} == {
        "loss": 2.0, "text": 2, "image": 0
    }  # fmt: skip
