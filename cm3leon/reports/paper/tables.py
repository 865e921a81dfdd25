"""Tables of the report: each value a traced number, each protocol a panel of its own.

A table is made without its caption, which stands in the template that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from cm3leon.reports.benches import decoding, pretraining, retrieval
from cm3leon.reports.benches.equal_compute import compute_table
from cm3leon.reports.benches.latency import configurations, grouped_notes
from cm3leon.reports.benches.scaling import scaling_tables
from cm3leon.reports.benches.splits import SHARES, arms_of, choice_table, documents_of
from cm3leon.reports.paper.model import (
    Grid,
    Panel,
    Part,
    Parts,
    Row,
    code,
    lines,
    numeral,
    prose,
    words,
)
from cm3leon.reports.paper.results import (
    DASH,
    TUNED,
    ZERO_SHOT,
    Inputs,
    Model,
    Run,
    at,
    cell,
    compute,
    group_of,
    level,
    logged,
    more,
    own,
    parameters,
    quoted,
    seen,
    setting,
    value_name,
)
from cm3leon.reports.tables import SCALE, TASKS, Number, Table, documents

NOTE_MARKS = "abcdefghijklmnopqrstuvwxyz"
TASK_HEADS = {"single": "single", "two": "two", "colors": "colours", "attribution": "attribution"}
SPLIT_HEADS = {  # measure of `fid_coco` -> its column
    "fid": "FID", "fid_over_documents0": "over none", "fid_own": "own pictures",
    "overall": "composition", "position": "position", "attribution": "attribution",
    **{key: key for key in SHARES}, "entity_unseen": "never seen",
}  # fmt: skip
SPEEDS = {  # measure of `latency` -> head, places
    "seconds_per_image": ("s/image", None),
    "images_per_s": ("images/s", None),
    "decode_tokens_per_s": ("decode tokens/s", 0),
    "roofline_share": ("share", 3),
}
MEASURES = retrieval.MEASURES | retrieval.COPIES
MOST_LETTERS = 600  # of a protocol's value
FACTS = ("python", "platform", "cpu", "device", "threads")  # of an environment

Head = str | Parts


def panel(heads: Iterable[Head], rows: Iterable[Row], align: str = "", **look) -> Panel:
    """A panel of heads and rows; numbers stand right of the first column if not told otherwise."""
    heads = tuple(words(head) if isinstance(head, str) else head for head in heads)
    return Panel(heads, tuple(rows), align or "l" + "r" * (len(heads) - 1), **look)


def places(key: str) -> int:
    """Decimals of a column: shares have three, distances two."""
    return 2 if "fid" in key else 3


def table_of(table: Table, run: Run, label: str, **look) -> Grid:
    """A benchmark's own table as one of the report: its numbers get their sources."""

    def shown(text: str) -> Parts:
        if isinstance(text, Number):
            return cell(run, text.name, text.decimals)
        return DASH if text == "-" else words(text)

    kinds = {table.rule_after: "rule"} | dict.fromkeys(table.ours, "ours")
    rows = (
        Row(tuple(map(shown, row)), kinds.get(place, "plain"))
        for place, row in enumerate(table.rows)
    )
    align = "".join("r" if k in table.numbers else "l" for k in range(len(table.headers)))
    return Grid(label, (panel(table.headers, rows, align, stacked=True),), wide=True, **look)


def cells(run: Run, names: Iterable[str]) -> tuple[Parts, ...]:
    """Numbers of a run, each with the decimals of its kind."""
    return tuple(cell(run, name, places(name.rpartition(".")[2])) for name in names)


# ---------------------------------------------------------------- text to image


def fid_table(inputs: Inputs, groups: Sequence[Sequence[Run]]) -> Grid:
    """Ours, a panel a tier, above the quoted rows of the paper's Table 1 in four groups."""
    rows = [row for row in inputs.published["rows"] if row["table"] == "Table 1"]
    last, notes = quoted_panel(inputs.published, rows)
    panels = (*(measured_panel(inputs, group) for group in groups), last)
    return Grid("table-fid", panels, notes=notes, wide=True)


