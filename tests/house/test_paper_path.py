"""The paper-scale way in small: public weights and tars in, one command after the other, a FID out.

Nothing is stubbed: the commands are those of the README, on random weights of the real layouts.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fid_coco
from cm3leon import checkpoint
from cm3leon.cli import main as cli
from cm3leon.data.token_cache import TokenCache
from cm3leon.loading import load_system
from cm3leon.training import trainer
from tests.coco_maker import write_coco
from tests.paper_maker import NEAR, PREPARE, SIDE, TRAIN, write_clip, write_public, write_start

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CLOCK = ("seconds", "tokens_per_s", "steps_per_s")


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which all commands up to a memory bank have run."""
    folder = write_start(tmp_path_factory.mktemp("paper"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in PREPARE:
            assert cli.main(command) == 0
        assert cli.main([*TRAIN, *NEAR, "--out", "models/whole"]) == 0
    return folder


@pytest.fixture
def here(place, monkeypatch):
    """The same, as the current folder."""
    monkeypatch.chdir(place)
    return place


def log(folder: Path) -> list[dict]:
    """Records of a run without what a clock wrote."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def kill_after(step: int, monkeypatch) -> None:
    """The next training ends in the middle of the step after this one."""
    loss = trainer.token_loss

    def until(vocabulary):
        inner = loss(vocabulary)

        def of_step(module, batch, at):
            if at > step:
                raise Killed
            return inner(module, batch, at)

        return of_step

    monkeypatch.setattr(trainer, "token_loss", until)


@pytest.mark.parametrize("pieces", [[], ["--accumulate", "3"]])
def test_a_killed_training_ends_with_the_bytes_of_an_unbroken_one(here, pieces, monkeypatch):
    name, command = f"killed{len(pieces)}", [*TRAIN, *NEAR, *pieces]
    with monkeypatch.context() as patch:
        kill_after(4, patch)
        with pytest.raises(Killed):
            cli.main([*command, "--out", f"models/{name}"])
    assert not (here / "models" / name / "model.safetensors").exists()
    assert cli.main([*command, "--out", f"models/{name}"]) == 0
    whole = "whole"
    if pieces:
        whole = "pieces"
        assert cli.main([*command, "--out", f"models/{whole}"]) == 0
    weights = [here / "models" / each / "model.safetensors" for each in (name, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert log(weights[0].parent) == log(weights[1].parent)


def test_the_folder_says_what_it_is_made_of(here):
    about = checkpoint.read_about("models/whole")
    extra, cache = about["extra"], TokenCache("cache")
    assert about["config"]["name"] == "mini" and extra["trained"] == 21 and extra["held_out"] == 3
    assert extra["cache"] == cache.about and extra["bank_cache"] == cache.about
    assert extra["clip_sha256"] == cache.about["clip_sha256"] == extra["clip"]["sha256"]
    assert extra["vq_sha256"] == checkpoint.digest("models/whole/vq")
    assert extra["shares"] == [0, 0, 0, 1] and extra["retrieval"]["documents"] == 2
    assert extra["train"]["steps"] == 8 and extra["train"]["warmup"] == 1
    records = log(here / "models" / "whole")
    assert records[-1]["step"] == 8 and records[-1]["loss"] < records[0]["loss"]
    assert {"held_out_image_alone", "held_out_image_at_3"} <= set(records[-1])


def test_it_draws_from_anywhere_with_its_documents(here, tmp_path, monkeypatch, capsys):
    system = load_system("models/whole")
    assert system.retriever.config.documents == 2 and system.retriever.config.by == "text"
    assert system.size == SIDE and len(system.retriever.bank) == 24
    monkeypatch.chdir(tmp_path)  # the names of CLIP and bank are absolute
    drawn = {}
    for documents in ("0", "2"):
        options = ["--documents", documents, "--out", f"{documents}.png"]
        options += ["--system", f"{here}/models/whole"]
        assert cli.main(["draw", "a red thing on the sand", *options]) == 0
        drawn[documents] = np.asarray(Image.open(f"{documents}.png"))
        assert drawn[documents].shape == (SIDE, SIDE, 3)
    assert (drawn["0"] != drawn["2"]).any()
    other = load_system(here / "models" / "whole", bank=here / "cache")
    again = other.draw(["a red thing on the sand"], [5])
    np.testing.assert_array_equal(again, system.draw(["a red thing on the sand"], [5]))


def test_a_bank_or_a_clip_that_is_gone_gets_one_line(here, tmp_path, monkeypatch, capsys):
    for part in ("bank", "clip"):
        os.rename(here / part, here / "away")
        try:
            assert cli.main(["draw", "a", "--system", "models/whole"]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and f"{here / part}" in said
            free = ["--documents", "0", "--out", f"{tmp_path}/free.png"]
            assert cli.main(["draw", "a", "--system", "models/whole", *free]) == 0
        finally:
            os.rename(here / "away", here / part)
        capsys.readouterr()


def measured(system: str, root: Path, out: Path, *more: str) -> dict:
    """The record of `fid_coco` on a copy of MS-COCO."""
    folders = {"results": out / "results", "reports": out / "reports", "cache": out / "cache"}
    options = [word for name, path in folders.items() for word in (f"--{name}", str(path))]
    options += ["--data", "coco", "--coco-root", str(root), "--resamples", "4", *more]
    assert fid_coco.main(["--system", system, *options]) == 0
    (path,) = folders["results"].rglob("*.json")
    return json.loads(path.read_text())


def test_fid_coco_measures_the_folder(here, tmp_path):
    write_coco(tmp_path / "coco", count=10)
    record = measured("cm3leon:models/whole", tmp_path / "coco", tmp_path, "--n", "6")
    about = checkpoint.read_about("models/whole")
    assert record["n"] == 6 and record["system"]["name"] == "whole"
    assert record["system"]["config"]["documents"] == 2
    assert record["system"]["config"]["model"] == about["config"]["name"]
    assert record["value"] > 0 and record["cost"]["counters"] == {"drawn": 6, "reused": 0}


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the checkout")
def test_photographs_of_cc12m_to_captions_of_coco(tmp_path, monkeypatch, capsys):
    """The same commands on a real shard and real captions, an f8 tokenizer at 64 pixels."""
    monkeypatch.chdir(tmp_path)
    write_public(tmp_path / "last.ckpt", mult=(1, 1, 2, 2), attn=(3,))
    write_clip(tmp_path / "clip")
    shape = {"name": "photo", "layers": 1, "width": 32, "heads": 2, "context": 512}
    (tmp_path / "photo.json").write_text(json.dumps(shape))
    shards = str(SHARED / "cc12m")
    steps = ["--steps", "4", "--batch", "4", "--eval-every", "4", "--fit-vocabulary"]
    for command in (
        ["convert-tokenizer", "last.ckpt", "--out", "home/vq", "--resolution", "64"],
        ["train-text", shards, "--out", "home/text", "--size", "400"],
        ["encode", shards, "cache", "--tokenizers", "home", "--clip", "local-dir:clip"],
        ["train", "cache", "--model", "photo.json", "--tokenizers", "home", *steps,
         "--bank", "cache", *NEAR[2:], "--out", "photo"],
    ):  # fmt: skip
        assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "32 documents in cache, 0 not readable" in said and "64 px -> 64 tokens" in said
    assert "documents before a query: always 3" in said
    record = measured("cm3leon:photo", SHARED / "coco-mini", tmp_path, "--n", "4")
    assert record["n"] == 4 and record["system"]["config"]["documents"] == 2
