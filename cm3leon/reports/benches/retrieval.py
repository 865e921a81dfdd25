"""Tables, verdicts and plots of `ablate_retrieval`, from its record alone.

A record's extras are `split.arm.measure`, and `split.default.measure_vs_arm` for the default's lead
over an arm: of FID a ratio, of the others a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cm3leon.reports import extra
from cm3leon.reports.benches.splits import arms_of
from cm3leon.reports.plots import BLUE, GREY, INK, mark_floor, saved
from cm3leon.reports.tables import Table, cell, span
from cm3leon.reports.verdicts import FLOOR_NOTE, POWER_NOTE, carried, judged, power_cell

ORANGE = "#D55E00"  # Okabe-Ito vermilion


@dataclass(frozen=True)
class Look:
    """How the points of a split are drawn, and how far beside their place."""

    colour: str
    marker: str
    shift: float


LOOKS = {"test": Look(BLUE, "o", 0.13), "tail": Look(ORANGE, "s", -0.13)}
MEASURES = {
    "fid": "FID",
    "entity": "entity there",
    "entity_unseen": "entity never seen",
    "right": "composition",
    "clip": "CLIP score",
}
COPIES = {
    "copy_pixels": "copies (pixels)",
    "copy_features": "copies (features)",
    "copy_blocks": "copies (blocks of codes)",
}
HYPOTHESES = (  # name, statement, split, measure, arm the default must lead
    ("H1", "two documents lower FID below none", "test", "fid", "documents-0"),
    ("H1", "two documents lower FID below one", "test", "fid", "documents-1"),
    ("H1", "two documents lower FID below none", "tail", "fid", "documents-0"),
    ("H1", "two documents lower FID below one", "tail", "fid", "documents-1"),
    ("H1", "two documents lift the entity drawn right above none", "tail", "entity", "documents-0"),
    ("H1", "two lift entities never seen in training", "tail", "entity_unseen", "documents-0"),
    ("H7", "diversity lowers FID", "test", "fid", "no-diversity"),
    ("H7", "diversity lowers FID", "tail", "fid", "no-diversity"),
    ("H7", "diversity lifts the entity drawn right", "tail", "entity", "no-diversity"),
    ("H8", "both modalities beat text alone by FID", "test", "fid", "text-only"),
    ("H8", "both modalities beat pictures alone by FID", "test", "fid", "image-only"),
    ("H8", "both modalities beat text alone", "tail", "entity", "text-only"),
    ("H8", "both modalities beat pictures alone", "tail", "entity", "image-only"),
)


def retrieval_tables(record: Mapping, published: Mapping) -> dict[str, Table]:
    """File stem -> table: Table 1 with 0..3 documents, one of all arms a split, verdicts."""
    tables = {"documents": documents_table(record, published)}
    for split in record["protocol"]["splits"]:
        tables[f"arms_{split}"] = arms_table(record, split)
    tables["verdicts"] = verdicts_table(record)
    return tables


def documents_table(record: Mapping, published: Mapping) -> Table:
    """Ours by number of documents on both splits, above the paper's Table 1 rows."""
    splits, rows = record["protocol"]["splits"], []
    columns = [("test", "fid"), ("test", "right"), ("tail", "fid"), ("tail", "entity")]
    columns = [column for column in [*columns, ("tail", "entity_unseen")] if column[0] in splits]
    name, ours = record["system"]["name"], 0
    for count in range(4):
        cells = [cell(record, f"{split}.documents-{count}.{key}") for split, key in columns]
        if any(cell != "-" for cell in cells):
            rows.append((name, str(count), *cells))
            ours += 1
    quoted = [row for row in published["rows"] if row["table"] == "Table 1"]
    quoted = [row for row in quoted if row["model"].startswith("CM3Leon-7B")]
    for row in sorted(quoted, key=lambda one: one["documents"]):
        blank = [""] * (len(columns) - 1)
        rows.append((row["model"], str(row["documents"]), f"{row['value']:.2f} (quoted)", *blank))
    return Table(
        headers=(
            "model",
            "documents",
            *(f"{split}: {MEASURES[key]}" for split, key in columns),
        ),
        rows=tuple(rows),
        caption=f"Retrieved documents before the caption (n={record['n']}, 95% intervals)",
        notes=(
            "quoted: zero-shot FID-30K on MS-COCO, the best of 8 samples; NOT comparable with "
            "measured",
            "composition: share of GenEval's questions about a caption answered right; entity "
            "there: share of captions about an entity whose picture holds it; never seen: of those "
            "about one that never occurs in training",
        ),
        numbers=frozenset(range(1, 2 + len(columns))),
        ours=frozenset(range(ours)),
        rule_after=ours if quoted else None,
    )


