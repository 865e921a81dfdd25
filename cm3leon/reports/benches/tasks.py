"""Scores of tasks: a row for each task and measure, with floor, ceiling and other models."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.evaluation.measures import of_number
from cm3leon.reports import extra, remarks
from cm3leon.reports.tables import Table, number, span

ENDS = ("floor", "ceiling")


def tasks_table(record: Mapping) -> Table:
    """The table of one record; others' numbers stand beside with the paired difference."""
    beside, rows = record["protocol"]["beside"], []
    for name in record["protocol"]["tasks"]:
        own = [one for one in record["extra"] if _measure(one, name) is not None]
        rows += [_row(record, name, one, beside) for one in own]
    title = f"Tasks by {record['system']['name']}, {record['protocol']['n']:,} examples each"
    headers = ("task", "measure", *ENDS, record["system"]["name"], "95 % interval")
    return Table(
        headers=(*headers, *(f"{name} (difference)" for name in beside)),
        rows=tuple(rows),
        caption=title,
        notes=tuple(f"warning: {text}" for text in remarks(record)),
        numbers=frozenset({2, 3, 4}),
    )


def _measure(number_: str, task: str) -> str | None:
    """The measure of a task's own number: `edit.edit_exact`, not `edit.floor.edit_exact`."""
    first, _, rest = number_.partition(".")
    return rest if first == task and "." not in rest and "_minus_" not in rest else None


def _row(record: Mapping, task: str, name: str, beside) -> tuple[str, ...]:
    measure = name.partition(".")[2]
    declared = of_number(name, record["measures"])
    cells = [extra(record, f"{task}.{end}.{measure}") for end in ENDS]
    value = extra(record, name)
    others = []
    for other in beside:
        found = extra(record, f"{task}.{other}.{measure}")
        gap = extra(record, f"{task}.{measure}_minus_{other}")
        told = f"{number(found['value'])} ({gap['value']:+.3f} [{gap['low']:+.3f}, " \
               f"{gap['high']:+.3f}])" if found and gap else "-"  # fmt: skip
        others.append(told)
    return (
        task,
        declared.title if declared else measure,
        *("-" if one is None else number(one["value"]) for one in cells),
        number(value["value"]),
        span(value["value"], value["low"], value["high"]),
        *others,
    )


def outputs_table(record: Mapping) -> Table:
    """The numbers of outputs that others made, a row each; with counts and what they are beside."""
    rows = []
    for name in record["extra"]:
        declared, found = of_number(name, record["measures"]), extra(record, name)
        part = name.rpartition(".")[0]
        title = declared.title if declared else name
        shown = title if not part else f"{title}, {part.replace('_', ' ')}"
        ends = "" if found["low"] is None else span(found["value"], found["low"], found["high"])
        rows.append((shown, number(found["value"]), ends))
    return Table(
        headers=("measure", record["system"]["name"], "95 % interval"),
        rows=tuple(rows),
        caption=f"{record['protocol']['kind']} of {record['system']['name']}, n={record['n']:,}",
        notes=tuple(f"warning: {text}" for text in remarks(record)),
        numbers=frozenset({1}),
    )
