"""A full disk: a small tmpfs of the case's own, which grows before the same command again.

The mount lives in a namespace of a forked child, so that nothing of it stays. Linux alone, and
where the system allows it; else the case is skipped, and counted so.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

import numpy as np

from benchmarks.fault_cases.child import run
from benchmarks.fault_cases.rows import HELD, SKIPPED, Row, refusal
from benchmarks.fault_cases.workshop import JOBS, Job, Workshop

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REMOUNT, MS_REC, MS_PRIVATE = 32, 16384, 1 << 18
LARGE = 2**30
PAGE = 4096


def disk(workshop: Workshop, generator: np.random.Generator) -> Row:
    """One job on a disk that ends within what it writes."""
    jobs = [job for job in JOBS.values() if job.made]
    job = jobs[generator.integers(len(jobs))]
    return full(workshop, job, float(generator.random()))


def full(workshop: Workshop, job: Job, share: float) -> Row:
    """The case of that job, with room for a share of what it leaves."""
    truth = workshop.truth(job)[0]
    told = workshop.home / "row.json"
    told.unlink(missing_ok=True)
    workshop.clear()
    done = run(
        lambda: _inside(workshop, job, share, truth, told), workshop.home, 3 * workshop.limit_s
    )
    if not told.exists():
        outcome = "hung" if done.hung else SKIPPED
        return Row(job.name, "full disk", outcome, done.told)
    return Row(**json.loads(told.read_text()))


def _inside(workshop: Workshop, job: Job, share: float, truth: str, told: Path) -> int:
    """What the child with the mount does; the row as JSON in `told`."""
    try:
        isolate()
        mount(workshop.now, LARGE)
    except OSError as error:
        print(f"no mount: {error.strerror}", file=sys.stderr)
        return 0
    workshop.fill(*job.needs)
    done = workshop.run(job)  # how much it takes
    size = sum(used(workshop.now / name) for name in job.made)
    workshop.fill(*job.needs)
    room = int(share * size) // PAGE * PAGE
    grow(workshop.now, used(workshop.now) + room)
    done = workshop.run(job)
    outcome = refusal(done)
    how = f"room for {room:,} of {size:,} bytes"
    if done.code == 0:
        outcome = HELD
    said = done.told
    if outcome == HELD:
        grow(workshop.now, LARGE)
        if done.code or job.again:
            done = workshop.run(job)
        outcome = HELD if workshop.digest(job, done) == truth else "lost"
        said = said if outcome == HELD else done.told
    told.write_text(json.dumps({"what": job.name, "how": how, "outcome": outcome, "told": said}))
    return 0


def isolate() -> None:
    """Give this process mounts of its own; OSError where that is not allowed."""
    library, user, group = libc(), os.getuid(), os.getgid()
    if library.unshare(CLONE_NEWNS):
        check(library.unshare(CLONE_NEWNS | CLONE_NEWUSER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    check(library.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def mount(folder: Path, size: int) -> None:
    """Mount a tmpfs of so many bytes at a folder."""
    check(libc().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()))


def grow(folder: Path, size: int) -> None:
    """Give a mounted tmpfs another size."""
    options = f"size={max(size, PAGE)}".encode()
    check(libc().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", MS_REMOUNT, options))


def libc() -> ctypes.CDLL:
    """The C library; OSError where it is another system's."""
    if sys.platform != "linux":
        raise OSError(0, "not Linux")
    return ctypes.CDLL(None, use_errno=True)


def check(code: int) -> None:
    """Raise OSError for a call that failed."""
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def used(folder: Path) -> int:
    """Bytes of the pages that a folder's files and folders take in a tmpfs."""
    if not folder.exists():
        return 0
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)
