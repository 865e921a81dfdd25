"""A training's log as TensorBoard shows it, while it is written: `cm3leon train --tensorboard`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from cm3leon.errors import UserError

LOG, FOLDER = "log.jsonl", "tensorboard"
EVERY_S = 5.0  # between looks at the log


def followed(run: Path, wanted: bool):
    """A `with` in which the log of a run's folder goes to its `tensorboard/` too, if `wanted`: each
    number a scalar by its step, from the first line on, in place of what an earlier process wrote.

    Raises UserError without the package tensorboard.
    """
    if not wanted:
        return nullcontext()
    return following(run / LOG, writer(run / FOLDER))


def writer(folder: Path):
    """torch's writer of event files, the folder's old ones gone; UserError without tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard needs tensorboard: pip install 'cm3leon[tensorboard]', or leave it out; "
            "loss.png and loss.csv are written without it"
        ) from None
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    return SummaryWriter(folder)


@contextmanager
def following(log: Path, out) -> Iterator[None]:
    """Give the numbers of a log to a writer (`add_scalar`, `flush`, `close`) as lines come."""
    ended, lines = threading.Event(), _Lines(log, out)

    def watch() -> None:
        while not ended.wait(EVERY_S):
            lines.take()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        lines.take()
        out.close()


class _Lines:
    """What of a log was not yet given to a writer; a log that became shorter is read anew."""

    def __init__(self, log: Path, out):
        self.log, self.out, self.read = log, out, 0

    def take(self) -> None:
        """Whole lines since the last time."""
        data = self.log.read_bytes() if self.log.is_file() else b""
        if len(data) < self.read:
            self.read = 0
        end = data.rfind(b"\n") + 1
        for line in data[self.read : end].splitlines():
            with suppress(ValueError):  # a line that a kill cut short
                self._add(json.loads(line))
        self.read = max(self.read, end)
        self.out.flush()

    def _add(self, record: dict) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                self.out.add_scalar(name, value, record["step"])
