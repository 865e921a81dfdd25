"""Sections about scale: FID against compute, and the trainings behind the shipped weights."""

from __future__ import annotations

from collections.abc import Sequence

from cm3leon.reports.paper.figures import Curve, Point, compute_figure, loss_figure
from cm3leon.reports.paper.model import (
    Block,
    Paragraph,
    Part,
    Picture,
    Section,
    code,
    not_yet,
    prose,
)
from cm3leon.reports.paper.results import (
    ZERO_SHOT,
    Inputs,
    Model,
    columns,
    compute,
    headline,
    level,
    more,
    own,
    quoted,
    quoted_days,
    tokens,
)
from cm3leon.reports.paper.tables import models_table


def compute_section(inputs: Inputs) -> Section:
    """Figure 2: quoted FID against A100-days, ours against FLOPs."""
    command = "nox -s fid_coco -- --system NAME"
    elsewhere, ours = _elsewhere(inputs), _ours(inputs)
    blocks: list[Block] = [
        Paragraph(
            prose(
                "The paper's Figure 2 sets FID against compute, and prints none of its values. "
                "Quoted here is what publications state, and for CM3Leon 6ND at an assumed "
                "utilisation, hollow; measured are our models, with the compute of all stages they "
                "went through. The two panels share neither axis nor measure."
            )
        )
    ]
    if elsewhere or ours:
        unit = ours[0][0] if ours else "FID"
        points = [point for _, point in ours]
        floor = _floor(inputs)
        blocks.append(
            Picture(
                label="figure-compute",
                caption=prose(
                    "FID against compute (the paper's Figure 2). Left, quoted: FID-30K on MS-COCO, "
                    "of CM3Leon with two documents; hollow: compute estimated as 6ND. Right, "
                    "measured: {unit} with {level} intervals; dashed: as many real pictures.",
                    unit=code(unit),
                    level=level(inputs.of("fid_coco")),
                ),
                file="compute.svg",
                data=compute_figure(elsewhere, points, unit, floor),
                alt="Two separate scatter plots of FID against training compute.",
                wide=True,
                numbers=tuple(
                    part for point in (*elsewhere, *points) for part in (point.x, point.y)
                ),
            )
        )
    if len(ours) < 2:
        blocks.append(not_yet(command, "Fewer than two sizes have a record."))
    return Section("compute", "Compute", tuple(blocks), 2, command)


def _elsewhere(inputs: Inputs) -> list[Point]:
    """Quoted FID-30K whose compute is known; of several rows of a model the lowest."""
    best: dict[str, Point] = {}
    for row in inputs.published["rows"]:
        if row["metric"] != ZERO_SHOT:
            continue
        days = quoted_days(inputs.published, row)
        if days is None:
            continue
        point = Point(row["model"], quoted(inputs.published, row), days, bool(days.trace.how))
        old = best.get(row["model"])
        if old is None or row["value"] < old.y.trace.value:
            best[row["model"]] = point
    return list(best.values())


def _ours(inputs: Inputs) -> list[tuple[str, Point]]:
    found = []
    for group in headline(columns(inputs.of("fid_coco")))[:1]:
        for run in group:
            model = inputs.model(run.system)
            if model is not None and model.log:
                point = Point(run.system, own(run), compute(inputs, model))
                found.append((run.record["unit"], point))
    return found


def _floor(inputs: Inputs) -> Part | None:
    """What as many real pictures reach by the protocol of the measured points."""
    for group in headline(columns(inputs.of("fid_coco")))[:1]:
        return next((part for run in group if (part := more(run, "floor"))), None)
    return None


def training(inputs: Inputs) -> Section:
    """Figure 3: losses of the shipped trainings, and what was trained."""
    command = "nox -s train_baselines"
    logged = [model for model in inputs.models if any("image_loss" in one for one in model.log)]
    blocks: list[Block] = []
    if logged:
        blocks.append(
            Paragraph(
                prose(
                    "[#figure-losses] draws the logs that lie beside the weights, [#table-models] "
                    "says what was trained. Lines of one panel compare only where the sequences "
                    "are alike: models of pairs see a caption and its picture, the later "
                    "stages documents before them. Each was trained once: there is no interval "
                    "over training seeds."
                )
            )
        )
        blocks.append(_losses(logged))
    if inputs.models:
        blocks.append(models_table(inputs))
    if not logged:
        blocks.append(not_yet(command, "No training log lies beside the weights."))
    return Section("training", "Training", tuple(blocks), 2, command)


def _losses(models: Sequence[Model]) -> Picture:
    panels = {
        "image tokens": [_curve(model, "image") for model in models],
        "text tokens": [_curve(model, "text") for model in models],
    }
    return Picture(
        label="figure-losses",
        caption=prose(
            "Losses of the shipped trainings (after the paper's Figure 3). Lines: training, a mean "
            "over the steps since the point before; dots: held-out pictures. Measured, once each."
        ),
        file="losses.svg",
        data=loss_figure(panels),
        alt="Training and held-out losses against tokens seen, one line a model.",
        wide=True,
    )


def _curve(model: Model, kind: str) -> Curve:
    points, held_out = [], []
    for entry, seen in zip(model.log, tokens(model), strict=True):
        for key, kept in ((f"{kind}_loss", points), (f"held_out_{kind}", held_out)):
            if key in entry:
                kept.append((seen / 1e6, entry[key]))
    return Curve(model.name, points, held_out)
