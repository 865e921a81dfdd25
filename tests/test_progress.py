"""Signs of life: a phase that lasts says so, and says nothing where something else does."""

import subprocess
import sys
import time

import pytest

from benchmarks.harness.core import Phases
from cm3leon import progress
from cm3leon.progress import alive


@pytest.fixture
def impatient(monkeypatch):
    """Signs every few milliseconds of the test's own clock."""
    monkeypatch.setattr(progress, "QUIET_S", 0.01)
    monkeypatch.setattr(progress, "MINUTE_S", 0.02)


def wait_for(capsys, count: int) -> list[str]:
    """Lines on stderr as soon as there are so many; how long that takes is no matter."""
    said = ""
    while said.count("\n") < count:
        time.sleep(0.005)
        said += capsys.readouterr().err
    return said.splitlines()


def test_a_phase_that_lasts_says_so_again_and_again(impatient, capsys):
    phases = Phases()
    with phases("statistics"):
        lines = wait_for(capsys, 5)
    assert all(line.startswith("statistics: ") and line.endswith(" s so far") for line in lines)
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it ended
    assert phases.seconds["statistics"] > 0


def test_of_blocks_in_blocks_the_innermost_is_named(impatient, capsys):
    with alive("at work"):
        assert wait_for(capsys, 1)[0].startswith("at work: ")
        with alive("features"):
            assert wait_for(capsys, 3)[-1].startswith("features: ")
        assert wait_for(capsys, 3)[-1].startswith("at work: ")


def test_a_phase_that_speaks_is_left_alone(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET_S", 3600.0)
    with alive("draw"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_a_bar_is_a_sign(monkeypatch):
    monkeypatch.setattr(progress, "_spoke", -1.0)
    with progress.progress(2, "draw") as bar:
        bar.refresh()
    assert progress._spoke > 0


def test_an_error_inside_comes_out_and_ends_the_signs(impatient, capsys):
    with pytest.raises(KeyError, match="x"), alive("features"):
        raise KeyError("x")
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_of_several_processes_the_first_speaks(impatient, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with alive("features"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_a_log_has_lines_of_progress():
    """Where nobody watches, too: `cm3leon ... 2> log`."""
    script = (
        "from cm3leon.progress import progress\n"
        "with progress(3, 'encode', unit='document') as bar:\n"
        "    bar.delay = 0\n"
        "    [bar.update() for _ in range(3)]\n"
        "    bar.refresh()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "encode" in done.stderr and "3/3" in done.stderr and done.returncode == 0
