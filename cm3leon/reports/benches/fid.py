"""The numbers beside a pinned FID as a table, and a line on each that was not measured."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.evaluation.measures import NONE
from cm3leon.reports import extra, remarks
from cm3leon.reports.records.store import measure_of
from cm3leon.reports.tables import Table, number, span


def beside_table(record: Mapping) -> Table | None:
    """One row a number that tells the system's worth; None for a record of no pinned protocol."""
    if "protocol" not in record["protocol"]:
        return None
    worth = [name for name in record["extra"] if measure_of(record, name).better != NONE]
    return Table(
        headers=("beside the FID", "value", "interval", "better"),
        rows=tuple(_row(record, name) for name in worth),
        caption=f"Further numbers of {record['system']['name']} (n={record['n']:,})",
        notes=(*networks(record), *remarks(record)[len(record["warnings"]) :]),
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
