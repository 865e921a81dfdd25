"""How a record is made: what was measured, by which code and where, checked and saved.

    build_record(bench, system, measurement, protocol, phases) -> save(record, folder)

Of a checkout the code is its commit; of an installed package it is that of the folder somebody
works in, or none.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.evaluation.measures import (
    MEASURES,
    Measure,
    Missing,
    declared,
    find_measure,
    undeclared,
)
from cm3leon.files import write_atomic, write_new
from cm3leon.progress import alive
from cm3leon.reports import HOME, ROOT
from cm3leon.reports.records import store
from cm3leon.reports.records.store import RESULTS, SCHEMA_VERSION, validate

PACKAGES = (
    "cm3leon", "clean-fid", "diffusers", "faiss-cpu", "numpy", "open_clip_torch", "pillow",
    "pycocotools", "scipy", "timm", "tokenizers", "torch", "torchmetrics", "torchvision",
    "transformers",
)  # fmt: skip


class Phases:
    """Seconds by phase of a run: `with phases("draw"): ...`; a phase entered twice adds up."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`, also when it raises; tell that it lasts."""
        start = time.perf_counter()
        try:
            with alive(name):
                yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 6)

    @staticmethod
    def peak_memory_bytes() -> int:
        """Largest resident size of this process so far (0 where the system does not tell)."""
        try:
            import resource
        except ImportError:  # Windows
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


class NothingMeasured(RuntimeError):
    """A benchmark ended without a number; never a success (exit code 3)."""


@dataclass(frozen=True)
class Named:
    """A system of which a record knows no more than its name and what it says of itself."""

    name: str
    config: Mapping
    weights_sha256: str | None = None

    def __post_init__(self):
        check_name("the name of a record", self.name)


@dataclass(frozen=True)
class Bench:
    """A benchmark: `protocol` is all that moves the number; raise `version` if it could move."""

    name: str
    version: int
    unit: str
    better: str  # "lower" or "higher", as in evaluation/measures.py
    protocol: Mapping
    measure: Callable  # (system, protocol: dict, phases: Phases) -> Measurement

    def __post_init__(self):
        check_name("bench.name", self.name)
        if self.better not in ("lower", "higher"):
            raise UserError(f"bench.better must be 'lower' or 'higher', got {self.better!r}")


@dataclass(frozen=True)
class Interval:
    """Two-sided interval of a value, and how it was made (see stats.*_METHOD)."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class Measurement:
    """What `measure` returns; an extra is a number, (value, low, high) or a dict of the three."""

    value: float | None
    n: int  # samples the value rests on; 0 is "nothing measured"
    interval: Interval | None = None
    spread: Mapping[str, Interval | None] = field(default_factory=dict)  # its parts: images, seeds
    per_seed: Sequence[float] = ()
    samples: Mapping = field(default_factory=dict)  # arrays of single samples, kept beside it
    extra: Mapping = field(default_factory=dict)
    measures: Sequence[Measure] = ()  # of numbers that the table of measures does not know
    by: Mapping[str, str] = field(default_factory=dict)  # number -> the network that measured it
    missing: Sequence[Missing] = ()
    warnings: Sequence[str] = ()
    protocol: Mapping = field(default_factory=dict)  # facts found on the way: digests, counts
    tokens: int | None = None
    flops: float | None = None
    counters: Mapping = field(default_factory=dict)  # e.g. pictures drawn and taken from the cache
    device: str | None = None  # e.g. "cuda:0"; None is the CPU


def build_record(
    bench: Bench, system, measurement: Measurement, protocol: Mapping, phases: Phases
) -> dict:
    """The record as plain JSON-able values, checked against the schema."""
    if measurement.value is None or measurement.n < 1 or not math.isfinite(measurement.value):
        raise NothingMeasured(
            f"{bench.name} measured nothing: n = {measurement.n}, value = {measurement.value}"
        )
    protocol = plain({**protocol, **measurement.protocol}, "protocol")
    record = {
        "schema_version": SCHEMA_VERSION,
        "bench": bench.name,
        "version": bench.version,
        "protocol": protocol,
        "protocol_digest": digest(protocol),
        "system": {
            "name": system.name,
            "config": system.config,
            "weights_sha256": system.weights_sha256,
        },
        "unit": bench.unit,
        "better": bench.better,
        "n": measurement.n,
        "value": measurement.value,
        "interval": measurement.interval,
        "spread": {"images": measurement.interval, "seeds": None} | dict(measurement.spread),
        "per_seed": measurement.per_seed,
        "samples": None,
        "extra": {name: _extra(value) for name, value in measurement.extra.items()},
        "measures": measures_of(measurement),
        "missing": measurement.missing,
        "source": "measured",
        "code": code_state(),
        "environment": environment_of(measurement.device) | engine_of(system),
        "cost": {
            "seconds": phases.seconds,
            "tokens": measurement.tokens,
            "flops": measurement.flops,
            "peak_memory_bytes": phases.peak_memory_bytes(),
            "counters": measurement.counters,
        },
        "warnings": [*measurement.warnings, *unknown(measurement)],
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "run": None,
        "sha256": None,
    }
    record = plain(record)
    validate(record)
    return record


def measures_of(measurement: Measurement) -> dict[str, dict]:
    """What the numbers of `extra` are, as a record keeps it."""
    found = declared(measurement.extra, measurement.measures)
    for number, network in measurement.by.items():
        end, _ = find_measure(number, (*measurement.measures, *MEASURES))
        found[end] |= {"by": network}
    return found


def unknown(measurement: Measurement) -> list[str]:
    """A line where no table says what a number is."""
    names = undeclared(measurement.extra, measurement.measures)
    return [f"no measure is declared for {', '.join(names)}: better in no direction"] * bool(names)


def stamped(record: Mapping) -> dict:
    """A record in today's schema with an id of its run, and its own digest."""
    record = store.migrate(record)
    record["run"] = record["run"] or uuid.uuid4().hex
    return record | {"sha256": store.digest_of(record)}


