"""The paper-style report: one content, two writers; same results, same bytes; traced numbers."""

import io
import json
import random
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from cm3leon.reports import PUBLISHED, guarded, read_published
from cm3leon.reports.paper.html import to_html
from cm3leon.reports.paper.main import (
    build,
    files,
    read_inputs,
    read_models,
    side_by_side,
    write_report,
)
from cm3leon.reports.paper.model import (
    Grid,
    Missing,
    Panel,
    Row,
    labels,
    prose,
    report_data,
    walk,
    words,
)
from cm3leon.reports.paper.results import Inputs, Run, group_of, resolve
from cm3leon.reports.paper.typst import to_pdf, to_png
from cm3leon.reports.records.store import column, digest
from tests.record_maker import record, saved

NASTY = 'a#b $x$ <script>alert(1)</script> *c* _d_ @e \\f "g" `h` [i] {j} & ~k // l'
TITLES = (
    "Introduction", "Method", "Protocol", "Text to image", "Image to text", "Composition",
    "Compute", "Scale", "Training", "Decoding", "Latency and throughput", "Retrieval",
    "Options of pretraining", "The claims, one by one", "Limits", "More quoted numbers",
    "Other measurements", "Retrieval, every arm", "Protocols", "Environments", "Records",
    "Pictures",
)  # fmt: skip
SCENES = {"data": "scenes", "prompts": "scenes coco test, one caption a picture", "documents": 0}


def retrieval(**changes) -> dict:
    """A record of ablate_retrieval with the arms of none and two documents."""
    extra = {"tail.highest_image_score": 0.8}
    for split in ("test", "tail"):
        for count, value in ((0, 40.0), (2, 30.0)):
            for measure in ("fid", "right", "entity"):
                number = value if measure == "fid" else value / 100
                ends = {"value": number, "low": number * 0.9, "high": number * 1.1}
                extra[f"{split}.documents-{count}.{measure}"] = ends
        extra[f"{split}.documents-2.fid_vs_documents-0"] = {"value": 1.3, "low": 1.1, "high": 1.5}
        lead = {"value": -0.1, "low": -0.2, "high": 0.1}
        extra[f"{split}.documents-2.right_vs_documents-0"] = lead
    protocol = {"splits": ["test", "tail"], "seeds": {"documents-2": [0]}, "features": "scenes",
                "default": "documents-2"}  # fmt: skip
    made = {
        "bench": "ablate_retrieval",
        "protocol": protocol,
        "extra": extra,
        "unit": "entity_lift",
    }
    return record(0.2, "scenes-s-bursts", **made | changes)


def records() -> list[dict]:
    """Two sizes by one protocol, one of them measured twice, a third protocol, an ablation."""
    other = SCENES | {"prompts": "scenes coco val, one caption a picture"}
    later = "2026-02-02T00:00:00Z"
    return [
        record(25.0, "scenes-s", protocol=SCENES),
        record(24.0, "scenes-s", protocol=SCENES, date=later, unit="fid_scenes"),
        record(50.0, "scenes-xs", protocol=SCENES, unit="fid_scenes"),
        record(77.0, "scenes-s", protocol=other, date=later),
        retrieval(),
    ]


