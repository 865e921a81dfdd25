"""Sections about retrieval (ablate_retrieval) and about pretraining (ablate_pretraining)."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports.benches import pretraining, retrieval
from cm3leon.reports.paper.figures import COLUMN, PAGE, svg
from cm3leon.reports.paper.model import (
    Block,
    Grid,
    Panel,
    Paragraph,
    Part,
    Parts,
    Picture,
    Row,
    Section,
    emph,
    lines,
    not_yet,
    plain,
    prose,
    words,
)
from cm3leon.reports.paper.results import Inputs, Run, at, cell, largest, level, more, quoted

COMMAND = "nox -s ablate_retrieval"
AGAINST_NONE = (  # measure, value of no effect, what stands before the number
    ("fid", 1.0, "FID without them over FID with them is"),
    ("right", 0.0, "composition changes by"),
    ("entity", 0.0, "the entity is drawn right more often by"),
)
MEASURES = retrieval.MEASURES | retrieval.COPIES


def retrieval_section(inputs: Inputs) -> Section:
    """Table with 0 to 3 documents, plots, and what the numbers say."""
    run = largest(inputs.of("ablate_retrieval"))
    if run is None:
        missing = not_yet(COMMAND, "What retrieval is worth in drawing.")
        table = documents_table(None, inputs.published)
        return Section("retrieval", "Retrieval", (missing, table), 2, COMMAND)
    blocks: list[Block] = [Paragraph(_setting_words(run))]
    blocks += [Paragraph(_split_words(run, split)) for split in run.record["protocol"]["splits"]]
    blocks += [documents_table(run, inputs.published), _documents_figure(run)]
    if others(run):
        blocks.append(_leads_figure(run))
    absent = [
        name for name in ("no-diversity", "text-only", "image-only") if name not in others(run)
    ]
    if absent:
        text = f"The run at hand was made without the arms {_listed(absent)}."
        blocks.append(not_yet(COMMAND, text))
    return Section("retrieval", "Retrieval", tuple(blocks), 2, COMMAND)


def _listed(names: list[str]) -> str:
    ticked = [f"`{name}`" for name in names]
    return ticked[0] if len(ticked) == 1 else ", ".join(ticked[:-1]) + f" and {ticked[-1]}"


def _setting_words(run: Run) -> Parts:
    return prose(
        "{name} draws the same {n} captions of each split with the same seeds in every arm; an arm "
        "differs from the default, {default}, in one thing. Documents come from a bank that holds "
        "no evaluation picture. Intervals are over captions; FID is by the features of the "
        "embedded world, at this n far above that of [#table-fid], and only its ratios between "
        "arms are of use.",
        name=emph(run.system),
        n=at(run, "/n"),
        default=emph(run.record["protocol"]["default"]),
    )


def _split_words(run: Run, split: str) -> Parts:
    """What two documents do against none, in the words that the interval allows."""
    default = run.record["protocol"]["default"]
    said = prose("On {split}, two documents against none: ", split=plain(split, "code"))
    pieces = []
    for measure, neutral, what in AGAINST_NONE:
        part = more(run, f"{split}.{default}.{measure}_vs_documents-0", 2 if neutral else 3)
        if part is not None:
            text = f"{what} {{part}}, {leaning(part, neutral)}"
            pieces.append(prose(text, part=part))
    for place, piece in enumerate(pieces):
        said += (plain("; "), *piece) if place else piece
    said += (plain("."),)
    score = more(run, f"{split}.highest_image_score", 3)
    if score is not None:
        said += prose(
            " The nearest document's picture scores {score} against the caption's own.", score=score
        )
    copies = more(run, f"{split}.{default}.copy_pixels", 3)
    if copies is not None:
        said += prose(
            " By pixels {share} of the drawings are nearer to a document than 95% of real pictures "
            "are; 0.05 would be no copying.",
            share=copies,
        )
    return said


def leaning(part: Part, neutral: float) -> str:
    """Which side of no effect a whole interval lies on, in words."""
    low, high = part.trace.low, part.trace.high
    if low is None or high is None:
        return "without an interval"
    if low > neutral:
        return "in favour of documents"
    return "against them" if high < neutral else "not resolved"


def documents_table(run: Run | None, published: Mapping) -> Grid:
    """Ours by number of documents on both splits, above the paper's rows."""
    ours = ()
    if run is not None:
        ours = prose(
            " Above, measured: {name}, {n} captions a split, {level} intervals; entity there is "
            "the share of captions about an entity whose picture holds it.",
            name=emph(run.system),
            n=at(run, "/n"),
            level=level([run]),
        )
    return Grid(
        label="table-documents",
        caption=prose(
            "Retrieved documents before the caption.{ours} Below, quoted: zero-shot FID-30K on "
            "MS-COCO, the best of eight samples; not comparable.",
            ours=ours,
        ),
        panels=(*([_measured_documents(run)] if run else []), _quoted_documents(published)),
    )


def _measured_documents(run: Run) -> Panel:
    splits = run.record["protocol"]["splits"]
    wanted = [("test", "fid"), ("test", "right"), ("tail", "fid"), ("tail", "entity")]
    keys = [(split, key) for split, key in wanted if split in splits]
    rows = []
    for number in range(4):
        names = [f"{split}.documents-{number}.{key}" for split, key in keys]
        if any(more(run, name) for name in names):
            cells = [cell(run, name, 2 if name.endswith("fid") else 3) for name in names]
            rows.append(Row((words(str(number)), *cells), "ours"))
    heads = (words("documents"), *(lines(f"{split}:", MEASURES[key]) for split, key in keys))
    return Panel(heads, tuple(rows), "l" + "r" * len(keys), stacked=True)


