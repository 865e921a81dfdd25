"""Processes that read pictures: what they hand over, and that none is left when one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cm3leon.data.readers import AT_ONCE, Form, Readers, Ready, whole
from cm3leon.data.sources import Files, Scene, Skipped
from cm3leon.errors import UserError
from cm3leon.images import crop_square
from tests.data.test_sources import write_pair


class Deadly(Scene):
    """A part that takes its process with it, as the kernel does when memory runs out."""

    def load(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_they_hand_over(tmp_path):
    for k in range(3):
        write_pair(tmp_path, str(k), k)
    (tmp_path / "1.png").write_bytes(b"damaged")
    source, form = Files(tmp_path), Form(16, whole)
    parts = list(source.parts(0))
    with Readers() as readers:
        (one, first), (_, second), _ = found = list(readers.load(parts, form))
    assert isinstance(first, Ready) and isinstance(second, Skipped)
    image = next(iter(source.read(0))).image
    assert np.array_equal(first.square, crop_square(image, 16))
    assert np.array_equal(first.picture, image) and first.captions == ("caption 0",)
    assert [digest for digest, _ in found] == [part.digest() for part in parts]
    assert one != found[2][0]


@pytest.fixture(scope="module")
def readers():
    with Readers(2) as running:
        yield running


def test_other_processes_hand_over_the_same_in_order(readers):
    parts = [Scene("stock", "val", k, 32) for k in range(3 * AT_ONCE + 1)]
    taken = []
    found = readers.load((taken.append(part) or part for part in parts), Form(32))
    first = next(found)
    assert len(taken) <= 2 * 2 * AT_ONCE  # no further ahead than the processes need
    with Readers() as here:
        for (digest, one), (other, two) in zip(
            [first, *found], here.load(parts, Form(32)), strict=True
        ):
            assert digest == other and one.id == two.id and (one.square == two.square).all()


def test_a_dead_process_is_one_line():
    parts = [Scene("stock", "val", 0, 32), Deadly("stock", "val", 1, 32)]
    with (
        Readers(1) as readers,
        pytest.raises(UserError, match=r"died, at stock-val-0 or soon") as e,
    ):
        list(readers.load(parts, Form(32)))
    assert "\n" not in str(e.value) and "fewer --workers" in str(e.value)


PARENT = """
import sys, time
from cm3leon.data.readers import Form, Readers
from cm3leon.data.sources import Scene
if __name__ == "__main__":
    with Readers(2) as readers:
        for _ in readers.load((Scene("stock", "val", k % 99, 32) for k in range(10**6)), Form(32)):
            print("going", flush=True)
            time.sleep(0.01)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks Linux for the processes")
def test_they_end_with_a_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    try:
        assert parent.stdout.readline() == b"going\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    finally:
        parent.kill()
        parent.communicate()
    assert len(children) >= 2
    for _ in range(600):
        left = [child for child in children if alive(child)]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"{left} outlived the parent by a minute")


def alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def blocks_interrupts(item) -> bool:
    """Whether the process that loads never sees Ctrl-C."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="a system without masks")
def test_processes_leave_interrupts_to_the_one_that_started_them(readers):
    """From their first instant on: one that came while they import would be told by each."""
    ((_, blocked),) = readers.load([Scene("stock", "val", 0, 32)], blocks_interrupts)
    assert blocked and not blocks_interrupts(None)
