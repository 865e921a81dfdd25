"""Tables and figures from JSON: results/ and baselines/published.json, nothing else, no torch.

Here: what they share; records come from `store.py`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.files import shipped_folder

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = shipped_folder() / "published.json"
# Where results and reports go: the checkout; of an installed package the folder it is run in.
HOME = ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()
OUT = HOME / "reports" / "out"
EXTRAS = ("jsonschema", "matplotlib", "pandas", "scipy", "threadpoolctl")  # of bench and report
QUOTED = {  # of a row in PUBLISHED
    "table": str,
    "model": str,
    "metric": str,
    "source": str,
    "mark": str,
    "value": (int, float),
}


def newest(records: Sequence[Mapping]) -> list[Mapping]:
    """The last record of each (system, bench, version, protocol); records come oldest first."""
    latest = {}
    for record in records:
        of = (record["bench"], record["version"], record["protocol_digest"])
        key = (record["system"]["name"], *of)
        latest[key] = record
    return list(latest.values())


def read_published(path: Path | str = PUBLISHED) -> dict:
    """The quoted numbers: {"about", "marks", "rows"}; UserError for a file of another shape."""
    found = read_json(Path(path))
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        raise UserError(f"{path} has no list 'rows'; give a file like {PUBLISHED}")
    for place, row in enumerate(rows):
        for key, kinds in QUOTED.items():
            if not isinstance(row, dict) or not isinstance(row.get(key), kinds):
                raise UserError(f"{path}: row {place} has no {key!r}; see those of {PUBLISHED}")
    return found


def own(record: Mapping) -> dict:
    """The record's own value in the form of an extra: {value, low, high}."""
    interval = record["interval"] or {}
    return {"value": record["value"], "low": interval.get("low"), "high": interval.get("high")}


def extra(record: Mapping, name: str) -> dict | None:
    """An extra value as {value, low, high}, or None where the record lacks it."""
    key = key_of(record, name)
    if key is None:
        return None
    entry = record["extra"][key]
    if isinstance(entry, Mapping):
        return entry
    return {"value": entry, "low": None, "high": None}


def key_of(record: Mapping, name: str) -> str | None:
    """The name under which a record keeps an extra; a bare one may be that of its headline's arm
    (`natural.documents2.kid`) or split (`natural.floor`).
    """
    arm = main_arm(record)
    names = [name] if arm is None else [name, f"{arm}.{name}", f"{arm.partition('.')[0]}.{name}"]
    return next((one for one in names if one in record["extra"]), None)


def remarks(record: Mapping) -> list[str]:
    """What a reader must know before quoting a record: its warnings, then what it lacks."""
    lacks = [f"not measured: {one['measure']}: {one['needs']}" for one in record["missing"]]
    return [*record["warnings"], *lacks]


def main_arm(record: Mapping) -> str | None:
    """Split and arm of the headline (`natural.documents2`) where a record holds several."""
    split = record.get("protocol", {}).get("headline")
    if split is None:
        return None
    return f"{split}.documents{own_documents(record['system']['config'])}"


def own_documents(config: Mapping) -> int:
    """How many documents a system's config says that it retrieves; 0 where it does not say."""
    count = config.get("documents")
    return count if isinstance(count, int) else 0


def leading(protocol: Mapping) -> bool:
    """Whether pages lead with numbers of this protocol of the embedded world: all splits, or, of
    version 1, `test`.
    """
    captions = protocol.get("captions")
    if isinstance(captions, Mapping):
        return list(captions) == ["natural", "test", "tail"]
    return "test" in str(protocol.get("prompts", ""))


def read_json(path: Path):
    """The JSON value in a file; one-line UserError for a missing or torn one."""
    if path.exists() and not path.is_file():
        raise UserError(f"cannot read {path}: it is no file; give another path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give another path") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); restore it from git") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; restore it from git") from None


def guarded(command: Callable[[], int | None]) -> int:
    """Exit code of a command: its own, 2 for a user's mistake, 3 where nothing was measured."""
    from cm3leon.reports.records.store import NothingThere

    try:
        return command() or 0
    except NothingThere as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def check_extras() -> None:
    """End with one line and exit code 2 where the packages of the extras are not installed."""
    if missing := [name for name in EXTRAS if importlib.util.find_spec(name) is None]:
        way = (
            "pip install 'cm3leon[bench,report]' (in a checkout: pip install -e '.[bench,report]')"
        )
        print(f"error: {', '.join(missing)} not installed; {way}", file=sys.stderr)
        raise SystemExit(2)


def called(function: Callable[..., int | None], argv: Sequence[str] | None = None) -> int | None:
    """What a function returns when a command line names its arguments.

    A mistake in it is a UserError of one line; `--help` prints and raises SystemExit(0).
    """
    import tyro

    @functools.wraps(function)
    def later(*places, **names):  # so that only tyro's own words are caught
        return functools.partial(function, *places, **names)

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            call = tyro.cli(later, args=argv)
    except SystemExit as stop:
        if not stop.code:
            raise
        rows = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).splitlines()
        rules = re.compile("[╭╰─]|-{5}")  # and titles; the last of a terminal without boxes
        words = [row.strip("│ ") for row in rows if not rules.search(row)]
        raise UserError(f"{' '.join(filter(None, words))}; see --help") from None
    return call()


if sys.argv[:1] == ["-m"]:  # `python -m reports.X` is on its way to X
    check_extras()
