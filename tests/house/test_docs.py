"""The documentation builds without a warning, and its pages need no network."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

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


LINK = re.compile(r'<(?:a|img)\b[^>]*?\s(?:href|src)="([^"]+)"')
IDS = re.compile(r'\sid="([^"]+)"')


def test_every_link_leads_somewhere(site):
    """Of all built pages, the navigation's too: the file is there, and so is the heading."""
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    ids = {path: set(IDS.findall(text)) for path, text in pages.items()}
    lost = set()
    for path, text in pages.items():
        for link in map(unquote, LINK.findall(text)):
            if re.match(r"[a-z]+:|//", link) or path.name == "404.html":
                continue
            name, _, heading = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (heading and heading not in ids.get(target, {heading})):
                lost.add((path.name, link))
    assert len(pages) > 15 and not lost


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_page_is_wider_than_the_window(site, browser, width, scheme):
    wide = {}
    browser.window(width, scheme=scheme)
    for path in sorted(site.rglob("*.html")):
        browser.open(path)
        found = browser.value("document.documentElement.scrollWidth")
        if found > width:
            wide[path.name] = found
    assert wide == {}


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site):
    pages = {path.stem for kind in ("md", "ipynb") for path in (ROOT / "docs").rglob(f"*.{kind}")}
    assert pages <= {path.stem for path in site.rglob("*.html")}
    for path in site.rglob("*.html"):
        text = path.read_text("utf-8").replace('<link rel="canonical"', "<canonical")
        assert not LOADED.search(text), (path.name, LOADED.search(text)[0])


def test_the_python_page_shows_signatures_and_docstrings(site):
    text = (site / "api.html").read_text("utf-8")
    assert 'id="cm3leon.loading.load_system"' in text and "uint8 [B, H, W, 3]" in text


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_snippets_run(page, capsys):
    for code in SNIPPET.findall(page.read_text("utf-8")):
        exec(compile(code, str(page), "exec"), {})
