"""The dashboard in a real headless Chromium: filtered, on a phone, in the dark, by keyboard."""

from __future__ import annotations

import json

import pytest

from cm3leon.errors import UserError
from cm3leon.reports import PUBLISHED, ROOT, read_published
from cm3leon.reports.dashboard import inline
from cm3leon.reports.dashboard.history import read_runs, series_of
from cm3leon.reports.dashboard.page import page
from cm3leon.reports.paper.html import to_html
from cm3leon.reports.paper.main import build, read_inputs
from cm3leon.reports.records.store import RESULTS
from tests.browser import Browser
from tests.reports.dashboard.test_page import NASTY, made


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """The browser with the page of `some()`, and the runs."""
    folder = tmp_path_factory.mktemp("page")
    runs, text = made(folder / "results")
    path = folder / "out" / "dashboard" / "index.html"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    browser.window(1280)
    browser.open(path)
    return browser, runs, path


CHOOSE = """(values => {
  const form = document.getElementById("filter");
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  form.dispatchEvent(new Event("input"));
})"""
LINES = """[...document.querySelectorAll("#overview tr[data-series]")].filter(line => !line.hidden)
  .map(line => Object.fromEntries([...line.querySelectorAll("[data-field]")]
    .map(cell => [cell.dataset.field, cell.innerText.trim()])))"""
SHOWN = """[...document.querySelectorAll("tr[data-run]:not([hidden])")]
  .filter(row => !row.closest("[hidden]")).map(row => Number(row.dataset.run))"""


def choose(browser: Browser, **values: str) -> None:
    """Set the filter: what is not named is empty."""
    empty = dict.fromkeys(("system", "device", "mark", "from", "to"), "")
    browser.value(f"{CHOOSE}({json.dumps(empty | values)})")


def test_the_page_loads_alone_and_says_what_the_records_say(opened):
    browser, runs, path = opened
    browser.open(path)
    assert browser.problems == []
    assert [one for one in browser.asked if not one.startswith("data:")] == [path.as_uri()]
    assert browser.value("document.title") == "cm3leon: benchmark results"  # no script was run
    assert browser.value(f"document.body.textContent.includes({json.dumps('warning ' + NASTY)})")
    assert browser.value("document.querySelectorAll('script').length") == 2
    newest = [one.runs[-1] for one in series_of(runs)]
    for line, one in zip(browser.value(LINES), newest, strict=True):
        low, high = (one.record["interval"][end] for end in ("low", "high"))
        assert line["value"] == f"{one.record['value']:.2f}"
        assert line["interval"] == f"[{low:.2f}, {high:.2f}]"
        assert line["date"] == one.record["date"][:10] and one.path.name in line["link"]
    cells = "[...document.querySelectorAll('tr[data-run] b')].map(one => Number(one.innerText))"
    assert sorted(browser.value(cells)) == sorted(one.record["value"] for one in runs)


def test_the_filter(opened):
    browser, runs, _ = opened
    every = [one.number for one in runs]
    choose(browser)
    assert sorted(browser.value(SHOWN)) == every
    choose(browser, system="scenes-xs")
    assert browser.value(SHOWN) == [4]
    assert browser.value("document.getElementById('shown').innerText") == (
        "1 of 5 series, 1 of 8 runs shown"
    )
    hidden = "[...document.querySelectorAll('g[data-system]')].filter(g => getComputedStyle(g)"
    assert browser.value(f"{hidden}.display === 'none').length") == 4
    choose(browser, device=f"cuda:0 {NASTY}")
    assert browser.value(SHOWN) == [5]
    choose(browser, mark="worse")
    assert browser.value(SHOWN) == [1] and browser.value(LINES) == []
    choose(browser, **{"from": "2026-01-02", "to": "2026-01-03"})
    assert sorted(browser.value(SHOWN)) == [1, 2]
    (line,) = browser.value(LINES)  # the newest run of that time, not the newest of all
    assert (line["value"], line["mark"]) == ("12.00", "✓ better")
    assert line["was"] == "was 25.00 [24.00, 26.00]"
    choose(browser, to="2026-01-02", mark="worse")
    assert browser.value(LINES)[0]["value"] == "25.00"
    choose(browser, **{"from": "2026-01-09"})
    assert browser.value(SHOWN) == [] and browser.value(LINES) == []
    assert "No run of this benchmark fits" in browser.value("document.body.innerText")
    browser.value(
        "(document.getElementById('filter').reset(), new Promise(d => setTimeout(d, 50)))"
    )
    assert sorted(browser.value(SHOWN)) == every and len(browser.value(LINES)) == 5
    assert browser.problems == []