def arms_table(record: Mapping, split: str) -> Table:
    """Every arm of a split with its own numbers and what the default is ahead of it."""
    default = record["protocol"]["default"]
    names = arms_of(record, split)
    kept = [key for key in (*MEASURES, *COPIES) if _any(record, split, names, key)]
    lead = "entity" if "entity" in kept else "right"
    rows = [
        (
            name,
            *(cell(record, f"{split}.{name}.{key}", 2 if key == "fid" else 3) for key in kept),
            cell(record, f"{split}.{default}.fid_vs_{name}", 2),
            cell(record, f"{split}.{default}.{lead}_vs_{name}", 3),
        )
        for name in names
    ]
    labels = MEASURES | COPIES
    return Table(
        headers=(
            "arm",
            *(labels[key] for key in kept),
            "FID / FID of default",
            f"lead of default, {labels[lead]}",
        ),
        rows=tuple(rows),
        caption=f"Retrieval on {split}: every arm against {default} (95% intervals over captions)",
        notes=(
            "FID / FID of default: above 1 the default is better; the lead is a difference of "
            "shares, above 0 the default is better",
            "copies: drawings nearer to a retrieved picture than 95% of the captions' real "
            "pictures are; 0.05 is no copying",
        ),
        numbers=frozenset(range(1, len(kept) + 3)),
        ours=frozenset(k for k, name in enumerate(names) if name == default),
    )


def verdicts(record: Mapping) -> list[dict]:
    """Every hypothesis that the record can judge: name, statement, effect and verdict."""
    found = []
    default = record["protocol"]["default"]
    for name, statement, split, measure, arm in HYPOTHESES:
        entry = extra(record, f"{split}.{default}.{measure}_vs_{arm}")
        if entry is None:
            continue
        wanted = 1.0 if measure == "fid" else 0.0
        fids, floor = (), None
        if measure == "fid":
            fids = [extra(record, f"{split}.{each}.fid") for each in (default, arm)]
            floor = extra(record, f"{split}.real.floor")
        verdict = carried(judged(entry, wanted), record["n"], fids, floor)
        found.append(
            {"hypothesis": name, "statement": statement, "split": split, "measure": measure}
            | {"verdict": verdict, "none": wanted, "ratio": measure == "fid", **entry}
        )
    return found


def verdicts_table(record: Mapping) -> Table:
    """Hypothesis, effect with interval, and what it says."""
    seeds = {len(seeds) for seeds in record["protocol"]["seeds"].values()}
    return Table(
        headers=("", "statement", "on", "effect", "could have seen", "verdict"),
        rows=tuple(
            (
                one["hypothesis"],
                one["statement"],
                one["split"],
                ("FID x " if one["measure"] == "fid" else "share + ")
                + f"{one['value']:.3f} {span(one['value'], one['low'], one['high'], 3)}",
                power_cell(one, one["ratio"]),
                one["verdict"],
            )
            for one in verdicts(record)
        ),
        caption=f"Hypotheses ({record['system']['name']}, n={record['n']} captions a split, "
        f"{max(seeds)} sampling seeds)",
        notes=(
            "a verdict needs the whole 95% interval on one side of no effect",
            POWER_NOTE,
            FLOOR_NOTE,
        ),
    )


