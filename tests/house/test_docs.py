"""The documentation builds without a warning, and its pages need no network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings_handlers.python")
ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//"
)
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    for path in site.glob("*.html"):
        text = path.read_text("utf-8").replace('<link rel="canonical"', "<canonical")
        assert not LOADED.search(text), (path.name, LOADED.search(text)[0])


def test_the_python_page_shows_signatures_and_docstrings(site):
    text = (site / "api.html").read_text("utf-8")
    assert 'id="cm3leon.loading.load_system"' in text and "uint8 [B, H, W, 3]" in text


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_snippets_run(page, capsys):
    for code in SNIPPET.findall(page.read_text("utf-8")):
        exec(compile(code, str(page), "exec"), {})
