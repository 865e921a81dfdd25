"""The numbers beside an FID as a table, and a line on each that was not measured."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.evaluation.measures import NONE
from cm3leon.reports import extra, main_arm, remarks
from cm3leon.reports.benches.splits import NAMES
from cm3leon.reports.records.store import measure_of
from cm3leon.reports.tables import TASKS, Table, number, span

ELSEWHERE = {"fid", "fid_own", "fid_over_documents0", "kid", *TASKS, *NAMES}  # in the splits' table


def beside_table(record: Mapping) -> Table | None:
    """One row a number that tells the system's worth and stands in no other table, and what is
    missing; of the embedded world that of the headline's arm. None for records of version 1 of it,
    and for those that have nothing more to tell.
    """
    arm = main_arm(record)
    if arm is None and record["protocol"].get("data") != "coco":
        return None
    start = "" if arm is None else f"{arm}."
    worth = [
        name
        for name in record["extra"]
        if name.startswith(start)
        and measure_of(record, name).better != NONE
        and not (arm and name.removeprefix(start) in ELSEWHERE)
    ]
    notes = (*networks(record), *remarks(record)[len(record["warnings"]) :])
    if not worth and not notes:
        return None
    return Table(
        headers=("beside the FID", "value", "interval", "better"),
        rows=tuple(_row(record, name) for name in worth),
        caption=f"Further numbers of {record['system']['name']} (n={record['n']:,})",
        notes=notes,
        numbers=frozenset({1}),
    )


def networks(record: Mapping) -> list[str]:
    """A line on each measure that has a network of its own."""
    measures = record["measures"].values()
    return [f"{one['title']} by {one['by']}" for one in measures if "by" in one]


def _row(record: Mapping, name: str) -> tuple[str, ...]:
    value, low, high = (extra(record, name)[part] for part in ("value", "low", "high"))
    measure = measure_of(record, name)
    return measure.title, number(value), span(value, low, high), measure.better
