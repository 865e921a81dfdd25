"""Bounds of options: in their types, of every command, checked wherever a command line is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, get_type_hints

import pytest

from benchmarks.fault_cases.options import ANYTHING, LEAST, command_lines, outside
from cm3leon.cli import main as cli
from cm3leon.cli.data import Draw
from cm3leon.cli.train import TrainChanges
from cm3leon.cli.tune import TuneChanges
from cm3leon.errors import UserError, printable
from cm3leon.options import Range, check_options, ranges

KINDS = {line.name: line.kind for line in command_lines()} | {
    "TrainChanges": TrainChanges, "TuneChanges": TuneChanges,
}  # fmt: skip


def numbers(kind) -> dict:
    """Field -> type of those options that are numbers."""
    hints = get_type_hints(kind, include_extras=True)
    found = {one.name: hints[one.name] for one in fields(kind)}
    return {
        name: hint
        for name, hint in found.items()
        if not is_dataclass(hint) and {"int", "float"} & set(words(hint))
    }


def words(hint) -> list[str]:
    return str(hint).replace("[", " ").replace("]", " ").replace(",", " ").replace("|", " ").split()


def test_every_command_and_benchmark_is_here():
    assert len(KINDS) > 25 and set(LEAST) < set(KINDS)
    assert {"ablate_positions", "equal_compute", "choose_decoding", "faults"} < set(KINDS)


@pytest.mark.parametrize("command", KINDS)
def test_every_number_has_bounds_that_hold(command):
    """The cross product of options and bad values, by the real command line."""
    kind, least = KINDS[command], LEAST.get(command, ())
    for name, hint in numbers(kind).items():
        bounds = list(ranges(hint))
        assert bounds or name in ANYTHING, f"{kind.__name__}.{name} has no bounds"
        for text in map(str, outside(bounds)):
            option = f"--{name.replace('_', '-')}"
            with pytest.raises(UserError) as error:
                found = cli.parse(kind, [*least, option, text], "x")
                pytest.fail(f"{name}: {text} is taken as {getattr(found, name)}")
            said = str(error.value)
            assert "\n" not in said and len(said) < 400
            assert name in said or option in said, (kind, name, text, said)


def test_bounds_themselves_are_allowed():
    for name, low, high in (("count", 1, 65_536), ("samples", 1, 4096), ("documents", 0, 4)):
        for value in (low, high):
            found = cli.parse(Draw, ["x", f"--{name}", str(value)], "x")
            assert getattr(found, name) == value


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Range(0, 1, above=True)] = 1.0


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    many: tuple[Annotated[int, Range(2)], ...] = ()
    some: tuple[int, ...] | None = None
    free: float = 0.0
    flag: bool = True
    text: str = ""
    words: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Outer(Inner(0.0)), "inner.share must lie in (0, 1], got 0.0"),
        (Outer(Inner(math.nan)), "inner.share must be finite, got nan"),
        (Outer(many=(2, 3, 1)), "many must be at least 2, got 1"),
        (Outer(free=-math.inf), "free must be finite, got -inf"),
        (Outer(some=()), "some is given nothing; name at least one, or leave it out"),
        (
            Outer(words=("a", "\ud83d")),
            "words must be UTF-8, which character 1 of '\\ud83d' is not",
        ),
        (Outer(text="a\ud83d"), "text must be UTF-8, which character 2 of 'a\\ud83d' is not"),
    ],
)
def test_what_is_said(options, message):
    with pytest.raises(UserError) as error:
        check_options(options)
    assert str(error.value) == message
    check_options(Outer(Inner(0.5), (2, 9), -3.5))


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("a\x1b[2J\n\0\x9b\u2028\udcff") == r"a\x1b[2J\n\x00\x9b\u2028\udcff"
    kept = "naïve 雪 👩\u200d🎨 «x»\u00a0"
    assert printable(kept) == kept
