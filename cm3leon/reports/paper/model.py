"""What the report is made of, before a writer sees it: parts of text, numbers, tables, figures.

Text is a tuple of `Part`; every number is a part made by `numeral`, which notes the file and the
place in it that the number came from. Text of records goes in as it is: `prose` reads markup in
our own sentences only, and the writers escape everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass

from cm3leon.reports.tables import number, span

PUBLISHED_NAME = "baselines/published.json"
NO_BREAK = "\N{NO-BREAK SPACE}"
MARKUP = re.compile(
    r"`(?P<code>[^`]+)`|\*(?P<emph>[^*]+)\*|\[@(?P<cite>\w+)\]|\[#(?P<see>[\w-]+)\]|\{(?P<value>\w+)\}"
)


@dataclass(frozen=True)
class Trace:
    """Where a number came from: file, JSON pointer in it, and how, if it was derived."""

    value: float
    low: float | None
    high: float | None
    record: str
    key: str
    how: str | None = None


@dataclass(frozen=True)
class Part:
    """A run of text: kind text, code, emph, mark, number, verdict, cite, see or break."""

    kind: str
    text: str
    target: str = ""  # of cite and see: what they point to
    interval: str = ""  # of a number
    trace: Trace | None = None


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Paragraph:
    parts: Parts
    lead: str = ""  # bold words it begins with


@dataclass(frozen=True)
class Bullets:
    items: tuple[Parts, ...]


@dataclass(frozen=True)
class Formula:
    """`typst` is set as mathematics in the PDF, `text` stands in HTML; neither is from a record."""

    typst: str
    text: str


@dataclass(frozen=True)
class Missing:
    """Says that something is not measured yet, and by which command it would be."""

    what: Parts
    command: Parts = ()


@dataclass(frozen=True)
class Row:
    """Kind `ours` stands out, `group` is one cell over all columns, `rule` and `thin` have a line
    above."""

    cells: tuple[Parts, ...]
    kind: str = "plain"


@dataclass(frozen=True)
class Panel:
    """A table with its own headers; `align` holds l, c or r a column, `widths` typst's tracks."""

    headers: tuple[Parts, ...]
    rows: tuple[Row, ...]
    align: str
    widths: tuple[str, ...] = ()
    stacked: bool = False  # intervals stand below their values

    def __post_init__(self):
        for row in self.rows:
            if len(row.cells) != (1 if row.kind == "group" else len(self.headers)):
                raise ValueError(f"a row has {len(row.cells)} cells of {len(self.headers)}")


@dataclass(frozen=True)
class Grid:
    """One or more panels under one caption: what panels hold never shares a column."""

    label: str
    caption: Parts = field(default=(), kw_only=True)  # stands in the template
    panels: tuple[Panel, ...]
    notes: tuple[Parts, ...] = ()
    wide: bool = False
    floats: bool = True  # False: stands where it is


@dataclass(frozen=True)
class Picture:
    """A figure: SVG or JPEG bytes under `file`; `width` is a share of the column or the page."""

    label: str
    caption: Parts = field(default=(), kw_only=True)  # stands in the template
    file: str
    data: bytes
    alt: str
    wide: bool = False  # over both columns
    width: float = 1.0
    floats: bool = True
    numbers: Parts = ()  # what is plotted, for the report's data


Block = Paragraph | Bullets | Formula | Missing | Grid | Picture


@dataclass(frozen=True)
class Section:
    label: str
    title: str
    blocks: tuple[Block, ...] = ()
    level: int = 1
    command: str = ""  # what would fill it, where it is missing


@dataclass(frozen=True)
class Document:
    title: str
    authors: str
    date: str  # of the newest record, ISO
    abstract: Parts
    sections: tuple[Section, ...]
    appendix: tuple[Section, ...]
    references: tuple[tuple[str, str], ...]  # key, text; in order of first citation


def clean(text: str) -> str:
    """One line without control characters: records must not move a cursor or a layout."""
    return "".join(char if char.isprintable() or char == NO_BREAK else " " for char in str(text))


def plain(text: str, kind: str = "text") -> Part:
    """Text of a record, shown as it is."""
    return Part(kind, clean(text))


def words(text: str, kind: str = "text") -> Parts:
    """One part, as the parts of a cell."""
    return (plain(text, kind),) if text else ()


def lines(*texts: str) -> Parts:
    """Short lines below one another, as in the head of a narrow column."""
    parts = [part for text in texts for part in (Part("break", ""), plain(text))]
    return tuple(parts[1:])


def emph(text: str) -> Part:
    """A name in italics."""
    return plain(text, "emph")


def code(text: str) -> Part:
    """A name of the machine's: a unit, a command, a path."""
    return plain(text, "code")


