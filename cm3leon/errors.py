"""The one exception for users' mistakes: one line with the thing, the value and the way out."""


class UserError(ValueError):
    """Bad input; command lines print it as `error: ...` and exit with code 2."""
