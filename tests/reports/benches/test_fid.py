"""The table of the numbers beside a pinned FID."""

from cm3leon.reports.benches.fid import ROWS, beside_table

SAID = ["a trial", "not measured: CMMD: name x.pt by --cmmd-weights", "measured: fd_dinov2 by x"]


def record(extra, warnings=SAID):
    return {"system": {"name": "ours"}, "n": 1200, "extra": extra, "warnings": warnings}


def test_every_number_has_a_row_with_its_interval_and_direction():
    table = beside_table(record({key: {"value": 2.0, "low": 1.5, "high": 3.0} for key in ROWS}))
    assert [row[0] for row in table.rows] == [label for label, _ in ROWS.values()]
    assert {row[1:3] for row in table.rows} == {("2.00", "[1.50, 3.00]")}
    assert [row[3] for row in table.rows] == [better for _, better in ROWS.values()]
    assert "n=1,200" in table.caption and "FD-DINOv2" in table.to_text()


def test_another_network_s_number_is_named_for_it():
    keys = ("fd_dinov2_dinov2-s14", "clip_score_s_ViT-B-32", "clip_score_ViT-B-32")
    rows = beside_table(record(dict.fromkeys(keys, 1.0))).rows
    assert [row[0] for row in rows] == [
        "FD-DINOv2 (dinov2-s14)",
        "CLIP score, 2.5 max(0, cosine) (ViT-B-32)",
        "CLIP score, plain cosine (ViT-B-32)",
    ]


def test_what_belongs_to_other_tables_stays_out():
    table = beside_table(record({"floor": 1.0, "kid_std": 2.0, "single": 0.5, "kid": 3.0}))
    assert [row[0] for row in table.rows] == ["KID"]
    assert table.notes == tuple(SAID[1:])
    assert beside_table(record({"kid": 1.0}, ["a trial"])) is None  # of no pinned protocol
