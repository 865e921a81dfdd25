"""The recipes of the shipped weights, and the command that retrains them, in miniature."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines import tokenizers, train, transformers, tune
from baselines.recipes import (
    DRAWN_AT,
    RECIPES,
    Part,
    Recipe,
    cpu_recipe,
    gpu_recipe,
    plain_twin,
    with_budget,
)
from cm3leon import checkpoint
from cm3leon.config import MODELS, TrainConfig, VQConfig, from_dict
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.loading import load_system
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import torch_generator
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.training import image_tokenizer
from cm3leon.training.image_tokenizer import make_vq
from cm3leon.training.trainer import begin_with
from cm3leon.world.conditions import SCRIBBLE_COLOURS
from cm3leon.world.scenes import PLAIN, SEEN, SPLITS, scene

ROOT = Path(__file__).resolve().parents[2]
TINY = Recipe(
    replace(MODELS["scenes-xs"](), name="tiny", layers=1, width=16, heads=2, context=512),
    TrainConfig(
        steps=4, batch=4, warmup=1, save_every=2, eval_every=2, log_every=1, precision="float32"
    ),
    name="tiny",
    queries=(Part("study", 0, 48),),
)
NAMES = (
    "scenes-xs",
    "scenes-s",
    "scenes-m",
    "scenes-s-plain",
    "scenes-xs-plain",
)


@pytest.mark.parametrize("form", RECIPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_of_the_model_it_names(form, name):
    if (form, name) == ("cpu", "scenes-m"):
        with pytest.raises(UserError, match="no CPU recipe for 'scenes-m'; there is one for"):
            cpu_recipe(name)
        return
    recipe = RECIPES[form](name)
    size, plain = name.removesuffix("-plain"), name.endswith("-plain")
    assert recipe.model == MODELS[size]() and recipe.name == name and recipe.start is None
    assert recipe.retrieves != plain and (recipe.bursts > 0) != plain
    train = recipe.train
    assert 0 < train.warmup < train.decay_start < train.steps and train.schedule == "wsd"
    epochs = train.steps * train.batch / sum(part.count for part in recipe.queries)
    assert 0.4 < epochs <= 30
    study = [part for part in recipe.queries if part.split == "study"]
    assert all(part.first + part.count <= SEEN for part in study)
    assert SPLITS["study"] == SPLITS["bank"] > SEEN


def test_the_twin_sees_the_same_queries():
    recipe, twin = cpu_recipe("scenes-s"), cpu_recipe("scenes-s-plain")
    same = ("model", "queries", "objective", "start")
    assert all(getattr(recipe, name) == getattr(twin, name) for name in same)
    assert twin.train.steps > 2 * recipe.train.steps
    assert (
        with_budget(twin, recipe.train.steps).train == recipe.train
    )  # a branch of as many queries
    assert twin.shares == (1.0,) and recipe.shares[0] < 1


@pytest.mark.parametrize("make", [cpu_recipe, gpu_recipe])
@pytest.mark.parametrize("name", ["7b", "scenes-xl", ""])
def test_an_unknown_recipe_is_one_line(make, name):
    with pytest.raises(UserError, match=f"recipe for {name!r}; there is one for") as error:
        make(name)
    assert "\n" not in str(error.value)


def test_the_tokenizers_fit_the_models():
    shipped = checkpoint.read_about(baselines_folder() / "scenes" / "vq")["config"]
    for name in ("scenes-xs", "scenes-s", "scenes-m"):
        vocabulary = MODELS[name]().vocabulary
        assert vocabulary.image_size == shipped["codebook_size"]
        assert vocabulary.text_size == TextTokenizer.load(baselines_folder() / "scenes/text").size
    assert tokenizers.VQ_LOSS.freeze_step < tokenizers.VQ_TRAIN.steps
    roles = ("", "-plain")
    models = [f"{size}{role}" for size in ("scenes-xs", "scenes-s", "scenes-m") for role in roles]
    assert (*train.ENCODERS, *models) == train.PARTS
    assert [gpu_recipe(name).name for name in models] == models


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """Addresses of the scenes that the tokenizers' recipes draw."""
    addresses, scene_of = [], tokenizers.scene

    def noted(dialect, split, index):
        addresses.append((dialect, split, index))
        return scene_of(dialect, split, index)

    monkeypatch.setattr(tokenizers, "scene", noted)
    return addresses


