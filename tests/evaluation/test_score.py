"""`score`: the same FID as other people's code, in every form of input; what it says of itself."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cm3leon.cli.main import main
from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import load_features
from cm3leon.evaluation.score import METRICS, Scores, find_network, floor, score
from cm3leon.evaluation.sides import Held
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.seeds import generator
from tests.benchmarks.test_fid_coco import write_all_baselines

DRAWN, REAL, SIDE = 150, 170, 64  # above the network's 128 features


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """Weights of random numbers, whatever is shipped."""
    folder = write_all_baselines(tmp_path_factory.mktemp("baselines"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM3LEON_BASELINES", str(folder))
        yield folder


def made(count: int, purpose: str) -> np.ndarray:
    """Smooth pictures of all colours, uint8 [count, 64, 64, 3]."""
    small = generator(0, "score", purpose).integers(0, 256, (count, 6, 6, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
         for one in small]
    )  # fmt: skip


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders of PNG, the second with folders inside."""
    top = tmp_path_factory.mktemp("sides")
    for name, count in (("drawn", DRAWN), ("real", REAL)):
        for place, image in enumerate(made(count, name)):
            path = top / name / ("" if name == "drawn" else f"class{place % 2}") / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return top / "drawn", top / "real"


@pytest.fixture(scope="module")
def found(sides) -> Scores:
    return score(*sides)


class Net(torch.nn.Module):
    """The feature network as others call it: uint8 or float [B, 3, H, W] in 0..255."""

    num_features = 128

    def __init__(self):
        super().__init__()
        self.features = load_features("scenes")

    def forward(self, x_BCHW):
        images = x_BCHW.permute(0, 2, 3, 1).contiguous().numpy().astype(np.uint8)
        return torch.from_numpy(self.features(images))


def test_the_same_fid_as_torchmetrics(sides, found):
    peer = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance(feature=Net())
    for is_real, (name, count) in enumerate((("drawn", DRAWN), ("real", REAL))):
        x = torch.from_numpy(made(count, name)).permute(0, 3, 1, 2)
        for part in x.split(50):
            peer.update(part, real=bool(is_real))
    assert found["fid"] == pytest.approx(float(peer.compute().double()), rel=1e-6)


def test_the_same_fid_as_clean_fid(sides, found):
    peer = pytest.importorskip("cleanfid.fid", exc_type=ImportError)
    net = Net()
    given = {"num_workers": 0, "device": "cpu", "verbose": False, "custom_fn_resize": lambda x: x}
    features = [peer.get_folder_features(str(one), model=net, **given) for one in sides]
    assert [len(one) for one in features] == [DRAWN, REAL]
    values = [np.mean(one, 0) for one in features], [np.cov(one, rowvar=False) for one in features]
    from scipy.linalg import sqrtm

    (mu, other), (sigma, others) = values
    root = np.trace(np.real(sqrtm(sigma @ others)))  # as clean-fid; its call is another scipy's
    theirs = (mu - other) @ (mu - other) + np.trace(sigma) + np.trace(others) - 2 * root
    assert found["fid"] == pytest.approx(theirs, rel=1e-6)


