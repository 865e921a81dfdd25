"""The retrieval strategy: against the plain loop, and the properties the paper asks for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.config import RetrievalConfig
from cm3leon.errors import UserError
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.select import Query, select, with_modality
from cm3leon.sequence.documents import Document

ALL = RetrievalConfig(documents=4)


def units(count: int, width: int, *seed) -> np.ndarray:
    """Directions in few clusters, so that many are too like one another."""
    generator = seeds.generator(0, "units", *seed)
    centres = seeds.generator(1, width).standard_normal((5, width))
    drawn = centres[generator.integers(5, size=count)] + 0.5 * generator.standard_normal(
        (count, width)
    )
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def bank_of(count: int, width: int = 8) -> MemoryBank:
    return MemoryBank(units(count, width), [f"d{k}" for k in range(count)], "", {})


def by_hand(lists, own, bank, count, threshold) -> list[tuple[int, float]]:
    """The strategy for one query as one would say it."""
    chosen = []
    for vector in lists:
        taken = 0
        scores = bank.vectors @ vector
        for row in np.argsort(-scores, kind="stable"):
            alike = [bank.vectors[row] @ bank.vectors[other] for other, _ in chosen]
            new = row != own and row not in [other for other, _ in chosen]
            if new and scores[row] <= threshold and all(s <= threshold for s in alike):
                chosen.append((int(row), float(scores[row])))
                taken += 1
            if taken == count:
                break
    return chosen


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 5),
    st.sampled_from([0.6, 0.8, 0.9, 1.01]),
    st.sampled_from(["text", "image", "both"]),
    st.integers(1, 4),
)
def test_against_the_plain_loop(seed, threshold, by, documents):
    bank = bank_of(120)
    config = RetrievalConfig(documents=documents, by=by, threshold=threshold)
    texts, images = units(6, 8, seed, "text"), bank.vectors[seed : seed + 6]
    query = Query(texts, images, ["d3", "no", "d5", "d6", "d7", "d8"])
    lists = {"text": [texts], "image": [images], "both": [texts, images]}[by]
    count = 2 if by == "both" else documents
    expected = [
        by_hand([part[q] for part in lists], bank.rows(query.ids)[q], bank, count, threshold)
        for q in range(6)
    ]
    if any(len(found) < count * len(lists) for found in expected):
        with pytest.raises(UserError, match=r"gives [0-9] of [0-9] documents for a query at thr"):
            select(query, bank, config)
        return
    rows = select(query, bank, config)
    assert rows.shape == (6, documents) and rows.dtype == np.int64
    for row, found in zip(rows, expected, strict=True):
        ranked = [r for r, _ in sorted(found, key=lambda pair: -pair[1])]
        assert row.tolist() == ranked[:documents]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.8, 0.9]), st.integers(1, 4))
def test_properties(seed, threshold, documents):
    bank = bank_of(400)
    config = RetrievalConfig(documents=documents, threshold=threshold, order="shuffled")
    own = seeds.generator(seed).integers(400, size=20)
    query = Query(units(20, 8, seed), bank.vectors[own], [f"d{row}" for row in own])
    rows = select(query, bank, config, seeds.generator(seed, "pick"))
    assert (rows == select(query, bank, config, seeds.generator(seed, "pick"))).all()
    assert (rows != own[:, None]).all()
    for found, text, image in zip(rows, query.texts, query.images, strict=True):
        vectors = bank.vectors[found]
        assert len(set(found.tolist())) == documents
        alike = vectors @ vectors.T - 2 * np.eye(documents)
        assert alike.max() <= threshold + 1e-6
        assert (np.minimum(vectors @ text, vectors @ image) <= threshold + 1e-6).all()


def test_a_higher_threshold_readmits_the_query_itself():
    """FACTS 11.17: the self match scores 1."""
    bank = bank_of(50)
    config = RetrievalConfig(documents=1, by="image")
    stranger = Query(images=bank.vectors[:9])
    assert (select(stranger, bank, config)[:, 0] != np.arange(9)).all()
    open_ = replace(config, threshold=1.01)
    assert (select(stranger, bank, open_)[:, 0] == np.arange(9)).all()
    named = replace(stranger, ids=[f"d{k}" for k in range(9)])
    assert (select(named, bank, open_)[:, 0] != np.arange(9)).all()  # never its own id


def test_wider_searches_find_what_is_hidden():
    """The nearest 60 are all too like the query; what is wanted comes after them."""
    near = np.tile(units(1, 8), (60, 1)) + 1e-3 * seeds.generator(2).standard_normal((60, 8))
    far = units(40, 8, "far")
    vectors = np.concatenate([near, far])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    bank = MemoryBank(vectors, [str(k) for k in range(100)], "", {})
    rows = select(Query(bank.vectors[:1]), bank, RetrievalConfig(2, by="text"))
    expected = by_hand([bank.vectors[0]], -1, bank, 2, 0.9)
    assert rows[0].tolist() == [row for row, _ in expected] and rows.min() >= 60


def test_shuffled_draws_from_both_lists():
    bank, query = bank_of(200), Query(units(300, 8, "t"), units(300, 8, "i"))
    ranked = select(query, bank, ALL)
    three = select(query, bank, replace(ALL, documents=3, order="shuffled"), seeds.generator(0))
    left_out = [np.flatnonzero(~np.isin(a, b))[0] for a, b in zip(ranked, three, strict=True)]
    assert np.bincount(left_out, minlength=4).min() > 45  # 75 expected of each rank
    assert len({tuple(np.argsort(row)) for row in three}) == 6
    with pytest.raises(UserError, match="needs a generator"):
        select(query, bank, replace(ALL, order="shuffled"))


def test_none_and_nobody():
    bank = bank_of(30)
    query = Query(units(3, 8), units(3, 8))
    assert select(query, bank, RetrievalConfig(0)).shape == (3, 0)
    assert select(Query(units(3, 8)[:0]), bank, RetrievalConfig(2, by="text")).shape == (0, 2)


@pytest.mark.parametrize(
    ("query", "config", "message"),
    [
        (Query(units(2, 8)), ALL, "retrieval.by 'both' needs image vectors"),
        (Query(images=units(2, 8)), RetrievalConfig(by="text"), "by 'text' needs text vectors"),
        (Query(units(2, 7)), RetrievalConfig(by="text"), r"width 8, got float32 \[2, 7\]"),
        (Query(units(2, 8) * 2), RetrievalConfig(by="text"), "text vectors .* length 1, row 0"),
    ],
)
def test_bad_queries(query, config, message):
    with pytest.raises(UserError, match=message):
        select(query, bank_of(30), config)


def test_parts_of_different_length():
    with pytest.raises(UserError, match="needs text vectors or image vectors, got neither"):
        Query()
    with pytest.raises(UserError, match=r"differ in length: \[2, 3\]"):
        Query(units(2, 8), units(3, 8))


def test_modalities():
    document = Document.pair([1, 2], [3, 4, 5, 6])
    text, image = document.segments
    assert with_modality(document, "both") == document
    assert with_modality(document, "text").segments == (text,)
    assert with_modality(document, "image").segments == (image,)
    with pytest.raises(UserError, match="has no image to keep"):
        with_modality(with_modality(document, "text"), "image")
    with pytest.raises(UserError, match="got 'sound'"):
        with_modality(document, "sound")


@pytest.mark.parametrize("at_once, vectors", [(3, 2**17), (4, 40), (1, 1)])
def test_how_many_are_looked_up_at_once_cannot_be_seen(at_once, vectors, monkeypatch):
    """Queries of the bank itself: each must leave out its own document, not another's."""
    bank = bank_of(40)
    config = RetrievalConfig(documents=2, by="text", threshold=0.9)
    query = Query(texts=np.array(bank.vectors[:11]), ids=[bank.ids[k] for k in range(11)])
    whole = select(query, bank, config)
    monkeypatch.setattr("cm3leon.retrieval.select.AT_ONCE", at_once)
    monkeypatch.setattr("cm3leon.retrieval.select.VECTORS_AT_ONCE", vectors)
    np.testing.assert_array_equal(select(query, bank, config), whole)
