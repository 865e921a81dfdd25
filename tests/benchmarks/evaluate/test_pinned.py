"""FID by a protocol on a small copy: against the plain formula, its companions, its mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fid_coco
from benchmarks.evaluate import pinned
from benchmarks.harness import core
from benchmarks.images.listings import through_jpeg
from cm3leon.errors import UserError
from cm3leon.evaluation.features import cache as feature_cache
from cm3leon.evaluation.metrics import fid
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.files import sha256_file
from cm3leon.images import crop_square, read_picture
from tests.coco_maker import Tinted, embed, stub_features, write_coco

MINI = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco-mini"
N = 8
GOOD = ["--protocol", "coco2014-30k/clean", "--coco-root", "coco"]


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a small run, with a network that costs nothing."""
    monkeypatch.setattr(pinned, "load_features", stub_features)
    monkeypatch.setattr(feature_cache, "SHARD", 5)
    monkeypatch.setattr(fid, "SIZES", ())
    write_coco(tmp_path / "coco")

    def make(**changes):
        folders = {name: tmp_path / name for name in ("results", "reports", "cache")}
        given = {"protocol": "coco2014-30k/pytorch-fid", "coco_root": tmp_path / "coco", "n": N}
        return fid_coco.Options(**{**given, "resamples": 5, **folders, **changes})

    return make


def squares(paths, quality=None):
    pictures = [read_picture(path) for path in paths]
    if quality:
        pictures = [through_jpeg(picture, quality) for picture in pictures]
    return np.stack([crop_square(crop_square(one, 256), 16) for one in pictures])


def test_the_value_is_the_formula_s(options, tmp_path):
    record, path = fid_coco.fid_coco(options(), Tinted())
    assert core.load(path) == record
    real = embed(squares(sorted((tmp_path / "coco" / "val2014").iterdir())))
    fake = embed(squares((tmp_path / "cache" / "tinted").rglob("*.png")))
    assert record["value"] == pytest.approx(frechet_from_features(real, fake), rel=1e-9)
    ids = [json.loads(line)["image_id"] for line in prompts(tmp_path)]
    own = embed(squares(tmp_path / f"coco/val2014/COCO_val2014_{k:012d}.jpg" for k in ids))
    beside = record["extra"]["fid_prompts"]
    assert beside == pytest.approx(frechet_from_features(own, fake), rel=1e-9)
    assert record["interval"]["low"] <= record["value"] <= record["interval"]["high"]
    assert record["unit"] == "fid" and "kid" in record["extra"]
    fid_coco.report(options(), record)


def prompts(tmp_path):
    return (tmp_path / "reports" / "fid_coco" / "newest" / "prompts.jsonl").read_text().splitlines()


def test_the_record_says_everything_that_moves_the_number(options, tmp_path):
    protocol = fid_coco.fid_coco(options(seeds=(0, 1)), Tinted())[0]["protocol"]
    assert protocol["prompts_list_sha256"] == sha256_file(
        tmp_path / "reports" / "fid_coco" / "newest" / "prompts.jsonl"
    )
    said = {
        "protocol": "coco2014-30k/pytorch-fid", "split": "val2014", "n": N, "size": 256,
        "crop": "centre-crop-lanczos", "format": "png", "quality": None, "features": "inception",
        "features_sha256": stub_features().digest, "reference": "all", "reference_n": 12,
        "references": ["all", "prompts"], "seeds": [0, 1], "samples_per_prompt": 1,
    }  # fmt: skip
    assert said.items() <= protocol.items()


def test_same_command_same_record_and_nothing_twice(options, monkeypatch):
    first, second = Tinted(), Tinted()
    one, _ = fid_coco.fid_coco(options(seeds=(0, 1)), first)
    other, _ = fid_coco.fid_coco(options(seeds=(0, 1)), second)
    assert core.comparable(one) == core.comparable(other)
    assert len(first.drawn) == 2 * N and not second.drawn
    assert one["cost"]["counters"] == {"drawn": 2 * N, "reused": 0, "feature_shards": 7}
    assert other["cost"]["counters"] == {"drawn": 0, "reused": 2 * N, "feature_shards": 0}
    assert len(one["per_seed"]) == 2 and one["value"] == pytest.approx(np.mean(one["per_seed"]))


