"""The whole benchmark on tiny random weights: same command same record, resumption, bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import fid_coco
from benchmarks.evaluate import networks, scenes_fid
from benchmarks.fid_coco import Options
from benchmarks.harness import core
from benchmarks.images.generated import content_digest
from benchmarks.systems import find as systems
from cm3leon import checkpoint
from cm3leon.decoding.config import DecodeChanges, DecodeConfig
from cm3leon.errors import UserError
from cm3leon.evaluation.features.scenes import ARCHITECTURE, FeatureNetwork
from cm3leon.evaluation.metrics.impossible import columns_of
from cm3leon.loading import load_system
from cm3leon.reports.benches.splits import arms_of
from cm3leon.reports.compare import compare
from cm3leon.reports.records import store
from cm3leon.seeds import generator
from cm3leon.world.scenes import scene
from tests.coco_maker import stub_features
from tests.retrieval.test_retriever import add_bank
from tests.test_pipeline import write_tiny_baselines

COCO_MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco-mini"
N = 8


class Stub:
    """Stands in for a model: real pictures chosen by the seed, darkened, with a little noise."""

    name, config, weights_sha256 = "stub", {"noise": 20}, "0" * 64

    def __init__(self, fail_after=None):
        self.fail_after, self.drawn = fail_after, []

    def draw(self, prompts, seeds):
        if self.fail_after is not None and len(self.drawn) >= self.fail_after:
            raise KeyboardInterrupt
        self.drawn += prompts
        pictures = [
            scene("coco", "natural", seed % 500).image // 2
            + generator(seed).integers(0, 20, (64, 64, 3), np.uint8)
            for seed in seeds
        ]
        return np.stack(pictures).astype(np.uint8)


def write_all_baselines(folder: Path) -> Path:
    """Baselines of random weights, the feature network included."""
    write_tiny_baselines(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = FeatureNetwork().state_dict()
    checkpoint.save(folder / "scenes" / "features", "features", ARCHITECTURE, state)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_all_baselines(tmp_path_factory.mktemp("baselines"))


@pytest.fixture
def options(home, monkeypatch, tmp_path):
    """Options of a small run whose files all lie in a temporary folder."""
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scenes_fid, "columns_of", lambda vq: columns_of(vq, 200))

    def make(**changes):
        folders = {
            "results": tmp_path / "results",
            "reports": tmp_path / "out",
            "cache": tmp_path / "cache",
        }
        return Options(**{"n": N, "real": N, "resamples": 5, **folders, **changes})

    return make


CLIP = Path(__file__).resolve().parents[2] / "baselines" / "scenes" / "clip"


def arguments(tmp_path, *more):
    folders = ["--results", "results", "--reports", "out", "--cache", "cache"]
    return ["--n", str(N), "--real", str(N), "--resamples", "5", *folders, *more]


def test_record_of_a_drawn_system(options):
    record, path = fid_coco.fid_coco(options(), Stub())
    assert core.load(path) == record
    assert record["n"] == N and record["system"]["name"] == "stub" and record["version"] == 2
    phases = ["prompts", "draw", "features", "composition", "statistics", "report"]
    assert list(record["cost"]["seconds"]) == phases
    assert record["cost"]["counters"] == {"drawn": 3 * N, "reused": 0}
    extra, interval = record["extra"], record["interval"]
    assert extra["natural.documents0.fid"] == {
        "value": record["value"], "low": interval["low"], "high": interval["high"]
    }  # fmt: skip
    assert interval["low"] <= record["value"] <= interval["high"]
    wanted = {"fid", "fid_own", "kid", "kid_std", "overall", "place", "all", "precision", "recall"}
    for split in ("natural", "test", "tail"):
        found = {key.split(".")[2] for key in extra if key.startswith(f"{split}.documents0.")}
        assert wanted <= found and extra[f"{split}.floor"] > 0
        assert ("entity_unseen" in found) == (split == "tail")
    assert {"natural.rfid", "natural.rfid_own", "natural.ceiling", "natural.ceiling_own"} < {*extra}
    assert record["protocol"]["captions"] == {"natural": N, "test": N, "tail": N}
    assert any("natural: n=8 is not above the 128 features" in line for line in record["warnings"])


def test_networks_of_their_own_measure_the_embedded_world_too(options, tmp_path, monkeypatch):
    """What is named by option stands beside the headline; the rest is missing with its option."""
    monkeypatch.setattr(networks, "load_features", lambda name, *_: stub_features(name))
    (tmp_path / "w.pt").write_bytes(b"weights")
    given = dict.fromkeys(("dino_weights", "cmmd_weights"), str(tmp_path / "w.pt"))
    plain, _ = fid_coco.fid_coco(options(split=("natural",)), Stub())
    record, _ = fid_coco.fid_coco(options(split=("natural",), **given), Stub())
    assert record["protocol_digest"] == plain["protocol_digest"]
    added = {"natural.documents0.fd_dinov2", "natural.documents0.cmmd"}
    assert record["extra"].keys() - plain["extra"].keys() == added
    assert "(w.pt, SHA-256 6726825d0000)" in record["measures"]["fd_dinov2"]["by"]
    needs = {one["measure"]: one["needs"] for one in record["missing"]}
    assert needs["Inception score"].endswith(" by --inception-weights")
    assert {"FD-DINOv2", "CMMD"} == {one["measure"] for one in plain["missing"]} - needs.keys()
    fid_coco.report(options(), record)
    assert "FD-DINOv2" in (tmp_path / "out" / "fid_coco" / "newest" / "beside.md").read_text()
    with pytest.raises(UserError, match=r"--clip-weights: no file none\.pt; name the weights, ViT"):
        fid_coco.fid_coco(options(clip_weights="none.pt"), Stub())


def test_same_command_same_record(options):
    first, _ = fid_coco.fid_coco(options(), Stub())
    again, _ = fid_coco.fid_coco(options(), Stub())
    assert again["cost"]["counters"] == {"drawn": 0, "reused": 3 * N}
    assert core.comparable(again) == core.comparable(first)


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batch_size_cannot_be_seen(options, tmp_path, batch_size):
    one, _ = fid_coco.fid_coco(options(split=("natural",), cache=tmp_path / "a"), Stub())
    other, _ = fid_coco.fid_coco(
        options(split=("natural",), cache=tmp_path / "b", batch_size=batch_size), Stub()
    )
    assert core.comparable(one) == core.comparable(other)


def test_killed_and_started_again(options, tmp_path):
    whole, _ = fid_coco.fid_coco(options(cache=tmp_path / "whole"), Stub())
    killed, second = Stub(fail_after=12), Stub()
    with pytest.raises(KeyboardInterrupt):
        fid_coco.fid_coco(options(batch_size=3), killed)
    assert not list((tmp_path / "results").rglob("*-2.json"))
    record, _ = fid_coco.fid_coco(options(batch_size=3), second)
    assert len(killed.drawn) + len(second.drawn) == 3 * N
    assert record["cost"]["counters"] == {"drawn": 3 * N - 14, "reused": 14}
    assert core.comparable(record) == core.comparable(whole)


def test_several_seeds(options):
    record, path = fid_coco.fid_coco(options(split=("natural",), seeds=(0, 1, 2)), Stub())
    alone, _ = fid_coco.fid_coco(options(split=("natural",), seeds=(1,)), Stub())
    assert len(set(record["per_seed"])) == 3
    assert record["value"] == pytest.approx(np.mean(record["per_seed"]))
    assert record["per_seed"][1] == alone["per_seed"][0]
    assert record["protocol_digest"] != alone["protocol_digest"]
    seeds, images = record["spread"]["seeds"], record["spread"]["images"]
    assert seeds["low"] < record["value"] < seeds["high"]
    assert record["interval"]["low"] <= images["low"] <= record["value"] <= images["high"]
    assert alone["spread"]["seeds"] is None and alone["interval"] == alone["spread"]["images"]
    assert record["samples"] and (path.with_suffix(".npz")).is_file()


def test_the_real_pictures_stand_at_the_floor_and_at_zero(options, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    for split in ("natural", "test", "tail"):
        for index in range(N):
            image = Image.fromarray(scene("coco", split, index).image)
            image.save(folder / f"coco-{split}-{index}.png")
    record, _ = fid_coco.fid_coco(options(images=folder))
    extra = record["extra"]
    assert record["value"] == extra["natural.floor"] > 0
    for split in ("natural", "test", "tail"):
        assert extra[f"{split}.documents0.fid"]["value"] == extra[f"{split}.floor"]
        assert extra[f"{split}.documents0.fid_own"]["value"] == pytest.approx(0, abs=1e-6)
        assert extra[f"{split}.documents0.overall"]["value"] > 0.9
    assert extra["tail.documents0.entity"]["value"] == 1
    same = "the pictures of natural, test, tail are the captions' own: fid_own is 0"
    assert same in record["warnings"]
    assert record["cost"]["counters"] == {"drawn": 0, "reused": 3 * N} and not any(
        "belong to no prompt" in line for line in record["warnings"]
    )
    assert record["system"] == {
        "name": "real",
        "config": {"images": "real", "sha256": content_digest(folder)},
        "weights_sha256": None,
    }
    (folder / "coco-natural-99.png").write_bytes((folder / "coco-natural-0.png").read_bytes())
    again, _ = fid_coco.fid_coco(options(images=folder, name="real", split=("natural",)))
    extra = f"{2 * N + 1} files of --images belong to no prompt"
    assert any(line.startswith(extra) for line in again["warnings"])


@pytest.fixture(scope="module")
def retrieving(tmp_path_factory):
    folder = write_tiny_baselines(tmp_path_factory.mktemp("retrieving"), "scenes-s")
    add_bank(folder, 40)
    return load_system(folder)


def test_documents_of_a_system_that_retrieves(options, retrieving, monkeypatch):
    record, path = fid_coco.fid_coco(options(), retrieving)
    extra = record["extra"]
    assert record["system"]["config"]["documents"] == 2
    assert record["value"] == extra["natural.documents2.fid"]["value"]
    for split in ("natural", "test", "tail"):
        names = ["documents0", "documents1", "documents2", *["plain"] * (split == "natural")]
        assert arms_of(record, split) == names
        for count in (1, 2):
            ratio = extra[f"{split}.documents{count}.fid_over_documents0"]
            sides = [extra[f"{split}.documents{k}.fid"]["value"] for k in (count, 0)]
            assert ratio["value"] == pytest.approx(sides[0] / sides[1])
            assert ratio["low"] <= ratio["value"] <= ratio["high"]
        assert f"{split}.documents0.fid_over_documents0" not in extra
        shares = [extra[f"{split}.documents{k}.impossible"]["value"] for k in (0, 1, 2)]
        assert all(0 <= share <= 1 for share in shares)
    with np.load(path.with_suffix(".npz")) as kept:
        assert kept["natural.plain.features_KND"].shape == (1, N, 128)
        assert len(kept["prompts"]) == 3 * N
    none, _ = fid_coco.fid_coco(options(documents=(0,), split=("natural",)), retrieving)
    assert none["system"]["name"] == "scenes-s+documents0"
    assert none["value"] == extra["natural.documents0.fid"]["value"]
    assert arms_of(none, "natural") == ["documents0", "plain"]
    some, _ = fid_coco.fid_coco(options(documents=(2, 0), split=("tail", "natural")), retrieving)
    assert some["system"]["name"] == "scenes-s"
    assert some["value"] == extra["tail.documents2.fid"]["value"]
    assert arms_of(some, "tail") == ["documents0", "documents2", "plain"]


def test_the_plain_setting_is_the_system_so_drawn(options, retrieving):
    record, _ = fid_coco.fid_coco(options(split=("natural",)), retrieving)
    changes = DecodeChanges(guidance=1.0, temperature=1.0)
    plain, _ = fid_coco.fid_coco(options(split=("natural",), decode=changes), retrieving)
    assert record["extra"]["natural.plain.fid"]["value"] == plain["value"] != record["value"]
    assert plain["cost"]["counters"]["drawn"] > 0  # 0 and 1 documents, not drawn so before
    same = {key: plain["extra"][f"natural.{key}.fid"] for key in ("plain", "documents2")}
    assert same["plain"] == same["documents2"]


def test_a_split_too_small_for_captions_and_reference(options):
    with pytest.raises(UserError, match=r"n must be at most 1000 of split tail \(2000 pictures"):
        fid_coco.fid_coco(options(n=1001, real=1000), Stub())


def test_shipped_system_and_decoding_options(options):
    record, _ = fid_coco.fid_coco(
        options(decode=DecodeChanges(guidance=1.0, top_p=DecodeConfig().top_p))
    )
    assert record["system"]["name"] == "scenes-s+guidance1"
    assert record["system"]["config"]["decode"]["guidance"] == 1.0
    assert record["environment"]["device"].startswith(("cpu", "cuda"))
    assert record["environment"]["engine"] in ("c", "graph", "torch")


def test_an_engine_is_named_in_the_record(options):
    record, _ = fid_coco.fid_coco(options(engine="torch", split=("natural",)))
    assert record["environment"]["engine"] == record["system"]["config"]["engine"] == "torch"
    with pytest.raises(UserError, match="--engine does not apply to system noise; leave it out"):
        fid_coco.fid_coco(options(system="noise", engine="torch"))


def test_the_best_of_several_samples(options):
    record, _ = fid_coco.fid_coco(options(samples=2, rerank_clip=str(CLIP)))
    assert record["system"]["name"] == "scenes-s+best2"
    assert record["protocol"]["samples_per_prompt"] == record["system"]["config"]["samples"] == 2
    assert "clip" not in record["extra"]  # these baselines hold no CLIP to measure with
    assert any(one["needs"].startswith("cannot read") for one in record["missing"])
    with pytest.raises(UserError, match="--samples does not apply to system noise"):
        fid_coco.fid_coco(options(system="noise", samples=2))
    with pytest.raises(UserError, match="samples must be at least 1, got 0"):
        options(samples=0)


def test_command_writes_and_prints_everything(options, tmp_path, capsys):
    options()
    assert fid_coco.main(arguments(tmp_path, "--system", "noise")) == 0
    out = capsys.readouterr().out
    assert "noise" in out and "CM3Leon-7B" in out and "quoted" in out
    made = {path.name for path in (tmp_path / "out" / "fid_coco" / "newest").iterdir()}
    assert {
        "fid_coco.md",
        "fid_coco.csv",
        "fid_coco.tex",
        "grid.png",
        "fid_scale.svg",
        "fid_scale.png",
    } <= made


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--system", "scenes-sx"], "unknown system 'scenes-sx'; did you mean scenes-s"),
        (["--system", "no_such_module:X"], "cannot import 'no_such_module'"),
        (["--system", "json:X"], "module 'json' has no 'X'"),
        (["--system", "json:dumps"], "json:dumps"),
        (["--system", "noise", "--guidance", "2"], "--guidance does not apply to system noise"),
        (["--guidance", "nan"], "decode.guidance must be finite"),
        (["--top-p", "0"], "decode.top_p must lie in (0, 1], got 0.0"),
        (["--sistem", "noise"], "did you mean --system?"),
        (["--n", "0"], "n must be at least 2"),
        (["--n", "1"], "n must be at least 2"),
        (["--n", "30001"], "n must be at most 29992 of split natural (30000 pictures"),
        (["--real", "1"], "real must be at least 2"),
        (["--split", "test", "test"], "split must name different ones"),
        (["--split", "train"], "train"),
        (["--documents", "1", "1"], "documents must name different ones"),
        (["--documents", "0", "1", "--data", "coco"], "several are of scenes alone"),
        (["--system", "noise", "--documents", "1"], "--documents does not apply to system noise"),
        (["--seeds", "1", "1"], "seeds must be different numbers"),
        (["--batch-size", "0"], "batch_size must lie in [1, 1,000,000], got 0"),
        (["--resamples", "1", "--system", "noise"], "resamples must be at least 2"),
        (["--images", "nowhere"], "no folder nowhere"),
        (["--images", "x", "--seeds", "0", "1"], "--seeds has no effect on --images, one picture"),
        (["--images", "x", "--system", "noise"], "--system has no effect on --images"),
        (["--images", "x", "--samples", "8"], "--samples has no effect on --images"),
        (["--images", "x", "--batch-size", "2"], "--batch-size has no effect on --images"),
        (["--images", "x", "--documents", "1"], "--documents has no effect on --images"),
        (["--images", "x", "--guidance", "2"], "--guidance has no effect on --images"),
        (["--name", "mine"], "--name mine is of --images"),
        (["--data", "coco"], "--data coco needs --coco-root"),
        (["--data", "coco", "--coco-root", "nowhere"], "nowhere"),
        (["--coco-root", "x"], "--coco-root x needs --data coco"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(options, tmp_path, capsys, more, message):
    options()
    assert fid_coco.main(arguments(tmp_path, *more)) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith(("draw", "features"))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not list(tmp_path.rglob("*.json")) or "noise" in more
    assert not list((tmp_path / "results").rglob("*"))


def test_nan_features(options, home, tmp_path, monkeypatch):
    state = FeatureNetwork().state_dict()
    state["mix.bias"][3] = float("nan")
    monkeypatch.setattr(scenes_fid, "load_features", broken_features(state))
    with pytest.raises(UserError, match=r"features of picture 0 of .* are not finite"):
        fid_coco.fid_coco(options(), Stub())
    assert not (tmp_path / "results").exists()


def broken_features(state):
    from cm3leon.evaluation.features.network import Features

    network = FeatureNetwork()
    network.load_state_dict(state)
    return lambda name: Features(name, "0" * 64, 128, 64, network.eval().embed)


def test_nothing_measured_is_no_success(options, tmp_path, monkeypatch, capsys):
    options()
    nothing = core.Measurement(value=None, n=0)
    monkeypatch.setattr(scenes_fid, "measure", lambda *_: nothing)
    assert fid_coco.main(arguments(tmp_path, "--system", "noise")) == 3
    assert "measured nothing" in capsys.readouterr().err


def write_coco(root, count=6):
    """MS-COCO files: grey, CMYK, tiny and huge-aspect pictures among them."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    noise = np.random.default_rng(0)
    kinds = [("RGB", (80, 60), 3), ("L", (50, 90), 1), ("CMYK", (64, 64), 4), ("RGB", (3, 5), 3)]
    listed, captions = [], []
    for k in range(count):
        mode, size, channels = kinds[k % 4]
        pixels = noise.integers(0, 256, size[0] * size[1] * channels, np.uint8).tobytes()
        Image.frombytes(mode, size, pixels).save(root / "val2017" / f"{k:012d}.jpg")
        listed.append({"id": k, "file_name": f"{k:012d}.jpg"})
        captions.append({"id": 10 * k, "image_id": k, "caption": f"a picture of number {k}"})
    content = {"images": listed, "annotations": captions}
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(content))


