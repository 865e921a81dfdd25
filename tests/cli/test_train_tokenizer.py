"""`cm3leon train-tokenizer`: a folder of pictures becomes an image tokenizer."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cm3leon import checkpoint
from cm3leon.cli.main import main
from cm3leon.config import TrainConfig, VQConfig
from cm3leon.images import crop_square, read_picture
from cm3leon.tokenizers.folder import load_tokenizer
from cm3leon.training import image_tokenizer
from cm3leon.training.image_tokenizer import Crops, VQRecipe, evaluate
from cm3leon.world.scenes import scene

OPTIONS = ["--resolution", "32", "--channels", "4", "--codes", "64", "--batch", "2", "--threads",
           "1", "--steps", "24", "--hold-out", "3"]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Of two sizes, one of them torn."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        image = scene("stock", "train", index).image[:, : 64 - 8 * (index % 2)]
        Image.fromarray(image).save(folder / f"{index}.png")
    (folder / "torn.png").write_bytes((folder / "1.png").read_bytes()[:200])
    return folder


def test_a_folder_becomes_a_tokenizer(pictures, tmp_path, capsys, monkeypatch):
    out = tmp_path / "home" / "vq"
    words = ["train-tokenizer", str(pictures), str(out), *OPTIONS, "--licence", "mine"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "torn.png" in said.err and f"{out}: " in said.out and " dB" in said.out
    vq = load_tokenizer(out)
    assert (vq.image_size, vq.grid, vq.licence) == (32, 4, "mine") and vq.codebook_size == 64
    extra = checkpoint.read_about(out)["extra"]
    assert extra["recipe"]["steps"] == 24 and extra["decoder"]["steps"] == 11
    told = float(said.out.split("PSNR of ")[1].split()[0])
    held = np.stack([crop_square(read_picture(pictures / "0.png"), 32)] * 2)
    assert set(evaluate(vq, held)) == {"psnr", "codes_used"} and 0 < told < 60
    for run, rows in ((out / "run", 24), (out / "run" / "decoder", 11)):
        lines = list(csv.DictReader((run / "loss.csv").read_text().splitlines()))
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [int(one["step"]) for one in lines] == [one["step"] for one in log]
        assert [float(one["loss"]) for one in lines] == [one["loss"] for one in log]
        assert int(lines[-1]["step"]) == rows
        assert float(lines[-1]["held_out_psnr"]) == log[-1]["held_out_psnr"]
        assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    before = (out / "model.safetensors").read_bytes()
    monkeypatch.setattr(image_tokenizer.VQTraining, "forward", lambda *_: pytest.fail("trained"))
    assert main(words) == 0  # what is done is not done again
    assert (out / "model.safetensors").read_bytes() == before


def test_every_stage_has_a_step():
    """k-means of no vectors at all ended in a traceback."""
    for steps in range(3, 200):
        train = TrainConfig(steps=steps, batch=2, rate=1e-3, warmup=1)
        loss = VQRecipe.of_steps(VQConfig(), train).loss
        assert 2 <= loss.plain_steps < loss.freeze_step <= steps


def test_every_picture_is_shown_once_each_time_through_and_held_out_ones_never():
    reads = []

    def read(place: int) -> np.ndarray:
        reads.append(place)
        return np.full((8, 9, 3), place, np.uint8)

    crops = Crops(read, 11, 4, held_out=3, seed=0)
    shown = [int(one[0, 0, 0]) for step in range(1, 5) for one in crops.batch(step, 4)]
    assert sorted(shown[:8]) == sorted(shown[8:]) == list(range(8)) and shown[:8] != shown[8:]
    assert [int(one[0, 0, 0]) for one in crops.held_out()] == [8, 9, 10]
    again = Crops(read, 11, 4, held_out=3, seed=0)
    assert np.array_equal(again.batch(3, 4), crops.batch(3, 4))  # of the step alone
    assert len(reads) < 20  # kept in memory
    assert sum(len(part) for part in crops.counted()) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "2"], "steps must lie in [3, 1,000,000,000], got 2"),
        (["--stride", "6"], "stride must be 2, 4, 8 or 16, got 6"),
        (["--resolution", "20"], "vq.resolution must be a positive multiple of the stride 8"),
        (["--hold-out", "12"], "12 readable pictures, 12 of them held out; add pictures"),
    ],
)
def test_what_it_refuses(words, message, pictures, tmp_path, capsys):
    assert main(["train-tokenizer", str(pictures), str(tmp_path / "vq"), *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "vq").exists()
