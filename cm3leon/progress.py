"""Signs of life on stderr: bars with a time to go, and a line where nothing else is said for long.

with progress(total, "draw") as bar:      a live bar on a terminal, lines now and then elsewhere
with alive("statistics"):                 `statistics: 10 s so far`, unless something is said
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SHOWN_AFTER_S = 2.0  # on a terminal; what is quicker needs no bar
# Nobody waits longer for a sign of life; `$CM3LEON_QUIET_S`, a whole number, for logs that cost.
QUIET_S = float(said) if (said := os.environ.get("CM3LEON_QUIET_S", "")).isdecimal() else 10.0
MINUTE_S = 60.0  # between signs of what has lasted longer than that
_spoke = 0.0  # when the last sign was given
_doing: list[tuple[str, float]] = []  # what is being done, in what, since when


def spoke() -> None:
    """Note that something was just said."""
    global _spoke
    _spoke = time.monotonic()


def progress(total: int | None, label: str, done: int = 0, unit: str = "picture"):
    """A tqdm bar of `total` steps of which `done` are done already; use it in a `with`."""
    from tqdm import tqdm

    class Bar(tqdm):
        def display(self, *arguments, **named):
            spoke()
            return super().display(*arguments, **named)

    live = sys.stderr.isatty()
    return Bar(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        delay=SHOWN_AFTER_S if live else QUIET_S,
        mininterval=0.2 if live else QUIET_S,
        dynamic_ncols=live,
    )


@contextmanager
def alive(label: str) -> Iterator[None]:
    """While the block runs a line of its name and seconds where no other sign is given: every ten
    seconds of the first minute, then every minute. Of blocks in blocks the innermost is named, of
    several processes (torchrun) the first speaks. A block without a name is silent.
    """
    _doing.append((label, time.monotonic()))
    if len(_doing) > 1 or os.environ.get("RANK", "0") != "0":
        try:
            yield
        finally:
            _doing.pop()
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ended,), daemon=True)
    spoke()
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        _doing.pop()


def _watch(ended: threading.Event) -> None:
    """Speak for the innermost block until the outermost ends."""
    while not ended.wait(min(1.0, QUIET_S)):
        label, started = _doing[-1]
        now = time.monotonic()
        if label and now - _spoke >= (QUIET_S if now - started < MINUTE_S else MINUTE_S):
            say(f"{label}: {now - started:.0f} s so far")


def say(line: str) -> None:
    """A line on stderr, beside bars that may stand there."""
    from tqdm import tqdm

    spoke()
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