def measured_panel(inputs: Inputs, group: Sequence[Run]) -> Panel:
    """Systems under one protocol, best first, then what scales their value."""
    first, interval = group[0], level(group)
    heads = (
        "measured here", "parameters", "documents", "samples",
        prose("{unit} [{level}]", unit=value_name(first), level=interval), "KID (sd)",
        f"composition [{interval}]", "captions", "source",
    )  # fmt: skip
    rows = [Row(_measured(inputs, run), "ours") for run in group]
    for key, label in SCALE.items():
        if key != "ours" and (part := more(first, key)) is not None:
            kind = "rule" if len(rows) == len(group) else "plain"
            about = (part,), (), (), (at(first, "/n"),), words("measured")
            rows.append(Row((words(label), (), (), (), *about), kind))
    return panel(heads, rows)


def _measured(inputs: Inputs, run: Run) -> tuple[Parts, ...]:
    model = inputs.model(run.system)
    kid, deviation = more(run, "kid"), more(run, "kid_std")
    kid_cell = DASH if kid is None else (kid,)
    if kid is not None and deviation is not None:
        kid_cell = prose("{kid} ({sd})", kid=kid, sd=deviation)
    samples = run.record["protocol"].get("samples_per_prompt")
    return (
        words(run.system),
        (parameters(model),) if model else DASH,
        words(documents(run.record)),
        (at(run, "/protocol/samples_per_prompt"),) if isinstance(samples, int) else DASH,
        (own(run),),
        kid_cell,
        cell(run, "overall", 3),
        (at(run, "/n"),),
        words(run.record["source"]),
    )


def quoted_panel(published: Mapping, rows: Sequence[Mapping]) -> tuple[Panel, tuple[Parts, ...]]:
    """Quoted FIDs by group, each group from the worst to the best; and the notes on them."""
    heads = ("quoted", "type", "parameters", "images", "documents", "FID-30K", "source")
    kept = [row for row in rows if row["metric"] in (ZERO_SHOT, TUNED)]
    body, notes = [], Notes()
    for group in published.get("groups", ()):
        members = [row for row in kept if group_of(published, row) == group["group"]]
        if members:
            body.append(Row((words(f"({group['group']}) {group['title']}"),), "group"))
        for row in sorted(members, key=lambda one: -one["value"]):
            body.append(Row(_quoted(published, row, notes)))
    return panel(heads, body, "llrrrrr"), notes.parts()


def more_quoted_table(published: Mapping) -> Grid:
    """Quoted FIDs that are not in the paper's Table 1."""
    rows = [row for row in published["rows"] if row["table"] == "other baselines"]
    one, notes = quoted_panel(published, rows)
    return Grid("table-quoted", (one,), notes=notes, wide=True, floats=False)


def _quoted(published: Mapping, row: Mapping, notes: Notes) -> tuple[Parts, ...]:
    facts = [words(str(row[key])) if row[key] is not None else DASH
             for key in ("type", "params", "train_images", "documents")]  # fmt: skip
    name = notes.on(row["model"], row["note"])
    mark = "quoted" if row["mark"] == "V" else "quoted, second hand"
    return (name, *facts, (quoted(published, row),), words(mark))


class Notes:
    """Notes below a table, each once, with the letters that point to them."""

    def __init__(self):
        self.marks: dict[str, str] = {}

    def on(self, name: str, note: str | None) -> Parts:
        """The name with the mark of its note, if it has one."""
        if not note:
            return words(name)
        letter = NOTE_MARKS[len(self.marks) % len(NOTE_MARKS)]
        mark = self.marks.setdefault(note, letter)
        return (*words(name), *words(mark, "mark"))

    def parts(self) -> tuple[Parts, ...]:
        """The notes, in the order in which they are first pointed to."""
        return tuple(
            (*words(mark, "mark"), *words(f"\N{NO-BREAK SPACE}{note}."))
            for note, mark in self.marks.items()
        )


