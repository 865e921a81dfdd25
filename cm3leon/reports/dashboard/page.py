"""One page of all records: python -m cm3leon.reports.dashboard.page

Writes reports/out/dashboard/index.html: newest values with their history and marks, a part for
each benchmark, the numbers quoted from papers. It needs no network and no server; its pictures,
data and script lie inside it. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from cm3leon.errors import UserError
from cm3leon.files import write_atomic
from cm3leon.reports import (
    OUT,
    PUBLISHED,
    called,
    guarded,
    own,
    read_published,
    remarks,
)
from cm3leon.reports.benches.latency import latency_plot
from cm3leon.reports.benches.retrieval import retrieval_plots
from cm3leon.reports.dashboard import inline
from cm3leon.reports.dashboard.history import (
    MARKS,
    WORSE,
    Panel,
    Run,
    Series,
    commit,
    panels_of,
    read_runs,
    series_of,
)
from cm3leon.reports.dashboard.sparkline import panel_plots, sparkline, swatch
from cm3leon.reports.details import detail_tables
from cm3leon.reports.records.store import RESULTS, device
from cm3leon.reports.tables import Table, number, span

TEMPLATES = Path(__file__).parents[1] / "templates"
QUOTED = {  # table of the paper -> benchmark
    "Table 1": "fid_coco",
    "other baselines": "fid_coco",
    "Fig. 10": "latency",
}
KNOWN = ("V", "V2")  # marks of quoted numbers that somebody read in a text
LABELS = {  # mark -> sign, label, class: never the colour alone
    "worse": ("✗", "worse", "worse"),
    "better": ("✓", "better", "better"),
    "no difference resolved": ("=", "no difference resolved", "same"),
    "first": ("·", "single run", "first"),
}
PLOTS = {  # stem of a plot -> what it shows
    "documents": "FID, and the share drawn right, against the number of retrieved documents",
    "leads": "FID of every arm as a multiple of the default's; above 1 the arm is worse",
    "latency": "seconds an image, and the share of the roofline, against the batch",
}
PLOTTERS = {"ablate_retrieval": retrieval_plots, "latency": latency_plot}  # benchmark -> its plots
MOST_PLOTS, MOST_PICTURES = 3, 4  # records of a benchmark with plots; pictures of a benchmark
MOST_ROWS = 40  # of the tables of a benchmark's first record, where they are open from the start


def page(
    runs: Sequence[Run], published: Mapping, out: Path | str = OUT, folder: Path | str = RESULTS
) -> str:
    """The whole page; links to records are written for a page in <out>/dashboard/."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = ((TEMPLATES / f"dashboard.{end}").read_text("utf-8") for end in ("css", "js"))
    return environment.get_template("dashboard.html").render(
        view(runs, published, Path(out), Path(folder)),
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script),
    )  # fmt: skip


def view(runs: Sequence[Run], published: Mapping, out: Path, folder: Path) -> dict:
    """Everything the template shows, as plain values; strings are not escaped yet."""
    measured = [run for run in runs if run.record["source"] == "measured"]
    series = series_of(measured)
    rows = {run.number: row(run, out / "dashboard", folder) for run in runs}
    lines = [overview(one, rows) for one in series]
    names = dict.fromkeys(one.newest["bench"] for one in series)
    quoted = quoted_rows(published)
    quoted += [_as_quoted(run) for run in runs if run.record["source"] != "measured"]
    elsewhere = [one for one in quoted if _bench_of(one) not in names]
    return {
        "lines": lines,
        "counts": [(LABELS[one], sum(line["mark"] == one for line in lines)) for one in MARKS],
        "worse": [line for line in lines if line["mark"] == WORSE],
        "marks": [(one, LABELS[one]) for one in MARKS],
        "label": LABELS,
        "systems": sorted({one.system for one in series}),
        "devices": sorted({device(one.newest) for one in series}),
        "days": [runs[0].record["date"][:10], runs[-1].record["date"][:10]],
        "runs": len(measured),
        "parts": [part(name, series, rows, quoted, out) for name in names],
        "quoted": quoted_tables(elsewhere),
        "data": embedded(data(series, rows)),
    }


