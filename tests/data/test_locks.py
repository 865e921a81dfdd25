"""Of several workers one holds a lock; that of a dead process is taken over, once."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from cm3leon.data import locks


def test_one_holds_and_lets_go(tmp_path):
    path = tmp_path / "a.lock"
    with locks.held(path) as first:
        assert first and locks.holder(path).startswith("process ")
        with locks.held(path) as second:
            assert not second
        assert path.exists()  # who did not hold it does not remove it
    assert not path.exists() and locks.holder(path) is None
    with pytest.raises(RuntimeError), locks.held(path):
        raise RuntimeError
    assert not path.exists()


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_it(tmp_path, stale):
    path, count = tmp_path / "a.lock", 6
    if stale:
        left(path)
    come, go = Barrier(count), Barrier(count)

    def work(_) -> bool:
        come.wait()
        with locks.held(path) as ours:
            go.wait()
            return ours is not None

    with ThreadPoolExecutor(count) as pool:
        assert sum(pool.map(work, range(count))) == 1


def left(path, **changes):
    """A lock of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    about = json.loads(locks._me()) | {"process": child.pid, "began": "long ago"} | changes
    path.write_text(json.dumps(about))


def test_a_dead_one_of_this_machine_alone_is_taken_over(tmp_path):
    path = tmp_path / "a.lock"
    left(path)
    with locks.held(path) as ours:
        assert ours and json.loads(path.read_text()) == json.loads(locks._me())
    left(path, machine="another")
    with locks.held(path) as ours:
        assert not ours and locks.holder(path).endswith("of another")


def test_a_number_that_is_anothers_by_now(tmp_path):
    path = tmp_path / "a.lock"
    me = json.loads(locks._me())
    if not me["began"]:
        pytest.skip("this system does not tell when a process began")
    left(path, process=me["process"])
    with locks.held(path) as ours:
        assert ours


def test_what_cannot_be_read_is_held(tmp_path):
    path = tmp_path / "a.lock"
    path.write_text("{")
    with locks.held(path) as ours:
        assert not ours and locks.holder(path) == "nobody that can be read"
    assert path.exists()


def test_one_that_another_took_over_is_left_to_it(tmp_path):
    path = tmp_path / "a.lock"
    with locks.held(path) as ours:
        assert ours.kept()
        left(path, machine="another")
        assert not ours.kept()
    assert locks.holder(path).endswith("of another")


def test_another_machine_s_is_taken_over_when_it_gives_no_sign(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SETTLE_S", 0.01)
    now = 1000.0
    monkeypatch.setattr(locks.time, "monotonic", lambda: now)
    path = tmp_path / "a.lock"
    left(path, machine="another")

    def taken() -> bool:
        with locks.held(path) as ours:
            return ours is not None

    assert not taken()
    now += locks.SILENT_S - 1
    assert not taken()
    os.utime(path, (5, 5))  # a sign of life, by whatever clock
    now += 2
    assert not taken()
    now += locks.SILENT_S + 1
    assert taken() and not path.exists()


def test_a_zombie_holds_nothing(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    began = locks.began(child.pid)
    while locks.began(child.pid):  # until it has ended; it is not waited for
        pass
    path = tmp_path / "a.lock"
    path.write_text(json.dumps(json.loads(locks._me()) | {"process": child.pid, "began": began}))
    with locks.held(path) as ours:
        assert ours
    child.wait()


def test_the_folder_goes_when_nothing_is_held(tmp_path):
    folder = tmp_path / "locks"
    left_one = folder / "a.lock"
    folder.mkdir()
    left(left_one)
    with locks.held(left_one), locks.held(folder / "b.lock"):
        locks.tidy(folder)
        assert left_one.exists()
    locks.tidy(folder)
    assert not folder.exists()
