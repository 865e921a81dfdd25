"""Figures of `scaling`, from its record alone; the paper's Figures 2 and 3 are the models.

Points are those of `scaling.points_of`; a dot is one training, a line joins means over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cm3leon.reports import extra
from cm3leon.reports.benches.scaling import points_of
from cm3leon.reports.plots import BLUE, saved

COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#222222")
LOOKS = {"plain": (BLUE, "o"), "documents": ("#D55E00", "s")}  # colour and marker of an arm
LABELS = {"plain": "without documents", "documents": "with documents"}
WITH = {"plain": 0, "documents": 2}  # documents before what each arm draws
SPLITS = ("natural", "test", "tail")
LEAST_SIZES = 3  # of a budget, for its curve over sizes
LAW = ("E", "A", "B", "alpha", "beta")
FLOPS = "FLOPs of the training (6ND)"
RAISED = str.maketrans(
    "0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b"
)
PAGE, HALF = (8.4, 3.2), (4.8, 3.4)


def scaling_plots(record: Mapping, folder: Path | str) -> list[Path]:
    """Every figure as .svg and .png in a folder."""
    return [
        path
        for stem, (draw, size) in figures_of(record).items()
        for path in saved(lambda figure, draw=draw: draw(figure, record), size, folder, stem)
    ]


def figures_of(record: Mapping) -> dict[str, tuple[Callable, tuple[float, float]]]:
    """File stem -> what draws it on a figure from the record, and its size: `curves` (loss by size)
    and `compute` always, `isoflop` where a budget has three sizes, `gains` (what documents change
    at equal FLOPs) where both arms are there, `fid` where points drew.
    """
    points, both = points_of(record), len(record["protocol"]["arms"]) > 1
    wide = PAGE if both else HALF
    found = {"curves": (curves, wide), "compute": (compute, HALF)}
    budgets = _groups(points, "budget").values()
    if any(len(_groups(some, "size")) >= LEAST_SIZES for some in budgets):
        found["isoflop"] = (isoflop, wide)
    if both:
        found["gains"] = (gains, PAGE)
    if any("natural.fid_with_0" in one for one in points):
        found["fid"] = (fid, PAGE)
    return found


def curves(figure, record: Mapping) -> None:
    """Loss against tokens, a line for each size."""
    for axes, points in _panels(figure, record):
        for colour, (size, some) in zip(COLOURS, _groups(points, "size").items(), strict=False):
            _line(axes, some, "budget", "tokens", colour, size)
        axes.set_xlabel("tokens read, documents among them")


def isoflop(figure, record: Mapping) -> None:
    """Loss against size, a line for each budget that three sizes have."""
    from matplotlib import colormaps

    for axes, points in _panels(figure, record):
        budgets = {
            budget: some
            for budget, some in _groups(points, "budget").items()
            if len(_groups(some, "size")) >= LEAST_SIZES
        }
        for place, (budget, some) in enumerate(budgets.items()):
            colour = colormaps["viridis"](0.9 * place / max(1, len(budgets) - 1))
            _line(axes, some, "parameters", "parameters", colour, f"{budget:.2g} FLOPs")
        axes.set_xlabel("parameters")


def compute(figure, record: Mapping) -> None:
    """Every point, and the least loss that each arm's law gives a budget."""
    axes = figure.subplots()
    for arm, points in _arms(record).items():
        colour, marker = LOOKS[arm]
        axes.plot(
            [one["flops"] for one in points], [one["held_out_loss"] for one in points],
            lw=0, marker=marker, ms=3.5, mfc="none", color=colour, label=LABELS[arm],
        )  # fmt: skip
        law = {key: extra(record, f"{arm}.chinchilla_{key}") for key in LAW}
        if all(law.values()):
            value = {key: entry["value"] for key, entry in law.items()}
            ends = min(one["flops"] for one in points), max(one["flops"] for one in points)
            flops = [ends[0] * (ends[1] / ends[0]) ** (k / 40) for k in range(41)]
            axes.plot(flops, [least_loss(value, one) for one in flops], color=colour, lw=1.2)
    axes.set_xlabel(FLOPS)
    _style(axes)


