"""Figures of `ablate_decoding`: Figure 4's two panels and the surface of CD-K."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cm3leon.reports import extra
from cm3leon.reports.benches.decoding import (
    STRATEGIES,
    TITLES,
    counts,
    floor_of,
    guidance_rows,
    sizes_of,
)
from cm3leon.reports.plots import BLUE, GREY, INK, mark_floor, saved

COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7")  # Okabe-Ito
MARKERS = ("o", "s", "^", "D")


def decoding_plots(record: Mapping, folder: Path | str) -> list[Path]:
    """`figure4` and `surface` as .svg and .png, of the parts that the record has."""
    parts, paths = record["protocol"]["parts"], []
    panels = [part for part in ("guidance", "pool") if part in parts]
    if panels:
        size = (3.7 * len(panels), 3.1)
        paths += saved(lambda figure: figure4(figure, record, panels), size, folder, "figure4")
    if "surface" in parts:
        paths += saved(lambda figure: surface(figure, record), (7.4, 2.9), folder, "surface")
    return paths


def figure4(figure, record: Mapping, panels: list[str]) -> None:
    """Left: FID against the guidance weight. Right: against samples a prompt. Each above the floor:
    as many real pictures.
    """
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, part in zip(all_axes, panels, strict=True):
        (_guidance if part == "guidance" else _pool)(axes, record)
        mark_floor(axes, floor_of(record, part), label="real pictures (floor)")
        axes.set_ylabel(f"{record['protocol']['features']} FID (lower is better)")
        axes.grid(axis="y", color="#dddddd", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0), high + 0.2 * (high - low))  # room for the legend
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")


def _guidance(axes, record: Mapping) -> None:
    sizes = sizes_of(record)
    for place, size in enumerate(sizes):
        rows = guidance_rows(record, size)
        points = [
            (weight * (1 + 0.012 * place), extra(record, f"guidance.{name}.fid"))
            for weight, name in rows
        ]
        _line(axes, points, place, size)
        best = extra(record, f"guidance.{size}.best_weight")["value"]
        lowest = extra(record, f"guidance.{dict(rows)[best]}.fid")["value"]
        axes.plot(
            [best * (1 + 0.012 * place)], [lowest], marker="o", ms=11, mfc="none",
            color=COLOURS[place], lw=0,
        )  # fmt: skip
    weights = [weight for weight, _ in guidance_rows(record, sizes[0])]
    _log_ticks(axes, weights)
    axes.set_xlabel("guidance weight (ring: the best)")
    axes.set_title("val, temperature 1", fontsize=9, color=GREY)


def _pool(axes, record: Mapping) -> None:
    for place, name in enumerate(STRATEGIES):
        points = [
            (count * (1 + 0.04 * (place - 1.5)), extra(record, f"pool.{name}-n{count}.fid"))
            for count in counts(record)
        ]
        _line(axes, points, place, TITLES[name])
    _log_ticks(axes, counts(record))
    axes.set_xlabel("samples a prompt, the nearest by CLIP kept")
    axes.set_title("test, settings of val", fontsize=9, color=GREY)


def _line(axes, points: list[tuple[float, dict]], place: int, label: str) -> None:
    values = [entry["value"] for _, entry in points]
    axes.errorbar(
        [at for at, _ in points],
        values,
        yerr=[
            [max(0.0, entry["value"] - entry["low"]) for _, entry in points],
            [max(0.0, entry["high"] - entry["value"]) for _, entry in points],
        ],
        color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], ms=4, lw=1.3,
        elinewidth=0.8, capsize=2, label=label,
    )  # fmt: skip


def _log_ticks(axes, places: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{one:g}" for one in places])
    axes.xaxis.minorticks_off()


def surface(figure, record: Mapping) -> None:
    """FID, and the distance of two drawings of one caption, over k (rows) and alpha."""
    plan = record["protocol"]["plan"]
    names = {"fid": "FID (lower is better)", "apart": "two drawings apart (higher: more diverse)"}
    both = figure.subplots(1, 2)
    for axes, (measure, title) in zip(both, names.items(), strict=True):
        table = [
            [
                extra(record, f"surface.k{k}-a{f'{alpha:g}'.replace('.', '_')}.{measure}")
                for alpha in plan["alphas"]
            ]
            for k in plan["ks"]
        ]
        values = [[entry["value"] for entry in row] for row in table]
        colours = "viridis_r" if measure == "fid" else "viridis"
        shown = axes.imshow(values, cmap=colours, aspect="auto")
        low, high = shown.get_clim()
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                dark = (value - low) / max(high - low, 1e-9)
                dark = dark > 0.5 if measure == "fid" else dark < 0.5
                axes.text(
                    x, y, f"{value:.1f}", ha="center", va="center", fontsize=8,
                    color="white" if dark else INK,
                )  # fmt: skip
        axes.set_xticks(range(len(plan["alphas"])), [f"{alpha:g}" for alpha in plan["alphas"]])
        axes.set_yticks(range(len(plan["ks"])), [str(k) for k in plan["ks"]])
        axes.set_xlabel("alpha")
        axes.set_ylabel("k")
        limit = extra(record, f"surface.greedy.{measure}")
        said = f"greedy limit: {limit['value']:.1f}"
        if measure == "fid" and (floor := floor_of(record, "surface")):
            said += f", real pictures (floor): {floor['value']:.1f}"
        axes.set_title(f"{title}\n{said}", fontsize=9)
        axes.tick_params(length=0)
