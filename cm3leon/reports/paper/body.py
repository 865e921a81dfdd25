"""The report's results, samples and limits, section by section."""

from __future__ import annotations

from collections.abc import Sequence

from cm3leon.reports import main_arm
from cm3leon.reports.paper.claims import Finding, hypotheses_tables
from cm3leon.reports.paper.decoding import decoding_section
from cm3leon.reports.paper.figures import Point, scale_figure
from cm3leon.reports.paper.latency import latency_blocks
from cm3leon.reports.paper.limits import limit_items
from cm3leon.reports.paper.model import (
    Block,
    Bullets,
    Missing,
    Paragraph,
    Picture,
    Section,
    emph,
    not_yet,
    prose,
)
from cm3leon.reports.paper.results import (
    Inputs,
    Model,
    Run,
    at,
    columns,
    headline,
    largest,
    level,
    more,
    own,
    value_name,
)
from cm3leon.reports.paper.retrieval import pretraining_section, retrieval_section
from cm3leon.reports.paper.scaling import compute_section, training
from cm3leon.reports.paper.splits import compute_grid, splits_grid
from cm3leon.reports.paper.tables import (
    composition_table,
    fid_table,
    language_table,
    latency_table,
)
from cm3leon.reports.tables import SCALE

PLOTTED = 8  # systems on the scale, best first
SPLITS = 3  # systems shown split by split


def results(inputs: Inputs, found: Sequence[Finding]) -> tuple[Section, ...]:
    """Every section of results, in the order of the paper's tables and figures."""
    return (
        Section(
            "results",
            "Results",
            (
                Paragraph(
                    prose(
                        "In the order of the paper's tables and figures, then what its authors "
                        "could not show: the ablations, and a verdict on each claim."
                    )
                ),
            ),
        ),
        text_to_image(inputs),
        image_to_text(inputs),
        composition(inputs),
        compute_section(inputs),
        training(inputs),
        decoding_section(inputs),
        latency(inputs),
        retrieval_section(inputs),
        pretraining_section(inputs),
        Section(
            "claims",
            "The claims, one by one",
            (
                Paragraph(
                    prose(
                        "[#table-claims] says of each claim of the paper what the records say. An "
                        "effect that does not appear here is a result about this tier, not about "
                        "the paper's models."
                    )
                ),
                *hypotheses_tables(found, level(inputs.runs)),
            ),
            level=2,
        ),
    )


def text_to_image(inputs: Inputs) -> Section:
    """Table 1 and the scale of our numbers."""
    command = "nox -s fid_coco"
    groups = headline(columns(inputs.of("fid_coco")))
    blocks: list[Block] = []
    for group in groups:
        blocks.append(Paragraph(_fid_words(inputs, group)))
    if not groups:
        blocks.append(not_yet(command, "No record of FID exists."))
    blocks.append(fid_table(inputs, groups))
    for place, group in enumerate(groups):
        blocks.append(_scale(group, place))
        blocks += [splits_grid(run) for run in group if main_arm(run.record)][:SPLITS]
    twins = largest(inputs.of("equal_compute"))
    if twins is not None:
        blocks.append(compute_grid(twins))
    shown = shown_models(inputs)
    if shown:
        blocks.append(
            Paragraph(
                prose(
                    "[#figure-samples-0] shows what {name} draws for the first captions of the "
                    "split that settings were chosen on; [#pictures] shows the other models.",
                    name=emph(shown[0].name),
                )
            )
        )
        blocks.append(sample_figure(shown[0], 0))
    return Section("text-to-image", "Text to image", tuple(blocks), 2, command)


def _fid_words(inputs: Inputs, group: Sequence[Run]) -> tuple:
    first = group[0]
    said = prose(
        "By one protocol, on {n} captions, {systems} measured ([#table-fid]). {name} is nearest to "
        "the real pictures, with {fid}.",
        n=at(first, "/n"),
        systems="one system is" if len(group) == 1 else f"{_word(len(group))} systems are",
        name=emph(first.system),
        fid=own(first),
    )
    floor, rfid = more(first, "floor"), more(first, "rfid")
    own_kind = more(first, "fid_own")
    if floor and own_kind:
        said += prose(
            " The reference are other real pictures of the split; those the captions were written "
            "for stand there at {floor} ([#figure-scale]). Against the captions' own pictures it "
            "is {own}, where those stand at 0.",
            floor=floor,
            own=own_kind,
        )
    elif floor and rfid:
        said += prose(
            " As many other real pictures stand at {floor}; the reference through the image "
            "tokenizer at {rfid}: it shows the very scenes of the reference ([#figure-scale]).",
            floor=floor,
            rfid=rfid,
        )
    limit = more(first, "fid_infinity")
    if limit:
        said += prose(" Extrapolated to endlessly many pictures it is {limit}.", limit=limit)
    return said + prose(
        " The quoted rows are grouped by what moves FID beside the model: one sample or the best "
        "of several, retrieval, and tuning towards MS-COCO; [#more-quoted] has more of them."
    )


