"""Command lines, their options' types and bounds, and values that no option may take."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from benchmarks.fault_cases.child import Line, run
from benchmarks.fault_cases.rows import HELD, Row, refusal
from benchmarks.fault_cases.workshop import Workshop
from benchmarks.harness.core import ROOT
from cm3leon.options import Range, ranges

LEAST = {  # the shortest words of each command and benchmark that needs some
    "draw": ("x",), "caption": ("x.png",), "encode": ("a", "b"), "index": ("a", "b"),
    "convert-tokenizer": ("a", "--out", "b"), "train-text": ("a", "--out", "b"),
    "train": ("--dry-run",), "tune": ("a", "b", "--dry-run"), "export": ("a", "b"),
    "import": ("a", "b"), "export-scenes": ("a",), "interleave": ("--base", "HEAD"),
    "made_weights": ("a",), "edit": ("a.png", "x"), "answer": ("a.png", "x"),
    "outputs": ("--results", "a", "--kind", "judge"),
    "retrieve": ("x",), "train-tokenizer": ("a", "b"),
    "score": ("a", "b"), "compare": ("a", "b"),
}  # fmt: skip
RUN = 'if __name__ == "__main__":'  # in a module that is a command
ANYTHING = {  # numbers that may be anything finite, or are checked with others
    "seed", "seeds", "beam_alpha", "image_guidance", "text_guidance", "guidance", "top_p", "box",
    "expected", "lowest",
}  # fmt: skip


@dataclass(frozen=True)
class Commandline:
    """A command with its dataclass of options and the fewest words that it takes."""

    line: Line
    kind: type

    @property
    def name(self) -> str:
        """As in `LEAST`."""
        inside = self.line.module == "cm3leon.cli.main"
        return self.line.words[0] if inside else self.line.module.rpartition(".")[2]


class Option(NamedTuple):
    """An option on the command line, its field's name and its type."""

    flag: str
    name: str
    hint: object
    default: object = None

    @property
    def bounds(self) -> list[Range]:
        """Of its numbers."""
        return list(ranges(self.hint))

    @property
    def is_number(self) -> bool:
        """Whether it takes numbers."""
        return bool({int, float} & set(leaves(self.hint)))


def command_lines() -> list[Commandline]:
    """All commands of `cm3leon` and all benchmarks with options."""
    from cm3leon.cli.main import COMMANDS

    found = []
    for kind in get_args(COMMANDS):
        word = "".join(f"-{c.lower()}" if c.isupper() else c for c in kind.__name__)[1:]
        found.append(Commandline(Line("cm3leon.cli.main", (word, *LEAST.get(word, ()))), kind))
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        if RUN not in path.read_text(encoding="utf-8"):
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if kind := getattr(importlib.import_module(name), "Options", None):
            found.append(Commandline(Line(name, LEAST.get(path.stem, ())), kind))
    return found


def options_of(kind: type, above: str = "") -> Iterator[Option]:
    """All options of a dataclass, those of dataclasses inside too."""
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        hint, name = hints[one.name], one.name.replace("_", "-")
        if inner := inside(hint):
            flat = any(getattr(part, "name", None) == "" for part in get_args(hint))
            yield from options_of(inner, above if flat else f"{above}{name}.")
        elif not positional(hint):
            yield Option(f"--{above}{name}", one.name, hint, one.default)


def walked(kind: type) -> Iterator[tuple[str, object]]:
    """(name, type) of all fields, positional ones and those of dataclasses inside too."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if inner := inside(hint):
            yield from walked(inner)
        else:
            yield name, hint


def inside(hint) -> type | None:
    """The dataclass of options that a type is, or wraps."""
    parts = (part for part in (hint, *get_args(hint)) if isinstance(part, type))
    return next(filter(is_dataclass, parts), None)


def positional(hint) -> bool:
    """Whether a word without a flag fills it."""
    return any("positional" in repr(part).lower() for part in getattr(hint, "__metadata__", ()))


def leaves(hint) -> Iterator:
    """The plain types and literals in a type."""
    inner = get_args(hint)
    if get_origin(hint) is Literal or not inner:
        yield hint
        return
    for part in inner:
        if not isinstance(part, Range):
            yield from leaves(part)


def outside(bounds: list[Range]) -> list[float]:
    """Numbers that lie in none of the bounds, and those that no option takes."""
    beyond = [math.nan, math.inf, -math.inf, 10.0**30, 10**30]
    for bound in bounds:
        beyond += [bound.low if bound.above else bound.low - 1, bound.high * 2 + 1]
    return beyond


def bad_words(option: Option) -> list[tuple[str, ...]]:
    """Words that the option must refuse, made from its type alone."""
    flag, kinds = option.flag, list(leaves(option.hint))
    if option.default == ():  # nothing may be given there
        return [(f"{flag}-no-such", "x")]
    if option.is_number:
        numbers = outside(option.bounds) if option.name not in ANYTHING else outside([])
        texts = [str(value) for value in numbers] + ["many", "", "1,5", "0x", "9" * 5000]
        return [(flag,), *((flag, text) for text in texts)]
    if any(get_origin(kind) is Literal for kind in kinds):
        return [(flag,), *((flag, text) for text in ("no-such", "", "\ud83d", "-1"))]
    if bool in kinds:  # a word behind it may be a positional one
        return [(f"{flag}-no-such",)]
    if str in kinds:
        return [(flag, "a\udcff"), (flag, "\ud83d"), (flag,)]
    return [(flag,)]  # a path: without its value


def named(told: str, flag: str, one: Option | None) -> bool:
    """Whether a message is about that option."""
    names = [flag, *([one.name] if one else [])]
    found = any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", told) for name in names)
    return found or "Unrecognized options" in told


def option(workshop: Workshop, generator: np.random.Generator) -> Row:
    """One option of one command line is given what its type forbids."""
    lines = command_lines()
    line = lines[generator.integers(len(lines))]
    options = list(options_of(line.kind))
    if not options or generator.random() < 0.05:
        return refused(workshop, line, None, ("--no-such-option", "3"))
    one = options[generator.integers(len(options))]
    words = bad_words(one)
    return refused(workshop, line, one, words[generator.integers(len(words))])


def refused(
    workshop: Workshop, line: Commandline, one: Option | None, words: tuple[str, ...]
) -> Row:
    """The case of these words: refused in one line that names the option or what was given."""
    workshop.clear()
    done = run(Line(line.line.module, (*line.line.words, *words)), workshop.now, workshop.limit_s)
    outcome = refusal(done)
    if outcome == HELD and not named(done.told, words[0].partition("=")[0], one):
        outcome = "silent"  # it stumbled over something else: this was passed over
    shown = " ".join(word if len(word) < 40 else f"{word[:20]}.." for word in words)
    return Row(line.name, ascii(shown), outcome, done.told)
