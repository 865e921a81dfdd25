"""Re-ranking: the best of several samples, by CLIP."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.rerank import Reranked
from cm3leon.errors import UserError


@dataclass(frozen=True)
class Stub:
    """A system whose picture is one colour, decided by the seed and the temperature."""

    name: str = "stub"
    weights_sha256: str = "0" * 64
    device: str = "cpu"
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    @property
    def config(self) -> dict:
        return {"temperature": self.decode.temperature}

    def with_decode(self, decode):
        return replace(self, decode=decode)

    def draw(self, prompts, seeds):
        base = int(100 * self.decode.temperature)
        shades = [base + np.random.default_rng(seed).integers(0, 50) for seed in seeds]
        return np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in shades])


def texts(prompts):
    return np.array([[1.0, 0.0]] * len(prompts), np.float32)


def images(pictures):
    """Brighter is nearer to every text."""
    angle = np.pi / 2 * (1 - np.array([one.mean() / 255 for one in pictures]))
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


CLIP = SimpleNamespace(texts=texts, images=images, sha256="c" * 64)
PROMPTS, SEEDS = ["a", "b", "c"], [3, 4, 5]


def test_the_best_of_the_pool_is_kept():
    system = Reranked(Stub(), CLIP, samples=6)
    pool = system.pool(PROMPTS, SEEDS)
    assert pool.shape == (3, 6, 4, 4, 3)
    drawn = system.draw(PROMPTS, SEEDS)
    np.testing.assert_array_equal(drawn.mean((1, 2, 3)), pool.mean((2, 3, 4)).max(1))
    np.testing.assert_array_equal(pool[:, :2], Reranked(Stub(), CLIP, 2).pool(PROMPTS, SEEDS))
    assert len(np.unique(pool[0].mean((1, 2, 3)))) > 3  # samples differ


def test_one_sample_is_the_base():
    alone = Reranked(Stub(), CLIP, samples=1)
    np.testing.assert_array_equal(alone.draw(PROMPTS, SEEDS), Stub().draw(PROMPTS, SEEDS))


def test_mixed_sets_take_turns():
    cold, hot = DecodeConfig(temperature=0.5), DecodeConfig(temperature=2.0)
    mixed = Reranked(Stub(), CLIP, 4, (cold, hot))
    shades = mixed.pool(PROMPTS, SEEDS)[0, :, 0, 0, 0]
    assert (shades[::2] < 100).all() and (shades[1::2] >= 200).all()
    assert mixed.config["decodes"][1]["temperature"] == 2.0
    assert mixed.name == "stub+best4" and mixed.config["rerank_clip_sha256"] == "c" * 64


def test_bad_input():
    with pytest.raises(UserError, match="samples must be at least 1, got 0"):
        Reranked(Stub(), CLIP, 0)
    with pytest.raises(UserError, match="1 samples cannot hold 2 ways"):
        Reranked(Stub(), CLIP, 1, (DecodeConfig(), DecodeConfig()))
