"""The command line: `cm3leon --help` lists its commands.

A command is a dataclass with `run() -> exit code`; `COMMANDS` lists them all.
Exit codes: 0 fine, 2 a mistake in the input (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence

import tyro

from cm3leon.commands import Draw, Encode, ExportScenes, Index
from cm3leon.convert_commands import ConvertTokenizer
from cm3leon.doctor import Doctor
from cm3leon.errors import UserError
from cm3leon.export_commands import Export, Import
from cm3leon.infill_commands import Caption, Infill
from cm3leon.train_commands import Train, TrainText

COMMANDS = (
    Draw
    | Caption
    | Infill
    | Encode
    | Index
    | ConvertTokenizer
    | TrainText
    | Train
    | Doctor
    | Export
    | Import
    | ExportScenes
)


def parse(kind, argv: Sequence[str] | None, prog: str):
    """Options of dataclass `kind` from a command line; a mistake in it is a UserError of one line.

    `--help` prints and raises SystemExit(0).
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=argv, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UserError(one_line(said.getvalue(), prog))


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
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {place}{error.strerror or error}; check the path and the space left",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    return guarded(lambda: parse(COMMANDS, argv, "cm3leon").run())


if __name__ == "__main__":
    sys.exit(main())
