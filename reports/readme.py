"""The README's results block, from the newest records: python -m reports.readme

No number in it is typed by hand; a test asks that the block is what the records say.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from reports import guarded, newest, read_published, write_atomic
from reports.store import NothingThere, read_all
from reports.tables import composition_table, fid_table, scale_table

README = Path(__file__).resolve().parents[1] / "README.md"
MARKS = ("<!-- results:begin -->", "<!-- results:end -->")
# Systems of the block: the first in detail, then with two, one and no documents, the small one.
SHOWN = (
    "scenes-s",
    "scenes-s-documents",
    "scenes-s-documents+documents1",
    "scenes-s-documents+documents0",
    "scenes-xs",
)


def headline(records: list[Mapping]) -> list[Mapping]:
    """The newest of the largest runs of each shown system on `scenes`, `test`."""
    kept = []
    for name in SHOWN:
        found = [
            record
            for record in records
            if record["system"]["name"] == name and "test" in record["protocol"].get("prompts", "")
        ]
        largest = max((record["n"] for record in found), default=0)
        kept += sorted(
            (record for record in found if record["n"] == largest), key=lambda one: one["date"]
        )[-1:]
    return kept


def block(records: list[Mapping]) -> str:
    """Markdown of the tables, the first system's in detail."""
    main = records[0]
    tables = [fid_table(records, read_published()), scale_table(main), composition_table(main)]
    return "\n\n".join(table.to_markdown().strip() for table in tables if table is not None)


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
    write_atomic(README, rewritten(README.read_text(encoding="utf-8"), block(records)))
    print(README)


if __name__ == "__main__":
    sys.exit(guarded(main))
