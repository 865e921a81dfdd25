"""Token cache: exact, restartable, honest about what it could not read."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from cm3leon.cache import TokenCache, encode
from cm3leon.checkpoint import module_digest
from cm3leon.config import VQConfig
from cm3leon.errors import UserError
from cm3leon.pictures import write_png
from cm3leon.scenes import scene
from cm3leon.sequence import Document
from cm3leon.sources import Files, Scenes
from cm3leon.text import TextTokenizer

COUNT, SHARD = 22, 8


class Blocks(nn.Module):
    """A stand-in for the image tokenizer: codes are the mean grey of 16 blocks."""

    def __init__(self, shift: float = 0.0):
        super().__init__()
        self.config = VQConfig(resolution=32, codebook_size=64)
        self.shift = nn.Parameter(torch.tensor(shift))
        self.pictures = 0

    def encode(self, images) -> torch.Tensor:
        self.pictures += len(images)
        grey = torch.as_tensor(images).float().mean(3)
        return grey.unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)).div(4).long().flatten(1)


class Lengths:
    """A stand-in for CLIP: directions by the length of a text and the brightness of a picture."""

    sha256, width = "ab" * 32, 2

    def texts(self, texts):
        angles = np.array([len(text) / 50 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def images(self, images):
        angles = np.array([image.mean() / 255 for image in images])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def source(count=COUNT) -> Scenes:
    return Scenes("stock", "train", 100, count, 32, SHARD)


@pytest.fixture(scope="module")
def tokenizer():
    captions = [text for index in range(60) for text in scene("stock", "train", index).captions]
    return TextTokenizer.train(captions, 300)


@pytest.fixture(scope="module")
def cache(tokenizer, tmp_path_factory):
    """22 training scenes in three shards."""
    return encode(source(), Blocks(), tokenizer, tmp_path_factory.mktemp("data") / "cache")


def contents(folder) -> dict:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_cache_holds_what_the_tokenizers_make(cache, tokenizer):
    assert len(cache) == COUNT and cache.captions == 5 and not cache.skipped
    for index in (0, 7, 8, 21):
        truth = scene("stock", "train", 100 + index, 32)
        assert np.array_equal(cache.codes(index), Blocks().encode(truth.image[None])[0])
        for k, caption in enumerate(truth.captions):
            assert tokenizer.decode(cache.text(index, k)) == caption
    assert cache.document(3, 2) == Document.pair(cache.text(3, 2), cache.codes(3))
    assert cache.ids == [f"stock-train-{100 + k}" for k in range(COUNT)]
    assert cache.about["vq_sha256"] == module_digest(Blocks())
    assert cache.about["text_sha256"] == tokenizer.digest
    with pytest.raises(UserError, match=r"document must lie in 0..21, got 22"):
        cache.codes(22)
    with pytest.raises(UserError, match="was encoded without a CLIP"):
        cache.vectors("image_vectors")


def test_vectors_lie_beside_the_tokens(tokenizer, tmp_path):
    cache = encode(source(), Blocks(), tokenizer, tmp_path, clip=Lengths())
    truth = [scene("stock", "train", 100 + k, 32) for k in range(COUNT)]
    images, texts = cache.vectors("image_vectors"), cache.vectors("text_vectors")
    assert np.array_equal(images, Lengths().images([one.image for one in truth]))
    assert np.array_equal(texts, Lengths().texts([one.captions[0] for one in truth]))
    assert cache.about["clip_sha256"] == Lengths.sha256
    with pytest.raises(UserError, match=r"with clip_sha256 = .*, asked for None"):
        encode(source(), Blocks(), tokenizer, tmp_path)


def test_a_kill_loses_at_most_a_shard(tokenizer, cache, tmp_path):
    class Killed(Blocks):
        def encode(self, images):
            if self.pictures >= SHARD:
                raise KeyboardInterrupt
            return super().encode(images)

    with pytest.raises(KeyboardInterrupt):
        encode(source(), Killed(), tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"lacks shard-00001.json; finish encoding it"):
        TokenCache(tmp_path)
    again = Blocks()
    encode(source(), again, tokenizer, tmp_path)
    assert again.pictures == COUNT - SHARD
    assert contents(tmp_path) == contents(cache.folder)
    encode(source(), again, tokenizer, tmp_path)
    assert again.pictures == COUNT - SHARD  # finished: nothing is drawn again


@pytest.mark.parametrize("batch", [1, 5])
def test_batch_size_cannot_be_seen(tokenizer, cache, tmp_path, batch, monkeypatch):
    monkeypatch.setattr("cm3leon.cache.BATCH", batch)
    encode(source(), Blocks(), tokenizer, tmp_path)
    assert contents(tmp_path) == contents(cache.folder)


def test_workers_cannot_be_seen(tokenizer, cache, tmp_path):
    encode(source(), Blocks(), tokenizer, tmp_path, workers=1)
    assert contents(tmp_path) == contents(cache.folder)


def test_another_cache_is_refused(tokenizer, cache):
    with pytest.raises(UserError, match=r"with vq_sha256 = '.*', asked for") as error:
        encode(source(), Blocks(shift=1.0), tokenizer, cache.folder)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"with source = .*'count': 22.*, asked for .*'count': 23"):
        encode(source(23), Blocks(), tokenizer, cache.folder)


def test_damaged_caches_are_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*cache.json"):
        TokenCache(tmp_path)
    encode(source(), Blocks(), tokenizer, tmp_path)
    good = contents(tmp_path)
    (tmp_path / "codes-00001.npy").write_bytes(good["codes-00001.npy"][:100])
    with pytest.raises(UserError, match="is damaged"):
        TokenCache(tmp_path)
    (tmp_path / "codes-00001.npy").write_bytes(good["codes-00002.npy"])
    with pytest.raises(UserError, match="does not fit"):
        TokenCache(tmp_path)
    (tmp_path / "cache.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(UserError, match="has format 9"):
        TokenCache(tmp_path)


def test_what_could_not_be_read_is_named_and_the_rest_is_there(tokenizer, tmp_path):
    pictures = tmp_path / "pictures"
    for k in range(6):
        write_png(pictures / f"{k}.png", scene("stock", "val", k, 40).image)
        (pictures / f"{k}.txt").write_text(f"picture  number\n{k}")
    (pictures / "1.png").write_bytes(b"no picture")
    (pictures / "4.txt").unlink()
    cache = encode(Files(pictures, 4), Blocks(), tokenizer, tmp_path / "cache", clip=Lengths())
    assert cache.ids == ["0.png", "2.png", "3.png", "5.png"] and len(cache) == 4
    assert [name for name, _ in cache.skipped] == ["1.png", "4.png"]
    assert "no picture Pillow can read" in cache.skipped[0][1]
    assert "no caption 4.txt beside it" in cache.skipped[1][1]
    assert tokenizer.decode(cache.text(3)) == "picture number 5"
    assert cache.vectors("text_vectors").shape == (4, 2)


def test_nothing_readable_is_an_error(tokenizer, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"no document could be read .* a.png: .*no picture"):
        encode(Files(tmp_path / "pictures"), Blocks(), tokenizer, tmp_path / "cache")
