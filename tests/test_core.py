"""Records: built, checked, saved whole or not at all, never overwritten; exit codes."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from benchmarks.harness import core
from benchmarks.harness.core import Bench, Interval, Measurement, NothingMeasured, Phases
from cm3leon.errors import UserError
from cm3leon.evaluation.measures import Measure, Missing
from cm3leon.reports.records import record as making
from cm3leon.reports.records import store


class Noise:
    name = "noise"
    config = MappingProxyType({"size": 64, "tint": (1, 2)})
    weights_sha256 = None


def measurement(**changes) -> Measurement:
    values = {
        "value": np.float64(3.5),
        "n": 10,
        "interval": Interval(3.0, 4.0, 0.95, "by hand"),
        "per_seed": np.array([3.0, 4.0]),
        "extra": {
            "floor": (1.0, None, None),
            "kid": 0.1,
            "rfid": {"value": 2, "low": 1, "high": 3},
        },
        "warnings": ["n <= d"],
        "protocol": {"prompts_sha256": "ab"},
        "counters": {"drawn": 10},
        "tokens": 640,
    }
    return Measurement(**{**values, **changes})


def bench(result=None, **changes) -> Bench:
    def measure(system, protocol, phases):
        with phases("draw"):
            time.sleep(0.001)
        return measurement() if result is None else result

    values = {"name": "toy", "version": 1, "unit": "FID", "better": "lower"}
    return Bench(**{**values, "protocol": {"n": 10}, "measure": measure, **changes})


def test_a_run_is_saved_and_read_back(tmp_path):
    record, path = core.run(bench(), Noise, folder=tmp_path)
    assert path.parent == tmp_path / "toy" / "noise"
    assert path.name.startswith(record["date"][:10] + "-" + record["code"]["commit"][:7])
    assert core.load(path) == record
    assert record["protocol"] == {"n": 10, "prompts_sha256": "ab"}
    assert record["extra"]["floor"] == {"value": 1.0, "low": None, "high": None}
    assert record["per_seed"] == [3.0, 4.0]
    assert record["system"]["config"] == {"size": 64, "tint": [1, 2]}
    assert record["cost"]["seconds"]["draw"] > 0
    assert record["cost"]["peak_memory_bytes"] > 1_000_000
    assert record["environment"]["packages"]["numpy"] == np.__version__
    assert record["environment"]["threads"] >= 1


def test_the_same_command_gives_the_same_record(tmp_path):
    first, one = core.run(bench(), Noise, folder=tmp_path)
    second, two = core.run(bench(), Noise, folder=tmp_path)
    texts = [json.dumps(core.comparable(record)) for record in (first, second)]
    assert texts[0] == texts[1]
    assert set(first) - set(core.comparable(first)) == set(core.TIMINGS)
    assert first["run"] != second["run"] and first["sha256"] != second["sha256"]
    assert one != two


def test_nothing_is_overwritten(tmp_path):
    record, first = core.run(bench(), Noise, folder=tmp_path)
    before = first.read_bytes()
    others = [core.save(record, tmp_path) for _ in range(3)]
    assert [path.stem.removeprefix(first.stem) for path in others] == ["-2", "-3", "-4"]
    assert first.read_bytes() == before


def test_each_run_has_a_folder_of_its_own_and_the_newest_is_linked(tmp_path):
    out, made = tmp_path / "out", []
    for name in ("noise", "noise", "other"):
        system = type("Named", (Noise,), {"name": name})

        def measure(*arguments):
            core.report_folder(out, "toy").joinpath("grid.png").write_text("seen")  # on the way
            return measurement()

        core.run(bench(measure=measure), system, folder=tmp_path / "results")
        made.append(core.report_folder(out, "toy"))  # behind it: the same
        assert (out / "toy" / "newest").resolve() == made[-1].resolve()
    assert [path.parent.name for path in made] == ["noise", "noise", "other"]
    assert len(set(made)) == 3 and all((path / "grid.png").is_file() for path in made)
    (tmp_path / "file").write_text("")
    core.run(bench(), Noise, folder=tmp_path / "results")
    with pytest.raises(
        UserError, match=r"cannot write .*file/toy/noise.*; choose another --reports"
    ):
        core.report_folder(tmp_path / "file", "toy")


def test_the_digest_knows_content_not_order():
    assert core.digest({"a": 1, "b": [2]}) == core.digest({"b": (2,), "a": 1})
    assert core.digest({"a": 1}) != core.digest({"a": 2})


@pytest.mark.parametrize("value, n", [(None, 10), (math.nan, 10), (math.inf, 10), (1.0, 0)])
def test_nothing_measured_is_never_saved(tmp_path, value, n):
    with pytest.raises(NothingMeasured, match="toy measured nothing"):
        core.run(bench(measurement(value=value, n=n)), Noise, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"extra": {"kid": (math.nan, 0, 0)}}, "record.extra.kid.value must be finite, got nan"),
        ({"per_seed": [1.0, math.inf]}, r"record.per_seed\[1\] must be finite"),
        ({"protocol": {"x": math.nan}}, "protocol.x must be finite"),
        ({"protocol": {"x": object()}}, "protocol.x must be a JSON value, got object"),
        ({"extra": {"kid": {"value": 1}}}, "extra.kid"),
        ({"extra": {"kid": "low"}}, "extra.kid"),
        ({"n": 2.5}, "record: n: 2.5 is not of type 'integer'"),
        ({"interval": Interval(1, 2, 95, "x")}, "interval"),
    ],
)
def test_bad_measurements(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        core.run(bench(measurement(**changes)), Noise, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "two words", None, 7, "é"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    system = type("Strange", (Noise,), {"name": name})
    with pytest.raises(UserError, match=r"system\.name"):
        core.run(bench(), system, folder=tmp_path)
    with pytest.raises(UserError, match=r"bench\.name"):
        bench(name=name)
    assert not list(tmp_path.iterdir())


def never(system, protocol, phases):
    raise AssertionError("measured before it was checked")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "org/model"}, r"system.name must be letters.*got 'org/model'"),
        ({"weights_sha256": "v1.0"}, r"weights_sha256 must be 64 hex digits.*got 'v1.0'"),
        ({"weights_sha256": "A" * 64}, "weights_sha256 must be 64 hex digits"),
        ({"weights_sha256": 7}, "weights_sha256 must be 64 hex digits"),
        ({"config": None}, "system.config must be a dict"),
        ({"config": [1]}, "system.config must be a dict"),
        ({"config": {"scale": math.nan}}, "system.config.scale must be finite"),
        ({"config": {"f": print}}, "system.config.f must be a JSON value"),
    ],
)
def test_a_system_is_checked_before_it_draws(tmp_path, changes, message):
    system = type("Strange", (Noise,), changes)
    with pytest.raises(UserError, match=message) as caught:
        core.run(bench(measure=never), system, folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_numpy_and_paths_in_a_configuration_are_plain(tmp_path):
    config = {"s": np.float32(7.5), "p": Path("/x"), "n": np.arange(2)}
    record, _ = core.run(bench(), type("Plain", (Noise,), {"config": config}), folder=tmp_path)
    assert record["system"]["config"] == {"s": 7.5, "p": "/x", "n": [0, 1]}


def test_file_names_that_are_no_text_enter_a_record_as_escapes(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    record, path = core.run(bench(measurement(warnings=[f"first {name}"])), Noise, folder=tmp_path)
    assert record["warnings"] == ["first caf\\udce9.png"]
    assert core.load(path) == record


def test_a_folder_that_takes_no_record_is_found_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write into .*file.*Not a directory"):
        core.run(bench(measure=never), Noise, folder=tmp_path / "file" / "results")
    with pytest.raises(AssertionError):
        core.run(bench(measure=never), Noise, folder=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # asking leaves nothing


def test_the_number_is_told_before_anything_can_fail(tmp_path, monkeypatch, capsys):
    def full(record, folder, packed):
        raise UserError("cannot write")

    monkeypatch.setattr(core, "save", full)
    with pytest.raises(UserError):
        core.run(bench(), Noise, folder=tmp_path)
    assert capsys.readouterr().out == "measured toy of noise: FID 3.5 [3, 4], n=10\n"


def test_trials_lie_apart_from_what_the_project_stands_by(tmp_path, monkeypatch):
    monkeypatch.setattr(core, "RESULTS", tmp_path / "results")
    trial = bench(measurement(warnings=["a trial, not pinned: n=3 of 5"]))
    _, apart = core.run(trial, Noise, folder=tmp_path / "results")
    _, beside = core.run(bench(), Noise, folder=tmp_path / "results")
    _, asked = core.run(trial, Noise, folder=tmp_path / "mine")
    assert apart.parent == tmp_path / "results" / "_trials" / "toy" / "noise"
    assert asked.parent == tmp_path / "mine" / "toy" / "noise"
    assert [path for path, _ in store.read_files(tmp_path / "results")] == [beside]


def save_one(place: int, source: str, folder: str, start) -> None:
    record = json.loads(source)
    record |= {"run": f"{place:032x}", "n": place + 1}
    record["sha256"] = store.digest_of(record)
    start.wait()
    core.save(record, folder, bytes([place]) * 100)


def test_processes_that_save_at_once_keep_a_record_each(tmp_path):
    _, path = core.run(bench(), Noise, folder=tmp_path / "made")
    context = multiprocessing.get_context("spawn")
    start, source = context.Barrier(4), path.read_text()
    given = [(place, source, str(tmp_path / "all"), start) for place in range(4)]
    racing = [context.Process(target=save_one, args=one) for one in given]
    for process in racing:
        process.start()
    for process in racing:
        process.join()
    found = store.read_files(tmp_path / "all")  # runs of one second are several runs
    assert sorted(record["n"] for _, record in found) == [1, 2, 3, 4]
    for path, record in found:
        assert path.with_suffix(".npz").read_bytes() == bytes([record["n"] - 1]) * 100
    assert not [one for one in (tmp_path / "all").rglob(".*") if one.is_file()]


def test_a_disk_that_is_full_for_the_samples_keeps_the_record(tmp_path, monkeypatch, capsys):
    def full(path, data):
        raise UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(making, "write_atomic", full)
    scores = {"right": np.array([1, 0])}
    _, path = core.run(bench(measurement(samples=scores)), Noise, folder=tmp_path)
    assert "the record stands without its samples" in capsys.readouterr().err
    assert store.read_files(tmp_path)[0][0] == path and not list(tmp_path.rglob("*.npz"))


def test_a_file_system_without_links_saves_all_the_same(tmp_path, monkeypatch):
    def none(*names):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    record, first = core.run(bench(), Noise, folder=tmp_path)
    assert core.load(first) == record == core.load(core.save(record, tmp_path))


def test_numbers_say_what_they_are(tmp_path):
    """A benchmark's own measures and networks stand in the record; an unknown number is told."""
    own = [Measure("lift", "lift", "cm", "higher")]
    given = {"extra": {"a.lift": 1.0, "a.fid": 2.0, "a.odd": 3.0}, "by": {"a.fid": "net"}}
    lacks = [Missing("KID", "more pictures")]
    one = bench(measurement(**given, measures=own, missing=lacks))
    record, path = core.run(one, Noise, folder=tmp_path)
    assert record["measures"] == {
        "lift": {"title": "lift", "unit": "cm", "better": "higher"},
        "fid": {"title": "FID", "unit": "", "better": "lower", "by": "net"},
        "odd": {"title": "odd", "unit": "", "better": "none"},
    }
    assert record["missing"] == [{"measure": "KID", "needs": "more pictures"}]
    assert "no measure is declared for a.odd: better in no direction" in record["warnings"]
    assert core.load(path) == record


