"""The README's numbers, tables and prose, are what the committed records say."""

import json
import subprocess

import pytest

from cm3leon.errors import UserError
from cm3leon.reports.readme import (
    MARKED,
    MEASURED,
    NUMBER,
    NUMBERS,
    PAGES,
    ROOT,
    block,
    headline,
    number,
    page,
)
from cm3leon.reports.records.store import NothingThere, migrate, ranked
from tests.record_maker import record, splits_record


@pytest.fixture(scope="module")
def committed() -> list[dict]:
    """Records git tracks: a reader's own runs do not change the README."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "results/*.json"], capture_output=True, text=True
    )
    if listed.returncode or not listed.stdout.strip():
        pytest.skip("no git checkout with records")
    records = [migrate(json.loads((ROOT / name).read_text())) for name in listed.stdout.split()]
    return sorted(records, key=lambda record: record["date"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_what_the_records_say(committed, path):
    text = path.read_text(encoding="utf-8")
    assert page(text, committed) == text, "run python -m cm3leon.reports.readme"
    for found in NUMBER.finditer(text):  # prose that disagrees is seen
        wrong = f"{text[: found.start(3)]}99.9{text[found.end(3) :]}"
        assert page(wrong, committed) == text, found[2]
    for found in MARKED.finditer(text):
        assert page(text.replace(found[3], "old\n"), committed) == text


def test_every_number_and_block_stands_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert {found[2] for found in NUMBER.finditer(text)} == NUMBERS.keys()
    assert [found[2] for found in MARKED.finditer(text)] == [
        "short",
        "results",
        "positions",
        "scaling",
        "tasks",
    ]


def test_the_run_that_speaks_gives_the_number(monkeypatch):
    monkeypatch.setitem(NUMBERS, "one", ("fid_coco", "scenes-s", "value", "{value:.1f} n={n}"))
    monkeypatch.setitem(NUMBERS, "two", ("fid_coco", "scenes-s", "floor", "{value:.1f} [{low:.2f}"))
    full = record(25.0, n=1000, date="2026-01-01T00:00:00Z")
    later = record(19.0, n=200, date="2026-02-01T00:00:00Z")
    trial = record(3.0, n=9000, warnings=["a trial of the way"], date="2026-02-02T00:00:00Z")
    for records in ([full, later, trial], [trial, later, full]):
        assert number("one", records) == "25.0 n=1000"
    assert number("two", [full]) == "0.6 [0.58"
    with pytest.raises(NothingThere, match="run nox -s ablate_decoding"):
        number("mixed-gain", [full])
    with pytest.raises(UserError, match="no number 'nonsense'"):
        number("nonsense", [full])


def test_a_part_of_a_benchmark_does_not_replace_more_of_it():
    whole = record(protocol={"parts": ["a", "b"]}, date="2026-01-01T00:00:00Z")
    part = record(protocol={"parts": ["a"]}, date="2026-02-01T00:00:00Z")
    arms = record(protocol={"seeds": {"x": [0], "y": [0]}}, date="2026-01-01T00:00:00Z")
    few = record(protocol={"seeds": {"x": [0]}}, date="2026-02-01T00:00:00Z")
    newer = record(protocol={"parts": ["a"]}, version=2, n=600)
    look = record(protocol={"parts": ["a", "b"]}, version=3, n=499, date="2026-03-01T00:00:00Z")
    for records in ([whole, part, newer, look], [look, newer, part, whole]):
        assert ranked(records) == [look, part, whole, newer]
    assert ranked([arms, few]) == [few, arms]


def test_only_what_stands_between_the_marks_changes():
    one = splits_record()
    text = "before <!-- results:begin -->\nold\n<!-- results:end --> after"
    made = page(text, [one])
    assert made == f"before <!-- results:begin -->\n{block([one])}\n<!-- results:end --> after"
    with pytest.raises(UserError, match="no block 'other' to write"):
        page("<!-- other:begin -->\n<!-- other:end -->", [one])


def test_the_block_leads_with_the_version_that_the_code_measures():
    from benchmarks.fid_coco import BENCH

    assert BENCH.version == MEASURED
    old = record(protocol={"data": "scenes", "prompts": "scenes coco test"}, n=1_500)
    new = splits_record()
    assert headline([old, new]) == headline([new, old]) == [new]
    assert block([new]).startswith("`fid_coco`, version 2.\n\n**fid")
    assert block([old]).startswith("`fid_coco`, version 1; the code measures version 2 ([docs/des")
