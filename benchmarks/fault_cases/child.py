"""A command line in a process of its own: forked or started anew, bounded, killed where asked.

A forked child has all libraries already, so that hundreds of command lines take minutes; one that
is started anew takes the user's way from the first import on.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.core import ROOT

QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "COLUMNS": "100"}
LOADED = (  # what the commands import late
    "cm3leon.cli.main", "cm3leon.data.token_cache", "cm3leon.clip", "cm3leon.training.recipe",
    "cm3leon.interop.hf_folder", "cm3leon.decoding.rerank", "cm3leon.world.coco_export",
    "cm3leon.tokenizers.folder", "benchmarks.fid_coco", "benchmarks.evaluate.scenes_fid",
    "benchmarks.evaluate.pinned", "cm3leon.reports.tables", "cm3leon.reports.benches.splits",
    "cm3leon.reports.compare", "open_clip", "faiss", "matplotlib.pyplot", "pandas",
)  # fmt: skip
OUTLIVED_S = 20.0  # given to children of a killed process, which end with it
POLL_S = 0.002
IDLE_S = 5.0  # without getting on: it waits for what does not come
CLOCKS = 20  # times a limit that a clock may show before that is enough, whatever else runs here


class Line(NamedTuple):
    """A command line: `python -m MODULE WORDS`."""

    module: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        command = "cm3leon" if self.module == "cm3leon.cli.main" else self.module
        return " ".join((command, *self.words))


class Kill(NamedTuple):
    """A signal after so many seconds."""

    signal: signal.Signals
    seconds: float


@dataclass(frozen=True)
class Done:
    """How a process ended: its exit code (negative: a signal's number) and what it said."""

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False  # it, or what it started, had to be stopped
    killed: bool = False  # it still ran when the signal came

    @property
    def raised(self) -> bool:
        """Whether it ended otherwise than a command of ours may."""
        crashed = -self.code in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL)
        return "Traceback (most recent" in self.err or crashed or self.code == 1

    @property
    def refused(self) -> bool:
        """Whether it ended with one line that says why."""
        return self.code in (2, 3) and len(self.errors) == 1

    @property
    def errors(self) -> list[str]:
        """Its lines that say why it ended."""
        return [line for line in self.err.replace("\r", "\n").split("\n") if line[:7] == "error: "]

    @property
    def told(self) -> str:
        """The last line of what it said, for a row."""
        lines = (self.err.replace("\r", "\n") or self.out).strip().split("\n")
        return (self.errors or lines)[-1][:200]


def load() -> float:
    """Import what the commands need, once for all children; the seconds that took."""
    start = time.monotonic()
    import torch

    torch.set_num_threads(1)
    for name in LOADED:
        importlib.import_module(name)
    return time.monotonic() - start


def run(
    line: Line | Callable[[], int],
    place: Path,
    seconds: float,
    *,
    kill: Kill | None = None,
    fresh: bool = False,
    memory: int | None = None,
) -> Done:
    """Run a command line in the folder `place`, for at most so many seconds of its own.

    On a busy machine the clock may show more; what waits without end has none of its own.
    `fresh`: by a new interpreter. `memory`: bytes of its own data that it may have.
    """
    words, start = place.with_suffix(".said"), time.monotonic()
    words.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if not child:
        _child(line, place, words, fresh, memory)
    code, killed, hung = _wait(child, start, seconds, kill)
    spent = time.monotonic() - start
    hung |= _outlived(child)
    out, err = ((words / name).read_text("utf-8", "replace") for name in ("out", "err"))
    return Done(code, out, err, spent, hung, killed)


def data_held() -> int:
    """Bytes of data that this process has already, and its forked children with it (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _child(line, place: Path, words: Path, fresh: bool, memory: int | None) -> None:
    """What the forked process does; it never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(place)
        for handle, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(words / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ |= QUIET | {"PYTHONPATH": str(ROOT), "CM3LEON_CACHE": str(place / "cache")}
        if memory:
            import resource

            most = memory + (0 if fresh else data_held())
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        if fresh and isinstance(line, Line):
            os.execv(sys.executable, [sys.executable, "-m", *line[:1], *line.words])
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(handle, "w", closefd=False), "utf-8", line_buffering=True)
            for handle in (1, 2)
        )
        code = _called(line)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is over
    except BaseException:  # as an interpreter does
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _called(line: Line | Callable[[], int]) -> int:
    """The exit code of a command line in this process."""
    try:
        if not isinstance(line, Line):
            return line()
        sys.argv = [line.module, *line.words]
        if main := getattr(importlib.import_module(line.module), "main", None):
            return main()
        del sys.modules[line.module]
        runpy.run_module(line.module, run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as stop:
        if isinstance(stop.code, int) or stop.code is None:
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1


def _wait(child: int, start: float, seconds: float, kill: Kill | None) -> tuple[int, bool, bool]:
    """(exit code, whether the signal met it alive, whether it had to be stopped)."""
    killed = hung = False
    course = Course(child)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), killed, hung
        spent = time.monotonic() - start
        if kill and not killed and spent >= kill.seconds:
            killed = True
            with contextlib.suppress(ProcessLookupError):
                if kill.signal == signal.SIGINT:  # as a terminal: all of the group
                    os.killpg(child, kill.signal)
                else:
                    os.kill(child, kill.signal)
        late = spent >= seconds + (kill.seconds if kill else 0)
        if late and not hung and course.over(seconds):
            hung = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.1 if late else POLL_S)


def _outlived(group: int) -> bool:
    """Whether processes of the group run on after its first has ended; they are stopped."""
    until, course = time.monotonic() + OUTLIVED_S, Course(group)
    while _alive(group):
        if time.monotonic() > until and course.over(OUTLIVED_S):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            return True
        time.sleep(POLL_S)
    return False


def _alive(group: int) -> bool:
    """Whether any process of a group runs; one that has ended and waits to be noticed does not."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    states = [fields[0] for fields in _processes(group)]
    return any(state != "Z" for state in states) or not Path("/proc/self/stat").exists()


def _processes(group: int) -> Iterator[list[str]]:
    """What /proc says of each process of a group, from its state on (proc(5), `stat`, field 3)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = path.read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                yield fields


@dataclass
class Course:
    """How a group of processes gets on: others here may leave it little of the processor."""

    group: int
    begun: float = field(default_factory=time.monotonic)
    moved: float = 0.0  # when it was last seen to get on
    own_s: float = -1.0  # of the processor until then

    def over(self, seconds: float) -> bool:
        """Whether it took so many seconds of the processor, has stopped getting on, or is hopeless.

        It gets on while one of it is ready to run, waits for a disk, or took some time meanwhile.
        """
        found, now = list(_processes(self.group)), time.monotonic()
        own_s = sum(int(ticks) for one in found for ticks in one[11:15]) / os.sysconf("SC_CLK_TCK")
        if own_s > self.own_s + 0.01 * IDLE_S or any(one[0] in "RD" for one in found):
            self.moved, self.own_s = now, own_s
        hopeless = now - self.begun > CLOCKS * seconds + IDLE_S
        return own_s >= seconds or now - self.moved > IDLE_S or hopeless
