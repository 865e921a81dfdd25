"""Tables, plot and pages of a latency record: every number and every note finds its place."""

import csv
import io
import re

import pytest

from cm3leon.evaluation.measures import find_measure
from cm3leon.reports import read_published
from cm3leon.reports.benches.latency import (
    configurations,
    latency_picture,
    latency_plot,
    latency_tables,
    note,
    one_image_table,
)
from cm3leon.reports.dashboard.history import read_runs
from cm3leon.reports.dashboard.page import page
from cm3leon.reports.details import detail_tables
from cm3leon.reports.paper.model import Missing
from cm3leon.reports.paper.results import Inputs, Run
from cm3leon.reports.paper.sections import context_of
from cm3leon.reports.paper.tables import speeds_table
from cm3leon.reports.paper.text import section as section_of
from cm3leon.reports.regress import regress
from tests.record_maker import record, saved

PUBLISHED = read_published()


def triple(value: float) -> dict:
    return {"value": value, "low": 0.9 * value, "high": 1.2 * value}


def speeds(seconds: float = 2.0, batch: int = 1) -> dict:
    return {
        "seconds_per_image": triple(seconds),
        "seconds_per_batch": triple(seconds * batch),
        "images_per_s": triple(1 / seconds),
        "tokens_per_s": triple(64 / seconds),
        "decode_tokens_per_s": triple(70 / seconds),
        "decode_ms": triple(1000 * seconds / 70),
        "ideal_memory_ms": 1.5,
        "ideal_compute_ms": 2.5 if batch > 1 else 0.5,
        "roofline_share": triple(0.25),
        "peak_memory_gib": 1.25,
        "load_of_others": 0.07,
        "tokens": 64,
        "rounds": 5,
    }


def made(peers: bool = False, llamagen: bool = False, **changes) -> dict:
    """Two sizes of which the larger fits one batch of three; int8 could not be had."""
    protocol = {
        "sizes": {"scenes-s": 64, "7b": 1024}, "batches": [1, 8, 64],
        "dtypes": ["float32", "int8"], "guidance": 3.0, "top_p": 0.9, "prompt_tokens": 32,
        "rounds": 5, "budget_s": 10.0, "peers": peers, "value_of": "scenes-s.float32.b1",
    }  # fmt: skip
    protocol |= {"llamagen": True} if llamagen else {}
    extra = {"ceiling.read_gb_per_s.65536KiB": 60.5, "ceiling.gflop_per_s.float32": 420.0}
    for batch in protocol["batches"]:
        own = speeds(0.5 / batch, batch)
        if peers:
            own |= {"gain_over_hf": triple(3.5), "decode_tokens_per_s_hf": triple(10.0)}
        if llamagen:
            own |= {"gain_over_llamagen": triple(2.5), "decode_tokens_per_s_llamagen": triple(7.0)}
        extra |= {f"scenes-s.float32.b{batch}.{name}": value for name, value in own.items()}
    extra |= {f"7b.float32.b1.{name}": value for name, value in speeds(40.0).items()}
    warnings = ["scenes-s.float32.b8: 3 of 5 rounds"]
    warnings += [f"7b.float32.b{batch}: out of memory: needs 99 GiB" for batch in (8, 64)]
    warnings += [f"{size}.int8.b{batch}: int8 needs torchao, which is not installed"
                 for size in protocol["sizes"] for batch in protocol["batches"]]  # fmt: skip
    fields = {"protocol": protocol, "extra": extra, "warnings": warnings} | changes
    value = fields.pop("value", 0.5)
    return record(value, "cm3leon", bench="latency", unit="s/image", n=5, **fields)


def test_every_configuration_has_a_row_or_shares_one():
    table = latency_tables(made(), PUBLISHED)["throughput"]
    rows = {row[:3]: row for row in table.rows}
    assert list(rows) == [
        *(("scenes-s", "float32", str(batch)) for batch in (1, 8, 64)),
        ("scenes-s", "int8", "1..64"),
        ("7b", "float32", "1"),
        ("7b", "float32", "8..64"),
        ("7b", "int8", "1..64"),
    ]
    eight = rows["scenes-s", "float32", "8"]
    assert eight[3:] == (
        "0.0625", "[0.0563, 0.0750]", "16.00", "1,024.00", "0.500", "1.25", "7%", "3 of 5 rounds",
    )  # fmt: skip
    assert rows["7b", "float32", "8..64"][3] == "-"
    assert rows["7b", "float32", "8..64"][-1] == "out of memory: needs 99 GiB"


