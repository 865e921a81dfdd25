"""The limits that the house keeps, and that its counts and its drawing can be trusted."""

import ast
import re

import pytest

from tests.house import house

CODE = """
class Open:
    def __init__(self, a, b): ...
    def many(self, a, b, c, *rest, d, e, f, g=1, **more): ...
    def _hidden(self, a, b, c, d, e, f, g): ...
class _Closed:
    def many(self, a, b, c, d, e, f, g): ...
def outer(a):
    if a:
        def inner(a, b, c, d, e, f, g):
            ...
    return a
"""


def test_the_limits_hold():
    assert house.broken() == []


def test_functions_and_their_arguments_are_counted():
    found = {
        name: (house.arguments(one), one.end_lineno - one.lineno + 1, public)
        for name, one, public in house.functions(ast.parse(CODE))
    }
    assert found == {
        "Open.__init__": (2, 1, True),
        "Open.many": (7, 1, True),
        "Open._hidden": (7, 1, False),
        "_Closed.many": (7, 1, False),
        "outer": (1, 5, True),
        "outer.inner": (7, 2, False),
    }


def test_files_of_an_addition_are_counted_once(tmp_path, monkeypatch):
    page = tmp_path / "how-to.md"
    monkeypatch.setattr(house, "HOW_TO", page)
    assert house.files_touched() == {}
    page.write_text(
        "# How\n\n## A metric: two\n\nNew file `a.py`:\n\nIn `b.py`, after the line `x`:\n\n"
        "In `b.py`, before the line `y`:\n\n## A task: one\n\nNew file `c.py`:\n"
    )
    assert house.files_touched() == {"A metric": 2, "A task": 1}
    page.write_text("## A metric: three\n\n" + "".join(f"New file `{k}`:\n" for k in "abc"))
    assert "A metric touches 3 files, at most 2" in house.broken()


def test_a_full_folder_is_named(monkeypatch):
    monkeypatch.setattr(house, "MODULES", 8)
    assert "cm3leon/cli has 8 modules, at most 8" not in house.broken()
    monkeypatch.setattr(house, "MODULES", 7)
    assert any(one.startswith("cm3leon/cli has ") for one in house.broken())


@pytest.fixture(scope="module")
def every():
    return house.rooms()


def below(arrows, name) -> set[str]:
    return set(arrows[name]).union(*(below(arrows, one) for one in arrows[name]))


def test_arrows_left_out_are_those_that_others_imply(every):
    whole, kept = {name: room.needs for name, room in every.items()}, house.needed(every)
    assert sum(map(len, kept.values())) < sum(map(len, whole.values()))
    for name in every:
        assert below(kept, name) == below(whole, name)
        for one in kept[name]:
            rest = kept | {name: kept[name] - {one}}
            assert one not in below(rest, name)


def test_every_arrow_leads_down(every):
    arrows = house.needed(every)
    plan = house.floors(every, arrows)
    height = {name: floor for floor, row in enumerate(plan) for name in row}
    assert height.keys() == every.keys() - {"single files"}
    for name in height:
        assert all(height[one] < height[name] for one in arrows[name])


def test_the_drawing_is_of_these_sources(every):
    drawn = house.DRAWING.read_text("utf-8")
    assert house.bare(drawn) == house.bare(house.drawing()), "run nox -s house"
    names = re.findall(r'class="name"[^>]*>([^<]+)<', drawn)
    assert {name.removesuffix("/").removesuffix(".py") for name in names} >= every.keys() - {
        "single files"
    }
    assert drawn.count('class="arrow"') == sum(map(len, house.needed(every).values()))


def test_the_page_of_the_design_shows_it():
    assert "![" in (page := (house.ROOT / "docs" / "design.md").read_text("utf-8"))
    assert "(house.svg)" in page