def test_protocols_give_other_numbers(options, tmp_path):
    values = {
        name: fid_coco.fid_coco(options(protocol=f"coco2014-30k/{name}", **more), Tinted())[0]
        for name, more in (("pytorch-fid", {}), ("gigagan", {}), ("pytorch-fid-jpeg", {}))
    }
    assert len({record["value"] for record in values.values()}) == 3
    assert len({record["protocol_digest"] for record in values.values()}) == 3
    quick, _ = fid_coco.fid_coco(options(quick=True, n=None), Tinted())
    assert quick["protocol"]["protocol"].endswith("/quick") and quick["n"] == 12
    assert quick["protocol"]["reference"] == "prompts" and "fid_prompts" not in quick["extra"]


def test_statistics_go_out_and_come_back(options, tmp_path):
    drawn, _ = fid_coco.fid_coco(options(), Tinted())
    (everything,) = (tmp_path / "cache" / "_reference").rglob("all.npz")
    (own,) = (tmp_path / "cache" / "_reference").rglob("prompts-*.npz")
    again, _ = fid_coco.fid_coco(options(reference=everything), Tinted())
    assert again["value"] == drawn["value"] and "kid" not in again["extra"]
    assert again["protocol"]["reference_sha256"] == sha256_file(everything)
    beside, _ = fid_coco.fid_coco(
        options(reference=own, coco_root=None, prompts=written(tmp_path)), Tinted()
    )
    assert beside["value"] == drawn["extra"]["fid_prompts"]
    with np.load(everything) as file:
        np.savez(tmp_path / "theirs.npz", mu=file["mu"], sigma=file["sigma"])
    theirs, _ = fid_coco.fid_coco(options(reference=tmp_path / "theirs.npz"), Tinted())
    assert theirs["value"] == drawn["value"]
    assert "the reference was imported and does not say how it was made" in theirs["warnings"]


def written(tmp_path):
    return tmp_path / "reports" / "fid_coco" / "newest" / "prompts.jsonl"


def test_pictures_drawn_elsewhere(options, tmp_path):
    out = tmp_path / "p.jsonl"
    assert fid_coco.command(options(only_prompts=out), fid_coco.ALONE) == 0
    folder = tmp_path / "theirs"
    folder.mkdir()
    for line in out.read_text().splitlines():
        row = json.loads(line)
        picture = Tinted().picture(row["seed"])  # by the seed of the list
        Image.fromarray(picture).save(folder / f"{row['image_id']}.png")
    theirs, _ = fid_coco.fid_coco(options(images=folder))
    ours, _ = fid_coco.fid_coco(options(), Tinted())
    assert theirs["value"] == ours["value"]
    next(folder.iterdir()).unlink()
    with pytest.raises(UserError, match="is of other pictures, also called theirs"):
        fid_coco.fid_coco(options(images=folder))
    with pytest.raises(UserError, match="lacks 1 of 8 pictures"):
        fid_coco.fid_coco(options(images=folder, name="theirs"))


def test_unreadable_and_converted_pictures_are_counted_and_named(options, tmp_path):
    paths = sorted((tmp_path / "coco" / "val2014").iterdir())
    Image.new("L", (30, 20), 99).save(paths[0])
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[2].unlink()
    record, _ = fid_coco.fid_coco(options(), Tinted())
    assert record["protocol"]["reference_n"] == 10
    said = " | ".join(record["warnings"])
    assert f"2 unreadable pictures left out of the reference: {paths[1].name} (" in said
    assert f"{paths[2].name} (No such file" in said
    assert (
        f"1 pictures of the reference were not RGB and were converted: {paths[0].name} (L)" in said
    )


