"""Records for tests of what reads them, as the harness writes them."""

from __future__ import annotations

import json
from pathlib import Path

from cm3leon.evaluation.measures import declared
from cm3leon.reports.records.store import SCHEMA_VERSION, digest, validate


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
        "missing": [],
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
    made = {"measures": declared(made["extra"]), **made}
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


def splits_record(value=17.0, name="scenes-s", documents=(0, 1, 2), **changes) -> dict:
    """A record of `fid_coco` version 2 whose headline is drawn with the last of `documents`."""
    extra = {}
    for split, base in (("natural", 0.0), ("test", 10.0), ("tail", 20.0)):
        extra[f"{split}.floor"] = 5 + base
        arms = [f"documents{count}" for count in documents] + ["plain"] * (split == "natural")
        for place, arm in enumerate(arms):
            fid = value + base + len(documents) - 1 - place if arm != "plain" else value - 4
            extra |= {
                f"{split}.{arm}.fid": _around(fid, 2),
                f"{split}.{arm}.fid_own": _around(fid - 1, 2),
                f"{split}.{arm}.kid": 3.5,
                f"{split}.{arm}.overall": _around(0.6 + 0.1 * place, 0.05),
                f"{split}.{arm}.position": _around(0.4, 0.05),
            }
            if arm not in ("documents0", "plain"):
                extra[f"{split}.{arm}.fid_over_documents0"] = _around(0.9, 0.05)
            if split != "test":
                extra[f"{split}.{arm}.entity"] = _around(0.3, 0.1)
            if split == "tail":
                extra[f"{split}.{arm}.entity_unseen"] = _around(0.2, 0.1)
    scale = {"rfid": 6.0, "rfid_own": 1.5, "ceiling": 800.0, "ceiling_own": 801.0}
    extra |= {f"natural.{key}": number for key, number in scale.items()}
    captions = {"natural": 1000, "test": 200, "tail": 200}
    protocol = {
        "data": "scenes", "prompts": "scenes coco natural, test, tail; one caption a picture",
        "headline": "natural", "captions": captions, "real": 1000, "documents": [0, 1, 2],
        "features": "scenes", "n": 1000,
    }  # fmt: skip
    decode = {"guidance": 1.25, "temperature": 0.8, "top_p": 1.0, "strategy": "guide"}
    config = {"documents": documents[-1], "decode": decode}
    given = {
        "version": 2, "protocol": protocol, "extra": extra, "unit": "fid_scenes", "warnings": [],
        "system": {"name": name, "config": config, "weights_sha256": None},
    }  # fmt: skip
    return record(value, name, **(given | changes))


def _around(value: float, half: float) -> dict:
    return {"value": value, "low": value - half, "high": value + half}