def prose(template: str, **values: str | Part | Parts) -> Parts:
    """Our own sentence with `code`, *emphasis*, [@citation], [#reference] and {value} in it.

    Values are put in as they are and never read as markup. Raises KeyError for an unknown one.
    """
    parts, end = [], 0
    for match in MARKUP.finditer(template):
        parts += words(_typographic(template[end : match.start()]))
        kind, text = match.lastgroup, match[match.lastgroup]
        if kind == "value":
            parts += _as_parts(values[text])
        elif kind in ("cite", "see"):
            parts.append(Part(kind, text, target=text))
        else:
            parts.append(Part(kind, text if kind == "code" else _typographic(text)))
        end = match.end()
    return (*parts, *words(_typographic(template[end:])))


def numeral(
    value: float,
    record: str,
    key: str,
    *,
    ends: tuple[float | None, float | None] = (None, None),
    shown: str | int | None = None,
    how: str | None = None,
) -> Part:
    """The one door for numbers: what is shown, and where it came from.

    `shown` replaces the number's usual form, or fixes its decimals. `how` says how it was derived;
    without it the very value stands at `key` of `record`.
    """
    decimals = shown if isinstance(shown, int) else None
    if not isinstance(shown, str):
        shown = number(value) if decimals is None else f"{value:,.{decimals}f}"
    low, high = ends
    interval = span(value, low, high, decimals)
    trace = Trace(value, low, high, record, key, how)
    return Part("number", _minus(shown), interval=_minus(interval), trace=trace)


def count(value: int, record: str, what: str) -> Part:
    """How many there are of something in a folder or a file."""
    return numeral(value, record, "", shown=f"{value:,}", how=f"number of {what}")


def sections(document: Document) -> tuple[Section, ...]:
    """Body and appendix, in order."""
    return (*document.sections, *document.appendix)


def walk(thing) -> Iterator[Part]:
    """Every part below a document, section, block or tuple, in reading order."""
    if isinstance(thing, Part):
        yield thing
    elif isinstance(thing, tuple):
        for item in thing:
            yield from walk(item)
    elif is_dataclass(thing):
        for one in fields(thing):
            yield from walk(getattr(thing, one.name))


def labels(document: Document) -> dict[str, str]:
    """Label -> what it is called: `Section 4.1`, `Appendix B`, `Table 2`, `Figure 3`."""
    names = {}
    for word, group in (("Section", document.sections), ("Appendix", document.appendix)):
        outer = inner = 0
        for section in group:
            outer, inner = (outer + 1, 0) if section.level == 1 else (outer, inner + 1)
            name = str(outer) if word == "Section" else chr(64 + outer)
            names[section.label] = f"{word} {name}" + (f".{inner}" if inner else "")
    counts = {"Table": 0, "Figure": 0}
    for section in sections(document):
        for block in section.blocks:
            if isinstance(block, Grid | Picture):
                word = "Table" if isinstance(block, Grid) else "Figure"
                counts[word] += 1
                names[block.label] = f"{word} {counts[word]}"
    return names


def report_data(document: Document) -> dict:
    """The report's data: every section with its state, every number with its source."""
    names, found, states = labels(document), [], []
    places = [("abstract", document.abstract)]
    for section in sections(document):
        places.append((names[section.label], section))
        lacks = any(isinstance(block, Missing) for block in section.blocks)
        state = ("partly" if _measured(section) else "missing") if lacks else "complete"
        states.append(
            {"section": names[section.label], "title": section.title, "state": state}
            | ({"command": section.command} if lacks else {})
        )
    for place, thing in places:
        for part in walk(thing):
            if part.trace is not None:
                row = {"where": place, "text": f"{part.text} {part.interval}".rstrip()}
                row |= {f.name: getattr(part.trace, f.name) for f in fields(Trace)}
                found.append(row)
    return {
        "title": document.title,
        "date": document.date,
        "about": "record and key (a JSON pointer) say where a value stands; how: it was derived",
        "sections": states,
        "numbers": found,
    }


def _measured(section: Section) -> bool:
    """Whether some number in it is not a quoted one."""
    traces = [part.trace for part in walk(section) if part.trace is not None]
    return any(trace.record != PUBLISHED_NAME for trace in traces)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _as_parts(value: str | Part | Parts) -> Parts:
    if isinstance(value, Part):
        return (value,)
    return value if isinstance(value, tuple) else words(value)


def _typographic(text: str) -> str:
    """Quotes, dashes and crosses of our own sentences, which are typed in ASCII."""
    text = re.sub(r"(?<=\d) x (?=\d)", " \N{MULTIPLICATION SIGN} ", text)
    text = text.replace(" -- ", " \N{EN DASH} ").replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
    text = re.sub(r'"([^"]*)"', "\N{LEFT DOUBLE QUOTATION MARK}\\1\N{RIGHT DOUBLE QUOTATION MARK}",
                  text)  # fmt: skip
    return re.sub(r"(?<=\d)-(?=\d)", "\N{EN DASH}", text)
