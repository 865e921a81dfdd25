"""`cm3leon train-text` and `train` as a user meets them: estimates, options, one-line errors."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from cm3leon.checkpoint import read_about
from cm3leon.cli import main as cli
from cm3leon.cli.train import TrainChanges
from cm3leon.config import TrainConfig
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.training import trainer
from tests.paper_maker import NEAR, PREPARE, TRAIN, caption, write_clip, write_start, write_tar


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An encoded source with tokenizers, CLIP and bank; other ones that do not fit."""
    folder = write_start(tmp_path_factory.mktemp("commands"))
    write_clip(folder / "other-clip", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in PREPARE:
            assert cli.main(command) == 0
        assert cli.main(["encode", "cc", "bare", "--tokenizers", "home", "--clip", "none"]) == 0
        shutil.copytree("home", "narrow")
        shutil.rmtree("narrow/text")
        assert cli.main(["train-text", "cc", "--out", "narrow/text", "--size", "260"]) == 0
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


@pytest.mark.parametrize(
    ("model", "numbers"),
    [("350m", "373.3M parameters"), ("760m", "786.4M parameters"), ("7b", "6,727.7M parameters")],
)
def test_a_dry_run_of_the_papers_sizes_needs_nothing(run, model, numbers):
    code, out, err = run("train", "--model", model, "--dry-run")
    assert (code, err) == (0, "") and numbers in out and "65,536 ids, context 4,096" in out
    assert "after 1,500 steps" in out and "6ND" in out and "nothing was trained" in out


def test_a_dry_run_checks_counts_and_writes_nothing(run, place):
    before = sorted(path.name for path in place.iterdir())
    code, out, err = run(*TRAIN, *NEAR, "--out", "dry", "--dry-run")
    assert (code, err) == (0, "")
    assert "21 documents of cache, 3 held out, 0 not readable" in out
    assert "documents before a query: always 3" in out and "CLIP of cache and bank" in out
    assert "8 steps" in out and "4 rows of about" in out
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_model_without_documents(run, place):
    code, out, _ = run(*TRAIN, "--steps", "2", "--out", "alone", "--seed", "5", "--threads", "1")
    assert code == 0 and "alone: 2 steps in" in out and "always 0" in out
    extra = read_about(place / "alone")["extra"]
    assert extra["train"]["seed"] == 5 and extra["shares"] == [1.0]
    assert "retrieval" not in extra and "bank" not in extra
    code, out, _ = run("draw", "a red thing", "--system", "alone", "--out", "alone.png")
    assert (code, out) == (0, "alone.png\n")


def test_documents_found_beforehand_are_those_of_the_training(run, place, monkeypatch):
    command = [*TRAIN, *NEAR, "--steps", "2", "--out", "beforehand"]
    code, out, _ = run(*command, "--find-neighbours")
    (found,) = (place / "beforehand" / "run").iterdir()
    assert code == 0 and out.endswith("queries lie in beforehand/run\n")
    assert found.name.startswith("neighbours-") and not (place / "beforehand/config.json").exists()
    monkeypatch.setattr("cm3leon.retrieval.training_bank.find_neighbours", None)
    assert run(*command)[0] == 0
    assert (place / "beforehand" / "config.json").exists()


def test_the_bank_is_a_cache_too_and_settings_reach_the_model(run, place):
    options = ["--bank", "cache", *NEAR[2:], "--documents", "0.5", "0.5", "--out", "shares"]
    more = ["--objective.document-weight", "0.1", "--retrieval.by", "text", "--tokens", "1000"]
    command = [word for word in TRAIN if word not in ("--steps", "8")]
    code, out, _ = run(*command, *options, *more)
    extra = read_about(place / "shares")["extra"]
    assert code == 0 and "in shares 0: 0.5, 1: 0.5" in out
    assert extra["objective"]["document_weight"] == 0.1 and extra["neighbours"]["by"] == "text"
    assert extra["retrieval"]["documents"] == 1 and extra["bank"]["index"] is None
    tokens = extra["train"]["steps"] * extra["train"]["batch"] * 44  # a row and a half of 28 + 1
    assert 1000 <= tokens < 1400


MISTAKES = {
    "no token cache: give what `cm3leon encode` made": ["train", "--out", "x"],
    "no --out: name the folder": ["train", "cache"],
    "cannot read nowhere/cache.json": [*TRAIN[:1], "nowhere", *TRAIN[2:], "--out", "x"],
    "unknown model 'big'": ["train", "cache", "--model", "big", "--out", "x"],
    "model 350m has 56320 text ids, the text tokenizer 300": [
        "train", "cache", "--model", "350m", "--tokenizers", "home", "--out", "x"],
    "model mini has 300 text ids, the text tokenizer 260": [
        *TRAIN, "--tokenizers", "narrow", "--out", "x"],
    "cache was encoded with text_sha256": [
        *TRAIN, "--tokenizers", "narrow", "--fit-vocabulary", "--out", "x"],
    "bare was encoded without a CLIP": ["train", "bare", *TRAIN[2:], *NEAR, "--out", "x"],
    "no memory bank at cc": [*TRAIN, "--bank", "cc", "--out", "x"],
    "name the --clip it was encoded with": [*TRAIN, *NEAR, "--clip", "local-dir:other-clip",
                                     "--out", "x"],
    "needs a --bank to retrieve from": [*TRAIN, "--documents", "0", "1", "--out", "x"],
    "shares of documents must be probabilities": [
        *TRAIN, *NEAR, "--documents", "0.5", "0.2", "--out", "x"],
    "rows with 4 documents take about": [
        *TRAIN, *NEAR, "--documents", "0", "0", "0", "0", "1", "--out", "x"],
    "documents asks for 2 documents, --retrieval.documents finds 1; raise it": [
        *TRAIN, *NEAR, "--documents", "0", "0", "1", "--retrieval.documents", "1", "--out", "x"],
    "accumulate must lie in 1..4": [*TRAIN, "--accumulate", "5", "--out", "x"],
    "hold_out must leave some of 24": [*TRAIN, "--hold-out", "24", "--out", "x"],
    "hold_out must lie in [1, 1,000,000,000], got 0": [*TRAIN, "--hold-out", "0", "--out", "x"],
    "give --steps 8 or --tokens": [*TRAIN, "--tokens", "9", "--out", "x"],
    "threads must lie in [1, 1,024], got 0": [*TRAIN, "--threads", "0", "--out", "x"],
    "training.rate must lie in (0, 1e+18], got -1.0": [*TRAIN, "--rate", "-1", "--out", "x"],
    "--find-neighbours needs a --bank": [*TRAIN, "--out", "x", "--find-neighbours"],
    "--bank and --held-out need the token cache": ["train", "--bank", "bank", "--dry-run"],
    "cache holds what is trained on": [*TRAIN, "--held-out", "cache", "--out", "x"],
    "home/text exists; name a new folder": ["train-text", "cc", "--out", "home/text"],
    "no source at nowhere": ["train-text", "nowhere", "--out", "x"],
    "text size must be at least 256": ["train-text", "cc", "--out", "x", "--size", "9"],
    "workers must lie in [0, 256], got -1": ["encode", "cc", "x", "--workers", "-1"],
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_get_one_line_and_nothing_is_spent(run, place, message):
    code, _, err = run(*MISTAKES[message])
    assert (code, err.count("\n")) == (2, 1) and message in err
    assert not (place / "x").exists()


WSD = [*[word for word in TRAIN if word not in ("--steps", "8")], "--schedule", "wsd",
       "--warmup", "1"]  # fmt: skip
PLAIN = WSD[:-4]
DRY = "--dry-run"
WAYS = {  # what a message of `train` says: what came before, the command, the ways out it names
    "train into a new folder with a lower rate or clip": (
        [], [*TRAIN, "--rate", "1e17", "--out", "a"],
        [[*TRAIN, "--rate", "1e-4", "--out", "b"], 
         [*TRAIN, "--gradient-clip", "0.5", "--out", "c"]],
    ),
    "begun with train.rate = 0.003, this run has 0.001; use the same value or another folder": (
        [[*TRAIN, "--out", "a"]], [*TRAIN, "--rate", "1e-3", "--out", "a"],
        [[*TRAIN, "--out", "a"], [*TRAIN, "--rate", "1e-3", "--out", "b"]],
    ),
    "use the same plan, or train into a new --out": (
        [[*TRAIN, "--out", "a"]], [*TRAIN, "--steps", "9", "--out", "a"],
        [[*TRAIN, "--out", "a"], [*TRAIN, "--steps", "9", "--out", "b"]],
    ),
    "use the same plan, or branch from its stable part": (
        [[*WSD, "--steps", "6", "--decay", "3", "--keep-every", "2", "--out", "a"]],
        [*WSD, "--steps", "9", "--decay", "3", "--out", "a"],
        [[*WSD, "--steps", "6", "--decay", "3", "--out", "a"],
         [*PLAIN, "--decay-from", "a@2", "--decay", "3", "--out", "b"]],
    ),
    "--steps 4 lies before; give more steps": (
        [[*WSD, "--steps", "6", "--out", "a"]], [*WSD, "--steps", "4", "--out", "a"],
        [[*WSD, "--steps", "7", "--out", "a"]],
    ),
    "is not kept; kept of the stable part: 2, 4, 6": (
        [[*WSD, "--steps", "6", "--keep-every", "2", "--out", "a"]],
        [*PLAIN, "--decay-from", "a@5", "--decay", "2", "--out", "b"],
        [[*PLAIN, "--decay-from", f"a@{step}", "--decay", "2", "--out", f"c{step}"]
         for step in (2, 4, 6)],
    ),
    "needs --decay": (
        [[*WSD, "--steps", "4", "--out", "a"]], [*PLAIN, "--decay-from", "a", "--out", "b"],
        [[*PLAIN, "--decay-from", "a", "--decay", "2", "--out", "b"]],
    ),
    "decay from a run with 'wsd'": (
        [[*TRAIN, "--out", "a"], [*WSD, "--steps", "4", "--out", "w"]],
        [*PLAIN, "--decay-from", "a", "--decay", "2", "--out", "b"],
        [[*PLAIN, "--decay-from", "w", "--decay", "2", "--out", "b"]],
    ),
    "accumulate must lie in 1..4": (
        [], [*TRAIN, "--accumulate", "5", "--out", "a"],
        [[*TRAIN, "--accumulate", count, "--out", "a", DRY] for count in "14"],
    ),
    "3 documents fit: give fewer --documents": (
        [], [*TRAIN, *NEAR, "--documents", "0", "0", "0", "0", "1", "--out", "a"],
        [[*TRAIN, *NEAR, "--documents", "0", "0", "0", "1", "--out", "a", DRY]],
    ),
    "--retrieval.documents finds 1; raise it": (
        [],
        [*TRAIN, *NEAR, "--documents", "0", "0", "1", "--retrieval.documents", "1", "--out", "a"],
        [[*TRAIN, *NEAR, "--documents", "0", "0", "1", "--retrieval.documents", "2", "--out",
          "a", DRY]],
    ),
    "take another tokenizer, or --fit-vocabulary": (
        [], [*TRAIN, "--tokenizers", "narrow", "--out", "a"],
        [[*TRAIN, "--out", "a", DRY],
         ["train", "--model", "mini.json", "--tokenizers", "narrow", "--fit-vocabulary", DRY]],
    ),
    "name its --tokenizers or encode it again": (
        [], [*TRAIN, "--tokenizers", "narrow", "--fit-vocabulary", "--out", "a"],
        [[*TRAIN, "--tokenizers", "home", "--out", "a", DRY]],
    ),
    "name the --clip it was encoded with": (
        [], [*TRAIN, *NEAR, "--clip", "local-dir:other-clip", "--out", "a"],
        [[*TRAIN, *NEAR, "--out", "a", "--steps", "2"]],
    ),
    "encode it again with one": (
        [], ["train", "bare", *TRAIN[2:], *NEAR, "--out", "a"],
        [["encode", "cc", "again", "--tokenizers", "home", "--clip", "local-dir:clip"],
         ["train", "again", *TRAIN[2:], "--bank", "again", *NEAR[2:], "--out", "a", DRY]],
    ),
    "hold_out must leave some of 24": (
        [], [*TRAIN, "--hold-out", "24", "--out", "a"], [[*TRAIN, "--hold-out", "23", DRY]],
    ),
    "holds what is trained on; leave --held-out out": (
        [], [*TRAIN, "--held-out", "cache", "--out", "a"], [[*TRAIN, "--out", "a", DRY]],
    ),
    "give --steps 8 or --tokens 999, not both": (
        [], [*TRAIN, "--tokens", "999", "--out", "a"],
        [[*TRAIN, DRY], [*PLAIN, "--tokens", "999", DRY]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", WAYS)
def test_every_way_out_that_a_message_names_can_be_gone(run, place, tmp_path, message):
    """In the state that prints it: what lies in `place`, and folders that begin there anew."""

    def there(command):
        at = command.index("--out") + 1 if "--out" in command else 0
        words = [*command[:at], f"{tmp_path}/{command[at]}", *command[at + 1 :]] if at else command
        stems = [k + 1 for k, word in enumerate(words) if word == "--decay-from"]
        return [f"{tmp_path}/{word}" if k in stems else word for k, word in enumerate(words)]

    before, fails, ways = WAYS[message]
    for command in before:
        assert run(*there(command))[0] == 0
    code, _, err = run(*there(fails))
    assert code == 2 and message in err.splitlines()[-1], err
    for way in ways:
        code, _, err = run(*there(way))
        assert code == 0, err


@pytest.mark.parametrize("way", [["--accumulate", "2"], ["--recompute"]])
def test_a_training_without_memory_goes_on_in_more_pieces(run, tmp_path, monkeypatch, way):
    command = [*TRAIN, "--threads", "1", "--out"]
    assert run(*command, tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        loss = trainer.token_loss

        def greedy(vocabulary):
            def of_step(module, batch, step):
                if step > 4:
                    raise torch.OutOfMemoryError("Tried to allocate 2 GiB")
                return loss(vocabulary)(module, batch, step)

            return of_step

        patch.setattr(trainer, "token_loss", greedy)
        code, _, err = run(*command, tmp_path / "a")
        assert code == 2 and way[0] in err and "with which it goes on where it is" in err
    code, _, err = run(*command, tmp_path / "a", *way)
    assert code == 0 and f"step 3 of 8 of {tmp_path}/a/run goes on" in err
    assert ("accumulate 1 so far and goes on with 2" in err) == ("--accumulate" in way)
    whole, found = (load_file(tmp_path / one / "model.safetensors") for one in ("whole", "a"))
    for name, value in whole.items():
        torch.testing.assert_close(found[name].float(), value.float(), rtol=0.02, atol=1e-4)


def test_save_every_may_change_on_the_way(run, tmp_path):
    assert run(*WSD, "--steps", "4", "--out", tmp_path / "a")[0] == 0
    slower = list(WSD)
    slower[slower.index("--save-every") + 1] = "7"
    assert slower != WSD and run(*slower, "--steps", "6", "--out", tmp_path / "a")[0] == 0
    assert run(*WSD, "--steps", "6", "--out", tmp_path / "b")[0] == 0
    assert len({read_about(tmp_path / one)["sha256"] for one in "ab"}) == 1


def test_a_damaged_state_leaves_the_ways_it_names(run, tmp_path):
    command = [*WSD, "--keep-every", "2", "--steps", "5", "--out"]
    assert run(*command, tmp_path / "a")[0] == 0
    state = tmp_path / "a/run/state-00000005.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    code, _, err = run(*command, tmp_path / "a")
    assert code == 2 and "; train into a new folder, or decay from a kept state" in err
    branch = [*PLAIN, "--decay-from", f"{tmp_path}/a@4", "--decay", "2"]
    for way in ([*command, tmp_path / "b"], [*branch, "--out", tmp_path / "c"]):
        assert run(*way)[0] == 0


def test_another_training_in_the_same_folder_is_refused(run):
    assert run(*TRAIN, "--steps", "2", "--out", "first")[0] == 0
    code, _, err = run(*TRAIN, "--steps", "2", "--rate", "1e-3", "--out", "first")
    assert code == 2 and "was begun with train.rate = 0.003, this run has 0.001" in err
    code, out, _ = run(*TRAIN, "--steps", "2", "--out", "first")  # finished: written again
    assert code == 0 and "first: 2 steps" in out


def test_a_decay_from_a_stable_training_is_the_training_planned_so(run, place):
    plain = [word for word in TRAIN if word not in ("--steps", "8")]
    wsd = [*plain, "--schedule", "wsd", "--warmup", "1"]
    assert run(*wsd, "--steps", "7", "--keep-every", "2", "--out", "stable")[0] == 0
    assert run(*wsd, "--steps", "6", "--decay", "2", "--out", "planned")[0] == 0
    for out in ("branch", "branch"):  # the same command again leaves it as it is
        code, said, _ = run(*plain, "--decay-from", "stable@4", "--decay", "2", "--out", out)
        assert code == 0 and "branch: 6 steps" in said
    digests = [read_about(place / name)["sha256"] for name in ("planned", "branch", "stable")]
    assert digests[0] == digests[1] != digests[2]
    code, said, _ = run(*plain, "--decay-from", "stable", "--decay", "3", "--out", "last")
    assert code == 0 and "last: 10 steps" in said
    assert run(*wsd, "--steps", "9", "--keep-every", "2", "--out", "stable")[0] == 0
    assert read_about(place / "stable")["extra"]["train"]["steps"] == 9
    for options, message in (
        (["--decay-from", "stable@5"], "step 5 of stable/run is not kept"),
        (["--decay-from", "planned@6"], "step 6 of planned/run lies outside of the stable part"),
        (["--decay-from", "stable@x"], "must be MODEL or MODEL@STEP, got 'stable@x'"),
        (["--decay-from", "nowhere"], "nowhere/run holds no state of a training"),
        (["--decay-from", "stable", "--seed", "3"], "begun with train.seed = 0, this run has 3"),
        (["--decay-from", "stable", "--hold-out", "4"], "begun with trained = 21"),
        (["--decay-from", "stable", "--tokens", "99"], "give --decay, not --steps"),
    ):
        code, _, err = run(*plain, *options, "--decay", "2", "--out", "x")
        assert (code, err.count("\n")) == (2, 1) and message in err
        assert not (place / "x/model.safetensors").exists()
        shutil.rmtree(place / "x", ignore_errors=True)
    code, _, err = run(*plain, "--decay-from", "stable", "--out", "x")
    assert (code, err.count("\n")) == (2, 1) and "needs --decay" in err


def test_a_text_tokenizer_of_a_source(run, place, tmp_path):
    write_tar(tmp_path / "0.tar", range(30))
    code, out, err = run("train-text", tmp_path, "--out", tmp_path / "text", "--size", "290")
    assert (code, err) == (0, "") and "290 ids from 30 captions" in out
    tokenizer = TextTokenizer.load(tmp_path / "text")
    assert tokenizer.digest == TextTokenizer.train(map(caption, range(30)), 290).digest
    code, out, _ = run("train-text", tmp_path, "--out", tmp_path / "many")
    assert code == 0 and "(asked for 56320: no pair is left) from 30 captions" in out


def test_a_killed_train_text_blocks_nothing(run, tmp_path):
    write_tar(tmp_path / "0.tar", range(30))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / ".tokenizer.json.x1.cm3leon").write_text("half")
    source = f"{tmp_path}/0.tar"
    assert run("train-text", source, "--out", tmp_path / "text", "--size", "290")[0] == 0
    code, _, err = run("train-text", source, "--out", tmp_path / "text", "--size", "290")
    assert code == 2 and "text exists; name a new folder" in err


def test_a_plan_of_a_million_epochs_says_so(run):
    code, out, _ = run(*TRAIN, "--steps", "100000", "--out", "dry", "--dry-run")
    assert code == 0 and "too few documents: " in out and " epochs of 21 learn them by heart" in out
    assert "too few" not in run(*TRAIN, "--steps", "9", "--out", "dry", "--dry-run")[1]


def test_a_plan_counts_the_documents_that_a_bank_has_for_a_query(run):
    plan = [*TRAIN, "--bank", "cache", *NEAR[2:], "--documents", "0", "1", "--dry-run"]
    plan[plan.index("--hold-out") + 1] = "20"  # of 24
    code, _, err = run(*plan)
    assert (
        code == 2 and "cache has 3 documents beside a query, --retrieval.documents finds 4" in err
    )
    assert run(*plan, "--retrieval.documents", "3")[0] == 0  # the way out


def test_every_setting_of_a_training_but_two_can_be_given():
    known = set(TrainConfig.__dataclass_fields__)
    offered = set(TrainChanges.__dataclass_fields__)
    assert known - offered == {"betas", "matrix_ratio"} and offered < known
    assert TrainChanges(steps=3).given == {"steps": 3}
