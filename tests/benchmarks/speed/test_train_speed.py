"""Training speed: the process that takes the steps, and the script for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.speed.train_speed import CONTEXT, Contestant, Options, contestants
from benchmarks.speed.train_steps import found, lengths
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
