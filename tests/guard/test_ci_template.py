"""The workflow for other people's repositories: YAML, whose commands exist, work, and raise an
alarm when pictures get worse and none when they do not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cm3leon.cli.main import main
from cm3leon.images import write_png
from cm3leon.reports.regress import regress
from tests.guard.test_commands import parses, simple_commands  # noqa: F401

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "docs" / "ci-template.yml"
OURS = (["cm3leon"], ["python", "-m", "cm3leon.reports.regress"])


def steps() -> list[dict]:
    return yaml.safe_load(TEMPLATE.read_text("utf-8"))["jobs"]["score"]["steps"]


def commands() -> list[list[str]]:
    lines = [line for one in steps() for line in one.get("run", "").splitlines() if line.strip()]
    found = [words for line in lines for words in simple_commands(line)]
    return [words for words in found if any(words[: len(one)] == one for one in OURS)]


def test_its_commands_parse(parses):  # noqa: F811
    assert [words[1] for words in commands()] == ["score", "compare", "-m"]
    for words in commands():
        parses(words)


def test_the_gate_is_silent_on_the_same_pictures_and_speaks_on_worse_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, split in (("REAL", "test"), ("DRAWN", "natural")):
        where = ["--split", split, "--count", "64", "--size", "32"]
        assert main(["export-scenes", name, *where]) == 0
    rng = np.random.default_rng(0)
    for k in range(64):
        write_png(f"WORSE/{k}.png", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    score = ["REAL/test", "--metrics", "fid", "--cache", "features", "--record", "mine"]
    for drawn, out in (("DRAWN/natural", "base"), ("DRAWN/natural", "same"), ("WORSE", "worse")):
        assert main(["score", drawn, *score, "--results", out]) == 0
    (base,) = Path("base").rglob("*.json")
    assert main(["compare", str(base), "score/mine", "--results", "same"]) == 0
    codes = {
        head: regress(base_results=Path("base"), results=Path(head), benches=("score",))
        for head in ("same", "worse")
    }
    assert codes == {"same": 0, "worse": 2}
