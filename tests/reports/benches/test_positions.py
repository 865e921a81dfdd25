"""The table of `ablate_positions` from a record."""

from cm3leon.reports.benches.positions import positions_table


def entry(value, reach=0.01):
    return {"value": value, "low": value - reach, "high": value + reach}


def test_arms_in_order_and_their_loss_beside_rows():
    extra = {}
    for arm, loss in (("row", 0.62), ("grid", 0.57)):
        extra |= {f"{arm}.held_out_loss": entry(loss), f"{arm}.impossible_with_0": entry(0.25)}
    extra["grid.held_out_loss_minus_row"] = entry(-0.05)
    table = positions_table({"extra": extra, "n": 3})
    assert "3 training seeds" in table.caption
    row, grid = table.rows
    assert (row[0], row[-1]) == ("row", "-")
    assert (grid[0], grid[-1]) == ("grid", "-0.050 [-0.060, -0.040]")
    assert grid[1].startswith("0.570") and grid[2] == "-"
    assert row[table.headers.index("impossible drawings")].startswith("0.25")
