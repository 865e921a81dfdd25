"""The results store: records read, brought to the newest schema, checked, indexed with pandas.

    records = read_all()                      every record, oldest first
    records = read_all(bench="fid_coco")
    table = index(records)                    a DataFrame, one row each

A record lies at results/<bench>/<system>/<stem>.json and is never changed; `migrate` brings what an
older version wrote to today's form when it is read. Scores of single samples may lie beside it in
<stem>.npz. Anything else in the folder, NaN, a missing field, a copy of a record: UserError, one
line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from cm3leon import errors
from cm3leon.errors import UserError
from cm3leon.evaluation.measures import Measure, declared, find_measure, of_number
from cm3leon.reports import HOME

RESULTS = HOME / "results"
SCHEMA = Path(__file__).with_name("record.schema.json")
SCHEMA_VERSION = 4
ROUNDING = 1e-6  # of the mean over sampling seeds
TRIAL = "a trial"  # how a warning begins that says so
KEPT_OUT = (".", "_")  # files and folders that begin so are nobody's records


class NothingThere(UserError):
    """No record to report on: exit code 3."""


def read_all(folder: Path | str = RESULTS, bench: str | None = None) -> list[dict]:
    """All records (of one benchmark), oldest first, in today's schema.

    Raises NothingThere for none, UserError for a file that is no valid record or a record that
    lies there twice.
    """
    return [record for _, record in read_files(folder, bench)]


def read_files(folder: Path | str = RESULTS, bench: str | None = None) -> list[tuple[Path, dict]]:
    """`read_all` with each record's path."""
    folder = Path(folder)
    place = folder / bench if bench else folder
    seen: dict[tuple, Path] = {}
    found = []
    for path in record_paths(place, folder):
        record = read(path)
        where = path.relative_to(folder).parts[:2]
        if where != (record["bench"], record["system"]["name"]):
            raise UserError(
                f"{path} says {record['bench']}/{record['system']['name']}; move it there"
            )
        run = identity(record)
        if run in seen:
            raise UserError(f"{path} is the same run as {seen[run]}; remove one of them")
        seen[run] = path
        found.append((path, record))
    if not found:
        raise NothingThere(f"no records in {place}; run nox -s {bench or 'fid_coco'} first")
    return sorted(found, key=lambda one: (one[1]["date"], one[1]["system"]["name"], one[0].name))


def record_paths(place: Path, folder: Path) -> Iterator[Path]:
    """Paths of records below `place`, sorted; what is neither record nor sidecar is an error."""
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(KEPT_OUT) for part in inside.parts) or path.is_dir():
            continue
        if path.suffix == ".npz" and path.with_suffix(".json").exists():
            continue
        if path.suffix != ".json" or len(inside.parts) != 3:
            raise UserError(
                f"{path} is no record (<bench>/<system>/<date>-<commit>.json); move it elsewhere"
            )
        yield path


def read(path: Path | str) -> dict:
    """One record in today's schema; UserError for a missing, torn, strange or edited one."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"cannot read {path}: it is no file; give a record's path")
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a record's path") from None
    except _NotFinite as error:
        raise UserError(f"{path}: holds {error}; measure again") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); restore it from git") from None
    except MemoryError:
        raise UserError(f"{path} is larger than the memory; restore it from git") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; restore it from git") from None
    record = migrate(record, str(path))
    validate(record, str(path))
    return printable(record)


def printable(value):
    """A JSON value whose texts and keys no terminal obeys: line breaks, escapes and the like as
    `\\n`, `\\x1b`. What another machine wrote into a record goes to terminals and pages.
    """
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return errors.printable(value) if isinstance(value, str) else value


def migrate(record: dict, name: str = "record") -> dict:
    """A record of any known version in today's form; the given one is not touched."""
    if not isinstance(record, Mapping):
        raise UserError(f"{name}: {_short(repr(record))} is not of type 'object'")
    version = record.get("schema_version")
    if version == SCHEMA_VERSION:
        return dict(record)
    if version not in STEPS:
        known = ", ".join(map(str, (*STEPS, SCHEMA_VERSION)))
        raise UserError(f"{name}: schema_version is {version!r}, known are {known}; update cm3leon")
    check_finite(record, name)
    while version != SCHEMA_VERSION:
        record = STEPS[version](dict(record))
        version = record["schema_version"]
    return record


