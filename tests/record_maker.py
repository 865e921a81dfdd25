"""Records for tests of what reads them, as the harness writes them."""

from __future__ import annotations

import json
from pathlib import Path

from reports.store import SCHEMA_VERSION, digest, validate


def record(value=12.345, name="scenes-s", **changes) -> dict:
    """A valid record of fid_coco; `changes` replace whole fields, the digest follows."""
    protocol = changes.get("protocol", {"features": {"name": "scenes"}, "documents": 0})
    extra = {
        "floor": {"value": 0.62, "low": 0.58, "high": 0.66},
        "rfid": {"value": 3.21, "low": None, "high": None},
        "ceiling": 812.4,
        "kid": 0.0123,
        "overall": {"value": 0.712, "low": 0.69, "high": 0.73},
        "single": 0.9,
    }
    interval = {"low": value - 1, "high": value + 1, "level": 0.95, "method": "x"}
    made = {
        "schema_version": SCHEMA_VERSION,
        "bench": "fid_coco",
        "version": 1,
        "protocol": protocol,
        "protocol_digest": digest(protocol),
        "system": {"name": name, "config": {}, "weights_sha256": None},
        "unit": "FID",
        "better": "lower",
        "n": 1000,
        "value": value,
        "interval": interval,
        "spread": {"images": interval, "seeds": None},
        "per_seed": [value],
        "samples": None,
        "extra": extra,
        "source": "measured",
        "code": {"commit": "a" * 40, "dirty": False},
        "environment": {
            "python": "3.11", "packages": {}, "platform": "x", "cpu": "x", "device": "cpu",
            "threads": 1,
        },
        "cost": {
            "seconds": {}, "tokens": None, "flops": None, "peak_memory_bytes": 1, "counters": {},
        },
        "warnings": ["n <= d"],
        "date": "2026-01-02T03:04:05Z",
        "run": None,
        "sha256": None,
        **changes,
    }  # fmt: skip
    validate(made)  # what reports read is what the harness writes
    return made


def saved(folder: Path, *records: dict) -> list[Path]:
    """Write records where the harness would, named by their place in the call."""
    paths = []
    for index, one in enumerate(records):
        path = folder / one["bench"] / one["system"]["name"] / f"{index}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
        paths.append(path)
    return paths
