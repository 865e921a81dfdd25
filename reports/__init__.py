"""Tables and figures from JSON: results/ and baselines/published.json, nothing else, no torch.

Here: what they share, reading records and writing files.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PUBLISHED = ROOT / "results", ROOT / "baselines" / "published.json"
OUT = ROOT / "reports" / "out"


def read_records(bench: str, folder: Path | str = RESULTS) -> list[dict]:
    """All records of a benchmark, oldest first; ValueError for none or for a torn file."""
    place = Path(folder) / bench
    paths = sorted(place.glob("*/*.json"))
    if not paths:
        raise ValueError(f"no records in {place}; run nox -s {bench} first")
    records = {path: read_json(path) for path in paths}
    for path, record in records.items():
        if not isinstance(record, dict) or record.get("schema_version") != 1:
            raise ValueError(f"{path} is no record of schema version 1; update or remove it")
    return sorted(records.values(), key=lambda record: (record["date"], record["system"]["name"]))


def newest(records: Sequence[Mapping]) -> list[Mapping]:
    """The last record of each (system, version, protocol); records come oldest first."""
    latest = {}
    for record in records:
        key = (record["system"]["name"], record["version"], record["protocol_digest"])
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
    entry = record["extra"].get(name)
    if entry is None or isinstance(entry, Mapping):
        return entry
    return {"value": entry, "low": None, "high": None}


def frame(records: Sequence[Mapping]):
    """Records as a pandas DataFrame, one row each, for analysis beyond the tables."""
    import pandas

    rows = [
        {
            "bench": record["bench"],
            "system": record["system"]["name"],
            "version": record["version"],
            "protocol": record["protocol_digest"],
            "date": record["date"],
            "commit": record["code"]["commit"],
            "n": record["n"],
            **own(record),
            **{f"extra.{name}": extra(record, name)["value"] for name in record["extra"]},
        }
        for record in records
    ]
    return pandas.DataFrame(rows)


def read_json(path: Path):
    """The JSON value in a file; one-line ValueError for a missing or torn one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; give another path") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); restore it from git") from None


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
