"""Tables on a terminal: no wider than it, nothing lost, numbers whole."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.reports import read_published
from cm3leon.reports.details import detail_tables
from cm3leon.reports.records.store import read_all
from cm3leon.reports.tables import Table, fid_table
from cm3leon.reports.terminal import WIDTH, fitted, parts, text_of

WORDS = st.lists(st.text("abcdefg.", min_size=1, max_size=14), max_size=12).map(" ".join)
NUMBER = st.floats(0, 1e6).map("{:,.3f}".format)


@st.composite
def tables(draw) -> Table:
    columns = draw(st.integers(1, 14))
    numbers = frozenset(draw(st.sets(st.integers(1, 13)))) & set(range(columns))
    rows = [
        tuple(draw(NUMBER if place in numbers else WORDS) for place in range(columns))
        for _ in range(draw(st.integers(0, 4)))
    ]
    headers = tuple(draw(WORDS) or "-" for _ in range(columns))
    return Table(headers, tuple(rows), "caption", numbers=numbers)


@given(tables())
def test_a_table_is_no_wider_than_a_terminal_and_loses_nothing(table):
    lines = text_of(table).split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)
    shown = sorted(re.sub(r"[\s-]", "", "".join(lines[1:])))
    for row in (table.headers, *table.rows):
        for cell in row:
            for letter in re.sub(r"[\s-]", "", cell):
                shown.remove(letter)  # ValueError where one is missing


@given(tables())
def test_numbers_are_never_cut(table):
    text = text_of(table)
    for row in table.rows:
        for place in table.numbers:
            assert row[place] in text


def test_words_give_way_before_columns_part():
    columns = [("name", "a " * 40), ("value", "1.0"), ("why", "b " * 60)]
    widths = fitted(columns, frozenset({1}), 60)
    assert widths[1] == 5 and sum(widths) + 6 == 60 and min(widths[0], widths[2]) >= 20
    assert list(parts(widths, 60)) == [[0, 1, 2]]
    assert list(parts([20, 30, 30, 30], 60)) == [[0, 1], [0, 2], [0, 3]]
    short = Table(("a", "b"), (("x", "y"),), "c")
    assert text_of(short) == "c\n  ----\n  a  b\n  ----\n  x  y\n  ----"


def test_rows_that_stand_out_and_rules_stay(monkeypatch):
    rows = tuple((f"row {k}", "word " * 50, f"{k}.5") for k in range(3))
    table = Table(("a", "b", "c"), rows, "d", ours=frozenset({1}), rule_after=2)
    lines = text_of(table).split("\n")
    assert [line[:7] for line in lines if "row" in line] == ["  row 0", "> row 1", "  row 2"]
    assert sum(set(line) == {" ", "-"} for line in lines) == 4


def test_the_tables_of_all_records_fit():
    for record in read_all():
        made = [fid_table(record, read_published()), *detail_tables(record)["tables"]]
        for table in made:
            assert max(map(len, table.to_text().split("\n"))) <= WIDTH, table.caption


@pytest.mark.parametrize("name", ["ablate_pretraining", "ablate_decoding", "latency"])
def test_what_a_benchmark_prints_fits(name):
    from cm3leon.reports.benches.decoding import decoding_tables
    from cm3leon.reports.benches.latency import latency_tables
    from cm3leon.reports.benches.pretraining import pretraining_tables

    quoted = read_published()
    makers = {
        "ablate_pretraining": pretraining_tables,
        "ablate_decoding": decoding_tables,
        "latency": lambda record: latency_tables(record, quoted),
    }
    for table in makers[name](read_all(bench=name)[-1]).values():
        assert max(map(len, table.to_text().split("\n"))) <= WIDTH, table.caption