def test_quoted_rows_stand_below_and_are_marked():
    table = one_image_table(made(), PUBLISHED)
    ours, theirs = table.rows[: table.rule_after], table.rows[table.rule_after :]
    assert ours == (
        ("scenes-s", "float32", "64 tokens", "0.500", "[0.450, 0.600]", "measured"),
        ("7b", "float32", "1024 tokens", "40.00", "[36.00, 48.00]", "measured"),
    )
    printed = {(row[0], row[2]): row[3] for row in theirs}
    assert printed["CM3Leon-7B, BF16", "256 px"] == "11.8"
    assert printed["CM3Leon-7B, INT8", "256 px"] == "9.1" and printed["LDM, 250 steps", "512 px"]
    assert {row[-1] for row in theirs} == {"quoted"} and len(theirs) == 9
    assert any("NOT comparable" in text for text in table.notes)
    alone = one_image_table(made(), {"rows": []})
    assert alone.rows == ours and alone.rule_after is None


def test_the_bound_is_the_longer_limit():
    rows = {row[:3]: row for row in latency_tables(made(), PUBLISHED)["roofline"].rows}
    assert rows["scenes-s", "float32", "1"][5:8] == ("1.5", "memory", "0.250")
    assert rows["scenes-s", "float32", "8"][5:8] == ("2.5", "compute", "0.250")
    assert len(rows) == 4


def test_one_round_has_no_interval():
    """Plain numbers as of a single round: in the tables, the plot, the report."""
    found = made()
    for name, entry in found["extra"].items():
        if name.startswith("7b") and isinstance(entry, dict):
            found["extra"][name] = entry["value"]
    tables = latency_tables(found, PUBLISHED)
    rows = {row[:3]: row for row in tables["throughput"].rows}
    assert rows["7b", "float32", "1"][3:5] == ("40.00", "")
    assert tables["roofline"].rows[-1][-2:] == ("0.250", "")
    assert latency_picture(found) != latency_picture(made())
    grid = speeds_table(Run(found, "results/latency/cm3leon/0.json"), 0)
    assert grid.panels[0].rows[-1].cells[3][0].interval == ""


def test_ceilings_and_peers():
    tables = latency_tables(made(peers=True), PUBLISHED)
    assert tables["ceilings"].rows == (
        ("read, working set 64 MiB", "60.50", "GB/s"),
        ("matrix product, float32", "420.00", "GFLOP/s"),
    )
    assert tables["peers"].rows[0] == (
        "scenes-s", "float32", "1", "140.00", "10.00", "3.50x", "[3.15, 4.20]",
    )  # fmt: skip
    assert not {"peers", "llamagen"} & set(latency_tables(made(), PUBLISHED))


def test_llamagen_has_a_table_of_its_own():
    tables = latency_tables(made(llamagen=True), PUBLISHED)
    assert "peers" not in tables and "LlamaGen's own loop" in tables["llamagen"].caption
    assert tables["llamagen"].headers[4] == "LlamaGen, tokens/s"
    assert tables["llamagen"].rows[0] == (
        "scenes-s", "float32", "1", "140.00", "7.00", "2.50x", "[2.25, 3.00]",
    )  # fmt: skip
    both = latency_tables(made(peers=True, llamagen=True), PUBLISHED)
    assert both["peers"].rows == latency_tables(made(peers=True), PUBLISHED)["peers"].rows
    assert any("the peers in it" in one for one in both["throughput"].notes)
    assert any("the peer in it" in one for one in tables["throughput"].notes)


def test_tables_survive_every_form():
    for table in latency_tables(made(peers=True, llamagen=True), PUBLISHED).values():
        read = list(csv.reader(io.StringIO(table.to_csv())))
        assert len(read) == 1 + len(table.rows)
        assert table.to_latex().count("\\\\") == 1 + len(table.rows)
        assert table.to_text() and table.to_markdown()


