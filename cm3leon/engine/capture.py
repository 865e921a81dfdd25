"""Work on a GPU recorded once as a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM = 1  # calls before the recording: libraries set themselves up, which cannot be recorded


@dataclass(frozen=True)
class Captured:
    """`replay` runs the recorded work anew, from and into the same memory; `made` is its result."""

    replay: Callable[[], None]
    made: Tensor


def pool_of(device: torch.device):
    """Memory that several recordings of a device share; none of them may run beside another."""
    with torch.cuda.device(device):
        return torch.cuda.graph_pool_handle()


def capture(run: Callable[[], Tensor], device: torch.device, pool=None) -> Captured:
    """Record `run`, which is called `WARM` times first; `made` is empty until the first replay.

    Raises RuntimeError where `run` does what cannot be recorded, such as reading from the device.
    """
    with torch.cuda.device(device):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                run()
            torch.cuda.synchronize()
            # Not torch.cuda.graph: in some versions it collects garbage first, which takes longer
            # than many steps.
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                made = run()
            finally:
                graph.capture_end()
        here.wait_stream(aside)
    return Captured(graph.replay, made)
