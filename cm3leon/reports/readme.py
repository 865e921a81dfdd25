"""The numbers of README and docs/, from the records that speak: python -m cm3leon.reports.readme

Blocks of tables between `<!-- NAME:begin -->` and `<!-- NAME:end -->` (`BLOCKS`), and in the prose
what stands between `<!-- number:NAME -->` and `<!-- end -->` (`NUMBERS`). No such number is typed
by hand; a test asks that all are what the records say.
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
from cm3leon.reports.benches.positions import positions_table
from cm3leon.reports.benches.scaling import scaling_tables
from cm3leon.reports.benches.splits import arms_of, documents_of, splits_table
from cm3leon.reports.benches.tasks import tasks_table
from cm3leon.reports.records.store import (
    NothingThere,
    column,
    largest_n,
    ranked,
    read_all,
    speaking,
    weight,
)
from cm3leon.reports.tables import Table, cell, composition_table, fid_table, scale_table
from cm3leon.reports.tables import number as number_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "commands.md",
    ROOT / "docs" / "tasks.md",
)
MARKED = re.compile(r"(<!-- (\w+):begin -->\n)(.*?)(<!-- \2:end -->)", re.DOTALL)
MEASURED = 2  # version of fid_coco that the code measures; a test holds it against the benchmark
# Systems of the block: the first that has a record in detail, then the others.
SHOWN = (
    "scenes-s",
    "scenes-s-plain",
    "scenes-s-2250",
    "scenes-xs",
)


NUMBER = re.compile(r"(<!-- number:([\w.-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)
FID = ("fid_coco", "scenes-s")
TASKS_OF = ("tasks", "scenes-s-tuned")
DECODING = ("ablate_decoding", "scenes-s")
LATENCY = ("latency", "cm3leon")
RATIO = "{value:.2f} [{low:.2f}, {high:.2f}]"
MORE = "{value:+.2f} [{low:+.2f}, {high:+.2f}]"
NATS = "{value:+.3f} [{low:+.3f}, {high:+.3f}]"
LADDER = ("scaling", "ladder-small")
NUMBERS = {  # name in the README -> bench, system, extra (or value), how it is written
    "entity-unseen": (*FID, "tail.documents2.entity_unseen", "{value:.3f}"),
    "entity-unseen-one": (*FID, "tail.documents1.entity_unseen", "{value:.3f}"),
    "entity-unseen-none": (*FID, "tail.documents0.entity_unseen", "{value:.3f}"),
    "tail-fid-ratio": (*FID, "tail.documents2.fid_over_documents0", RATIO),
    "test-fid-ratio": (*FID, "test.documents2.fid_over_documents0", RATIO),
    "natural-fid-ratio": (*FID, "natural.documents2.fid_over_documents0", RATIO),
    "test-overall": (*FID, "test.documents2.overall", "{value:.2f}"),
    **{
        f"{kind}-{split}-{key}": ("equal_compute", system, f"{kind}.{split}.{measure}", form)
        for kind, system in (("queries", "scenes-s"), ("flops", "scenes-s-2250"))
        for split in ("natural", "tail")
        for key, measure, form in (("fid", "fid_ratio", RATIO), ("all", "overall", MORE))
    },
    **{
        f"ladder-{meeting}-{key}": (*LADDER, f"equal_{meeting}.all.{measure}_minus_plain", NATS)
        for meeting in ("flops", "queries")
        for key, measure in (("val", "held_out_image"), ("tail", "held_out_tail_image"))
    },
    "ladder-gamma": (*LADDER, "plain.loss_exponent", RATIO),
    "ladder-gamma-documents": (*LADDER, "documents.loss_exponent", RATIO),
    "best-weight": (*DECODING, "guidance.scenes-s.best_weight", "{value:g}"),
    "best-weight-xs": (*DECODING, "guidance.scenes-xs.best_weight", "{value:g}"),
    "mixed-gain": (*DECODING, "pool.mixed.gain", RATIO),
    "cd-k-gain": (*DECODING, "pool.cd-k.gain", RATIO),
    "cd-k-of-top-p": (*DECODING, "pool.cd-k-n32.fid_vs_top-p", RATIO),
    "mutants": ("mutants", "tests", "value", "{value:.0%} [{low:.0%}, {high:.0%}]"),
    "mutants-n": ("mutants", "tests", "value", "{n}"),
    "faults": ("faults", "cm3leon", "value", "{value:g}"),
    "faults-n": ("faults", "cm3leon", "value", "{n}"),
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


def block(records: Sequence[Mapping], twins: Sequence[Mapping] = ()) -> str:
    """Markdown of the tables, the first system's in detail; `twins` are records of comparisons at
    equal compute.
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
    tables += map(compute_table, twins)
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


