"""What a record says beside its value, as tables, whatever its benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cm3leon.evaluation.measures import HIGHER, LOWER, Measure
from cm3leon.reports import extra, main_arm
from cm3leon.reports.benches.decoding import verdicts, verdicts_table
from cm3leon.reports.benches.equal_compute import compute_table
from cm3leon.reports.benches.fid import beside_table
from cm3leon.reports.benches.latency import latency_tables
from cm3leon.reports.benches.positions import positions_table
from cm3leon.reports.benches.pretraining import pretraining_tables
from cm3leon.reports.benches.retrieval import retrieval_tables
from cm3leon.reports.benches.scaling import scaling_tables
from cm3leon.reports.benches.splits import choice_table, splits_tables
from cm3leon.reports.benches.tasks import tasks_table
from cm3leon.reports.records.store import measure_of
from cm3leon.reports.tables import Table, cell, composition_table, number, scale_table, span

ARROWS = "\u2193 lower is better, \u2191 higher is better"


def detail_tables(record: Mapping) -> dict:
    """{"tables", "missing"}: what a record says beside its value, or why that cannot be shown."""
    makers = {
        "fid_coco": lambda: [
            *splits_tables(record),
            scale_table(record),
            beside_table(record),
            *([] if main_arm(record) else [composition_table(record)]),
        ],
        "ablate_decoding": lambda: [
            *([verdicts_table(record)] if verdicts(record) else []),
            *extras_tables(record),
        ],
        "ablate_retrieval": lambda: list(retrieval_tables(record, {"rows": []}).values()),
        "ablate_pretraining": lambda: list(pretraining_tables(record).values()),
        "ablate_positions": lambda: [positions_table(record)],
        "choose_decoding": lambda: [choice_table(record)],
        "equal_compute": lambda: [compute_table(record)],
        "latency": lambda: list(latency_tables(record, {"rows": []}).values()),
        "scaling": lambda: list(scaling_tables(record).values()),
        "tasks": lambda: [tasks_table(record)],
    }
    try:
        tables = makers.get(record["bench"], lambda: extras_tables(record))()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {"tables": extras_tables(record), "missing": f"no {error} in this record"}
    return {"tables": [one for one in tables if one is not None], "missing": None}


def extras_tables(record: Mapping) -> list[Table]:
    """Every extra of a record, for a benchmark that has no table of its own: of each part the
    conditions with what most of them were measured by, then the part's other numbers one by one.
    """
    parts: dict[str, dict[str, dict[str, str]]] = {}  # part -> condition -> measure -> extra
    for name in record["extra"]:
        end = measure_of(record, name).name
        part, dot, condition = name.removesuffix(end).rstrip(".").partition(".")
        if not dot:
            part, condition = "", part
        parts.setdefault(part, {}).setdefault(condition, {})[end] = name
    whole = f"What else {record['system']['name']} was measured by"
    return [
        table
        for part, conditions in parts.items()
        for table in _part_tables(record, part or whole, conditions)
    ]


def _part_tables(
    record: Mapping, part: str, conditions: Mapping[str, Mapping[str, str]]
) -> Iterator[Table]:
    """Conditions by measures, conditions by comparisons with others, the rest one by one."""
    left = {name: end for each in conditions.values() for end, name in each.items()}
    for said, compares in ((part, False), (f"{part}: comparisons", True)):
        shared = [end for end in _shared(conditions) if _compares(end) == compares]
        if shared:
            yield _grid(record, said, conditions, shared)
            left = {name: end for name, end in left.items() if end not in shared}
    if left:
        yield _list(record, f"{part}: single numbers", [*left])


def _compares(end: str) -> bool:
    return any(word in end for word in ("_vs_", "_minus_"))


def _shared(conditions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Measures that at least half of the conditions have, and two of them."""
    counts: dict[str, int] = {}
    for each in conditions.values():
        for end in each:
            counts[end] = counts.get(end, 0) + 1
    return [end for end, count in counts.items() if count >= max(2, len(conditions) / 2)]


def _grid(
    record: Mapping, part: str, conditions: Mapping[str, Mapping[str, str]], shared: Sequence[str]
) -> Table:
    """Conditions x measures of a part, of those that have any of these measures."""
    rows = [
        (condition or "-", *(cell(record, each[end]) if end in each else "-" for end in shared))
        for condition, each in conditions.items()
        if any(end in each for end in shared)
    ]
    heads = [
        _headed(measure_of(record, next(each[end] for each in conditions.values() if end in each)))
        for end in shared
    ]
    return Table(
        headers=("condition", *heads),
        rows=tuple(rows),
        caption=part,
        notes=(ARROWS,),
        numbers=frozenset(range(1, 1 + len(shared))),
    )


def _headed(measure: Measure) -> str:
    """A measure's title with its unit and an arrow to the better side."""
    arrow = {LOWER: " \u2193", HIGHER: " \u2191"}.get(measure.better, "")
    return measure.title + (f", {measure.unit}" if measure.unit else "") + arrow


def _list(record: Mapping, part: str, names: Sequence[str]) -> Table:
    """Numbers one below the other."""
    entries = {name: extra(record, name) for name in names}
    return Table(
        headers=("number", "value", "interval", "measure"),
        rows=tuple(
            (
                name, number(one["value"]), span(one["value"], one["low"], one["high"]),
                _headed(measure_of(record, name)),
            )
            for name, one in entries.items()
        ),
        caption=part,
        notes=(ARROWS,),
        numbers=frozenset({1, 2}),
    )  # fmt: skip
