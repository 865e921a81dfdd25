"""Settings of drawing, chosen on captions that nothing is reported on; the rule of the choice."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import choose_decoding as module
from benchmarks.choose_decoding import Options, cells, choose, mixture, shares_of
from benchmarks.evaluate import scenes_fid
from benchmarks.systems.find import Noise
from cm3leon import checkpoint
from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.impossible import columns_of
from cm3leon.loading import load_system
from cm3leon.reports.benches.splits import choice_table
from tests.benchmarks.test_fid_coco import write_all_baselines
from tests.retrieval.test_retriever import add_bank

SMALL = {"n": 25, "real": 25, "guidance": (0.75, 1.5), "temperature": (0.8, 1.0)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    write_all_baselines(folder)
    return folder


@pytest.fixture
def options(home, monkeypatch, tmp_path):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("CM3LEON_BASELINES", str(tmp_path / "home"))
    monkeypatch.setattr(scenes_fid, "columns_of", lambda vq: columns_of(vq, 200))

    def make(**changes):
        folders = {name: tmp_path / name for name in ("results", "reports", "cache")}
        return Options(**(SMALL | folders | changes))

    return make


def test_the_rule_by_hand():
    overall = {"a": (0.6, 0.55, 0.65), "b": (0.8, 0.74, 0.86), "c": (0.75, 0.7, 0.8)}
    assert choose({"a": 10.0, "b": 30.0, "c": 20.0}, overall) == "c"  # a draws what was not asked
    assert choose({"a": 10.0, "b": 15.0, "c": 20.0}, overall) == "b"
    assert choose({"a": 10.0, "b": 30.0, "c": 20.0}, overall | {"b": (0.8, 0.76, 0.84)}) == "b"


@given(st.lists(st.tuples(st.floats(1, 99), st.floats(0, 1), st.floats(0, 0.3)), min_size=1))
def test_nothing_better_is_passed_over(rows):
    fid = {str(k): one[0] for k, one in enumerate(rows)}
    overall = {
        str(k): (right, right - half, right + half) for k, (_, right, half) in enumerate(rows)
    }
    best = choose(fid, overall)
    top = max(overall.values())
    floor = max(one[1] for one in overall.values() if one[0] == top[0])
    assert overall[best][0] >= min(one[1] for one in overall.values() if one[0] == top[0])
    assert not any(overall[name][0] >= floor and fid[name] < fid[best] for name in fid)


def test_captions_that_nothing_is_reported_on():
    asked = Options(n=100, real=200)
    task = mixture(asked, 32)
    assert shares_of(100, 0.04) == (96, 4) and shares_of(1000, 0.04) == (960, 40)
    named = [prompt.image_id.split("-") for prompt in task.prompts]
    assert [split for _, split, _ in named] == ["val"] * 96 + ["tail"] * 4
    entities = [int(index) for _, split, index in named if split == "tail"]
    assert all(index >= 1000 and index % 2 == 0 for index in entities)  # known ones
    own = [name for name, _ in task.reference]
    assert own == [prompt.image_id for prompt in task.prompts]
    others = [name for name, _ in task.further]
    assert len(others) == len(set(others)) == 200 and not set(own) & set(others)
    assert sum("tail" in name for name in others) == 8


def test_a_whole_run_and_what_is_written(options, tmp_path):
    folder = tmp_path / "home" / "scenes" / "scenes-s"
    before = load_system("scenes-s")
    record, _ = module.choose_decoding(options(write=True))
    grid = ["w0_75-t0_8", "w0_75-t1", "w1_5-t0_8", "w1_5-t1"]
    assert list(record["protocol"]["cells"]) == [*grid, "plain"]
    fid = {name: record["extra"][f"{name}.fid"]["value"] for name in grid}
    overall = {
        name: tuple(record["extra"][f"{name}.overall"][key] for key in ("value", "low", "high"))
        for name in grid
    }
    best = choose(fid, overall)
    assert record["value"] == fid[best] and record["n"] == 25
    assert record["extra"]["plain.fid"] and record["extra"][f"{best}.impossible"]
    written = checkpoint.read_about(folder)["extra"]["decode"]
    assert written == record["protocol"]["cells"][best] == module.chosen(record)
    after = load_system("scenes-s")
    assert after.decode.guidance == written["guidance"] == record["extra"]["chosen.guidance"]
    assert after.decode.temperature == record["extra"]["chosen.temperature"]
    assert checkpoint.load(folder, "transformer")[2]["text_sha256"]  # whole, weights as they were
    assert after.model.config == before.model.config
    table = choice_table(record)
    place = next(iter(table.ours))
    assert table.rows[place][:2] == (f"{written['guidance']:g}", f"{written['temperature']:g}")
    assert table.rows[-1][:2] == ("1", "1") and len(table.rows) == 5


def test_a_run_that_does_not_write_leaves_the_model_alone(options, tmp_path):
    path = tmp_path / "home" / "scenes" / "scenes-s" / "config.json"
    before = path.read_bytes()
    one, _ = module.choose_decoding(options(guidance=(1.0,), temperature=(1.0,)))
    assert path.read_bytes() == before and "decode" not in json.loads(before)["extra"]
    assert one["extra"]["w1-t1.fid"] == one["extra"]["plain.fid"]  # the same setting


def test_documents_of_the_model_stand_before_the_captions(options, tmp_path):
    folder = tmp_path / "home" / "scenes" / "scenes-s"
    add_bank(folder, 40)
    system = load_system("scenes-s")
    assert {arm.system.config["documents"] for arm in cells(system, options())} == {2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guidance": ()}, "guidance and temperature must name at least one"),
        ({"temperature": (-1.0,)}, "decode.temperature must be finite and not negative"),
        ({"tail": 1.5}, r"tail must be a share in \[0, 1\], got 1.5"),
        ({"n": 3}, "n must be at least 4"),
        ({"n": 3000}, "n must be at least 4, with at most 2500 captions of val"),
        ({"n": 1000, "tail": 0.5}, "val and 250 of tail, got 1000"),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(UserError, match=message):
        Options(**given)


def test_a_system_without_settings(options):
    with pytest.raises(UserError, match="system noise has no settings of drawing to choose"):
        module.choose_decoding(options(system="noise"), Noise())
