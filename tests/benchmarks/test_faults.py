"""The campaign of faults: a small fixed sample of it holds, and planted faults are found."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cm3leon.cli.main
import cm3leon.options
from benchmarks import faults
from benchmarks.fault_cases import child, disks, hostile, kills
from benchmarks.fault_cases.child import Done, Kill, Line, load, run
from benchmarks.fault_cases.damage import WAYS, damaged
from benchmarks.fault_cases.files import FILES, files_of, table, unlisted
from benchmarks.fault_cases.options import command_lines, options_of, refused
from benchmarks.fault_cases.rows import HELD, SKIPPED, refusal
from benchmarks.fault_cases.workshop import BESIDE, JOBS, TREES, Workshop

ROOT = Path(__file__).resolve().parents[2]
KEPT = {(one.tree, one.pattern): one for one in FILES}
ENTRIES = {entry.name: entry for entry in hostile.ENTRIES}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    load()
    return Workshop(tmp_path_factory.mktemp("faults"), 120.0)


@pytest.fixture
def draws():
    return np.random.default_rng(0)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_shard_is_refused_and_encoded_anew(workshop, draws, way):
    for job in ("index", "encode"):
        row = damaged(workshop, KEPT["tokens", "*.npy"], way, job, draws)
        assert row.outcome == HELD, row
        assert row.told.startswith("error: ") == (job == "index")


def test_a_used_damaged_file_is_found(workshop, draws, monkeypatch):
    """Without the check of digests the flipped bit is taken: the campaign must say so."""
    monkeypatch.setattr("cm3leon.data.shards.check_file", lambda *_: None)
    row = damaged(workshop, KEPT["tokens", "*.npy"], "swap", "encode", draws)
    assert row.outcome == "silent", row


@pytest.mark.parametrize("sent", kills.SIGNALS)
def test_a_killed_command_given_again_ends_as_an_unbroken_one(workshop, sent):
    for job in ("train-text", "index"):
        row = kills.killed(workshop, JOBS[job], [(sent, 0.5)])
        assert row.outcome == HELD, row


ENDS = {  # how the killed process ended, what lies there, how the same command ends then
    "as unbroken": (Done(-9, "", "", 1.0, killed=True), "right", Done(0, "", "", 1.0), HELD),
    "another": (Done(-9, "", "", 1.0, killed=True), "other", Done(0, "", "", 1.0), "silent"),
    "nothing": (Done(-9, "", "", 1.0, killed=True), "", Done(0, "", "", 1.0), "lost"),
    "blocked": (
        Done(-9, "", "", 1.0, killed=True), "half", Done(2, "", "error: exists\n", 1.0), "lost",
    ),
    "had ended": (Done(0, "", "", 1.0), "right", Done(2, "", "error: exists\n", 1.0), HELD),
    "a traceback": (Done(1, "", "Traceback (most recent", 1.0, killed=True), "", None, "raised"),
    "outlived": (Done(-9, "", "", 1.0, hung=True, killed=True), "", None, "hung"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_what_is_lost_by_a_kill(monkeypatch, tmp_path, case):
    first, left, second, outcome = ENDS[case]
    workshop, ends = Workshop(tmp_path, 1.0, 0.0, {"train-text": ("right", 1.0)}), [second, first]
    monkeypatch.setattr(workshop, "run", lambda *_, **__: ends.pop())
    monkeypatch.setattr(workshop, "digest", lambda *_: left)
    row = kills.killed(workshop, JOBS["train-text"], [(signal.SIGKILL, 0.5)])
    assert row.outcome == outcome


def test_bad_options_are_refused_and_one_that_is_taken_is_found(workshop, monkeypatch):
    line = next(one for one in command_lines() if one.name == "index")
    exact = next(one for one in options_of(line.kind) if one.name == "exact")
    for text in ("-1", "nan", "9" * 5000, "many"):
        assert refused(workshop, line, exact, ("--exact", text)).outcome == HELD
    for module in {sys.modules["cm3leon.cli.main"], cm3leon.cli.main, cm3leon.options}:
        monkeypatch.setattr(module, "check_options", lambda *_: None)
    assert refused(workshop, line, exact, ("--exact", "-1")).outcome == "silent"


@pytest.mark.parametrize(
    ("entry", "kind"),
    [("train model", "deep list"), ("caption", "PNG bomb"), ("caption", "endless"),
     ("convert-tokenizer pt", "torch pickle"), ("encode tar", "pipe"), ("compare", "long integer"),
     ("edit", "PNG bomb"), ("answer", "folder"), ("draw condition", "noise"),
     ("score images zip", "pipe"), ("score reference npz", "npz bomb"),
     ("score network", "torch pickle"), ("train-tokenizer archive", "loop"),
     ("encode records", "deep list"), ("encode task json", "null"),
     ("encode task parquet", "endless"), ("outputs", "half a pair"),
     ("scaling plan", "long integer")],
)  # fmt: skip
def test_hostile_inputs_are_refused(workshop, entry, kind):
    row = hostile.given(workshop, ENTRIES[entry], kind)
    assert row.outcome == HELD and row.told.startswith("error: "), row


@pytest.mark.full
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_hostile_input_is_refused_or_named(workshop, entry):
    rows = [hostile.given(workshop, ENTRIES[entry], kind) for kind in hostile.INPUTS]
    assert not [row for row in rows if row.outcome != HELD]


def test_a_program_that_runs_is_found(workshop, monkeypatch):
    def careless(path, names=None):
        import pickle

        return pickle.loads(path.read_bytes())

    monkeypatch.setattr("cm3leon.safe_load.read_weights", careless)
    row = hostile.given(workshop, ENTRIES["convert-tokenizer pt"], "pickle")
    assert row.outcome == "silent", row


def test_a_full_disk_is_refused_and_with_room_the_result_is_whole(workshop):
    row = disks.full(workshop, JOBS["train-text"], 0.3)
    assert row.outcome in (HELD, SKIPPED), row
    assert row.outcome == SKIPPED or "cannot write" in row.told


def busy(seconds: float) -> int:
    """So many seconds of the processor, however long that takes by the clock."""
    while time.process_time() < seconds:
        pass
    return 0


def test_hanging_is_of_a_process_s_own_time(tmp_path, monkeypatch):
    """A limit of the clock would call all that runs on a busy machine hung."""
    monkeypatch.setattr(child, "IDLE_S", 0.5)
    place = tmp_path / "now"
    place.mkdir()
    assert not run(lambda: busy(0.3), place, 0.6).hung
    assert run(lambda: busy(60), place, 0.3).hung
    assert run(lambda: time.sleep(60) or 0, place, 0.1).hung


def test_how_processes_end(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "IDLE_S", 0.5)
    place = tmp_path / "now"
    place.mkdir()
    assert run(lambda: 0, place, 60).code == 0
    assert run(lambda: 1 / 0, place, 60).raised
    assert run(lambda: signal.pause() or 0, place, 0.2).hung
    done = run(lambda: signal.pause() or 0, place, 60, kill=Kill(signal.SIGTERM, 0.1))
    assert (done.code, done.killed, done.hung) == (-signal.SIGTERM, True, False)
    done = run(Line("cm3leon.cli.main", ("index", "a")), place, 60, fresh=True)
    assert done.refused and done.told.startswith("error: ")


@pytest.mark.parametrize(
    ("done", "outcome"),
    [
        (Done(2, "", "error: x\n", 1.0), HELD),
        (Done(3, "", "note: y\nerror: x\n", 1.0), HELD),
        (Done(0, "fine\n", "", 1.0), "silent"),
        (Done(2, "", "", 1.0), "raised"),  # without a word
        (Done(2, "", "error: x\nerror: y\n", 1.0), "raised"),
        (Done(1, "", "", 1.0), "raised"),
        (Done(2, "", "Traceback (most recent call last):\nerror: x\n", 1.0), "raised"),
        (Done(-signal.SIGSEGV, "", "", 1.0), "raised"),
        (Done(2, "", "error: x\n", 1.0, hung=True), "hung"),
    ],
)
def test_what_a_refusal_is(done, outcome):
    assert refusal(done) == outcome


@pytest.mark.parametrize("tree", ["tokens", "bank", "model", "hf", "prompts", "asked"])
def test_every_file_that_is_left_is_listed(workshop, tree):
    every_file_is_listed(workshop, tree)


@pytest.mark.full
@pytest.mark.parametrize("tree", ["results", "scored", "tuned", "vq", "kept"])
def test_every_file_of_longer_work_is_listed(workshop, tree):
    every_file_is_listed(workshop, tree)


def every_file_is_listed(workshop, tree: str) -> None:
    for part in (tree, *BESIDE.get(tree, ())):
        folder = workshop.kept(part)
        if part in {one.tree for one in FILES}:
            assert not list(unlisted(part, folder))
            assert all(files_of(one, folder) for one in FILES if one.tree == part)


def test_the_list_of_files_is_that_of_the_design():
    assert table() in (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    known = {part for name in TREES for part in (name, *BESIDE.get(name, ()))}
    assert {one.tree for one in FILES} <= known
    assert {name for one in FILES for name in one.jobs} <= set(JOBS)


def test_a_case_is_drawn_from_seed_and_number_alone(monkeypatch):
    drawn = []
    for kind in faults.KINDS:
        monkeypatch.setitem(
            faults.KINDS, kind, lambda _, draws, kind=kind: drawn.append((kind, draws.random()))
        )
    for options in (faults.Options(), faults.Options(), faults.Options(seed=1)):
        for number in (3, 4):
            faults.case(options, None, number)
    assert drawn[:2] == drawn[2:4] != drawn[4:] and drawn[0] != drawn[1]
