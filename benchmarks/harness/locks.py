"""Locks by file: of several processes, on one machine or on many that share a folder, one works.

A lock is a file that names its holder (machine, process, when that process began). Who makes it
first holds it, until it is removed. That of a process of this machine that is gone is taken over;
of another machine nobody here can tell, so its lock stays until somebody removes the file. Machines
that share a folder need names of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from cm3leon.files import write_atomic, write_new


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether the lock is ours until the block ends; False where somebody else holds it.

    Raises UserError where the folder cannot be written.
    """
    ours = write_new(path, _me()) or _taken_over(path)
    try:
        yield ours
    finally:
        if ours:
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


def _me() -> str:
    process = os.getpid()
    about = {"machine": platform.node(), "process": process, "began": began(process)}
    return json.dumps(about) + "\n"


def _taken_over(path: Path) -> bool:
    """Take the lock of a process of this machine that is gone. Only its own processes do that, one
    at a time: what is there then is the dead one's still.
    """
    with _alone(path.with_name(f".{path.name}.{platform.node()}")):
        try:
            found = json.loads(path.read_bytes())
            here, gone = found["machine"] == platform.node(), _gone(found)
        except FileNotFoundError:
            return write_new(path, _me())
        except (OSError, ValueError, KeyError, TypeError):
            return False  # being written, or damaged: `holder` says so
        if here and gone:
            write_atomic(path, _me())
        return here and gone


def _gone(found: dict) -> bool:
    """Whether the process has ended, be its number another's by now."""
    process = int(found["process"])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return began(process) != found["began"]


def began(process: int) -> str:
    """When a process began, as the system counts; empty where it does not tell."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
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
