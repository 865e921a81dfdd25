"""The numbers beside a pinned FID: each the pure function's on the same features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import fid_coco
from benchmarks.evaluate import networks, pinned
from benchmarks.evaluate.networks import BESIDE, Named, find_named, needs
from cm3leon.errors import UserError
from cm3leon.evaluation.features import cache as feature_cache
from cm3leon.evaluation.features.network import Features
from cm3leon.evaluation.metrics import fid
from cm3leon.evaluation.metrics.clip_score import PREFIX, cosines
from cm3leon.evaluation.metrics.cmmd import cmmd
from cm3leon.evaluation.metrics.inception_score import inception_score
from cm3leon.evaluation.metrics.precision_recall import precision_recall
from cm3leon.evaluation.sides import Held, Sides
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.images import crop_square, read_picture
from cm3leon.world.scenes import scene
from tests.benchmarks.evaluate.test_pinned import squares
from tests.coco_maker import Tinted, embed, stub_features, write_coco

N = 8
DINO, CMMD, CLIP, CLASSES = BESIDE
WEIGHT_KD = np.linspace(-1, 1, 5 * 6).reshape(5, 6).astype(np.float32) / 100


LINE = "FID at infinitely many pictures"  # of more than there are


class Coarse:
    """An image tokenizer of 16 pixels that keeps the upper bits."""

    image_size, sha256 = 16, "c" * 64

    def encode(self, images_BSS3):
        assert images_BSS3.shape[1:] == (16, 16, 3)
        return images_BSS3 // 64

    def decode(self, codes):
        return codes * 64 + 32


class Words:
    """Stands for a CLIP: a text's vector are counts of its letters."""

    name = "words"

    def texts(self, texts):
        return np.array([[1 + text.count(letter) for letter in "a12345"] for text in texts])

    def words(self, texts):
        ids = np.zeros((len(texts), 77), int)
        ids[:, 5] = 9
        ids[0] = np.arange(77)  # the first fills all places
        return ids


class Drawer(Tinted):
    """Tinted with an image tokenizer."""

    vq = Coarse()


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a small run with networks that cost nothing."""

    def own(name="inception", device="cpu", **given):
        return Features(
            name, "6726825d" + "0" * 56, 6, 16, embed, logits=lambda x_BD: x_BD @ WEIGHT_KD.T
        )

    def other(name, device="cpu", weights=None, **given):
        if not Path(weights).exists():
            raise UserError(f"no weights for features {name} at {weights}; name their file")
        return stub_features(name)

    monkeypatch.setattr(pinned, "load_features", own)
    monkeypatch.setattr(networks, "load_features", other)
    monkeypatch.setattr("cm3leon.evaluation.features.towers.load_tower", lambda *_: Words())
    monkeypatch.setattr(feature_cache, "SHARD", 5)
    monkeypatch.setattr(fid, "SIZES", ())
    for beside in BESIDE:
        monkeypatch.delenv(networks.KNOWN[beside.known].variable, raising=False)
    write_coco(tmp_path / "coco")
    (tmp_path / "w.pt").write_bytes(b"weights")

    def make(**changes):
        folders = {name: tmp_path / name for name in ("results", "reports", "cache")}
        given = {"protocol": "coco2014-30k/pytorch-fid", "coco_root": tmp_path / "coco", "n": N}
        return fid_coco.Options(**{**given, "resamples": 3, **folders, **changes})

    return make


def rows(tmp_path):
    """Features of all real pictures, of the prompts', of the others, of the drawn; the prompts."""
    newest = tmp_path / "reports" / "fid_coco" / "newest"
    lines = (newest / "prompts.jsonl").read_text().splitlines()
    prompts = [json.loads(line) for line in lines]
    paths = sorted((tmp_path / "coco" / "val2014").iterdir())
    ids = {prompt["image_id"] for prompt in prompts}
    own = [path for path in paths if int(path.stem[-12:]) in ids]
    others = [path for path in paths if path not in own]
    parts = [embed(squares(part)) for part in (paths, own, others)]
    folders = [path.parent for path in (tmp_path / "cache" / "_features").glob("*/about.json")]
    (folder,) = [one for one in folders if '"inception"' in (one / "about.json").read_text()]
    fake = [np.load(path)["features"] for path in sorted(folder.glob("*.npz"))]
    return (*parts, np.concatenate(fake), prompts)


