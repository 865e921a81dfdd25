"""One comparison of `verify_fid`: what was expected, what was found, or which file is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cm3leon.errors import UserError


@dataclass(frozen=True)
class Check:
    """A comparison within `limit`; with `missing` it was not made, and that is what it needs."""

    name: str
    error: float | None = None  # of `found` against `wanted`, or of arrays
    limit: float = 0.0
    wanted: float | None = None
    found: float | None = None
    missing: str = ""
    way: str = ""  # how to get what is missing

    @property
    def made(self) -> bool:
        """Whether anything was compared."""
        return not self.missing

    @property
    def failed(self) -> bool:
        """Compared, and further apart than the limit (or not a number)."""
        return self.made and not (self.error is not None and self.error <= self.limit)

    @property
    def verdict(self) -> str:
        """ "fine", "FAILED" or "not checked"."""
        return "FAILED" if self.failed else "fine" if self.made else "not checked"

    def row(self) -> tuple[str, ...]:
        """Cells of the table: name, expected, found, error, limit, verdict, what is missing."""
        numbers = [_shown(value) for value in (self.wanted, self.found, self.error)]
        limit = _shown(self.limit) if self.made else "-"
        return (self.name, *numbers, limit, self.verdict, self.missing or "-")


HEADERS = ("check", "expected", "found", "error", "limit", "verdict", "missing")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.7g}"


def value_check(name: str, wanted: float, found: float, limit: float) -> Check:
    """A number against its published value."""
    return Check(name, abs(found - wanted), limit, wanted, found)


def array_check(name: str, wanted, found, limit: float, relative: bool = True) -> Check:
    """The largest difference of two arrays, against the largest value where `relative`."""
    wanted, found = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    if wanted.shape != found.shape:
        raise UserError(f"{name}: shapes differ, {list(found.shape)} and {list(wanted.shape)}")
    scale = float(np.abs(wanted).max()) if relative else 1.0
    return Check(name, float(np.abs(found - wanted).max()) / scale, limit)


def refusal_check(name: str, load: Callable[[], object]) -> Check:
    """That loading ends in one line, and in nothing else."""
    try:
        load()
    except UserError as error:
        return Check(name, float("\n" in str(error)), 0.0)
    except Exception:  # a traceback is what must not happen
        return Check(name, 1.0, 0.0)
    return Check(name, 1.0, 0.0)
