"""The README's results block, from the newest records: python -m cm3leon.reports.readme

No number in it is typed by hand; a test asks that the block is what the records say.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cm3leon.files import write_atomic
from cm3leon.reports import called, guarded, leading, main_arm, newest, read_published
from cm3leon.reports.benches.equal_compute import compute_table
from cm3leon.reports.benches.splits import splits_table
from cm3leon.reports.records.store import NothingThere, column, read_all
from cm3leon.reports.tables import composition_table, fid_table, scale_table

README = Path(__file__).resolve().parents[2] / "README.md"
MARKS = ("<!-- results:begin -->", "<!-- results:end -->")
# Systems of the block: the first that has a record in detail, then the others.
SHOWN = (
    "scenes-s",
    "scenes-s-plain",
    "scenes-s-plain+flops",
    "scenes-s-documents",
    "scenes-s-documents+documents1",
    "scenes-s-documents+documents0",
    "scenes-xs",
)


def headline(records: Sequence[Mapping]) -> list[Mapping]:
    """The newest of the largest runs of each shown system on the embedded world, by one protocol:
    of the highest version, and of several the one of the first system's newest run.
    """
    found = [
        record
        for record in sorted(records, key=lambda one: one["date"])
        if record["system"]["name"] in SHOWN
        and record["protocol"].get("data") == "scenes"
        and leading(record["protocol"])
    ]
    if not found:
        return []
    best = max((record["n"], record["version"]) for record in found)
    found = [record for record in found if (record["n"], record["version"]) == best]
    first = min((one["system"]["name"] for one in found), key=SHOWN.index)
    main = [one for one in found if one["system"]["name"] == first][-1]
    kept = {one["system"]["name"]: one for one in found if column(one) == column(main)}
    return [kept[name] for name in SHOWN if name in kept]


def block(records: Sequence[Mapping], twins: Mapping | None = None) -> str:
    """Markdown of the tables, the first system's in detail; `twins` is the record of the newest
    comparison at equal compute.
    """
    main = records[0]
    tables = [fid_table(records, read_published()), splits_table(main), scale_table(main)]
    if main_arm(main) is None:
        tables.append(composition_table(main))
    if twins is not None:
        tables.append(compute_table(twins))
    return "\n\n".join(table.to_markdown().strip() for table in tables if table is not None)


def newest_of(bench: str) -> Mapping | None:
    """The last record of a benchmark, None where there is none."""
    try:
        return read_all(bench=bench)[-1]
    except NothingThere:
        return None


def rewritten(text: str, inner: str) -> str:
    """The README with what stands between the marks replaced."""
    before, rest = text.split(MARKS[0], 1)
    after = rest.split(MARKS[1], 1)[1]
    return f"{before}{MARKS[0]}\n{inner}\n{MARKS[1]}{after}"


def main() -> None:
    """Rewrite the block."""
    records = headline(newest(read_all(bench="fid_coco")))
    if not records:
        raise NothingThere("no record of the systems shown in results/; run nox -s fid_coco")
    inner = block(records, newest_of("equal_compute"))
    write_atomic(README, rewritten(README.read_text(encoding="utf-8"), inner))
    print(README)


if __name__ == "__main__":
    sys.exit(guarded(lambda: called(main)))
