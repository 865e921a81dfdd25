"""The README's numbers, from the records that speak: python -m cm3leon.reports.readme

The block of tables, and in the prose what stands between `<!-- number:NAME -->` and `<!-- end -->`
(`NUMBERS`). No such number is typed by hand; a test asks that all are what the records say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.files import write_atomic
from cm3leon.reports import (
    called,
    extra,
    guarded,
    leading,
    main_arm,
    newest,
    own,
    read_published,
)
from cm3leon.reports.benches.equal_compute import compute_table
from cm3leon.reports.benches.splits import splits_table
from cm3leon.reports.records.store import (
    NothingThere,
    column,
    largest_n,
    ranked,
    read_all,
    speaking,
    weight,
)
from cm3leon.reports.tables import composition_table, fid_table, scale_table

README = Path(__file__).resolve().parents[2] / "README.md"
MARKS = ("<!-- results:begin -->", "<!-- results:end -->")
MEASURED = 2  # version of fid_coco that the code measures; a test holds it against the benchmark
# Systems of the block: the first that has a record in detail, then the others.
SHOWN = (
    "scenes-s",
    "scenes-s+documents1",
    "scenes-s+documents0",
    "scenes-s-plain",
    "scenes-s-plain+flops",
    "scenes-xs",
)


NUMBER = re.compile(r"(<!-- number:([\w.-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)
RETRIEVAL = ("ablate_retrieval", "scenes-s")
DECODING = ("ablate_decoding", "scenes-s")
LATENCY = ("latency", "cm3leon")
RATIO = "{value:.2f} [{low:.2f}, {high:.2f}]"
NUMBERS = {  # name in the README -> bench, system, extra (or value), how it is written
    "entity-unseen": (*RETRIEVAL, "tail.documents-2.entity_unseen", "{value:.3f}"),
    "entity-unseen-without": (*RETRIEVAL, "tail.documents-0.entity_unseen", "{value:.3f}"),
    "tail-fid-gain": (*RETRIEVAL, "tail.documents-2.fid_vs_documents-0", RATIO),
    "test-fid-gain": (*RETRIEVAL, "test.documents-2.fid_vs_documents-0", RATIO),
    "best-weight": (*DECODING, "guidance.scenes-s.best_weight", "{value:g}"),
    "best-weight-xs": (*DECODING, "guidance.scenes-xs.best_weight", "{value:g}"),
    "mixed-gain": (*DECODING, "pool.mixed.gain", RATIO),
    "cd-k-gain": (*DECODING, "pool.cd-k.gain", RATIO),
    "cd-k-of-top-p": (*DECODING, "pool.cd-k-n32.fid_vs_top-p", RATIO),
    "mutants": ("mutants", "tests", "value", "{value:.0%} [{low:.0%}, {high:.0%}]"),
    "mutants-n": ("mutants", "tests", "value", "{n}"),
    **{
        f"latency-{kind}-{batch}": (
            *LATENCY, f"12x512x8.{kind}.b{batch}.gain_over_hf", "{value:.1f}",
        )
        for kind in ("float32", "bfloat16")
        for batch in (1, 8, 32)
    },
}  # fmt: skip


def headline(records: Sequence[Mapping]) -> list[Mapping]:
    """The runs that speak for each shown system on the embedded world, by one protocol: that of the
    first system's newest of those that come last by `store.weight`.
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
    most = largest_n(found)
    best = max(weight(record, most)[:4] for record in found)
    found = [record for record in found if weight(record, most)[:4] == best]
    first = min((one["system"]["name"] for one in found), key=SHOWN.index)
    main = [one for one in found if one["system"]["name"] == first][-1]
    kept = {one["system"]["name"]: one for one in found if column(one) == column(main)}
    return [kept[name] for name in SHOWN if name in kept]


def block(records: Sequence[Mapping], twins: Mapping | None = None) -> str:
    """Markdown of the tables, the first system's in detail; `twins` is the record of the newest
    comparison at equal compute.
    """
    main = records[0]
    head = f"`fid_coco`, version {main['version']}."
    if main["version"] < MEASURED:
        head = (
            f"`fid_coco`, version {main['version']}; the code measures version {MEASURED} "
            "([docs/design.md](docs/design.md)), of which no record stands here yet."
        )
    tables = [fid_table(records, read_published()), splits_table(main), scale_table(main)]
    if main_arm(main) is None:
        tables.append(composition_table(main))
    if twins is not None:
        tables.append(compute_table(twins))
    shown = [table.to_markdown().strip() for table in tables if table is not None]
    return "\n\n".join([head, *shown])


def number(name: str, records: Sequence[Mapping]) -> str:
    """A number of the prose, as the record says that speaks for its benchmark and system.

    Raises NothingThere where none of the records has it, UserError for an unknown name.
    """
    if name not in NUMBERS:
        raise UserError(f"README: no number {name!r}; known are {', '.join(NUMBERS)}")
    bench, system, key, form = NUMBERS[name]
    for one in speaking(records):
        if (one["bench"], one["system"]["name"]) == (bench, system):
            entry = own(one) if key == "value" else extra(one, key)
            if entry is not None:
                return form.format(**entry, n=one["n"])
    raise NothingThere(f"no record of {bench}/{system} has {key}; run nox -s {bench}")


def rewritten(text: str, inner: str, records: Sequence[Mapping] = ()) -> str:
    """The README with what stands between the marks replaced, and the prose's numbers."""
    before, rest = text.split(MARKS[0], 1)
    after = rest.split(MARKS[1], 1)[1]
    whole = f"{before}{MARKS[0]}\n{inner}\n{MARKS[1]}{after}"
    return NUMBER.sub(lambda one: f"{one[1]}{number(one[2], records)}{one[4]}", whole)


def page(text: str, records: Sequence[Mapping]) -> str:
    """The README as these records make it; NothingThere where no system shown has one."""
    shown = headline(newest([one for one in records if one["bench"] == "fid_coco"]))
    if not shown:
        raise NothingThere("no record of the systems shown in results/; run nox -s fid_coco")
    twins = [one for one in speaking(records) if one["bench"] == "equal_compute"]
    return rewritten(text, block(shown, ranked(twins)[-1] if twins else None), records)


def main() -> None:
    """Rewrite the numbers."""
    write_atomic(README, page(README.read_text(encoding="utf-8"), read_all()))
    print(README)


if __name__ == "__main__":
    sys.exit(guarded(lambda: called(main)))
