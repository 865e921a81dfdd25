"""Peaks of a block of work, free memory, and errors that say memory is used up."""

import mmap
import sys

import pytest
import torch

from benchmarks.speed import memory


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux alone")
def test_the_peak_is_of_the_block():
    memory.start_peak("cpu")
    before = memory.peak_bytes("cpu")
    with mmap.mmap(-1, 2**26) as held:  # new pages, not some that the process has to spare
        held.write(b"x" * 2**26)
        with_it = memory.peak_bytes("cpu")
    assert with_it - before > 2**25
    assert memory.peak_bytes("cpu") - before > 2**25  # a peak stays


def test_a_process_that_cannot_tell_has_a_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    memory.start_peak("cpu")
    assert memory.peak_bytes("cpu") > 2**24


def test_a_container_may_have_less(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_bytes("cpu") == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert memory.free_bytes("cpu") == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    assert memory.free_bytes("cpu") == 2_000_000
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.free_bytes("cpu") == 2_000_000


def test_what_memory_errors_look_like():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert memory.out_of_memory(error.value)
    assert memory.out_of_memory(MemoryError()) and memory.out_of_memory(torch.OutOfMemoryError())
    assert not memory.out_of_memory(RuntimeError("shapes do not match"))
    assert not memory.out_of_memory(ValueError("out of memory"))