def save(record: dict, folder: Path | str = RESULTS, packed: bytes = b"") -> Path:
    """Write results/<bench>/<system>/<date>-<commit>.json; an old record is never overwritten.

    `packed` are the samples (`packed_samples`), written beside it. Processes that save at one
    moment get a path each; the record is there whole or not at all, samples never without it.
    """
    if record.get("sha256") is None:
        record = stamped(record)
    validate(record)
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    place = Path(folder) / record["bench"] / record["system"]["name"]
    stem = f"{record['date'][:10]}-{record['code']['commit'][:7]}"
    path, number = place / f"{stem}.json", 2
    while not write_new(path, text):
        path, number = place / f"{stem}-{number}.json", number + 1
    if packed:
        try:
            write_atomic(path.with_suffix(".npz"), packed)
        except UserError as error:  # the number is kept; it cannot be paired with another run's
            print(f"warning: {error}; the record stands without its samples", file=sys.stderr)
    return path


def packed_samples(samples: Mapping) -> bytes:
    """Arrays as the bytes of an .npz; the same arrays, the same bytes. Nothing for no arrays."""
    if not samples:
        return b""
    import numpy

    out = io.BytesIO()
    numpy.savez_compressed(out, **samples)
    return out.getvalue()


def digest(value) -> str:
    """SHA-256 of a JSON value, keys sorted: the identity of a protocol."""
    return store.digest(plain(value))


def plain(value, name: str = "record"):
    """Only JSON's own types; NaN, infinity and strange types are a UserError naming the place."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if type(value).__module__ == "numpy":
        value = value.tolist()  # scalars and arrays
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be finite, got {value}; NaN never enters a record")
    if isinstance(value, str):  # a file's name need not be text: its strange bytes as escapes
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, (int, float, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise UserError(f"{name} must be a JSON value, got {type(value).__name__}")


def code_state(root: Path | None = None) -> dict:
    """{"commit", "dirty"} of the checkout at `root`; "unknown" and None outside a git checkout.

    Without a root: this project's, or of an installed package that of the repository somebody works
    in. Files under results/ and reports/out/ do not make it dirty: runs write there.
    """
    unknown = {"commit": "unknown", "dirty": None}
    if root is None:
        above = None if HOME == ROOT else _git(HOME, "rev-parse", "--show-toplevel")
        root = Path(above) if above else HOME
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():  # installed inside somebody's repository
        return unknown
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return unknown
    status = _git(root, "status", "--porcelain", "--", ".", ":!results", ":!reports/out")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def environment_of(device: str | None = None) -> dict:
    """Python, packages, platform, processor, device and threads of this run, as plain values."""
    return {
        "python": platform.python_version(),
        "packages": _packages(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "device": _device_name(device),
        "threads": _threads(),
    }


def engine_of(system) -> dict:
    """What takes the steps of a system of ours: "c", "graph" or "torch"; nothing of others."""
    return {"engine": system.steps_by} if hasattr(system, "steps_by") else {}


def check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise UserError(
            f"{what} must be letters, digits and . _ + - (a folder's name), got {name!r}"
        )


def _extra(value):
    if isinstance(value, (tuple, list)):
        value = dict(zip(("value", "low", "high"), value, strict=True))
    return value


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _device_name(device: str | None) -> str:
    if device is None or device == "cpu":
        return "cpu"
    torch = sys.modules.get("torch")  # never imported for its name's sake
    if torch is not None and device.startswith("cuda") and torch.cuda.is_available():
        return f"{device} {torch.cuda.get_device_name(device)}"
    return device


def _threads() -> int:
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) > 0 else os.cpu_count() or 1
