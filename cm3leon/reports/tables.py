"""Tables of results beside the paper's: terminal, Markdown, CSV, LaTeX (booktabs).

python -m cm3leon.reports.tables --bench fid_coco   newest record of every system, printed, written
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cm3leon.files import write_atomic
from cm3leon.reports import (
    OUT,
    PUBLISHED,
    called,
    extra,
    guarded,
    main_arm,
    newest,
    own,
    read_published,
)
from cm3leon.reports.records.store import RESULTS, column, read_all
from cm3leon.reports.terminal import one_line, text_of

SCALE = {  # extra of a record -> its row; `ours` is the record's own value
    "floor": "real against real (floor)",
    "rfid": "reconstructions (rFID)",
    "ours": "{name}",
    "ceiling": "noise (ceiling)",
}
TASKS = {
    "single": "single object",
    "two": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "attribution": "colour attribution",
    "overall": "overall (mean of six)",
}
NOTHING = 1e-9  # what is nearer to 0 is rounding of it
LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; `numbers` are the right-aligned columns, `ours` the rows to stand out."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    notes: tuple[str, ...] = ()
    numbers: frozenset[int] = frozenset()
    ours: frozenset[int] = frozenset()
    rule_after: int | None = None  # a line is drawn below this many rows

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"row {row!r} must have {len(self.headers)} cells, got {len(row)}")

    def to_text(self) -> str:
        """Aligned columns for a terminal, 120 wide at most; our rows begin with `>`."""
        return text_of(self)

    def to_markdown(self) -> str:
        """A GitHub table; our rows in bold, pipes and angle brackets escaped."""
        lines = [f"**{_markdown(self.caption)}**", ""]
        lines.append("| " + " | ".join(map(_markdown, self.headers)) + " |")
        marks = ("--:" if column in self.numbers else ":--" for column in range(len(self.headers)))
        lines.append("| " + " | ".join(marks) + " |")
        for index, row in enumerate(self.rows):
            cells = [_markdown(cell) for cell in row]
            if index in self.ours:
                cells = [f"**{cell}**" if cell else "" for cell in cells]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, *(f"\n{_markdown(note)}" for note in self.notes)]) + "\n"

    def to_csv(self) -> str:
        """RFC 4180; a text that a spreadsheet would run as a formula gets a leading apostrophe."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(map(_inert, self.headers))
        writer.writerows([_inert(cell) for cell in row] for row in self.rows)
        return out.getvalue()

    def to_latex(self) -> str:
        """A `table` with booktabs rules; our rows in bold, every special character escaped."""
        columns = "".join(
            "r" if column in self.numbers else "l" for column in range(len(self.headers))
        )
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{_latex(self.caption)}}}"]
        lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
        lines += [" & ".join(map(_latex, self.headers)) + " \\\\", "\\midrule"]
        for index, row in enumerate(self.rows):
            cells = [_latex(cell) for cell in row]
            if index in self.ours:
                cells = [f"\\textbf{{{cell}}}" if cell else "" for cell in cells]
            lines.append(" & ".join(cells) + " \\\\")
            if self.rule_after == index + 1 < len(self.rows):
                lines.append("\\midrule")
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"\\par\\smallskip{{\\footnotesize {_latex(note)}}}" for note in self.notes]
        return "\n".join([*lines, "\\end{table}"]) + "\n"


def fid_table(
    records: Mapping | Sequence[Mapping], published: Mapping, tables: Sequence[str] = ("Table 1",)
) -> Table:
    """Our measured rows above the quoted rows of the paper; marked, since they do not compare."""
    records = [records] if isinstance(records, Mapping) else list(records)
    if not records:
        raise ValueError("fid_table needs at least one record, got none; run the benchmark first")
    if len({column(record) for record in records}) > 1:
        raise ValueError("fid_table is of one protocol; values of several do not compare")
    records.sort(key=lambda record: record["value"])
    quoted = [row for row in published["rows"] if row["table"] in tables]
    measured = _measured_rows(records)
    unit, level = records[0]["unit"], 0.95
    level = next((record["interval"]["level"] for record in records if record["interval"]), level)
    return Table(
        headers=("model", "docs", unit, f"{level:.0%} interval", "features", "source"),
        rows=(*measured, *_quoted_rows(quoted)),
        caption=f"{unit} on captions ({records[0]['better']} is better)",
        notes=tuple(_fid_notes(records, quoted)),
        numbers=frozenset({1, 2}),
        ours=frozenset(range(len(measured))),
        rule_after=len(measured) if quoted else None,
    )


