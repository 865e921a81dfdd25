"""Files at the rim: the old bytes or the new ones, never a part, and nothing left behind."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import files
from cm3leon.errors import UserError


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=30)
@given(st.one_of(st.binary(max_size=200), st.text("ab\n é漢", max_size=200)))
def test_what_is_written_is_there(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("x")
    path = files.write_atomic(folder / "a", data)
    expected = data.encode() if isinstance(data, str) else data
    assert path.read_bytes() == expected
    assert files.sha256_file(path) == files.sha256_bytes(expected)
    assert names(folder) == ["a"]


def test_parents_are_made_and_the_old_file_is_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    assert files.write_atomic(str(path), "grün") == path
    assert path.read_text(encoding="utf-8") == "grün"
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and names(path.parent) == ["c.txt"]
    assert path.stat().st_mode & 0o777 == 0o644  # others may read it, as any other file


@pytest.mark.parametrize("place", ["replace", "fsync", "fdopen", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, place):
    path = files.write_atomic(tmp_path / "a", b"old")
    monkeypatch.setattr(os, place, full)
    with pytest.raises(UserError, match="No space left on device; free space") as error:
        files.write_atomic(path, b"new")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_an_interrupt_leaves_nothing_and_goes_on(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "a", b"new")
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a", tmp_path / "folder", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match="cannot write") as error:
            files.write_atomic(path, b"new")
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == []


def test_what_is_no_regular_file_is_written_into(tmp_path):
    """A pipe gets the bytes and stays, a link's target is replaced and the link stays."""
    pipe, seen = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: seen.append(pipe.read_bytes()))
    reader.start()
    files.write_atomic(pipe, b"through")
    reader.join()
    assert seen == [b"through"] and pipe.is_fifo() and names(tmp_path) == ["pipe"]
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_devices_stay_devices():
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        files.write_atomic("/dev/full", b"x")
    files.write_atomic("/dev/null", b"x")
    for name in ("/dev/full", "/dev/null"):
        assert stat.S_ISCHR(os.stat(name).st_mode)


def test_digests_are_the_published_ones(tmp_path):
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files.sha256_bytes(b"") == empty
    (tmp_path / "big").write_bytes(b"a" * 1_000_000)
    million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    assert files.sha256_file(tmp_path / "big") == million


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "x is no JSON: Expecting property name .* at line 1 column 2"),
        ("[" * 200_000, "x is no JSON we read: it is nested too deeply"),
        ("9" * 5000, "x is no JSON we read: Exceeds the limit"),
        (b"\xff\xfe\xff", "x is no JSON we read: "),
    ],
    ids=["torn", "deep", "long", "bytes"],
)
def test_json_that_is_none(data, message):
    with pytest.raises(UserError, match=message) as error:
        files.parse_json(data, "x")
    assert "\n" not in str(error.value) and len(str(error.value)) < 200
    assert files.parse_json('{"a": [1]}', "x") == {"a": [1]}


def test_the_baselines_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CM3LEON_BASELINES", raising=False)
    own = files.baselines_folder()
    assert own.name == "baselines" and (own / "published.json").is_file()
    monkeypatch.setenv("CM3LEON_BASELINES", str(tmp_path))
    assert files.baselines_folder() == tmp_path
    monkeypatch.setenv("CM3LEON_BASELINES", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no baselines folder at .*none; set CM3LEON_"):
        files.baselines_folder()


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path, monkeypatch):
    old = time.time() - 2 * files.LEFT
    left, written = tmp_path / f".a.x1{files.TEMPORARY}", tmp_path / f".b.x2{files.TEMPORARY}"
    young, foreign = tmp_path / f".c.x3{files.TEMPORARY}", tmp_path / ".settings.x4"
    for path in (left, written, young, foreign):
        path.write_bytes(b"half")
        if path is not young:
            os.utime(path, (old, old))
    with open(written, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as another process holds it
        files.write_atomic(tmp_path / "a", b"new")
        assert names(tmp_path) == sorted([written.name, young.name, foreign.name, "a"])


KILLED = """
import os, sys
from cm3leon import files
with files.atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


def test_a_kill_while_writing_leaves_nothing_for_ever(tmp_path, monkeypatch):
    path, root = tmp_path / "a", Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, check=False)
    assert len(names(tmp_path)) == 1 and not path.exists()
    monkeypatch.setattr(files, "LEFT", -1.0)
    files.write_atomic(path, b"whole")
    assert names(tmp_path) == ["a"]


KILLED_FOLDER = """
import os, sys
from pathlib import Path
from cm3leon import files
with files.new_folder(Path(sys.argv[1])) as folder:
    (folder / "large").write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def test_a_folder_of_a_killed_process_goes_and_one_being_filled_stays(tmp_path, monkeypatch):
    path, root = tmp_path / "a", Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", KILLED_FOLDER, str(path)], cwd=root, check=False)
    (left,) = names(tmp_path)
    monkeypatch.setattr(files, "LEFT", -1.0)
    with files.new_folder(tmp_path / "b") as folder:
        assert names(tmp_path) == [folder.name] != [left]
        files._cleaned.clear()  # as another process
        with files.new_folder(path):
            assert folder.is_dir()
    assert names(tmp_path) == ["a", "b"]