def test_the_text_tokenizer_learns_on_the_texts_of_the_corpus(monkeypatch, tmp_path):
    monkeypatch.setattr(tokenizers, "texts", lambda: ["a red star on the sand"] * 9)
    made = tokenizers.train_text(tmp_path)
    assert made.decode(made.encode("a red star")) == "a red star"
    assert len(made.encode("sand")) == 1 and (tmp_path / "tokenizer.json").is_file()


def test_the_image_tokenizer_learns_on_what_training_may_show(asked, monkeypatch, tmp_path):
    """`stock`, `train`, and entities that training knows; all that it shows at one step."""
    signs, sign_of = [], tokenizers.sign_scene

    def sign(dialect, split, index):
        signs.append((dialect, split, index))
        return sign_of(dialect, split, index)

    monkeypatch.setattr(tokenizers, "sign_scene", sign)

    def keep(training, problem, config, run):
        asked.clear()
        for step in (1, 2):
            pictures = problem.batch(step)
            assert pictures.shape == (config.batch, 3, 64, 64)
            assert pictures.min() >= -1 and pictures.max() <= 1
        value, _ = problem.loss(training, problem.batch(1), 3)
        assert torch.isfinite(value)
        allowed = {("stock", split) for split in ("train", "study", "bank")}
        assert {address[:2] for address in asked} == allowed
        assert all(p.grad is None for p in training.vq.encoder.parameters())
        others = [index for _, split, index in asked if split != "train"]
        assert all(PLAIN <= index < SEEN for index in others)
        assert {address[:2] for address in signs} == {("stock", "train")}
        asked.clear()
        assert set(problem.evaluate(training)) == {"psnr", "codes_used"}
        assert {address[:2] for address in asked} == {("stock", "val")}
        run.mkdir()
        (run / "log.jsonl").write_bytes(b"{}\n")
        return {"seconds": 2.4}

    held_out = tokenizers.held_out_pictures
    monkeypatch.setattr(image_tokenizer, "train", keep)
    monkeypatch.setattr(tokenizers, "MERGE_PICTURES", 100)
    monkeypatch.setattr(tokenizers, "held_out_pictures", lambda: held_out(4))
    config = replace(tokenizers.VQ_TRAIN, batch=2 * len(tokenizers.SHOWN))
    tokenizers.train_vq(tmp_path / "run", tmp_path / "vq", "cpu", config)
    config, tensors, extra = checkpoint.load(tmp_path / "vq", "vq")
    found = from_dict(VQConfig, config)
    assert replace(found, codebook_size=2048) == tokenizers.VQ_SHAPE
    assert 0 <= found.codebook_size - extra["codes_left"] < 64 and found.codebook_size % 64 == 0
    rows = tensors["quantize.embedding.weight"]
    assert len(rows.unique(dim=0)) == extra["codes_left"] >= 1
    checkpoint.load_into(VQ(found), tensors)
    assert extra["seconds"] == 5 and extra["recipe"]["batch"] == 2 * len(tokenizers.SHOWN)


def test_the_image_tokenizer_is_shown_all_kinds_and_every_entity_as_often():
    assert Counter(tokenizers.SHOWN) == {"telling": 10, "entity": 4, "condition": 4, "sign": 2}
    named = Counter(
        next(thing[4] for thing in tokenizers.about_an_entity(k).plan.things if thing[4])
        for k in range(4000)
    )
    assert len(named) > 2200 and max(named.values()) < 9  # 3,800 (1 - 1/e) of them expected
    cycle = len(tokenizers.SHOWN)
    pictures = [tokenizers.shown(k) for k in range(3 * cycle)]
    assert len({picture.tobytes() for picture in pictures}) > 2.8 * cycle
    slate = tuple(SCRIBBLE_COLOURS[0])
    black = sum(1 for one in pictures if not one[0, 0].any() and not one[-1, -1].any())
    scribbled = sum(1 for one in pictures if tuple(one[0, 0]) == slate)
    assert scribbled == 2 and 6 <= black <= 10  # of 12 conditions


