"""The report's section about decoding: the paper's Figure 4, CD-K's surface, text."""

from __future__ import annotations

from cm3leon.reports.benches import decoding, decoding_figures
from cm3leon.reports.paper.figures import COLUMN, PAGE, svg
from cm3leon.reports.paper.model import (
    Block,
    Grid,
    Panel,
    Paragraph,
    Picture,
    Row,
    Section,
    emph,
    not_yet,
    prose,
    words,
)
from cm3leon.reports.paper.results import Inputs, Run, at, cell, largest

COMMAND = "nox -s ablate_decoding"


def decoding_section(inputs: Inputs) -> Section:
    """Figure 4: guidance weight and samples a prompt; what contrastive decoding does."""
    run = largest(inputs.of("ablate_decoding"))
    if run is None:
        missing = "Guidance weight, samples a prompt, CD-K beside top-p (Figure 4)."
        return Section("decoding", "Decoding", (not_yet(COMMAND, missing),), 2, COMMAND)
    parts = run.record["protocol"]["parts"]
    blocks: list[Block] = [Paragraph(_setting_words(run))]
    if "guidance" in parts or "pool" in parts:
        blocks.append(figure4(run))
    if "pool" in parts:
        blocks.append(pool_grid(run))
    if "surface" in parts:
        blocks.append(surface_figure(run))
    if "captions" in parts:
        blocks.append(captions_grid(run))
    absent = [part for part in ("guidance", "pool", "surface", "captions") if part not in parts]
    if absent:
        blocks.append(not_yet(COMMAND, f"The run at hand has no {', '.join(absent)}."))
    return Section("decoding", "Decoding", tuple(blocks), 2, COMMAND)


def _setting_words(run: Run):
    return prose(
        "Settings are swept on captions of val; the pool of samples and the captions are of test, "
        "at the settings that were best on val. {name} draws; FID is by the features of the "
        "embedded world against 1,000 real pictures, at n far below that of [#table-fid], and "
        "only its ratios inside one panel are of use. Of CD-K the conditional stream is the expert "
        "and the unconditional one the amateur.",
        name=emph(run.system),
    )


def figure4(run: Run) -> Picture:
    """FID against the guidance weight, and against samples a prompt."""
    parts = run.record["protocol"]["parts"]
    panels = [part for part in ("guidance", "pool") if part in parts]
    width = PAGE if len(panels) == 2 else COLUMN
    data = svg(lambda figure: decoding_figures.figure4(figure, run.record, panels), (width, 2.6))
    return Picture(
        label="figure-decoding",
        caption=prose(
            "FID against the guidance weight by size, and against the samples a prompt of which "
            "CLIP keeps the nearest (after the paper's Figure 4). Bars: intervals over captions; "
            "dashed: what as many real pictures reach (floor), where the run measured it. Measured."
        ),
        file="decoding.svg",
        data=data,
        alt="Two panels: FID against guidance weight, and against samples a prompt.",
        wide=len(panels) == 2,
    )


def surface_figure(run: Run) -> Picture:
    """CD-K over k and alpha."""
    data = svg(lambda figure: decoding_figures.surface(figure, run.record), (PAGE, 2.5))
    return Picture(
        label="figure-surface",
        caption=prose(
            "CD-K over k and alpha at temperature 1: FID, and how far apart two drawings of one "
            "caption are. The greedy limit is k = 1 with the likeliest token taken. Measured."
        ),
        file="surface.svg",
        data=data,
        alt="Two heat maps over k and alpha: FID, and distance of two drawings.",
        wide=True,
    )


def pool_grid(run: Run) -> Grid:
    """FID by strategy and samples a prompt."""
    numbers = decoding.counts(run.record)
    rows = [
        Row(
            (
                words(decoding.TITLES[name]),
                *(cell(run, f"pool.{name}-n{count}.fid") for count in numbers),
                cell(run, f"pool.{name}-n{numbers[-1]}.right"),
            )
        )
        for name in decoding.STRATEGIES
    ]
    heads = ("strategy", *(f"best of {count}" for count in numbers), f"composition, {numbers[-1]}")
    panel = Panel(tuple(map(words, heads)), tuple(rows), "l" + "r" * (len(heads) - 1), stacked=True)
    caption = prose(
        "FID on test against samples a prompt, the nearest by CLIP kept, {n} captions. Measured.",
        n=at(run, "/n"),
    )
    return Grid("table-pool", caption, (panel,), (), wide=True)


def captions_grid(run: Run) -> Grid:
    """Captions and infilled words by the chosen way of each family."""
    chosen = run.record["protocol"]["captions_chosen"]
    rows = [
        Row(
            (
                words(chosen[family].replace("_", ".")),
                *(cell(run, f"captions_test.{family}.{one}") for one in decoding.CAPTIONS),
            )
        )
        for family in chosen
    ]
    heads = ("way", *decoding.CAPTIONS.values())
    panel = Panel(tuple(map(words, heads)), tuple(rows), "l" + "r" * (len(heads) - 1), stacked=True)
    caption = prose(
        "Text on test by the best way of each family on val: captioning by CIDEr-D, BLEU-4 and "
        "truth against the scene, and two hidden words of a caption filled in. Measured."
    )
    return Grid("table-captions", caption, (panel,), (), wide=True)
