"""The notebooks run, cell by cell, in an empty folder; what they keep of it is small."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL = 150_000  # bytes of a notebook with its outputs
ABSOLUTE = r"(?<![^\s'\"(=>])(/[\w.-]+){2,}"  # a path of the machine that ran it


def cells(path: Path) -> list[dict]:
    return [
        one for one in json.loads(path.read_text("utf-8"))["cells"] if one["cell_type"] == "code"
    ]


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"draw", "evaluate"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch, capsys):
    """In one namespace, as a kernel runs it: the last expression of a cell is evaluated."""
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path), 1):
        where = f"{path.name}, code cell {number}"
        tree = ast.parse("".join(cell["source"]), where)
        exec(compile(tree, where, "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_keeps_is_whole_and_small(path):
    assert path.stat().st_size < SMALL
    for cell in cells(path):
        assert cell["execution_count"], f"{path.name} was changed and not run: nox -s notebooks"
        assert not [one for one in cell["outputs"] if one["output_type"] == "error"]
        for one in cell["outputs"]:
            kinds = {"stream": one.get("text")} | one.get("data", {})
            told = [text for kind, text in kinds.items() if not kind.startswith("image/")]
            assert not re.search(ABSOLUTE, json.dumps(told))
