"""`cm3leon convert-tokenizer`: generated public checkpoints in, tokenizers that agree out."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cm3leon import seeds
from cm3leon.cli import main as cli
from cm3leon.files import sha256_file
from cm3leon.tokenizers.folder import load_tokenizer
from cm3leon.tokenizers.pixels import to_bytes, to_unit
from tests.public_layouts import Public

TAMING = Public("taming", mult=(1, 1, 2), attn=(2,), z=6, gumbel=True)
LLAMAGEN = Public("llamagen", mult=(1, 2), attn=(1,))
LOSS = {"loss.discriminator.main.0.weight": torch.ones(3), "loss.logvar": torch.zeros(())}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the command in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.main(["convert-tokenizer", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def pictures(count: int, side: int = 32) -> np.ndarray:
    return seeds.generator(0, "convert").integers(0, 256, (count, side, side, 3), np.uint8)


def agree(public: Public, folder) -> None:
    """Same codes; the picture is the same to 1e-5, so its bytes differ by rounding at most."""
    vq, images = load_tokenizer(folder), pictures(3)
    with torch.inference_mode():
        codes = public.encode(to_unit(images))
        picture = public.decode(codes)
    assert torch.equal(vq.encode(images), codes) and len(codes.unique()) > 5
    assert vq.decode(codes).shape == images.shape
    assert abs(vq.decode(codes).astype(int) - to_bytes(picture)).max() <= 1
    assert (vq.decode(codes) == to_bytes(picture)).mean() > 0.999


def test_a_lightning_checkpoint_of_taming(run, tmp_path):
    content = {"epoch": 5, "state_dict": TAMING.weights | LOSS, "optimizer_states": [{"state": {}}]}
    torch.save(content, "last.ckpt")
    code, out, err = run("last.ckpt", "--out", "new/vq", "--licence", "MIT", "--resolution", 32)
    assert (code, err) == (0, "")
    assert (
        "new/vq: taming layout, 40 codes of width 6 (gumbel), stride 4, 32 px -> 64 tokens" in out
    )
    assert "left out: 2 loss.*; licence: MIT; sha256 " in out
    agree(TAMING, "new/vq")
    about = json.loads((tmp_path / "new" / "vq" / "config.json").read_text())
    assert about["extra"]["licence"] == "MIT" == load_tokenizer("new/vq").licence
    source = about["extra"]["source"]
    assert source["files"] == {"last.ckpt": sha256_file("last.ckpt")}
    assert (source["layout"], source["part"]) == ("taming", "state_dict")
    assert source["left_out"] == {"loss.*": 2}


def test_checkpoints_of_llamagen(run):
    """Published files have `model`; trainings also `ema`, which is what is evaluated."""
    weights = LLAMAGEN.weights | {"quantize.codebook_used": torch.zeros(65536)}
    worse = {name: value + 1 for name, value in weights.items()}
    torch.save({"model": weights}, "vq_ds2_t2i.pt")
    torch.save({"model": worse, "ema": weights, "optimizer": {}, "steps": 3}, "0000003.pt")
    for name, part in (("vq_ds2_t2i.pt", "model"), ("0000003.pt", "ema")):
        code, out, err = run(name, "--out", part, "--resolution", 32)
        assert (code, err) == (0, "") and "llamagen layout, 40 codes of width 6 (unit)" in out
        assert "left out: 1 quantize.codebook_used; licence: not stated" in out
        agree(LLAMAGEN, part)


def test_safetensors_alone_and_inside_a_larger_model(run, tmp_path):
    save_file(TAMING.weights, "one.safetensors")
    larger = {f"first_stage_model.{name}": value for name, value in TAMING.weights.items()}
    (tmp_path / "shards").mkdir()
    names = list(larger)
    for k, part in enumerate((names[::2], names[1::2])):
        rest = {f"transformer.{k}": torch.zeros(2)}
        save_file({name: larger[name] for name in part} | rest, f"shards/{k}.safetensors")
    for source, out in (("one.safetensors", "a"), ("shards", "b")):
        code, _, err = run(source, "--out", out, "--resolution", 32)
        assert (code, err) == (0, "")
        agree(TAMING, out)
    assert load_tokenizer("a").sha256 == load_tokenizer("b").sha256
    about = json.loads((tmp_path / "b" / "config.json").read_text())
    assert list(about["extra"]["source"]["files"]) == ["0.safetensors", "1.safetensors"]


def test_weights_without_a_decoder_say_so(run):
    whole = Public("taming", attn=(), z=8, dim=8).weights
    only = {name: value for name, value in whole.items() if not name.startswith("decoder.")}
    save_file(only, "encoder.safetensors")
    code, out, _ = run("encoder.safetensors", "--out", "vq", "--resolution", 32)
    assert code == 0 and "chameleon layout" in out and "encodes and cannot draw" in out
    assert load_tokenizer("vq").encode(pictures(1)).shape == (1, 256)


def test_mistakes_are_one_line_and_leave_nothing(run, tmp_path):
    torch.save({"state_dict": TAMING.weights}, "good.ckpt")
    data = (tmp_path / "good.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(data[: len(data) // 2])
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, "classifier.pt")
    lacking = {k: v for k, v in TAMING.weights.items() if "decoder.mid" not in k}
    torch.save({"state_dict": lacking}, "lacking.ckpt")
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (["half.ckpt", "--out", "x"], "half.ckpt is truncated"),
        (["classifier.pt", "--out", "x"], "classifier.pt: no image tokenizer we know"),
        (["lacking.ckpt", "--out", "x"], "lacking.ckpt: 26 tensors are missing: decoder.mid."),
        (["good.ckpt", "--out", "there"], "there exists; name a new folder"),
        (["good.ckpt", "--out", "x", "--resolution", "33"], "vq.resolution must be a positive"),
        (["good.ckpt", "--out", "x", "--quantiser", "best"], "best"),
        (["nowhere.ckpt", "--out", "x"], "no file nowhere.ckpt"),
        (["good.ckpt"], "--out"),
        (["good.ckpt", "--out", "/proc/nowhere/x"], "/proc/nowhere"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: ") and err.count("\n") == 1 and message in err, err
    assert sorted(tmp_path.rglob("*")) == before
