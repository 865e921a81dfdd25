"""The report's part about speed: one row a configuration, and the plot, from each record."""

from __future__ import annotations

from collections.abc import Sequence

from cm3leon.reports.benches.latency import configurations, grouped_notes, latency_picture
from cm3leon.reports.paper.model import (
    Block,
    Grid,
    Panel,
    Paragraph,
    Picture,
    Row,
    Section,
    code,
    emph,
    prose,
    words,
)
from cm3leon.reports.paper.results import Inputs, Run, at, cell, largest, more
from cm3leon.reports.records.store import device

COLUMNS = {  # measure -> head, places
    "seconds_per_image": ("s/image", None),
    "images_per_s": ("images/s", None),
    "decode_tokens_per_s": ("decode tokens/s", 0),
    "roofline_share": ("share", 3),
}


def latency_blocks(inputs: Inputs) -> Sequence[Block]:
    """The plot of the record with the most configurations; the appendix has their numbers."""
    runs = list(inputs.of("latency"))
    if not runs:
        return []
    shown = largest(runs)
    text = "[#figure-speeds-{place}] shows sizes and types; [#speeds] has all numbers."
    place = runs.index(shown)
    return [Paragraph(prose(text.replace("{place}", str(place)))), speeds_picture(shown, place)]


def speeds(inputs: Inputs) -> Section:
    """Of the appendix: a table of every record of `latency`, and the plots that the body lacks."""
    runs = list(inputs.of("latency"))
    blocks: list[Block] = []
    for place, run in enumerate(runs):
        blocks.append(speeds_table(run, place))
        if run is not largest(runs):
            blocks.append(speeds_picture(run, place, floats=False))
    return Section("speeds", "Speed, every configuration", tuple(blocks))


def speeds_table(run: Run, place: int = 0) -> Grid:
    """Seconds an image, throughput and the roofline's share of every configuration timed."""
    rows = []
    for size, dtype, batch, name in configurations(run.record):
        if more(run, f"{name}.seconds_per_image") is None:
            continue
        batches = run.record["protocol"]["batches"]
        numbers = (cell(run, f"{name}.{one}", places) for one, (_, places) in COLUMNS.items())
        shown = (at(run, f"/protocol/batches/{batches.index(batch)}"),)
        rows.append(Row((words(size), words(dtype), shown, *numbers)))
    heads = ("size", "dtype", "batch", *(head for head, _ in COLUMNS.values()))
    text = (
        "Speed of drawing a picture's tokens, guidance {guidance}, on {device}; protocol {digest}. "
        "Medians of rounds; share: the ideal decode step by ceilings measured in the same run over "
        "the measured one. Measured."
    )
    caption = prose(
        text,
        guidance=at(run, "/protocol/guidance"),
        device=emph(device(run.record)),
        digest=code(run.record["protocol_digest"][:8]),
    )
    panel = Panel(tuple(map(words, heads)), tuple(rows), "llrrrrr", stacked=True)
    notes = tuple(map(words, grouped_notes(run.record)))
    return Grid(f"table-speeds-{place}", caption, (panel,), notes, wide=True, floats=False)


def speeds_picture(run: Run, place: int = 0, floats: bool = True) -> Picture:
    """Seconds an image and the roofline's share against the batch."""
    return Picture(
        label=f"figure-speeds-{place}",
        caption=prose(
            "Seconds an image and the share of the roofline against the batch (after the paper's "
            "Figures 10 and 11). Measured on {device}.",
            device=emph(device(run.record)),
        ),
        file=f"latency-{place}.svg",
        data=latency_picture(run.record),
        alt="Two panels: seconds an image, and share of the roofline, against the batch.",
        wide=True,
        floats=floats,
    )
