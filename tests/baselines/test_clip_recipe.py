"""The recipe of the scenes CLIP: its loss and recall by hand, and a short training end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import baselines.clip as recipe
from baselines.clip import (
    ClipTraining,
    another,
    entity_documents,
    pairs,
    recalls,
    train_clip,
)
from cm3leon.clip import ClipConfig, Words, load_clip
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.world.scenes import ABOUT_ONE, PLAIN, SEEN, scene

SMALL = ClipConfig(width=16, heads=2, image_layers=1, text_layers=1, patch=16)


class Fixed(nn.Module):
    """Stands in for open_clip's network: the vectors are its inputs."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(np.log(10.0)))

    def encode_image(self, x, normalize):
        return nn.functional.normalize(x, dim=-1)

    encode_text = encode_image


def cross_entropy(p) -> torch.Tensor:
    return -(p.log_softmax(1).diagonal().mean() + p.log_softmax(0).diagonal().mean()) / 2


def test_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    image, text, other = torch.randn(3, 5, 3, generator=generator)
    looks = torch.randn(2, 3, generator=generator)  # of the last two
    a, b, c, d = (x / x.norm(dim=1, keepdim=True) for x in (image, text, other, looks))
    both = (a + b) / (a + b).norm(dim=1, keepdim=True)
    parts = {
        False: [(a, b), (c, b)],
        True: [(a, b), (c, both), (d, both[3:])],
    }
    for documents, pairs_of in parts.items():
        loss, logged = ClipTraining(Fixed(), documents)(image, text, other, looks)
        by_hand = sum(cross_entropy(10 * x @ y.T) for x, y in pairs_of) / len(pairs_of)
        assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
        assert logged["scale"].item() == pytest.approx(10)


def test_recall_by_hand():
    scores = np.eye(20)
    assert set(recalls(scores).values()) == {1.0}
    scores[3] = [1] * 3 + [0] + [1] * 16  # text 3: its picture comes last
    found = recalls(scores)
    assert found["text_to_image_recall_at_10"] == pytest.approx(0.95)
    # The other pictures' texts tie with text 3 alone (rank 0.5), that of picture 3 with all (9.5).
    assert found["image_to_text_recall_at_1"] == pytest.approx(0.95)
    level = recalls(np.zeros((20, 20)))
    assert (level["text_to_image_recall_at_5"], level["text_to_image_recall_at_10"]) == (0, 1)


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.train(
        (text for index in range(200) for text in scene("stock", "train", index).captions), 512
    )


def test_pairs_hang_on_the_step_alone(tokenizer):
    words = Words(tokenizer, 48)
    images, ids, others, looks = pairs(3, 8, words)
    again = zip(pairs(3, 8, words), (images, ids, others, looks), strict=True)
    assert all(torch.equal(x, y) for x, y in again)
    documents = entity_documents(3, 4)
    shown = [scene("stock", "train", 8 + k) for k in range(4)]
    shown += [scene("stock", "study", index) for index in documents]
    for k, one in enumerate(shown):
        assert any(torch.equal(words([text])[0], ids[k]) for text in one.captions)
        drawn = (images[k].permute(1, 2, 0).numpy() * 127.5 + 127.5).round()
        assert drawn == pytest.approx(one.image)
        same = any(torch.equal(words([text])[0], others[k]) for text in one.captions)
        assert same == (k < 4)
    for k, index in enumerate(documents, start=4):
        entity = (index - PLAIN) // ABOUT_ONE
        around = range(PLAIN + entity * ABOUT_ONE, PLAIN + (entity + 1) * ABOUT_ONE)
        texts = [text for at in around for text in scene("stock", "study", at).captions]
        assert any(torch.equal(words([text])[0], others[k]) for text in texts)
        drawn = (looks[k - 4].permute(1, 2, 0).numpy() * 127.5 + 127.5).round()
        same = [(drawn == scene("stock", "study", at).image).all() for at in around]
        assert sum(same) == 1 and not same[index - around[0]]


def test_entities_that_never_occur_are_not_seen():
    seen = [index for step in range(1, 4) for index in entity_documents(step, 10_000)]
    assert min(seen) == PLAIN and max(seen) == SEEN - 1
    assert len(set(seen[: SEEN - PLAIN])) == SEEN - PLAIN  # an epoch
    assert {another(PLAIN + 6, k) for k in range(1, 6)} == set(range(PLAIN + 7, PLAIN + 12))


def test_trained_saved_and_loaded(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(recipe, "CLIP_SHAPE", replace(SMALL, text_size=tokenizer.size))
    monkeypatch.setattr(recipe, "HELD_OUT", 20)
    monkeypatch.setattr(recipe, "TEXT_PICTURES", 200)  # those of the fixture
    first = replace(recipe.FIRST, steps=6, batch=8, warmup=2, eval_every=3, log_every=2)
    second = replace(first, steps=4)
    train_clip(tmp_path / "run", tmp_path, "cpu", first, second)
    clip = load_clip(tmp_path / "clip")
    assert clip.width == 16 and clip.texts(["a red star"]).shape == (1, 16)
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "run", tmp_path / "clip")
    ]
    assert logs[0][-1]["step"] == 6 and logs[1][-1]["step"] == 4
    assert logs[0][0]["scale"] == pytest.approx(1 / 0.07)
    assert logs[1][0]["scale"] != logs[0][0]["scale"]  # goes on from the first stage
    for log in logs:
        assert 0 <= log[-1]["held_out_text_to_image_recall_at_10"] <= 1
        assert 0 < log[-1]["loss"] < 10
    about = json.loads((tmp_path / "clip" / "config.json").read_text())
    assert about["extra"]["text_sha256"] == tokenizer.digest and about["extra"]["device"]
    assert about["extra"]["second"]["steps"] == 4
