"""docs/how-to.md: each section, applied to a copy of the repository, does what it says."""

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to.md"
BLOCK = re.compile(r"^([^\n]*\S[^\n]*)\n\n```(py|text)\n(.*?)^(?=```$)", re.MULTILINE | re.DOTALL)
NEW = re.compile(r"New file `(.+)`:")
CHANGE = re.compile(r"In `(.+?)`, (after|before|replace) the line `(.+)`:")
FILES_AT_MOST = {"metric": 2, "decoding strategy": 4, "system": 1, "task": 3, "benchmark": 2}


def sections() -> dict[str, list[tuple[str, str, str]]]:
    """Name -> its blocks as (line before, kind, text)."""
    parts = re.split(r"^## An? ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {part.split(":")[0]: BLOCK.findall(part) for part in parts}


@pytest.fixture
def house(tmp_path) -> Path:
    """A copy of the sources, with the shipped weights beside them."""
    for name in ("cm3leon", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "noxfile.py", tmp_path / "noxfile.py")
    (tmp_path / "baselines").symlink_to(ROOT / "baselines")
    return tmp_path


def changed(text: str, where: str, line: str, block: str) -> str:
    """A file's text with a block after, before or instead of a line that it holds once."""
    assert text.count(f"\n{line}\n") == 1, line
    held = {"after": f"{line}\n{block}", "before": f"{block}{line}\n", "replace": block}[where]
    return text.replace(f"\n{line}\n", f"\n{held}")


def test_every_kind_of_addition_has_its_section():
    assert list(sections()) == list(FILES_AT_MOST)


@pytest.mark.parametrize("name", FILES_AT_MOST)
def test_a_section_applied_does_what_it_says(name, house):
    touched, code, said = set(), "", ""
    for before, kind, block in sections()[name]:
        if found := NEW.fullmatch(before):
            path = house / found[1]
            assert not path.exists() and kind == "py"
            path.write_text(block, "utf-8")
            touched.add(path)
        elif found := CHANGE.fullmatch(before):
            path = house / found[1]
            path.write_text(changed(path.read_text("utf-8"), found[2], found[3], block), "utf-8")
            touched.add(path)
        elif before.endswith("In use:"):
            code = block
        elif kind == "text":
            said = block
        else:
            pytest.fail(f"a block that no line introduces: {before!r}")
    assert code and 1 <= len(touched) <= FILES_AT_MOST[name]
    environment = os.environ | {"PYTHONPATH": str(house), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=house, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    wanted = said.replace("[", "[[]").replace("...", "*")
    assert fnmatchcase(done.stdout, wanted), done.stdout