def row(run: Run, page_folder: Path, folder: Path) -> dict:
    """A run as text cells."""
    record = run.record
    where = run.path.relative_to(folder)
    link = os.path.relpath(run.path.resolve(), page_folder.resolve()).replace(os.sep, "/")
    return {
        "number": run.number,
        "system": record["system"]["name"],
        "date": record["date"],
        "value": number(record["value"]),
        "interval": _interval(record),
        "was": f"was {number(run.before['value'])} {_interval(run.before)}" if run.before else "",
        "mark": run.mark,
        "changes": run.changes,
        "brief": brief(run),
        "note": "changed: " * bool(run.changes) + brief(run),
        "n": f"{record['n']:,}",
        "commit": commit(record),
        "full_commit": record["code"]["commit"] + (" +" if record["code"]["dirty"] else ""),
        "warnings": remarks(record),
        "link": quote(link),
        "path": f"{folder.resolve().name}/{where.as_posix()}",
    }


def brief(run: Run) -> str:
    """What changed in a few words: names of the first two changes, how many more, warnings."""
    names = [text.split(" ")[0] for text in run.changes]
    more = f" +{len(names) - 2}" if len(names) > 2 else ""
    count = len(remarks(run.record))
    warned = [f"{count} warning{'s' if count > 1 else ''}"] if count else []
    return "; ".join([", ".join(names[:2]) + more] * bool(names) + warned)


def overview(series: Series, rows: Mapping[int, dict]) -> dict:
    """A line of the overview: the newest run of a series and its history."""
    return rows[series.runs[-1].number] | {
        "series": series.runs[0].number,
        "bench": series.newest["bench"],
        "unit": series.newest["unit"],
        "better": series.newest["better"],
        "protocol": protocol(series.newest),
        "device": device(series.newest),
        "spark": sparkline(series),
        "count": len(series.runs),
    }


def part(
    name: str,
    series: Sequence[Series],
    rows: Mapping[int, dict],
    quoted: Sequence[Mapping],
    out: Path,
) -> dict:
    """A benchmark: its panels, the newest record of each series in detail, pictures, quotes."""
    mine = [one for one in series if one.newest["bench"] == name]
    details = []
    for place, one in enumerate(mine):
        plots = record_plots(one.newest) if place < MOST_PLOTS else []
        found = detail_tables(one.newest)
        short = not place and sum(len(table.rows) for table in found["tables"]) <= MOST_ROWS
        details.append(
            {"series": one.runs[0].number, "plots": plots, "short": short, **found}
            | {"title": f"{one.system}, {protocol(one.newest)['text']}, {device(one.newest)}"}
        )
    return {
        "name": name,
        "panels": [panel_view(one, rows) for one in panels_of(mine)],
        "details": details,
        "pictures": pictures(out / name / "newest"),
        "quoted": quoted_tables([one for one in quoted if _bench_of(one) == name]),
    }


def panel_view(panel: Panel, rows: Mapping[int, dict]) -> dict:
    """Runs that share axes: plots, legend, the protocol, a table with the newest run first."""
    runs = [run for one in panel.series for run in one.runs]
    record = panel.newest
    level = {run.record["interval"]["level"] for run in runs if run.record["interval"]}
    method = {run.record["interval"]["method"] for run in runs if run.record["interval"]}
    return {
        "protocol": protocol(record),
        "device": device(record),
        "unit": record["unit"],
        "better": record["better"],
        "level": ", ".join(f"{one:.0%}" for one in sorted(level)),
        "method": "; ".join(sorted(method)),
        "plots": [
            (plot, [(swatch(look), name) for look, name in enumerate(names)])
            for plot, names in panel_plots(panel)
        ],
        "settings": [(key, _json(value)) for key, value in sorted(record["protocol"].items())],
        "rows": [rows[run.number] for run in sorted(runs, key=lambda run: -run.number)],
    }


def protocol(record: Mapping) -> dict:
    """Version and protocol, short and whole."""
    short = record["protocol_digest"][:6]
    return {
        "text": f"version {record['version']}, protocol {short}",
        "version": record["version"],
        "short": short,
        "digest": record["protocol_digest"],
    }