def test_numbers_are_the_pure_functions(options, tmp_path):
    weights = dict.fromkeys(
        ("dino_weights", "cmmd_weights", "clip_weights"), str(tmp_path / "w.pt")
    )
    record, _ = fid_coco.fid_coco(options(**weights), Drawer())
    extra = record["extra"]
    real, own, others, fake, prompts = rows(tmp_path)
    assert extra["floor"] == pytest.approx(frechet_from_features(own, others), rel=1e-6)
    wanted = precision_recall(real, fake, 3)
    assert (extra["precision"]["value"], extra["recall"]["value"]) == pytest.approx(wanted)
    assert extra["recall"]["low"] <= wanted[1] <= extra["recall"]["high"]
    score = inception_score(fake @ WEIGHT_KD.T, N // 2)[0]
    assert extra["inception_score"]["value"] == pytest.approx(score, rel=1e-6)
    assert extra["cmmd"] == pytest.approx(cmmd(real, fake), rel=1e-6)
    assert extra["fd_dinov2"]["value"] == pytest.approx(record["value"], rel=1e-9)  # same stub
    assert extra["fd_dinov2"]["low"] == record["interval"]["low"]
    texts = Words().texts([PREFIX + prompt["caption"] for prompt in prompts])
    plain = cosines(fake, texts)
    assert extra["clip_score"]["value"] == pytest.approx(plain.mean(), rel=1e-6)
    assert extra["clip_score_s"]["value"] == pytest.approx(2.5 * plain.mean(), rel=1e-6)
    assert extra["clip_score"]["low"] < plain.mean() < extra["clip_score"]["high"]
    assert "12.5% of the captions filled CLIP's 77 tokens" in record["warnings"]
    by = {name: one["by"] for name, one in record["measures"].items() if "by" in one}
    assert by.keys() == {"fd_dinov2", "cmmd", "clip_score", "clip_score_s"}
    assert all("(w.pt, SHA-256 6726825d0000)" in text for text in by.values())
    assert {one["measure"] for one in record["missing"]} == {LINE}
    fid_coco.report(options(), record)
    table = (tmp_path / "reports" / "fid_coco" / "newest" / "beside.md").read_text()
    assert "FD-DINOv2" in table and "CLIP score, plain cosine" in table


def test_rfid_is_that_of_the_pictures_that_come_back(options, tmp_path):
    record, _ = fid_coco.fid_coco(options(), Drawer())
    paths = sorted((tmp_path / "coco" / "val2014").iterdir())
    small = squares(paths)

    def back(path):
        coarse = crop_square(crop_square(read_picture(path), 256), 16) // 64 * 64 + 32
        return crop_square(crop_square(coarse, 256), 16)

    wanted = frechet_from_features(embed(small), embed(np.stack([back(path) for path in paths])))
    assert record["extra"]["rfid"] == pytest.approx(wanted, rel=1e-6) and wanted > 1


def test_what_is_not_measured_is_said_with_its_way(options, tmp_path):
    record, _ = fid_coco.fid_coco(options(), Tinted())
    tower = "ViT-B-32.pt by --clip-weights or CM3LEON_CLIP_OPENAI"
    assert {one["measure"]: one["needs"] for one in record["missing"]} == {
        LINE: "more pictures",
        "rFID": "a system with an image tokenizer",
        "FD-DINOv2": "dinov2_vitl14_pretrain.pth by --dino-weights or CM3LEON_DINOV2",
        "CMMD": "ViT-L-14-336px.pt by --cmmd-weights or CM3LEON_CLIP_OPENAI_L14_336",
        "CLIP score, plain cosine": tower,
        "CLIP score, 2.5 max(0, cosine)": tower,
    }
    quick, _ = fid_coco.fid_coco(options(quick=True, n=None), Tinted())
    assert {"measure": "floor", "needs": "real pictures without a prompt"} in quick["missing"]
    (everything,) = (tmp_path / "cache" / "_reference").rglob("all.npz")
    imported, _ = fid_coco.fid_coco(options(reference=everything), Tinted())
    needs = "the real pictures, not --reference alone"
    for name in ("KID", "precision", "recall", "floor"):
        assert {"measure": name, "needs": needs} in imported["missing"]
    assert "inception_score" in imported["extra"]


def test_a_named_network_does_not_move_the_protocol(options, tmp_path):
    plain, _ = fid_coco.fid_coco(options(), Tinted())
    more, _ = fid_coco.fid_coco(options(dino_weights=str(tmp_path / "w.pt")), Tinted())
    assert plain["protocol_digest"] == more["protocol_digest"] and plain["value"] == more["value"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ("w.pth", Named(DINO, "dinov2", Path("w.pth"))),
        ("dinov2-s14:w.pth", Named(DINO, "dinov2-s14", Path("w.pth"))),
    ],
)
def test_weights_are_named_by_option(given, wanted, monkeypatch):
    monkeypatch.delenv("CM3LEON_DINOV2", raising=False)
    assert find_named(DINO, given) == wanted


