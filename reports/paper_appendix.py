"""The appendix: more quoted rows, arms, samples, protocols, environments, every record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from reports.paper_body import sample_figure, shown_models
from reports.paper_figures import shrunk
from reports.paper_model import (
    Block,
    Grid,
    Missing,
    Panel,
    Paragraph,
    Parts,
    Picture,
    Row,
    Section,
    code,
    numeral,
    plain,
    prose,
    words,
)
from reports.paper_results import (
    TUNED,
    ZERO_SHOT,
    Inputs,
    Run,
    at,
    columns,
    headline,
    largest,
    level,
    nothing_yet,
    own,
    value_name,
)
from reports.paper_retrieval import COMMAND, arms_grid
from reports.paper_tables import quoted_panel
from reports.store import column


def appendix(inputs: Inputs) -> tuple[Section, ...]:
    """Sections A to G."""
    return (
        more_quoted(inputs),
        other_protocols(inputs),
        arms(inputs),
        more_samples(inputs),
        protocols(inputs),
        environments(inputs),
        records(inputs),
    )


def more_quoted(inputs: Inputs) -> Section:
    """Quoted FIDs that are not in the paper's Table 1."""
    rows = [row for row in inputs.published["rows"] if row["table"] == "other baselines"]
    kept = [row for row in rows if row["metric"] in (ZERO_SHOT, TUNED)]
    panel, notes = quoted_panel(inputs.published, kept)
    table = Grid(
        "table-quoted",
        prose(
            "FID-30K on MS-COCO of other systems, quoted, in the groups of [#table-fid]. Rows known "
            "from memory only are left out, as are FIDs of fewer pictures."
        ),
        (panel,),
        notes,
        wide=True,
        floats=False,
    )
    return Section("more-quoted", "More quoted numbers", (table,))


def other_protocols(inputs: Inputs) -> Section:
    """FIDs that are in no main table, a table a protocol."""
    groups = columns(inputs.of("fid_coco"))
    main = {column(group[0].record) for group in headline(groups)}
    rest = [group for group in groups if column(group[0].record) not in main]
    blocks: list[Block] = [_other_table(group, place) for place, group in enumerate(rest)]
    if not blocks:
        blocks = [Paragraph(prose("No FID was measured by another protocol than [#table-fid]."))]
    return Section("other-protocols", "FID by other protocols", tuple(blocks))


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
    """Every arm of the retrieval ablation, and the page of pictures."""
    run = largest(inputs.of("ablate_retrieval"))
    blocks: list[Block] = []
    if run is not None:
        blocks += [arms_grid(run, split) for split in run.record["protocol"]["splits"]]
        blocks += [_page(split, png) for split, png in sorted(inputs.pages.items())]
    if run is None or not inputs.pages:
        text = "The pages of pictures lie in no record: they are drawn when it runs."
        blocks.append(Missing(nothing_yet(COMMAND, text)))
    return Section("arms", "Retrieval, every arm", tuple(blocks), command=COMMAND)


def _page(split: str, png: bytes) -> Picture:
    return Picture(
        label=f"figure-page-{split}",
        caption=prose(
            "The first captions of {split}, none chosen: what was retrieved, and what was drawn "
            "with none, one and both. From the last run here of `nox -s ablate_retrieval`.",
            split=code(split),
        ),
        file=f"page-{split}.png",
        data=shrunk(png),
        alt=f"Rows of pictures for captions of {split}: documents, then drawings.",
        wide=True,
        width=0.78,
        floats=False,
    )


def more_samples(inputs: Inputs) -> Section:
    """Grids of the other models."""
    figures = [sample_figure(model, place) for place, model in enumerate(shown_models(inputs))][1:]
    command = "nox -s train_baselines"
    missing = (Missing(nothing_yet(command, "No further samples lie beside the weights.")),)
    return Section("more-samples", "More samples", tuple(figures) or missing, command=command)


def protocols(inputs: Inputs) -> Section:
    """Everything that moves a number, for each protocol of some record."""
    groups = columns(inputs.runs)
    blocks: list[Block] = [
        Paragraph(
            prose(
                "A protocol is everything that moves a number beside the system; its digest is the "
                "SHA-256 of its contents. Values stand as the records hold them."
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
    """Machines and packages, each once, with the number of records measured there."""
    found: dict[str, list[Run]] = {}
    for run in inputs.runs:
        found.setdefault(json.dumps(run.record["environment"], sort_keys=True), []).append(run)
    blocks = []
    for place, group in enumerate(found.values()):
        environment = dict(group[0].record["environment"])
        packages = environment.pop("packages")
        environment["packages"] = ", ".join(
            f"{name} {version}" for name, version in packages.items()
        )
        caption = prose("Environment {name}.", name=f"E{place + 1}")
        blocks.append(_facts_grid(f"table-environment-{place}", caption, _facts(environment)))
    return Section("environments", "Environments", tuple(blocks))


def _facts(values: Mapping) -> list[Row]:
    return [Row((words(name), words(_shown(value), "code"))) for name, value in values.items()]


def _shown(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _facts_grid(label: str, caption: Parts, rows: Sequence[Row]) -> Grid:
    panel = Panel((words("field"), words("value")), tuple(rows), "ll", widths=("auto", "1fr"))
    return Grid(label, caption, (panel,), wide=True, floats=False)


def records(inputs: Inputs) -> Section:
    """Every record, newest last, and whether a newer one stands in its place."""
    places = {}
    for run in inputs.runs:
        key = json.dumps(run.record["environment"], sort_keys=True)
        places.setdefault(key, f"E{len(places) + 1}")
    kept = {run.path for bench in {one.bench for one in inputs.runs} for run in inputs.of(bench)}
    rows = []
    for run in inputs.runs:
        record = run.record
        commit = record["code"]["commit"][:7] + ("" if record["code"]["dirty"] is False else "+")
        total = sum(record["cost"]["seconds"].values())
        seconds = numeral(
            total, run.path, "/cost/seconds", text=f"{total:,.0f}", how="sum over phases"
        )
        environment = places[json.dumps(record["environment"], sort_keys=True)]
        state = "used" if run.path in kept else "superseded"
        cells = (
            words(run.path, "code"),
            words(record["date"][:10]),
            words(commit, "code"),
            words(environment),
            (seconds,),
            words(state),
        )
        rows.append(Row(cells))
    heads = tuple(map(words, ("record", "date", "commit", "environment", "seconds", "state")))
    table = Grid(
        "table-records",
        prose(
            "Every record, oldest first. Superseded: the same system was measured later under the "
            "same protocol. A plus sign marks uncommitted changes."
        ),
        (Panel(heads, tuple(rows), "lllrrl", widths=("1fr", *["auto"] * 5)),),
        wide=True,
        floats=False,
    )
    return Section("records", "Records", (table,))
