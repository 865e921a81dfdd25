"""Tables of the report's body: each value a traced number, each protocol a panel of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cm3leon.reports.paper.model import Grid, Panel, Part, Parts, Row, lines, numeral, prose, words
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
from cm3leon.reports.tables import SCALE, TASKS, documents

NOTE_MARKS = "abcdefghijklmnopqrstuvwxyz"
TASK_HEADS = {"single": "single", "two": "two", "colors": "colours", "attribution": "attribution"}


def fid_table(inputs: Inputs, groups: Sequence[Sequence[Run]]) -> Grid:
    """Ours, a panel a tier, above the quoted rows of the paper's Table 1 in four groups."""
    rows = [row for row in inputs.published["rows"] if row["table"] == "Table 1"]
    panel, notes = quoted_panel(inputs.published, rows)
    return Grid(
        label="table-fid",
        caption=prose(
            "Zero-shot text to image (the paper's Table 1). Above: measured here, systems in bold. "
            "Below: quoted from the paper. Pictures, features and numbers of captions differ: no "
            "number above compares with one below."
        ),
        panels=(*(measured_panel(inputs, group) for group in groups), panel),
        notes=notes,
        wide=True,
    )


def measured_panel(inputs: Inputs, group: Sequence[Run]) -> Panel:
    """Systems under one protocol, best first, then what scales their value."""
    first = group[0]
    interval = level(group)
    heads = (
        prose("measured here"),
        words("parameters"),
        words("documents"),
        words("samples"),
        prose("{unit} [{level}]", unit=value_name(first), level=interval),
        prose("KID (sd)"),
        prose("composition [{level}]", level=interval),
        words("captions"),
        words("source"),
    )
    rows = [Row(_measured(inputs, run), "ours") for run in group]
    scale = [(key, label) for key, label in SCALE.items() if key != "ours"]
    shown = [(label, part) for key, label in scale if (part := more(first, key)) is not None]
    for place, (label, part) in enumerate(shown):
        blank = [()] * 3
        cells = (words(label), *blank, (part,), (), (), (at(first, "/n"),), words("measured"))
        rows.append(Row(cells, "plain" if place else "rule"))
    return Panel(heads, tuple(rows), "lrrrrrrrr")


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
            title = prose("({letter}) {title}", letter=group["group"], title=group["title"])
            body.append(Row((title,), "group"))
        for row in sorted(members, key=lambda one: -one["value"]):
            body.append(Row(_quoted(published, row, notes)))
    return Panel(tuple(map(words, heads)), tuple(body), "llrrrrr"), notes.parts()


def _quoted(published: Mapping, row: Mapping, notes: Notes) -> tuple[Parts, ...]:
    facts = [words(str(row[key])) if row[key] is not None else DASH
             for key in ("type", "params", "train_images", "documents")]  # fmt: skip
    name = notes.on(row["model"], row["note"])
    return (name, *facts, (quoted(published, row),), words(_quoted_mark(row)))


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


def _quoted_mark(row: Mapping) -> str:
    return "quoted" if row["mark"] == "V" else "quoted, second hand"


def language_table(published: Mapping) -> Grid:
    """The paper's Table 2 as quoted; ours has no row before it is measured."""
    rows = [row for row in published["rows"] if row["table"] == "Table 2"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    found = {(row["model"], row["metric"]): row for row in rows}
    body, notes = [], Notes()
    for model in dict.fromkeys(row["model"] for row in rows):
        note = next(row["note"] for row in rows if row["model"] == model)
        cells = []
        for metric in metrics:
            row = found.get((model, metric))
            cells.append((quoted(published, row, f"{row['value']:.1f}"),) if row else DASH)
        body.append(Row((notes.on(model, note), *cells, words("quoted"))))
    blank = tuple(DASH for _ in metrics)
    body.append(Row((words("ours"), *blank, words("not measured yet")), "rule"))
    heads = [lines(*metric.split()) for metric in metrics]
    panel = Panel(
        (words("model"), *heads, words("source")), tuple(body), "l" + "r" * (len(metrics) + 1)
    )
    return Grid(
        label="table-language",
        caption=prose("Image to text (the paper's Table 2), quoted; all called zero-shot there."),
        panels=(panel,),
        notes=notes.parts(),
        wide=True,
    )


def composition_table(group: Sequence[Run]) -> Grid | None:
    """GenEval's six scores and their mean, a row a system; None if no record has any."""
    kept = [run for run in group if any(more(run, key) for key in TASKS)]
    if not kept:
        return None
    heads = ("system", *(TASK_HEADS.get(key, key) for key in TASKS))
    rows = [Row((words(run.system), *(cell(run, key, 3) for key in TASKS)), "ours") for run in kept]
    return Grid(
        label="table-composition",
        caption=prose(
            "What the captions ask for and the pictures hold: share of questions answered right, "
            "with {level} intervals over captions. Measured, {n} captions, the protocol of "
            "[#table-fid].",
            level=level(kept),
            n=at(kept[0], "/n"),
        ),
        panels=(
            Panel(tuple(map(words, heads)), tuple(rows), "l" + "c" * len(TASKS), stacked=True),
        ),
        wide=True,
    )


def models_table(inputs: Inputs) -> Grid:
    """What was trained, how long, and where the held-out loss stands."""
    heads = (
        *map(words, ("model", "goes on from", "parameters", "layers", "width", "steps")),
        lines("tokens", "seen"),
        lines("FLOPs,", "all stages"),
        words("minutes"),
        lines("image loss,", "alone"),
        lines("with", "documents"),
    )
    return Grid(
        label="table-models",
        caption=prose(
            "The shipped transformers. Tokens and minutes are of a stage alone. Losses are nats an "
            "image token on held-out pictures, without documents and with two before the caption."
        ),
        panels=(
            Panel(
                heads,
                tuple(Row(_model(inputs, model), "ours") for model in inputs.models),
                "llrrrrrrrrr",
            ),
        ),
        wide=True,
    )


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
    return numeral(seconds.value / 60, seconds.record, seconds.key, text=text, how="seconds / 60")


def latency_table(published: Mapping) -> Grid:
    """Seconds an image as the paper's Fig. 10 prints them."""
    body, notes = [], Notes()
    for row in published["rows"]:
        if row["table"] == "Fig. 10":
            name = notes.on(row["model"], row["note"])
            size = words(row["metric"].removeprefix("seconds per image at "))
            seconds = quoted(published, row, f"{row['value']:.1f}")
            body.append(Row((name, size, (seconds,), words("quoted"))))
    heads = tuple(map(words, ("model", "side", "seconds", "source")))
    return Grid(
        label="table-latency",
        caption=prose("Seconds an image (the paper's Figure 10), quoted."),
        panels=(Panel(heads, tuple(body), "lrrr"),),
        notes=notes.parts(),
    )


def extras_table(run: Run, label: str, title: Parts) -> Grid:
    """Every number of a record that has no table of its own yet."""
    rows = [Row((value_name(run), (own(run),)), "ours")]
    rows += [Row((words(name, "code"), cell(run, name))) for name in run.record["extra"]]
    panel = Panel((words("measured here"), words("value")), tuple(rows), "lr")
    return Grid(label, title, (panel,), floats=False)