def test_real_files(options, tmp_path):
    write_coco(tmp_path / "coco")
    record, _ = fid_coco.fid_coco(
        options(data="coco", coco_root=tmp_path / "coco", n=None), systems.Noise()
    )
    assert record["n"] == 6
    assert record["protocol"]["features"] == "scenes"
    assert "floor" not in record["extra"] and "overall" not in record["extra"]
    assert record["warnings"][0].startswith("a trial of the way, not a score: features=scenes")


def test_unreadable_pictures_are_counted_and_named(options, tmp_path):
    write_coco(tmp_path / "coco")
    torn = tmp_path / "coco" / "val2017" / "000000000004.jpg"
    torn.write_bytes(torn.read_bytes()[:200])
    (tmp_path / "coco" / "val2017" / "000000000001.jpg").unlink()
    record, _ = fid_coco.fid_coco(
        options(data="coco", coco_root=tmp_path / "coco", n=5), systems.Noise()
    )
    lines = record["warnings"]
    assert "a trial: only 5 of 6 pictures of val2017, lacking 000000000001.jpg, are there" in lines
    line = next(line for line in lines if "unreadable" in line)
    assert line.startswith("1 unreadable pictures left out of the reference")
    assert "4 (000000000004.jpg)" in line
    assert record["protocol"]["pictures"] == "5 of 6" and record["n"] == 5
    assert store.is_trial(record)