def test_first_weights_are_seeded_and_leave_torch_alone():
    before = torch.get_rng_state()
    one, two, other = (make_vq(tokenizers.VQ_SHAPE, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    name = "decoder.conv_out.weight"
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one[name], other[name])


def test_of_two_neighbours_the_fuller_picture_is_shown(asked):
    image = tokenizers.telling(7).image
    assert asked == [("stock", "train", 14), ("stock", "train", 15)]
    pair = [tokenizers.scene("stock", "train", index) for index in (14, 15)]
    fullest = max(len(one.plan.things) for one in pair)
    assert any((one.image == image).all() for one in pair if len(one.plan.things) == fullest)


def test_every_third_picture_shows_an_entity_where_one_is_near(asked):
    near = 0
    for index in range(0, 30, 3):
        asked.clear()
        image = tokenizers.telling(index).image
        around = [tokenizers.scene("stock", "train", 24 * index + k) for k in range(24)]
        named = [one for one in around if any(thing[4] for thing in one.plan.things)]
        near += bool(named)
        if named:
            assert (image == named[0].image).all()
    assert 3 <= near <= 9  # an entity stands in 4 % of the pictures: 0.62 of such windows


def test_an_unknown_part_is_one_line_and_exit_code_2(run_module):
    done = run_module("baselines.train", "--parts", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no part 'nonsense' to train; there are text, vq, ")
    assert done.stderr.count("\n") == 1


def test_nothing_to_train_is_no_success():
    with pytest.raises(UserError, match="no part named to train; there are text, vq"):
        train.main(train.Options(parts=()))


def test_finished_parts_are_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "train_part", lambda *_: pytest.fail("it was finished"))
    for name, file in (("text", "tokenizer.json"), ("vq", "config.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    assert train.main(train.Options(parts=("vq", "text"), out=tmp_path, runs=tmp_path)) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["text", "vq"]  # in the order of dependence
    assert all("kept (--fresh retrains it)" in line for line in said)


def test_parts_are_trained_in_the_order_of_dependence(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(train, "train_part", lambda part, *_: trained.append(part))
    options = train.Options(parts=("scenes-xs", "text", "features", "vq"), out=tmp_path)
    assert train.main(options) == 0
    assert trained == ["text", "vq", "features", "scenes-xs"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the shipped tokenizers and CLIP."""
    shipped = baselines_folder() / "scenes"
    home = tmp_path_factory.mktemp("scenes")
    for name in ("text", "vq", "clip"):
        if not (shipped / name).exists():
            pytest.skip("the shipped tokenizers are not trained yet")
        shutil.copytree(shipped / name, home / name)
    return home


@pytest.fixture
def small(monkeypatch):
    """A bank of 60 documents, the last 12 about entities "never seen"; few held-out pictures."""
    bank = {"SPLITS": SPLITS | {"bank": 60}, "SEEN": 48, "HELD_OUT": 4}
    for name, value in bank.items():
        monkeypatch.setattr(transformers, name, value)
    recipes = {"tiny": TINY, "tiny-plain": plain_twin(TINY)}
    monkeypatch.setitem(train.RECIPES, "cpu", recipes.__getitem__)
    monkeypatch.setattr(train, "PARTS", (*train.ENCODERS, *recipes))


def test_a_transformer_is_trained_end_to_end(home, small, tmp_path, monkeypatch):
    encoded, encode = [], transformers.encode

    def noted(source, *others, **more):
        encoded.append((source.dialect, source.split, source.start, source.count))
        return encode(source, *others, **more)

    monkeypatch.setattr(transformers, "encode", noted)
    options = train.Options(parts=("bank", "tiny"), out=home, runs=tmp_path / "runs")
    assert train.main(options) == 0
    assert set(encoded) == {
        ("stock", "bank", 0, 60), ("stock", "study", 0, 48),
        ("stock", "val", 0, 4), ("stock", "tail", 1000, 4),
    }  # fmt: skip

    config, tensors, extra = checkpoint.load(home / "tiny", "transformer")
    assert from_dict(type(TINY.model), config) == TINY.model
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    assert extra["vq_sha256"] == checkpoint.digest(home / "vq")
    assert extra["queries"] == [{"split": "study", "first": 0, "count": 48}]
    assert extra["train"]["steps"] == 4 and extra["device"]
    assert extra["shares"] == list(TINY.shares) and extra["neighbours"]["documents"] == 4
    log = [json.loads(line) for line in (home / "tiny" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4]
    for name in ("loss", "image", "image_alone", "image_at_0", "tail_image", "tail_image_alone"):
        assert np.isfinite(log[-1][f"held_out_{name}"])
    assert train.finished(home / "tiny") and train.finished(home / "bank")

    system = load_system(home / "tiny")
    assert system.config["documents"] == 2 and system.config["retrieval"]["bank_size"] == 60
    assert system.decode == DRAWN_AT != DecodeConfig()
    drawn = system.draw(["a red star on the sand"], [3])
    assert drawn.shape == (1, 64, 64, 3) and drawn.dtype == np.uint8

    first = checkpoint.digest(home / "tiny")
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(home / "tiny")
    assert train.main(options) == 0
    assert checkpoint.digest(home / "tiny") == first  # the same recipe, the same bytes


def test_a_start_takes_the_weights_of_another(tmp_path):
    first = Transformer(TINY.model, torch_generator(0, "first"))
    checkpoint.save(tmp_path / "first", "transformer", TINY.model, first.state_dict())
    second = Transformer(TINY.model)
    begin_with(second, tmp_path / "first")
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)
    other = Transformer(replace(TINY.model, width=32))
    with pytest.raises(UserError, match="first is a model of another shape; train first again"):
        begin_with(other, tmp_path / "first")


@pytest.mark.parametrize(
    "part", [Part("study", PLAIN - 50, 650), Part("train", 0, 9_000)], ids=["study", "train"]
)
def test_bursts_are_about_the_scene_s_entity(part):
    rows_NS = np.full((part.count, 4), -1)
    found = transformers.in_bursts(rows_NS, part, 0.6, 0)
    np.testing.assert_array_equal(found, transformers.in_bursts(rows_NS, part, 0.6, 0))
    assert (rows_NS == -1).all()
    scenes = [scene("stock", part.split, part.first + row) for row in range(part.count)]
    names = [[thing[4] for thing in one.plan.things if thing[4]] for one in scenes]
    about, chosen = np.array([bool(name) for name in names]), found[:, 0] >= 0
    assert not chosen[~about].any() and 0.5 < chosen[about].mean() < 0.7
    for row in np.flatnonzero(chosen):
        documents = [scene("stock", "bank", int(at)) for at in found[row]]
        assert len(set(found[row].tolist())) == 4
        assert {one.plan.things[0][4] for one in documents} == set(names[row])
        assert documents[0].place == scenes[row].place
    assert len({tuple(row) for row in found[chosen].tolist()}) > 0.8 * chosen.sum()  # drawn anew


def test_a_second_stage_names_where_it_began(home, small, tmp_path):
    names = ("tiny-plain", "tiny-second")
    recipes = {names[0]: plain_twin(TINY), names[1]: replace(TINY, name=names[1], start=names[0])}
    for name in names:
        transformers.train_transformer(recipes[name], home, tmp_path / name, "cpu")
    extra = checkpoint.read_about(home / names[1])["extra"]
    assert extra["start"] == names[0]
    assert extra["start_sha256"] == checkpoint.digest(home / names[0])
    first = checkpoint.read_about(home / names[0])["extra"]
    assert extra["before"] == first["cost"] == checkpoint.total_cost(first)
    both = checkpoint.total_cost(extra)
    assert both == {key: first["cost"][key] + extra["cost"][key] for key in both} and len(both) == 3


def test_budgets_are_branches_of_one_stable_part(home, small, tmp_path, monkeypatch):
    """A shorter and a longer training end as if planned so, and what they cost is told."""
    wsd = replace(TINY.train, schedule="wsd", steps=5, decay=1, keep_every=2)
    recipe = replace(plain_twin(TINY), train=wsd)
    monkeypatch.setitem(train.RECIPES, "cpu", {"tiny-plain": recipe}.__getitem__)

    def ends(runs: str, name: str, **options) -> str:
        chosen = train.Options(parts=("tiny-plain",), out=home, runs=tmp_path / runs, fresh=True)
        assert train.main(replace(chosen, name=name, **options)) == 0
        return checkpoint.digest(home / name)

    assert ends("one", "whole") and not (home / "one/state.json").exists()
    kept = sorted(path.name for path in (tmp_path / "one/tiny-plain-cpu").glob("state-*.json"))
    assert kept == ["state-00000002.json", "state-00000004.json"]
    tokens = checkpoint.read_about(home / "whole")["extra"]["cost"]["tokens"]
    ends("one", "short", steps=2)
    extra = checkpoint.read_about(home / "short")["extra"]
    assert extra["train"]["steps"] == 3 and extra["train"]["decay"] == 1
    assert extra["cost"]["queries"] == 3 * 4 and 0.4 < extra["cost"]["tokens"] / tokens < 0.8
    assert extra["cost"]["flops"] == 6 * TINY.model.parameters * extra["cost"]["tokens"]
    assert ends("one", "long", tokens=1.45 * tokens) == ends("two", "long", steps=8)
    assert checkpoint.read_about(home / "long")["extra"]["train"]["steps"] == 8
    log = [json.loads(line) for line in (home / "long" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == list(range(1, 9))
    for options, message in (
        ({"steps": 2, "tokens": 1.0}, "give --steps 2 or --tokens 1, not both"),
        ({"steps": 2, "parts": ("vq", "tiny-plain")}, "are of one transformer"),
        ({"tokens": 9.0, "runs": tmp_path / "none"}, "none/tiny-plain-cpu holds no state"),
    ):
        chosen = train.Options(parts=("tiny-plain",), out=home, runs=tmp_path / "one", fresh=True)
        with pytest.raises(UserError, match=message):
            train.main(replace(chosen, **options))


def test_tuning_trains_every_cell_once_and_ranks_them(home, small, tmp_path, monkeypatch, capsys):
    few = replace(plain_twin(TINY), queries=(Part("study", 0, 48),))
    monkeypatch.setattr(tune, "cpu_recipe", {"tiny-plain": few}.__getitem__)
    options = tune.Options(
        "tiny-plain", batches=(2, 4), rates=(1e-3,), optimizers=("adamw", "muon"), tokens=1500.0,
        weights=home, runs=tmp_path,
    )  # fmt: skip
    assert tune.main(options) == 0
    said = capsys.readouterr()
    lines = [line.split("|") for line in said.out.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line[1:-1]] for line in lines][2:]
    assert {(row[0], row[1]) for row in rows} == {
        ("adamw", "2"), ("adamw", "4"), ("muon", "2"), ("muon", "4")
    }  # fmt: skip
    nats = [float(row[5]) for row in rows]
    assert nats == sorted(nats) and len(set(nats)) > 1
    runs = sorted(path.name for path in (tmp_path / "tune").iterdir())
    assert len(runs) == 4 and all(name.startswith("tiny-plain-") for name in runs)
    states = {name: (tmp_path / "tune" / name / "state.json").read_bytes() for name in runs}
    assert tune.main(options) == 0
    assert all((tmp_path / "tune" / name / "state.json").read_bytes() == states[name]
               for name in runs)  # fmt: skip


def test_the_twin_has_no_documents(home, small, tmp_path):
    options = train.Options(parts=("tiny-plain",), out=home, runs=tmp_path / "runs", fresh=True)
    assert train.main(options) == 0
    twin = checkpoint.read_about(home / "tiny-plain")
    assert "retrieval" not in twin["extra"] and twin["extra"]["shares"] == [1.0]
    assert load_system(home / "tiny-plain").retriever is None


def test_documents_about_entities_never_seen_are_kept_out(home, small, tmp_path):
    shop = transformers.Shop(home, tmp_path)
    recipe = replace(TINY, queries=(Part("bank", 0, 60),), bursts=0.0)
    seen = shop.neighbours(recipe)
    assert seen.rows_NS.max() < 48 and seen.rows_NS.shape == (60, 4)
    assert shop.held_out(recipe, recipe.queries[0]).neighbours.rows_NS.max() >= 48


def test_parts_of_the_queries_are_one_after_the_other(home, small, tmp_path):
    shop = transformers.Shop(home, tmp_path)
    parts = (Part("study", 3, 5), Part("train", 0, 4))
    joined = transformers.Joined([shop.part(part) for part in parts])
    assert len(joined) == 9
    wanted = [shop.part(part).document(at, 2) for part in parts for at in range(part.count)]
    assert [joined.document(at, 2) for at in range(9)] == wanted