def record_plots(record: Mapping) -> list[tuple[str, str]]:
    """(data URI, what it shows) of every plot that is drawn of a record."""
    if record["bench"] not in PLOTTERS:
        return []
    with tempfile.TemporaryDirectory() as folder:
        try:
            paths = PLOTTERS[record["bench"]](record, folder)
        except (KeyError, TypeError, ValueError):
            return []
        return [
            (inline.svg_uri(path.read_text(encoding="utf-8")), PLOTS.get(path.stem, path.stem))
            for path in paths
            if path.suffix == ".svg"
        ]


def pictures(folder: Path) -> list[tuple[str, str]]:
    """(data URI, file name) of the PNGs of a benchmark's last run here that are no plots."""
    paths = [path for path in sorted(folder.glob("*.png")) if not path.with_suffix(".svg").exists()]
    found = [(inline.picture_uri(path), path.name) for path in paths[:MOST_PICTURES]]
    return [(uri, name) for uri, name in found if uri]


def quoted_rows(published: Mapping) -> list[Mapping]:
    """Rows that somebody read in a text; UserError for a file of another form."""
    try:
        rows = [one for one in published["rows"] if one["mark"] in KNOWN]
        quoted_tables(rows)
    except (KeyError, TypeError, ValueError) as error:
        name = f"{type(error).__name__} {error}"
        raise UserError(f"the quoted numbers lack what a row needs ({name})") from None
    return rows


def quoted_tables(rows: Sequence[Mapping]) -> list[Table]:
    """Quoted numbers as one table for each table of the paper; never beside measured ones."""
    found: dict[str, list] = {}
    for one in rows:
        found.setdefault(one["table"], []).append(one)
    return [
        Table(
            headers=("model", "documents", "metric", "value", "source", "mark", "note"),
            rows=tuple(
                (
                    one["model"],
                    "-" if one["documents"] is None else str(one["documents"]),
                    one["metric"],
                    f"{one['value']:g}",
                    one["source"],
                    "quoted" if one["mark"] == "V" else "quoted second hand",
                    one["note"] or "",
                )
                for one in part
            ),
            caption=name,
            numbers=frozenset({1, 3}),
        )
        for name, part in found.items()
    ]


def data(series: Sequence[Series], rows: Mapping[int, dict]) -> dict:
    """What the page's script reads: runs by number and the series they belong to."""
    keep = ("system", "date", "value", "interval", "was", "mark", "note", "commit", "link", "path")
    found = {}
    for one in series:
        for run in one.runs:
            interval = run.record["interval"] or {}
            found[run.number] = {key: rows[run.number][key] for key in keep} | {
                "series": one.runs[0].number,
                "device": device(run.record),
                "measured": [run.record["value"], interval.get("low"), interval.get("high")],
            }
    return {"runs": dict(sorted(found.items()))}


def embedded(value) -> str:
    """JSON that may stand inside a script element: no `<`, `>` or `&` is left in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write_dashboard(
    results: Path = RESULTS, out: Path = OUT, published: Path = PUBLISHED, picture: bool = False
) -> None:
    """Write the page of all records into out/dashboard/.

    Args:
        results: folder of records
        out: folder of the reports; pictures of a benchmark are looked for in out/<bench>/
        published: the quoted numbers
        picture: take a picture of the page too (dashboard.png; needs chromium)
    """
    text = page(read_runs(results), read_published(published), out, results)
    path = write_atomic(out / "dashboard" / "index.html", text.encode("utf-8", "replace"))
    print(path)
    if picture:
        print(inline.screenshot(path, path.with_name("dashboard.png")))


def main() -> int:
    """Command line; a user's mistake ends in one line and exit code 2, no record in 3."""
    return guarded(lambda: called(write_dashboard))


def _interval(record: Mapping) -> str:
    """`[low, high]` of a record, or that it has none."""
    return span(**own(record)) or "no interval"


def _bench_of(row: Mapping) -> str | None:
    """The benchmark that measures what a quoted row tells."""
    return row.get("bench") or QUOTED.get(row["table"])


def _as_quoted(run: Run) -> dict:
    """A record that somebody quoted, as a row among the quoted ones."""
    record = run.record
    return {
        "table": f"records of {record['bench']} marked quoted", "bench": record["bench"],
        "model": record["system"]["name"], "documents": None, "metric": record["unit"],
        "value": record["value"], "source": run.path.name, "mark": "V", "note": None,
    }  # fmt: skip


def _json(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


if __name__ == "__main__":
    sys.exit(main())
