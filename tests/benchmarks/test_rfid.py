"""nox -s rfid: numbers against their formulas, sources of pictures, records, mistakes."""

import json
import math
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import rfid
from benchmarks.evaluate.reconstruction import code_use, likeness, paired_interval
from benchmarks.harness.core import validate
from benchmarks.images.real import find_pictures
from cm3leon import seeds
from cm3leon.config import VQConfig
from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.reports.benches.rfid import rfid_table, same_protocol
from cm3leon.tokenizers.folder import load_tokenizer, save_tokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.world.scenes import scene

CONFIG = VQConfig(32, 8, (1, 2), 1, (), 6, 32, 4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    with seeds.torch_default(0, "rfid"):
        vq = VQ(CONFIG)
    folder = tmp_path_factory.mktemp("home") / "tiny" / "vq"
    save_tokenizer(folder, CONFIG, vq.state_dict(), {"licence": "MIT"})
    return folder


@pytest.fixture
def run(tokenizer, tmp_path, capsys):
    """Run the benchmark; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        places = ["--results", tmp_path / "results", "--reports", tmp_path / "out"]
        options = ["--tokenizer", tokenizer, "--resamples", 20, *places, *arguments]
        code = rfid.main([*map(str, options)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def records(tmp_path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(tmp_path.glob("results/**/*.json"))]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(any))
def test_use_of_a_codebook(counts):
    found = code_use(np.array(counts))
    used = sum(count > 0 for count in counts)
    assert found["codes_used"] == used / len(counts)
    assert 1 - 1e-9 <= found["perplexity"] <= used + 1e-9
    even = code_use(np.array([3] * len(counts) + [0] * len(counts)))
    assert even == pytest.approx({"codes_used": 0.5, "perplexity": len(counts)})


def test_likeness_is_its_formulas():
    generator = seeds.generator(0, "likeness")
    real = generator.integers(0, 256, (3, 32, 32, 3), np.uint8)
    back = real.copy()
    back[1] = 255 - back[1]
    back[2, ::2] ^= 7
    psnr, ssim = likeness(real, back)
    errors = ((real.astype(float) - back) ** 2).mean((1, 2, 3))
    assert psnr[0] == math.inf and ssim[0] == pytest.approx(1)
    assert psnr[1:] == pytest.approx(10 * np.log10(255**2 / errors[1:]), abs=1e-3)
    assert ssim[1] < 0 < ssim[2] < 1  # the negative is anticorrelated
    flat = np.full((1, 32, 32, 3), 100, np.uint8)
    shift = likeness(flat, flat + 20)[1][0]  # without contrast SSIM is its luminance term
    c1 = (0.01 * 255) ** 2
    assert shift == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), abs=1e-4)


def test_the_interval_is_that_of_pairs():
    """Noise of the rebuilding counts, the chance of the sample, shared by both sides, does not."""
    generator = seeds.generator(0, "pairs")
    real = generator.standard_normal((400, 6))
    near = real + 0.01 * generator.standard_normal((400, 6))
    value = frechet_from_features(real, near)
    found = paired_interval(real, near, value)
    assert found.low <= value <= found.high
    other = generator.standard_normal((400, 6))
    unpaired = frechet_from_features(real, other)
    assert found.high < unpaired / 10
    wide = paired_interval(real, other, unpaired)
    assert wide.high - wide.low > 10 * (found.high - found.low)
    same = paired_interval(real, real, 0.0)
    assert same.low == 0 and same.high == pytest.approx(0, abs=1e-9)


def test_a_record_of_scenes(run, tmp_path, tokenizer):
    code, out, err = run("--n", "12")
    assert code == 0, err
    (record,) = records(tmp_path)
    validate(record)
    assert (record["bench"], record["unit"], record["n"]) == ("rfid", "rfid_scenes", 12)
    assert record["system"]["name"] == "tiny" and record["system"]["config"]["licence"] == "MIT"
    vq = load_tokenizer(tokenizer)
    assert record["system"]["weights_sha256"] == vq.sha256
    images = np.stack([scene("coco", "test", index, 32).image for index in range(12)])
    codes = vq.encode(images)
    psnr, ssim = likeness(images, vq.decode(codes))
    assert record["extra"]["psnr"]["value"] == pytest.approx(psnr.mean())
    assert record["extra"]["ssim"]["value"] == pytest.approx(ssim.mean())
    assert record["extra"]["codes_used"] == len(codes.unique()) / 32
    assert record["cost"]["tokens"] == codes.numel()
    assert record["interval"]["low"] <= record["value"] <= record["interval"]["high"]
    assert record["protocol"]["size"] == 32 and "> tiny" in out
    assert (tmp_path / "out" / "rfid" / "newest" / "rfid.md").exists()


def test_batches_cannot_be_seen_and_another_protocol_stands_apart(run, tmp_path):
    assert run("--n", "9", "--batch-size", "4", "--name", "a")[0] == 0
    code, out, _ = run("--n", "9", "--batch-size", "9", "--name", "b")
    assert code == 0 and "> b" in out and "  a" in out
    assert run("--n", "8", "--name", "c")[0] == 0
    a, b, c = records(tmp_path)
    assert b["value"] == pytest.approx(a["value"], rel=1e-4)
    assert b["protocol_digest"] == a["protocol_digest"] != c["protocol_digest"]
    assert len(same_protocol(b, tmp_path / "results")) == 2
    assert rfid_table(same_protocol(c, tmp_path / "results")).rows[0][:3] == ("c", "32", "256")


def write_pictures(folder: Path) -> None:
    generator = seeds.generator(0, "folder")
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a.png", (40, 50)), ("b.jpg", (33, 32)), ("sub/c.png", (32, 32))):
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:300])


def test_pictures_of_a_folder_coco_and_tars(tmp_path):
    write_pictures(tmp_path / "files")
    found = find_pictures(str(tmp_path / "files"), None, 32)
    for _ in range(2):  # it can be read again
        names = [name for name, image in found if image.shape == (32, 32, 3)]
        assert names == ["a.png", "b.jpg", "sub/c.png"]
        assert [one.id for one in found.unreadable] == ["torn.png"]
    assert len(list(find_pictures(str(tmp_path / "files"), 2, 32))) == 2
    assert len(list(find_pictures(str(tmp_path / "files"), None, 32, most=1))) == 1
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        for name in ("a.png", "b.jpg", "torn.png"):
            tar.add(tmp_path / "files" / name, name)
            (tmp_path / "t.txt").write_text("words")
            tar.add(tmp_path / "t.txt", Path(name).with_suffix(".txt").name)
    tars = find_pictures(str(tmp_path / "one.tar"), None, 32)
    assert len(list(tars)) == 2 and len(tars.unreadable) == 1
    coco = tmp_path / "coco"
    (coco / "val2017").mkdir(parents=True)
    for name in ("a.png", "b.jpg"):
        shutil.copy(tmp_path / "files" / name, coco / "val2017")
    images = [{"id": k, "file_name": name} for k, name in enumerate(("a.png", "b.jpg", "gone.jpg"))]
    captions = [{"id": k, "image_id": k, "caption": "a"} for k in range(3)]
    about = {"images": images, "annotations": captions}
    (coco / "captions_val2017.json").write_text(json.dumps(about))
    for place in (coco, f"{coco}:val2017"):
        with pytest.raises(UserError, match=r"2 of 3 pictures of val2017, lacking gone\.jpg"):
            find_pictures(str(place), None, 32)
        pictures = find_pictures(str(place), 2, 32)
        assert sorted(name for name, _ in pictures) == [0, 1]
        assert "MS-COCO val2017" in pictures.about["pictures"]
    assert len(find_pictures("scenes", None, 32, most=5).source) == 5


def test_photographs_are_a_trial_and_the_unreadable_are_named(run, tmp_path):
    write_pictures(tmp_path / "files")
    code, out, err = run("--data", str(tmp_path / "files"))
    assert code == 0, err
    (record,) = records(tmp_path)
    assert (record["n"], record["interval"]) == (3, None)
    assert record["warnings"][0].startswith("a trial of the way")
    assert record["warnings"][-1].startswith("1 unreadable pictures left out: torn.png: ")
    assert "warning: 1 unreadable" in out


def test_mistakes_are_one_line(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for k in range(3):
        (tmp_path / "bad" / f"{k}.png").write_bytes(b"no picture")
    for arguments, exit_code, message in (
        (["--n", "1"], 2, "n must be at least 2"),
        (["--batch-size", "0"], 2, "batch_size >= 1"),
        (["--data", str(tmp_path / "empty")], 2, "holds no pictures"),
        (["--data", "nowhere"], 2, "no pictures at nowhere"),
        (["--data", str(tmp_path / "bad"), "--n", "7"], 2, "at most 3"),
        (["--data", str(tmp_path / "bad")], 3, "measured nothing"),
        (["--tokenizer", str(tmp_path)], 2, "config.json"),
        (["--features", "clip"], 2, "clip"),
        (["--device", "abacus"], 2, "abacus"),
    ):
        code, _, err = run(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == exit_code and len(lines) == 1 and message in lines[0], (arguments, err)
    assert not records(tmp_path)
    with pytest.raises(UserError, match="resamples >= 2"):
        rfid.Options(resamples=1)
