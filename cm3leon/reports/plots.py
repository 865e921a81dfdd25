"""Figures: FID on its scale (SVG, PNG), captioned grids of pictures (PNG). Same input, same bytes.

Shapes: N pictures, H W pixels.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cm3leon.files import write_atomic
from cm3leon.reports import extra, own
from cm3leon.reports.tables import features_name, number, span

BLUE, GREY, INK = "#0072B2", "#6e6e6e", "#222222"  # Okabe-Ito blue: all eyes tell it from grey
STYLE = {"svg.hashsalt": "cm3leon", "font.size": 9, "font.family": ["DejaVu Sans"]}
CELL = 176  # pixels a picture of the grid is enlarged to, at least
FONT_SIZE, LINE, GAP, LINES = 13, 17, 14, 4  # of the grid's captions, in pixels (LINES: at most)
ROWS = (  # of the scale, from the best possible down
    ("floor", "real against real\n(floor)"),
    ("rfid", "reconstructions\n(rFID)"),
    ("ours", "{name}"),
    ("ceiling", "noise\n(ceiling)"),
)


def fid_scale_plot(record: Mapping, folder: Path | str, stem: str = "fid_scale") -> list[Path]:
    """Points with intervals on a log axis: floor, rFID, the system, noise. Writes .svg and .png.

    Values at or below zero cannot stand on a log axis: they are drawn at its left end, marked `<=`.
    """
    rows = [
        (label.format(name=record["system"]["name"]), entry, key == "ours")
        for key, label in ROWS
        if (entry := own(record) if key == "ours" else extra(record, key)) is not None
    ]

    def draw(figure) -> None:
        _draw_scale(figure.add_subplot(), rows, record)

    size = 6.4, 0.5 * len(rows) + 0.9
    return saved(draw, size, folder, stem, STYLE | {"font.size": 10})


def saved(
    draw: Callable, size: tuple[float, float], folder: Path | str, stem: str, style: Mapping = STYLE
) -> list[Path]:
    """Write what `draw(figure)` draws as <stem>.svg and .png; `size` in inches."""
    return [
        write_atomic(Path(folder) / f"{stem}.{ending}", drawn(draw, size, ending, style))
        for ending in ("svg", "png")
    ]


def drawn(
    draw: Callable, size: tuple[float, float], ending: str = "svg", style: Mapping = STYLE
) -> bytes:
    """What `draw(figure)` draws, as the bytes of a file without a date."""
    import matplotlib
    from matplotlib.figure import Figure

    metadata = {"Date": None, "Creator": None} if ending == "svg" else {"Software": None}
    out = io.BytesIO()
    with matplotlib.rc_context(dict(style)):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(out, format=ending, dpi=160, metadata=metadata)
    return out.getvalue()


def mark_floor(axes, floor: Mapping | None, colour: str = GREY, label: str = "floor") -> None:
    """A dashed line where as many real pictures stand, its interval as a band; nothing for None."""
    if floor is None:
        return
    axes.axhline(floor["value"], color=colour, lw=1, ls="--", label=label)
    if floor["low"] is not None:
        axes.axhspan(floor["low"], floor["high"], color=colour, alpha=0.12, lw=0)


def sample_grid(images, captions: Sequence[str], path: Path | str, columns: int = 6) -> Path:
    """One PNG of pictures uint8 [N, H, W, 3], each above its caption (four lines at most).

    Small pictures are enlarged by a whole factor (Lanczos).
    Raises ValueError for another shape or type, no picture, or captions of another number.
    """
    import numpy as np
    from PIL import Image

    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"images must be uint8 [N, H, W, 3], got {images.dtype} {images.shape}")
    if len(captions) != len(images) or columns < 1:
        raise ValueError(
            f"a grid needs one caption a picture and columns >= 1, "
            f"got {len(captions)} captions, {len(images)} pictures, {columns} columns"
        )
    height, width = (side * _factor(images.shape[2]) for side in images.shape[1:3])
    font = _font()
    texts = [_wrap(caption, font, width) for caption in captions]
    columns = min(columns, len(images))
    tops, top = [], GAP
    for start in range(0, len(images), columns):
        tops.append(top)
        top += height + 6 + LINE * max(map(len, texts[start : start + columns])) + GAP
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), top), "white")
    for index, (image, lines) in enumerate(zip(images, texts, strict=True)):
        place = GAP + index % columns * (width + GAP), tops[index // columns]
        _captioned(sheet, image, (width, height), place, lines)
    return _png(sheet, path)


def _captioned(
    sheet, image, size: tuple[int, int], place: tuple[int, int], lines: Sequence[str]
) -> None:
    """Put a picture onto a sheet, enlarged to a size in pixels, and its caption below it."""
    from PIL import Image, ImageDraw

    sheet.paste(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), place)
    pen, font, below = ImageDraw.Draw(sheet), _font(), place[1] + size[1] + 6
    for row, line in enumerate(lines):
        pen.text((place[0], below + LINE * row), line, fill=INK, font=font)


def _png(sheet, path: Path | str) -> Path:
    out = io.BytesIO()
    sheet.save(out, format="PNG", optimize=True)
    return write_atomic(path, out.getvalue())


def picture_page(
    rows: Sequence[Sequence],
    captions: Sequence[Sequence[str]],
    prompts: Sequence[str],
    heads: Sequence[str],
    path: Path | str,
) -> Path:
    """One PNG: per row its prompt as a title, below it pictures uint8 [H, W, 3] with captions.

    `heads` stand above the columns. Raises ValueError when the parts differ in number.
    """
    from PIL import Image, ImageDraw

    if not rows or not len(rows) == len(captions) == len(prompts):
        raise ValueError(
            f"a page needs captions and a prompt for each row, got {len(rows)} rows, "
            f"{len(captions)} captions, {len(prompts)} prompts"
        )
    if any(len(row) != len(heads) or len(texts) != len(heads)
           for row, texts in zip(rows, captions, strict=True)):  # fmt: skip
        raise ValueError(f"every row of a page needs {len(heads)} pictures and captions")
    height, width = (side * _factor(rows[0][0].shape[1]) for side in rows[0][0].shape[:2])
    font, columns = _font(), len(heads)
    texts = [[_wrap(text, font, width) for text in line] for line in captions]
    block = [LINE + 8 + height + 6 + LINE * max(map(len, line)) + GAP for line in texts]
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), GAP + LINE + sum(block)), "white")
    pen, top = ImageDraw.Draw(sheet), GAP + LINE
    for column, head in enumerate(heads):
        pen.text((GAP + column * (width + GAP), GAP // 2), head, fill=GREY, font=font)
    for row, line, prompt, tall in zip(rows, texts, prompts, block, strict=True):
        pen.text((GAP, top), f"“{prompt}”", fill=BLUE, font=font)
        for column, (image, words) in enumerate(zip(row, line, strict=True)):
            place = GAP + column * (width + GAP), top + LINE + 8
            _captioned(sheet, image, (width, height), place, words)
        top += tall
    return _png(sheet, path)


def _draw_scale(axes, rows, record: Mapping) -> None:
    numbers = [entry[part] for _, entry, _ in rows for part in ("value", "low", "high")]
    positive = [value for value in numbers if value is not None and value > 0] or [1.0]
    left, right = min(positive) / 1.6, max(positive) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    middle = math.sqrt(left * right)
    for height, (_, entry, ours) in zip(range(len(rows), 0, -1), rows, strict=True):
        colour = BLUE if ours else GREY
        value, low, high = (entry[part] for part in ("value", "low", "high"))
        place = max(value, left)
        low, high = (place if end is None else max(end, left) for end in (low, high))
        axes.plot(
            [low, high], [height] * 2, "|-", color=colour, lw=1.5, ms=11, mew=1.5, clip_on=False
        )
        marker = ("o" if value > 0 else "<", 8 if ours else 6)
        axes.plot([place], [height], marker[0], color=colour, ms=marker[1], clip_on=False)
        text = f"{number(value)}  {span(value, entry['low'], entry['high'])}".rstrip()
        side = 1 if place < middle else -1  # the text stands where there is room
        axes.annotate(
            text if value > 0 else f"<= {number(left)} ({text})",
            (high if side > 0 else low, height), (10 * side, 0), textcoords="offset points",
            ha="left" if side > 0 else "right", va="center_baseline",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            color=colour, weight="bold" if ours else "normal",
        )  # fmt: skip
    axes.set_yticks(range(len(rows), 0, -1), [label for label, _, _ in rows])
    for tick, (_, _, ours) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(BLUE if ours else INK)
        tick.set_fontweight("bold" if ours else "normal")
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="major", color="#dddddd", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(
        f"{record['unit']} ({features_name(record)} features, n = {record['n']:,}; "
        f"{record['better']} is better, log scale)"
    )


def _factor(width: int) -> int:
    return max(1, -(-CELL // width))


@functools.cache
def _font():
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), FONT_SIZE)


def _fitting(word: str, font, width: int) -> int:
    """How many of a word's first letters are no wider than `width` pixels; at least 1."""
    fits = 1
    while fits < len(word) and font.getlength(word[: fits + 1]) <= width:
        fits += 1
    return fits


def _wrap(caption: str, font, width: int) -> list[str]:
    """Lines no wider than `width` pixels, at most LINES of them; a cut is shown by an ellipsis."""
    words = "".join(char if char.isprintable() else " " for char in caption).split()
    lines, line = [], ""
    while words and len(lines) <= LINES:  # what comes after is cut off anyway
        word = words.pop(0)
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
        elif line:
            lines.append(line)
            line, words = "", [word, *words]
        else:  # one word wider than the picture
            fits = _fitting(word, font, width)
            lines.append(word[:fits])
            words = [word[fits:], *words] if word[fits:] else words
    if line or not lines:
        lines.append(line)
    if len(lines) <= LINES:
        return lines
    last = lines[LINES - 1]
    while last and font.getlength(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: LINES - 1], f"{last.rstrip()}…"]
