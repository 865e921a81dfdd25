"""Templates of the report: what they may say, and that what they are given is never read."""

import re

import pytest

from cm3leon.reports.paper import text
from cm3leon.reports.paper.model import Grid, Missing, Panel, Paragraph, numeral, words
from cm3leon.reports.paper.sections import APPENDIX, BODY

TABLE = Grid("table-x", (Panel((words("a"),), (), "l"),))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The section that a template of this text makes."""
    monkeypatch.setattr(text, "FOLDER", tmp_path)
    text.environment.cache_clear()

    def made(template: str, **context):
        (tmp_path / "some-name.md").write_text(template, encoding="utf-8")
        return text.section("some-name", context)

    yield made
    text.environment.cache_clear()


def test_every_template_is_a_section_and_every_section_has_one():
    names = {path.stem for path in text.FOLDER.glob("*.md")}
    assert names == {*BODY, *APPENDIX, "abstract", "references"}
    assert len(names) == len(BODY) + len(APPENDIX) + 2


def test_what_is_cited_has_a_reference_and_every_reference_is_cited():
    every = "".join(path.read_text("utf-8") for path in text.FOLDER.glob("*.md"))
    assert set(re.findall(r"\[@(\w+)\]", every)) == text.references().keys()


def test_blocks(written):
    found = written(
        "## A title\ncommand: nox -s x\n\n**Lead.** Words\nof `code`.\n\n- one\n  more\n- two\n\n"
        "> Nothing {{ here }}.\n\n$$ x^2\nx squared\n\n![Of *all*\n{{ here }}.]({{ table }})\n"
        "A note.\n",
        here="there",
        table=TABLE,
    )
    assert (found.label, found.title, found.level, found.command) == (
        "some-name", "A title", 2, "nox -s x",
    )  # fmt: skip
    lead, bullets, missing, formula, grid = found.blocks
    assert lead.lead == "Lead." and shown(lead.parts) == "Words of code."
    assert [part.kind for part in lead.parts] == ["text", "code", "text"]
    assert [shown(item) for item in bullets.items] == ["one more", "two"]
    assert shown(missing.what) == "Nothing there." and shown(missing.command) == "nox -s x"
    assert (formula.typst, formula.text) == ("x^2", "x squared")
    assert (grid.label, shown(grid.caption), shown(grid.notes[0])) == (
        "table-x", "Of all there.", "A note.",
    )  # fmt: skip


def shown(parts) -> str:
    return "".join(part.text for part in parts)


def test_values_are_never_read_as_markup_or_as_a_template(written):
    nasty = "*a* `b` [@cm3] [#x] {v1} {{ other }} {% x %} > - ![c](d)\n\n# t"
    found = written("# T\n\nA {{ one }} {{ other }}.\n", one=nasty, other="second")
    (paragraph,) = found.blocks
    assert isinstance(paragraph, Paragraph)
    assert shown(paragraph.parts) == f"A {nasty} second.".replace("\n", " ")
    assert {part.kind for part in paragraph.parts} == {"text"}


def test_a_number_keeps_its_source(written):
    part = numeral(1.5, "results/x.json", "/value", ends=(1.0, 2.0))
    (paragraph,) = written("# T\n\nIt is {{ part }}.\n", part=part).blocks
    assert part in paragraph.parts


@pytest.mark.parametrize("value", [1.5, 3, None])
def test_a_number_without_a_source_is_refused(written, value):
    with pytest.raises(TypeError, match=r"some-name\.md shows .*, which has no source"):
        written("# T\n\nIt is {{ value }}.\n", value=value)


def test_an_unknown_name_is_a_fault(written):
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="'value' is undefined"):
        written("# T\n\n{{ value }}\n")


def test_a_template_that_says_nothing_is_no_section(written):
    template = "{% if some %}\n# T\n\n> What.\n{% endif %}\n"
    assert written(template, some=False) is None
    (missing,) = written(template, some=True).blocks
    assert isinstance(missing, Missing) and missing.command == ()
