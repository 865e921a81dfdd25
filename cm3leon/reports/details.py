"""What a record says beside its value, as tables, whatever its benchmark."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports import extra, main_arm
from cm3leon.reports.benches.latency import latency_tables
from cm3leon.reports.benches.pretraining import pretraining_tables
from cm3leon.reports.benches.retrieval import retrieval_tables
from cm3leon.reports.benches.splits import splits_table
from cm3leon.reports.tables import Table, composition_table, number, scale_table, span


def detail_tables(record: Mapping) -> dict:
    """{"tables", "missing"}: what a record says beside its value, or why that cannot be shown."""
    makers = {
        "fid_coco": lambda: [
            splits_table(record),
            scale_table(record),
            *([] if main_arm(record) else [composition_table(record)]),
        ],
        "ablate_retrieval": lambda: list(retrieval_tables(record, {"rows": []}).values()),
        "ablate_pretraining": lambda: list(pretraining_tables(record).values()),
        "latency": lambda: list(latency_tables(record, {"rows": []}).values()),
    }
    try:
        tables = makers.get(record["bench"], lambda: [extras_table(record)])()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {"tables": [extras_table(record)], "missing": f"no {error} in this record"}
    return {"tables": [one for one in tables if one is not None], "missing": None}


def extras_table(record: Mapping) -> Table:
    """Every extra of a record, for a benchmark that has no table of its own."""
    entries = {name: extra(record, name) for name in sorted(record["extra"])}
    return Table(
        headers=("measure", "value", "interval"),
        rows=tuple(
            (name, number(one["value"]), span(one["value"], one["low"], one["high"]))
            for name, one in entries.items()
        ),
        caption=f"What else {record['system']['name']} was measured by",
        numbers=frozenset({1, 2}),
    )
