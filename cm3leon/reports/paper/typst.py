"""The report as PDF. The template reads the document as data, so that no text of it is ever code.

Fonts are the ones typst carries in itself, the date is the newest record's: same document, same
bytes, on every machine.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from cm3leon.reports.paper.model import Document, Part, Picture, Section, labels, sections, walk

TEMPLATE = Path(__file__).parents[1] / "templates" / "paper.typ"


def to_pdf(document: Document) -> bytes:
    """Typeset it; ValueError names what typst could not do."""
    return _typeset(document, format="pdf")


def to_png(document: Document, ppi: float = 72.0) -> list[bytes]:
    """Every page as a picture."""
    pages = _typeset(document, format="png", ppi=ppi)
    return [pages] if isinstance(pages, bytes) else pages


def _typeset(document: Document, **form):
    import typst

    moment = datetime.fromisoformat(document.date)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, content in _files(document).items():
            (folder / name).write_bytes(content)
        try:
            compiler = typst.Compiler(folder / "main.typ", root=folder, ignore_system_fonts=True)
            return compiler.compile(timestamp=int(moment.timestamp()), **form)
        except typst.TypstError as error:
            raise ValueError(f"typst cannot set {TEMPLATE.name}: {error.message}") from None


def _files(document: Document) -> dict[str, bytes]:
    """What typst reads: the template, the content, the pictures."""
    files = {"main.typ": TEMPLATE.read_bytes(), "data.json": _data(document)}
    for section in sections(document):
        for block in section.blocks:
            if isinstance(block, Picture):
                files[block.file] = block.data
    return files


def _data(document: Document) -> bytes:
    names = labels(document)
    data = {
        "title": document.title,
        "authors": document.authors,
        "date": long_date(document.date),
        "abstract": _parts(document.abstract),
        "sections": [_section(section, names) for section in document.sections],
        "appendix": [_section(section, names) for section in document.appendix],
        "references": [{"key": key, "text": text} for key, text in document.references],
        "names": names,
        "cited": {key: place + 1 for place, (key, _) in enumerate(document.references)},
    }
    return json.dumps(data, ensure_ascii=False, sort_keys=True).encode()


def long_date(date: str) -> str:
    """`2026-11-24...` as `24 November 2026`."""
    moment = datetime.fromisoformat(date)
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}"


MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def _section(section: Section, names: dict[str, str]) -> dict:
    return {
        "label": section.label,
        "number": names[section.label].split(" ", 1)[1],
        "title": section.title,
        "level": section.level,
        "blocks": [_block(block, names) for block in section.blocks],
    }


def _block(block, names: dict[str, str]) -> dict:
    """A block as JSON: fields by name, pictures by the name of their file."""
    found = {"kind": type(block).__name__.lower()}
    if isinstance(block, Picture):
        fields = ("label", "file", "alt", "wide", "width", "floats")
        found |= {name: getattr(block, name) for name in fields}
        found["caption"] = _parts(block.caption)
    else:
        found |= _bare(asdict(block))
    if "label" in found:
        found["name"] = names[found["label"]]
    return found


def _bare(value):
    """Without the traces of numbers: the PDF does not show them."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if key != "trace"}
    return [_bare(item) for item in value] if isinstance(value, (list, tuple)) else value


def _parts(parts: tuple[Part, ...]) -> list[dict]:
    return [_bare(asdict(part)) for part in walk(parts)]