PARTS = {  # of a copy of MS-COCO that lacks four pictures of six: options, line or captions drawn
    "all are asked for": ({"n": None}, "has 2 of 6 pictures of val2017, lacking .*; unpack the"),
    "more than there are": ({"n": 3}, "n must be at most 2, the pictures of "),
    "as many as there are": ({"n": 2}, 2),
    "a quick look": ({"n": None, "quick": True}, 2),
}


@pytest.mark.parametrize("case", PARTS)
def test_nothing_is_drawn_for_pictures_that_are_not_there(options, tmp_path, case):
    write_coco(tmp_path / "coco")
    for k in range(4):
        (tmp_path / "coco" / "val2017" / f"{k:012d}.jpg").unlink()
    more, wanted = PARTS[case]
    given, stub = options(data="coco", coco_root=tmp_path / "coco", **more), Stub()
    if isinstance(wanted, str):
        with pytest.raises(UserError, match=wanted):
            fid_coco.fid_coco(given, stub)
        assert stub.drawn == []
        return
    record, _ = fid_coco.fid_coco(given, stub)
    assert record["n"] == wanted == len(stub.drawn) and store.is_trial(record)
    for k in range(4, 6):
        (tmp_path / "coco" / "val2017" / f"{k:012d}.jpg").unlink()
    with pytest.raises(UserError, match=r"captions but no pictures of val2017, e.g. .*; unpack"):
        fid_coco.fid_coco(given, stub)