def test_bench_knows_two_directions():
    with pytest.raises(UserError, match=r"bench\.better must be 'lower' or 'higher', got 'up'"):
        bench(better="up")


def test_records_that_were_touched_are_refused(tmp_path):
    record, path = core.run(bench(), Noise, folder=tmp_path)
    for edit in ({"value": 3.4}, {"extra": {}}, {"date": "2020-01-01T00:00:00Z"}):
        path.write_text(json.dumps({**record, **edit}))
        with pytest.raises(UserError, match="sha256 does not fit the record; it was edited"):
            core.load(path)
    path.write_text(json.dumps({**record, "protocol": {"n": 11}}))
    with pytest.raises(UserError, match="protocol_digest does not fit"):
        core.load(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="is no JSON"):
        core.load(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="not of type 'object'"):
        core.load(path)
    path.write_text(json.dumps({**record, "surprise": 1}))
    with pytest.raises(UserError, match="surprise"):
        core.load(path)
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        core.load(tmp_path / "none.json")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        core.run(bench(), Noise, folder=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_killed_write_leaves_no_record(tmp_path):
    record, path = core.run(bench(), Noise, folder=tmp_path / "made")
    script = (
        "import json, os, signal, sys\n"
        "from benchmarks.harness import core\n"
        "os.link = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "core.save(json.load(open(sys.argv[1])), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=core.ROOT, capture_output=True)
    assert done.returncode == -9
    assert not list((tmp_path / "killed").rglob("*.json"))
    assert core.save(record, tmp_path / "killed").is_file()


def test_phases_add_up_and_survive_errors():
    phases = Phases()
    for _ in range(2):
        with pytest.raises(KeyError), phases("draw"):
            time.sleep(0.002)
            raise KeyError
    assert 0.004 <= phases.seconds["draw"] < 1


def test_code_state_of_a_checkout(tmp_path):
    assert core.code_state(tmp_path) == {"commit": "unknown", "dirty": None}

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init", "-q")
    assert core.code_state(tmp_path)["commit"] == "unknown"  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text("{}")
    clean = core.code_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    assert core.code_state(tmp_path) == {**clean, "dirty": True}
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert core.code_state(inside)["commit"] == "unknown"