def splits_grid(run: Run) -> Grid:
    """Every split and number of documents of one system."""
    arms = [(split, arm) for split in run.record["protocol"]["captions"]
            for arm in arms_of(run.record, split)]  # fmt: skip
    kept = [key for key in SPLIT_HEADS if any(more(run, f"{split}.{arm}.{key}")
                                              for split, arm in arms)]  # fmt: skip
    rows = [
        Row(
            (
                words(split),
                words(documents_of(run.record, arm)),
                *cells(run, (f"{split}.{arm}.{key}" for key in kept)),
            ),
            "ours",
        )
        for split, arm in arms
    ]
    heads = ("captions", "documents", *(SPLIT_HEADS[key] for key in kept))
    made = panel(heads, rows, "ll" + "r" * len(kept), stacked=True)
    return Grid(f"table-splits-{run.system}", (made,), wide=True)


def compute_grid(run: Run) -> Grid:
    """The retrieval-augmented model against its twin without documents."""
    return table_of(compute_table(run.record), run, f"table-equal-compute-{run.system}")


def sweep_grid(run: Run, stem: str) -> Grid:
    """A table of a sweep: `laws`, or `arms`."""
    return table_of(scaling_tables(run.record)[stem], run, f"table-scaling-{stem}")


def composed(group: Sequence[Run]) -> list[Run]:
    """The runs that have any of GenEval's six scores."""
    return [run for run in group if any(more(run, key) for key in TASKS)]


def composition_table(group: Sequence[Run]) -> Grid:
    """GenEval's six scores and their mean, a row a system."""
    heads = ("system", *(TASK_HEADS.get(key, key) for key in TASKS))
    rows = [Row((words(run.system), *cells(run, TASKS)), "ours") for run in group]
    made = panel(heads, rows, "l" + "c" * len(TASKS), stacked=True)
    return Grid("table-composition", (made,), wide=True)


# ---------------------------------------------------------------- quoted, trained


