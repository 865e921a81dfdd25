"""Tables: what a person reads, in four formats, safe against what names and captions may hold."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import subprocess
import sys

import pytest

from cm3leon.errors import UserError
from cm3leon.reports import ROOT, read_published
from cm3leon.reports.tables import (
    Table,
    composition_table,
    fid_table,
    number,
    print_tables,
    scale_table,
    span,
    write_all,
)
from tests.record_maker import record, saved

NASTY = 'a|b <i>*x*</i> & 100% _$#{}~^\\ "q"\n\x1b[31m'


def test_ours_stand_above_the_quoted_rows():
    table = fid_table([record(25.1, "scenes-xs"), record()], read_published())
    assert [row[0] for row in table.rows[:3]] == ["scenes-s", "scenes-xs", "RA-CM3"]
    assert table.rows[0][1:] == ("0", "12.35", "[11.35, 13.35]", "scenes, n=1,000", "measured")
    assert ("CM3Leon-7B", "2", "4.88", "", "Inception, n=30k", "quoted") in table.rows
    assert len(table.rows) == 2 + 11
    assert any("NOT comparable" in note for note in table.notes)
    assert any("best of 8" in note for note in table.notes)
    assert any(note.startswith("Re-Imagen 5.25: conflict") for note in table.notes)
    assert "warning: n <= d" in table.notes


def test_text_is_aligned_and_fits_a_terminal():
    lines = fid_table(record(unit="fid_scenes"), read_published()).to_text().splitlines()
    assert max(map(len, lines)) <= 80
    header, ours, quoted = lines[2], lines[4], lines[6]
    assert ours.startswith("> scenes-s") and quoted.startswith("  RA-CM3")
    assert header.index("source") == ours.index("measured") == quoted.index("quoted")
    ends = {line.index(value) + len(value) for line, value in ((ours, "12.35"), (quoted, "15.70"))}
    assert len(ends) == 1  # numbers end in one column


def test_records_of_unlike_protocols_never_share_a_column(tmp_path, capsys):
    one, two = record(), record(13.0, protocol={"features": "inception", "documents": 2})
    with pytest.raises(ValueError, match="is of one protocol"):
        fid_table([one, two], read_published())
    saved(tmp_path / "results", one, two, record(14.0, name="other"))
    print_tables("fid_coco", tmp_path / "results", out=tmp_path / "out")
    shown = capsys.readouterr().out
    assert shown.count("FID on captions") == 2
    files = sorted(path.name for path in (tmp_path / "out" / "fid_coco").glob("*.md"))
    digests = sorted({one["protocol_digest"][:6], two["protocol_digest"][:6]})
    assert files == [f"fid_coco-1-{digest}.md" for digest in digests]


def test_other_benchmarks_have_their_own_tables(tmp_path, capsys):
    other = {"bench": "toy", "unit": "share", "better": "higher"}
    saved(tmp_path / "results", record(0.5, **other))
    print_tables("toy", tmp_path / "results", out=tmp_path / "out")
    shown = capsys.readouterr().out
    assert "share on captions" in shown and "What else scenes-s was measured by" in shown
    assert "RA-CM3" not in shown


def test_the_scale_and_the_composition():
    rows = scale_table(record()).rows
    assert [row[1] for row in rows] == ["0.620", "3.21", "12.35", "812.40"]
    assert rows[0][2] == "[0.580, 0.660]" and rows[1][2] == ""
    assert scale_table(record()).notes == ("KID of scenes-s: 0.0123",)
    composition = composition_table(record())
    assert composition.rows[0] == ("single object", "0.900", "")
    assert composition.rows[-1] == ("overall (mean of six)", "0.712", "[0.690, 0.730]")
    assert composition_table(record(extra={})) is None
    assert len(scale_table(record(extra={}, interval=None)).rows) == 1


def test_numbers():
    values = (0, 12.345, 1234.5, 0.12345, 0.00123, -0.5, None, -3e-12, 4e-6)
    shown = ["0.00", "12.35", "1,234.50", "0.123", "0.00123", "-0.500", "-", "0.00", "0.00000400"]
    assert [number(value) for value in values] == shown
    assert span(0.5, 0.4, 0.6) == "[0.400, 0.600]" and span(1, None, 2) == ""


def nasty() -> Table:
    return Table(("name", "value"), ((NASTY, "1"), ("=1+2", "-3.5")), NASTY, (NASTY,))


def test_text_holds_no_control_characters():
    text = nasty().to_text()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert len(text.splitlines()) == 8


def test_markdown_is_escaped():
    lines = nasty().to_markdown().splitlines()
    assert "<i>" not in "".join(lines) and "&lt;i&gt;" in lines[4]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines if line[:1] == "|")


def test_csv_reads_back_and_runs_no_formula():
    rows = list(csv.reader(io.StringIO(nasty().to_csv())))
    assert rows[1] == [NASTY.replace("\n\x1b", "  "), "1"]
    assert rows[2] == ["'=1+2", "-3.5"]
    for start in ("+", "-", "@", "\t", "\r", "="):
        table = Table((f"{start}cmd",), ((f"{start}cmd|x",),), "")
        assert all(row[0][0] == "'" for row in csv.reader(io.StringIO(table.to_csv())))


def test_latex_is_escaped():
    text = nasty().to_latex()
    body = text.split("\\midrule")[1].split("\\\\\n")[0]
    assert r"a|b \textless{}i\textgreater{}*x*" in body
    assert r"\& 100\% \_\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in body
    assert {"\\toprule", "\\midrule", "\\bottomrule"} <= set(text.split("\n"))
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")


def test_rows_must_fit_the_headers():
    with pytest.raises(ValueError, match="must have 2 cells, got 1"):
        Table(("a", "b"), (("x",),), "")


def test_written_files_are_whole_and_the_same_twice(tmp_path):
    table = fid_table(record(), read_published())
    paths = write_all(table, tmp_path / "new", "fid")
    assert [path.name for path in paths] == ["fid.md", "fid.csv", "fid.tex"]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_all(table, tmp_path / "new", "fid")] == before
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_a_full_disk_keeps_the_old_table(tmp_path, monkeypatch):
    write_all(nasty(), tmp_path, "t")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*names):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*t\.md: No space left on device"):
        write_all(fid_table(record(), read_published()), tmp_path, "t")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_published_numbers():
    rows = read_published()["rows"]
    keys = {"table", "model", "year", "type", "params", "train_images", "documents", "metric"}
    for row in rows:
        assert set(row) == keys | {"value", "source", "mark", "note"}
        assert row["mark"] in ("V", "V2") and row["source"] and isinstance(row["value"], float)
    table = {(row["model"], row["documents"]): row["value"] for row in rows[:11]}
    assert table["CM3Leon-7B", 2] == 4.88 and table["CM3Leon-7B", 0] == 10.82
    assert len(
        {(row["table"], row["model"], row["documents"], row["metric"]) for row in rows}
    ) == len(rows)
    every = fid_table(record(), read_published(), ("Table 1", "other baselines"))
    assert any(cell[-1].startswith("quoted second hand: ") for cell in every.rows)


def test_command_line(tmp_path, run_module):
    saved(tmp_path, record())

    def call(*options):
        return run_module("cm3leon.reports.tables", *options)

    options = ("--results", str(tmp_path), "--out", str(tmp_path / "out"))
    done = call("--bench", "fid_coco", *options)
    assert done.returncode == 0, done.stderr
    assert "> scenes-s" in done.stdout and "Composition of scenes-s" in done.stdout
    assert (tmp_path / "out" / "fid_coco" / "fid_coco.md").is_file()
    done = call("--bench", "none", *options)
    assert done.returncode == 3
    assert done.stderr.startswith("error: no records in") and done.stderr.count("\n") == 1


def test_reports_import_no_torch_and_nothing_of_the_model():
    script = (
        "import sys, cm3leon.reports.tables, cm3leon.reports.plots\n"
        "bad = [name for name in sys.modules if name.split('.')[0] in "
        "('torch', 'benchmarks', 'baselines', 'pandas', 'matplotlib', 'PIL') or "
        "name.startswith('cm3leon.') and name.split('.')[1] != 'reports' and "
        "name not in ('cm3leon.errors', 'cm3leon.files', 'cm3leon.evaluation', "
        "'cm3leon.evaluation.measures')]\n"
        "sys.exit(str(bad) if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
