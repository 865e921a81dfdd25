"""Reports of `fid_coco` version 2: its table, what leads the pages, how it meets older records."""

import numpy as np
import pytest

from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.reports import extra, key_of, leading, main_arm, read_published
from cm3leon.reports.benches.splits import splits_table, splits_tables
from cm3leon.reports.compare import compare, pairable, tables
from cm3leon.reports.details import detail_tables
from cm3leon.reports.exports import to_lm_eval
from cm3leon.reports.paper.claims import FAILS, HOLDS, OPEN, findings
from cm3leon.reports.paper.main import build
from cm3leon.reports.paper.results import Inputs, Run, columns
from cm3leon.reports.paper.results import headline as paper_headline
from cm3leon.reports.readme import block, headline
from cm3leon.reports.tables import fid_table, scale_table
from tests.record_maker import record, splits_record

LATER = {"date": "2026-02-02T03:04:05Z"}


def cells(table) -> list[dict]:
    return [dict(zip(table.headers, row, strict=True)) for row in table.rows]


def test_a_row_for_each_split_and_number_of_documents():
    one = splits_record()
    rows = cells(splits_table(one))
    assert [(row["captions"], row["documents"]) for row in rows] == [
        ("natural", "0"), ("natural", "1"), ("natural", "2"), ("natural", "2, plain"),
        ("test", "0"), ("test", "1"), ("test", "2"),
        ("tail", "0"), ("tail", "1"), ("tail", "2"),
    ]  # fmt: skip
    assert rows[2]["fid_scenes"] == "17.00 [15.00, 19.00]" and rows[2]["own pictures"] == "16.00"
    assert rows[2]["over none"] == "0.900 [0.850, 0.950]" and rows[0]["over none"] == "-"
    assert rows[3]["fid_scenes"].startswith("13.00") and rows[3]["overall"].startswith("0.900")
    assert rows[9]["never seen"] == "0.200" and rows[4]["entity"] == "-"
    assert rows[9]["entity"] == "0.300 [0.200, 0.400]"
    table = splits_table(one)
    assert table.ours == {2}
    assert "natural 5.00, test 15.00, tail 25.00 (floor)" in table.notes[0]
    assert "else guidance 1.25, temperature 0.8" in table.notes[1]


def test_a_system_without_retrieval_has_no_column_of_ratios():
    table = splits_table(splits_record(documents=(0,)))
    assert "over none" not in table.headers and len(table.rows) == 4
    assert table.ours == {0} and not any("over none" in note for note in table.notes)
    assert splits_table(record()) is None and splits_tables(record()) == []


def test_the_two_tables_of_a_page_hold_every_column_once():
    whole = splits_table(splits_record())
    one, other = splits_tables(splits_record())
    assert one.headers + other.headers[2:] == whole.headers
    for row, left, right in zip(whole.rows, one.rows, other.rows, strict=True):
        assert left + right[2:] == row and right[:2] == row[:2]
    assert one.ours == other.ours == whole.ours


def test_bare_names_are_those_of_the_headline():
    one = splits_record()
    assert main_arm(one) == "natural.documents2" and main_arm(record()) is None
    assert key_of(one, "kid") == "natural.documents2.kid"
    assert key_of(one, "floor") == "natural.floor"
    assert extra(one, "overall") == one["extra"]["natural.documents2.overall"]
    assert extra(one, "tail.documents1.fid")["value"] == 38.0
    assert extra(one, "precision") is None and extra(record(), "floor")["value"] == 0.62


