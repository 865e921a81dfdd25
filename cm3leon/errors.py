"""The one exception for users' mistakes: one line with the thing, the value and the way out."""

import sys


class UserError(ValueError):
    """Bad input; command lines print it as `error: ...` and exit with code 2."""


def note(text: str) -> None:
    """One line on stderr about what goes on, but otherwise than might be expected."""
    print(f"note: {text}", file=sys.stderr)
