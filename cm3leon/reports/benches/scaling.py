"""Tables and figures of `scaling`, from its record alone: every point, the laws, three curves.

Numbers of a point are `SIZE.ARM.SEED.BUDGET.measure`, those of a law `ARM.measure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cm3leon.reports import extra
from cm3leon.reports.plots import BLUE, saved
from cm3leon.reports.tables import Table, cell

COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#222222")
MARKERS = {"plain": "o", "documents": "s"}
LAW = {
    "loss_exponent": "gamma of L - E ~ C^-gamma",
    "size_exponent": "a of N ~ C^a, the law's",
    "size_exponent_isoflop": "a of N ~ C^a, isoFLOP",
    "chinchilla_E": "E",
    "chinchilla_alpha": "alpha",
    "chinchilla_beta": "beta",
    "loss_exponent_largest_left_out": "gamma, largest size left out",
    "loss_exponent_smallest_left_out": "gamma, smallest size left out",
    "left_out_error": "relative error on sizes left out",
}


MEETINGS = {"equal_flops": "equal FLOPs", "equal_queries": "equal queries"}
CHANGES = {  # of the arm with documents against the other, and how many decimals
    "held_out_image_minus_plain": ("pictures, nats", 3),
    "held_out_tail_image_minus_plain": ("entities' pictures, nats", 3),
    "held_out_text_minus_plain": ("texts, nats", 3),
    "natural.fid_over_plain": ("FID natural, x", 2),
    "tail.fid_over_plain": ("FID tail, x", 2),
    "natural.composition_minus_plain": ("composition natural", 3),
    "tail.composition_minus_plain": ("composition tail", 3),
    "tail.entity_minus_plain": ("entities tail", 3),
}
OVER_SIZES = {
    "all": "mean of sizes",
    "all.first": "mean of sizes, least budgets",
    "slope": "slope over ln N",
}


def points_of(record: Mapping) -> list[dict]:
    """Every point: its size, arm, seed and numbers, small ones first."""
    found: dict[tuple, dict] = {}
    for name in record["extra"]:
        parts = name.split(".", 4)
        if len(parts) == 5 and parts[1] in MARKERS:
            size, arm, seed, at, measure = parts
            about = {"size": size, "arm": arm, "seed": int(seed), "at": int(at)}
            found.setdefault(tuple(parts[:4]), about)[measure] = extra(record, name)["value"]
    order = ("parameters", "arm", "seed", "flops")
    return sorted(found.values(), key=lambda one: tuple(one[key] for key in order))


def scaling_tables(record: Mapping) -> dict[str, Table]:
    """File stem -> table: laws, what documents change where both arms are there, and points."""
    found = {"laws": laws_table(record)}
    if any(name.startswith(tuple(MEETINGS)) for name in record["extra"]):
        found["arms"] = arms_table(record)
    return found | {"points": points_table(record)}


def laws_table(record: Mapping) -> Table:
    """A row for each constant, a column for each arm."""
    arms = record["protocol"]["arms"]
    rows = [
        (title, *(cell(record, f"{arm}.{key}", 4) for arm in arms))
        for key, title in LAW.items()
        if any(extra(record, f"{arm}.{key}") for arm in arms)
    ]
    return Table(
        headers=("", *arms),
        rows=tuple(rows),
        caption="Scaling laws of the held-out loss (95% intervals, points resampled)",
        notes=("N: all parameters, D: all tokens read, C: 6ND", *record["warnings"]),
        numbers=frozenset(range(1, 1 + len(arms))),
    )


def arms_table(record: Mapping) -> Table:
    """With documents minus without: a row for each size, and over sizes."""
    shown = {
        key: about
        for key, about in CHANGES.items()
        if any(name.endswith(f".{key}") for name in record["extra"])
    }
    rows, sizes = [], {size: size for size in record["protocol"]["sizes"]}
    for meeting, title in MEETINGS.items():
        for key, name in (sizes | OVER_SIZES).items():
            cells = [cell(record, f"{meeting}.{key}.{end}", n) for end, (_, n) in shown.items()]
            if any(one != "-" for one in cells):
                rows.append((title, name, *cells))
    return Table(
        headers=("at", "size", *(title for title, _ in shown.values())),
        rows=tuple(rows),
        caption="With retrieved documents against without (mean of training seeds, 95% intervals)",
        notes=(
            "of each size its largest budget; drawings with two documents against none",
            "FID as a ratio, below 1 where documents help; losses and shares as differences",
        ),
        numbers=frozenset(range(2, 2 + len(shown))),
    )


def points_table(record: Mapping) -> Table:
    """A row for each point."""
    points = points_of(record)
    drawn = sorted({key for one in points for key in one if "fid_with" in key})
    rows = tuple(
        (
            f"{one['size']}, {one['arm']}, seed {one['seed']}",
            f"{one['parameters'] / 1e6:.2f}M",
            f"{one['tokens'] / 1e6:.3g}M",
            f"{one['flops']:.3g}",
            f"{one['held_out_loss']:.4f}",
            f"{one['held_out_image']:.4f}",
            f"{one['held_out_tail_image']:.4f}",
            *(f"{one[key]:.1f}" if key in one else "-" for key in drawn),
        )
        for one in points
    )
    heads = ("run", "N", "D", "FLOPs", "loss", "pictures", "entities' pictures")
    return Table(
        headers=(*heads, *(key.replace(".fid_with_", " FID, ") for key in drawn)),
        rows=rows,
        caption="Points of the sweep (nats a token on held-out pairs)",
        numbers=frozenset(range(1, len(heads) + len(drawn))),
    )


def scaling_plots(record: Mapping, folder: Path | str) -> list[Path]:
    """`curves` (loss by size), `isoflop` where a budget has three sizes, `compute` (loss against
    FLOPs with and without documents), `gains` (what documents change at equal FLOPs) where both
    arms are there, each as .svg and .png.
    """
    points, paths = points_of(record), []
    arms = record["protocol"]["arms"]

    def panels(stem: str, one) -> None:
        def draw(figure) -> None:
            every = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
            for axes, arm in zip(every, arms, strict=True):
                one(axes, [point for point in points if point["arm"] == arm])
                axes.set_title(arm, fontsize=9)
                _style(axes)

        paths.extend(saved(draw, (4.2 * len(arms), 3.2), folder, stem))

    panels("curves", curves)
    if any(len(some) >= 3 for some in _groups(points, "budget").values()):
        panels("isoflop", valleys)

    def both(figure) -> None:
        axes = figure.subplots()
        for place, arm in enumerate(arms):
            compute(axes, record, [point for point in points if point["arm"] == arm], arm, place)
        _style(axes)

    paths += saved(both, (4.8, 3.4), folder, "compute")
    if len(arms) == 2:
        paths += saved(partial(gains, points), (8.4, 3.2), folder, "gains")
    return paths


def gains(points: Sequence[Mapping], figure) -> None:
    """What documents change of both losses at equal FLOPs: the seeds, and a line of their means for
    each size.
    """
    every = figure.subplots(1, 2, sharex=True)
    for axes, measure, title in zip(
        every, ("held_out_image", "held_out_tail_image"), ("pictures", "entities' pictures"),
        strict=True,
    ):  # fmt: skip
        for place, (size, some) in enumerate(_groups(points, "size").items()):
            seeds = {(one["arm"], one["seed"], one["budget"]): one[measure] for one in some}
            met = [
                key[1:] for key in seeds if key[0] == "documents" and ("plain", *key[1:]) in seeds
            ]
            changes: dict[float, list[float]] = {}
            for seed, budget in sorted(met, key=lambda one: one[1]):
                change = seeds["documents", seed, budget] - seeds["plain", seed, budget]
                changes.setdefault(budget, []).append(change)
            colour = COLOURS[place % len(COLOURS)]
            means = [sum(one) / len(one) for one in changes.values()]
            axes.plot(list(changes), means, marker="o", ms=4, color=colour, label=size)
            for budget, each in changes.items():
                axes.plot([budget] * len(each), each, lw=0, marker=".", ms=3, color=colour)
        axes.axhline(0, color="#888888", lw=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xscale("log")
        axes.set_xlabel("FLOPs of the training (6ND)")
        axes.grid(color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("with documents - without, nats a token")
    every[1].legend(frameon=False, fontsize=7)


def curves(axes, points: Sequence[Mapping]) -> None:
    """Loss against tokens, a line for each size: its budgets, the mean of its seeds."""
    for place, (size, some) in enumerate(_groups(points, "size").items()):
        means = [_mean(each) for each in _groups(some, "budget").values()]
        axes.plot(
            [one["tokens"] for one in means], [one["held_out_loss"] for one in means],
            marker="o", ms=4, color=COLOURS[place % len(COLOURS)], label=size,
        )  # fmt: skip
    axes.set_xlabel("tokens read")


def valleys(axes, points: Sequence[Mapping]) -> None:
    """Loss against size, a line for each budget."""
    for place, (budget, some) in enumerate(_groups(points, "budget").items()):
        means = [_mean(each) for each in _groups(some, "parameters").values()]
        axes.plot(
            [one["parameters"] for one in means], [one["held_out_loss"] for one in means],
            marker="o", ms=4, color=COLOURS[place % len(COLOURS)], label=f"{budget:.2g} FLOPs",
        )  # fmt: skip
    axes.set_xlabel("parameters")


def compute(axes, record: Mapping, points: Sequence[Mapping], arm: str, place: int) -> None:
    """Every point, and the least loss that the arm's law gives each budget."""
    axes.plot(
        [one["flops"] for one in points], [one["held_out_loss"] for one in points],
        lw=0, marker=MARKERS[arm], ms=4, color=COLOURS[place], label=arm,
    )  # fmt: skip
    names = ("E", "A", "B", "alpha", "beta")
    law = {key: extra(record, f"{arm}.chinchilla_{key}") for key in names}
    if all(law.values()) and points:
        value = {key: entry["value"] for key, entry in law.items()}
        ends = min(one["flops"] for one in points), max(one["flops"] for one in points)
        flops = [ends[0] * (ends[1] / ends[0]) ** (k / 40) for k in range(41)]
        axes.plot(flops, [_least(value, one) for one in flops], color=COLOURS[place], lw=1)
    axes.set_xlabel("FLOPs of the training (6ND)")


def _least(law: Mapping[str, float], flops: float) -> float:
    """The least loss of a budget by Chinchilla's law (2203.15556, eq. 4)."""
    total = law["alpha"] + law["beta"]
    if not (law["A"] > 0 and law["B"] > 0 and law["alpha"] > 0 and law["beta"] > 0):
        return float("nan")
    ratio = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / total)
    size = ratio * (flops / 6) ** (law["beta"] / total)
    tokens = flops / 6 / size
    return law["E"] + law["A"] * size ** -law["alpha"] + law["B"] * tokens ** -law["beta"]


def _style(axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("held-out loss, nats a token")
    axes.grid(color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)


def _groups(points: Sequence[Mapping], key: str) -> dict:
    found: dict = {}
    for one in points:
        found.setdefault(one[key], []).append(one)
    return dict(sorted(found.items())) if key != "size" else found


def _mean(points: Sequence[Mapping]) -> dict[str, float]:
    keys = ("tokens", "parameters", "held_out_loss")
    return {key: sum(one[key] for one in points) / len(points) for key in keys}