def test_the_chosen_and_the_plain_setting_stand_one_below_the_other():
    rows = fid_table([splits_record(), splits_record(20, "scenes-xs", (0,))], read_published()).rows
    assert [row[:3] for row in rows[:4]] == [
        ("scenes-s", "2", "17.00"), ("scenes-s, plain setting", "2", "13.00"),
        ("scenes-xs", "0", "20.00"), ("scenes-xs, plain setting", "0", "16.00"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="is of one protocol"):
        fid_table([splits_record(), record()], read_published())


def test_both_kinds_of_reference_have_their_floor():
    rows = cells(scale_table(splits_record()))
    others, own = "against other real pictures", "against the captions' own"
    assert (rows[0][others], rows[0][own]) == ("5.00", "0, the reference")
    assert (rows[1][others], rows[1][own]) == ("0, the reference", "5.00")
    assert (rows[2][others], rows[2][own]) == ("6.00", "1.50")
    assert rows[3][others] == "17.00 [15.00, 19.00]" and rows[3][own] == "16.00 [14.00, 18.00]"


def test_the_readme_leads_with_version_2_once_it_is_there():
    old = [
        record(25.0, protocol=old_protocol()),
        record(50.0, "scenes-xs", protocol=old_protocol()),
    ]
    assert headline(old) == old
    new = [splits_record(**LATER), splits_record(19, "scenes-s-plain", (0,), **LATER)]
    assert headline([*old, *new]) == new
    small = splits_record(n=128, **LATER)  # a quick look
    assert headline([*old, small]) == old
    text = block(headline([*old, *new]))
    assert "by split and documents" in text and "plain setting" in text and "own pictures" in text
    assert "by split" not in block(headline(old)) and "Composition of" in block(headline(old))
    one_split = new[0]["protocol"] | {"captions": {"test": 1000}, "headline": "test"}
    assert not leading(one_split) and leading(new[0]["protocol"]) and leading(old_protocol())


def old_protocol() -> dict:
    return {"data": "scenes", "prompts": "scenes coco test, one caption", "features": "scenes"}


def test_the_report_holds_the_splits(tmp_path):
    new, old = splits_record(**LATER), record(25.0, protocol=old_protocol())
    runs = tuple(Run(one, f"results/x/{place}.json") for place, one in enumerate((old, new)))
    (group,) = paper_headline(columns(runs))
    assert [run.record for run in group] == [new]
    document = build(Inputs(runs, read_published()))
    labels = {
        getattr(part, "label", "") for section in document.sections for part in section.blocks
    }
    assert "table-splits-scenes-s" in labels


def test_retrieval_is_judged_on_every_split():
    one = splits_record()
    one["extra"]["test.documents2.fid_over_documents0"] = {"value": 1.2, "low": 1.1, "high": 1.3}
    one["extra"]["tail.documents2.fid_over_documents0"] = {"value": 0.9, "low": 0.7, "high": 1.01}
    judged = findings(Inputs((Run(one, "results/x/0.json"),), {"rows": []}))
    assert [(found.claim, found.on, found.verdict) for found in judged] == [
        ("H1", split, verdict)
        for split, two in (("natural", HOLDS), ("test", FAILS), ("tail", OPEN))
        for verdict in (two, HOLDS)
    ]
    assert judged[0].statement[0].text.startswith("two documents")
    assert judged[1].statement[0].text.startswith("one document")


def test_what_a_record_says_beside_its_value():
    found = detail_tables(splits_record())
    assert found["missing"] is None and len(found["tables"]) == 3
    lines = to_lm_eval([splits_record()])
    better = lines["higher_is_better"]["fid_coco@2"]
    assert (
        not better["natural.documents2.fid"] and not better["tail.documents1.fid_over_documents0"]
    )
    assert better["tail.documents2.entity"] and "natural.floor" not in better
    assert "natural.ceiling_own" not in better


def samples(shift: float, right: float) -> dict:
    """Arrays as the benchmark keeps them, of one split and the arms documents0 and documents2."""
    random = np.random.default_rng(0)
    prompts, hard = random.standard_normal((60, 4)), np.linspace(0, 1, 60)[:, None]
    kept = {
        "prompts": np.array([f"p{k}" for k in range(60)]), "tasks": np.array(["position"]),
        "natural.images": np.array([f"i{k}" for k in range(60)]),
        "natural.own_ND": prompts, "natural.others_MD": random.standard_normal((90, 4)),
    }  # fmt: skip
    for arm, more in (("documents0", 0.2), ("documents2", 0.0)):
        kept |= {
            f"natural.{arm}.features_KND": (prompts + shift + more)[None],
            f"natural.{arm}.right_NT": (hard < right).astype(np.int8),
            f"natural.{arm}.asked_NT": np.ones((60, 1), np.int8),
        }
    return kept


def telling(record: dict, kept: dict) -> dict:
    """A record whose distances are those of the samples beside it."""
    for arm in ("documents0", "documents2"):
        (drawn,) = kept[f"natural.{arm}.features_KND"]
        for key, real in (("fid", "others_MD"), ("fid_own", "own_ND")):
            value = frechet_from_features(kept[f"natural.{real}"], drawn)
            record["extra"][f"natural.{arm}.{key}"]["value"] = value
    record["value"] = record["extra"]["natural.documents2.fid"]["value"]
    return record


def test_runs_of_version_2_are_paired_arm_by_arm():
    a, b = samples(0.3, 0.5), samples(0.6, 0.5)
    one, other = telling(splits_record(), a), telling(splits_record(**LATER), b)
    found = compare(one, other, pairable(a, b))
    rows = {row.measure: row for row in found.rows}
    assert "natural.floor" not in rows and "natural.ceiling_own" not in rows
    paired = {name for name, row in rows.items() if row.paired}
    assert paired == {
        "value",
        *(f"natural.documents{count}.{key}" for count in (0, 2)
          for key in ("fid", "fid_own", "position")),
    }  # fmt: skip
    assert rows["value"].difference == rows["natural.documents2.fid"].difference
    assert (
        rows["value"].difference[0] > 0 and rows["natural.documents2.position"].difference[0] == 0
    )
    own = 4 * 0.6**2 - 4 * 0.3**2  # the means alone differ from the captions' own pictures
    assert rows["natural.documents2.fid_own"].difference[0] == pytest.approx(own)
    assert tables(found, one, other)
    one["extra"]["natural.documents2.fid"]["value"] += 1
    with pytest.raises(UserError, match="one of the records was edited"):
        compare(one, other, pairable(a, b))


def test_versions_never_compare():
    found = compare(record(), splits_record())
    assert "they differ in" in found.why_not and "version" in found.why_not