def scale_table(record: Mapping) -> Table:
    """The record's value between its floor, reconstructions and noise, by the same protocol."""
    if main_arm(record) is not None:
        return _two_scales(record)
    rows, ours = [], set()
    for key, label in SCALE.items():
        entry = own(record) if key == "ours" else extra(record, key)
        if entry is None:
            continue
        if key == "ours":
            ours.add(len(rows))
        label = label.format(name=record["system"]["name"])
        value, low, high = (entry[part] for part in ("value", "low", "high"))
        rows.append((label, number(value), span(value, low, high)))
    kid = extra(record, "kid")
    notes = ()
    if kid is not None:
        value, low, high = kid.values()
        name = record["system"]["name"]
        notes = (f"KID of {name}: {number(value)} {span(value, low, high)}".rstrip(),)
    return Table(
        headers=("pictures", record["unit"], "interval"),
        rows=tuple(rows),
        caption=f"Scale of this {record['unit']} ({features_name(record)}, n={record['n']:,})",
        notes=notes,
        numbers=frozenset({1}),
        ours=frozenset(ours),
    )


def _two_scales(record: Mapping) -> Table:
    """The same sets of pictures against other real pictures, and against the captions' own."""
    zero = {"value": 0.0, "low": None, "high": None}
    floor, name = extra(record, "floor"), record["system"]["name"]
    sets = (
        ("real pictures of the captions", floor, zero),
        ("other real pictures", zero, floor),
        *(
            (label.format(name=name), extra(record, key), extra(record, f"{key}_own"))
            for key, label in ((("fid" if key == "ours" else key), SCALE[key])
                               for key in ("rfid", "ours", "ceiling"))
        ),
    )  # fmt: skip
    split, count, real = (record["protocol"][key] for key in ("headline", "n", "real"))
    return Table(
        headers=("pictures", "against other real pictures", "against the captions' own"),
        rows=tuple((label, _scaled(one), _scaled(own)) for label, one, own in sets),
        caption=f"Scale of this {record['unit']} ({features_name(record)}, {count:,} captions of "
        f"{split}, {real:,} other pictures)",
        notes=(
            "the first column is the headline's: its floor are real pictures that were not looked "
            "at to write the reference. In the second a system is told by the captions what the "
            "reference shows, and may lie below other real pictures",
        ),
        numbers=frozenset({1, 2}),
        ours=frozenset({3}),
    )


def _scaled(entry: Mapping | None) -> str:
    if entry is None:
        return "-"
    value, low, high = (entry[part] for part in ("value", "low", "high"))
    return (
        "0, the reference" if value == 0 else f"{number(value)} {span(value, low, high)}".rstrip()
    )


def composition_table(record: Mapping) -> Table | None:
    """GenEval's six scores and their mean as shares; None if the record has none of them."""
    found = {key: extra(record, key) for key in TASKS}
    rows = [
        (TASKS[key], f"{entry['value']:.3f}", span(entry["value"], entry["low"], entry["high"], 3))
        for key, entry in found.items()
        if entry is not None
    ]
    if not rows:
        return None
    return Table(
        headers=("objects asked for are there", "share", "interval"),
        rows=tuple(rows),
        caption=f"Composition of {record['system']['name']} (higher is better)",
        numbers=frozenset({1}),
        rule_after=len(rows) - 1 if found["overall"] and len(rows) > 1 else None,
    )


def number(value: float | None) -> str:
    """Two decimals from 1 upwards, three significant digits below."""
    if value is None:
        return "-"
    places = _decimals(value)
    return f"{round(value, places) + 0.0:,.{places}f}"  # never -0.00


def span(value: float, low: float | None, high: float | None, decimals: int | None = None) -> str:
    """`[low, high]` with the decimals of the value, or nothing."""
    if low is None or high is None:
        return ""
    places = _decimals(value) if decimals is None else decimals
    return f"[{low:,.{places}f}, {high:,.{places}f}]"


class Number(str):
    """A cell that shows a number of a record: `value [low, high]`, and its name among the extras,
    by which the report finds where it came from.
    """

    name: str
    decimals: int | None


def cell(record: Mapping, key: str, decimals: int | None = None) -> str:
    """An extra of a record as a `Number`, or a dash; `decimals` of them, not those of `number`."""
    entry = extra(record, key)
    if entry is None:
        return "-"
    value, low, high = entry.values()
    shown = number(value) if decimals is None else f"{value:,.{decimals}f}"
    found = Number(f"{shown} {span(value, low, high, decimals)}".rstrip())
    found.name, found.decimals = key, decimals
    return found


def documents(record: Mapping) -> str:
    """How many documents were retrieved, as the protocol or the system's config states it."""
    for place in (record["protocol"], record["system"]["config"]):
        if isinstance(place.get("documents"), int):
            return str(place["documents"])
    return "-"


def features_name(record: Mapping) -> str:
    """Name of the feature network as the protocol states it."""
    features = record["protocol"].get("features", "unknown")
    return str(features.get("name", "unknown") if isinstance(features, Mapping) else features)