def write_forms(top: Path, folder: Path) -> dict[str, Path | np.ndarray | list]:
    """The same pictures in every form."""
    paths = sorted(folder.rglob("*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    with zipfile.ZipFile(top / "a.zip", "w") as file:
        for path in paths:
            file.write(path, f"some/{path.name}")
        file.writestr("__MACOSX/._1.png", b"shadow")
        file.writestr("readme.txt", "x")
    with tarfile.open(top / "a.tar", "w") as file:
        for path in paths:
            file.add(path, path.name)
    np.savez(top / "all.npz", arr_0=images, arr_1=np.zeros(3))
    np.savez_compressed(top / "each.npz", **{path.stem: images[k] for k, path in enumerate(paths)})
    np.save(top / "all.npy", images)
    names = ("a.zip", "a.tar", "all.npz", "each.npz", "all.npy")
    pillows = [Image.fromarray(one) for one in images]
    return {name: top / name for name in names} | {
        "array": images, "torch": torch.from_numpy(images), "pillow": pillows, "paths": paths,
    }  # fmt: skip


def test_every_form_has_the_same_numbers(sides, found, tmp_path):
    for name, form in write_forms(tmp_path, sides[0]).items():
        other = score(iter(form) if name == "pillow" else form, sides[1])
        assert other["fid"] == pytest.approx(found["fid"], rel=1e-9), name
        assert other.images.pictures == DRAWN
        for one in ("kid", "precision", "recall"):
            assert other[one] == pytest.approx(found[one], rel=1e-5), (name, one)


def test_statistics_stand_for_their_pictures(sides, found, tmp_path):
    one, two = tmp_path / "real.npz", tmp_path / "drawn.npz"
    again = score(*sides, metrics="fid")
    again.save_reference(one)
    score(sides[1], sides[0], metrics="fid").save_reference(two)
    by_file = score(sides[0], one)
    assert by_file["fid"] == pytest.approx(found["fid"], rel=1e-9)
    assert by_file.numbers["fid"].low == pytest.approx(again.numbers["fid"].low, rel=1e-6)
    assert {lack.measure for lack in by_file.missing} == {"KID", "precision", "recall"}
    assert by_file.reference.pictures == REAL and not any(
        "floor" in x for x in by_file.compare_with
    )
    both = score(two, one)
    assert dict(both) == {"fid": pytest.approx(found["fid"], rel=1e-6)}
    assert both.numbers["fid"].low is None
    with pytest.raises(UserError, match="holds statistics already"):
        both.save_reference(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"statistics are an \.npz, got x\.txt"):
        again.save_reference("x.txt")
    mu, sigma = np.zeros(128), np.eye(128)
    np.savez(tmp_path / "foreign.npz", mu=mu, sigma=sigma)
    said = score(sides[0], tmp_path / "foreign.npz", "fid").warnings
    assert any("does not say which network" in line for line in said)
    about = json.dumps({"features": "scenes", "features_sha256": "0" * 64})
    np.savez(tmp_path / "other.npz", mu=mu, sigma=sigma, about=np.array(about))
    with pytest.raises(UserError, match="is of features_sha256 0000000000000000, not "):
        score(sides[0], tmp_path / "other.npz", "fid")


def test_kept_features_are_used_again(sides, found, tmp_path, monkeypatch):
    assert dict(score(*sides, cache=tmp_path)) == dict(found)
    from cm3leon.evaluation.features import cache

    monkeypatch.setattr(cache, "compute", lambda *_: pytest.fail("computed again"))
    assert dict(score(*sides, cache=tmp_path)) == dict(found)


def test_n_is_a_seeded_part_of_each_side(sides):
    first, again = score(*sides, "fid", n=40), score(*sides, "fid", n=40)
    assert (first.images.pictures, first.reference.pictures) == (40, 40)
    assert first["fid"] == again["fid"]
    assert any(line.startswith("n=40 is not above the 128") for line in first.warnings)
    assert any("class0" in name for name in taken(sides[1], 20))
    assert any("class1" in name for name in taken(sides[1], 20))


def taken(folder: Path, n: int) -> list[str]:
    from cm3leon.evaluation.pictures import find_side

    return [stamp[0] for stamp in find_side(folder, n).stamps]


def test_pictures_of_many_sizes_are_each_resized(sides, tmp_path):
    """Each as it would be alone, whatever stands beside it."""
    images = [np.asarray(Image.fromarray(one).resize((w, h)))
              for one, w, h in zip(made(6, "sizes"), (64, 80, 64, 50, 80, 64),
                                   (64, 64, 64, 70, 64, 64), strict=True)]  # fmt: skip
    features = load_features("scenes")
    alone = np.concatenate([features(image[None]) for image in images])
    np.testing.assert_allclose(features.rows(images), alone, rtol=1e-5, atol=1e-6)
    for place, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{place}.png")
    by_folder = score(tmp_path, sides[1], "fid")
    assert by_folder["fid"] == pytest.approx(score(iter(images), sides[1], "fid")["fid"], rel=1e-6)


def test_what_it_says_of_itself(sides, found, tmp_path):
    assert found.numbers["fid"].low < found["fid"] < found.numbers["fid"].high
    said = "\n".join(found.compare_with)
    assert f"n = {DRAWN} against {REAL} reference pictures" in said
    rows = load_features("scenes")(made(REAL, "real"))
    value, size, others = floor(Held(rows), DRAWN)
    assert (size, others) == (REAL // 2, REAL // 2)
    mixed = generator(0, "score", "floor", REAL).permutation(REAL)
    wanted = frechet_from_features(rows[mixed[:size]], rows[mixed[size:]])
    assert value == pytest.approx(wanted, rel=1e-6)
    assert "nothing published" in said and "floor: 85 of the reference pictures" in said
    assert any("the embedded world alone" in line for line in found.warnings)
    assert (
        "FID" in str(found) and "95% interval" in str(found) and repr(found)[:11] == "Scores(fid="
    )
    assert json.loads(json.dumps(found.to_dict()))["numbers"]["kid"]["value"] == found["kid"]


def test_what_is_unreadable_grey_lossy_or_on_both_sides_is_told(sides, tmp_path):
    for place, image in enumerate(made(5, "few")):
        Image.fromarray(image).convert("L" if place == 0 else "RGB").save(tmp_path / f"{place}.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:300])
    found = score(tmp_path, sides[1], "fid")
    assert (found.images.pictures, found.images.unreadable) == (5, 1)
    said = "\n".join(found.warnings)
    assert "1 of 6 pictures" in said and "torn.jpg" in said and "were not RGB (L)" in said
    assert "one side is JPEG" in said
    same = score(sides[1], sides[1], "fid")
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    assert any(line.startswith(f"{REAL} picture files are on both") for line in same.warnings)


WRONG = {
    "none/": "nothing is at none; name a folder",
    "a.txt": "a.txt is none of these",
    "a.tar.gz": "compressed as a whole; unpack it",
    "torn.zip": "torn.zip is no whole .zip",
    "torn.tar": "torn.tar is no whole .tar",
    "empty": "empty holds no pictures",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_side_is_one_line(name, sides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for one in ("a.txt", "a.tar.gz", "torn.zip", "torn.tar"):
        Path(one).write_bytes(b"torn")
    Path("empty").mkdir()
    assert main(["score", name, str(sides[1])]) == 2
    told = capsys.readouterr().err
    assert WRONG[name] in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": ("fid", "x")}, "unknown metric 'x'; there are: fid, "),
        ({"metrics": "kids"}, "; did you mean kid?"),
        ({"metrics": ()}, "no metric named"),
        ({"network": "vgg"}, "unknown features 'vgg'"),
        ({"network": "inception:none.pth"}, "no weights for features inception at none.pth"),
        ({"n": 1}, "n must be at least 2, got 1"),
        ({"metrics": "fd_dinov2"}, "FD-DINOv2 needs --network dinov2:FILE, not scenes"),
    ],
)
def test_what_cannot_be_asked_for(given, message, sides):
    with pytest.raises(UserError) as error:
        score(*sides, **given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 3, 8, 8), np.uint8), r"uint8 \[N, H, W, 3\], got uint8 \[4, 3, 8, 8\]"),
        (np.zeros((4, 8, 8, 3)), r"got float64 \[4, 8, 8, 3\]; scale to 0..255"),
        ([np.zeros((8, 8), np.uint8)], r"picture 0: a picture must be uint8 \[H,W,3\]"),
        ([], "list has 0 readable pictures, 2 are the least; add pictures"),
        (3, "pictures must be a folder"),
    ],
)
def test_arrays_that_are_no_pictures(images, message, sides):
    with pytest.raises(UserError, match=message):
        score(images, sides[1], "fid")


