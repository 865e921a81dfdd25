"""Progress with a time to go, on stderr: a live bar on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import sys

SHOWN_AFTER_S = 2.0  # what is quicker needs no bar
QUIET_S = 20.0  # between lines where nobody watches


def progress(total: int, label: str, done: int = 0, unit: str = "picture"):
    """A tqdm bar of `total` steps of which `done` are done already; use it in a `with`."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        delay=SHOWN_AFTER_S,
        mininterval=0.2 if live else QUIET_S,
        dynamic_ncols=live,
    )
