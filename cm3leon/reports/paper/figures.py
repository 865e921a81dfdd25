"""The report's own figures as SVG bytes: scale, compute, losses, retrieval. Same input, same bytes.

Colours are Okabe-Ito's; markers and dashes tell apart what colours do not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cm3leon.reports.paper.model import Part
from cm3leon.reports.plots import drawn

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
INK, GREY, FAINT = "#222222", "#6e6e6e", "#dddddd"
LONGEST = 28  # characters of a name beside an axis
COLUMN, PAGE = 3.35, 7.0  # inches: width of a column and of the page's text
STYLE = {
    "svg.hashsalt": "cm3leon",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "legend.handlelength": 2.4,
}


@dataclass(frozen=True)
class Point:
    """A labelled point; `x` is None on a scale, `hollow` marks what is estimated or no system."""

    label: str
    y: Part
    x: Part | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """Points of a training: thin while it learned, dots where held-out pictures were asked."""

    label: str
    points: Sequence[tuple[float, float]]
    held_out: Sequence[tuple[float, float]] = ()


def scale_figure(points: Sequence[Point], unit: str) -> bytes:
    """Values with intervals on a log axis, one a line, best possible first."""

    def draw(figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        for place, point in enumerate(points):
            colour = GREY if point.hollow else BLUE
            value, low, high = _ends(point.y)
            axes.plot([low, high], [-place] * 2, "|-", color=colour, lw=1.2, ms=6, mew=1)
            axes.plot([value], [-place], "D" if point.hollow else "o", color=colour, ms=4)
        axes.set_yticks(
            [-place for place in range(len(points))], [_short(one.label) for one in points]
        )
        for tick, point in zip(axes.get_yticklabels(), points, strict=True):
            tick.set_color(INK if point.hollow else BLUE)
        axes.set_ylim(0.6 - len(points), 0.6)
        axes.tick_params(axis="y", length=0)
        figure.supxlabel(f"{_short(unit)} (log scale, lower is better)", fontsize=7)
        _tidy(axes, "x", keep=("bottom",))

    return drawn(draw, (COLUMN, 0.55 + 0.21 * len(points)), style=STYLE)


def compute_figure(
    elsewhere: Sequence[Point], ours: Sequence[Point], unit: str, floor: Part | None = None
) -> bytes:
    """Two panels that share nothing: quoted FID against A100-days, ours against FLOPs, with the
    `floor` that as many real pictures reach.
    """

    def draw(figure) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1.75, 1))
        for axes, points, colour in ((left, elsewhere, GREY), (right, ours, BLUE)):
            axes.set_xscale("log")
            axes.set_yscale("log")
            for point in points:
                value, low, high = _ends(point.y)
                x = point.x.trace.value
                face = "none" if point.hollow else colour
                axes.plot([x, x], [low, high], color=colour, lw=1)
                axes.plot([x], [value], "o", mfc=face, mec=colour, mew=1, ms=4.5)
            axes.margins(0.12)
            if points:
                _label(axes, points)
            else:
                axes.text(0.5, 0.5, "not measured yet", transform=axes.transAxes, ha="center")
            _tidy(axes, "both")
        if floor is not None:
            right.axhline(floor.trace.value, color=GREY, lw=0.8, ls="--", label="real pictures")
            right.legend(loc="upper right")
        left.set(xlabel="A100-days of training", ylabel="FID-30K on MS-COCO")
        right.set(xlabel="FLOPs of training (6 N D)", ylabel=_short(unit))
        _titled(left, "quoted")
        _titled(right, "measured here")

    return drawn(draw, (PAGE, 2.5), style=STYLE)


def loss_figure(panels: Mapping[str, Sequence[Curve]]) -> bytes:
    """One panel a kind of token: nats against tokens seen, log axis, one line a model."""

    def draw(figure) -> None:
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, curves) in zip(every, panels.items(), strict=True):
            for place, curve in enumerate(curves):
                look = {"color": COLOURS[place % 4], "ls": DASHES[place % 4]}
                xs, ys = ([point[axis] for point in curve.points] for axis in (0, 1))
                axes.plot(xs, ys, lw=1, label=_short(curve.label), **look)
                xs, ys = ([point[axis] for point in curve.held_out] for axis in (0, 1))
                axes.plot(xs, ys, "o", ms=2.6, color=look["color"])
            axes.set_yscale("log")
            axes.set_xlabel("tokens seen in this training (millions)")
            _titled(axes, title)
            axes.set_xlim(left=0)
            _tidy(axes, "both")
        every[0].set_ylabel("nats a token")
        lines = every[0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=len(lines[0]))

    return drawn(draw, (PAGE, 2.5), style=STYLE)


def jpeg(png: bytes) -> bytes:
    """A grid of pictures at a third of its bytes, without a difference to the eye."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(out, format="JPEG", quality=90, subsampling=0, optimize=True)
    return out.getvalue()


