"""The report of all results, as PDF and HTML from one content: nox -s report

    python -m cm3leon.reports.paper.main --out FOLDER     cm3leon-report.pdf, .html and .json

The JSON holds every number with the file and the place in it that it came from. Same results, same
bytes. Cost: about ten seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cm3leon.files import shipped_folder, write_atomic
from cm3leon.reports import (
    OUT,
    PUBLISHED,
    called,
    guarded,
    read_json,
    read_published,
)
from cm3leon.reports.paper.claims import findings
from cm3leon.reports.paper.figures import jpeg
from cm3leon.reports.paper.html import to_html
from cm3leon.reports.paper.model import Document, report_data, walk
from cm3leon.reports.paper.results import Inputs, Model, Run, resolve
from cm3leon.reports.paper.sections import written
from cm3leon.reports.paper.text import references
from cm3leon.reports.paper.typst import to_pdf, to_png
from cm3leon.reports.records.store import RESULTS, NothingThere, digest, is_trial, read_files

TITLE = "CM3Leon in the open: measured, quoted, missing"
AUTHORS = "The cm3leon authors"
STEM = "cm3leon-report"
SHOWN = 3  # pages of the picture
NEEDED = (  # numbers of a transformer's config.json that the report is made from
    *(f"/config/{name}" for name in ("layers", "width", "context")),
    *(
        f"/config/vocabulary/{name}"
        for name in ("text_size", "image_size", "sentinels", "multiple")
    ),
    *(
        f"/extra/{name}"
        for name in ("seconds", "train/steps", "objective/rate", "objective/p_full")
    ),
)


def build(inputs: Inputs) -> Document:
    """The whole report as a document; pure."""
    summary, body, appendix = written(inputs, findings(inputs))
    parts = walk((*body, *appendix))
    cited = dict.fromkeys(part.target for part in parts if part.kind == "cite")  # in their order
    known = references()
    return Document(
        title=TITLE,
        authors=AUTHORS,
        date=max(run.record["date"] for run in inputs.runs),
        abstract=summary,
        sections=body,
        appendix=appendix,
        references=tuple((key, known[key]) for key in cited),
    )


def read_inputs(results: Path, published: Path, baselines: Path, pages: Path) -> Inputs:
    """Everything the report is made from; raises NothingThere where there is no record."""
    runs = [
        Run(record, "results/" + path.relative_to(results).as_posix())
        for path, record in read_files(results)
        if not is_trial(record)
    ]
    if not runs:
        raise NothingThere(f"{results} holds nothing but trials; run nox -s fid_coco first")
    pictures = {split: pages / f"{split}.png" for split in ("test", "tail")}
    return Inputs(
        tuple(runs),
        read_published(published),
        tuple(read_models(baselines)),
        {split: read_picture(path) for split, path in pictures.items() if path.is_file()},
    )


def read_models(baselines: Path) -> list[Model]:
    """The pretrained transformers below `scenes`: small before large, then by their stages."""
    models = []
    for path in sorted(baselines.glob("scenes/*/config.json")):
        about = read_json(path)
        own = about.pop("about_sha256", None)  # cm3leon.checkpoint.write_about
        if own is not None and own != digest(about):
            raise ValueError(f"{path} is not what was written; restore it from git")
        if about.get("kind") != "transformer" or "tasks" in about.get("extra", {}):
            continue  # those tuned on tasks are of `nox -s tasks`
        for pointer in NEEDED:
            _check(about, pointer, path)
        log, grid = path.with_name("log.jsonl"), path.with_name("samples.png")
        samples = read_picture(grid) if grid.is_file() else None
        models.append(Model(path.parent.name, about, tuple(read_log(log)), samples))
    starts = {model.name: model.start for model in models}

    def order(model: Model) -> tuple:
        stage, name = 0, model.start
        while name in starts and stage < len(models):
            stage, name = stage + 1, starts[name]
        return model.about["config"]["width"], stage, model.name

    return sorted(models, key=order)


def read_picture(path: Path) -> bytes:
    """A grid of pictures as JPEG; ValueError for what is none."""
    try:
        return jpeg(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} is no picture ({error}); make it again") from None


def _check(about: dict, pointer: str, path: Path) -> None:
    try:
        found = resolve(about, pointer)
    except (KeyError, TypeError):
        found = None
    if not isinstance(found, int | float):
        raise ValueError(f"{path}: {pointer} must be a number, got {found!r}; restore it from git")


def read_log(path: Path) -> list[dict]:
    """Records of a training's log; none where there is no file. ValueError for a torn one."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON a line ({error}); restore it from git") from None


def files(document: Document) -> dict[str, str | bytes]:
    """Ending -> contents of the three files."""
    data = json.dumps(report_data(document), indent=1, ensure_ascii=False) + "\n"
    return {".pdf": to_pdf(document), ".html": to_html(document), ".json": data}


def write_report(
    results: Path = RESULTS,
    out: Path = OUT,
    published: Path = PUBLISHED,
    baselines: Path = shipped_folder(),  # noqa: B008
    picture: bool = False,
) -> None:
    """Write the report of every result as PDF and HTML, and its numbers as JSON.

    Args:
        results: folder of records
        out: folder for the report; its ablate_retrieval/newest/*.png become pages of pictures
        published: the quoted numbers
        baselines: folder with scenes/<name>/ config.json, log.jsonl and samples.png
        picture: write a picture of the first pages too
    """
    if not (baselines / "scenes").is_dir():
        raise ValueError(f"no folder {baselines / 'scenes'}; give --baselines one with scenes/")
    pages = out / "ablate_retrieval" / "newest"
    document = build(read_inputs(results, published, baselines, pages))
    for ending, content in files(document).items():
        print(write_atomic(out / f"{STEM}{ending}", content))
    if picture:
        print(write_atomic(out / f"{STEM}.png", side_by_side(to_png(document)[:SHOWN])))


def side_by_side(pages: list[bytes]) -> bytes:
    """Pages in a row as one PNG."""
    import io

    from PIL import Image

    images = [Image.open(io.BytesIO(page)).convert("RGB") for page in pages]
    width = sum(image.width for image in images) + 12 * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), "#dddddd")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + 12
    out = io.BytesIO()
    sheet.quantize(64).save(out, format="PNG", optimize=True)
    return out.getvalue()


def main() -> int:
    """Command line; a user's mistake ends in one line and exit code 2, no record in 3."""
    return guarded(lambda: called(write_report))


if __name__ == "__main__":
    sys.exit(main())