def drawn_elsewhere(prompts: Path, folder: Path) -> Path:
    """What somebody with another program makes of a list of prompts: a PNG for each."""
    folder.mkdir()
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    for row in rows:
        picture = Stub().draw([row["caption"]], [row["seed"]])[0]
        Image.fromarray(picture).save(folder / f"{row['image_id']}.png")
    return folder


@pytest.mark.parametrize("data", ["scenes", "coco"])
def test_pictures_drawn_elsewhere_compare_with_drawn_ones(options, tmp_path, data, capsys):
    """`--only-prompts`, a picture for each, `--images`: the same protocol and the same number."""
    more = {} if data == "scenes" else {"data": "coco", "coco_root": tmp_path / "coco", "n": None}
    write_coco(tmp_path / "coco")
    ours, _ = fid_coco.fid_coco(options(**more), Stub())
    given = options(**more, only_prompts=tmp_path / "prompts.jsonl")
    assert fid_coco.command(given, fid_coco.ALONE) == 0
    count = 3 * N if data == "scenes" else 6
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{count} prompts: ")
    folder = drawn_elsewhere(tmp_path / "prompts.jsonl", tmp_path / "theirs")
    theirs, _ = fid_coco.fid_coco(options(**more, images=folder))
    assert theirs["protocol"] == ours["protocol"] and theirs["value"] == ours["value"]
    assert compare(ours, theirs).why_not == "" and theirs["system"]["name"] == "theirs"


