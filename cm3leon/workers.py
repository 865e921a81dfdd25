"""Parts of a job side by side: threads that compute alone, instead of one job on all cores.

When another process takes a core, threads that share every operation wait for the slowest of them
at each one, and all but stop; threads that share nothing only lose that core's part. On the small
matrices of one step they are faster on a quiet machine too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Part], Result], parts: Sequence[Part], workers: int | None = None
) -> list[Result]:
    """`function` of every part, in order; by default by as many workers as torch has threads.

    Each worker computes on one thread. What the first failing part raises is raised here, and
    parts not begun by then are left out.
    """
    threads = torch.get_num_threads()
    workers = min(len(parts), threads if workers is None else workers)
    if workers <= 1:
        return [function(part) for part in parts]
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(function, parts))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # new threads take over what was set last


def portions(count: int, most: int, workers: int) -> list[slice]:
    """range(count) as slices, about equal: `workers` at once hold no more than `most`, and, where
    there are as many, each worker gets the same number of them.
    """
    if not count:
        return []
    size = max(1, min(-(-count // workers), most // workers))
    rounds = -(-count // (size * workers))
    size = -(-count // (rounds * workers))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