def language_table(published: Mapping) -> Grid:
    """The paper's Table 2 as quoted; ours has no row before it is measured."""
    rows = [row for row in published["rows"] if row["table"] == "Table 2"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    found = {(row["model"], row["metric"]): row for row in rows}
    body, notes = [], Notes()
    for model in dict.fromkeys(row["model"] for row in rows):
        note = next(row["note"] for row in rows if row["model"] == model)
        shown = [found.get((model, metric)) for metric in metrics]
        values = ((quoted(published, row, 1),) if row else DASH for row in shown)
        body.append(Row((notes.on(model, note), *values, words("quoted"))))
    blank = (DASH,) * len(metrics)
    body.append(Row((words("ours"), *blank, words("not measured yet")), "rule"))
    heads = ("model", *(lines(*metric.split()) for metric in metrics), "source")
    return Grid("table-language", (panel(heads, body),), notes=notes.parts(), wide=True)


def latency_table(published: Mapping) -> Grid:
    """Seconds an image as the paper's Fig. 10 prints them."""
    body, notes = [], Notes()
    for row in published["rows"]:
        if row["table"] == "Fig. 10":
            name = notes.on(row["model"], row["note"])
            size = words(row["metric"].removeprefix("seconds per image at "))
            body.append(Row((name, size, (quoted(published, row, 1),), words("quoted"))))
    made = panel(("model", "side", "seconds", "source"), body)
    return Grid("table-latency", (made,), notes=notes.parts())


def models_table(inputs: Inputs) -> Grid:
    """What was trained, how long, and where the held-out loss stands."""
    heads = (
        "model", "goes on from", "parameters", "layers", "width", "steps", lines("tokens", "seen"),
        lines("FLOPs,", "all stages"), "minutes", lines("image loss,", "alone"),
        lines("with", "documents"),
    )  # fmt: skip
    rows = (Row(_model(inputs, model), "ours") for model in inputs.models)
    return Grid("table-models", (panel(heads, rows, "llrrrrrrrrr"),), wide=True)


def _model(inputs: Inputs, model: Model) -> tuple[Parts, ...]:
    alone = logged(model, "held_out_image_alone")
    with_documents = logged(model, "held_out_image") if alone else None
    alone = alone or logged(model, "held_out_image")
    return (
        words(model.name),
        words(model.start) if model.start else DASH,
        (parameters(model),),
        (setting(model, "/config/layers"),),
        (setting(model, "/config/width"),),
        (setting(model, "/extra/train/steps"),),
        (seen(model),) if model.log else DASH,
        (compute(inputs, model),) if model.log else DASH,
        (_minutes(model),),
        (alone,) if alone else DASH,
        (with_documents,) if with_documents else DASH,
    )


def _minutes(model: Model) -> Part:
    seconds = setting(model, "/extra/seconds").trace
    text = f"{seconds.value / 60:.0f}"
    return numeral(seconds.value / 60, seconds.record, seconds.key, shown=text, how="seconds / 60")


# ---------------------------------------------------------------- ablations


def documents_table(run: Run | None, published: Mapping) -> Grid:
    """Ours by number of documents on both splits, above the paper's rows."""
    rows = [row for row in published["rows"] if row["table"] == "Table 1"]
    rows = [row for row in rows if row["model"].startswith("CM3Leon-7B")]
    body = [
        Row((words(str(row["documents"])), (quoted(published, row),), words("quoted")))
        for row in sorted(rows, key=lambda one: one["documents"])
    ]
    last = panel(("documents", "CM3Leon-7B: FID-30K", "source"), body)
    return Grid("table-documents", (*([_measured_documents(run)] if run else []), last))


def _measured_documents(run: Run) -> Panel:
    splits = run.record["protocol"]["splits"]
    wanted = [("test", "fid"), ("test", "right"), ("tail", "fid"), ("tail", "entity")]
    keys = [(split, key) for split, key in wanted if split in splits]
    rows = []
    for number in range(4):
        names = [f"{split}.documents-{number}.{key}" for split, key in keys]
        if any(more(run, name) for name in names):
            rows.append(Row((words(str(number)), *cells(run, names)), "ours"))
    heads = ("documents", *(lines(f"{split}:", MEASURES[key]) for split, key in keys))
    return panel(heads, rows, stacked=True)


def arms_grid(run: Run, split: str) -> Grid:
    """Every arm of a split with its own numbers and the default's lead over it."""
    made = retrieval.arms_table(run.record, split)
    return table_of(made, run, f"table-arms-{split}", floats=False)


def pretraining_table(run: Run) -> Grid:
    """Scores of every arm, a mean over training seeds."""
    return table_of(pretraining.arms_table(run.record), run, "table-pretraining")


def pool_grid(run: Run) -> Grid:
    """FID by strategy and samples a prompt."""
    numbers = decoding.counts(run.record)
    rows = [
        Row(
            (
                words(decoding.TITLES[name]),
                *(cell(run, f"pool.{name}-n{count}.fid") for count in numbers),
                cell(run, f"pool.{name}-n{numbers[-1]}.right"),
            )
        )
        for name in decoding.STRATEGIES
    ]
    heads = ("strategy", *(f"best of {count}" for count in numbers), f"composition, {numbers[-1]}")
    return Grid("table-pool", (panel(heads, rows, stacked=True),), wide=True)


def captions_grid(run: Run) -> Grid:
    """Captions and infilled words by the chosen way of each family."""
    chosen = run.record["protocol"]["captions_chosen"]
    rows = [
        Row(
            (
                words(way.replace("_", ".")),
                *(cell(run, f"captions_test.{family}.{one}") for one in decoding.CAPTIONS),
            )
        )
        for family, way in chosen.items()
    ]
    made = panel(("way", *decoding.CAPTIONS.values()), rows, stacked=True)
    return Grid("table-captions", (made,), wide=True)


def speeds_table(run: Run, place: int) -> Grid:
    """Seconds an image, throughput and the roofline's share of every configuration timed."""
    rows = []
    for size, dtype, batch, name in configurations(run.record):
        if more(run, f"{name}.seconds_per_image") is None:
            continue
        batches = run.record["protocol"]["batches"]
        numbers = (cell(run, f"{name}.{one}", decimals) for one, (_, decimals) in SPEEDS.items())
        shown = (at(run, f"/protocol/batches/{batches.index(batch)}"),)
        rows.append(Row((words(size), words(dtype), shown, *numbers)))
    heads = ("size", "dtype", "batch", *(head for head, _ in SPEEDS.values()))
    notes = tuple(map(words, grouped_notes(run.record)))
    made = panel(heads, rows, "llrrrrr", stacked=True)
    return Grid(f"table-speeds-{place}", (made,), notes=notes, wide=True, floats=False)


# ---------------------------------------------------------------- records


def extras_table(run: Run, place: int) -> Grid:
    """Every number of a record, or the benchmark's own table where it has one."""
    label = f"table-{run.bench}-{place}"
    if run.bench == "choose_decoding":
        return table_of(choice_table(run.record), run, label, floats=False)
    rows = [Row((value_name(run), (own(run),)), "ours")]
    rows += [Row((words(name, "code"), cell(run, name))) for name in run.record["extra"]]
    made = panel(("measured here", "value"), rows)
    return Grid(label, (made,), floats=False)


def other_table(group: Sequence[Run], place: int) -> Grid:
    """FIDs by a protocol that is in no main table."""
    unit = prose("{unit} [{level}]", unit=value_name(group[0]), level=level(group))
    rows = (Row((words(run.system), (own(run),), (at(run, "/n"),)), "ours") for run in group)
    made = panel(("measured here", unit, "captions"), rows)
    return Grid(f"table-other-{place}", (made,), floats=False)


def protocol_table(group: Sequence[Run], place: int) -> Grid:
    """Everything that moves a number of a column, and how its intervals are made."""
    record = group[0].record
    rows = [Row((words(name), (code(_shown(value)),)))
            for name, value in record["protocol"].items()]  # fmt: skip
    rows.append(Row((words("unit"), words(f"{record['unit']}, {record['better']} is better"))))
    methods = {run.record["interval"]["method"] for run in group if run.record["interval"]}
    rows += [Row((words("interval"), words(text))) for text in sorted(methods)]
    made = panel(("field", "value"), rows, "ll", widths=("auto", "1fr"))
    return Grid(f"table-protocol-{place}", (made,), wide=True, floats=False)


def _shown(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[:MOST_LETTERS]} ... ({len(text):,} letters, whole in the record)"


def environments_table(inputs: Inputs) -> Grid:
    """Machines and packages, a row each."""
    found, rows = {_key(run): run.record["environment"] for run in inputs.runs}, []
    for text, name in _environments(inputs).items():
        environment = found[text]
        packages = ", ".join(" ".join(pair) for pair in environment["packages"].items())
        facts = (str(environment[field]) for field in FACTS)
        rows.append(Row(tuple(map(words, (name, *facts, packages)))))
    widths = (*["auto"] * 6, "1fr")
    made = panel(("name", *FACTS, "packages"), rows, "lllllrl", widths=widths)
    return Grid("table-environments", (made,), wide=True, floats=False)


def _environments(inputs: Inputs) -> dict[str, str]:
    """Environment as JSON -> its name, each once, in the order of the records."""
    found = dict.fromkeys(_key(run) for run in inputs.runs)
    return {text: f"E{place + 1}" for place, text in enumerate(found)}


def _key(run: Run) -> str:
    return json.dumps(run.record["environment"], sort_keys=True)


def records_table(inputs: Inputs) -> Grid:
    """Every record, newest last, and whether a newer one stands in its place."""
    names = _environments(inputs)
    kept = {run.path for bench in inputs.benches for run in inputs.of(bench)}
    rows = []
    for run in inputs.runs:
        made = run.record["code"]
        commit = made["commit"][:7] + ("" if made["dirty"] is False else "+")
        state = "used" if run.path in kept else "superseded"
        about = words(run.record["date"][:10]), (code(commit),), words(names[_key(run)])
        rows.append(Row(((code(run.path),), *about, words(state))))
    heads = ("record", "date", "commit", "environment", "state")
    made = panel(heads, rows, "lllrr", widths=("1fr", *["auto"] * 4))
    return Grid("table-records", (made,), wide=True, floats=False)