def _ends(part: Part) -> tuple[float, float, float]:
    trace = part.trace
    low, high = (trace.value if end is None else end for end in (trace.low, trace.high))
    return trace.value, low, high


def _tidy(axes, grid: str, keep: tuple[str, ...] = ("left", "bottom")) -> None:
    """A light grid below everything, no frame, plain numbers on log axes."""
    axes.grid(axis=grid, which="major", color=FAINT, lw=0.5)
    axes.set_axisbelow(True)
    gone = [side for side in ("top", "right", "left", "bottom") if side not in keep]
    axes.spines[gone].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_formatter(lambda value, _: _tick(value))
            narrow = math.log10(high / low) < 1.6
            axis.set_minor_formatter(
                lambda value, _, n=narrow: _tick(value) if n and _is_125(value) else ""
            )


def _short(name: str) -> str:
    """A name that leaves room for what it names."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _titled(axes, title: str) -> None:
    axes.set_title(title, fontsize=7.5, loc="left")


def _tick(value: float) -> str:
    if 1e-3 <= value < 1e6:
        return f"{value:,g}"
    exponent = math.floor(math.log10(value))
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    first = round(value / 10**exponent)
    return (f"{first}\N{MULTIPLICATION SIGN}" if first != 1 else "") + f"10{raised}"


def _is_125(value: float) -> bool:
    first = value / 10 ** math.floor(math.log10(value) + 1e-9)
    return any(math.isclose(first, one, rel_tol=1e-6) for one in (1, 2, 5))


NEAR = (  # where a name may stand: shift in points, alignment, share of its width to the left
    (5, 0, "left", 0.0),
    (-5, 0, "right", 1.0),
    (0, 7, "center", 0.5),
    (0, -7, "center", 0.5),
    (4, 6, "left", 0.0),
    (4, -6, "left", 0.0),
    (-4, 6, "right", 1.0),
    (-4, -6, "right", 1.0),
)


def _label(axes, points: Sequence[Point]) -> None:
    """Names beside their points, each where it hides neither a point nor another name."""
    figure = axes.figure
    figure.get_layout_engine().execute(figure)
    point = figure.dpi / 72
    spots = [(one, axes.transData.transform((one.x.trace.value, one.y.trace.value)))
             for one in points]  # fmt: skip
    taken = [(x - 4 * point, y - 4 * point, x + 4 * point, y + 4 * point) for _, (x, y) in spots]
    frame = axes.get_window_extent()
    left_end, right_end = frame.x0, frame.x1 + 30 * point
    for one, (x, y) in sorted(spots, key=lambda spot: tuple(spot[1])):
        wide, tall = 3.6 * point * len(_short(one.label)), 9 * point
        boxes = []
        for dx, dy, _, share in NEAR:
            left, low = x + dx * point - share * wide, y + dy * point - tall / 2
            boxes.append((left, low, left + wide, low + tall))
        cost = [
            sum(_overlap(box, other) for other in taken)
            + 99 * (max(0.0, box[2] - right_end) + max(0.0, left_end - box[0]))
            for box in boxes
        ]
        best = cost.index(min(cost))
        taken.append(boxes[best])
        dx, dy, side, _ = NEAR[best]
        axes.annotate(
            _short(one.label), (one.x.trace.value, one.y.trace.value), (dx, dy),
            textcoords="offset points", ha=side, va="center", fontsize=6, color=INK,
        )  # fmt: skip


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(tall, 0.0)
