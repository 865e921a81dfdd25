"""The dashboard: series that may be joined, marks, one safe page."""

from __future__ import annotations

import json
import re
import subprocess
import time
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import unquote

import pytest

from cm3leon.errors import UserError
from cm3leon.reports import ROOT, read_published
from cm3leon.reports.dashboard import inline
from cm3leon.reports.dashboard.history import (
    BETTER,
    FIRST,
    SAME,
    WORSE,
    changes,
    mark,
    panels_of,
    read_runs,
    series_of,
)
from cm3leon.reports.dashboard.page import embedded, page, quoted_rows
from cm3leon.reports.dashboard.sparkline import SHAPES, bounds, panel_plots, sparkline, ticks
from tests.record_maker import record, saved

NASTY = "</script><script>document.title = 'owned'</script>\"'&<b>"
VOID = {"meta", "link", "br", "wbr", "input", "img"}
ENVIRONMENT = record()["environment"]


def run(value: float, day: int, name: str = "scenes-s", **changes) -> dict:
    """A record of a day of January."""
    return record(value, name, date=f"2026-01-{day:02d}T00:00:00Z", **changes)


def on(device: str) -> dict:
    """The environment of a record measured on a device."""
    return {"environment": ENVIRONMENT | {"device": device}}


def some() -> list[dict]:
    """Eight records: worse, better and unresolved runs; another device, protocol and version."""
    protocol = {"features": "scenes", "prompts": NASTY}
    return [
        run(20.0, 1), run(25.0, 2), run(12.0, 3), run(12.5, 4, warnings=[f"warning {NASTY}"]),
        run(30.0, 5, "scenes-xs"), run(11.0, 6, **on(f"cuda:0 {NASTY}")),
        run(50.0, 7, protocol=protocol), run(13.0, 8, version=2, unit=NASTY),
    ]  # fmt: skip


def made(folder, records=None) -> tuple[list, str]:
    """Runs below a folder and their page."""
    saved(folder, *(some() if records is None else records))
    runs = read_runs(folder)
    return runs, page(runs, read_published(), folder / "out", folder)