CUT = """[...document.querySelectorAll(".box, .overview tbody th, .overview tbody .number")]
  .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText.slice(0, 60))"""


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_window_and_nothing_is_cut(opened, width):
    browser, _, path = opened
    browser.window(width)
    browser.open(path)
    browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(CUT) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_all_that_was_measured_fits_and_no_protocol_is_open(browser, tmp_path, width):
    """The page of the records in results/, whose tables are the widest there are."""
    path = tmp_path / "index.html"
    runs = read_runs()
    path.write_text(page(runs, read_published(), tmp_path), encoding="utf-8")
    browser.window(width)
    browser.open(path)
    assert browser.value("document.querySelectorAll('.panel details[open]').length") == 0
    assert browser.value("document.documentElement.scrollHeight") < 2_000 * len(runs)
    browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(CUT) == []
    apart = """[...document.querySelectorAll(".overview tbody tr")].filter(line => {
      const [name, value] = [...line.children].map(one => one.getBoundingClientRect());
      return value.left < name.right - 1 && value.top < name.bottom - 1;
    }).length"""
    assert browser.value(apart) == 0  # no name stands over a number


def test_the_theme_follows_the_person_and_the_button(opened):
    browser, _, path = opened
    ground = "getComputedStyle(document.body).backgroundColor"
    pressed = "document.getElementById('theme').getAttribute('aria-pressed')"
    click = "document.getElementById('theme').click()"
    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
    for scheme, before, after in (("light", light, dark), ("dark", dark, light)):
        browser.window(1280, scheme=scheme)
        browser.open(path)
        assert browser.value(ground) == before
        assert browser.value(pressed) == str(before == dark).lower()
        browser.value(click)
        assert browser.value(ground) == after
        assert browser.value(pressed) == str(after == dark).lower()
        browser.value(click)
        assert browser.value(ground) == before
    browser.window(1280)


def test_keyboard_and_screen_reader(opened):
    browser, _, path = opened
    browser.window(1280)
    browser.open(path)
    names = []
    for _ in range(12):
        browser.key("Tab", 9)
        names.append(
            browser.value("document.activeElement.innerText || document.activeElement.name")
        )
        assert browser.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert names[:2] == ["Skip to the results", "Dark theme"]
    assert next(name for name in names if "scenes-s" in name).startswith("all")
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    seen = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree
            if not one["ignored"]]  # fmt: skip
    for role in ("banner", "main", "navigation", "contentinfo", "form", "status"):
        assert role in {one for one, _ in seen}, role
    for role in ("combobox", "Date", "button", "link", "image", "region", "table", "img"):
        assert all(name for one, name in seen if one == role), role
    images = [one for one, _ in seen if one in ("image", "img")]
    assert len(images) == 5 + 4  # a sparkline for each series, a plot for each panel


def test_a_picture_of_the_page(opened):
    from PIL import Image

    _, _, path = opened
    shot = inline.screenshot(path, path.with_name("dashboard.png"))
    with Image.open(shot) as image:
        assert image.size == inline.SHOT
    assert 5_000 < shot.stat().st_size < 200_000


def test_a_picture_needs_a_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(inline, "BROWSERS", ())
    with pytest.raises(UserError, match="--picture needs chromium; install it"):
        inline.screenshot(tmp_path / "index.html", tmp_path / "dashboard.png")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_in_html_fits_too(browser, tmp_path, width):
    """The report of the records in results/."""
    inputs = read_inputs(RESULTS, PUBLISHED, ROOT / "baselines", tmp_path)
    path = tmp_path / "report.html"
    path.write_text(to_html(build(inputs)), encoding="utf-8")
    browser.window(width)
    browser.open(path)
    assert browser.value("document.documentElement.scrollWidth") == width
    cut = """[...document.querySelectorAll(".scroll, td > div, tbody th")]
      .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText)"""
    assert browser.value(cut) == []