def _from_1(record: dict) -> dict:
    """Version 2 tells the interval's parts apart and may keep scores of single samples."""
    spread = {"images": record.get("interval"), "seeds": None}
    return record | {"schema_version": 2, "spread": spread, "samples": None}


def _from_2(record: dict) -> dict:
    """Version 3 names each run and carries the digest of its record; older ones have neither."""
    return record | {"schema_version": 3, "run": None, "sha256": None}


def _from_3(record: dict) -> dict:
    """Version 4 says of every number what it is, and what is missing; before, lines of `warnings`
    did. A digest is checked as it was written, then made anew.
    """
    whole = record.get("sha256") is None or record["sha256"] == digest_of(record)
    extra, said = record.get("extra"), record.get("warnings")
    record["measures"] = declared(extra if isinstance(extra, Mapping) else ())
    record["missing"], record["schema_version"] = [], 4
    if isinstance(said, list) and all(isinstance(line, str) for line in said):
        record["warnings"] = [line for line in said if not _is_data(line, record)]
    return record | {"sha256": digest_of(record)} if whole and record.get("sha256") else record


def _is_data(line: str, record: dict) -> bool:
    """Whether a warning of version 3 tells what version 4 keeps as data; then it is kept so."""
    if found := OLD_LINES["by"].fullmatch(line):
        end, _ = find_measure(found["number"]) or (found["number"], None)
        if end in record["measures"]:
            record["measures"][end]["by"] = found["by"]
    elif found := OLD_LINES["missing"].fullmatch(line):
        record["missing"].append(found.groupdict())
    return found is not None


OLD_LINES = {  # of warnings up to version 3
    "by": re.compile(r"measured: (?P<number>\S+) by (?P<by>.+)"),
    "missing": re.compile(r"(?:not measured: |no (?=CLIP score))(?P<measure>[^:]+): (?P<needs>.+)"),
}
STEPS: dict[int, Callable[[dict], dict]] = {1: _from_1, 2: _from_2, 3: _from_3}


def validate(record: Mapping, name: str = "record") -> None:
    """Check a record against the JSON Schema, its numbers and its own digest; UserError."""
    check_finite(record, name)
    error = next(iter(sorted(_validator().iter_errors(record), key=lambda e: e.json_path)), None)
    if error is not None:
        raise UserError(f"{name}: {error.json_path[2:] or 'record'}: {_short(error.message)}")
    for number in record["extra"]:
        if of_number(number, record["measures"]) is None:
            raise UserError(f"{name}: no entry of measures says what {number} is; declare it")
    if record["protocol_digest"] != digest(record["protocol"]):
        raise UserError(f"{name}: protocol_digest does not fit protocol; the record was edited")
    if record["sha256"] is None:  # older than digests: at least it must not contradict itself
        _check_told(record, name)
    elif record["sha256"] != digest_of(record):
        raise UserError(
            f"{name}: sha256 does not fit the record; it was edited or damaged, restore it from git"
        )


def digest_of(record: Mapping) -> str:
    """SHA-256 of a record without its own digest."""
    return digest({key: value for key, value in record.items() if key != "sha256"})


def measure_of(record: Mapping, number: str) -> Measure:
    """What a number of a record is: `value`, or a name of `extra`; UserError for another."""
    if number == "value":
        return Measure(record["unit"], record["unit"], record["unit"], record["better"])
    found = of_number(number, record["measures"])
    if found is None:
        raise UserError(f"the record has no number {number!r}")
    return found


def _check_told(record: Mapping, name: str) -> None:
    """Raise UserError for a value that an interval or the values of its seeds contradict."""
    value, seeds = record["value"], record["per_seed"]
    ends = [("value", value, "interval", record["interval"])]
    ends += [("value", value, part, one) for part, one in record["spread"].items()]
    ends += [
        (f"extra.{key}", one["value"], "interval", one)
        for key, one in record["extra"].items()
        if isinstance(one, Mapping) and None not in (one["low"], one["high"])
    ]
    for what, number, part, one in ends:
        if one is not None and not one["low"] <= number <= one["high"]:
            raise UserError(
                f"{name}: {what} {number:g} is outside its own {part} "
                f"[{one['low']:g}, {one['high']:g}]; the record was edited, restore it from git"
            )
    if seeds and abs(sum(seeds) / len(seeds) - value) > ROUNDING * max(1.0, abs(value)):
        raise UserError(
            f"{name}: value {value:g} is not the mean {sum(seeds) / len(seeds):g} of its "
            f"{len(seeds)} sampling seeds; the record was edited, restore it from git"
        )


