"""What other processes do meanwhile: a timing beside another job is worth little, so wait and say.

Where the system does not tell (no /proc/stat) a load is None, and nobody waits.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

STAT = Path("/proc/stat")
LOOK_S = 0.4  # one look at the machine
SLACK = 0.2  # of a processor: less than this taken from us is no disturbance


def busy_seconds() -> float | None:
    """Processor seconds spent by everybody since the machine started; None where it is unknown."""
    try:
        fields = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / ticks


def own_seconds() -> float:
    """Processor seconds of this process and the children it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def others_share(busy_s: float, own_s: float, wall_s: float, processors: int) -> float:
    """Share in [0, 1] of the machine's processor time that others used during `wall_s` seconds."""
    return min(1.0, max(0.0, (busy_s - own_s) / max(wall_s * processors, 1e-9)))


class Load:
    """`with Load() as load: ...`; afterwards `load.others` is the others' share, or None."""

    others: float | None = None

    def __enter__(self) -> Load:
        self._busy, self._own, self._started = busy_seconds(), own_seconds(), time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        busy, wall_s = busy_seconds(), time.perf_counter() - self._started
        if busy is None or self._busy is None:
            return
        own_s = own_seconds() - self._own
        self.others = others_share(busy - self._busy, own_s, wall_s, os.cpu_count() or 1)


@dataclass
class Gate:
    """Waits, within bounds, until the others leave `threads` processors free."""

    threads: int
    longest_s: float = 15.0  # of one wait
    total_s: float = 90.0  # of all waits of a run
    waited_s: float = field(default=0.0, init=False)

    def disturbed(self, others: float | None) -> bool:
        """Whether a load leaves fewer processors free than we use."""
        processors = os.cpu_count() or 1
        wanted = min(self.threads, processors) - SLACK
        return others is not None and (1 - others) * processors < wanted

    def wait(self) -> bool:
        """Wait for a quiet machine; False if the bounds ended the wait."""
        started = time.perf_counter()
        while True:
            with Load() as load:
                time.sleep(LOOK_S)
            if not self.disturbed(load.others):
                return True
            self.waited_s += LOOK_S
            if time.perf_counter() - started >= self.longest_s or self.waited_s >= self.total_s:
                return False
