"""The gallery: what stands on the page is what its commands make."""

from __future__ import annotations

import re
import shlex

import numpy as np

from baselines.gallery import ZOOM, Options, main
from cm3leon.cli.main import main as cm3leon
from cm3leon.images import read_picture
from tests.world_model import write_world_model

TASKS = {name: {"rows": 1} for name in ("edit", "depth", "write", "answer")}


def test_every_row_is_made_by_its_command(tmp_path, monkeypatch, capsys):
    folder = write_world_model(tmp_path / "home", tasks=TASKS)
    page = tmp_path / "docs" / "gallery.md"
    assert main(Options((str(folder),), 1, page)) == 0
    text = page.read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == 1 + 3 + 1 + 1 + 1  # a caption, edits, a map, a sign, an answer
    names = re.findall(r"\]\((gallery/[\w.-]+)\)", text)
    assert len(names) == len(set(names)) and {page.parent / one for one in names} == set(
        (page.parent / "gallery").glob("*.png")
    )
    assert sum((page.parent / one).stat().st_size for one in names) < 300_000
    monkeypatch.chdir(tmp_path)
    made = shlex.split(re.search(r"```bash\n(.*)\n```", text)[1])
    assert cm3leon(made[1:]) == 0
    for task in ("edit", "depth"):
        row = next(one for one in rows if f"**{task}**" in one)
        words = shlex.split(re.search(r"`(cm3leon .*)`", row)[1])
        out = words[words.index("--out") + 1]
        assert cm3leon(words[1:]) == 0
        shown = read_picture(page.parent / re.search(r"!\[made\]\((.*?)\)", row)[1])
        again = read_picture(out)
        apart = shown[::ZOOM, ::ZOOM].astype(int) - again  # the page's has fewer colours
        assert shown.shape[0] == ZOOM * again.shape[0] and np.abs(apart).mean() < 12