def _quoted_documents(published: Mapping) -> Panel:
    rows = [row for row in published["rows"] if row["table"] == "Table 1"]
    rows = [row for row in rows if row["model"].startswith("CM3Leon-7B")]
    body = [
        Row((words(str(row["documents"])), (quoted(published, row),), words("quoted")))
        for row in sorted(rows, key=lambda one: one["documents"])
    ]
    heads = tuple(map(words, ("documents", "CM3Leon-7B: FID-30K", "source")))
    return Panel(heads, tuple(body), "lrr")


def _documents_figure(run: Run) -> Picture:
    keys = ("fid", "right", "entity")
    names = [f"{split}.documents-{k}.{key}" for split in run.record["protocol"]["splits"]
             for k in range(4) for key in keys]  # fmt: skip
    parts = tuple(part for name in names if (part := more(run, name)) is not None)
    return Picture(
        label="figure-documents",
        caption=prose(
            "FID and what is drawn right against the number of documents; intervals over "
            "captions. Measured, {name}.",
            name=emph(run.system),
        ),
        file="documents.svg",
        data=svg(lambda figure: retrieval.documents_plot(figure, run.record), (PAGE, 2.3)),
        alt="Two plots against the number of documents: FID, and shares drawn right.",
        wide=True,
        numbers=parts,
    )


def _leads_figure(run: Run) -> Picture:
    default, names = run.record["protocol"]["default"], others(run)
    keys = [f"{split}.{default}.fid_vs_{name}" for split in run.record["protocol"]["splits"]
            for name in names]  # fmt: skip
    return Picture(
        label="figure-leads",
        caption=prose(
            "FID of every arm divided by FID of {default}: above 1 the arm is worse. Measured, "
            "{name}.",
            default=emph(default),
            name=emph(run.system),
        ),
        file="leads.svg",
        data=svg(
            lambda figure: _leads(figure, run),
            (COLUMN, 0.75 + 0.24 * len(names)),
        ),
        alt="Ratios of FID with intervals on a log axis, one line an arm.",
        numbers=tuple(part for key in keys if (part := more(run, key)) is not None),
    )


def _leads(figure, run: Run) -> None:
    """The ablation's own plot, its axis named in the few words that a column holds."""
    retrieval.leads_plot(figure, run.record)
    figure.axes[0].set_xlabel("FID of the arm / FID of the default")


def others(run: Run) -> list[str]:
    """Arms but the default, in the record's order."""
    protocol = run.record["protocol"]
    names = [name for split in protocol["splits"] for name in retrieval.arms_of(run.record, split)]
    return [name for name in dict.fromkeys(names) if name != protocol["default"]]


def arms_grid(run: Run, split: str) -> Grid:
    """Every arm of a split with its own numbers and the default's lead over it."""
    default = run.record["protocol"]["default"]
    names = retrieval.arms_of(run.record, split)
    kept = [key for key in MEASURES if any(more(run, f"{split}.{name}.{key}") for name in names)]
    lead = "entity" if "entity" in kept else "right"
    rows = []
    for name in names:
        cells = [cell(run, f"{split}.{name}.{key}", 2 if key == "fid" else 3) for key in kept]
        cells.append(cell(run, f"{split}.{default}.fid_vs_{name}", 2))
        cells.append(cell(run, f"{split}.{default}.{lead}_vs_{name}", 3))
        rows.append(Row((words(name), *cells), "ours" if name == default else "plain"))
    heads = (words("arm"), *(words(MEASURES[key]) for key in kept), words("FID / FID of default"),
             words(f"lead of default, {MEASURES[lead]}"))  # fmt: skip
    return Grid(
        label=f"table-arms-{split}",
        caption=prose(
            "Every arm on {split}: {name}, {n} captions, {level} intervals. Measured.",
            split=plain(split, "code"),
            name=emph(run.system),
            n=at(run, "/n"),
            level=level([run]),
        ),
        panels=(Panel(heads, tuple(rows), "l" + "r" * (len(heads) - 1), stacked=True),),
        notes=(
            prose(
                "FID / FID of default: above 1 the default is better. copies: drawings nearer to a "
                "retrieved picture than 95% of the captions' real pictures are; 0.05 is no copying."
            ),
        ),
        wide=True,
        floats=False,
    )


def pretraining_section(inputs: Inputs) -> Section:
    """What parts of objective and retrieval are worth in training."""
    command = "nox -s ablate_pretraining"
    run = largest(inputs.of("ablate_pretraining"))
    if run is None:
        text = "What each part of objective and retrieval is worth in training."
        blocks: tuple[Block, ...] = (not_yet(command, text),)
    else:
        text = "Each arm goes on from one model on the same queries and differs in one option."
        blocks = (Paragraph(prose(text)), _pretraining_table(run))
    return Section("pretraining", "Options of pretraining", blocks, 2, command)


def _pretraining_table(run: Run) -> Grid:
    scores = pretraining.SCORES
    rows = [
        Row(
            (words(name), *(cell(run, f"{name}.{score}") for score in scores)),
            "ours" if name == "default" else "plain",
        )
        for name in run.record["protocol"]["arms"]
    ]
    return Grid(
        label="table-pretraining",
        caption=prose(
            "Pretraining, mean over training seeds with {level} intervals. Measured.",
            level=level([run]),
        ),
        panels=(
            Panel(
                (words("arm"), *map(words, scores.values())),
                tuple(rows),
                "l" + "r" * len(scores),
                stacked=True,
            ),
        ),
        wide=True,
    )
