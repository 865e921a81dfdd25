"""One run of one benchmark: measure, build the record, check it, save it.

    BENCH = Bench("fid_coco", version=1, unit="FID", better="lower", protocol={}, measure=measure)
    record, path = run(BENCH, system)  # calls measure(system, protocol, phases) -> Measurement
    exit_code(command)                 # one-line errors, exit codes

Exit codes: 0 measured and saved, 2 a user's mistake (one line), 3 nothing was measured.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from datetime import UTC, datetime
from pathlib import Path

from cm3leon.cli.main import guarded, parse
from cm3leon.errors import UserError
from cm3leon.files import check_writable, sha256_bytes
from cm3leon.progress import alive
from cm3leon.reports import OUT
from cm3leon.reports.records import store
from cm3leon.reports.records.record import (
    Bench,
    Interval,
    Measurement,
    NothingMeasured,
    Phases,
    build_record,
    check_name,
    code_state,
    digest,
    environment_of,
    packed_samples,
    plain,
    save,
    stamped,
)
from cm3leon.reports.records.store import RESULTS

__all__ = ["OUT", "Interval", "code_state", "digest", "environment_of"]  # for others
ROOT = Path(__file__).resolve().parents[2]
TIMINGS = ("date", "code", "cost", "run", "sha256")  # what two runs of one command may differ in
TRIALS = "_trials"  # of RESULTS: reports pass over it, git does not keep it
SHA256 = re.compile(r"[0-9a-f]{64}")


def run(
    bench: Bench, system, protocol: Mapping | None = None, folder: Path | str = RESULTS
) -> tuple[dict, Path]:
    """Measure `system` by `protocol` (default: the bench's own), save the record, return both.

    System and folder are checked before anything is measured, and the number is printed
    before anything can fail. Raises UserError for bad input and NothingMeasured if there is no
    number; nothing is saved then.
    """
    check_system(system)
    check_writable(Path(folder) / bench.name / system.name)
    _running[bench.name] = [system.name, None]
    phases = Phases()
    protocol = dict(bench.protocol if protocol is None else protocol)
    measurement = bench.measure(system, protocol, phases)
    print(told(bench, system, measurement), flush=True)
    record = build_record(bench, system, measurement, protocol, phases)
    packed = packed_samples(measurement.samples)
    if packed:
        record["samples"] = {"sha256": sha256_bytes(packed)}
    record = stamped(record)
    if store.is_trial(record) and Path(folder).resolve() == RESULTS.resolve():
        folder = Path(folder) / TRIALS  # RESULTS is what the project stands by
    return record, save(record, folder, packed)


_running: dict[str, list] = {}  # benchmark -> [system, report folder] of its newest run


def report_folder(reports: Path | str, bench: str) -> Path:
    """Where tables and pictures of the benchmark's newest `run` go, a folder of their own:
    `<reports>/<bench>/<system>/<day>-<number>`, which the link `<reports>/<bench>/newest` leads to.

    Made when it is first asked for; raises UserError where it cannot be.
    """
    system, folder = _running.setdefault(bench, ["run", None])
    if folder is not None:
        return folder
    home, day = Path(reports) / bench, datetime.now(UTC).strftime("%Y-%m-%d")
    for number in itertools.count(1):
        folder = home / system / f"{day}-{number}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if not folder.exists():  # something above it is a file
                raise UserError(f"cannot write {folder}: choose another --reports") from None
        except OSError as error:
            reason = error.strerror
            raise UserError(f"cannot write {folder}: {reason}; choose another --reports") from None
    with suppress(OSError):  # not everywhere; it leads to what is said anyway
        link = home / f".newest-{uuid.uuid4().hex}"
        link.symlink_to(folder.relative_to(home), target_is_directory=True)
        os.replace(link, home / "newest")
    _running[bench][1] = folder
    return folder


def check_system(system) -> None:
    """Raise UserError unless a record can hold what a system says of itself."""
    check_name("system.name", system.name)
    weights = system.weights_sha256
    if weights is not None and not (isinstance(weights, str) and SHA256.fullmatch(weights)):
        raise UserError(
            f"system.weights_sha256 must be 64 hex digits (cm3leon.files.sha256_file), or None for "
            f"a system without weights, got {weights!r}"
        )
    if not isinstance(system.config, Mapping) and not is_dataclass(system.config):
        raise UserError(
            f"system.config must be a dict of whatever moves the drawing, got {system.config!r}"
        )
    plain(system.config, "system.config")


def told(bench: Bench, system, measurement: Measurement) -> str:
    """One line with the number itself."""
    value, ends = measurement.value, measurement.interval
    shown = "nothing" if value is None else f"{value:.6g}"
    span = "" if ends is None else f" [{ends.low:.6g}, {ends.high:.6g}]"
    return f"measured {bench.name} of {system.name}: {bench.unit} {shown}{span}, n={measurement.n}"


def exit_code(work: Callable[[], int]) -> int:
    """What `work` returns; 2 for a user's mistake, 3 for nothing measured, 130 interrupted."""
    try:
        with alive("at work"):
            return guarded(work)
    except NothingMeasured as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


def command(
    options_of: type,
    name: str,
    measure: Callable[[object], tuple[dict, Path]],
    report: Callable[[object, dict], None],
) -> Callable[[Sequence[str] | None], int]:
    """The `main` of a benchmark: options parsed, (record, path) measured, reported, named."""

    def main(argv: Sequence[str] | None = None) -> int:
        """Entry point: 0 measured, 2 a user's mistake, 3 nothing measured, 130 interrupted."""

        def work() -> int:
            options = parse(options_of, argv, name)
            record, path = measure(options)
            report(options, record)
            print(f"record: {path}")
            return 0

        return exit_code(work)

    return main


def load(path: Path | str) -> dict:
    """Read and check a record; UserError for a missing file, torn JSON or another form."""
    return store.read(path)


def validate(record: dict, name: str = "record") -> None:
    """Check a record against the JSON Schema and its own digest; one-line UserError."""
    store.validate(record, name)


def comparable(record: dict) -> dict:
    """The part that the same command reproduces byte for byte: no date, commit, cost."""
    return {key: value for key, value in record.items() if key not in TIMINGS}