def test_pictures_by_image_id(options, tmp_path):
    write_coco(tmp_path / "coco")
    more = {"data": "coco", "coco_root": tmp_path / "coco", "images": tmp_path / "coco" / "val2017"}
    record, _ = fid_coco.fid_coco(options(**more, n=None))
    assert record["value"] == pytest.approx(0, abs=1e-6)
    same = "the pictures scored are the reference's own: their distance is 0"
    assert same in record["warnings"]
    shutil.copytree(more["images"], tmp_path / "drawn")
    (tmp_path / "drawn" / "000000000003.jpg").unlink()
    with pytest.raises(UserError, match="lacks 1 of 6 pictures, first 3; name each by its image"):
        fid_coco.fid_coco(options(**more | {"images": tmp_path / "drawn"}, n=None))


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="no sample of MS-COCO on this machine")
def test_coco_sample(options):
    record, _ = fid_coco.fid_coco(
        options(data="coco", coco_root=COCO_MINI, n=None), systems.Noise()
    )
    assert record["n"] == 79
    assert record["extra"]["floor"] < record["extra"]["ceiling"]


def test_a_system_of_the_current_folder(options, tmp_path, monkeypatch):
    options()
    (tmp_path / "my_file.py").write_text(
        "from benchmarks.systems.find import Noise\nMINE = Noise(32)\n"
        "class Other:\n    name = 'x'\n"
    )
    monkeypatch.delitem(sys.modules, "my_file", raising=False)
    assert systems.find_system("my_file:MINE").config == {"size": 32}
    with pytest.raises(UserError, match="my_file:Other is no system: it has no 'config'"):
        systems.find_system("my_file:Other")


def test_exit_code_of_the_module(home, tmp_path, monkeypatch, run_module):
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    done = run_module("benchmarks.fid_coco", "--system", "nobody", "--results", str(tmp_path))
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: unknown system 'nobody'") and "Traceback" not in done.stderr
    )


def test_help_needs_no_heavy_import(home):
    code = (
        "import sys\nfrom benchmarks.fid_coco import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'scipy', 'pandas', 'matplotlib', 'PIL', 'tokenizers', 'torchmetrics'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
