"""Records in other harnesses' words: lm-eval's result keys, Every Eval Ever 0.3.

    python -m cm3leon.reports.exports --form lm-eval --bench fid_coco
    python -m cm3leon.reports.exports --form every-eval-ever

Names are theirs where the meaning is equal; what they have no word for keeps ours. One file for
lm-eval (a run with all its tasks), one a record for Every Eval Ever.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cm3leon.evaluation.measures import HIGHER, NONE, Measure
from cm3leon.files import write_atomic
from cm3leon.reports import OUT, called, extra, guarded, newest, own
from cm3leon.reports.records.store import (
    RESULTS,
    NothingThere,
    is_trial,
    measure_of,
    read_all,
    speaking,
)

EEE_VERSION = "0.3.0"
NAME = "cm3leon"


def to_lm_eval(records: Sequence[Mapping]) -> dict:
    """Records of one system as lm-eval writes a run: task -> metric -> value.

    Of several of one benchmark that which speaks for it (`store.speaking`), not a trial.

    A metric is `name,none` and its half-interval over 1.96 `name_stderr,none`, as lm-eval keys
    them. Raises ValueError for no records or for records of several systems.
    """
    names = {record["system"]["name"] for record in records}
    if len(names) != 1:
        raise ValueError(f"an lm-eval run is of one system, got {sorted(names)}; name --system")
    tasks = {f"{one['bench']}@{one['version']}": one for one in speaking(records)}
    last = max(tasks.values(), key=lambda one: one["date"])
    return {
        "results": {task: _metrics(one) | {"alias": task} for task, one in tasks.items()},
        "group_subtasks": {},
        "configs": {task: {"task": task, **one["protocol"]} for task, one in tasks.items()},
        "versions": {task: one["version"] for task, one in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            task: {name: _measure(name, one).better == HIGHER for name in _measures(one)}
            for task, one in tasks.items()
        },
        "n-samples": {
            task: {"original": one["n"], "effective": one["n"]} for task, one in tasks.items()
        },
        "config": {
            "model": last["system"]["name"],
            "model_args": last["system"]["config"],
            "batch_size": None,
            "device": last["environment"]["device"],
            "random_seed": last["protocol"].get("seeds"),
        },
        "git_hash": last["code"]["commit"][:7],
        "date": datetime.fromisoformat(last["date"]).timestamp(),
        "pretty_env_info": json.dumps(last["environment"], sort_keys=True),
        "model_name": last["system"]["name"],
        "schema_version": last["schema_version"],
        "protocol_digest": {task: one["protocol_digest"] for task, one in tasks.items()},
        "weights_sha256": last["system"]["weights_sha256"],
    }


def to_every_eval_ever(record: Mapping) -> dict:
    """One record as an evaluation of Every Eval Ever 0.3; all their additional values are text."""
    date = record["date"]
    system = record["system"]
    moment = str(datetime.fromisoformat(date).astimezone(UTC).timestamp())
    environment = record["environment"]
    return {
        "schema_version": EEE_VERSION,
        "evaluation_id": f"{record['bench']}/{system['name']}/{moment}",
        "evaluation_timestamp": date,
        "retrieved_timestamp": moment,
        "source_metadata": {
            "source_name": NAME,
            "source_type": "evaluation_run",
            "source_organization_name": NAME,
            "evaluator_relationship": "first_party",
            "additional_details": {"commit": record["code"]["commit"]},
        },
        "eval_library": {
            "name": NAME,
            "version": environment["packages"].get(NAME, "unknown"),
            "additional_details": {
                "bench_version": str(record["version"]),
                "protocol_digest": record["protocol_digest"],
            },
        },
        "model_info": {
            "name": system["name"],
            "id": system["name"],
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "open_weights" if system["weights_sha256"] else "unknown",
                "weights_sha256": str(system["weights_sha256"]),
                "config": json.dumps(system["config"], sort_keys=True),
            },
        },
        "evaluation_results": [_result(name, record) for name in _measures(record)],
    }


def _metrics(record: Mapping) -> dict:
    found = {}
    for name, entry in _measures(record).items():
        found[f"{name},none"] = entry["value"]
        low, high = entry["low"], entry["high"]
        found[f"{name}_stderr,none"] = "N/A" if low is None else (high - low) / 2 / 1.959964
    return found


def _measures(record: Mapping) -> dict[str, dict]:
    """Unit or extra -> {value, low, high} of what tells the system's worth."""
    worth = [name for name in record["extra"] if measure_of(record, name).better != NONE]
    return {record["unit"]: own(record), **{name: extra(record, name) for name in worth}}


def _measure(name: str, record: Mapping) -> Measure:
    """What a number is, by the name it has here."""
    return measure_of(record, "value" if name == record["unit"] else name)


def _result(name: str, record: Mapping) -> dict:
    entry, measure = _measures(record)[name], _measure(name, record)
    interval = record["interval"] or {"level": 0.95, "method": "bootstrap over prompts"}
    uncertainty: dict = {"num_samples": record["n"]}
    if entry["low"] is not None:
        uncertainty["confidence_interval"] = {
            "lower": entry["low"],
            "upper": entry["high"],
            "confidence_level": interval["level"],
            "method": interval["method"],
        }
    return {
        "evaluation_result_id": f"{record['protocol_digest'][:12]}/{name}",
        "evaluation_name": record["bench"],
        "source_data": {
            "dataset_name": str(record["protocol"].get("data", "scenes")),
            "source_type": "other",
            "additional_details": {"protocol": json.dumps(record["protocol"], sort_keys=True)},
        },
        "metric_config": {
            "metric_id": f"{NAME}.{record['bench']}.{name}",
            "metric_name": measure.title,
            "metric_unit": measure.unit,
            "lower_is_better": measure.better != HIGHER,
        },
        "score_details": {"score": entry["value"], "uncertainty": uncertainty},
    }


def export(
    form: Literal["lm-eval", "every-eval-ever"],
    bench: str = "",
    system: str = "",
    results: Path = RESULTS,
    out: Path = OUT / "exports",
) -> None:
    """Write the newest record of each protocol, trials left out, in another harness's form.

    Args:
        form: whose
        bench: of this benchmark alone
        system: of this system alone; lm-eval's form is of one
        results: folder of records
        out: folder to write into
    """
    everything = read_all(results, bench or None)
    records = [one for one in newest(everything) if not is_trial(one)]
    if trials := len(everything) - sum(not is_trial(one) for one in everything):
        print(f"{trials} trials left out", file=sys.stderr)
    records = [one for one in records if not system or one["system"]["name"] == system]
    if not records:
        raise NothingThere(f"nothing to export of {system or bench or results} but trials")
    if form == "lm-eval":
        made = {f"{records[0]['system']['name'] if records else ''}.json": to_lm_eval(records)}
    else:
        made = {}
        for one in records:
            stem = f"{one['bench']}-{one['system']['name']}-{one['protocol_digest'][:6]}"
            made[f"{stem}.json"] = to_every_eval_ever(one)
    for name, value in made.items():
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        print(write_atomic(out / form / name, text))


def main() -> int:
    """Command line."""
    return guarded(lambda: called(export))


if __name__ == "__main__":
    sys.exit(main())
