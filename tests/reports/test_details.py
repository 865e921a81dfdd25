"""What a record says beside its value: conditions by measures, not one list."""

from cm3leon.reports.details import detail_tables, extras_tables
from cm3leon.reports.records.store import read_all
from tests.record_maker import record


def test_the_decoding_ablation_is_shown_by_part_and_condition():
    """Each of its numbers once, in a table of its part; none longer than a part has conditions."""
    one = read_all(bench="ablate_decoding")[-1]
    tables = detail_tables(one)["tables"]
    grids = {table.caption: table for table in tables if table.headers[0] == "condition"}
    assert {"guidance", "surface", "nucleus", "readings", "pool", "captions"} < set(grids)
    cells = one["protocol"]["cells"]
    assert [row[0] for row in grids["nucleus"].rows] == list(cells["nucleus"])
    assert max(len(table.rows) for table in tables) <= 40 < len(one["extra"])
    shown = sum(
        cell != "-" for table in extras_tables(one) for row in table.rows
        for cell in (row[1:] if table.headers[0] == "condition" else row[1:2])
    )  # fmt: skip
    assert shown == len(one["extra"])


def test_headers_tell_unit_and_direction():
    extra = {f"{arm}.{name}": 1.0 for arm in "ab" for name in ("held_out_loss", "right", "words")}
    extra |= {"b.right_vs_a": 0.1, "c.right_vs_a": 0.2, "floor": 3.0}
    grid, compared, single = extras_tables(record(bench="mine", extra=extra))
    assert grid.headers[1:] == (
        "held-out loss, nats \u2193", "composition, share \u2191", "length of a caption, words"
    )  # fmt: skip
    assert [row[0] for row in grid.rows] == ["a", "b"]
    assert compared.headers[1:] == ("composition: lead over a, share \u2191",)
    assert [row[0] for row in compared.rows] == ["b", "c"]
    assert [row[0] for row in single.rows] == ["floor"]


def test_every_record_is_shown_by_its_own_tables():
    """Nothing is missing, and no table is a list of hundreds of numbers."""
    newest = {one["bench"]: one for one in read_all()}
    for bench, one in newest.items():
        found = detail_tables(one)
        assert found["missing"] is None and found["tables"], bench
        assert max(len(table.rows) for table in found["tables"]) <= 130, bench
