"""The appendix: more quoted rows, arms, protocols, environments, every record, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cm3leon.reports.paper.body import sample_figure, shown_models
from cm3leon.reports.paper.latency import speeds
from cm3leon.reports.paper.model import (
    Block,
    Grid,
    Panel,
    Paragraph,
    Parts,
    Picture,
    Row,
    Section,
    code,
    emph,
    not_yet,
    prose,
    words,
)
from cm3leon.reports.paper.results import (
    TUNED,
    ZERO_SHOT,
    Inputs,
    Run,
    at,
    columns,
    headline,
    largest,
    level,
    own,
    value_name,
)
from cm3leon.reports.paper.retrieval import COMMAND, arms_grid
from cm3leon.reports.paper.tables import extras_table, quoted_panel
from cm3leon.reports.records.store import column

MOST_LETTERS = 600  # of a protocol's value
SHOWN = ("fid_coco", "ablate_retrieval", "ablate_pretraining", "ablate_decoding", "latency")


def appendix(inputs: Inputs) -> tuple[Section, ...]:
    """Sections A to G, or H with speeds."""
    return (
        more_quoted(inputs),
        other_measurements(inputs),
        arms(inputs),
        *([speeds(inputs)] if inputs.of("latency") else []),
        protocols(inputs),
        environments(inputs),
        records(inputs),
        pictures(inputs),
    )


def more_quoted(inputs: Inputs) -> Section:
    """Quoted FIDs that are not in the paper's Table 1."""
    rows = [row for row in inputs.published["rows"] if row["table"] == "other baselines"]
    kept = [row for row in rows if row["metric"] in (ZERO_SHOT, TUNED)]
    panel, notes = quoted_panel(inputs.published, kept)
    table = Grid(
        "table-quoted",
        prose(
            "FID-30K on MS-COCO of other systems, quoted, in the groups of [#table-fid]. FIDs of "
            "fewer pictures are left out."
        ),
        (panel,),
        notes,
        wide=True,
        floats=False,
    )
    return Section("more-quoted", "More quoted numbers", (table,))


def other_measurements(inputs: Inputs) -> Section:
    """FIDs that are in no main table, a table a protocol; benchmarks without a section."""
    groups = columns(inputs.of("fid_coco"))
    main = {column(group[0].record) for group in headline(groups)}
    rest = [group for group in groups if column(group[0].record) not in main]
    blocks: list[Block] = [_other_table(group, place) for place, group in enumerate(rest)]
    for bench in sorted({run.bench for run in inputs.runs} - set(SHOWN)):
        blocks += [_all_numbers(run, place) for place, run in enumerate(inputs.of(bench))]
    if not blocks:
        text = "No FID was measured by another protocol than [#table-fid], no other benchmark run."
        blocks = [Paragraph(prose(text))]
    return Section("other-measurements", "Other measurements", tuple(blocks))


def _all_numbers(run: Run, place: int) -> Grid:
    caption = prose("{bench}, {name}.", bench=code(run.bench), name=emph(run.system))
    return extras_table(run, f"table-{run.bench}-{place}", caption)


def _other_table(group: Sequence[Run], place: int) -> Grid:
    first = group[0]
    heads = (words("measured here"), prose("{unit} [{level}]", unit=value_name(first),
             level=level(group)), words("captions"))  # fmt: skip
    rows = [Row((words(run.system), (own(run),), (at(run, "/n"),)), "ours") for run in group]
    caption = prose(
        "By the protocol with digest {digest} ([#protocols]).",
        digest=code(first.record["protocol_digest"][:8]),
    )
    label = f"table-other-{place}"
    return Grid(label, caption, (Panel(heads, tuple(rows), "lrr"),), floats=False)


def arms(inputs: Inputs) -> Section:
    """Every arm of the retrieval ablation on every split."""
    run = largest(inputs.of("ablate_retrieval"))
    blocks: tuple[Block, ...] = (not_yet(COMMAND, "No record of the ablation exists."),)
    if run is not None:
        blocks = tuple(arms_grid(run, split) for split in run.record["protocol"]["splits"])
    return Section("arms", "Retrieval, every arm", blocks, command=COMMAND)


def protocols(inputs: Inputs) -> Section:
    """Everything that moves a number, for each protocol of some record."""
    groups = columns(inputs.runs)
    blocks: list[Block] = [
        Paragraph(
            prose(
                "A protocol is everything that moves a number beside the system; its digest is the "
                "SHA-256 of its contents. Values stand as the records hold them; of long ones the "
                "beginning."
            )
        )
    ]
    blocks += [_protocol(group, place) for place, group in enumerate(groups)]
    return Section("protocols", "Protocols", tuple(blocks))


