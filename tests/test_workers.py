"""Parts side by side: the same results in the same order, whatever the number of workers."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.workers import portions, side_by_side


@given(st.integers(0, 300), st.integers(1, 70), st.integers(1, 5))
def test_portions_cover_everything_in_order(count, most, workers):
    parts = portions(count, most, workers)
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert all(sizes)
    assert max(sizes, default=1) * workers <= max(most, workers)
    assert not sizes or max(sizes) - min(sizes[:-1] or sizes) == 0  # only the last one is smaller
    rounds, room = -(-len(sizes) // workers), max(1, most // workers)
    assert rounds == -(-count // (room * workers))  # as few as the room allows


def test_no_worker_waits_for_one_portion_more():
    assert [part.stop - part.start for part in portions(150, 64, 2)] == [25] * 6


@pytest.mark.parametrize("workers", [1, 2, 3, None])
def test_results_come_in_order(workers):
    assert side_by_side(lambda part: part**2, range(7), workers) == [k**2 for k in range(7)]
    assert side_by_side(lambda part: part, [], workers) == []


def test_workers_compute_on_one_thread_and_leave_the_rest_alone():
    before = torch.get_num_threads()
    meeting = threading.Barrier(2, timeout=20)

    def count(_):
        meeting.wait()  # both parts are under way at once
        return torch.get_num_threads()

    assert side_by_side(count, range(2), 2) == [1, 1]
    assert torch.get_num_threads() == before
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.ones(2).sum().item()))
    thread.start()
    thread.join()
    assert later == [2.0] and torch.get_num_threads() == before


def test_the_first_failure_is_raised_and_nothing_more_begins():
    begun = []

    def work(part):
        begun.append(part)
        if part == 0:
            raise ValueError("part 0")

    with pytest.raises(ValueError, match="part 0"):
        side_by_side(work, range(2000), 2)
    assert len(begun) < 2000
