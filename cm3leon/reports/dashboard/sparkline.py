"""Small SVG drawings of a history: one line of a table, and one panel with axes.

Colours come from the page's style sheet (classes k0 .. k5), so that both themes can be read; each
system has a shape and a dash of its own too. Elements carry `data-run`, the place of the run in the
page's data, for the filter. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from cm3leon.reports.dashboard.history import BETTER, WORSE, Panel, Series, commit
from cm3leon.reports.tables import number, span

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "plus")
SMALL = (132, 34, 6)  # width, height, margin of a line of a table
LARGE = (460, 236)  # width, height of a panel
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 34  # its margins
DATE = 92  # width of a date below a panel, at the largest size of its letters


def sparkline(series: Series) -> str:
    """A line over the runs with the band of their intervals; better and worse runs stand out."""
    width, height, margin = SMALL
    records = [run.record for run in series.runs]
    low, high = bounds(records)
    right = _steps(len(records), margin, width - margin)
    spots = [
        (x, *(_level(end, low, high, margin, height - margin) for end in ends(record)))
        for x, record in zip(right, records, strict=True)
    ]
    parts = _band(spots) if len(spots) > 1 else []
    for run, (x, bottom, top, y) in zip(series.runs, spots, strict=True):
        bar = f'<path class="bar" d="M{x:.1f} {bottom:.1f}V{top:.1f}"/>' if len(spots) == 1 else ""
        kind = {BETTER: "better", WORSE: "worse"}.get(run.mark, "")
        dot = _shape("triangle" if kind == "worse" else "circle", x, y, 3.2 if kind else 1.7)
        parts.append(f'<g class="dot {kind}" data-run="{run.number}">{bar}{dot}</g>')
    return _svg(width, height, "spark", *_spark_words(series), parts)


def panel_plots(panel: Panel) -> list[tuple[str, list[str]]]:
    """Values with intervals over runs in order, on the same axes: (drawing, its six systems)."""
    runs = [run for series in panel.series for run in series.runs]
    runs.sort(key=lambda run: run.number)
    records = [run.record for run in runs]
    low, high = bounds(records)
    xs = _steps(len(runs), LEFT + 12, LARGE[0] - RIGHT - 8)
    places = {run.number: x for run, x in zip(runs, xs, strict=True)}
    frame = [*_value_axis(low, high), *_date_axis(records, xs)]
    plots = []
    for start in range(0, len(panel.series), len(SHAPES)):
        part = panel.series[start : start + len(SHAPES)]
        drawn = [_lines(one, look, places, (low, high)) for look, one in enumerate(part)]
        names = [series.system for series in part]
        words = (
            f"{records[0]['unit']} of {', '.join(names)}",
            f"{len(runs)} runs from {records[0]['date'][:10]} to {records[-1]['date'][:10]}, "
            f"{records[0]['better']} is better; the table below has the numbers",
        )
        plots.append((_svg(*LARGE, "plot", *words, [*frame, *drawn]), names))
    return plots


def swatch(look: int) -> str:
    """Line and shape of a system in a panel, for its legend; said in words beside it."""
    line = f'<path class="line" d="M1 8H29"/>{_shape(SHAPES[look], 15, 8, 4.2)}'
    return (
        f'<svg class="swatch k{look}" viewBox="0 0 30 16" width="30" height="16" '
        f'aria-hidden="true" focusable="false">{line}</svg>'
    )


def bounds(records: Sequence[Mapping]) -> tuple[float, float]:
    """Lowest and highest of all values and intervals, apart from one another."""
    every = [end for record in records for end in ends(record)]
    low, high = min(every), max(every)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low, high


def ends(record: Mapping) -> tuple[float, float, float]:
    """(low, high, value); the value thrice where there is no interval."""
    value, interval = record["value"], record["interval"]
    return (interval["low"], interval["high"], value) if interval else (value, value, value)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers inside [low, high], at most `most`, in steps of 1, 2 or 5."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20, 50)):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first + 1 <= most:
            break
    return [place * step for place in range(first, last + 1)]


def _lines(series: Series, look: int, places: Mapping[int, float], scale: tuple) -> str:
    """The line, intervals and points of one system."""
    spots = []
    for run in series.runs:
        bottom, top, y = (_level(end, *scale, TOP, LARGE[1] - BOTTOM) for end in ends(run.record))
        spots.append((run, places[run.number], bottom, top, y))
    line = " ".join(f"{x:.1f},{y:.1f}" for _, x, _, _, y in spots)
    parts = [f'<polyline class="line" points="{line}"/>'] if len(spots) > 1 else []
    for run, x, bottom, top, y in spots:
        bar = f"M{x:.1f} {bottom:.1f}V{top:.1f}"
        if bottom != top:
            bar += f"M{x - 3:.1f} {bottom:.1f}h6M{x - 3:.1f} {top:.1f}h6"
        parts.append(
            f'<g class="dot" data-run="{run.number}"><title>{escape(said(run.record))}'
            f'</title><path class="bar" d="{bar}"/>{_shape(SHAPES[look], x, y, 4.2)}</g>'
        )
    return f'<g class="k{look}" data-system="{escape(series.system)}">{"".join(parts)}</g>'


def said(record: Mapping) -> str:
    """A run in one line of text."""
    low, high, value = ends(record)
    interval = f" {span(value, low, high)}" if record["interval"] else ""
    name, day = record["system"]["name"], record["date"][:10]
    return f"{name}, {day}, {commit(record)}: {number(value)}{interval}"


def _value_axis(low: float, high: float) -> list[str]:
    parts, values = [], ticks(low, high)
    places = max((len(f"{value:.6g}".partition(".")[2]) for value in values), default=0)
    for value in values:
        y = _level(value, low, high, TOP, LARGE[1] - BOTTOM)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{LARGE[0] - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.{places}f}</text>'
        )
    return parts


def _date_axis(records: Sequence[Mapping], xs: Sequence[float]) -> list[str]:
    """The base line, and below the first run of a day its date, where there is room."""
    base, left, right = LARGE[1] - BOTTOM + 8, LEFT, LARGE[0] - RIGHT
    parts = [f'<path class="axis" d="M{left} {base}H{right}"/>']
    days = list(
        {one["date"][:10]: x for one, x in zip(records[::-1], xs[::-1], strict=True)}.items()
    )
    taken: list[float] = []
    for day, x in (days[-1], days[0], *days[-2:0:-1]):  # the first, the last, what lies between
        middle = min(max(x, left + DATE / 2), right - DATE / 2)
        if any(abs(middle - other) < DATE for other in taken):
            continue
        taken.append(middle)
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        parts.append(f'<text x="{middle:.1f}" y="{base + 18}" text-anchor="middle">{day}</text>')
    return parts


def _spark_words(series: Series) -> tuple[str, str]:
    record, count = series.newest, len(series.runs)
    title = f"{record['unit']} of {series.system}, {count} run{'s' if count > 1 else ''}"
    if count == 1:
        return title, said(record)
    return title, f"from {said(series.runs[0].record)} to {said(record)}"


def _band(spots: Sequence[tuple]) -> list[str]:
    """Line through the values and the band of the intervals; spots are (x, low, high, value)."""
    edge = [f"{x:.1f},{low:.1f}" for x, low, _, _ in spots]
    edge += [f"{x:.1f},{high:.1f}" for x, _, high, _ in reversed(spots)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, _, _, y in spots)
    return [
        f'<polygon class="band" points="{" ".join(edge)}"/>',
        f'<polyline class="line" points="{line}"/>',
    ]


def _steps(count: int, left: float, right: float) -> list[float]:
    """`count` places at equal distances; a single one in the middle."""
    if count == 1:
        return [(left + right) / 2]
    return [left + (right - left) * place / (count - 1) for place in range(count)]


def _level(value: float, low: float, high: float, top: float, bottom: float) -> float:
    return bottom - (value - low) / (high - low) * (bottom - top)


def _shape(shape: str, x: float, y: float, r: float) -> str:
    """A filled shape of radius r; cross and plus are strokes."""
    if shape == "circle":
        return f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    paths = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "triangle": ((0, -1.2 * r), (1.1 * r, 0.9 * r), (-1.1 * r, 0.9 * r)),
        "diamond": ((0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)),
    }
    if shape in paths:
        corners = "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in paths[shape])
        return f'<path class="fill" d="M{corners}Z"/>'
    if shape == "plus":
        strokes = f"M{x - r:.1f} {y:.1f}h{2 * r:.1f}M{x:.1f} {y - r:.1f}v{2 * r:.1f}"
    else:
        strokes = f"M{x - r:.1f} {y - r:.1f}l{2 * r:.1f} {2 * r:.1f}"
        strokes += f"M{x - r:.1f} {y + r:.1f}l{2 * r:.1f} {-2 * r:.1f}"
    return f'<path class="stroke" d="{strokes}"/>'


def _svg(width: int, height: int, kind: str, title: str, text: str, parts: Sequence[str]) -> str:
    label = escape(f"{title}: {text}")
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" '
        f'focusable="false"><title>{escape(title)}</title><desc>{escape(text)}</desc>'
        f"{''.join(parts)}</svg>"
    )
