"""What tells one content from another: stamps, digests, seals; no flipped bit passes."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon import identity
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.identity import check_file, joined, read_array, same_stamp, seal, stamp, unseal
from cm3leon.identity import write_array as write_array_of

CONTENT = {"ids": ["a", "b\n\tc", "\u00e9"], "count": 3, "nested": {"x": None, "y": 0.1}}


@pytest.fixture
def settled(monkeypatch):
    """Files need not be two seconds old to be trusted."""
    monkeypatch.setattr(identity, "SETTLED", -(10**18))


def replaced(path):
    """Another content of the same size, with the date of the old one."""
    facts = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def moved_in(path):
    """Another file under the name, as `mv` and `rsync` do it."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    facts = path.stat()
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    "change", [replaced, moved_in, os.unlink, lambda path: path.write_bytes(b"")]
)
def test_a_stamp_shows_every_change(tmp_path, settled, change):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"content")
    before = stamp(paths)
    assert same_stamp(before, stamp(paths)) and not same_stamp(before, stamp(paths[::-1]))
    change(paths[1])
    assert not same_stamp(before, stamp(paths))
    assert same_stamp(stamp(paths), stamp(paths))


def test_a_file_of_this_moment_has_no_stamp(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    assert stamp([tmp_path / "a"]) == "" and not same_stamp("", "")


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_two_lists_have_two_digests(one, two):
    assert (joined(one) == joined(two)) == (one == two)


def test_names_that_once_were_one(tmp_path):
    names = [["a\t1\nb", "2"], ["a", "1\nb\t2"], ["a\n", "b"], ["a", "\nb"], ["a\nb"], ["a", "b"]]
    assert len({joined(one) for one in names}) == len(names)
    assert joined(["\udce9"]) != joined(["\udce8"])


def test_no_flipped_bit_passes_a_seal(tmp_path):
    path, text = tmp_path / "x.json", seal(CONTENT, stamp="abc").encode()
    path.write_bytes(text)
    assert unseal(path, "go") == CONTENT
    for place in range(len(text)):
        for bit in (0, 5):
            path.write_bytes(text[:place] + bytes([text[place] ^ 1 << bit]) + text[place + 1 :])
            try:
                found = unseal(path, "go")
            except UserError as error:
                assert str(error).endswith("; go") and "\n" not in str(error)
            else:
                assert found == CONTENT  # the flip lay in what is beside the seal
    for size in range(len(text) - 1):
        path.write_bytes(text[:size])
        with pytest.raises(UserError, match="damaged"):
            unseal(path, "go")


def test_no_flipped_bit_passes_an_array(tmp_path):
    path, array = tmp_path / "x.npy", np.arange(6).reshape(2, 3)
    assert read_array(path) is None
    write_array_of(path, array)
    data = path.read_bytes()
    assert np.array_equal(read_array(path), array) and np.array_equal(np.load(path), array)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_array(path) is None
        path.write_bytes(data[:place])
        assert read_array(path) is None
    path.with_name("y.npy").write_bytes(data)
    assert read_array(path.with_name("y.npy")) is None  # another's, whole as it is


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    path, read, whole = tmp_path / "x", [], identity.sha256_file
    path.write_bytes(b"content")
    monkeypatch.setattr(identity, "sha256_file", lambda path: read.append(path) or whole(path))
    digest = sha256_bytes(b"content")
    for _ in range(3):
        check_file(path, digest, "go")
    assert len(read) == 1
    replaced(path)
    with pytest.raises(UserError, match=r"x is damaged: its digest is .*; go"):
        check_file(path, digest, "go")
    assert len(read) == 2
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*x: No such file or directory; go"):
        check_file(path, digest, "go")
