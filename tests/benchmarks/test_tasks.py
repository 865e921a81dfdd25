"""`nox -s tasks` in miniature: the truth scores best, floors lie below, records and tables hold."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import tasks as bench
from benchmarks.evaluate.world_tasks import SCORES, Score, shown, triple, world_task
from cm3leon import checkpoint
from cm3leon.evaluation.measures import undeclared
from cm3leon.evaluation.text.caption_truth import true_reading
from cm3leon.loading import load_system
from cm3leon.reports.benches.tasks import tasks_table
from cm3leon.tasks import TASKS
from cm3leon.world.reader import read_picture
from cm3leon.world.scenes import scene
from tests.world_model import write_world_model

N = 8


@pytest.fixture(scope="module", params=SCORES)
def task(request):
    return world_task(request.param, "stock", "test", N, 64)


def test_the_truth_is_right_and_the_floor_is_not(task):
    best, least = task.scores(task.truth), task.scores(task.floor())
    assert set(best) == set(least) and task.main in best
    assert not undeclared(f"{task.name}.{name}" for name in best)
    assert best[task.main].value == pytest.approx(1)
    assert least[task.main].value < 1
    value, low, high = triple(best[task.main], least[task.main])
    assert low <= value <= high and value == pytest.approx(1 - least[task.main].value)


def test_one_record_of_each_scene_is_asked(task):
    ids = [one.id for one in task.scenes]
    assert len(set(ids)) == N == len(task.fields)
    if task.task is not None:
        for fields in task.asked():
            assert not set(fields) & set(task.task.targets)
            task.task.ask(**fields)


def test_an_edit_that_changes_more_is_not_exact():
    task = world_task("edit", "stock", "test", N, 64)
    answers = task.truth.copy()
    answers[0] = scene("stock", "test", 40, 64).image
    found = task.scores(answers)
    assert found["edit_exact"].value == pytest.approx(1 - 1 / N)
    assert np.isfinite(found["background_psnr"].value) and found["l1"].value > 0


def test_what_a_picture_shows_is_what_the_scene_holds():
    for index in range(4):
        one = scene("stock", "val", index, 64)
        assert shown(read_picture(one.image)) == shown(true_reading(one))


def test_resamples_of_a_score_are_of_examples():
    score = Score([0.0, 1.0, 1.0, 1.0])
    assert score.value == 0.75 and set((score.draws(200) * 4).tolist()) <= {0, 1, 2, 3, 4}
    assert triple(score, score) == (0, 0, 0)


@pytest.fixture
def home(tmp_path):
    write_world_model(tmp_path, "plain")
    some = ("answer", "edit", "write")
    write_world_model(tmp_path, "tuned", tasks=dict.fromkeys(some, 1))
    return tmp_path


def options(home, *more):
    places = ("--results", home / "results", "--reports", home / "out", "--device", "cpu")
    return list(map(str, ("--system", home / "tuned", "--n", 2, *places, *more)))


def test_a_record_of_a_model_beside_the_one_before(home, capsys):
    assert (
        bench.main(options(home, "--beside", str(home / "plain"), "--task", "edit", "answer")) == 0
    )
    (path,) = (home / "results").rglob("*.json")
    record = bench.core.load(path)
    assert record["protocol"]["tasks"] == ["answer", "edit"]
    assert record["missing"][0]["needs"] == "clip/ beside the model"
    for name in ("edit.edit_exact", "edit.floor.l1", "edit.ceiling.edit_exact",
                 "answer.plain.exact_match", "answer.exact_match_minus_plain"):  # fmt: skip
        assert name in record["extra"], name
    assert not record["warnings"]
    table = tasks_table(record)
    assert [row[0] for row in table.rows][:2] == ["answer", "edit"] and len(table.rows) == 4
    assert "plain (difference)" in table.headers and "tasks.png" in capsys.readouterr().out
    assert list((home / "out" / "tasks" / "tuned").glob("*/tasks.png"))


def test_what_is_chosen_on_val_is_asked_from_then_on(home, monkeypatch, capsys):
    monkeypatch.setattr(bench, "TRIED", {2: {"guidance": (1.0, 2.0)}, 3: {"text_guidance": (2.0,)}})
    assert bench.main(options(home, "--choose", "--write", "--task", "edit", "write")) == 0
    assert "edit: chosen" in capsys.readouterr().out
    chosen = checkpoint.read_about(home / "tuned")["extra"]["task_decode"]
    assert chosen["edit"] == {"text_guidance": 2.0} and chosen["write"]["guidance"] in (1.0, 2.0)
    system = load_system(home / "tuned")
    assert system.tasks["edit"] == chosen["edit"]
    task = replace(world_task("edit", "stock", "val", 1, 64))
    (drawn,) = task.answers(system)
    (same,) = task.answers(replace(system, tasks={"edit": {}}), settings={"text_guidance": 2.0})
    assert np.array_equal(drawn, same)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--task", "fly"), "no task 'fly' to score; there are draw, caption"),
        (("--task", "depth"), "tuned was not tuned on depth; it knows answer, edit, write"),
        (("--write",), "--write needs --choose"),
        (("--n", "1"), "n must be at least 2"),
        (("--choose", "--task", "answer"), "nothing to choose"),
    ],
)
def test_bad_input_is_one_line(home, capsys, more, told):
    assert bench.main(options(home, *more)) == 2
    error = capsys.readouterr().err
    assert told in error.replace(f"{home}/", "") and error.count("\n") == 1
    assert not list((home / "results").rglob("*.json"))


def test_every_task_of_the_world_is_scored():
    from cm3leon.data.layouts.world import MAKE

    assert set(SCORES) == {*MAKE, "draw"} and set(MAKE) <= set(TASKS)
