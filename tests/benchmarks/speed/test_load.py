"""The load of others, and a wait that ends."""

import os

import pytest

from benchmarks.speed import load
from benchmarks.speed.load import Gate, Load, others_share


@pytest.mark.parametrize(
    "busy,own,share", [(2.0, 1.0, 0.5), (1.0, 1.0, 0.0), (0.5, 1.0, 0.0), (99.0, 1.0, 1.0)]
)
def test_share_of_the_others(busy, own, share):
    assert others_share(busy, own, wall_s=1.0, processors=2) == share


def test_own_work_is_not_the_others(monkeypatch):
    """A second in which this process alone was busy on one of two processors."""
    state = {"busy": 100.0, "own": 7.0, "now": 0.0}
    monkeypatch.setattr(load, "busy_seconds", lambda: state["busy"])
    monkeypatch.setattr(load, "own_seconds", lambda: state["own"])
    monkeypatch.setattr(load.time, "perf_counter", lambda: state["now"])
    monkeypatch.setattr(load.os, "cpu_count", lambda: 2)
    with Load() as found:
        state.update(busy=101.5, own=8.0, now=1.0)
    assert found.others == 0.25


def test_a_machine_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "STAT", tmp_path / "none")
    with Load() as found:
        pass
    assert found.others is None and not Gate(64).disturbed(None)
    gate = Gate(64, longest_s=60)
    monkeypatch.setattr(load, "LOOK_S", 0.0)
    assert gate.wait() and gate.waited_s == 0


def test_this_machine_tells_or_not():
    found = load.busy_seconds()
    assert found is None or found > 0
    assert load.own_seconds() > 0


def test_disturbed_is_relative_to_our_threads(monkeypatch):
    monkeypatch.setattr(load.os, "cpu_count", lambda: 4)
    assert not Gate(1).disturbed(0.75) and Gate(1).disturbed(0.85)
    assert not Gate(4).disturbed(0.04) and Gate(4).disturbed(0.1)
    assert not Gate(64).disturbed(0.0)  # more threads than processors: nobody else is to blame


def test_waits_are_bounded_each_and_together(monkeypatch):
    clock, slept = [0.0], []

    def sleep(seconds):
        clock[0] += seconds
        slept.append(seconds)

    monkeypatch.setattr(load.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(load.time, "sleep", sleep)
    monkeypatch.setattr(load, "own_seconds", lambda: 0.0)
    monkeypatch.setattr(load, "busy_seconds", lambda: clock[0] * (os.cpu_count() or 1))
    gate = Gate(1, longest_s=2.0, total_s=3.0)
    assert not gate.wait() and clock[0] == pytest.approx(2.0)
    assert not gate.wait() and clock[0] == pytest.approx(3.2)
    assert not gate.wait() and clock[0] == pytest.approx(3.6)  # one look, no more waiting
    monkeypatch.setattr(load, "busy_seconds", lambda: 0.0)
    assert gate.wait()
