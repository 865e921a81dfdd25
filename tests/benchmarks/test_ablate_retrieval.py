"""The retrieval ablation end to end on tiny random weights, and its parts by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.ablate_retrieval import Options, ablate_retrieval, different, report
from benchmarks.ablations.retrieval_conditions import (
    Arm,
    ArmSystem,
    arms,
    ask,
    at_random,
    by_strategy,
    far,
    twice,
)
from benchmarks.protocols.prompts import Prompt, scenes_prompts
from cm3leon.config import RetrievalConfig
from cm3leon.errors import UserError
from cm3leon.loading import load_system
from cm3leon.reports.benches.retrieval import arms_of, retrieval_tables, verdicts
from cm3leon.world.scenes import scene
from tests.retrieval.test_retriever import add_bank
from tests.test_pipeline import write_tiny_baselines

TWO = RetrievalConfig(documents=2, by="text", threshold=2.0)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    folder = write_tiny_baselines(tmp_path_factory.mktemp("baselines"))
    add_bank(folder, 80)
    return load_system(folder)


@pytest.fixture(scope="module")
def asked(system):
    prompts = scenes_prompts(5, "tail")
    images = [scene("coco", "tail", index).image for index in range(5)]
    return ask("tail", prompts, system.retriever.clip, images)


def options(tmp_path, **more) -> Options:
    places = {name: tmp_path / name for name in ("results", "reports", "cache")}
    return Options(n=6, seeds=(0, 1), resamples=20, **places, **more)


@pytest.fixture(scope="module")
def ran(system, tmp_path_factory):
    """A whole run over every arm that a bank of 80 documents allows."""
    folder = tmp_path_factory.mktemp("run")
    chosen = options(folder)
    small = [one for one in arms(TWO, sizes=(20, 40)) if one.name != "threshold-0.8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.ablate_retrieval.arms", lambda config: small)
        patch.setattr("benchmarks.ablate_retrieval.REFERENCE", 12)
        record, path = ablate_retrieval(chosen, system)
        again, _ = ablate_retrieval(chosen, system)
    report(chosen, record)
    return chosen, record, path, again


def test_a_whole_run(ran):
    _, record, path, again = ran
    assert json.loads(path.read_text()) == record
    extras = record["extra"]
    for split in ("test", "tail"):
        names = arms_of(record, split)
        assert {"documents-0", "documents-2", "text-only", "random", "wrong-text"} <= set(names)
        for name in names:
            entry = extras[f"{split}.{name}.fid"]
            assert entry["low"] <= entry["value"] <= entry["high"] and entry["value"] > 0
            assert (f"{split}.documents-2.fid_vs_{name}" in extras) == (name != "documents-2")
    unseen, every = (extras[f"tail.documents-0.{name}"] for name in ("entity_unseen", "entity"))
    assert unseen["high"] - unseen["low"] >= every["high"] - every["low"]  # half the captions
    assert "tail.documents-0.entity" in extras and "test.documents-0.entity" not in extras
    assert "tail.documents-0.copy_pixels" not in extras
    assert record["value"] == extras["tail.documents-2.entity_vs_documents-0"]["value"]
    assert record["cost"]["counters"]["drawn"] > 0
    assert again["cost"]["counters"]["drawn"] == 0  # kept pictures
    assert again["extra"].keys() == extras.keys()
    untimed = {key for key in extras if "seconds" not in key}
    assert all(again["extra"][key] == extras[key] for key in untimed)


def test_its_tables_plots_and_page(ran):
    chosen, record, _, _ = ran
    folder = chosen.reports / "ablate_retrieval" / "newest"
    made = {path.name for path in folder.iterdir()}
    assert {"tail.png", "test.png", "documents.svg", "leads.png", "verdicts.md"} <= made
    tables = retrieval_tables(record, {"rows": []})
    assert [row[1] for row in tables["documents"].rows] == ["0", "1", "2", "3"]
    assert len(tables["arms_tail"].rows) == len(arms_of(record, "tail"))
    found = verdicts(record)
    assert {one["hypothesis"] for one in found} == {"H1", "H7", "H8"}
    assert len(found) == 13  # what each verdict says: test_verdicts.py


def test_arms_choose_what_they_say(system, asked):
    bank = system.retriever.bank
    ranks = bank.search(asked.query.texts, 60)[1]
    np.testing.assert_array_equal(far(2)(asked, bank), ranks[:, 50:52])
    np.testing.assert_array_equal(by_strategy(TWO)(asked, bank), ranks[:, :2])
    few = by_strategy(TWO, 10)(asked, bank)
    assert few.max() < 10
    some = at_random(2)(asked, bank)
    assert (some[:, 0] != some[:, 1]).all() and (some == at_random(2)(asked, bank)).all()
    pairs = twice(TWO)(asked, bank)
    np.testing.assert_array_equal(pairs[:, 0], ranks[:, 0])
    scores = np.array(bank.vectors) @ bank.vectors[pairs[0, 0]]
    scores[pairs[0, 0]] = -9
    assert pairs[0, 1] == scores.argmax()
    names = [one.name for one in arms(TWO)]
    assert len(names) == len(set(names)) and names[2] == "documents-2"


def test_an_arm_is_the_system_with_other_documents(system, asked):
    prompts, seeds = [one.caption for one in asked.prompts], [1, 2, 3, 4, 5]
    same = ArmSystem(system, Arm("documents-2", by_strategy(TWO)), asked)
    np.testing.assert_array_equal(same.draw(prompts, seeds), system.draw(prompts, seeds))
    other = ArmSystem(system, Arm("random", at_random(2)), asked)
    assert other.config != same.config and other.name == same.name
    assert (other.draw(prompts, seeds) != same.draw(prompts, seeds)).any()
    wrong = ArmSystem(system, Arm("wrong", by_strategy(TWO), wrong_text=True), asked)
    for index in range(5):
        pairs = zip(wrong.documents(index), same.documents(index), strict=True)
        assert all(a.segments[1] == b.segments[1] for a, b in pairs)
    assert any(wrong.documents(k) != same.documents(k) for k in range(5))
    with pytest.raises(UserError, match="arm random has no documents for 'a cat'"):
        other.draw(["a cat"], [0])


def test_one_caption_one_prompt():
    prompts = [Prompt("a", "x", "1"), Prompt("b", "x", "2"), Prompt("c", "y", "3")]
    assert [one.id for one in different(prompts)] == ["a", "c"]


def test_bad_input(system, tmp_path):
    with pytest.raises(UserError, match="n must be at least 4"):
        Options(n=3)
    with pytest.raises(UserError, match="seeds must be different"):
        Options(seeds=(1, 1))
    plain = replace(system, retriever=None)
    with pytest.raises(UserError, match="has no memory bank to ablate"):
        ablate_retrieval(options(tmp_path), plain)
    assert torch.is_inference_mode_enabled() is False
