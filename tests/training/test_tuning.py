"""Tuning: the rows of a step, losses by task, and that a killed run ends as an unbroken one."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cm3leon import checkpoint, seeds
from cm3leon.config import RowsConfig, TrainConfig
from cm3leon.data.token_cache import encode
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.loading import load_system
from cm3leon.sequence.documents import build_sample, build_unconditional_prompt
from cm3leon.tasks.rows import row_of
from cm3leon.training import tuning
from cm3leon.training.tuning import Base, Records, TuneRecipe, find_set, task_losses, tune
from tests.data.test_token_cache import source as scenes
from tests.tuning_maker import SIDE, long_question, question, write_base, write_records, write_start

TRAIN = TrainConfig(
    steps=12, batch=6, rate=1e-2, warmup=2, save_every=5, eval_every=6, log_every=3,
    precision="float32", optimizer="muon",
)  # fmt: skip
RECIPE = TuneRecipe(TRAIN)
CLOCK = ("seconds", "tokens_per_s", "steps_per_s")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("tuning"))


@pytest.fixture(scope="module")
def records(place):
    base = Base.open(str(place / "base"))
    return Records(base, [find_set(place / name, base, None) for name in ("answers", "edits")])


def log(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def rows(batch: dict, records) -> list[tuple]:
    """(ids, weights) of each row without its padding."""
    kept = batch["ids_BT"] != records.base.vocabulary.pad
    return [
        (ids[some].tolist(), weights[some].tolist())
        for ids, weights, some in zip(batch["ids_BT"], batch["weights_BT"], kept, strict=True)
    ]


def test_row_i_of_step_s_is_that_of_its_place(records):
    """However many rows a step has, and whatever was asked before."""
    sixes = records.source(RECIPE).rows
    pairs = records.source(replace(RECIPE, train=replace(TRAIN, batch=2))).rows
    one = rows(sixes(4), records)
    two = [row for step in (12, 11, 10) for row in reversed(rows(pairs(step), records))]
    assert one == two[::-1]
    mixture = records.mixture(RECIPE)
    for at, (ids, weights) in enumerate(one):
        data_set, record = mixture.at(18 + at)
        some = records.sets[data_set]
        draws = seeds.generator(TRAIN.seed, "row", 18 + at)
        found = row_of(
            some.cache[int(some.trained[record])], records.base.vocabulary, RECIPE.rows, draws
        )
        assert found[0].tolist() == ids and found[1].tolist() == weights
    assert sixes(4)["counts"]["rows"] == 6


def test_what_is_held_out_is_not_trained_on(records):
    answers, edits = records.sets
    assert answers.held.tolist() == [29] and edits.held.tolist() == [5]
    assert set(answers.trained) == set(range(29)) and len(edits.trained) == 5
    assert [one.task for one in records.held_records()] == ["answer", "edit"]


class Known(nn.Module):
    """A model whose loss on every target is the target's own id, in thousandths."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def loss_per_token(self, ids_BT, weights_BT=None, positions_BT=None):
        return ids_BT[:, 1:] / 1000 * (weights_BT[:, 1:] != 0) + self.zero


def test_losses_are_of_the_answers_by_task(records):
    """An answer with the <eom> that closes it; an edited picture with the <eos>; nothing else."""
    vocabulary, some = records.base.vocabulary, records.held_records()
    found = task_losses(some, vocabulary, records.base.config)(Known())
    text = [*some[0].segments[1].ids.tolist(), vocabulary.eom]
    codes = [*(some[1].segments[2].ids + vocabulary.image_start).tolist(), vocabulary.eos]
    assert found["answer"] == pytest.approx(np.mean(text) / 1000, rel=1e-5)
    assert found["edit"] == pytest.approx(np.mean(codes) / 1000, rel=1e-5)
    assert found["loss"] == pytest.approx(np.mean(text + codes) / 1000, rel=1e-5)
    assert set(found) == {"loss", "answer", "edit"}