def test_other_weights_and_networks_are_trials(options, monkeypatch):
    record, _ = fid_coco.fid_coco(options(features="mean"), Tinted())
    assert record["unit"] == "fid_mean"
    assert (
        "a trial, not coco2014-30k/pytorch-fid: features=mean, not inception" in record["warnings"]
    )
    asked = []

    def other(name, device, **given):
        asked.append(given)
        return pinned.Features(name, "9" * 64, 6, 16, embed)

    monkeypatch.setattr(pinned, "load_features", other)
    more = {"weights": Path("w.pth"), "weights_sha256": "any", "download": True}
    record, _ = fid_coco.fid_coco(options(**more), Tinted())
    assert any(
        "the network's weights are 99999999, not 6726825d" in one for one in record["warnings"]
    )
    fid_coco.fid_coco(options(), Tinted())
    assert asked == [
        {"weights": Path("w.pth"), "sha256": "any", "download": True},
        {"sha256": "6726825d"},
    ]


def test_the_line_to_infinity(options, monkeypatch):
    """Through the first prompts' distances: those of a slower computation."""
    monkeypatch.setattr(fid, "SIZES", (7, 9, 100))
    record, _ = fid_coco.fid_coco(options(n=12), Tinted())
    extra = record["extra"]
    sizes = [7, 9, 12]
    values = [extra["fid_at_7"], extra["fid_at_9"], record["value"]]
    _, limit = np.linalg.lstsq(
        np.stack([1 / np.array(sizes), np.ones(3)], 1), np.array(values), rcond=None
    )[0]
    assert extra["fid_infinity"] == pytest.approx(limit, rel=1e-6)
    first, _ = fid_coco.fid_coco(options(n=7), Tinted())
    assert first["value"] == pytest.approx(extra["fid_at_7"], rel=1e-9)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--protocol", "coco2014-30k/x"], "unknown protocol 'coco2014-30k/x'; did you mean"),
        (["--dev"], "--dev needs a --protocol"),
        (["--prompts", "a.csv"], "--prompts needs a --protocol"),
        (["--reference", "a.npz"], "--reference needs a --protocol"),
        (["--protocol", "coco2014-30k/clean"], "coco2014-30k/clean needs --coco-root"),
        (["--protocol", "coco2014-30k/clean", "--coco-root", "none"], "no folder none"),
        (
            GOOD,
            "val2014 has 12 captioned pictures, the published one 40504",
        ),
        (
            ["--protocol", "coco2017-5k/clean", "--coco-root", "coco", "--n", "5"],
            "coco has val2014, coco2017-5k/clean needs val2017: name a copy of MS-COCO 2017",
        ),
        (
            [*GOOD, "--n", "13"],
            "n must be at most 12",
        ),
        (
            [*GOOD, "--n", "8", "--reference", "no.npz"],
            "no file no.npz",
        ),
        (
            [*GOOD, "--n", "8", "--resamples", "1"],
            "resamples must be at least 2, got 1",
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    options, tmp_path, monkeypatch, capsys, more, message
):
    monkeypatch.chdir(tmp_path)
    folders = ["--results", "results", "--reports", "reports", "--cache", "cache"]
    assert fid_coco.main(["--system", "noise", *more, *folders]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not list(tmp_path.glob("results/**/*.json"))


def test_pictures_of_which_none_can_be_read(options, tmp_path):
    for path in (tmp_path / "coco" / "val2014").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(core.NothingMeasured, match="0 of 12 reference pictures readable"):
        fid_coco.fid_coco(options(), Tinted())


@pytest.mark.skipif(not MINI.is_dir(), reason="no sample of MS-COCO on this machine")
def test_real_pictures(options):
    given = {"protocol": "coco2017-5k/clean", "coco_root": MINI, "n": 79}
    record, _ = fid_coco.fid_coco(options(**given), Tinted())
    assert record["protocol"]["reference_n"] == 79
    assert record["value"] == pytest.approx(record["extra"]["fid_prompts"], rel=1e-9)
    dev, _ = fid_coco.fid_coco(options(**given | {"n": 80}, dev=True), Tinted())
    assert dev["protocol"]["split"] == "train2017"