def test_the_command(sides, found, tmp_path, capsys):
    kept = tmp_path / "real.npz"
    words = ["score", *map(str, sides), "--metrics", "fid", "precision", "--save", str(kept)]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["numbers"]) == ["fid", "precision"]
    assert told["numbers"]["fid"]["value"] == found["fid"]
    assert main(words) == 0
    assert "floor:" in capsys.readouterr().out
    assert score(sides[0], kept, "fid")["fid"] == pytest.approx(found["fid"], rel=1e-9)


def test_a_metric_that_no_table_names_cannot_be_asked_for():
    assert {"fid", "kid", "precision", "recall", "inception_score", "cmmd"} <= set(METRICS)
    assert not {"clip_score", "impossible", "single"} & set(METRICS)


@pytest.mark.full
def test_inception_of_made_weights_is_that_of_clean_fid(sides, tmp_path):
    """Files of pictures -> features, by our way and by clean-fid's, of the same weights."""
    peer = pytest.importorskip("cleanfid.fid", exc_type=ImportError)
    from benchmarks.verify.random_weights import their_network
    from cm3leon.evaluation.features.inception import random_weights
    from cm3leon.evaluation.features.resize import clean

    weights = random_weights()
    torch.save(weights, tmp_path / "inception.pth")
    features = find_network(f"inception-clean:{tmp_path / 'inception.pth'}", "cpu", "any")
    network, kept = their_network(weights), []
    network.avgpool.register_forward_hook(lambda *event: kept.append(event[-1].flatten(1)))
    files = [str(path) for path in sorted(sides[0].glob("*.png"))[:4]]

    def theirs(x_BCHW):  # what clean-fid hands its model: resized, 0..255
        network((x_BCHW - 128) / 128)
        return kept.pop()

    given = {"num_workers": 0, "device": "cpu", "verbose": False, "mode": "clean"}
    wanted = peer.get_files_features(files, model=theirs, **given)
    found = features.rows([np.asarray(Image.open(path)) for path in files])
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert clean(made(1, "drawn")).shape == (1, 3, 299, 299)
    ours, other = (frechet_from_features(one[:2], one[2:]) for one in (found, wanted))
    assert ours == pytest.approx(other, rel=1e-3)
