"""Pictures of the report: what each plots, with its numbers; its caption stands in the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cm3leon.reports.benches import decoding_figures, retrieval
from cm3leon.reports.benches.latency import latency_picture
from cm3leon.reports.benches.scaling_figures import figures_of
from cm3leon.reports.paper.figures import (
    COLUMN,
    PAGE,
    STYLE,
    Curve,
    Point,
    compute_figure,
    loss_figure,
    scale_figure,
)
from cm3leon.reports.paper.model import Parts, Picture
from cm3leon.reports.paper.results import (
    ZERO_SHOT,
    Inputs,
    Model,
    Run,
    columns,
    compute,
    headline,
    more,
    own,
    quoted,
    quoted_days,
    tokens,
)
from cm3leon.reports.plots import drawn
from cm3leon.reports.tables import SCALE

PLOTTED = 8  # systems on the scale, best first


def _plot(name: str, alt: str, draw: Callable, size: tuple[float, float], numbers: Parts = ()):
    """A picture that `draw(figure)` draws, over both columns where it is wide."""
    data, wide = drawn(draw, size, style=STYLE), size[0] > COLUMN
    return Picture(f"figure-{name}", f"{name}.svg", data, alt, wide=wide, numbers=numbers)


def scale_picture(group: Sequence[Run], place: int) -> Picture:
    """Systems between real pictures and noise, on a log axis."""
    first, points = group[0], []
    for key, label in SCALE.items():
        if key == "ours":
            points += [Point(run.system, own(run)) for run in group[:PLOTTED]]
        elif part := more(first, key):
            points.append(Point(label, part, hollow=True))
    points = sorted(points, key=lambda one: one.y.trace.value)
    points = [one for one in points if one.y.trace.value > 0]  # a log axis
    name = f"scale-{place}" if place else "scale"
    alt = "Values on a log axis: " + "; ".join(f"{one.label} {one.y.text}" for one in points)
    data = scale_figure(points, first.record["unit"])
    numbers = tuple(one.y for one in points)
    return Picture(f"figure-{name}", f"{name}.svg", data, alt, numbers=numbers)


def quoted_points(inputs: Inputs) -> list[Point]:
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


def our_points(inputs: Inputs) -> list[tuple[Run, Point]]:
    """FID of our models against the FLOPs of all their stages."""
    found = []
    for group in headline(columns(inputs.of("fid_coco")))[:1]:
        for run in group:
            model = inputs.model(run.system)
            if model is not None and model.log:
                found.append((run, Point(run.system, own(run), compute(inputs, model))))
    return found


def compute_picture(
    inputs: Inputs, elsewhere: Sequence[Point], ours: Sequence[tuple[Run, Point]]
) -> Picture:
    """Figure 2: quoted FID against A100-days, ours against FLOPs."""
    floors = (
        part
        for group in headline(columns(inputs.of("fid_coco")))[:1]
        for run in group
        if (part := more(run, "floor"))
    )
    points = [point for _, point in ours]
    unit = ours[0][0].record["unit"] if ours else "FID"
    numbers = tuple(part for point in (*elsewhere, *points) for part in (point.x, point.y))
    return Picture(
        "figure-compute",
        "compute.svg",
        compute_figure(elsewhere, points, unit, next(floors, None)),
        "Two separate scatter plots of FID against training compute.",
        wide=True,
        numbers=numbers,
    )


def loss_picture(models: Sequence[Model]) -> Picture:
    """Figure 3: losses of the shipped trainings."""
    panels = {f"{kind} tokens": [_curve(model, kind) for model in models]
              for kind in ("image", "text")}  # fmt: skip
    alt = "Training and held-out losses against tokens seen, one line a model."
    return Picture("figure-losses", "losses.svg", loss_figure(panels), alt, wide=True)


def _curve(model: Model, kind: str) -> Curve:
    points, held_out = [], []
    for entry, seen in zip(model.log, tokens(model), strict=True):
        for key, kept in ((f"{kind}_loss", points), (f"held_out_{kind}", held_out)):
            if key in entry:
                kept.append((seen / 1e6, entry[key]))
    return Curve(model.name, points, held_out)


def has_sweep(run: Run, stem: str) -> bool:
    """A sweep has measured what a figure needs."""
    return stem in figures_of(run.record)


SWEEP_ALTS = {
    "compute": "Held-out loss against FLOPs on log axes, points and a line for each arm.",
    "curves": "Held-out loss against tokens on log axes, a line for each size.",
    "isoflop": "Held-out loss against parameters on log axes, a line for each budget.",
    "gains": "Difference of losses against FLOPs, a line for each size.",
    "fid": "FID against FLOPs on log axes, a line for each arm.",
}


def sweep_picture(run: Run, stem: str) -> Picture:
    """A figure of a sweep."""
    draw, (width, height) = figures_of(run.record)[stem]
    size = (PAGE if width > height * 2 else COLUMN), 2.6
    return _plot(f"scaling-{stem}", SWEEP_ALTS[stem], lambda figure: draw(figure, run.record), size)


def decoding_picture(run: Run) -> Picture:
    """Figure 4: FID against the guidance weight, and against samples a prompt."""
    panels = [part for part in ("guidance", "pool") if part in run.record["protocol"]["parts"]]
    alt = "Two panels: FID against guidance weight, and against samples a prompt."
    size = (PAGE if len(panels) == 2 else COLUMN), 2.6
    return _plot(
        "decoding", alt, lambda figure: decoding_figures.figure4(figure, run.record, panels), size
    )


def surface_picture(run: Run) -> Picture:
    """CD-K over k and alpha."""
    alt = "Two heat maps over k and alpha: FID, and distance of two drawings."
    return _plot(
        "surface", alt, lambda figure: decoding_figures.surface(figure, run.record), (PAGE, 2.5)
    )


def speeds_picture(run: Run, place: int, floats: bool = True) -> Picture:
    """Seconds an image and the roofline's share against the batch."""
    alt = "Two panels: seconds an image, and share of the roofline, against the batch."
    file, data = f"latency-{place}.svg", latency_picture(run.record)
    return Picture(f"figure-speeds-{place}", file, data, alt, wide=True, floats=floats)


