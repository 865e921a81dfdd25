"""Every module that can be run: `--help` only helps, mistakes are one line, an interrupt too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cm3leon import reports
from cm3leon.reports import called, guarded, read_json, read_published

ROOT = Path(__file__).resolve().parents[2]
RUN = re.compile(r"^if __name__ == .__main__.:", re.M)
WORKERS = {"train_steps", "mutation_worker"}  # started by train_speed and mutants, not by users
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("cm3leon", "benchmarks", "baselines")
    for path in sorted((ROOT / package).rglob("*.py"))
    if RUN.search(path.read_text(encoding="utf-8")) and path.stem not in WORKERS
]


@pytest.fixture
def nothing_is_written(monkeypatch):
    def refuse(path, *_, **__):
        pytest.fail(f"wrote {path}")

    monkeypatch.setattr(os, "replace", refuse)  # by which every file of ours is written


@pytest.mark.parametrize("module", MODULES)
def test_help_helps_and_does_nothing_else(module, run_module, nothing_is_written):
    done = run_module(module, "--help")
    assert done.returncode == 0 and "usage:" in done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_a_mistake_is_one_line(module, run_module, nothing_is_written):
    done = run_module(module, "--no-such-option", "3")
    assert done.returncode == 2
    said = done.stderr
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert not set("╭╰│─") & set(said) and "-----" not in said


@pytest.mark.parametrize(
    "module", ["benchmarks.fid_coco", "cm3leon.reports.tables", "cm3leon.reports.paper.main"]
)
def test_without_the_extras_it_is_one_line(module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pandas'] = None\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: pandas not installed; pip install 'cm3leon[bench,report]")
    assert done.stderr.count("\n") == 1


def test_an_installed_package_writes_where_it_is_run(tmp_path, monkeypatch):
    """In a checkout results are its own; site-packages hold none."""
    assert reports.HOME == ROOT
    shutil.copytree(ROOT / "cm3leon", tmp_path / "site" / "cm3leon")
    (tmp_path / "user").mkdir()
    code = "from cm3leon import reports; from cm3leon.reports.records.store import RESULTS; print(reports.OUT, RESULTS)"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path / "user", capture_output=True, text=True,
    )  # fmt: skip
    user = tmp_path / "user"
    assert done.stdout == f"{user / 'reports' / 'out'} {user / 'results'}\n", done.stderr


def test_an_interrupt_of_a_report_is_one_line(capsys):
    def stopped():
        raise KeyboardInterrupt

    assert guarded(lambda: called(stopped, [])) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_function_by_its_command_line():
    def add(one: int, other: int = 2) -> int:
        """Add."""
        return one + other

    assert called(add, ["--one", "3"]) == 5
    with pytest.raises(ValueError, match=r"invalid|Error parsing|parsing.*--one"):
        called(add, ["--one", "x"])


SHAPES = {
    "[1]": "has no list 'rows'",
    '{"rows": 3}': "has no list 'rows'",
    '{"rows": [{"table": "Table 1"}]}': "row 0 has no 'model'",
    '{"rows": ["x"]}': "row 0 has no 'table'",
    "[" * 200_000: "is nested too deeply",
    "9" * 5000: "is no JSON",
    "{": "is no JSON",
}


@pytest.mark.parametrize("text", SHAPES, ids=lambda text: text[:12])
def test_quoted_numbers_of_another_shape(tmp_path, text):
    path = tmp_path / "published.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=SHAPES[text]) as error:
        read_published(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert read_json(reports.PUBLISHED) == read_published()