def short_block(record: Mapping) -> str:
    """Markdown of the README's one table: each split, with each number of documents."""
    keys = {"overall": "all six", "position": "position", "attribution": "attribution"}
    shares = {**keys, "entity": "entities"}
    rows = [
        (
            split,
            documents_of(record, arm),
            cell(record, f"{split}.{arm}.fid"),
            *(share(record, f"{split}.{arm}.{key}") for key in shares),
        )
        for split in record["protocol"]["captions"]
        for arm in arms_of(record, split)
    ]
    floors = ", ".join(
        f"{split} {number_of(extra(record, f'{split}.floor')['value'])}"
        for split in record["protocol"]["captions"]
    )
    note = (
        f"FID by the embedded world's own network, never comparable with an Inception FID; real "
        f"pictures stand at {floors}. plain: guidance 1, temperature 1. Shares of captions whose "
        "picture holds what they ask for. 95% intervals over captions"
    )
    heads = ("captions", "documents", record["unit"], *shares.values())
    caption = f"{record['system']['name']} on captions it has never seen"
    return Table(
        heads, tuple(rows), caption, (note,), numbers=frozenset(range(1, len(heads)))
    ).to_markdown()


def tasks_block(records: Sequence[Mapping]) -> str:
    """Markdown of the run of `tasks` that speaks for the shipped tuned model."""
    ours = [one for one in records if (one["bench"], one["system"]["name"]) == TASKS_OF]
    if not ours:
        raise NothingThere(f"no record of {'/'.join(TASKS_OF)}; run nox -s tasks")
    return tasks_table(ranked(ours)[-1]).to_markdown()


def positions_block(records: Sequence[Mapping]) -> str:
    """Markdown of the run of `ablate_positions` that speaks."""
    return positions_table(speaks(records, "ablate_positions")).to_markdown()


def scaling_block(records: Sequence[Mapping]) -> str:
    """Markdown of the sweep that speaks: what documents change, and the laws."""
    tables = scaling_tables(speaks(records, "scaling"))
    shown = [tables[stem].to_markdown().strip() for stem in ("arms", "laws") if stem in tables]
    return "\n\n".join(shown)


def speaks(records: Sequence[Mapping], bench: str) -> Mapping:
    """The run of a benchmark that speaks; NothingThere where there is none."""
    ours = [one for one in speaking(records) if one["bench"] == bench]
    if not ours:
        raise NothingThere(f"no record of {bench}; run nox -s {bench}")
    return ranked(ours)[-1]


def share(record: Mapping, key: str) -> str:
    """A share with two decimals; a dash where the record has none."""
    entry = extra(record, key)
    return "-" if entry is None else f"{entry['value']:.2f}"


def page(text: str, records: Sequence[Mapping]) -> str:
    """A page as these records make it: its blocks, and the numbers of its prose.

    NothingThere where no system shown has a record, or none has a number.
    """
    shown = headline(newest([one for one in records if one["bench"] == "fid_coco"]))
    if not shown:
        raise NothingThere("no record of the systems shown in results/; run nox -s fid_coco")
    twins = [one for one in speaking(records) if one["bench"] == "equal_compute"]

    blocks = {
        "short": lambda: short_block(shown[0]),
        "results": lambda: block(shown, twins),
        "tasks": lambda: tasks_block(records),
        "positions": lambda: positions_block(records),
        "scaling": lambda: scaling_block(records),
    }

    def made(found: re.Match) -> str:
        if found[2] not in blocks:
            raise UserError(f"no block {found[2]!r} to write; known are {', '.join(blocks)}")
        return blocks[found[2]]()

    text = MARKED.sub(lambda one: f"{one[1]}{made(one).strip()}\n{one[4]}", text)
    return NUMBER.sub(lambda one: f"{one[1]}{number(one[2], records)}{one[4]}", text)


def main() -> None:
    """Rewrite the numbers."""
    records = read_all()
    made = {path: page(path.read_text(encoding="utf-8"), records) for path in PAGES}
    for path, text in made.items():
        write_atomic(path, text)
        print(path)


if __name__ == "__main__":
    sys.exit(guarded(lambda: called(main)))
