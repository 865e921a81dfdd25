"""The recipe that tunes the embedded world's models on their tasks, in miniature."""

from types import SimpleNamespace

import numpy as np
import pytest

from baselines import tune_tasks
from baselines.tune_tasks import PARTS, Options, Part, Retrieved, Shop, main, name_of, recipe_of
from cm3leon import checkpoint
from cm3leon.cli.main import guarded
from cm3leon.data.layouts.world import MAKE
from cm3leon.data.sources import Scenes
from cm3leon.data.token_cache import encode
from cm3leon.errors import UserError
from cm3leon.loading import load_tokenizers
from cm3leon.sequence.documents import Document, Vocabulary, build_sample
from cm3leon.tasks.rows import lay
from cm3leon.training.tuning import Base, Pairs
from tests.world_model import write_world_model

FEW = {"draw": Part(0.25, 2), "edit": Part(0.5, 2), "answer": Part(0.25, 2)}


@pytest.fixture
def small(monkeypatch):
    """Three tasks about two scenes each, two rows a step."""
    monkeypatch.setattr(tune_tasks, "PARTS", FEW | {"draw-documents": Part(0.25, 2)})
    monkeypatch.setattr(tune_tasks, "HELD", 2)
    monkeypatch.setattr(tune_tasks, "BATCH", 2)


def test_the_shares_are_of_all_tasks_of_the_world():
    assert sum(part.share for part in PARTS.values()) == pytest.approx(1)
    assert set(PARTS) == {*MAKE, "draw", "draw-documents"}
    assert all(part.scenes < tune_tasks.EACH for part in PARTS.values())


@pytest.mark.parametrize("size", tune_tasks.ROWS)
def test_a_recipe_reads_its_rows_once(size):
    recipe = recipe_of(size, tune_tasks.ROWS[size])
    train = recipe.train
    assert train.steps * train.batch == tune_tasks.ROWS[size]
    assert 0 < train.warmup < train.decay_start < train.steps
    with pytest.raises(UserError, match="no recipe for a model '350m'"):
        recipe_of("350m", 10)


def test_names_tell_the_task_and_the_seed():
    assert name_of("scenes-s", (), 0) == "scenes-s-tuned"
    assert name_of("scenes-xs", ("edit",), 1) == "scenes-xs-edit-seed1"


def test_each_data_set_is_read_as_often_as_its_share_says(small, tmp_path):
    base = Base.open(str(write_world_model(tmp_path)))
    shop = Shop(base, tmp_path / "runs")
    records = shop.records(shop.tasks, 40, 0)
    assert [len(one.trained) for one in records.sets] == [20, 20, 10]  # draw takes both its parts
    mixture = records.mixture(recipe_of("scenes-xs", 50))
    assert mixture.counts == (20, 20, 10) and len(mixture) == 50
    twice = records.sets[2].trained
    assert len(set(twice.tolist())) == min(10, len(records.sets[2].cache))
    other = shop.records(shop.tasks, 40, 1)
    assert not np.array_equal(other.sets[1].trained, records.sets[1].trained)
    specialist = shop.records(("edit",), 40, 0)
    assert np.array_equal(specialist.sets[0].trained, records.sets[1].trained)
    assert [one.split("-")[1] for one in records.held[1].cache.ids] == ["val"] * len(
        records.held[1].cache
    )


def test_a_killed_tuning_goes_on_to_the_same_weights(small, tmp_path, monkeypatch):
    write_world_model(tmp_path / "home")
    options = Options("scenes-xs", out=tmp_path / "home", runs=tmp_path / "runs", rows=8)
    monkeypatch.setattr(tune_tasks, "recipe_of", saving(tune_tasks.recipe_of))
    assert main(options) == 0
    whole = checkpoint.digest(tmp_path / "home" / "scenes-xs-tuned")

    class Killed(Exception):
        pass

    fit = tune_tasks.tune

    def killed(recipe, records, out, device, run):
        source = type(records).source

        def cut(self, recipe):
            found = source(self, recipe)

            def rows(step):
                if step == 4:
                    raise Killed
                return found.rows(step)

            return type(found)(rows, found.held_out, found.about)

        with monkeypatch.context() as patch:
            patch.setattr(type(records), "source", cut)
            return fit(recipe, records, out, device, run)

    again = Options("scenes-xs", out=tmp_path / "home", runs=tmp_path / "runs", rows=8)
    for path in sorted((tmp_path / "runs" / "tasks-scenes-xs-tuned").glob("**/*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    monkeypatch.setattr(tune_tasks, "tune", killed)
    with pytest.raises(Killed):
        main(again)
    monkeypatch.setattr(tune_tasks, "tune", fit)
    assert main(again) == 0
    assert checkpoint.digest(tmp_path / "home" / "scenes-xs-tuned") == whole
    extra = checkpoint.read_about(tmp_path / "home" / "scenes-xs-tuned")["extra"]
    assert extra["start"] == "scenes-xs" and set(extra["tasks"]) == {"draw", "edit", "answer"}


def saving(recipe_of):
    """The recipe with a state after every second step, in float32."""
    from dataclasses import replace

    def changed(*arguments):
        recipe = recipe_of(*arguments)
        train = replace(recipe.train, save_every=2, eval_every=2, precision="float32")
        return replace(recipe, train=train)

    return changed


def test_documents_stand_before_a_caption_as_in_drawing(tmp_path):
    write_world_model(tmp_path)
    text, vq = load_tokenizers(tmp_path)
    cache = encode(Scenes("stock", "train", 0, 2, 64), vq, text, tmp_path / "pairs")
    found = [cache.document(1), cache.document(0)]
    bank = SimpleNamespace(
        rows=lambda texts: np.array([[0, 1]] * len(texts)),
        take=lambda rows: [found[row] for row in rows],
        documents=SimpleNamespace(document=found.__getitem__),
        about={"bank_size": 2},
    )
    count = len(Pairs(tmp_path / "pairs"))
    retrieved = Retrieved(tmp_path / "pairs", bank, [""] * count)
    vocabulary = Vocabulary(text.size, vq.config.codebook_size, 16, 64)
    for at in (0, count - 1):
        laid = lay(retrieved[at], vocabulary)
        query = Document.pair(cache.text(*divmod(at, cache.captions)).tolist(),
                              cache.codes(at // cache.captions).tolist())  # fmt: skip
        assert laid.ids.tolist() == build_sample(query, found, vocabulary).tolist()
        assert laid.targets == ((len(laid.ids) - 65, len(laid.ids) - 1),)
        assert len(laid.ids) <= retrieved.longest
    assert retrieved.about["documents"] == {"bank_size": 2}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"only": ("fly",)}, "no task 'fly' to tune on; there are draw, "),
        ({"only": ("draw-documents",)}, "scenes-xs was trained without retrieval"),
        ({"model": "none-such"}, "unknown model 'none-such'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, change, told):
    write_world_model(tmp_path)
    options = Options(**({"model": "scenes-xs", "out": tmp_path, "runs": tmp_path} | change))
    assert guarded(lambda: main(options)) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
