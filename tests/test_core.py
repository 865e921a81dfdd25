"""Records: built, checked, saved whole or not at all, never overwritten; exit codes."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from types import MappingProxyType

import numpy as np
import pytest

from benchmarks.harness import core
from benchmarks.harness.core import Bench, Interval, Measurement, NothingMeasured, Phases
from cm3leon.errors import UserError


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
    assert set(first) - set(core.comparable(first)) == {"date", "code", "cost"}
    assert one != two


def test_nothing_is_overwritten(tmp_path):
    record, first = core.run(bench(), Noise, folder=tmp_path)
    before = first.read_bytes()
    others = [core.save(record, tmp_path) for _ in range(3)]
    assert [path.stem.removeprefix(first.stem) for path in others] == ["-2", "-3", "-4"]
    assert first.read_bytes() == before


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


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "two words"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    system = type("Strange", (Noise,), {"name": name})
    with pytest.raises(UserError, match=r"system\.name"):
        core.run(bench(), system, folder=tmp_path)
    with pytest.raises(UserError, match=r"bench\.name"):
        bench(name=name)
    assert not list(tmp_path.iterdir())


def test_bench_knows_two_directions():
    with pytest.raises(UserError, match=r"bench\.better must be 'lower' or 'higher', got 'up'"):
        bench(better="up")


def test_records_that_were_touched_are_refused(tmp_path):
    record, path = core.run(bench(), Noise, folder=tmp_path)
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
        "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
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