def test_pairs_are_learned_as_they_are_drawn(place, records, tmp_path):
    """The row of a pair is that of pretraining; without its text, the free stream of guidance."""
    base = records.base
    pairs = tuning.Pairs(encode(scenes(3), base.vq, base.text, tmp_path / "pairs").folder)
    assert len(pairs) == 15 and pairs.tasks == {"draw": 15}
    config = RowsConfig(drop_text=0, drop_image=0, drop_both=0)
    for index in (0, 7, 14):
        document = pairs.cache.document(index // 5, index % 5)
        ids, weights, _ = row_of(pairs[index], base.vocabulary, config, seeds.generator(0, "x"))
        assert ids.tolist() == build_sample(document, [], base.vocabulary).tolist()
        assert (weights[1:] == 1).all() and len(ids) <= tuning.longest_rows(pairs)[index]
    free = replace(config, drop_text=1.0)
    ids, _, _ = row_of(pairs[0], base.vocabulary, free, seeds.generator(0, "x"))
    prompt = build_unconditional_prompt([], base.vocabulary)
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    assert len(tuning.find_set(tmp_path / "pairs", base, 2).trained) == 13


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_killed_tuning_ends_with_the_bytes_of_an_unbroken_one(
    records, tmp_path, monkeypatch, pieces
):
    recipe, inner = replace(RECIPE, accumulate=pieces), tuning.collate
    tune(recipe, records, tmp_path / "whole", "cpu")
    calls = iter(range(99))

    def dying(*arguments):
        if next(calls) == 9:
            raise Killed
        return inner(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "collate", dying)
        with pytest.raises(Killed):
            tune(recipe, records, tmp_path / "killed", "cpu")
    assert not (tmp_path / "killed/model.safetensors").exists()
    done = tune(recipe, records, tmp_path / "killed", "cpu")
    digests = {checkpoint.digest(tmp_path / name) for name in ("whole", "killed")}
    assert len(digests) == 1 and done["step"] == 12
    lines = log(tmp_path / "killed")
    assert lines == log(tmp_path / "whole")
    losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert {"held_out_answer", "held_out_edit", "text_loss", "image_loss"} <= set(lines[-1])


def test_the_folder_draws_and_says_what_it_is_made_of(records, place, tmp_path):
    tune(replace(RECIPE, train=replace(TRAIN, steps=2)), records, tmp_path / "out", "cpu")
    about = checkpoint.read_about(tmp_path / "out")
    base, extra = checkpoint.read_about(place / "base"), about["extra"]
    assert about["config"] == base["config"] and about["sha256"] != base["sha256"]
    assert extra["start"] == "base" and extra["start_sha256"] == base["sha256"]
    assert extra["tasks"] == {"answer": 30, "edit": 6} and extra["decode"] == {"guidance": 1.5}
    assert extra["rows"]["loss"] == "all" and extra["cost"]["queries"] == 12
    system = load_system(tmp_path / "out")
    assert system.draw(["make it red"], [1]).shape == (1, SIDE, SIDE, 3)
    again = Base.open(str(tmp_path / "out"))  # tuned once more
    assert again.text.digest == records.base.text.digest


def test_beside_the_tokenizers_none_are_copied(records, place):
    records.base.place_beside(place / "base" / "tuned")
    assert not (place / "base" / "tuned").exists()


def test_clip_and_bank_of_a_shipped_model_come_along(tmp_path):
    shipped = baselines_folder() / "scenes"
    folder = shipped / "scenes-s"
    if not (folder / "config.json").exists() or not (shipped / "bank").exists():
        pytest.skip("no shipped model with documents")
    base = Base.open("scenes-s")
    base.place_beside(tmp_path / "out")
    base.place_beside(tmp_path / "out")  # a tuning that goes on
    for name in ("clip", "bank", "vq", "text"):
        made = sorted(path.name for path in (tmp_path / "out" / name).iterdir())
        assert made and set(made) <= {path.name for path in (shipped / name).iterdir()}
    shutil.copyfile(folder / "model.safetensors", tmp_path / "out" / "model.safetensors")
    shutil.copyfile(folder / "config.json", tmp_path / "out" / "config.json")
    assert load_system(tmp_path / "out").retriever is not None


def test_records_that_do_not_fit_are_left_out_and_counted(records, place, tmp_path):
    base = records.base
    mixed = [question(0), long_question(1), question(2), question(3), long_question(4)]
    cache = write_records(tmp_path / "mixed", base.home, mixed)
    found = find_set(cache, base, 1)
    assert found.trained.tolist() == [0, 2] and found.held.tolist() == [3]
    assert found.left_out == 2 and "the context has 96" in found.reason
    none = write_records(tmp_path / "none", base.home, [long_question(k) for k in range(3)])
    with pytest.raises(UserError, match=r"no record of .*none fits base: a row of \d+ tokens"):
        find_set(none, base, None)


def test_another_policy_is_another_run(records, tmp_path):
    short = replace(RECIPE, train=replace(TRAIN, steps=1, warmup=1))
    tune(short, records, tmp_path, "cpu")
    other = replace(short, rows=RowsConfig(loss="target"))
    with pytest.raises(UserError, match=r"begun with rows.loss = 'all', this run has 'target'"):
        tune(other, records, tmp_path, "cpu")


def test_positions_of_the_grid_stay(tmp_path):
    shape = {"positions": "grid", "position_grid": 4, "position_text": 40, "context": 128}
    home = write_base(tmp_path / "grid", **shape)
    cache = write_records(tmp_path / "answers", home, [question(k) for k in range(9)])
    base = Base.open(str(home))
    one = Records(base, [find_set(cache, base, 1)])
    batch = one.source(RECIPE).rows(1)
    assert (batch["positions_BT"] != torch.arange(batch["ids_BT"].shape[1])).any()
    tune(replace(RECIPE, train=replace(TRAIN, steps=2)), one, tmp_path / "out", "cpu")
    assert checkpoint.read_about(tmp_path / "out")["config"]["positions"] == "grid"
