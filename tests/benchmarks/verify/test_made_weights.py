"""The command lines for MS-COCO, run to the end on files with random weights of the true Inception.

Generated COCO files stand for 2014, the sample of MS-COCO for 2017 where this machine has one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fid_coco
from benchmarks.harness import core
from benchmarks.verify import made_weights
from tests.coco_maker import write_coco

MINI = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco-mini"
FOLDERS = ["--results", "results", "--reports", "out", "--cache", "cache", "--resamples", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Inception and the pipeline; the towers' own tests make the others."""
    folder = tmp_path_factory.mktemp("made") / "weights"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_weights, "SMALL", {})
        patch.setattr(made_weights, "BESIDE", {})
        assert made_weights.main([str(folder), "--small"]) == 0
    return folder


def measured(*arguments) -> dict:
    assert fid_coco.main([*arguments, *FOLDERS]) == 0
    (path,) = Path("results").rglob("*.json")
    return core.load(path)


@pytest.mark.parametrize("kind", ["ours", "diffusers"])
def test_the_readme_s_commands(kind, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ("CM3LEON_DINOV2", "CM3LEON_CLIP_OPENAI"):
        monkeypatch.delenv(variable, raising=False)
    weights = ["--weights", str(made / "inception.pth"), "--weights-sha256", "any"]
    if kind == "ours":  # shipped, 64 pixels; on generated files of 2014
        write_coco(Path("coco"), count=6)
        data, system = ["coco2014-30k/pytorch-fid", "--coco-root", "coco"], "scenes-xs"
    else:
        if not MINI.is_dir():
            pytest.skip("no sample of MS-COCO on this machine")
        data = ["coco2017-5k/clean", "--quick", "--coco-root", str(MINI)]
        system = f"diffusers:{made / 'sd'}?num_inference_steps=1"
    record = measured("--protocol", *data, "--n", "4", "--system", system, *weights)
    assert record["unit"] == "fid" and record["n"] == 4 and record["value"] > 0
    assert {"kid", "precision", "recall", "inception_score"} <= record["extra"].keys()
    assert ("rfid" in record["extra"], "floor" in record["extra"]) == ((kind == "ours",) * 2)
    lines = Path("out/fid_coco/newest/prompts.jsonl").read_text().splitlines()
    assert len(lines) == 4 and Path("out/fid_coco/newest/grid.png").is_file()
    out = capsys.readouterr().out
    assert "Further numbers of" in out and "not measured: FD-DINOv2" in out
    assert len(list(Path("cache").rglob("*.png"))) == 4
    if kind == "ours":  # statistics, in pytorch-fid's form
        assert list(Path("cache/_reference").rglob("all.npz"))


def test_files_are_made_once_and_named(made, capsys, monkeypatch):
    monkeypatch.setattr(made_weights, "SMALL", {"x.pt": lambda path: path.write_bytes(b"x")})
    monkeypatch.setattr(made_weights, "BESIDE", {"clip": ("net:", "x.pt")})
    before = (made / "inception.pth").stat().st_mtime_ns
    assert made_weights.main([str(made), "--small"]) == 0
    assert (made / "inception.pth").stat().st_mtime_ns == before
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"--weights-sha256 any --weights {made}/inception.pth --clip-weights net:{made}/x.pt"
    )


def test_a_folder_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert made_weights.main([str(tmp_path / "file")]) == 2
    assert "cannot write to" in capsys.readouterr().err
