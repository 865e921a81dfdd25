"""The roofline by hand, and ceilings that are what they say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speed import ceilings
from benchmarks.speed.ceilings import MIB, Ceilings, Ideal, Shape, Work, decode_work, ideal


def test_work_of_a_step_by_hand():
    """2 layers of width 8, 16 output rows; 3 rows that have read 30 tokens together."""
    work = decode_work(Shape(layers=2, width=8, head=16), rows=3, slots=30, weight_bytes=4,
                       state_bytes=4)  # fmt: skip
    blocks = 2 * (3 + 1 + 4 + 4) * 8 * 8  # qkv, out, up, down
    cache = 2 * 2 * 8 * 30  # layers, keys and values, width, slots
    assert work.bytes == 4 * (blocks + 16 * 8 + cache)
    # a row multiplies every weight once; scores and the weighted sum: a product a number kept
    assert work.flops == 2 * 3 * (blocks + 16 * 8) + 2 * cache


def test_int8_halves_the_layers_alone():
    shape = Shape(4, 64, 100)
    whole, small = (decode_work(shape, 2, 50, size, 2) for size in (2, 1))
    assert whole.bytes - small.bytes == shape.blocks and whole.flops == small.flops


@given(
    st.integers(1, 512), st.integers(1, 10**5), st.sampled_from([1, 2, 4]), st.sampled_from([2, 4])
)
def test_guidance_reads_the_weights_once(rows, slots, weight, state):
    """Two streams double the multiplications and the cache, never the weights."""
    shape = Shape(3, 32, 64)
    one = decode_work(shape, rows, slots, weight, state)
    two = decode_work(shape, 2 * rows, 2 * slots, weight, state)
    none = decode_work(shape, rows, 0, weight, state)
    assert two.flops == 2 * one.flops
    assert two.bytes - one.bytes == one.bytes - none.bytes


def test_the_longer_limit_is_the_ideal_step():
    found = ideal(Work(bytes=100.0, flops=1000.0), read_bytes_per_s=10.0, flops_per_s=50.0)
    assert (found.memory_s, found.compute_s) == (10.0, 20.0)
    assert (found.step_s, found.bound) == (20.0, "compute")
    assert (Ideal(3.0, 2.0).step_s, Ideal(3.0, 2.0).bound) == (3.0, "memory")


@given(st.floats(1, 1e12))
def test_a_working_set_is_near_the_size(size):
    found = ceilings.working_set(size, 2**30)
    assert MIB <= found <= 2**30
    if MIB <= size <= 2**30:
        assert abs(math.log2(found / size)) <= 0.2501
    assert ceilings.working_set(found, 2**30) == found


def test_seconds_are_of_one_call(monkeypatch):
    """By a clock that only the function moves: its median cost, however calls are blocked."""
    now = [0.0]
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: now[0])

    def function():
        now[0] += 0.004

    assert ceilings.median_seconds(function, "cpu", least_s=0.1) == pytest.approx(0.004)


def test_ways_to_multiply_agree():
    a, b = torch.full((64, 64), 0.5), torch.full((64, 64), 0.25)
    for way in ceilings.products(a, b):
        assert torch.equal(way(), torch.full((64, 64), 8.0))


def test_ceilings_are_plausible(monkeypatch):
    monkeypatch.setattr(ceilings, "SIDES", {"cpu": 512})
    found = Ceilings("cpu", least_s=0.02)
    found.look("float32", 4 * MIB)
    found.look("float32", 4.1 * MIB)  # the same place again
    assert list(found.bandwidths) == [4 * MIB]
    assert 1e8 < found.bandwidths[4 * MIB] < 1e13 and 1e7 < found.peak("float32") < 1e15
    names = found.numbers()
    assert names["ceiling.read_gb_per_s.4096KiB"] == found.bandwidths[4 * MIB] / 1e9
    assert names["ceiling.gflop_per_s.float32"] == found.peak("float32") / 1e9
    work = Work(4 * MIB, 1e6)
    assert found.ideal(work, "float32").memory_s == 4 * MIB / found.bandwidths[4 * MIB]


def test_the_best_look_counts(monkeypatch):
    rates = iter([5.0, 9.0, 7.0])
    monkeypatch.setattr(ceilings, "read_bandwidth", lambda *_: next(rates))
    monkeypatch.setattr(ceilings, "matmul_peak", lambda *_: 1.0)
    found = Ceilings("cpu")
    for best in (5.0, 9.0, 9.0):
        found.look("float32", 8 * MIB)
        assert found.bandwidths == {8 * MIB: best}