def documents_picture(run: Run) -> Picture:
    """FID and what is drawn right against the number of documents."""
    names = [f"{split}.documents-{k}.{key}" for split in run.record["protocol"]["splits"]
             for k in range(4) for key in ("fid", "right", "entity")]  # fmt: skip
    numbers = tuple(part for name in names if (part := more(run, name)) is not None)
    alt = "Two plots against the number of documents: FID, and shares drawn right."
    return _plot(
        "documents", alt, lambda figure: retrieval.documents_plot(figure, run.record), (PAGE, 2.3),
        numbers,
    )  # fmt: skip


def leads_picture(run: Run) -> Picture:
    """FID of every arm over that of the default."""
    default, names = run.record["protocol"]["default"], others(run)
    keys = [f"{split}.{default}.fid_vs_{name}" for split in run.record["protocol"]["splits"]
            for name in names]  # fmt: skip
    numbers = tuple(part for key in keys if (part := more(run, key)) is not None)

    def draw(figure) -> None:
        """The ablation's own plot, its axis named in the few words that a column holds."""
        retrieval.leads_plot(figure, run.record)
        figure.axes[0].set_xlabel("FID of the arm / FID of the default")

    alt = "Ratios of FID with intervals on a log axis, one line an arm."
    return _plot("leads", alt, draw, (COLUMN, 0.75 + 0.24 * len(names)), numbers)


def others(run: Run) -> list[str]:
    """Arms of the retrieval ablation but the default, in the record's order."""
    protocol = run.record["protocol"]
    names = [name for split in protocol["splits"] for name in retrieval.arms_of(run.record, split)]
    return [name for name in dict.fromkeys(names) if name != protocol["default"]]


def shown_models(inputs: Inputs) -> list[Model]:
    """Models with samples, in the order of Table 1, then the others."""
    best = [run.system for group in headline(columns(inputs.of("fid_coco"))) for run in group]
    have = [model for model in inputs.models if model.samples]
    return sorted(have, key=lambda one: best.index(one.name) if one.name in best else len(best))


def sample_picture(model: Model, place: int) -> Picture:
    """The grid that lies beside a model's weights."""
    alt = f"Grid of pictures drawn by {model.name}, each above its caption."
    look = {"wide": True, "width": 0.78 if place else 0.9, "floats": not place}
    name, data = f"samples-{place}", model.samples or b""
    return Picture(f"figure-{name}", f"{name}.jpg", data, alt, **look)


def page_picture(inputs: Inputs, split: str) -> Picture:
    """What was retrieved, and drawn, for the first captions of a split."""
    alt = f"Rows of pictures for captions of {split}: documents, then drawings."
    look = {"wide": True, "width": 0.86, "floats": False}
    return Picture(f"figure-page-{split}", f"page-{split}.jpg", inputs.pages[split], alt, **look)