def retrieval_plots(record: Mapping, folder: Path | str) -> list[Path]:
    """FID and entities against the number of documents; leads of the default over every arm."""
    tall = 1.1 + 0.3 * len(_others(record))
    return [
        *saved(lambda figure: documents_plot(figure, record), (7.2, 3.1), folder, "documents"),
        *saved(lambda figure: leads_plot(figure, record), (7.2, tall), folder, "leads"),
    ]


def documents_plot(figure, record: Mapping) -> None:
    left, right = figure.subplots(1, 2)
    for split, look in LOOKS.items():
        _line(left, record, split, "fid", look)
        floor = extra(record, f"{split}.real.floor")
        mark_floor(left, floor, look.colour, f"{split}: real pictures (floor)")
        _line(right, record, split, "entity" if split == "tail" else "right", look)
    left.set_ylabel(f"{record['protocol']['features']} FID (lower is better)")
    right.set_ylabel("share right (higher is better)")
    right.set_ylim(0, 1)
    left.set_ylim(bottom=0)
    labels = {"test": "test: composition", "tail": "tail: entity there"}
    for axes, names in ((left, {}), (right, labels)):
        handles, found = axes.get_legend_handles_labels()
        axes.legend(handles, [names.get(name, name) for name in found], frameon=False)
        axes.set_xlabel("retrieved documents")
        axes.set_xticks(range(4))
        axes.grid(axis="y", color="#dddddd", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)


def _line(axes, record: Mapping, split: str, measure: str, look: Look) -> None:
    points = [
        (count, entry)
        for count in range(4)
        if (entry := extra(record, f"{split}.documents-{count}.{measure}")) is not None
    ]
    if not points:
        return
    places = [count - look.shift / 2 for count, _ in points]  # bars beside, not over, one another
    values = [entry["value"] for _, entry in points]
    below = [entry["value"] - entry["low"] for _, entry in points]
    above = [entry["high"] - entry["value"] for _, entry in points]
    axes.errorbar(
        places, values, yerr=[below, above],
        color=look.colour, marker=look.marker, ms=5, lw=1.3, elinewidth=1, capsize=3, label=split,
    )  # fmt: skip


def leads_plot(figure, record: Mapping) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    default, names = record["protocol"]["default"], _others(record)
    axes = figure.subplots()
    for split, look in LOOKS.items():
        rows = [
            (place, entry)
            for place, name in enumerate(names)
            if (entry := extra(record, f"{split}.{default}.fid_vs_{name}")) is not None
        ]
        axes.errorbar(
            [entry["value"] for _, entry in rows],
            [look.shift - place for place, _ in rows],
            xerr=[
                [entry["value"] - entry["low"] for _, entry in rows],
                [entry["high"] - entry["value"] for _, entry in rows],
            ],
            fmt=look.marker, color=look.colour, capsize=2, ms=4, label=split,
        )  # fmt: skip
    axes.axvline(1, color=GREY, lw=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks([-place for place in range(len(names))], names)
    axes.set_ylim(0.5 - len(names), 0.5)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.set_xlabel(f"FID of the arm / FID of {default} (above 1 the arm is worse)")
    axes.grid(axis="x", which="both", color="#dddddd", lw=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False)


def _others(record: Mapping) -> list[str]:
    """Every arm but the default, in the order of the record."""
    splits, default = record["protocol"]["splits"], record["protocol"]["default"]
    names = [name for split in splits for name in arms_of(record, split) if name != default]
    return list(dict.fromkeys(names))


def _any(record: Mapping, split: str, names: Sequence[str], measure: str) -> bool:
    return any(extra(record, f"{split}.{name}.{measure}") for name in names)
