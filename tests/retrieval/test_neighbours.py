"""Neighbours of training documents: drawn by the shares, found by the strategy, never oneself."""

import numpy as np
import pytest

from cm3leon import seeds
from cm3leon.config import RetrievalConfig
from cm3leon.data.token_cache import encode
from cm3leon.errors import UserError
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.neighbours import Neighbours, check_shares, find_neighbours
from cm3leon.retrieval.select import Query, select
from cm3leon.sequence.documents import Text
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.world.scenes import scene
from tests.data.test_token_cache import Blocks, Lengths, source

FOUND = RetrievalConfig(documents=4, threshold=2.0, query_dropout=0.0)
ROWS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


class Dropping(Lengths):
    """`Lengths`, which hears of dropout and turns its vectors by it."""

    def texts(self, texts, *, dropout=0.0, generator=None):
        vectors = super().texts(texts)
        if not dropout:
            return vectors
        angle = generator.random(len(texts)) * dropout
        turned = vectors[:, 0] + 1j * vectors[:, 1]
        turned = turned * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], 1).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer():
    captions = [text for index in range(60) for text in scene("stock", "train", index).captions]
    return TextTokenizer.train(captions, 300)


@pytest.fixture(scope="module")
def cache(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("near") / "cache"
    return encode(source(), Blocks(), tokenizer, folder, clip=Dropping())


def test_draws_are_without_repetition_and_follow_the_generator(cache):
    near = Neighbours(ROWS, cache, (0.0, 0.5, 0.5))
    first = [near.draw(1, 2, seeds.generator(k, "draw")) for k in range(40)]
    again = [near.draw(1, 2, seeds.generator(k, "draw")) for k in range(40)]
    assert first == again
    allowed = {row: cache.document(row) for row in ROWS[1]}
    for pair in first:
        assert pair[0] != pair[1] and all(document in allowed.values() for document in pair)
    assert len({tuple(pair) for pair in first}) == 6  # every ordered pair of three
    assert near.first(2, 2) == [cache.document(0), cache.document(1)]
    assert near.draw(0, 0, seeds.generator(0)) == []


def test_counts_follow_the_shares(cache):
    near = Neighbours(ROWS, cache, (0.2, 0.0, 0.8))
    counts = [near.count(seeds.generator(0, "count", k)) for k in range(2000)]
    assert set(counts) == {0, 2}
    assert np.mean(np.array(counts) == 0) == pytest.approx(0.2, abs=0.03)
    assert Neighbours(ROWS, cache, (1.0,)).count(seeds.generator(0)) == 0


@pytest.mark.parametrize("shares", [(), (0.5,), (0.7, 0.7), (-0.5, 1.5), (float("nan"), 1)])
def test_shares_are_probabilities(shares):
    with pytest.raises(UserError, match="shares of documents must be probabilities"):
        check_shares(shares)


def test_more_documents_than_were_found(cache):
    with pytest.raises(UserError, match="ask for up to 4 documents, 3 were found"):
        Neighbours(ROWS, cache, (0, 0, 0, 0, 1.0))


def test_modality_reaches_the_documents(cache):
    texts = Neighbours(ROWS, cache, (0, 1.0), modality="text").first(0, 2)
    assert all(len(one.segments) == 1 and isinstance(one.segments[0], Text) for one in texts)


def test_found_as_the_strategy_says_and_never_oneself(cache, tokenizer):
    bank = MemoryBank.of_cache(cache)
    rows = find_neighbours(cache, bank, Dropping(), tokenizer, FOUND, 0)
    query = Query(cache.vectors("text_vectors"), cache.vectors("image_vectors"), cache.ids)
    np.testing.assert_array_equal(rows, select(query, bank, FOUND))
    assert rows.shape == (len(cache), 4)
    assert not (rows == np.arange(len(cache))[:, None]).any()


def test_query_dropout_moves_what_is_found_and_can_be_repeated(cache, tokenizer):
    bank = MemoryBank.of_cache(cache)
    config = RetrievalConfig(documents=4, threshold=2.0, query_dropout=0.9)
    plain = find_neighbours(cache, bank, Dropping(), tokenizer, FOUND, 0)
    dropped = find_neighbours(cache, bank, Dropping(), tokenizer, config, 0)
    assert (plain != dropped).any()
    again = find_neighbours(cache, bank, Dropping(), tokenizer, config, 0)
    np.testing.assert_array_equal(dropped, again)
    assert (find_neighbours(cache, bank, Dropping(), tokenizer, config, 1) != dropped).any()


def test_another_clip_is_refused(cache, tokenizer):
    other = Dropping()
    other.sha256 = "ef" * 32
    bank = MemoryBank.of_cache(cache)
    with pytest.raises(UserError, match=r"the cache was made with CLIP abab.*, this is efef"):
        find_neighbours(cache, bank, other, tokenizer, FOUND, 0)
    alien = MemoryBank(bank.vectors, bank.ids, other.sha256, {})
    with pytest.raises(UserError, match="the bank was made with CLIP efef"):
        find_neighbours(cache, alien, Dropping(), tokenizer, FOUND, 0)
