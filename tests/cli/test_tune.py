"""`cm3leon tune` as a user meets it: the plan, the options, one-line errors."""

import pytest

from cm3leon.checkpoint import read_about
from cm3leon.cli import main as cli
from cm3leon.cli.tune import TuneChanges
from cm3leon.config import PaperRecipe
from cm3leon.data.token_cache import encode
from cm3leon.loading import load_tokenizers
from cm3leon.training.tuning import PAPER
from tests.data.test_token_cache import source
from tests.tuning_maker import TUNE, long_question, write_base, write_records, write_start


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, its caches; other ones that do not fit."""
    folder = write_start(tmp_path_factory.mktemp("tune"))
    write_records(folder / "long", folder / "base", [long_question(k) for k in range(3)])
    text, vq = load_tokenizers(folder / "base")
    encode(source(3), vq, text, folder / "pairs")
    other = write_base(folder / "other")
    text.train(["quite other words"] * 3, 280).save(other / "text")
    write_records(folder / "foreign", other, [long_question(0)])
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Run a command in that folder; (exit code, stdout, stderr)."""
    monkeypatch.chdir(place)

    def call(*arguments):
        capsys.readouterr()
        code = cli.main([str(word) for word in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_dry_run_checks_counts_and_writes_nothing(run, place):
    before = sorted(path.name for path in place.iterdir())
    code, out, err = run("tune", "base", "answers", "edits", "--dry-run", "--rows.loss", "target")
    assert (code, err) == (0, "")
    assert (
        "data: 29 records of answers (answer), weight 0.415, 1.10 epochs" in out
    )  # sqrt(29 x 5) / 29
    assert "data: 5 records of edits (edit), weight 2.41" in out and "1 held out" in out
    assert "learning rate 5e-05" in out and "32 rows of about" in out
    assert "loss: target; prompts without text 5%, without pictures 5%, without both 5%" in out
    assert "nothing was trained" in out
    assert sorted(path.name for path in place.iterdir()) == before


def test_two_passes_over_the_mixture_are_the_default(run):
    _, out, _ = run("tune", "base", "answers", "edits", "--dry-run")
    assert "run: 2 steps" in out  # 24 records a pass, 32 rows a step
    _, out, _ = run("tune", "base", "answers", "edits", "--dry-run", "--batch", "4")
    assert "run: 12 steps" in out and "weight 0.415, 0.83 epochs" in out
    _, out, _ = run("tune", "base", "answers", "edits", "--dry-run", "--target", "29")
    assert "held out: 2 records of val" in run(
        "tune", "base", "answers", "--held-out", "val", "--hold-out", "2", "--dry-run"
    )[1]  # fmt: skip
    assert "weight 1, " in out and "weight 3, " in out
    assert PaperRecipe(5e-5, 30e9, 2e6, 150) == PAPER


def test_pairs_of_pretraining_are_a_task_too(run):
    _, out, _ = run("tune", "base", "answers", "pairs", "--dry-run")
    assert "data: 14 records of pairs (draw)" in out and "1 held out" in out  # 3 x 5 captions


def test_it_tunes_and_goes_on(run, place):
    command = ["tune", "base", "answers", "edits", "--held-out", "val", *TUNE]
    code, out, _ = run(*command, "--out", "tuned", "--rows.drop-text", "0.2")
    assert code == 0 and "tuned: 8 steps in" in out and "held out: 3 records of val" in out
    extra = read_about(place / "tuned")["extra"]
    assert extra["rows"]["drop_text"] == 0.2 and extra["held_out"] == [0, 0, 3]
    first = read_about(place / "tuned")["sha256"]
    assert run(*command, "--out", "tuned", "--rows.drop-text", "0.2")[0] == 0
    assert read_about(place / "tuned")["sha256"] == first
    code, _, err = run(*command, "--out", "tuned")
    assert code == 2 and "tuned/run was begun with rows.drop_text = 0.2, this run has 0.05" in err
    code, out, _ = run("draw", "make it red", "--system", "tuned", "--out", "red.png")
    assert code == 0


START = ["tune", "base", "answers"]
MISTAKES = {
    "no --out: name the folder": START,
    "no model at nowhere": ["tune", "nowhere/x", "answers", "--out", "x"],
    "unknown model 'big'": ["tune", "big", "answers", "--out", "x"],
    "cannot read nowhere/cache.json": ["tune", "base", "nowhere", "--out", "x"],
    "foreign was encoded with text_sha256": ["tune", "base", "foreign", "--out", "x"],
    "no record of long fits base: a row of": ["tune", "base", "long", "--out", "x"],
    "is given twice; name each record cache once": [*START, "answers", "--out", "x"],
    "answers is given twice": [*START, "--held-out", "answers", "--out", "x"],
    "hold_out must leave some of 30": [*START, "--hold-out", "30", "--out", "x"],
    "--out base is the model itself": [*START, "--out", "base"],
    "give --steps 8 or --tokens": [*START, *TUNE, "--tokens", "9", "--out", "x"],
    "accumulate must lie in 1..4": [*START, *TUNE, "--accumulate", "5", "--out", "x"],
    "rows.loss must be one of all, target, cm3": [*START, "--rows.loss", "some", "--out", "x"],
    "rows.drop_text, drop_image and drop_both must add up": [
        *START, "--rows.drop-text", "0.9", "--rows.drop-image", "0.2", "--out", "x"],
    "mixing thresholds must be positive and in order": [
        *START, "--least", "3", "--most", "0.3", "--out", "x"],
    "target must lie in (0": [*START, "--target", "-1", "--out", "x"],
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_get_one_line_and_nothing_is_spent(run, place, message):
    code, _, err = run(*MISTAKES[message])
    assert (code, err.count("\n")) == (2, 1) and message in err
    assert not (place / "x").exists()


def test_it_takes_the_settings_of_a_training():
    assert TuneChanges(steps=3, rate=1e-4).given == {"steps": 3, "rate": 1e-4}
