"""Tables and figures from JSON: results/ and baselines/published.json, nothing else, no torch.

Here: what they share; records come from `store.py`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "baselines" / "published.json"
OUT = ROOT / "reports" / "out"


def newest(records: Sequence[Mapping]) -> list[Mapping]:
    """The last record of each (system, bench, version, protocol); records come oldest first."""
    latest = {}
    for record in records:
        of = (record["bench"], record["version"], record["protocol_digest"])
        key = (record["system"]["name"], *of)
        latest[key] = record
    return list(latest.values())


def read_published(path: Path | str = PUBLISHED) -> dict:
    """The quoted numbers: {"about", "marks", "rows"}."""
    return read_json(Path(path))


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


def main_arm(record: Mapping) -> str | None:
    """Split and arm of the headline (`natural.documents2`) where a record holds several."""
    split = record["protocol"].get("headline")
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
    """The JSON value in a file; one-line ValueError for a missing or torn one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; give another path") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); restore it from git") from None


def guarded(command: Callable[[], int | None]) -> int:
    """Exit code of a command: its own, 2 for a user's mistake, 3 where nothing was measured."""
    from reports.store import NothingThere

    try:
        return command() or 0
    except NothingThere as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def write_atomic(path: Path | str, data: str | bytes) -> Path:
    """Old bytes or new ones, never a part; OSError (full disk) leaves nothing behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    return path