class Reader(HTMLParser):
    """Elements, visible text and scripts of a page; an element that is not closed is an error."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.scripts, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(attributes) == len(dict(attributes)), f"{tag} has an attribute twice"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        inside = self._open[-1] if self._open else ""
        (self.scripts if inside in ("script", "style") else self.text).append(text)


def interval(low: float, high: float, better: str = "lower", value: float | None = None) -> dict:
    value = (low + high) / 2 if value is None else value
    return {"interval": {"low": low, "high": high}, "value": value, "better": better}


@pytest.mark.parametrize(
    "old, new, lower, higher",
    [
        ((10, 12), (5, 9), BETTER, WORSE),
        ((5, 9), (10, 12), WORSE, BETTER),
        ((5, 9), (8, 12), SAME, SAME),
        ((5, 9), (9, 12), SAME, SAME),  # they touch
        ((5, 9), (5, 9), SAME, SAME),
    ],
)
def test_a_mark_needs_intervals_that_lie_apart(old, new, lower, higher):
    assert mark(interval(*old), interval(*new)) == lower
    assert mark(interval(*old, "higher"), interval(*new, "higher")) == higher


def test_marks_without_a_run_before_or_an_interval():
    one, other = interval(1, 2), interval(8, 9)
    assert mark(None, one) == FIRST
    assert mark(one | {"interval": None}, other) == mark(one, other | {"interval": None}) == SAME
    assert mark(one | {"value": 3.0}, other | {"value": 3.0}) == SAME


def test_series_are_joined_over_nothing_but_time(tmp_path):
    runs, _ = made(tmp_path)
    series = series_of(runs)
    assert sorted(len(one.runs) for one in series) == [1, 1, 1, 1, 4]
    for one in series:
        keys = {(*part.axes, part.system) for part in series_of(one.runs)}
        assert len(keys) == 1
        assert all(a.record["date"] < b.record["date"] for a, b in pairwise(one.runs))
        assert [part.before for part in one.runs] == [None, *(a.record for a in one.runs[:-1])]
    (long,) = [one for one in series if len(one.runs) == 4]
    assert [one.mark for one in long.runs] == [FIRST, WORSE, BETTER, SAME]
    panels = panels_of(series)
    assert sorted(len(panel.series) for panel in panels) == [1, 1, 1, 2]
    (both,) = [panel for panel in panels if len(panel.series) == 2]
    assert [one.system for one in both.series] == ["scenes-s", "scenes-xs"]
    assert both.newest["system"]["name"] == "scenes-xs"


def test_a_quoted_record_is_no_run(tmp_path):
    runs, text = made(tmp_path, [run(20.0, 1), run(777.0, 2, source="quoted")])
    assert [one.mark for one in runs] == [FIRST, FIRST]
    assert "1 runs in 1 series" in text and text.count("777") == 1
    assert "records of fid_coco marked quoted (quoted)" in text


def test_what_changed_is_told():
    system = {"name": "scenes-s", "weights_sha256": "b" * 64}
    old = run(1.0, 1, system=system | {"config": {"decode": {"guidance": 2.5}, "size": 64}})
    new = run(1.0, 2, system=system | {"config": {"decode": {"guidance": 1.75}, "bank": "x"}})
    new["code"] = {"commit": "c" * 40, "dirty": True}
    new["system"]["weights_sha256"] = None
    assert changes(None, old) == changes(old, old) == ()
    assert changes(old, new) == (
        "code aaaaaaa → ccccccc+", "weights bbbbbb → none", "bank absent → x",
        "decode.guidance 2.5 → 1.75", "size 64 → absent",
    )  # fmt: skip
    new["system"]["config"] = {f"key{k:02d}": k for k in range(30)}
    assert changes(old, new)[-1] == "and 22 more" and len(changes(old, new)) == 13


def test_the_page_holds_every_number_and_only_text(tmp_path):
    runs, text = made(tmp_path)
    reader = Reader(text)
    words = " ".join(reader.text)
    for one in runs:
        assert f"{one.record['value']:.2f}" in words
        assert one.path.name in words
    assert f"warning {NASTY}" in words and NASTY in reader.text  # as text, whole
    assert len([tag for tag, _ in reader.elements if tag == "script"]) == 2
    assert len(re.findall("<script", text)) == len(re.findall("</script", text)) == 2
    assert words.count("quoted") > 10


def test_the_data_cannot_leave_its_element(tmp_path):
    runs, text = made(tmp_path)
    assert not set("<>&") & set(embedded({"a": [NASTY, 1.5]}))
    assert json.loads(embedded({"a": [NASTY, 1.5]})) == {"a": [NASTY, 1.5]}
    (data,) = [one for one in Reader(text).scripts if one.startswith("{")]
    found = json.loads(data)["runs"]
    assert {int(key): one["measured"] for key, one in found.items()} == {
        one.number: [one.record["value"], *(one.record["interval"][end] for end in ("low", "high"))]
        for one in runs
    }


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    (tmp_path / "out" / "fid_coco").mkdir(parents=True)
    _, text = made(tmp_path / "results")
    for tag, attributes in Reader(text).elements:
        for name in ("src", "srcset", "data", "action", "poster", "background", "style"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        href = attributes.get("href") or ""
        assert not re.match(r"([a-z]+:)?//|javascript:", href), href
        assert tag == "a" or not href or href.startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in text and "@import" not in text and "http:" not in text


def test_the_same_records_give_the_same_bytes(tmp_path):
    _, first = made(tmp_path)
    assert page(read_runs(tmp_path), read_published(), tmp_path / "out", tmp_path) == first


def test_hundreds_of_records_are_quick_and_light(tmp_path):
    records = [
        run(30 + k % 7, 1 + k % 28, f"system-{k % 9}", version=1 + k // 150)
        | {"code": {"commit": f"{k:040x}", "dirty": False}}
        for k in range(300)
    ]
    start = time.process_time()
    _, text = made(tmp_path, records)
    assert time.process_time() - start < 5
    assert len(text) < 2_000_000
    assert text.count('class="plot"') == 4  # nine systems: two drawings for each version
    assert text.count("<tr data-run") == 300


def test_real_records_with_their_ablations():
    runs = read_runs()
    text = page(runs, read_published())
    reader = Reader(text)
    names = {one.record["bench"] for one in runs}
    assert {f"bench-{name}" for name in names} <= {one.get("id") for _, one in reader.elements}
    images = [one["src"] for tag, one in reader.elements if tag == "img"]
    assert [one for one in images if one.startswith("data:image/svg+xml;base64,")]
    assert "Composition of scenes-s" in text and "Hypotheses (" in text
    ids = [one["id"] for _, one in reader.elements if "id" in one]
    assert len(ids) == len(set(ids))
    links = [one["href"] for _, one in reader.elements if one.get("href", "").endswith(".json")]
    assert len(links) == len(runs) + len(series_of(runs))
    assert all(
        (ROOT / "reports" / "out" / "dashboard" / unquote(link)).resolve().is_file()
        for link in links
    )


def test_a_record_its_tables_cannot_read_is_shown_by_its_extras(tmp_path):
    _, text = made(tmp_path, [run(1.0, 1) | {"bench": "ablate_retrieval"}])
    assert "KeyError" not in text and "&#39;splits&#39;" in text and ">ceiling<" in text


def test_quoted_rows_need_a_known_mark():
    rows = read_published()["rows"]
    assert len(quoted_rows({"rows": [rows[0], rows[1] | {"mark": "?"}]})) == 1
    for bad in ({}, {"rows": [{}]}, [], {"rows": [{"mark": "V", "table": "x"}]}):
        with pytest.raises(UserError, match="the quoted numbers lack what a row needs"):
            quoted_rows(bad)


def test_pictures_are_inlined_small_or_left_out(tmp_path):
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (400, 1600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    Image.fromarray(noise[:8, :8]).save(tmp_path / "small.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "small.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("<svg onload=alert(1)>")
    assert inline.picture_uri(tmp_path / "large.png").startswith("data:image/jpeg;base64,")
    assert inline.picture_uri(tmp_path / "small.png").startswith("data:image/png;base64,")
    assert inline.picture_uri(tmp_path / "torn.png") is None
    assert inline.picture_uri(tmp_path / "text.png") is None


@pytest.mark.parametrize("low, high", [(0, 1), (24.2, 36.1), (-3, 5), (0.138, 0.26), (1e-9, 2e-9)])
def test_ticks_are_round_and_few(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high * (1 + 1e-12)


def test_drawings_of_one_run_and_of_many_systems(tmp_path):
    records = [run(5.0 + k, 1 + k, f"system-{k}") for k in range(8)] + [run(0.0, 9, interval=None)]
    runs, _ = made(tmp_path, records)
    (panel,) = panels_of(series_of(runs))
    plots = panel_plots(panel)
    assert [len(names) for _, names in plots] == [len(SHAPES), 3]
    for drawing, names in plots:
        Reader(drawing)
        assert drawing.count('<g class="dot"') == len(names)
    assert bounds([record(0.0, interval=None)]) == (-1.0, 1.0)
    assert all('role="img"' in sparkline(one) for one in series_of(runs))


def test_the_command_ends_as_promised(tmp_path, run_module):
    def command(*words: str) -> subprocess.CompletedProcess:
        places = ["--results", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
        return run_module("cm3leon.reports.dashboard.page", *places, *words)

    done = command()
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith("error: no records in") and not (tmp_path / "out").exists()
    (path,) = saved(tmp_path / "in", run(1.0, 1))
    done = command("--published", str(tmp_path / "none.json"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    done = command()
    written = tmp_path / "out" / "dashboard" / "index.html"
    assert (done.returncode, done.stdout) == (0, f"{written}\n")
    assert "../../in/fid_coco/scenes-s/0.json" in written.read_text()
    before = written.read_bytes()
    path.write_text("{}")
    done = command()
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert written.read_bytes() == before


def test_text_can_be_read_in_both_themes():
    """WCAG AA: 4.5 for text on its ground, 3 for the marks of plots."""
    css = (ROOT / "cm3leon" / "reports" / "templates" / "dashboard.css").read_text()
    blocks = [dict(re.findall(r"--(\w+): (#\w{6})\b", one)) for one in css.split("--ground:")[1:]]
    light, dark, chosen = [one | {"ground": g} for one, g in zip(
        blocks, re.findall(r"--ground: (#\w{6})", css), strict=True)]  # fmt: skip
    assert dark == chosen
    for theme in (light, dark):
        for ground in (theme["ground"], theme["sheet"]):
            for name in ("ink", "soft", "link"):
                assert contrast(theme[name], ground) >= 4.5, (name, ground)
            for name in ("blue", "vermilion", "grey", "green", "purple", "focus"):
                assert contrast(theme[name], ground) >= 3, (name, ground)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
