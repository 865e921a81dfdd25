"""The report's sections in order, and what their templates may call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cm3leon.reports import remarks
from cm3leon.reports.paper import pictures, tables
from cm3leon.reports.paper.claims import UNKNOWN, Finding, claims_tables, tally
from cm3leon.reports.paper.model import Part, Parts, Section, count
from cm3leon.reports.paper.results import (
    Inputs,
    Run,
    at,
    columns,
    headline,
    largest,
    level,
    more,
    own,
    parameters,
    setting,
    value_name,
)
from cm3leon.reports.paper.text import paragraph, section
from cm3leon.reports.records.store import column, device
from cm3leon.reports.verdicts import FAILS, HOLDS, LEAST, OPEN, UNMEASURABLE

BODY = (
    "introduction", "method", "protocol", "results", "text-to-image", "image-to-text",
    "composition", "compute", "scaling", "training", "decoding", "latency", "retrieval",
    "pretraining", "claims", "limits",
)  # fmt: skip
APPENDIX = (
    "more-quoted", "other-measurements", "arms", "speeds", "protocols", "environments", "records",
    "pictures",
)  # fmt: skip
AGAINST_NONE = (  # measure, value of no effect, what stands before the number
    ("fid", 1.0, "FID without them over FID with them is"),
    ("right", 0.0, "composition changes by"),
    ("entity", 0.0, "the entity is drawn right more often by"),
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TABLED = (
    "scaling",
    "fid_coco",
    "ablate_retrieval",
    "ablate_pretraining",
    "ablate_decoding",
    "latency",
)
MOST_WARNINGS = 2  # of a record in words


def written(
    inputs: Inputs, found: Sequence[Finding]
) -> tuple[Parts, tuple[Section, ...], tuple[Section, ...]]:
    """Abstract, sections of the body, sections of the appendix."""
    context = context_of(inputs, found)
    body, appendix = (
        tuple(one for name in names if (one := section(name, context)))
        for names in (BODY, APPENDIX)
    )
    return paragraph("abstract", context), body, appendix


def context_of(inputs: Inputs, found: Sequence[Finding] = ()) -> dict:
    """What a template may name; `counted(verdict)`: how many statements have it."""
    counts = tally(found)

    def counted(verdict: str) -> Part:
        return count(counts[verdict], "results", f"statements: {verdict}")

    return CONTEXT | {"inputs": inputs, "findings": found, "counted": counted}


def spelled(value: int) -> str:
    """A small number as a word."""
    return NUMBERS[value] if value < len(NUMBERS) else f"{value}"


def leaning(part: Part, neutral: float) -> str:
    """Which side of no effect a whole interval lies on, in words."""
    low, high = part.trace.low, part.trace.high
    if low is None or high is None:
        return "without an interval"
    if low > neutral:
        return "in favour of documents"
    return "against them" if high < neutral else "not resolved"


def other_columns(inputs: Inputs) -> list[list[Run]]:
    """Runs of `fid_coco` that no main table holds, by protocol."""
    groups = columns(inputs.of("fid_coco"))
    main = {column(group[0].record) for group in headline(groups)}
    return [group for group in groups if column(group[0].record) not in main]


def other_runs(inputs: Inputs) -> list[tuple[Run, int]]:
    """Runs of benchmarks without a section, each with its place among those of the benchmark."""
    benches = sorted(set(inputs.benches) - set(TABLED))
    return [(run, place) for bench in benches for place, run in enumerate(inputs.of(bench))]


def devices(runs: Sequence[Run]) -> list[str]:
    """Names of what the records were measured on."""
    return sorted({device(run.record) for run in runs})


def disputed(rows: Sequence[Mapping]) -> int:
    """Of how many quoted numbers sources contradict one another."""
    return sum((row["note"] or "").startswith("conflict") for row in rows)


def warned(runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    """Records with warnings that no record before them has, the first of these in words."""
    seen: set[str] = set()
    for run in runs:
        new = [text for text in dict.fromkeys(remarks(run.record)) if text not in seen]
        seen.update(new)
        if new:
            said = "; ".join(text.rstrip(".") for text in new[:MOST_WARNINGS])
            rest = len(new) - MOST_WARNINGS
            yield run, said + (f"; and {rest} more" if rest > 0 else "")


CALLED = (  # what templates may call beside `tables` and `pictures`
    at, claims_tables, columns, count, device, devices, disputed, headline, largest, leaning, level,
    more, other_columns, other_runs, own, parameters, setting, spelled, value_name, warned,
)  # fmt: skip
CONTEXT = {one.__name__: one for one in CALLED} | {
    "tables": tables, "pictures": pictures, "AGAINST_NONE": AGAINST_NONE, "LEAST": f"{LEAST}",
    "HOLDS": HOLDS, "FAILS": FAILS, "OPEN": OPEN, "UNMEASURABLE": UNMEASURABLE, "UNKNOWN": UNKNOWN,
}  # fmt: skip
