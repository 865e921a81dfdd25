"""A packed bank: the same documents and vectors in one file, and what damaged files say."""

import json

import numpy as np
import pytest

from cm3leon.data.token_cache import encode
from cm3leon.errors import UserError
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.packed import pack, unpack
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.world.scenes import scene
from tests.data.test_token_cache import Blocks, Lengths, source


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    captions = [text for index in range(60) for text in scene("stock", "train", index).captions]
    tokenizer = TextTokenizer.train(captions, 300)
    folder = tmp_path_factory.mktemp("packed") / "cache"
    return encode(source(), Blocks(), tokenizer, folder, clip=Lengths())


@pytest.fixture(scope="module")
def file(cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "bank.npz"
    pack(cache, MemoryBank.of_cache(cache), path)
    return path


def rewritten(file, path, **changes):
    """A copy of the file with some of its arrays replaced."""
    with np.load(file) as stored:
        np.savez(path, **{name: stored[name] for name in stored.files} | changes)
    return path


def test_documents_and_vectors_come_back(cache, file):
    found = unpack(file)
    assert len(found) == len(cache) and found.ids == cache.ids
    assert [found.document(k) for k in range(22)] == [cache.document(k) for k in range(22)]
    bank = MemoryBank.of_cache(cache)
    np.testing.assert_allclose(found.bank.vectors, bank.vectors, atol=1e-3)
    assert found.bank.clip_sha256 == bank.clip_sha256 and found.about["vq_sha256"]


def test_the_digest_is_of_the_contents(cache, file, tmp_path):
    same = rewritten(file, tmp_path / "same.npz")  # other bytes: not compressed
    assert unpack(same).sha256 == unpack(file).sha256
    with np.load(file) as stored:
        codes = stored["codes"].copy()
    codes[3, 3] += 1
    assert unpack(rewritten(file, tmp_path / "x.npz", codes=codes)).sha256 != unpack(file).sha256


def test_a_bank_of_other_documents_is_not_packed(cache, tmp_path):
    bank = MemoryBank.of_cache(cache)
    other = MemoryBank(bank.vectors, [f"x{k}" for k in range(22)], bank.clip_sha256, {})
    with pytest.raises(UserError, match="ids are not the cache's"):
        pack(cache, other, tmp_path / "bank.npz")
    assert not list(tmp_path.iterdir())


def test_bad_files(file, tmp_path):
    with pytest.raises(UserError, match=r"no packed bank at .*train_baselines"):
        unpack(tmp_path / "none.npz")
    torn = tmp_path / "torn.npz"
    torn.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match="no packed bank or damaged"):
        unpack(torn)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="no packed bank or damaged"):
        unpack(tmp_path / "text.npz")
    data = file.read_bytes()
    for place in range(0, len(data), 97):
        torn.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            assert unpack(torn).sha256 == unpack(file).sha256  # a date or such: not the contents
        except UserError:
            continue
    short = rewritten(file, tmp_path / "short.npz", codes=np.zeros((3, 16), np.uint16))
    with pytest.raises(UserError, match="its parts differ in length"):
        unpack(short)
    wide = rewritten(file, tmp_path / "wide.npz", vectors=np.zeros((22, 2), np.float32))
    with pytest.raises(UserError, match="vectors must be float16, got float32"):
        unpack(wide)
    about = np.frombuffer(json.dumps({"format": 9, "ids": []}).encode(), np.uint8)
    with pytest.raises(UserError, match="has format 9, this version reads 1"):
        unpack(rewritten(file, tmp_path / "new.npz", about=about))
