"""What users get wrong, by the real command line: one line on stderr, exit code 2, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import fid_coco
from benchmarks.evaluate import fid, pinned
from benchmarks.systems import find as systems
from cm3leon import files
from cm3leon.errors import UserError
from tests.coco_maker import Tinted, stub_features, write_coco
from tests.interop.test_known_weights import home  # noqa: F401  (a fixture: an empty home)

N = 8
GOOD = ("--protocol", "coco2014-30k/clean", "--coco-root", "coco", "--n", str(N))
ANY = ("--weights-sha256", "any", "--weights")
CAPTIONS = Path("coco/annotations/captions_val2014.json")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(*options) -> (exit code, lines on stderr)` in a folder with a small copy of COCO."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pinned, "load_features", stub_features)
    monkeypatch.setattr(fid, "write_grid", lambda *_: None)
    monkeypatch.setitem(systems.SYSTEMS, "tinted", Tinted)
    write_coco(tmp_path / "coco")
    kept = ("--results", "results", "--reports", "out", "--cache", "cache")

    def call(*options, system="tinted"):
        drawn = () if "--images" in options else ("--system", system, "--batch-size", "4")
        given = [*drawn, "--resamples", "2", *options, *kept]
        code = fid_coco.main(given)
        return code, capsys.readouterr().err.splitlines()

    return call


def refused(found, message: str) -> None:
    code, lines = found
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), found
    assert message in lines[0]
    assert not list(Path().glob("results/**/*.json"))


def torn_weights():
    torch.save({"fc.weight": torch.ones(200, 200)}, "torn.pth")
    Path("torn.pth").write_bytes(Path("torn.pth").read_bytes()[:1000])


def other_weights():
    torch.save({"head.weight": torch.ones(2)}, "other.pth")


def torchvisions():
    torch.save({"AuxLogits.fc.bias": torch.ones(2)}, "classifier.pth")


WEIGHTS = {  # what is on disk, options, the line
    "truncated": (torn_weights, (*ANY, "torn.pth"), "torn.pth is truncated"),
    "of another network": (other_weights, (*ANY, "other.pth"), "another network than Inception"),
    "of torchvision": (torchvisions, (*ANY, "classifier.pth"), "is torchvision's classifier"),
    "of another digest": (
        other_weights, ("--weights", "other.pth"), "expected for inception-clean is 6726825d",
    ),
    "not there": (lambda: None, ("--weights", "none.pth"), "at none.pth; name their file"),
    "nowhere": (lambda: None, (), "set CM3LEON_INCEPTION, or: curl -LO https://github.com"),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(run, home, monkeypatch, case):  # noqa: F811
    from cm3leon.evaluation.features.network import load_features

    monkeypatch.setattr(pinned, "load_features", load_features)  # the real one
    make, options, message = WEIGHTS[case]
    make()
    refused(run(*GOOD, *options), message)


def year_2017():
    write_coco(Path("other"), "val2017")


def without_pictures():
    for path in Path("coco/val2014").iterdir():
        path.unlink()


def edited(change):
    def edit():
        content = json.loads(CAPTIONS.read_text())
        change(content)
        CAPTIONS.write_text(json.dumps(content))

    return edit


def torn_captions():
    CAPTIONS.write_text(CAPTIONS.read_text()[:500])


def drawn_elsewhere(break_one):
    def draw():
        Path("drawn").mkdir()
        for k in range(1, 13):
            Image.fromarray(Tinted().picture(k)).save(f"drawn/{k}.png")
        break_one()

    return draw


def one_broken():
    Path("drawn/3.png").write_bytes(Path("drawn/3.png").read_bytes()[:60])


def only_four():
    for k in range(5, 13):
        Path(f"drawn/{k}.png").unlink()


FILES = {
    "MS-COCO 2017 where 2014 is expected": (
        year_2017, ("--coco-root", "other"), "name a copy of MS-COCO 2014",
    ),
    "captions without pictures": (
        without_pictures, (), "coco has captions but no pictures of val2014",
    ),
    "an image id twice": (
        edited(lambda c: c["images"].append(c["images"][0])), (), "lists image 1 twice",
    ),
    "a caption id twice": (
        edited(lambda c: c["annotations"].append(c["annotations"][0])), (),
        "lists annotation 100 twice",
    ),
    "no annotations at all": (
        edited(lambda c: c["annotations"].clear()), (), "val2014 has no picture with a caption",
    ),
    "captions torn": (torn_captions, (), "captions_val2014.json"),
    "a drawn picture broken": (
        drawn_elsewhere(one_broken), ("--images", "drawn", "--n", "12"), "3.png is damaged",
    ),
    "fewer drawn than asked": (
        drawn_elsewhere(only_four), ("--images", "drawn", "--n", "12"), "lacks 8 of 12 pictures",
    ),
    "more captions than there are": (
        lambda: None, ("--n", "13"), "n must be at most 12, the pictures of coco val2014, got 13",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files(run, case):
    make, options, message = FILES[case]
    make()
    refused(run(*GOOD, *options), message)


def test_broken_and_foreign_pictures_of_the_reference_are_left_out_and_named(run):
    paths = sorted(Path("coco/val2014").iterdir())
    Image.new("CMYK", (30, 20), (9, 9, 9, 9)).save(paths[0])
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    code, lines = run(*GOOD)
    assert code == 0 and not any("Traceback" in line for line in lines)
    (path,) = Path().glob("results/**/*.json")
    said = " | ".join(json.loads(path.read_text())["warnings"])
    assert f"1 unreadable pictures left out of the reference: {paths[1].name}" in said
    assert f"not RGB and were converted: {paths[0].name} (CMYK)" in said


class Wrong(Tinted):
    """Goes wrong from the second batch on, so that something is done by then."""

    fault: str

    def draw(self, prompts, seeds):
        before, pictures = len(self.drawn), super().draw(prompts, seeds)
        return FAULTS[self.fault][0](pictures) if before else pictures


def nan(pictures):
    pictures = pictures.astype(np.float32)
    pictures[0, 0, 0, 0] = np.nan
    return pictures


FAULTS = {
    "of another size": (lambda x: x[:, :20], "drew uint8 [4, 20, 24, 3]"),
    "floats": (lambda x: x / 255, "drew float64"),
    "NaN": (nan, "drew float32"),
    "fewer than asked": (lambda x: x[:3], "drew uint8 [3, 24, 24, 3]"),
    "grey": (lambda x: x[..., :1], "drew uint8 [4, 24, 24, 1]"),
    "none at all": (lambda x: None, "drew"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_system_that_draws(run, monkeypatch, fault):
    log = Path("log").absolute()
    wrong = Wrong(log)
    wrong.fault = fault
    monkeypatch.setitem(systems.SYSTEMS, "wrong", lambda: wrong)
    refused(run(*GOOD, system="wrong"), FAULTS[fault][1])
    assert len(list(Path("cache").rglob("*.png"))) == 4  # the first batch is kept
    log.unlink()
    monkeypatch.setitem(systems.SYSTEMS, "tinted", lambda: Tinted(log))
    assert run(*GOOD)[0] == 0 and len(log.read_text().splitlines()) == N - 4


@pytest.mark.parametrize("room", [3, 6])
def test_a_full_disk(run, monkeypatch, room):
    """Full after so many files, while drawing: the next start draws only what is left."""
    log, written, sync = Path("log").absolute(), [], os.fsync
    log.touch()

    def full(handle):
        written.append(handle)
        if len(written) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    refused(run(*GOOD), "No space left on device; free space")
    kept = list(Path("cache").rglob("*.png"))
    assert kept and not list(Path("cache").rglob(".*"))  # nothing half written
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setitem(systems.SYSTEMS, "tinted", lambda: Tinted(log))
    assert run(*GOOD)[0] == 0 and len(log.read_text().splitlines()) == N - len(kept)


def test_a_disk_full_behind_the_record_is_said(run, monkeypatch):
    """The number stands; what lay beside it does not, and a line says so."""
    sync = os.fsync

    def full(handle):
        place = os.readlink(f"/proc/self/fd/{handle}")
        if "/results/" in place and ".npz" in place:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    code, lines = run(*GOOD)
    assert code == 0
    assert any("No space left on device" in line and "warning" in line for line in lines)
    assert len(list(Path().glob("results/**/*.json"))) == 1


def images_of(path):
    from benchmarks.images.generated import from_folder
    from benchmarks.protocols.prompts import Prompt

    return next(from_folder(path, [Prompt("0", "a star", "0")], 8).batches())


def statistics_of(path):
    from cm3leon.evaluation.features.statistics import import_statistics

    return import_statistics(path, 4)


def shard_of(path):
    from cm3leon.evaluation.features.cache import read_shard

    return read_shard(path, 4)


def bank_of(path):
    from cm3leon.retrieval.packed import unpack

    return unpack(path)


def tensors_of(path):
    from cm3leon.safe_load import program_tensors

    return program_tensors(path)


def weights_of(path):
    from cm3leon.safe_load import read_weights

    return read_weights(path)


def text_of(path):
    from cm3leon.safe_load import program_text

    return program_text(path)


BOMBS = {  # who opens a zip of other people's: the member that is too large, and as what
    images_of: "0.npy", statistics_of: "sigma.npy", shard_of: "features.npy", bank_of: "codes.npy",
    tensors_of: "x/data.pkl", weights_of: "x/data.pkl", text_of: "x/code/a.py",
}  # fmt: skip


@pytest.mark.parametrize("opens", BOMBS, ids=lambda one: one.__name__)
def test_nothing_is_unpacked_above_the_limit(tmp_path, monkeypatch, opens):
    """A few kilobytes that say they are three gigabytes, by the list of contents alone."""
    monkeypatch.setattr(files, "MOST_UNPACKED", 2**20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(BOMBS[opens], bytes(2**20 + 1))
    assert path.stat().st_size < 2**12

    def unpacked(*_):
        raise AssertionError("a part of it was unpacked")

    monkeypatch.setattr(zipfile.ZipExtFile, "read", unpacked)
    monkeypatch.setattr(zipfile.ZipExtFile, "read1", unpacked)
    with pytest.raises(UserError, match=r"bomb\.npz has 1,048,577 bytes once unpacked, more"):
        opens(path)
