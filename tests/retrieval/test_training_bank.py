"""The bank of a training: documents held out are never found; what does not fit gets one line."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.config import RetrievalConfig
from cm3leon.data.token_cache import FORMAT
from cm3leon.errors import UserError
from cm3leon.identity import seal
from cm3leon.retrieval.bank import MemoryBank, unit
from cm3leon.retrieval.select import Query, select
from cm3leon.retrieval.training_bank import find_bank, without

ABOUT = {
    "source": {"kind": "x", "sha256": "s"},
    "clip_sha256": "c" * 64,
    "text_sha256": "t",
    "vq_sha256": "v",
}


def bank_of(count: int, width: int = 4) -> MemoryBank:
    vectors = seeds.generator(0, "training bank", count).normal(size=(count, width))
    names = [f"document {row}" for row in range(count)]
    return MemoryBank(unit(vectors.astype(np.float32)), names, "c" * 64, ABOUT["source"])


@given(st.integers(2, 30), st.data())
@settings(max_examples=40)
def test_a_search_without_is_a_search_that_skips(count, data):
    bank = bank_of(count)
    some = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    ids = [f"document {row}" for row in sorted(some)]
    cut, kept = without(bank, [*ids, "not in the bank"])
    assert [bank.ids[row] for row in kept] == cut.ids
    assert set(kept.tolist()) == set(range(count)) - some
    order = bank.search(bank.vectors[:2], count)[1]
    expected = [[row for row in rows.tolist() if row not in some] for rows in order]
    assert kept[cut.search(bank.vectors[:2], len(cut))[1]].tolist() == expected


@pytest.mark.parametrize("rows", [range(90, 100), range(40, 50)])
def test_with_an_index_too(rows):
    bank = bank_of(100)
    bank.train_index()
    bank.index.nprobe = bank.index.nlist
    queries = bank.vectors[list(rows)].copy()
    ids = [f"document {row}" for row in rows]
    cut, kept = without(bank, ids)
    assert cut.index is not None and cut.recall > 0.9
    config = RetrievalConfig(documents=3, by="text", threshold=2.0)
    cut.index.nprobe = cut.index.nlist
    found = kept[select(Query(texts=queries), cut, config)]
    assert not set(found.ravel().tolist()) & set(rows)
    exact = bank_of(100)
    plain, plain_kept = without(exact, ids)
    expected = plain_kept[select(Query(texts=queries), plain, config)]
    np.testing.assert_array_equal(found, expected)


def test_nothing_to_leave_out_is_the_bank_itself_and_all_is_too_much():
    bank = bank_of(5)
    same, kept = without(bank, ["other"])
    assert same is bank and kept.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="a memory bank needs at least one document"):
        without(bank, bank.ids)


def queries_of(folder, **about):
    return SimpleNamespace(folder=folder / "queries", about=ABOUT | about)


def test_what_is_no_bank_for_these_queries(tmp_path):
    with pytest.raises(UserError, match="was encoded without a CLIP; encode it again with one"):
        find_bank(tmp_path, queries_of(tmp_path, clip_sha256=None))
    with pytest.raises(UserError, match=r"no memory bank at .*; name what"):
        find_bank(tmp_path, queries_of(tmp_path))
    (tmp_path / "cache.json").write_text(seal(ABOUT | {"format": FORMAT}))
    assert find_bank(tmp_path, queries_of(tmp_path)).index is None
    for part in ("text_sha256", "vq_sha256"):
        with pytest.raises(UserError, match=f"has {part} .*encode both with the same tokenizers"):
            find_bank(tmp_path, queries_of(tmp_path, **{part: "other"}))
    with pytest.raises(UserError, match=r"was made with CLIP cccc.* with dddd"):
        find_bank(tmp_path, queries_of(tmp_path, clip_sha256="d" * 64))
    index = tmp_path / "index"
    bank_of(3).save(index)
    place = find_bank(index, queries_of(tmp_path))
    assert place == (tmp_path / "queries", index)
    with pytest.raises(UserError, match=r"is no bank of .*; give the cache it was made of"):
        find_bank(index, queries_of(tmp_path, source={"kind": "y"}))
