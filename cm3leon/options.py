"""Types of options with their bounds, and the one check of them, which every command line makes.

An option's type says what it may be (`count: Count`), so that no command asks for itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Literal, get_args, get_type_hints

from cm3leon.config import check
from cm3leon.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both among them unless `above`: then `low` is not."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    @property
    def rule(self) -> str:
        """What a value must do, for a message."""
        if self.high == math.inf:
            return f"be {'above' if self.above else 'at least'} {self.low:g}"
        return f"lie in {'(' if self.above else '['}{self.low:,.12g}, {self.high:,.12g}]"


ANY = Range(-(2**63), 2**63 - 1)  # of a number whose type says nothing else; never NaN or infinite
Count = Annotated[int, Range(1, 10**9)]
Whole = Annotated[int, Range(0, 10**9)]  # a count that may be none
Pictures = Annotated[int, Range(1, 65_536)]  # 256 a side of one grid
Samples = Annotated[int, Range(1, 4096)]  # for one input
Batch = Annotated[int, Range(1, 10**6)]
Documents = Annotated[int, Range(0, 4)]  # the recipes' most
Tokens = Annotated[int, Range(1, 65_536)]  # of a text
Beam = Annotated[int, Range(1, 256)]
Workers = Annotated[int, Range(0, 256)]
Threads = Annotated[int, Range(1, 1024)]
Resamples = Annotated[int, Range(2, 10**6)]
Pixels = Annotated[int, Range(1, 16_384)]  # of a side
Ids = Annotated[int, Range(1, 2**24)]  # of an id space
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, 1e18, above=True)]
Engine = Literal["auto", "torch", "c", "graph"]  # what takes a step (engine/rule.py)
NotNegative = Annotated[float, Range(0, 1e18)]


def check_options(options, above: str = "") -> None:
    """Raise UserError for the first number outside the bounds of its type or NaN, text that is not
    UTF-8, and a list without anything in it where that is not the default.

    Dataclasses inside are checked too; `above` stands before their names.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for one in fields(options):
        name, value = f"{above}{one.name}", getattr(options, one.name)
        if is_dataclass(value):
            check_options(value, f"{name}.")
            continue
        if value == () and one.default != ():
            raise UserError(f"{name} is given nothing; name at least one, or leave it out")
        bounds = list(ranges(hints[one.name])) or [ANY]
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, str):
                check_text(number, name)
            if isinstance(number, int | float) and not isinstance(number, bool):
                check(-math.inf < number < math.inf, name, "be finite", number)
                for bound in bounds:
                    check(number in bound, name, bound.rule, number)


def check_text(text: str, name: str) -> None:
    """Raise UserError for a text with a byte that was no UTF-8, or half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} must be UTF-8, which character {error.start + 1} of {text[:80]!r} is not"
        ) from None


def ranges(hint) -> Iterator[Range]:
    """The bounds in a type, of its alternatives and its items too."""
    yield from (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Range))
    for inner in get_args(hint):
        if not isinstance(inner, Range):
            yield from ranges(inner)
