"""The snippet of docs/evaluate.md that adds a system is run as it stands."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import fid_coco
from tests.benchmarks.test_fid_coco import write_all_baselines

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluate.md"
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def snippet() -> str:
    for code in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        if "def draw" in code:
            return code
    pytest.fail("docs/evaluate.md has no ```python block with `def draw`: show how to add a system")


def test_adding_a_system_as_the_page_says(snippet, tmp_path, monkeypatch, capsys):
    write_all_baselines(tmp_path / "baselines")
    monkeypatch.setenv("CM3LEON_BASELINES", str(tmp_path / "baselines"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_file", raising=False)
    Path("my_file.py").write_text(snippet, encoding="utf-8")
    name = re.search(r"^([A-Z_]+) = ", snippet, re.MULTILINE)
    assert name, "the snippet must end in `MY_SYSTEM = MySystem()`"
    arguments = ["--system", f"my_file:{name[1]}", "--n", "8", "--real", "8"]
    arguments += ["--resamples", "4"]
    folders = ["--results", "results", "--reports", "out", "--cache", "cache"]
    assert fid_coco.main([*arguments, *folders]) == 0
    assert "CM3Leon-7B" in capsys.readouterr().out
    assert len(list(Path("results").rglob("*.json"))) == 1
