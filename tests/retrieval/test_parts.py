"""A bank made in parts, by one or many, is the bank made at once; codes, recall, what is killed."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from cm3leon import seeds
from cm3leon.data import locks
from cm3leon.errors import UserError
from cm3leon.retrieval import index as indexes
from cm3leon.retrieval import parts
from cm3leon.retrieval.bank import MemoryBank, unit
from cm3leon.retrieval.parts import Parts, merged
from tests.training.rank_processes import start_work

COUNT, WIDTH = 2000, 16


def clustered(count: int, seed: int = 1) -> np.ndarray:
    """Unit vectors around 40 centres."""
    centres = seeds.generator(0, "centres").standard_normal((40, WIDTH))
    draws = seeds.generator(seed, "near")
    near = centres[draws.integers(40, size=count)] + 0.4 * draws.standard_normal((count, WIDTH))
    return unit(near).astype(np.float32)


class Vectors:
    """Stands for a token cache with vectors."""

    folder = Path("cache")

    def __init__(self, count: int = COUNT, changed: bool = False):
        self.ids = [f"d{row}" for row in range(count)]
        self.images, self.texts = clustered(count, 1), clustered(count, 2 + changed)
        self.about = {"clip_sha256": "c" * 64, "source": {"count": count, "changed": changed}}

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, part, rows=None):
        vectors = self.images if part == "image_vectors" else self.texts
        return vectors[np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(parts, "PART", 512)  # four parts, the last shorter
    monkeypatch.setattr(indexes, "CENTROIDS", 16)  # learned sooner


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", indexes.KINDS)
def test_parts_are_the_whole(tmp_path, monkeypatch, kind):
    bank = Parts(Vectors(), tmp_path / "four", kind).make()
    monkeypatch.setattr(parts, "PART", 2**20)
    Parts(Vectors(), tmp_path / "one", kind).make()
    four, one = files_of(tmp_path / "four"), files_of(tmp_path / "one")
    assert (
        four.keys()
        == one.keys()
        == {"bank.json", "ids.json", "vectors.npy"}
        | ({"index.faiss"} if kind != "exact" else set())
    )
    assert all(four[name] == one[name] for name in four if name != "bank.json")
    plain = MemoryBank(unit(Vectors().images + Vectors().texts), Vectors().ids, "c" * 64, {})
    assert (bank.vectors == plain.vectors).all() and bank.ids == plain.ids
    if kind != "exact":
        plain.train_index(kind=kind)
        assert (faiss.serialize_index(plain.index) == faiss.serialize_index(bank.index)).all()
        assert bank.recall == plain.recall


def test_merged_indexes_find_what_one_finds():
    vectors = clustered(COUNT)
    learned = faiss.serialize_index(indexes.train(vectors, COUNT, "ivfpq"))
    whole, *shards = (faiss.deserialize_index(learned) for _ in range(5))
    indexes.add(whole, vectors)
    for shard, some in zip(shards, np.array_split(vectors, 4), strict=True):
        indexes.add(shard, some)
    one = merged(shards)
    asked = clustered(50, 9)
    for index in (whole, one):
        index.nprobe = 4
    for old, new in zip(whole.search(asked, 10), one.search(asked, 10), strict=True):
        assert (old == new).all()
    assert one.ntotal == COUNT


def test_codes_are_small_and_scores_exact(tmp_path):
    bank = Parts(Vectors(), tmp_path, "ivfpq", code_bytes=7).make()
    code = faiss.downcast_index(bank.index)
    assert code.pq.M == 4 and code.code_size == 2  # 7, 6 or 5 parts do not divide 16 numbers
    asked = clustered(60, 9)
    scores, rows = bank.search(asked, 10)
    truth = bank.search_exact(asked, 10)[1]
    assert scores == pytest.approx(np.take_along_axis(asked @ bank.vectors.T, rows, 1), abs=1e-5)
    assert (np.diff(scores) <= 0).all()
    assert indexes.recall(rows, truth) > 0.85 and bank.recall > 0.85
    code.nprobe = code.nlist
    raw = code.search(asked, 10)[1]  # by codes alone
    assert indexes.recall(raw, truth) < indexes.recall(rows, truth)
    assert bank.search(asked[:0], 3)[1].shape == (0, 3)


def test_what_a_list_lacks_is_told():
    vectors = clustered(COUNT)
    index = indexes.train(vectors, COUNT, "ivfpq")
    indexes.add(index, vectors[:3])
    index.nprobe = index.nlist
    scores, rows = indexes.search(index, vectors, vectors[:2], 5)
    assert (np.sort(rows)[:, :2] == -1).all() and (scores[:, 3:] < -1e30).all()


def test_a_file_is_read_where_an_array_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", vectors := clustered(100))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    rows = np.array([99, 0, 5, 5])
    for some, offset in ((mapped, 0), (mapped[7:], 7)):
        assert (indexes.gather(some, rows[1:]) == vectors[offset:][rows[1:]]).all()
        assert (indexes.block(some, 3, 500) == vectors[offset + 3 :]).all()
    asked = clustered(9, 3)
    for one, other in zip(
        indexes.exact(mapped, asked, 7), indexes.exact(vectors, asked, 7), strict=True
    ):
        assert one == pytest.approx(other)


def test_exact_search_in_blocks(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", vectors := clustered(100))
    monkeypatch.setattr(indexes, "AT_ONCE", 4)
    mapped, asked = np.load(tmp_path / "a.npy", mmap_mode="r"), clustered(9, 3)
    found, truth = indexes.exact(mapped, asked, 20), indexes.exact(vectors, asked, 20)
    assert (found[1] == truth[1]).all() and found[0] == pytest.approx(truth[0])


def test_too_few_for_codes(tmp_path):
    with pytest.raises(UserError, match="needs as many documents, got 15; take --index exact"):
        Parts(Vectors(15), tmp_path / "bank", "ivfpq").make()


@dataclass(frozen=True)
class Worker:
    """One of several; one is killed at the change of a name, another after it."""

    folder: Path

    def __call__(self) -> int:
        locks.BEAT_S, locks.LOOK_S, parts.PART = 0.05, 0.02, 512
        when = {"0": 9, "2": 16}.get(os.environ["RANK"])
        count, change = 0, os.replace

        def deadly(*names):
            nonlocal count
            count += 1
            if count == when:
                os.kill(os.getpid(), signal.SIGKILL)
            change(*names)

        os.replace = deadly
        Parts(Vectors(), self.folder, "ivfpq").make()
        return 0


def test_two_of_three_are_killed_and_the_bank_is_that_of_one(tmp_path):
    Parts(Vectors(), tmp_path / "one", "ivfpq").make()
    ends = [code for code, _ in start_work(3, Worker(tmp_path / "many"), tmp_path / "said")]
    assert ends[1] == 0 and set(ends) <= {0, -signal.SIGKILL} and ends[0] != 0
    many = {path.name: path for path in (tmp_path / "many").glob("[!.]*")}
    one = files_of(tmp_path / "one")
    assert many.keys() == one.keys()
    for name, path in many.items():
        assert path.read_bytes() == one[name]


def test_made_once_and_anew_where_something_changed(tmp_path, monkeypatch, capsys):
    made = []
    real = Parts.part
    monkeypatch.setattr(Parts, "part", lambda self, n: made.append(n) or real(self, n))
    for cache, kind, count in (
        (Vectors(), "ivf", 4), (Vectors(), "ivf", 4), (Vectors(), "ivfpq", 8),
        (Vectors(changed=True), "ivfpq", 12), (Vectors(changed=True), "ivfpq", 12),
    ):  # fmt: skip
        Parts(cache, tmp_path, kind).make()
        assert len(made) == count
    data = (tmp_path / "vectors.npy").read_bytes()
    (tmp_path / "vectors.npy").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"vectors.npy is damaged"):
        MemoryBank.load(tmp_path)
    Parts(Vectors(changed=True), tmp_path, "ivfpq").make()
    assert len(made) == 16 and "indexed anew: " in capsys.readouterr().err
    assert (tmp_path / "vectors.npy").read_bytes() == data


@pytest.mark.parametrize("name", ["00002.npy", "00002.faiss", "learned.faiss"])
def test_a_damaged_part_is_named_and_made_again(tmp_path, monkeypatch, name):
    work = Parts(Vectors(), tmp_path, "ivfpq")
    real = Parts.finish

    def stopped(self):
        raise UserError("stopped")

    monkeypatch.setattr(Parts, "finish", stopped)
    with pytest.raises(UserError, match="stopped"):
        work.make()
    path = work._place / name
    path.write_bytes(path.read_bytes()[:-1])
    if name.startswith("learned"):
        (work._place / "00003.json").unlink()  # somebody needs it still
    monkeypatch.setattr(Parts, "finish", real)
    with pytest.raises(UserError, match=f"{name} is damaged.*; run the same command again"):
        work.make()
    assert len(work.make()) == COUNT


def test_the_file_says_how_it_finds(tmp_path):
    Parts(Vectors(), tmp_path, "ivfpq").make()
    about = json.loads((tmp_path / "bank.json").read_text())["content"]
    assert about["recall_at_10"] > 0.85 and about["lists_searched"] >= 1
    assert set(about["files"]) == {"vectors.npy", "ids.json", "index.faiss"}
    opened = MemoryBank.load(tmp_path)
    assert (opened.recall, opened.index.nprobe) == (about["recall_at_10"], about["lists_searched"])


def test_neighbours_in_parts(tmp_path, monkeypatch):
    """What is found for a part depends on nothing but the part."""
    from cm3leon.config import RetrievalConfig
    from cm3leon.retrieval import training_bank
    from cm3leon.retrieval.training_bank import Place, TrainingBank

    cache = Vectors(300)
    clip = SimpleNamespace(sha256="c" * 64, model=SimpleNamespace(to=lambda device: None))
    config = RetrievalConfig(documents=3, query_dropout=0.0, threshold=2.0)

    def found(folder, part):
        monkeypatch.setattr(training_bank, "PART", part)
        bank = TrainingBank(Place(tmp_path), cache, clip, None, tmp_path / folder)
        object.__setattr__(bank, "searched", (MemoryBank.of_cache(cache), np.arange(300)))
        return bank.rows(cache, config, 5)

    monkeypatch.setattr(Vectors, "vector_pairs", pairs, raising=False)
    whole, parted = found("whole", 2**20), found("parted", 128)
    assert whole.shape == parted.shape == (300, 3)
    assert (whole[:128] == parted[:128]).all()  # the first part draws as all of one do
    assert (np.sort(whole) == np.sort(parted)).mean() > 0.7  # others by another order of lists
    names = sorted(path.name for path in (tmp_path / "parted").iterdir())
    assert len(names) == 3 and names[0].endswith("-00000.npy")
    (tmp_path / "parted" / names[1]).write_bytes(b"damaged")
    assert (found("parted", 128) == parted).all()


def pairs(self):
    yield self.images, self.texts
