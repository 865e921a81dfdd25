"""The memory bank: what a document's vector is, search against brute force, files and bad input."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.identity import seal
from cm3leon.retrieval.bank import MemoryBank, check_vectors, document_vectors
from cm3leon.retrieval.index import recall


def units(count: int, width: int, seed: int = 0) -> np.ndarray:
    drawn = seeds.generator(seed, "units").standard_normal((count, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def bank_of(count: int, width: int = 16, seed: int = 0) -> MemoryBank:
    return MemoryBank(units(count, width, seed), [f"d{k}" for k in range(count)], "ab" * 32, {})


class FakeClip:
    """Words and brightness instead of a network: vectors one can work out by hand."""

    width, sha256 = 3, "cd" * 32

    def texts(self, texts):
        return units(len(texts), 3, 1) if texts != ["x"] else np.float32([[1, 0, 0]])

    def images(self, images):
        return np.float32([[0, 1, 0] if image.mean() < 9 else [0, 0, 1] for image in images])


DARK, LIGHT = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)


def test_a_documents_vector_is_the_normalised_mean():
    half = np.sqrt(0.5)
    assert document_vectors(["x"], [DARK], FakeClip()) == pytest.approx(
        np.float32([[half, half, 0]])
    )
    assert document_vectors(["x"], [None], FakeClip()).tolist() == [[1, 0, 0]]
    assert document_vectors([None, None], [LIGHT, DARK], FakeClip()).tolist() == [
        [0, 0, 1],
        [0, 1, 0],
    ]
    with pytest.raises(UserError, match="document 1 of a batch has neither"):
        document_vectors([None, None], [LIGHT, None], FakeClip())


def test_build(monkeypatch):
    documents = [(f"{k}", None, LIGHT if k % 2 else DARK) for k in range(7)]
    whole = MemoryBank.build(iter(documents), FakeClip(), {"kind": "test"})
    monkeypatch.setattr("cm3leon.retrieval.bank.BATCH", 2)
    parts = MemoryBank.build(documents, FakeClip(), {"kind": "test"})
    assert (whole.vectors == parts.vectors).all() and whole.ids == parts.ids == list("0123456")
    whole.check_clip(FakeClip())
    other = FakeClip()
    other.sha256 = "ef" * 32
    with pytest.raises(UserError, match="built with CLIP weights cdcdcdcdcdcd, this CLIP has efef"):
        whole.check_clip(other)
    with pytest.raises(UserError, match="at least one document, got none"):
        MemoryBank.build([], FakeClip(), {})


def test_search_is_a_brute_force_product():
    bank, queries = bank_of(500), units(10_000, 16, 5)
    scores, rows = bank.search(queries, 12)
    product = queries @ bank.vectors.T
    best = np.sort(product, axis=1)[:, :-13:-1]
    assert scores == pytest.approx(best, abs=1e-5)
    assert np.take_along_axis(product, rows, 1) == pytest.approx(scores, abs=1e-5)
    clear = (best[:, :-1] - best[:, 1:] > 1e-5).all(1)
    assert clear.mean() > 0.9
    assert (rows[clear] == product.argsort(1)[clear, :-13:-1]).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_rows_of_ids(count, width, data):
    bank = bank_of(count, width)
    row = data.draw(st.integers(0, count - 1))
    assert bank.rows([f"d{row}", "strange"]).tolist() == [row, -1]
    scores, rows = bank.search(bank.vectors[row : row + 1], 1)
    assert scores[0, 0] == pytest.approx(1, abs=1e-5)
    assert bank.vectors[rows[0, 0]] == pytest.approx(bank.vectors[row], abs=1e-3)


@pytest.mark.parametrize("indexed", [False, True])
def test_saved_and_opened(tmp_path, indexed):
    bank = bank_of(300)
    if indexed:
        bank.train_index()
    bank.save(tmp_path)
    bank.save(tmp_path)  # over the old one
    opened = MemoryBank.load(tmp_path)
    assert isinstance(opened.vectors, np.memmap) and (opened.vectors == bank.vectors).all()
    assert (opened.ids, opened.clip_sha256, opened.source) == (bank.ids, "ab" * 32, {})
    assert opened.recall == bank.recall and (opened.index is None) != indexed
    for old, new in zip(bank.search(units(9, 16, 3), 5), opened.search(units(9, 16, 3), 5)):  # noqa: B905
        assert (old == new).all()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_inverted_file_reaches_the_recall_it_stores():
    centres = units(40, 16, 1)
    generator = seeds.generator(2)
    near = centres[generator.integers(40, size=6000)] + 0.15 * generator.standard_normal((6000, 16))
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    bank = MemoryBank(vectors, [str(k) for k in range(6000)], "", {})
    bank.train_index()
    assert bank.recall >= 0.95 and bank.index.nprobe < bank.index.nlist / 2
    fresh = units(200, 16, 9)
    found, truth = (search(fresh, 10)[1] for search in (bank.search, bank.search_exact))
    assert recall(found, truth) > 0.5 and recall(truth, truth) == 1


@pytest.mark.parametrize("name", ["vectors.npy", "ids.json", "index.faiss", "bank.json"])
@pytest.mark.parametrize("harm", ["torn", "changed", "gone"])
def test_damaged_files_are_named(tmp_path, name, harm):
    bank = bank_of(60)
    bank.train_index()
    bank.save(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-3] if harm == "torn" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{name}") as error:
        MemoryBank.load(tmp_path)
    assert "\n" not in str(error.value)
    assert "run `cm3leon index" in str(error.value) or (name, harm) == ("bank.json", "gone")
    bank.save(tmp_path)  # the way out
    assert MemoryBank.load(tmp_path).ids == bank.ids


def test_what_is_no_bank(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*bank.json"):
        MemoryBank.load(tmp_path)
    (tmp_path / "bank.json").write_text("{}")
    with pytest.raises(UserError, match=r"bank.json is damaged, or not what it is taken for"):
        MemoryBank.load(tmp_path)
    bank_of(5).save(tmp_path)
    about = json.loads((tmp_path / "bank.json").read_text())["content"]
    for text in (json.dumps(about | {"format": 1}), seal(about | {"format": 9})):
        (tmp_path / "bank.json").write_text(text)
        with pytest.raises(UserError, match=r"format [19], this version reads 2; .*cm3leon in"):
            MemoryBank.load(tmp_path)


def with_row(value: float) -> np.ndarray:
    vectors = units(4, 3)
    vectors[2] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (with_row(np.nan), "must have length 1, row 2 has nan"),
        (with_row(np.inf), "must have length 1, row 2 has inf"),
        (with_row(0.0), "must have length 1, row 2 has 0"),
        (2 * units(4, 3), "must have length 1, row 0 has 2"),
        (units(4, 3).astype(np.float64), r"float32 of width 3, got float64 \[4, 3\]"),
        (units(4, 2), r"float32 of width 3, got float32 \[4, 2\]"),
        (units(4, 3)[0], r"got float32 \[3\]"),
    ],
)
def test_bad_vectors(vectors, message):
    with pytest.raises(UserError, match=message):
        check_vectors(vectors, 3, "vectors")


def test_bad_ids_and_counts():
    with pytest.raises(UserError, match="id 'a' stands twice"):
        MemoryBank(units(3, 4), ["a", "b", "a"], "", {})
    with pytest.raises(UserError, match=r"one vector an id, got .3, 4. vectors and 2 ids"):
        MemoryBank(units(3, 4), ["a", "b"], "", {})
    with pytest.raises(UserError, match=r"must lie in 1..5, got 6"):
        bank_of(5).search(units(1, 16), 6)
    for wrong in (units(1, 8), units(1, 16)[0]):
        with pytest.raises(UserError, match=r"queries must be vectors \[Q, 16\], got \["):
            bank_of(5).search(wrong, 2)
