"""Notebooks as pages: mkdocs calls `on_files`, each .ipynb becomes Markdown with its outputs."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from mkdocs.structure.files import File, Files


def on_files(files: Files, config) -> Files:
    """Add a page for every notebook under docs/."""
    home = Path(config["docs_dir"])
    for path in sorted(home.rglob("*.ipynb")):
        name = path.relative_to(home).with_suffix(".md").as_posix()
        files.append(
            File.generated(config, name, content=page(json.loads(path.read_text("utf-8"))))
        )
    return files


def page(notebook: dict) -> str:
    """The cells of a notebook, each with what it gave."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts += [f"```py\n{source}\n```", *map(output, cell["outputs"])]
    return "\n\n".join(parts) + "\n"


def output(one: dict) -> str:
    """What a cell printed, a picture as data URI, or a value as text."""
    data = one.get("data", {})
    if "image/png" in data:
        return f'<img alt="output" src="data:image/png;base64,{data["image/png"].strip()}">'
    text = "".join(one.get("text") or data.get("text/plain", ""))
    return f'<pre class="output">{escape(text.rstrip())}</pre>'