def test_a_note_is_of_its_own_configuration():
    found = made(warnings=["scenes-s.float32.b64: late", "scenes-s.float32.b6: no"])
    assert note(found, "scenes-s.float32.b64") == "late"
    assert note(found, "scenes-s.float32.b8") == ""
    assert len(list(configurations(found))) == 12


def test_the_plot_is_the_same_each_time(tmp_path):
    one, other = (latency_plot(made(), tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in one] == ["latency.svg", "latency.png"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_the_plot_shows_what_was_measured_alone():
    """A line for each size and type with numbers: int8 had none."""
    text = latency_picture(made()).decode()
    labels = re.findall(r"<!-- (.+?) -->", text)
    assert "scenes-s" in labels and "7b" in labels and not any("int8" in one for one in labels)
    assert {"1", "8", "64"} <= set(labels)


def test_the_dashboard_shows_tables_plot_and_quotes(tmp_path):
    saved(tmp_path, made())
    text = page(read_runs(tmp_path), PUBLISHED, tmp_path / "out", tmp_path)
    for needed in ("Throughput against the batch", "data:image/svg+xml", "CM3Leon-7B, BF16",
                   "out of memory: needs 99 GiB"):  # fmt: skip
        assert needed in text
    assert detail_tables(made())["missing"] is None


def test_less_time_is_better():
    """Every measure of time and memory one way, every speed the other."""
    lower = {"seconds_per_image", "seconds_per_batch", "decode_ms", "peak_memory_gib"}
    higher = {"images_per_s", "tokens_per_s", "decode_tokens_per_s", "roofline_share"}
    assert lower | higher < set(speeds())
    for name in (*lower, *higher, "seconds_per_image_hf", "gain_over_hf", "decode_ms_llamagen",
                 "gain_over_llamagen"):  # fmt: skip
        own = name.removesuffix("_hf").removesuffix("_llamagen")
        wanted = "lower" if own in lower else "higher"
        assert find_measure(f"12x512x8.float32.b8.{name}")[1].better == wanted


def test_a_busy_machine_is_no_regression(tmp_path):
    """Ten times slower, by a protocol that is the same: the gate judges pairs taken in turn."""
    slow = made()
    slow = made(extra={name: 10 * entry if isinstance(entry, float) else triple(10 * entry["value"])
                       for name, entry in slow["extra"].items() if not isinstance(entry, int)},
                value=5.0)  # fmt: skip
    saved(tmp_path / "base", made(), record(20.0))
    saved(tmp_path / "head", slow, record(20.0))
    assert regress(results=tmp_path / "head", base_results=tmp_path / "base") == 0


def test_the_report_shows_it_or_says_what_is_missing():
    empty = section_of("latency", context_of(Inputs((), PUBLISHED)))
    assert isinstance(empty.blocks[0], Missing)
    run = Run(made(), "results/latency/cm3leon/0.json")
    section = section_of("latency", context_of(Inputs((run,), PUBLISHED)))
    assert not any(isinstance(block, Missing) for block in section.blocks)
    assert {"figure-speeds-0", "table-latency"} <= {
        getattr(block, "label", None) for block in section.blocks
    }
    (table,) = section_of("speeds", context_of(Inputs((run,), PUBLISHED))).blocks
    assert table.label == "table-speeds-0" and not table.floats
    grid = speeds_table(run, 0)
    first = grid.panels[0].rows[0].cells
    assert [part.text for cell in first for part in cell][:3] == ["scenes-s", "float32", "1"]
    seconds = first[3][0].trace
    assert (seconds.value, seconds.low, seconds.high) == pytest.approx((0.5, 0.45, 0.6))
    assert seconds.key == "/extra/scenes-s.float32.b1.seconds_per_image/value"
    assert len(grid.panels[0].rows) == 4
    said = ["".join(part.text for part in one) for one in grid.notes]
    assert said[0] == "scenes-s, float32, batch 8: 3 of 5 rounds" and len(said) == 4
    assert "7b, float32, batch 8, 64: out of memory: needs 99 GiB" in said
