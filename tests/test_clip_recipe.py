"""The recipe of the scenes CLIP: its loss and recall by hand, and a short training end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import baselines.clip as recipe
from baselines.clip import ClipTraining, pairs, recalls, train_clip
from cm3leon.clip import ClipConfig, Words, load_clip
from cm3leon.scenes import scene
from cm3leon.text import TextTokenizer

SMALL = ClipConfig(width=16, heads=2, image_layers=1, text_layers=1, patch=16)


class Fixed(nn.Module):
    """Stands in for open_clip's network: the vectors are its inputs."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(np.log(10.0)))

    def encode_image(self, x, normalize):
        return nn.functional.normalize(x, dim=-1)

    encode_text = encode_image


def test_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 5, 3, generator=generator)
    loss, logged = ClipTraining(Fixed())(image, text)
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (image, text))
    p = 10 * a @ b.T
    by_hand = -(p.log_softmax(1).diagonal().mean() + p.log_softmax(0).diagonal().mean()) / 2
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
    images, ids = pairs(3, 4, words)
    again, same = pairs(3, 4, words)
    assert torch.equal(images, again) and torch.equal(ids, same)
    for k in range(4):
        one = scene("stock", "train", 8 + k)
        assert any(torch.equal(words([text])[0], ids[k]) for text in one.captions)
        assert (images[k].permute(1, 2, 0).numpy() * 127.5 + 127.5).round() == pytest.approx(
            one.image
        )


def test_trained_saved_and_loaded(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(recipe, "CLIP_SHAPE", replace(SMALL, text_size=tokenizer.size))
    monkeypatch.setattr(recipe, "HELD_OUT", 20)
    tokenizer.save(tmp_path / "text")
    short = replace(recipe.CLIP_TRAIN, steps=6, batch=8, warmup=2, eval_every=3, log_every=2)
    train_clip(tmp_path / "run", tmp_path, "cpu", short)
    clip = load_clip(tmp_path / "clip")
    assert clip.width == 16 and clip.texts(["a red star"]).shape == (1, 16)
    log = [json.loads(line) for line in (tmp_path / "clip" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 6 and 0 <= log[-1]["held_out_text_to_image_recall_at_10"] <= 1
    assert 0 < log[-1]["loss"] < log[0]["loss"] < 10 and log[0]["scale"] == pytest.approx(1 / 0.07)
    about = json.loads((tmp_path / "clip" / "config.json").read_text())
    assert about["extra"]["text_sha256"] == tokenizer.digest and about["extra"]["device"]
