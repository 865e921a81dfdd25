"""Features in shards: the same for any number of ranks, computed once, remade when a picture
changes."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.evaluation.features import cache as feature_cache
from cm3leon.evaluation.features.cache import Listing, features_of, shard_count
from cm3leon.seeds import generator
from cm3leon.training.ranks import Group
from tests.coco_maker import DIM, embed, stub_features

FEATURES = stub_features()


def listing(count=11, broken=(), lenient=True, reads=None):
    def read(place):
        if reads is not None:
            reads.append(place)
        if place in broken:
            raise UserError(f"picture {place} is broken")
        picture = generator(place, "cache").integers(0, 256, (16, 16, 3), np.uint8)
        return picture, "L" if place == 2 else ""

    return Listing("noise", [[f"{k}.png", 10 + k] for k in range(count)], read, {"a": 1}, lenient)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD", 3)
    monkeypatch.setattr(feature_cache, "BATCH", 2)


def everything(kept):
    return kept.rows(np.ones(kept.count, bool))


@given(count=st.integers(1, 20), ranks=st.integers(1, 4), seed=st.integers(0, 9))
def test_the_number_of_ranks_cannot_be_seen(tmp_path_factory, count, ranks, seed):
    alone = features_of(listing(count), FEATURES, tmp_path_factory.mktemp("alone"))
    home = tmp_path_factory.mktemp("shared")
    order = generator(seed).permutation(ranks)
    for rank in map(int, order[:-1]):  # none waits here, and what is missing shows
        with pytest.raises(UserError) if missing(count, ranks, order, rank) else open(os.devnull):
            features_of(listing(count), FEATURES, home, Group(rank, ranks))
    last = features_of(listing(count), FEATURES, home, Group(int(order[-1]), ranks))
    assert (everything(last) == everything(alone)).all() and len(everything(last)) == count
    if count > 1:
        pairs = zip(last.moments().finish(), alone.moments().finish(), strict=True)
        assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def missing(count, ranks, order, rank) -> bool:
    """Whether shards of ranks that come later are not there yet."""
    done = set(map(int, order[: list(order).index(rank) + 1]))
    return any(place % ranks not in done for place in range(shard_count(count)))


def test_computed_once(tmp_path):
    reads = []
    first = features_of(listing(reads=reads), FEATURES, tmp_path)
    again = features_of(listing(reads=reads), FEATURES, tmp_path)
    assert sorted(reads) == list(range(11)) and (first.made, again.made) == (4, 0)
    assert again.folder == first.folder and (everything(again) == everything(first)).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda one, net: (replace(one, about={"a": 2}), net),
        lambda one, net: (replace(one, stamps=[*one.stamps[:-1], ["10.png", 21]]), net),
        lambda one, net: (replace(one, stamps=one.stamps[::-1]), net),
        lambda one, net: (one, replace(net, digest="9" * 64)),
        lambda one, net: (one, replace(net, name="other")),
    ],
)
def test_the_key_is_the_content(change):
    one = listing()
    other, network = change(one, FEATURES)
    assert other.key(network) != one.key(FEATURES) == listing().key(stub_features())


def test_what_cannot_be_read_is_left_out_and_told_every_time(tmp_path):
    for _ in range(2):
        kept = features_of(listing(broken=(1, 9, 10)), FEATURES, tmp_path)
        assert kept.unreadable == {k: f"picture {k} is broken" for k in (1, 9, 10)}
        assert kept.remarks == {2: "L"} and kept.readable.sum() == 8
        assert everything(kept).shape == (8, DIM) and kept.moments().n == 8
    with pytest.raises(UserError, match="picture 9 is broken"):
        features_of(listing(broken=(9,), lenient=False), FEATURES, tmp_path / "strict")


@given(st.lists(st.booleans(), min_size=11, max_size=11))
def test_rows_and_moments_of_some(tmp_path_factory, wanted):
    kept = features_of(listing(broken=(4,)), FEATURES, tmp_path_factory.mktemp("some"))
    marked = np.array(wanted)
    found = kept.rows(marked)
    whole = feature_cache.compute(listing(broken=(4,)), FEATURES, range(11))
    assert (found == whole.features_BD[marked[whole.places]]).all()
    if len(found) > 1:
        mean, covariance = kept.moments(marked).finish()
        assert np.allclose(mean, found.mean(0)) and np.allclose(covariance, np.cov(found.T))


def test_features_that_are_not_finite(tmp_path):
    broken = replace(FEATURES, embed=lambda images: np.full((len(images), DIM), np.nan))
    with pytest.raises(UserError, match="features of picture 0 of noise are not finite"):
        features_of(listing(), broken, tmp_path)


@pytest.mark.parametrize("torn", [False, True])
def test_a_shard_goes_on_where_it_was_killed(tmp_path, monkeypatch, torn):
    """Seven pictures of one shard: killed in the third batch, the first two are not read again."""
    monkeypatch.setattr(feature_cache, "SHARD", 8)
    monkeypatch.setattr(feature_cache, "SAVE_S", 0.0)
    broken = {"broken": (1,), "count": 7}
    wanted = features_of(listing(**broken), FEATURES, tmp_path / "unbroken")
    batches = []

    def embedding(images):
        batches.append(len(images))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return embed(images)

    with pytest.raises(KeyboardInterrupt):
        features_of(listing(**broken), replace(FEATURES, embed=embedding), tmp_path)
    (part,) = tmp_path.rglob("00000.part.npz")
    if torn:
        part.write_bytes(part.read_bytes()[:90])
    reads = []
    kept = features_of(listing(**broken, reads=reads), FEATURES, tmp_path)
    assert sorted(reads) == (list(range(7)) if torn else [4, 5, 6])
    assert (everything(kept) == everything(wanted)).all() and kept.unreadable == wanted.unreadable
    assert kept.remarks == wanted.remarks == {2: "L"} and kept.made == 1
    assert not list(tmp_path.rglob("*.part.npz"))


DAMAGES = {
    "cut": lambda data, other: data[:50],
    "empty": lambda data, other: b"",
    "flipped": lambda data, other: data[:300] + bytes([data[300] ^ 4]) + data[301:],
    "the one before": lambda data, other: other,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_computed_anew(tmp_path, capsys, damage):
    kept = features_of(listing(), FEATURES, tmp_path)
    path, wanted = kept.folder / "00001.npz", everything(kept)
    data, other = (kept.path(place).read_bytes() for place in (1, 0))
    path.write_bytes(DAMAGES[damage](data, other))
    again = features_of(listing(), FEATURES, tmp_path)
    assert again.made == 1 and (everything(again) == wanted).all() and path.read_bytes() == data
    assert f"computed anew: {path} is" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    written = []

    def full(handle):
        written.append(handle)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free space"):
        features_of(listing(), FEATURES, tmp_path)
    assert not list(tmp_path.rglob(".*"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    assert features_of(listing(), FEATURES, tmp_path).made == 3  # the first shard was kept


def test_memory_does_not_grow_with_the_pictures(tmp_path, monkeypatch):
    """Features, moments and a half of them: four times the pictures, the same memory."""
    import tracemalloc

    monkeypatch.setattr(feature_cache, "SHARD", 512)
    monkeypatch.setattr(feature_cache, "BATCH", 64)
    wide = replace(FEATURES, dim=256, embed=lambda images: np.tile(embed(images), 43)[:, :256])
    picture = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)

    def peak(count):
        one = Listing("same", range(count), lambda place: (picture + place % 7, ""), {})
        tracemalloc.start()
        try:
            kept = features_of(one, wide, tmp_path / str(count))
            half = kept.moments(np.arange(count) % 2 == 0)
            assert kept.moments().n == count == 2 * half.n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(512)  # what is loaded at first use
    small, large = peak(2_000), peak(8_000)
    assert large < 1.25 * small
    assert small < 8_000 * 256 * 4  # less than the features of all
