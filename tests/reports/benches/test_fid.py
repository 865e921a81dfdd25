"""The table of the numbers beside a pinned FID."""

from cm3leon.evaluation.measures import MEASURES, declared
from cm3leon.reports.benches.fid import beside_table
from tests.record_maker import record, splits_record

PINNED = {"protocol": {"data": "coco", "protocol": "coco2014-30k/clean"}, "n": 1200}
MISSING = [{"measure": "CMMD", "needs": "x.pt by --cmmd-weights"}]


def test_every_number_has_a_row_with_its_interval_and_direction():
    plain = [one for one in MEASURES if "*" not in one.name and one.better != "none"]
    around = {one.name: {"value": 2.0, "low": 1.5, "high": 3.0} for one in plain}
    table = beside_table(record(extra=around, **PINNED))
    assert [row[0] for row in table.rows] == [one.title for one in plain]
    assert {row[1:3] for row in table.rows} == {("2.00", "[1.50, 3.00]")}
    assert [row[3] for row in table.rows] == [one.better for one in plain]
    assert "n=1,200" in table.caption and "FD-DINOv2" in table.to_text()


def test_another_network_s_number_is_named_for_it():
    keys = ("fd_dinov2_dinov2-s14", "clip_score_s_ViT-B-32", "clip_score_ViT-B-32")
    rows = beside_table(record(extra=dict.fromkeys(keys, 1.0), **PINNED)).rows
    assert [row[0] for row in rows] == [
        "FD-DINOv2 (dinov2-s14)",
        "CLIP score, 2.5 max(0, cosine) (ViT-B-32)",
        "CLIP score, plain cosine (ViT-B-32)",
    ]


def test_networks_and_what_is_missing_are_named():
    one = record(extra={"floor": 1.0, "kid_std": 2.0, "kid": 3.0, "fd_dinov2": 4.0}, **PINNED)
    one["measures"]["fd_dinov2"]["by"] = "dinov2 (w.pt)"
    table = beside_table(one | {"missing": MISSING, "warnings": ["a trial"]})
    assert [row[0] for row in table.rows] == ["KID", "FD-DINOv2"]  # the scale has its own table
    said = ("FD-DINOv2 by dinov2 (w.pt)", "not measured: CMMD: x.pt by --cmmd-weights")
    assert table.notes == said
    assert beside_table(record()) is None  # version 1 of the embedded world


def test_of_the_embedded_world_the_headline_s_arm():
    """What the table of splits has no column for."""
    one = splits_record()
    one["extra"] |= {"natural.documents2.precision": 0.9, "natural.documents1.precision": 0.8}
    one["extra"] |= {"natural.documents2.clip_score_scenes": 0.3, "natural.documents2.kid_std": 1.0}
    table = beside_table(one | {"measures": declared(one["extra"]), "missing": MISSING})
    assert table.rows == (
        ("precision", "0.900", "", "higher"),
        ("CLIP score, plain cosine (scenes)", "0.300", "", "higher"),
    )
    assert table.notes == ("not measured: CMMD: x.pt by --cmmd-weights",)