def _word(value: int) -> str:
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return names[value] if value < len(names) else f"{value}"


def _scale(group: Sequence[Run], place: int) -> Picture:
    first = group[0]
    points = []
    for key, label in SCALE.items():
        if key == "ours":
            points += [Point(run.system, own(run)) for run in group[:PLOTTED]]
        elif part := more(first, key):
            points.append(Point(label, part, hollow=True))
    points = sorted(points, key=lambda one: one.y.trace.value)
    points = [one for one in points if one.y.trace.value > 0]  # a log axis
    suffix = f"-{place}" if place else ""
    return Picture(
        label=f"figure-scale{suffix}",
        caption=prose(
            "What {unit} means at {n} captions: {which} (blue, with {level} intervals) between "
            "real pictures and noise. Measured.",
            which="systems" if len(group) <= PLOTTED else "the best systems",
            unit=value_name(first),
            n=at(first, "/n"),
            level=level(group),
        ),
        file=f"scale{suffix}.svg",
        data=scale_figure(points, first.record["unit"]),
        alt="Values on a log axis: " + "; ".join(f"{one.label} {one.y.text}" for one in points),
        numbers=tuple(one.y for one in points),
    )


def image_to_text(inputs: Inputs) -> Section:
    """Table 2: quoted rows; ours are not there."""
    return Section(
        "image-to-text",
        "Image to text",
        (
            Missing(
                prose(
                    "No command measures ours: fine-tuning and its tasks are still to be built "
                    "(`docs/design.md`)."
                )
            ),
            Paragraph(
                prose(
                    "[#table-language] quotes the paper. Its own row is no zero-shot number for "
                    "the data sets that its fine-tuning trains on."
                )
            ),
            language_table(inputs.published),
        ),
        2,
        "none yet: fine-tuning is not built",
    )


def composition(inputs: Inputs) -> Section:
    """GenEval's six scores; a system that says what it draws needs no network to judge it."""
    command = "nox -s fid_coco"
    tables = [composition_table(group) for group in headline(columns(inputs.of("fid_coco")))]
    tables = [table for table in tables if table is not None]
    blocks: list[Block] = [
        Paragraph(
            prose(
                "FID says how alike two sets of pictures are, not whether a picture shows what was "
                "asked for. In the embedded world this is read off the pixels: each picture is "
                "searched for the objects that would have made it, and the caption's questions are "
                "answered from those, as GenEval [@geneval] does with a detector."
            )
        )
    ]
    blocks += tables or [not_yet(command, "No record answers these questions.")]
    return Section("composition", "Composition", tuple(blocks), 2, command)


def latency(inputs: Inputs) -> Section:
    """Figures 10 and 11: seconds an image, throughput."""
    command = "nox -s latency"
    missing = "Seconds an image, and throughput by batch size (the paper's Figures 10 and 11)."
    blocks = latency_blocks(inputs) or [not_yet(command, missing)]
    quoted = Paragraph(
        prose(
            "[#table-latency] quotes what the paper prints; half of it was taken over from Muse "
            "[@muse] and ran on other hardware. The curves of its Figure 11 have no printed values."
        )
    )
    blocks = (*blocks, quoted, latency_table(inputs.published))
    return Section("latency", "Latency and throughput", blocks, 2, command)


def shown_models(inputs: Inputs) -> list[Model]:
    """Models with samples, in the order of Table 1, then the others."""
    best = [run.system for group in headline(columns(inputs.of("fid_coco"))) for run in group]
    have = [model for model in inputs.models if model.samples]
    return sorted(have, key=lambda one: best.index(one.name) if one.name in best else len(best))


def sample_figure(model: Model, place: int) -> Picture:
    """The grid that lies beside a model's weights."""
    return Picture(
        label=f"figure-samples-{place}",
        caption=prose(
            "Drawn by {name} for the first captions of `coco`, `val`: one sample each, none "
            "chosen.",
            name=emph(model.name),
        ),
        file=f"samples-{place}.jpg",
        data=model.samples or b"",
        alt=f"Grid of pictures drawn by {model.name}, each above its caption.",
        wide=True,
        width=0.9 if place == 0 else 0.78,
        floats=place == 0,
    )


def limits(inputs: Inputs) -> Section:
    """What the numbers cannot say, as the records have it."""
    return Section("limits", "Limits", (Bullets(limit_items(inputs)),))
