"""The report of all results, as PDF and HTML from one content: nox -s report

    python -m reports.paper --out FOLDER     cm3leon-report.pdf, .html and .json

The JSON holds every number with the file and the place in it that it came from. Same results, same
bytes. Cost: about ten seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from reports import OUT, PUBLISHED, ROOT, guarded, read_json, read_published, write_atomic
from reports.paper_appendix import appendix
from reports.paper_body import limits, results, samples
from reports.paper_claims import findings
from reports.paper_front import REFERENCES, abstract, introduction, method, protocol
from reports.paper_html import to_html
from reports.paper_model import Document, Section, report_data, walk
from reports.paper_results import Inputs, Model, Run
from reports.paper_typst import to_pdf
from reports.store import RESULTS, identity, migrate, read_all, record_paths

TITLE = "CM3Leon in the open: what is measured, what is quoted, what is missing"
AUTHORS = "The cm3leon authors"
STEM = "cm3leon-report"


def build(inputs: Inputs) -> Document:
    """The whole report as a document; pure."""
    found = findings(inputs)
    sections = (
        introduction(inputs),
        method(inputs),
        protocol(inputs),
        *results(inputs, found),
        samples(inputs),
        limits(inputs),
    )
    summary, rest = abstract(inputs, found), appendix(inputs)
    return Document(
        title=TITLE,
        authors=AUTHORS,
        date=max(run.record["date"] for run in inputs.runs),
        abstract=summary,
        sections=sections,
        appendix=rest,
        references=cited((*sections, *rest)),
    )


def cited(sections: tuple[Section, ...]) -> tuple[tuple[str, str], ...]:
    """What the text cites, in the order in which it is cited first."""
    keys = dict.fromkeys(part.target for part in walk(sections) if part.kind == "cite")
    return tuple((key, REFERENCES[key]) for key in keys)


def read_inputs(results: Path, published: Path, baselines: Path, pages: Path) -> Inputs:
    """Everything the report is made from; raises NothingThere where there is no record."""
    records = {identity(record): record for record in read_all(results)}
    paths = {identity(migrate(read_json(path))): path for path in record_paths(results, results)}
    runs = [
        Run(record, "results/" + paths[key].relative_to(results).as_posix())
        for key, record in records.items()
    ]
    pictures = {split: pages / f"{split}.png" for split in ("test", "tail")}
    return Inputs(
        tuple(runs),
        read_published(published),
        tuple(read_models(baselines)),
        {split: path.read_bytes() for split, path in pictures.items() if path.is_file()},
    )


def read_models(baselines: Path) -> list[Model]:
    """The transformers below `scenes`, small before large, then in the order of their stages."""
    models = []
    for path in sorted(baselines.glob("scenes/*/config.json")):
        about = read_json(path)
        if about.get("kind") != "transformer":
            continue
        log, grid = path.with_name("log.jsonl"), path.with_name("samples.png")
        samples_png = grid.read_bytes() if grid.is_file() else None
        models.append(Model(path.parent.name, about, tuple(read_log(log)), samples_png))
    starts = {model.name: model.start for model in models}

    def stage(name: str | None) -> int:
        return 0 if starts.get(name) is None else 1 + stage(starts[name])

    return sorted(models, key=lambda one: (one.about["config"]["width"], stage(one.name), one.name))


def read_log(path: Path) -> list[dict]:
    """Records of a training's log; none where there is no file. ValueError for a torn one."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except ValueError as error:
        raise ValueError(f"{path} is no JSON a line ({error}); restore it from git") from None


def write_report(
    results: Path = RESULTS,
    out: Path = OUT,
    published: Path = PUBLISHED,
    baselines: Path = ROOT / "baselines",
) -> None:
    """Write the report of every result as PDF and HTML, and its numbers as JSON.

    Args:
        results: folder of records
        out: folder for the report; its ablate_retrieval/*.png become pages of pictures
        published: the quoted numbers
        baselines: folder with scenes/<name>/ config.json, log.jsonl and samples.png
    """
    document = build(read_inputs(results, published, baselines, out / "ablate_retrieval"))
    data = json.dumps(report_data(document), indent=1, ensure_ascii=False) + "\n"
    made = {".pdf": to_pdf(document), ".html": to_html(document), ".json": data}
    for ending, content in made.items():
        print(write_atomic(out / f"{STEM}{ending}", content))


def main() -> int:
    """Command line; a user's mistake ends in one line and exit code 2, no record in 3."""
    import tyro

    return guarded(lambda: tyro.cli(write_report))


if __name__ == "__main__":
    sys.exit(main())