def test_weights_are_named_by_variable_and_never_by_a_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CM3LEON_DINOV2", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x")
    assert find_named(DINO, None) is None  # hours nobody asked for
    monkeypatch.setenv("CM3LEON_DINOV2", str(cached))
    assert find_named(DINO, None) == Named(DINO, "dinov2", cached)


def test_another_network_has_another_name():
    assert Named(DINO, "dinov2", Path("x")).name_of("fd_dinov2") == "fd_dinov2"
    small = find_named(CLIP, "ViT-S-32-alt:x.pt")
    assert small.network == "open_clip:ViT-S-32-alt"
    assert small.name_of("clip_score") == "clip_score_ViT-S-32-alt"
    assert small.name_of("clip_score_s") == "clip_score_s_ViT-S-32-alt"
    assert find_named(CLIP, "scenes").name_of("clip_score") == "clip_score_scenes"
    assert find_named(CMMD, "scenes").path is None
    assert find_named(DINO, "scenes") == Named(DINO, "dinov2", Path("scenes"))  # a file
    assert "--cmmd-weights or CM3LEON_CLIP" in needs(CMMD)
    assert needs(CLASSES, variables=False).endswith(" by --inception-weights")


def test_the_embedded_world_s_own_clip_scores_its_pictures():
    torch.set_num_threads(1)
    features, clip = Named(CLIP, "scenes", None).load("cpu")
    shown = [scene("coco", "test", index) for index in range(5)]
    captions = [one.captions[0] for one in shown]
    images_ND = features(np.stack([one.image for one in shown]))
    sides = Sides(None, [Held(images_ND)], features, captions=captions, clip=clip)
    each = (clip.images([one.image for one in shown]) * clip.texts(captions)).sum(1)  # no prefix
    taken = networks.take([(Named(CLIP, "scenes", None), sides)])
    assert taken.extra["clip_score_scenes"][0] == pytest.approx(each.mean(), rel=1e-5)
    assert taken.by["clip_score_scenes"].startswith("scenes (shipped, SHA-256 ")
    assert Named(CMMD, "scenes", None).load("cpu")[1] is None


def test_bad_weights_and_missing_pictures(options, tmp_path):
    system = Tinted()
    with pytest.raises(UserError, match=r"^--dino-weights: no file nowhere.pth; name the weights"):
        fid_coco.fid_coco(options(dino_weights="nowhere.pth"), system)
    assert not system.drawn  # said before the work begins
    with pytest.raises(UserError, match="--dino-weights needs the real pictures; leave out --ref"):
        fid_coco.fid_coco(
            options(dino_weights=str(tmp_path / "w.pt"), reference=tmp_path / "r.npz"), Tinted()
        )