def write_all(table: Table, folder: Path | str, stem: str) -> list[Path]:
    """Write <stem>.md, .csv and .tex into the folder, each whole or not at all."""
    folder = Path(folder)
    texts = {".md": table.to_markdown(), ".csv": table.to_csv(), ".tex": table.to_latex()}
    return [write_atomic(folder / f"{stem}{ending}", text) for ending, text in texts.items()]


def print_tables(
    bench: str, results: Path = RESULTS, published: Path = PUBLISHED, out: Path = OUT
) -> None:
    """Print the newest record of every system, a table for each protocol, and write those tables.

    Args:
        bench: name of the benchmark, e.g. fid_coco
        results: folder of records
        published: the quoted numbers
        out: folder for the written tables
    """
    from cm3leon.reports.details import detail_tables

    quoted = read_published(published)
    alike: dict[tuple, list] = {}  # a column holds one version of one protocol
    for record in newest(read_all(results, bench)):
        alike.setdefault(column(record), []).append(record)
    written = []
    for (_, version, protocol), records in alike.items():
        table = fid_table(records, quoted if bench == "fid_coco" else {"rows": []})
        stem = bench if len(alike) == 1 else f"{bench}-{version}-{protocol[:6]}"
        print(f"{table.to_text()}\n")
        for record in records:
            for small in detail_tables(record)["tables"]:
                print(f"{small.to_text()}\n")
        written += write_all(table, out / bench, stem)
    print("written: " + ", ".join(map(str, written)))


def main() -> int:
    """Command line; a user's mistake ends in one line and exit code 2, no record in 3."""
    return guarded(lambda: called(print_tables))


def _measured_rows(records: Sequence[Mapping]) -> list[tuple[str, ...]]:
    rows = []
    for record in records:
        protocol = f"{features_name(record)}, n={record['n']:,}"
        value, low, high = own(record).values()
        name = record["system"]["name"]
        numbers = (documents(record), number(value), span(value, low, high))
        rows.append((name, *numbers, protocol, record["source"]))
        plain = extra(record, f"{record['protocol'].get('headline')}.plain.fid")
        if plain is not None:
            value, low, high = plain.values()
            numbers = (documents(record), number(value), span(value, low, high))
            rows.append((f"{name}, plain setting", *numbers, protocol, record["source"]))
    return rows


def _quoted_rows(rows: Sequence[Mapping]) -> list[tuple[str, ...]]:
    one_source = len({row["source"] for row in rows}) == 1
    return [
        (
            row["model"],
            _or_dash(row["documents"]),
            f"{row['value']:.2f}",
            "",
            _quoted_protocol(row),
            _source(row, one_source),
        )
        for row in rows
    ]


def _fid_notes(records: Sequence[Mapping], quoted: Sequence[Mapping]) -> list[str]:
    notes = []
    if any(main_arm(record) for record in records):
        notes.append("plain setting: guidance 1, temperature 1; else each system at its own")
    if quoted:
        sources = {row["source"] for row in quoted}
        where = f" from {sources.pop()}" if len(sources) == 1 else ""
        notes.append(f"quoted{where}: other pictures, features and n, NOT comparable with measured")
    if any((row["note"] or "").startswith("best of 8") for row in quoted):
        notes.append("quoted CM3Leon rows: the best of 8 samples a caption")
    notes += [
        f"{row['model']} {row['value']:.2f}: {row['note']}" for row in quoted if _disputed(row)
    ]
    said = {text for record in records for text in record["warnings"]}
    return notes + sorted(f"warning: {text}" for text in said)


def _decimals(value: float) -> int:
    size = abs(value)
    if size < NOTHING or size >= 1:
        return 2
    return 2 - math.floor(math.log10(size))


def _or_dash(value) -> str:
    return "-" if value is None else str(value)


def _quoted_protocol(row: Mapping) -> str:
    for mark, count in (("FID-30K", "30k"), ("FID-10K", "10k")):
        if mark in row["metric"]:
            return f"Inception, n={count}"
    return row["metric"]


def _source(row: Mapping, one_source: bool) -> str:
    mark = "quoted" if row["mark"] == "V" else "quoted second hand"
    return mark if one_source else f"{mark}: {row['source']}"


def _disputed(row: Mapping) -> bool:
    return (row["note"] or "").startswith("conflict")


def _markdown(cell: str) -> str:
    cell = one_line(cell).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", cell)


def _inert(cell: str) -> str:
    if cell[:1] not in ("=", "+", "-", "@", "\t", "\r"):
        return one_line(cell)
    plain_number = re.fullmatch(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?", cell)
    return cell if plain_number or cell == "-" else f"'{one_line(cell)}"


def _latex(cell: str) -> str:
    return "".join(LATEX.get(char, char) for char in one_line(cell))


if __name__ == "__main__":
    sys.exit(main())
