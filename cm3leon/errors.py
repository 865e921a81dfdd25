"""The one exception for users' mistakes: one line with the thing, the value and the way out."""

import sys
import unicodedata
from collections.abc import Iterable

UNPRINTED = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, separators of lines and paragraphs


class UserError(ValueError):
    """Bad input; command lines print it as `error: ...` and exit with code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name that is nearest to a wrong one, else nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def note(text: str) -> None:
    """One line on stderr about what goes on, but otherwise than might be expected."""
    print(f"note: {printable(text)}", file=sys.stderr)


def printable(text: object) -> str:
    """A text as one line that no terminal obeys: line breaks, escapes and bytes that are no UTF-8
    (of a file's name) as `\\n`, `\\x1b`, `\\udcff`.
    """
    return "".join(
        one.encode("unicode_escape").decode() if unicodedata.category(one) in UNPRINTED else one
        for one in str(text)
    )
