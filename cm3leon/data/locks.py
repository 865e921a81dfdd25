"""Locks by file: of several processes, on one machine or on many that share a folder, one works.

A lock is a file that names its holder (machine, process, when that process began). Who makes it
first holds it, until it is removed; while it is held its time is set anew every `BEAT_S`. That of a
process of this machine that is gone is taken over at once. Of another machine nobody here can tell:
its lock is taken over when whoever waits has seen no sign of life for `SILENT_S` by a clock of its
own, so clocks that differ do not matter, and nor do file systems that show a change late, as long
as that is less. A holder that was only asleep finds out (`Lock.kept`). Machines that share a folder
need names of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cm3leon.files import write_atomic, write_new
from cm3leon.progress import say

BEAT_S = 10.0  # between signs of life
SILENT_S = (
    180.0  # without one a holder of another machine counts as dead; NFS shows times 60 s late
)
FOLDER = ".locks"  # where they lie, in the folder that is worked in; gone when nobody does
LOOK_S = 0.5  # between looks at what others make
SETTLE_S = 1.0  # after which two machines that took over at once see the same file
_watched: dict[Path, tuple[tuple, float]] = {}  # lock -> how it looked, since when


@dataclass(frozen=True)
class Lock:
    """A lock that is held."""

    path: Path
    text: str

    def kept(self) -> bool:
        """Whether it is ours still: nobody took it over while this process slept."""
        with contextlib.suppress(OSError):
            return self.path.read_text() == self.text
        return False


@contextlib.contextmanager
def held(path: Path) -> Iterator[Lock | None]:
    """The lock until the block ends; None where somebody else holds it.

    Raises UserError where the folder cannot be written.
    """
    lock = Lock(path, _me())
    if not (write_new(path, lock.text) or _taken_over(lock)):
        yield None
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(lock, over), daemon=True)
    beating.start()
    try:
        yield lock
    finally:
        over.set()
        beating.join()
        if lock.kept():
            with contextlib.suppress(OSError):
                path.unlink()


def holder(path: Path) -> str | None:
    """Who holds a lock, in words; None where nobody does."""
    try:
        found = json.loads(path.read_bytes())
        return f"process {found['process']} of {found['machine']}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "nobody that can be read"


def share(
    todo: Iterable[int],
    lock: Callable[[int], Path],
    made: Callable[[int], bool],
    make: Callable[[int], Callable[[], None]],
) -> set[int]:
    """Make pieces of a job beside other processes that do the same; returns which they made.

    `made(n)` tells whether another process has made piece n meanwhile. `make(n)` makes it, under
    the lock `lock(n)`, and returns what writes it, which is called if the lock is ours still.
    Returns when every piece is made.
    """
    left, others, told = list(todo), set(), False
    while left:
        ends = {number: _piece(number, lock(number), made, make) for number in left}
        others |= {number for number, end in ends.items() if end == "another's"}
        waiting = [number for number, end in ends.items() if end == "held"]
        if len(waiting) == len(left):
            if not told:
                who = sorted({holder(lock(number)) or "another" for number in waiting})
                say(f"waiting for {len(waiting)} shards, made by {', '.join(who[:3])}")
            told = True
            time.sleep(LOOK_S)
        left = waiting
    return others


def _piece(number: int, path: Path, made: Callable, make: Callable) -> str:
    """Make a piece unless another process did or does: "ours", "another's" or "held"."""
    if made(number):
        return "another's"
    with held(path) as lock:
        if lock is None:
            return "held"
        if made(number):
            return "another's"
        write = make(number)
        if lock.kept():
            write()
            return "ours"
    say(f"shard {number} was taken over by {holder(path)}, and is left to it")
    return "held"


def once(path: Path, done: Callable[[], bool], work: Callable[[], object]) -> None:
    """Do a piece of work unless it is done, under its lock: of several processes one does it, and
    all return when it is done.
    """
    while True:
        with held(path) as lock:
            if lock is not None:
                if not done():
                    work()
                return
        time.sleep(LOOK_S)


def tidy(folder: Path) -> None:
    """Remove a folder of locks, unless one is held or another machine's process was here."""
    with contextlib.suppress(OSError):
        if not any(folder.glob("[!.]*")):
            for path in folder.glob(f".*.{platform.node()}"):
                path.unlink(missing_ok=True)
        folder.rmdir()


def _me() -> str:
    process = os.getpid()
    about = {"machine": platform.node(), "process": process, "began": began(process)}
    return json.dumps(about) + "\n"


def _beat(lock: Lock, over: threading.Event) -> None:
    """A sign of life now and then, until `over` or the lock is another's."""
    while not over.wait(BEAT_S) and lock.kept():
        with contextlib.suppress(OSError):  # one beat less
            os.utime(lock.path)


def _taken_over(lock: Lock) -> bool:
    """Take the lock of somebody who is gone. Of this machine's processes one at a time looks: what
    is there then is the dead one's still. Of several machines the last to write has it.
    """
    try:
        with _alone(lock.path.with_name(f".{lock.path.name}.{platform.node()}")):
            look = _look(lock.path)
            near = _gone(look[0])
            if not near and not _silent(lock.path, look):
                return False
            write_atomic(lock.path, lock.text)
    except FileNotFoundError:  # it was let go meanwhile
        return write_new(lock.path, lock.text)
    except OSError:
        return False
    if not near:
        time.sleep(SETTLE_S)
    return lock.kept()


def _look(path: Path) -> tuple[bytes, int]:
    """What a lock says, and its time; opened, lest a network file system answers from memory."""
    with open(path, "rb") as file:
        return file.read(), os.fstat(file.fileno()).st_mtime_ns


def _silent(path: Path, look: tuple) -> bool:
    """Whether a lock has looked the same for `SILENT_S`, as often as this process asked."""
    seen, since = _watched.get(path, (None, 0.0))
    if seen != look:
        _watched[path] = look, time.monotonic()
        return False
    return time.monotonic() - since > SILENT_S


def _gone(said: bytes) -> bool:
    """Whether the holder was a process of this machine that has ended, be its number another's by
    now.
    """
    try:
        found = json.loads(said)
        process, machine = int(found["process"]), found["machine"]
    except (ValueError, KeyError, TypeError):
        return False  # being written, or damaged: `holder` says so
    if machine != platform.node():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return began(process) != found.get("began")


def began(process: int) -> str:
    """When a process began, as the system counts; empty where it does not tell, and of a zombie."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if stat[0] == "Z":
            return ""
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + "/" + stat[19]
    except (OSError, IndexError):
        return ""


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with open(path, "a+b") as file:
        with contextlib.suppress(ImportError, OSError):  # not on Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
