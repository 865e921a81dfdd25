"""Training speed: the process that takes the steps, and the script for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.speed import goals, latency
from benchmarks.speed.train_speed import CONTEXT, Contestant, Options, contestants
from benchmarks.speed.train_steps import found, lengths
from cm3leon.cli.main import parse
from cm3leon.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
TINY = {
    "layers": 1, "width": 32, "heads": 2, "ids": 1216, "dtype": "float32", "optimizer": "adamw",
    "threads": 1, "lengths": lengths(2, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["ours", "opt"])
def test_a_contestant_takes_steps_of_the_same_network(kind):
    if kind == "opt":
        pytest.importorskip("transformers")
    one = Contestant(kind, TINY | {"kind": kind})
    try:
        assert one.parameters == 12 * 32**2 + 1216 * 32  # the position table is left out
        assert one.take() > 0 and len(one.seconds) == 1
    finally:
        one.close()


def test_names_are_found_where_an_older_revision_has_them():
    assert found("sqrt", "no.such.place", "math")(4) == 2
    with pytest.raises(ImportError, match=r"none of no\.such has x"):
        found("x", "no.such")


def test_the_paper_s_sizes_train_on_full_rows():
    options = Options(sizes=("350m",), threads=1)
    ((_, asked, _),) = contestants(options, "350m", "bfloat16", "adamw", 0)
    assert asked["lengths"] == [CONTEXT] and asked["ids"] == 65_536
    with pytest.raises(UserError, match=r"--sizes are of scenes-xs, .*760m, got '13b'"):
        Options(sizes=("13b",))


PYTHON = """#!/bin/sh
if [ "$1" = - ]; then cat > /dev/null; exit 0; fi
if [ "$1" = -c ]; then exit $TORCHAO; fi
echo "$@" >> $TOLD
case "$*" in *train_speed*) exit $TRAINED;; esac
"""


def checked(folder: Path, **said) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """The script with a `python` that finds a GPU and notes what it is to run."""
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    given = {"TORCHAO": "0", "TRAINED": "0", "TOLD": str(folder / "told")} | said
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "benchmarks/gpu_check.sh", "cuda:1"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | given | {"PATH": path},
    )  # fmt: skip
    return done, [line.split() for line in (folder / "told").read_text().splitlines()]


def test_the_script_runs_what_the_programs_take(tmp_path):
    done, (tests, training, drawing, last) = checked(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert tests[:6] == ["-m", "pytest", "-q", "-n", "0", "-m"]
    options = parse(Options, training[2:], "x")
    assert training[1] == "benchmarks.speed.train_speed" and options.device == "cuda:1"
    assert options.sizes is None and options.dtypes == ("bfloat16",)  # on a GPU: 350m and 760m
    draws = parse(latency.Options, drawing[2:], "x")
    assert drawing[1] == "benchmarks.speed.latency" and draws.sizes == ("7b",)
    assert draws.dtypes == ("bfloat16", "int8") and 1 in draws.batches
    assert len(draws.dtypes) * len(draws.batches) * draws.budget <= 240  # of 600 s
    assert last[1] == "benchmarks.speed.goals"
    assert parse(goals.Options, last[2:], "x").since > 1.7e9


@pytest.mark.parametrize("code, message", [("3", "with code 3"), ("124", "did not end within ")])
def test_a_step_that_fails_is_named_and_the_others_run(tmp_path, code, message):
    done, told = checked(tmp_path, TRAINED=code, TORCHAO="1")
    assert done.returncode == 1 and len(told) == 4 and "int8" not in told[2]
    assert done.stderr.startswith("error: training ") and message in done.stderr
    assert done.stderr.count("\n") == 1 and "int8 is left out: pip install" in done.stdout


def test_goals_are_told_beside_what_was_measured(tmp_path, capsys):
    training = {"350m.bfloat16.adamw.documents0.tokens_per_s": 61234.0,
                "350m.bfloat16.adamw.documents0.peak_share": 0.5,
                "350m.bfloat16.adamw.documents0.mfu": 0.41}  # fmt: skip
    drawing = {"7b.bfloat16.b1.seconds_per_image": {"value": 4.44, "low": 4.4, "high": 4.5},
               "7b.int8.b1.seconds_per_image": 2.9}  # fmt: skip
    assert goals.lines(training, drawing) == [
        "train 350m: 61,234 tokens/s, 50.0% of the measured peak, MFU 41.0%",
        "train 760m: not measured",
        "draw 7b.bfloat16: 4.44 s an image, goal 4.5 s met (the paper: 11.8 s)",
        "draw 7b.int8: 2.90 s an image, goal 2.8 s missed (the paper: 9.1 s)",
    ]
    with pytest.raises(UserError, match=r"no record in .*train_speed or .*latency since 0"):
        goals.run(goals.Options(results=tmp_path))
    assert goals.run(goals.Options()) == 0  # the project's own: none of a GPU yet
    assert capsys.readouterr().out.count("not measured") == 4
    with pytest.raises(UserError):
        goals.run(goals.Options(since=4e9))


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_a_gpu_the_script_is_one_line():
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "benchmarks/gpu_check.sh"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.startswith("error: torch sees no CUDA device") and done.stderr.count("\n") == 1
    )