def check_finite(value, name: str) -> None:
    """Raise UserError naming the first number below `value` that is NaN or infinite."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_finite(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            check_finite(item, f"{name}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be finite, got {value}; NaN never enters a record")


def digest(value) -> str:
    """SHA-256 of a JSON value, keys sorted: the identity of a protocol."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(record: Mapping) -> tuple:
    """What tells one run from another: its own id; of records older than ids, when it was."""
    when = record["run"] or (record["date"], record["code"]["commit"])
    return (*column(record), record["system"]["name"], when)


def column(record: Mapping) -> tuple[str, int, str]:
    """What must be equal for two values to stand in one column: bench, version, protocol."""
    return record["bench"], record["version"], record["protocol_digest"]


def is_trial(record: Mapping) -> bool:
    """Whether a record says of itself that it is not what its protocol names."""
    return any(line.startswith(TRIAL) for line in record["warnings"])


def ranked(records: Sequence[Mapping]) -> list[Mapping]:
    """Runs of one benchmark by how well they speak for it, the best last (`weight`)."""
    most = largest_n(records)
    return sorted(records, key=lambda record: weight(record, most))


def largest_n(records: Sequence[Mapping]) -> int:
    """The most samples of any run that is no trial."""
    return max((record["n"] for record in records if not is_trial(record)), default=0)


def weight(record: Mapping, most: int) -> tuple:
    """The order of runs of one benchmark, of which the largest has `most` samples.

    A trial comes before any other, then what has under half of the samples (a quick look), an older
    version before a newer, few samples before many, a part of a benchmark before more of it, then
    by date: none of the former replaces the full run. Report, README, compare and exports all ask
    here.
    """
    protocol = record["protocol"]
    asked = (protocol.get(key) for key in ("parts", "arms", "seeds", "sizes"))
    breadth = sum(len(one) for one in asked if isinstance(one, list | Mapping))
    full = 2 * record["n"] >= most
    return not is_trial(record), full, record["version"], record["n"], breadth, record["date"]


def speaking(records: Sequence[Mapping]) -> list[Mapping]:
    """The run that speaks for each system on each benchmark, in the order they first come."""
    found: dict[tuple[str, str], list[Mapping]] = {}
    for record in records:
        found.setdefault((record["bench"], record["system"]["name"]), []).append(record)
    return [ranked(group)[-1] for group in found.values()]


def index(records: Sequence[Mapping]):
    """Records as a pandas DataFrame, one row each: identity, value, interval, extras, device."""
    import pandas

    rows = []
    for record in records:
        interval = record["interval"] or {}
        row = {
            "bench": record["bench"],
            "system": record["system"]["name"],
            "version": record["version"],
            "protocol": record["protocol_digest"],
            "date": record["date"],
            "commit": record["code"]["commit"],
            "device": device(record),
            "n": record["n"],
            "value": record["value"],
            "low": interval.get("low"),
            "high": interval.get("high"),
        }
        for name, entry in record["extra"].items():
            row[f"extra.{name}"] = entry["value"] if isinstance(entry, Mapping) else entry
        rows.append(row)
    return pandas.DataFrame(rows)


def device(record: Mapping) -> str:
    """Where it was measured: the processor's name with its threads, or the accelerator's."""
    environment = record["environment"]
    if environment["device"] != "cpu":
        return environment["device"]
    threads = environment["threads"]
    return f"{environment['cpu']}, {threads} thread{'s' if threads > 1 else ''}"


class _NotFinite(Exception):
    pass


def _not_finite(text: str):
    raise _NotFinite(text)


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= 160 else f"{line[:100]} ... {line[-50:]}"


@cache
def _validator():
    from jsonschema import Draft202012Validator

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