def gains(figure, record: Mapping) -> None:
    """What documents change of both losses at equal FLOPs, a line for each size."""
    every = figure.subplots(1, 2, sharex=True)
    measures = {
        "held_out_image": "pictures of val",
        "held_out_tail_image": "pictures of entities",
    }
    for axes, (measure, title) in zip(every, measures.items(), strict=True):
        sizes = _groups(points_of(record), "size")
        for colour, (size, points) in zip(COLOURS, sizes.items(), strict=False):
            changes: dict[float, list[float]] = {}
            for one in points:
                twin = next((other for other in points if _twins(one, other)), None)
                if one["arm"] == "documents" and twin:
                    changes.setdefault(one["budget"], []).append(one[measure] - twin[measure])
            each = sorted(changes.items())
            means = [sum(values) / len(values) for _, values in each]
            axes.plot([at for at, _ in each], means, marker="o", ms=4, color=colour, label=size)
            for at, values in each:
                axes.plot([at] * len(values), values, lw=0, marker=".", ms=3, color=colour)
        axes.axhline(0, color="#888888", lw=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(FLOPS)
        _style(axes, log=False)
    every[0].set_ylabel("with documents less without, nats a token")
    every[0].get_legend().remove()


def fid(figure, record: Mapping) -> None:
    """FID against FLOPs, a panel for each split: every point, and the least mean over seeds that a
    budget reaches.
    """
    every = figure.subplots(1, len(SPLITS), sharey=True)
    for axes, split in zip(every, SPLITS, strict=True):
        for arm, points in _arms(record).items():
            colour, marker = LOOKS[arm]
            key = f"{split}.fid_with_{WITH[arm]}"
            known = [one for one in points if key in one]
            axes.plot(
                [one["flops"] for one in known], [one[key] for one in known],
                lw=0, marker=marker, ms=3.5, mfc="none", color=colour,
            )  # fmt: skip
            best = []
            for budget, some in _groups(known, "budget").items():
                sizes = _groups(some, "size").values()
                best.append((budget, min(sum(one[key] for one in s) / len(s) for s in sizes)))
            label = f"{LABELS[arm]} ({WITH[arm]})" if WITH[arm] else LABELS[arm]
            axes.plot(*zip(*best, strict=True), color=colour, lw=1.2, label=label)
        axes.set_title(split, fontsize=9)
        axes.set_xlabel(FLOPS)
        _style(axes)
        axes.set_ylabel("")
    every[0].set_ylabel("FID by the world's network")
    for axes in every[1:]:
        axes.get_legend().remove()


def least_loss(law: Mapping[str, float], flops: float) -> float:
    """The least loss of a budget by Chinchilla's law (2203.15556, eq. 4)."""
    total = law["alpha"] + law["beta"]
    if not (law["A"] > 0 and law["B"] > 0 and law["alpha"] > 0 and law["beta"] > 0):
        return float("nan")
    ratio = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / total)
    size = ratio * (flops / 6) ** (law["beta"] / total)
    tokens = flops / 6 / size
    return law["E"] + law["A"] * size ** -law["alpha"] + law["B"] * tokens ** -law["beta"]


def _panels(figure, record: Mapping) -> Iterator[tuple]:
    """Axes and points of each arm, side by side on one scale."""
    arms = _arms(record)
    every = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
    for place, (axes, (arm, points)) in enumerate(zip(every, arms.items(), strict=True)):
        yield axes, points
        axes.set_title(LABELS[arm], fontsize=9)
        _style(axes)
        if place:
            axes.set_ylabel("")


def _line(axes, points: Sequence[Mapping], by: str, along: str, colour, label: str) -> None:
    """Dots of all seeds, and a line through their means."""
    groups = [some for _, some in sorted(_groups(points, by).items())]
    x, y = ([sum(one[key] for one in some) / len(some) for some in groups]
            for key in (along, "held_out_loss"))  # fmt: skip
    axes.plot(x, y, lw=1.2, color=colour, label=label)
    axes.plot(
        [one[along] for one in points], [one["held_out_loss"] for one in points],
        lw=0, marker="o", ms=3, color=colour,
    )  # fmt: skip


def _arms(record: Mapping) -> dict[str, list[Mapping]]:
    """The points of each arm, in the record's order."""
    points = points_of(record)
    arms = record["protocol"]["arms"]
    return {arm: [one for one in points if one["arm"] == arm] for arm in arms}


def _twins(one: Mapping, other: Mapping) -> bool:
    """Of one size, seed and budget, the other without documents."""
    alike = all(one[key] == other[key] for key in ("size", "seed", "budget"))
    return alike and other["arm"] == "plain"


def decade(value: float, _) -> str:
    """A power of ten, without the mathematics that the report's own figures do not set."""
    return "10" + str(round(math.log10(value))).translate(RAISED)


def _style(axes, log: bool = True) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(decade)
    axes.xaxis.set_minor_formatter("")  # decades alone are named
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_ylabel("held-out loss, nats a token")
    axes.grid(color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)


def _groups(points: Sequence[Mapping], key: str) -> dict:
    """Points by what they have under a key, in the order of points, numbers in theirs."""
    found: dict = {}
    for one in points:
        found.setdefault(one[key], []).append(one)
    return dict(sorted(found.items())) if key == "budget" else found