def _protocol(group: Sequence[Run], place: int) -> Grid:
    record = group[0].record
    rows = _facts(record["protocol"])
    rows.append(Row((words("unit"), words(f"{record['unit']}, {record['better']} is better"))))
    methods = {run.record["interval"]["method"] for run in group if run.record["interval"]}
    rows += [Row((words("interval"), words(text))) for text in sorted(methods)]
    caption = prose(
        "{bench}, version {version}, digest {digest}.",
        bench=code(record["bench"]),
        version=at(group[0], "/version"),
        digest=code(record["protocol_digest"]),
    )
    return _facts_grid(f"table-protocol-{place}", caption, rows)


def environments(inputs: Inputs) -> Section:
    """Machines and packages, a row each."""
    fields = ("python", "platform", "cpu", "device", "threads")
    rows = []
    for name, environment in _environments(inputs).items():
        packages = ", ".join(" ".join(pair) for pair in environment["packages"].items())
        facts = (str(environment[field]) for field in fields)
        rows.append(Row((words(name), *map(words, facts), words(packages))))
    heads = tuple(map(words, ("name", *fields, "packages")))
    table = Grid(
        "table-environments",
        prose("Every environment that some record was measured in."),
        (Panel(heads, tuple(rows), "lllllrl", widths=(*["auto"] * 6, "1fr")),),
        wide=True,
        floats=False,
    )
    return Section("environments", "Environments", (table,))


def _environments(inputs: Inputs) -> dict[str, Mapping]:
    """Name -> environment, each once, in the order of the records."""
    found = {_key(run): run.record["environment"] for run in inputs.runs}
    return {f"E{place + 1}": environment for place, environment in enumerate(found.values())}


def _key(run: Run) -> str:
    return json.dumps(run.record["environment"], sort_keys=True)


def _facts(values: Mapping) -> list[Row]:
    return [Row((words(name), words(_shown(value), "code"))) for name, value in values.items()]


def _shown(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[:MOST_LETTERS]} ... ({len(text):,} letters, whole in the record)"


def _facts_grid(label: str, caption: Parts, rows: Sequence[Row]) -> Grid:
    panel = Panel((words("field"), words("value")), tuple(rows), "ll", widths=("auto", "1fr"))
    return Grid(label, caption, (panel,), wide=True, floats=False)


def records(inputs: Inputs) -> Section:
    """Every record, newest last, and whether a newer one stands in its place."""
    names = {json.dumps(one, sort_keys=True): name for name, one in _environments(inputs).items()}
    kept = {run.path for bench in {one.bench for one in inputs.runs} for run in inputs.of(bench)}
    rows = [_record(run, names[_key(run)], run.path in kept) for run in inputs.runs]
    heads = tuple(map(words, ("record", "date", "commit", "environment", "state")))
    table = Grid(
        "table-records",
        prose(
            "Every record, oldest first. Superseded: the same system was measured later under the "
            "same protocol. A plus sign marks uncommitted changes."
        ),
        (Panel(heads, tuple(rows), "lllrr", widths=("1fr", *["auto"] * 4)),),
        wide=True,
        floats=False,
    )
    return Section("records", "Records", (table,))


def _record(run: Run, environment: str, used: bool) -> Row:
    record = run.record
    commit = record["code"]["commit"][:7] + ("" if record["code"]["dirty"] is False else "+")
    return Row(
        (
            words(run.path, "code"),
            words(record["date"][:10]),
            words(commit, "code"),
            words(environment),
            words("used" if used else "superseded"),
        )
    )


def pictures(inputs: Inputs) -> Section:
    """Grids of the other models, and the pages of the retrieval ablation."""
    models = shown_models(inputs)
    blocks: list[Block] = [sample_figure(models[place], place) for place in range(1, len(models))]
    blocks += [_page(split, jpeg) for split, jpeg in sorted(inputs.pages.items())]
    if not inputs.pages:
        blocks.append(not_yet(COMMAND, "Its pages of pictures lie in no record, and not here."))
    return Section("pictures", "Pictures", tuple(blocks), command=COMMAND)


def _page(split: str, jpeg: bytes) -> Picture:
    return Picture(
        label=f"figure-page-{split}",
        caption=prose(
            "The first captions of {split}, none chosen: what was retrieved, and what was drawn "
            "with none, one and both. From the last run here of `nox -s ablate_retrieval`.",
            split=code(split),
        ),
        file=f"page-{split}.jpg",
        data=jpeg,
        alt=f"Rows of pictures for captions of {split}: documents, then drawings.",
        wide=True,
        width=0.86,
        floats=False,
    )
