"""The command line: `cm3leon --help` lists its commands, `cm3leon --version` says which it is.

A command is a dataclass with `run() -> exit code`; `COMMANDS` lists them all.
Exit codes: 0 fine, 2 a mistake in the input (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tyro

from cm3leon.cli.ask import Answer, Edit
from cm3leon.cli.convert import ConvertTokenizer
from cm3leon.cli.data import Draw, Encode, ExportScenes, Index, Retrieve
from cm3leon.cli.doctor import Doctor
from cm3leon.cli.infill import Caption, Infill
from cm3leon.cli.interop import Export, Import
from cm3leon.cli.reports import Compare, Dashboard, Report
from cm3leon.cli.score import Score
from cm3leon.cli.serve import Serve
from cm3leon.cli.train import Train, TrainText
from cm3leon.cli.train_tokenizer import TrainTokenizer
from cm3leon.cli.tune import Tune
from cm3leon.errors import UserError, printable
from cm3leon.options import check_options
from cm3leon.progress import alive

COMMANDS = (
    Draw
    | Caption
    | Infill
    | Edit
    | Answer
    | Retrieve
    | Serve
    | Score
    | Encode
    | Index
    | ConvertTokenizer
    | TrainText
    | TrainTokenizer
    | Train
    | Tune
    | Doctor
    | Export
    | Import
    | ExportScenes
    | Compare
    | Dashboard
    | Report
)


def parse(kind, argv: Sequence[str] | None, prog: str):
    """Options of dataclass `kind` from a command line; a mistake in it, or a number outside the
    bounds of its type (`options.py`), is a UserError of one line.

    `--help` prints and raises SystemExit(0).
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(kind, args=argv, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(one_line(said.getvalue(), prog)) from None
    check_options(found)
    return found


def one_line(box: str, prog: str) -> str:
    """What tyro says in a box, as one line: the fault, the nearest options, where to read on."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    rows = [row.strip("│╭╮╰╯ ") for row in plain.splitlines()]
    sections: list[list[str]] = [[]]
    for row in filter(None, rows):
        if set(row) <= set("─-") or row.startswith("─ "):  # a rule, or the border with the title
            sections.append([])
        else:
            sections[-1].append(row)
    sections = [section for section in sections if section]
    if (
        "─" not in plain and len(sections) > 1
    ):  # where the terminal has no lines, the title is a row
        sections = sections[1:]
    fault = " ".join(sections[0]) if sections else "unreadable options"
    near = [row.split()[0] for part in sections[1:] for row in part if row.startswith("--")]
    hint = f"did you mean {' or '.join(near[:2])}? " if near and "Unrecog" in fault else ""
    return f"{fault}; {hint}see {prog} --help"


def guarded(command: Callable[[], int]) -> int:
    """Exit code of a command; a user's mistake becomes one line on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold any bytes
            stream.reconfigure(errors="backslashreplace")
    try:
        with interrupts_end_at_once():
            return command()
    except UserError as error:
        return failed(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return failed(f"{place}{error.strerror or error}; check the path and the space left")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:160] or "no more is told"
        return failed(
            f"not enough memory ({reason}); give it smaller inputs or batches, a training more "
            "pieces (--accumulate) or --recompute, with which it goes on where it is"
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def interrupts_end_at_once(back: bool = True) -> Iterator[None]:
    """Ctrl-C ends the process, as a kill may at any time: an exception raised while compiled code
    of a library waits for a call back would end in its abort. Processes of ours are ended first,
    by the exception. Without `back` it is so to the end of the process.
    """
    found = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or found is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        if back:
            signal.signal(signal.SIGINT, found)


def interrupted(*_) -> None:
    """What a signal does: one line and exit code 130, or KeyboardInterrupt where others wait."""
    processes = sys.modules.get("multiprocessing")
    if processes and processes.active_children():
        raise KeyboardInterrupt
    with contextlib.suppress(Exception):  # the signal may have come while it was written to
        sys.stdout.flush()
        os.write(2, b"interrupted\n")
    os._exit(130)


def out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy or torch (on a processor, on an accelerator) had no memory left."""
    torchs = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or torchs


def failed(reason: object) -> int:
    """Say in one line why a command ends; its exit code."""
    print(f"error: {printable(reason)}", file=sys.stderr)
    return 2


def version() -> str:
    """`cm3leon 0.1.0`, and of a checkout its commit."""
    from cm3leon import __version__
    from cm3leon.reports.records.record import code_state

    found = code_state(Path(__file__).resolve().parents[2])
    if found["commit"] == "unknown":
        return f"cm3leon {__version__}"
    return f"cm3leon {__version__} ({found['commit'][:7]}{', changed' * bool(found['dirty'])})"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(version())
        return 0
    with interrupts_end_at_once(back=argv is not None), alive("at work"):
        return guarded(lambda: parsed(words).run())


def parsed(words: Sequence[str]):
    """The command of a command line; of several processes of torchrun the first one speaks."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return parse(COMMANDS, words, "cm3leon")
    from cm3leon.training.ranks import first_alone_speaks

    with first_alone_speaks():
        return parse(COMMANDS, words, "cm3leon")


if __name__ == "__main__":
    sys.exit(main())
