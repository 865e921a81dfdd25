"""A wheel is `cm3leon` alone, with the shipped weights inside, and works in another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.test_pipeline import write_tiny_baselines

pytest.importorskip("setuptools", minversion="77")
ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
BUILD = "from setuptools.build_meta import build_wheel; print('built', build_wheel('out'))"
USE = """
import sys
from pathlib import Path
import cm3leon
from cm3leon.cli.doctor import benchmark_facts
from cm3leon.cli.main import main
from cm3leon.loading import find_model, model_names
from cm3leon.reports import OUT, read_published
from cm3leon.reports.records.store import RESULTS
inside = Path(cm3leon.__file__).parent
assert find_model("scenes-xs").is_relative_to(inside / "shipped"), find_model("scenes-xs")
assert model_names() == ["scenes-xs"] and read_published()["rows"]
assert RESULTS == Path.cwd() / "results" and OUT.is_relative_to(Path.cwd())
for words in (["draw", "a red star", "--system", "scenes-xs", "--out", "star.png"],
              ["caption", "star.png", "--system", "scenes-xs"]):
    assert main(words) == 0
assert "none is here" in "\\n".join(fact.text for fact in benchmark_facts())
"""


def child(code: str, folder: Path, *path: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "CM3LEON_BASELINES"}
    environment = kept | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built without a network of these sources and of weights that take no time to pack."""
    home = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copy(ROOT / name, home)
    skip = shutil.ignore_patterns("__pycache__", "shipped")
    shutil.copytree(ROOT / "cm3leon", home / "cm3leon", ignore=skip)
    for package in ("benchmarks", "baselines", "tests"):
        (home / package).mkdir()
        (home / package / "__init__.py").touch()
    shutil.copy(ROOT / "baselines" / "published.json", home / "baselines")
    write_tiny_baselines(home / "baselines", "scenes-xs")
    (home / "build" / "lib" / "old").mkdir(parents=True)  # an earlier build's
    (home / "build" / "lib" / "old" / "__init__.py").touch()
    child(BUILD, home)
    (path,) = (home / "out").glob("*.whl")
    return path


def test_what_a_wheel_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {"cm3leon", f"{wheel.name[:13]}.dist-info"}
    sources = {
        path.relative_to(ROOT).as_posix()
        for pattern in (
            "*.py",
            "*.c",
            "*.json",
            "templates/*",
            "*.html",
            "text/*.md",
            "py.typed",
        )
        for path in (ROOT / "cm3leon").rglob(pattern)
    }
    assert sources <= names
    shipped = {name.removeprefix("cm3leon/shipped/") for name in names if "/shipped/" in name}
    folders = {"text": ["tokenizer.json"], "vq": ["config.json", "model.safetensors"]}
    folders["scenes-xs"] = folders["vq"]
    wanted = {f"scenes/{folder}/{file}" for folder, files in folders.items() for file in files}
    assert wanted | {"published.json"} <= shipped
    assert not [name for name in shipped if name.endswith(".py")]


def test_a_wheel_works_where_nothing_else_is(wheel, tmp_path):
    """From its own files alone, in a folder of somebody else's; nothing is written beside it."""
    site, user = tmp_path / "site", tmp_path / "user"
    user.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    before = {path for path in site.rglob("*") if path.suffix != ".pyc"}
    child(USE, user, site)
    assert [path.name for path in user.iterdir()] == ["star.png"]
    after = {path for path in site.rglob("*") if path.suffix != ".pyc"}
    assert {path for path in after - before if path.name != "__pycache__"} == set()


def test_the_version_is_the_packages():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cm3leon.__version__"}