def baselines(folder: Path) -> Path:
    """Two sizes with logs; the second went on from nothing, a third from it."""
    from PIL import Image

    for name, width, start in (("scenes-xs", 128, None), ("scenes-s", 256, None),
                               ("scenes-s-bursts", 256, "scenes-s")):  # fmt: skip
        home = folder / "scenes" / name
        home.mkdir(parents=True)
        words_of = {"text_size": 512, "image_size": 1024, "sentinels": 16, "multiple": 64}
        about = {
            "kind": "transformer",
            "config": {
                "name": name,
                "layers": 6,
                "width": width,
                "heads": 8,
                "context": 512,
                "vocabulary": words_of,
            },
            "extra": {"seconds": 4306, "train": {"steps": 100}}
            | {"objective": {"rate": 0.5, "p_full": 0.5}}
            | ({"start": start} if start else {}),
        }
        (home / "config.json").write_text(json.dumps(about))
        steps = [{"step": 50 * k, "steps_per_s": 1.0, "tokens_per_s": 2000.0, "image_loss": 3.0 / k,
                  "text_loss": 4.0 / k, "held_out_image": 2.9 / k} for k in (1, 2)]  # fmt: skip
        (home / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        Image.new("RGB", (60, 40), "red").save(home / "samples.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A small store with its baselines."""
    home = tmp_path_factory.mktemp("paper")
    saved(home / "results", *records())
    baselines(home / "baselines")
    return home


@pytest.fixture(scope="module")
def inputs(home) -> Inputs:
    return read_inputs(home / "results", PUBLISHED, home / "baselines", home / "none")


@pytest.fixture(scope="module")
def document(inputs):
    return build(inputs)


@pytest.fixture(scope="module")
def made(document) -> dict[str, bytes]:
    """Ending -> what the command writes."""
    contents = files(document).items()
    return {end: text.encode() if isinstance(text, str) else text for end, text in contents}


class Text(HTMLParser):
    """The text of a page, and its elements' names, ids and links."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.tags, self.ids, self.links = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key == "href"]

    def handle_data(self, data):
        self.text.append(data)


def pdf_text(data: bytes) -> str:
    import pypdf

    pages = pypdf.PdfReader(io.BytesIO(data)).pages
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in pages))


def squeezed(text: str) -> str:
    """Without white space, soft breaks and hyphens: what a line break may add."""
    return re.sub(r"[\s\u200b\u00ad-]", "", text)


def test_same_results_same_bytes(home, made, capsys):
    write_report(home / "results", home / "out", baselines=home / "baselines")
    again = {path.suffix: path.read_bytes() for path in (home / "out").iterdir()}
    assert again == made and set(again) == {".pdf", ".html", ".json"}
    assert str(home).encode() not in b"".join(again.values())


def test_pages_as_pictures(document):
    pages = to_png(document, ppi=20)
    assert len(pages) > 3
    sheet = Image.open(io.BytesIO(side_by_side(pages[:2])))
    one = Image.open(io.BytesIO(pages[0]))
    assert sheet.size == (2 * one.width + 12, one.height)


def test_every_section_is_in_both(made, document):
    page = Text(made[".html"].decode())
    html, pdf = "".join(page.text), squeezed(pdf_text(made[".pdf"]))
    assert tuple(s.title for s in (*document.sections, *document.appendix) if s.level != 1
                 or s.title != "Results") == TITLES  # fmt: skip
    for title in TITLES:
        assert title in html and squeezed(title) in pdf, title
    for name in labels(document).values():
        assert name in html or name.split(" ", 1)[1] in html, name


def test_links_lead_somewhere(made):
    page = Text(made[".html"].decode())
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids)


def test_the_page_stands_alone(made):
    page = Text(made[".html"].decode())
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"""(src|href)=["'](https?:)?//|url\(["']?http""", made[".html"].decode())


def test_missing_results_say_so_with_their_command(document):
    states = {one["title"]: one for one in report_data(document)["sections"]}
    for title, command in (
        ("Decoding", "nox -s ablate_decoding"),
        ("Latency and throughput", "nox -s latency"),
        ("Options of pretraining", "nox -s ablate_pretraining"),
    ):
        assert states[title]["state"] == "missing" and states[title]["command"] == command
        section = next(one for one in document.sections if one.title == title)
        missing = next(block for block in section.blocks if isinstance(block, Missing))
        assert [part.text for part in missing.command] == [command]
    assert states["Text to image"]["state"] == "complete"


@pytest.mark.parametrize("kept", [[], ["ablate_retrieval"], ["fid_coco"]])
def test_with_little_it_is_whole_too(inputs, kept):
    """Any one benchmark alone, nothing beside it: every reference still has its target."""
    runs = tuple(run for run in inputs.runs if run.bench in kept)
    lone = Run(record(0.5, bench="codes", unit="nats"), "results/codes/x/0.json")
    found = build(Inputs(runs or (lone,), {"rows": [], "groups": []}))
    names = labels(found)
    assert all(part.target in names for part in walk(found) if part.kind == "see")
    states = {one["title"]: one["state"] for one in report_data(found)["sections"]}
    assert states["Training"] == "missing"
    assert (states["Text to image"] == "complete") == ("fid_coco" in kept)
    assert (states["Retrieval"] == "missing") == ("ablate_retrieval" not in kept)
    assert "<html" in to_html(found)


def test_records_text_is_only_ever_text(inputs):
    """A name and a warning full of markup stand in both as they are."""
    run = inputs.runs[0]
    system = run.record["system"] | {"name": NASTY}
    odd = run.record["protocol"] | {"crop": NASTY}
    changed = run.record | {"system": system, "warnings": [f"warned: {NASTY}\n\x1b"]}
    changed |= {"protocol": odd, "protocol_digest": digest(odd), "unit": NASTY}
    found = build(replace(inputs, runs=(replace(run, record=changed),), models=()))
    html = to_html(found)
    page = Text(html)
    assert "script" not in page.tags and "<script>" not in html
    assert NASTY in "".join(page.text) and f"warned: {NASTY}" in "".join(page.text)
    pdf = squeezed(pdf_text(to_pdf(found)))
    assert pdf.count(squeezed(NASTY)) >= 3


def test_values_are_never_markup():
    parts = prose("*a* `b` [@cm3] {x}'s 2 x 3", x="*{y}* `[@z]`")
    assert [(part.kind, part.text) for part in parts][:2] == [("emph", "a"), ("text", " ")]
    assert "*{y}* `[@z]`" in [part.text for part in parts]
    assert parts[-1].text == "\N{RIGHT SINGLE QUOTATION MARK}s 2 \N{MULTIPLICATION SIGN} 3"
    with pytest.raises(KeyError):
        prose("{unknown}")


def test_ten_numbers_are_what_their_records_hold(home, made):
    numbers = json.loads(made[".json"])["numbers"]
    assert len(numbers) > 200
    assert {"value", "low", "high", "record", "key", "how"} <= set(numbers[0])
    plain = [one for one in numbers if one["how"] is None]
    for one in random.Random(0).sample(plain, 10):
        path = one["record"]
        file = PUBLISHED if path.endswith("published.json") else home / path
        text = file.read_text()
        held = (
            [json.loads(line) for line in text.splitlines()]
            if path.endswith("l")
            else json.loads(text)
        )
        assert resolve(held, one["key"]) == one["value"], one
        if one["low"] is not None and one["key"].startswith("/extra/"):
            entry = resolve(held, one["key"].removesuffix("/value"))
            assert [entry["low"], entry["high"]] == [one["low"], one["high"]]
        elif one["low"] is not None:
            assert [held["interval"][end] for end in ("low", "high")] == [one["low"], one["high"]]
    for one in numbers:  # what was derived names a file too
        assert one["how"] or one["key"].startswith("/"), one


def panels(document):
    for section in (*document.sections, *document.appendix):
        for block in section.blocks:
            if isinstance(block, Grid):
                for panel in block.panels:
                    yield block.label, panel


def test_a_column_holds_numbers_of_one_protocol(document, inputs):
    of = {run.path: column(run.record) for run in inputs.runs}
    seen = set()
    for label, panel in panels(document):
        if label == "table-claims":  # each cell says what its number is
            continue
        rows = [row for row in panel.rows if row.kind != "group"]
        for place in range(len(panel.headers)):
            traces = [part.trace for row in rows for part in row.cells[place] if part.trace]
            records = {of[trace.record] for trace in traces if trace.record in of}
            quoted = {trace.record for trace in traces if trace.record.endswith("published.json")}
            assert len(records) <= 1 and not (records and quoted), (label, place)
            seen |= records
            if quoted:
                marks = [words_of(row.cells[-1]) for row in rows]
                assert all(mark.startswith(("quoted", "not measured")) for mark in marks)
    assert len(seen) == 3  # both protocols of FID, and the ablation's


def words_of(parts) -> str:
    return "".join(part.text for part in parts)


def test_the_newest_record_counts_and_the_old_one_is_listed(document):
    tables = dict(panels(document))
    shown = [words_of(row.cells[0]) for row in tables["table-records"].rows]
    states = [words_of(row.cells[-1]) for row in tables["table-records"].rows]
    assert len(shown) == 5 and states.count("superseded") == 1
    first = next(panel for label, panel in panels(document) if label == "table-fid")
    assert [words_of(row.cells[4]) for row in first.rows[:2]] == ["24.00", "50.00"]


def test_verdicts(document):
    rows = dict(panels(document))["table-claims"].rows
    found = [(words_of(row.cells[0]), words_of(row.cells[-1])) for row in rows]
    assert ("two documents lower FID below none", "holds") in found
    assert any("lower FID below" in text and verdict == "holds" for text, verdict in found[3:])
    assert [verdict for text, verdict in found if text.startswith("H3")] == ["not measured yet"]
    names = [text for text, _ in found if re.match(r"H\d:", text)]
    assert [name[:2] for name in names] == [f"H{k}" for k in range(1, 10)]


def test_every_font_is_embedded(made):
    inflated = [made[".pdf"]]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", inflated[0], re.DOTALL):
        try:
            inflated.append(zlib.decompressobj().decompress(stream))
        except zlib.error:
            continue
    text = b"\n".join(inflated)
    fonts = len(re.findall(rb"/Type\s*/FontDescriptor", text))
    assert fonts and len(re.findall(rb"/FontFile[23]?\b", text)) == fonts
    assert b"LibertinusSerif" in text


def test_every_quoted_group_member_is_a_row():
    published = read_published()
    rows = [[row["table"], row["model"], row["documents"]] for row in published["rows"]]
    members = [member for group in published["groups"] for member in group["members"]]
    assert all(member in rows for member in members) and len(published["groups"]) == 4
    letters = {
        (row["model"], row["documents"], row["value"]): group_of(published, row)
        for row in published["rows"]
        if "FID-30K" in row["metric"]
    }
    assert letters["CM3Leon-7B", 0, 10.82] == "b" and letters["CM3Leon-7B", 2, 4.88] == "c"
    assert letters["Re-Imagen", 2, 5.25] == "d" and letters["Re-Imagen", 2, 6.88] == "c"
    assert letters["Muse", None, 7.88] == "a" and letters["Parti-20B", None, 3.22] == "d"


def test_rows_must_fit_their_panel():
    with pytest.raises(ValueError, match="a row has 1 cells of 2"):
        Panel((words("a"), words("b")), (Row((words("x"),)),), "ll")


def test_exit_codes(tmp_path, capsys):
    assert guarded(lambda: write_report(tmp_path / "none", tmp_path)) == 3
    assert capsys.readouterr().err.startswith("error: no records in")
    saved(tmp_path / "results", record())
    broken = tmp_path / "published.json"
    broken.write_text("{")
    assert guarded(lambda: write_report(tmp_path / "results", tmp_path / "out", broken)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is no JSON" in error
    assert not (tmp_path / "out").exists()


def test_bad_baselines_are_one_line(tmp_path):
    home = baselines(tmp_path) / "scenes" / "scenes-s"
    (home / "samples.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"samples\.png is no picture"):
        read_models(tmp_path)
    (home / "samples.png").unlink()
    (home / "log.jsonl").write_text('{"step": 1')
    with pytest.raises(ValueError, match=r"log\.jsonl is no JSON a line"):
        read_models(tmp_path)
    about = json.loads((home / "config.json").read_text())
    del about["config"]["width"]
    (home / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"/config/width must be a number, got None"):
        read_models(tmp_path)
    (home / "config.json").write_text(json.dumps(about | {"about_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"config.json is not what was written"):
        read_models(tmp_path)
