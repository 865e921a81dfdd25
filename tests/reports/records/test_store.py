"""The results store: old records migrate, bad ones are one line, the index is a table."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import core
from benchmarks.harness.core import stamped
from cm3leon.errors import UserError
from cm3leon.evaluation.measures import undeclared
from cm3leon.files import sha256_bytes
from cm3leon.reports import newest
from cm3leon.reports.records.store import (
    RESULTS,
    STEPS,
    NothingThere,
    column,
    device,
    index,
    is_trial,
    measure_of,
    migrate,
    read,
    read_all,
    record_paths,
    speaking,
    validate,
)
from tests.record_maker import record, saved

EDITED = {"kid": {"value": 0.9, "low": 0.1, "high": 0.2}}
FROZEN = {version: Path(__file__).with_name(f"record_v{version}.json") for version in STEPS}


@pytest.mark.parametrize("version", STEPS)
def test_frozen_records_migrate(version):
    old = json.loads(FROZEN[version].read_text())
    assert old["schema_version"] == version
    before = json.dumps(old)
    new = migrate(old)
    validate(new)
    assert json.dumps(old) == before  # nothing is changed in place
    kept = set(old) - {"schema_version", "warnings", "sha256"}
    assert {key: new[key] for key in kept} == {key: old[key] for key in kept}
    if version == 1:
        assert new["spread"] == {"images": old["interval"], "seeds": None}
    if version < 3:
        assert new["run"] is None is new["sha256"]
        assert new["warnings"] == old["warnings"] and not new["missing"]
        assert (
            measure_of(new, "kid").better == "lower" and measure_of(new, "floor").better == "none"
        )
    assert migrate(new) == new


def test_lines_of_version_3_become_data():
    """What was cut out of warnings: networks, and numbers that are missing with their way."""
    old = json.loads(FROZEN[3].read_text())
    new = migrate(old)
    told = "dinov2 (w.pt, SHA-256 6726825d0000)"
    assert new["measures"]["fd_dinov2"] == {
        "title": "FD-DINOv2", "unit": "", "better": "lower", "by": told
    }  # fmt: skip
    assert [one["measure"] for one in new["missing"]] == ["rFID", "CMMD", "CLIP score"]
    assert new["missing"][0]["needs"] == "the system has no image tokenizer"
    assert new["warnings"] == old["warnings"][:2] and is_trial(new)
    beside = {"warnings": [*old["warnings"], "no CLIP score: cannot read it"], "sha256": None}
    said = migrate(old | beside)["missing"][-1]
    assert said == {"measure": "CLIP score", "needs": "cannot read it"}


def test_an_edited_record_of_version_3_is_refused():
    old = json.loads(FROZEN[3].read_text())
    with pytest.raises(UserError, match="sha256 does not fit the record"):
        validate(migrate(old | {"value": old["value"] + 1}))


def test_every_number_says_what_it_is():
    (path, *_) = [one for one in record_paths(RESULTS, RESULTS) if "ablate_retrieval" in str(one)]
    one = read(path)
    dotted = record(extra={"tail.documents-2.fid_vs_threshold-0.8": 1.1})
    assert measure_of(dotted, "tail.documents-2.fid_vs_threshold-0.8").unit == "ratio"
    assert measure_of(one, "value").name == "entity_lift"
    bare = record() | {"extra": {"kid": 1.0, "made_up": 2.0}}
    with pytest.raises(UserError, match="no entry of measures says what made_up is"):
        validate(bare)


def test_every_committed_record_reads():
    records = read_all()
    for one in records:
        assert not undeclared(one["extra"]), one["bench"]
    assert {one["bench"] for one in records} >= {"fid_coco", "ablate_retrieval"}
    assert [one["date"] for one in records] == sorted(one["date"] for one in records)


def test_reading_and_the_index(tmp_path):
    old, new = record(20.0), record(12.0, date="2026-02-02T00:00:00Z")
    saved(tmp_path, new, old, record(30.0, "scenes-xs"))
    records = read_all(tmp_path, "fid_coco")
    assert [one["value"] for one in newest(records)] == [12.0, 30.0]
    table = index(records)
    assert list(table["value"]) == [20.0, 30.0, 12.0]
    assert list(table["low"]) == [19.0, 29.0, 11.0]
    assert table["extra.floor"].iloc[0] == 0.62
    assert set(table["device"]) == {"x, 1 thread"}
    assert device(old | {"environment": old["environment"] | {"device": "cuda:0 X"}}) == "cuda:0 X"
    assert column(old) == column(new) != column(record(protocol={"n": 2}))
    with pytest.raises(NothingThere, match=r"no records in .*nothing; run nox -s nothing first"):
        read_all(tmp_path, "nothing")


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a":', r"0\.json is no JSON"),
        ("[]", "is not of type 'object'"),
        ('{"a":' * 100_000, "is nested too deeply"),
        ("{}", "schema_version is None, known are 1, 2, 3, 4; update cm3leon"),
        (json.dumps({"schema_version": 9}), "schema_version is 9, known are 1, 2"),
        (json.dumps(record()).replace("12.345", "NaN", 1), "holds NaN; measure again"),
        (json.dumps(record()).replace("12.345", "1e999", 1), "value must be finite, got inf"),
        (json.dumps({k: v for k, v in record().items() if k != "unit"}), "'unit' is a required"),
        (json.dumps(record() | {"protocol": {}}), "protocol_digest does not fit"),
        (json.dumps(record() | {"value": 99.0}), r"value 99 is outside its own interval \[11.345"),
        (json.dumps(record() | {"value": 12.9}), "value 12.9 is not the mean 12.345 of its 1 samp"),
        (json.dumps(record() | {"extra": EDITED}), r"extra.kid 0.9 is outside its own interval"),
        (json.dumps(stamped(record()) | {"value": 12.9}), "sha256 does not fit the record"),
        (json.dumps(record() | {"sha256": "0" * 64}), "sha256 does not fit the record"),
    ],
)
def test_a_bad_record_is_one_line(tmp_path, text, message):
    (path,) = saved(tmp_path, record())
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_all(tmp_path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_no_terminal_obeys_what_a_record_says(tmp_path):
    """The digest is of the record as it was written; what is read of it can be shown."""
    strange = stamped(
        record(
            protocol={"x\x1b[2J": ["a\0b\u2028"], "n": 3},
            warnings=["\x9b31m", "ein Stern \N{GREEN HEART}"],
            system={"name": "a", "config": {"k\n": {"deep": "\x07\ud800"}}, "weights_sha256": None},
        )
    )
    saved(tmp_path, strange)
    (found,) = read_all(tmp_path)
    shown = json.dumps(found, ensure_ascii=False)
    assert all(one.isprintable() for one in shown) and found["sha256"] == strange["sha256"]
    assert found["protocol"] == {"x\\x1b[2J": ["a\\x00b\\u2028"], "n": 3}
    assert found["warnings"] == ["\\x9b31m", "ein Stern \N{GREEN HEART}"]
    assert found["system"]["config"] == {"k\\n": {"deep": "\\x07\\ud800"}}


def test_what_else_lies_in_the_folder(tmp_path):
    (path,) = saved(tmp_path, record())
    (tmp_path / ".gitkeep").write_text("")
    path.with_suffix(".npz").write_bytes(b"scores beside the record")
    assert len(read_all(tmp_path)) == 1
    for name in ("notes.txt", "fid_coco/table.json", "fid_coco/scenes-s/0.png"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(UserError, match=r"is no record .*move it elsewhere"):
            read_all(tmp_path)
        (tmp_path / name).unlink()
    shutil.copy(path, path.with_name("copy.json"))
    with pytest.raises(UserError, match=r"copy\.json is the same run as .*0\.json; remove one"):
        read_all(tmp_path)
    path.with_name("copy.json").unlink()
    other = tmp_path / "fid_coco" / "another"
    other.mkdir()
    path.rename(other / "0.json")
    path.with_suffix(".npz").unlink()
    with pytest.raises(UserError, match="says fid_coco/scenes-s; move it there"):
        read_all(tmp_path)


def test_one_run_speaks_for_a_system():
    """Full before quick, then a newer version, of one size the newest; a trial only alone."""
    full = record(25.15)
    quick = record(41.0, n=128, protocol={"n": 128}, date="2026-03-01T00:00:00Z")
    trial = record(637.0, n=5000, warnings=["a trial, not x"], date="2026-04-01T00:00:00Z")
    again = record(25.2, date="2026-02-01T00:00:00Z")
    other = record(50.0, "scenes-xs", n=128)
    assert [is_trial(one) for one in (full, trial)] == [False, True]
    for order in ([full, quick, trial, other], [trial, other, quick, full]):
        assert {one["value"] for one in speaking(order)} == {25.15, 50.0}
    assert speaking([full, again]) == [again] and speaking([again, full]) == [again]
    assert speaking([trial]) == [trial]
    newer, look = (record(30.0, n=n, version=2) for n in (500, 499))  # half of it is enough
    assert speaking([newer, full, trial]) == [newer] and speaking([look, full]) == [full]


def test_nan_is_named():
    with pytest.raises(UserError, match=r"record\.extra\.kid must be finite, got nan"):
        validate(record() | {"extra": {"kid": math.nan}})


def test_samples_lie_beside_the_record(tmp_path):
    class Noise:
        name, config, weights_sha256 = "noise", {}, None

    scores = {"right": np.array([1, 0, 1], np.int8), "ids": np.array(["a", "b", "c"])}

    def measure(system, protocol, phases):
        return core.Measurement(value=1.0, n=3, samples=scores)

    bench = core.Bench("toy", 1, "share", "higher", {}, measure)
    one, first = core.run(bench, Noise, folder=tmp_path)
    _, second = core.run(bench, Noise, folder=tmp_path)
    beside = first.with_suffix(".npz").read_bytes()
    assert beside == second.with_suffix(".npz").read_bytes()
    assert one["samples"] == {"sha256": sha256_bytes(beside)} == read(first)["samples"]
    kept = np.load(first.with_suffix(".npz"))
    assert {name: kept[name].tolist() for name in kept} == {
        k: v.tolist() for k, v in scores.items()
    }


def test_the_command_ends_as_promised(tmp_path, run_module):
    def command(*words: str) -> subprocess.CompletedProcess:
        return run_module("cm3leon.reports.tables", "--out", str(tmp_path / "out"), *words)

    done = command("--bench", "nothing", "--results", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    (path,) = saved(tmp_path, record())
    path.write_text("{}")
    done = command("--bench", "fid_coco", "--results", str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_record_larger_than_the_memory_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_text("{}")

    def no_room(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Path, "read_text", no_room)
    with pytest.raises(UserError, match=r"x\.json is larger than the memory; restore it from git"):
        read(path)
