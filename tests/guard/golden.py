"""Goldens: what a command or an entry point gave before, kept in `tests/goldens/*.json`.

The fixture `golden` holds what is kept for one test; `pytest --write-goldens` writes it anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "goldens"
SHOWN = 12  # differences named
NUMBERS = re.compile(r"\[[^][{}\"]*\]")  # a list of them: on one line
DIGITS = 9  # significant ones of a number that are kept


class Golden:
    """What is kept for one test, in the file of its module."""

    def __init__(self, path: Path, name: str, writes: bool):
        self.path, self.name, self.writes = path, name, writes

    @property
    def wanted(self):
        """What is kept; the test fails where there is nothing."""
        kept = self._read()
        if self.name not in kept:
            pytest.fail(f"{self.path.name} keeps nothing for {self.name}: pytest --write-goldens")
        return kept[self.name]

    def write(self, found) -> None:
        """Keep this from now on."""
        kept = self._read() | {self.name: rounded(found)}
        text = json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False)
        text = NUMBERS.sub(lambda found: " ".join(found[0].split()), text)
        self.path.write_text(text + "\n", encoding="utf-8")

    def check(self, found, rel: float = 0.0, absolute: float = 0.0) -> None:
        """Fail unless `found`, of JSON's types, is what is kept: numbers up to `rel` or `absolute`,
        whatever else exactly.
        """
        if self.writes:
            self.write(found)
        told = list(differences(found, self.wanted, rel, absolute))
        more = f"\n... and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        assert not told, "not as kept:\n" + "\n".join(told[:SHOWN]) + more

    def _read(self) -> dict:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}


def differences(found, wanted, rel: float, absolute: float, place: str = ""):
    """One line for each place where two JSON values differ."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            at = f"{place}.{key}" if place else key
            if key not in found or key not in wanted:
                yield f"{at}: {'is new' if key in found else 'is gone'}"
            else:
                yield from differences(found[key], wanted[key], rel, absolute, at)
    elif isinstance(found, (list, tuple)) and isinstance(wanted, list):
        if len(found) != len(wanted):
            yield f"{place}: {len(found)} instead of {len(wanted)}"
        for at, both in enumerate(zip(found, wanted, strict=False)):
            yield from differences(*both, rel, absolute, f"{place}[{at}]")
    elif isinstance(found, float) or isinstance(wanted, float):
        numbers = all(type(one) in (int, float) for one in (found, wanted))
        if not numbers or found != pytest.approx(wanted, rel=max(rel, 1e-8), abs=absolute):
            yield f"{place}: {found!r} instead of {wanted!r}"
    elif found != wanted:
        yield f"{place}: {found!r} instead of {wanted!r}"


def rounded(value):
    """JSON types with numbers of so many digits."""
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
