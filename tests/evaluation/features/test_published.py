"""Feature networks by path: files of the published layouts, what is looked for where, refusals."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.evaluation.features import dino, inception, resize
from cm3leon.evaluation.features import published as feature_networks
from cm3leon.evaluation.features.network import NAMES, Features, extract, load_features, read_ahead
from cm3leon.files import sha256_file
from cm3leon.interop.known_weights import KNOWN, roots
from tests.interop.test_known_weights import home  # noqa: F401  (a fixture: an empty home)

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), np.uint8)
TINY = "ViT-B-32"  # an architecture of open_clip, here in miniature


class Script(torch.nn.Module):
    """The form of clean-fid's TorchScript: `layers` takes what is resized already."""

    def __init__(self, width: int = inception.DIM):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AvgPool2d(64), torch.nn.Flatten(), torch.nn.Linear(3 * 16, width)
        )

    def forward(self, x, return_features: bool = False):
        return self.layers(x)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A file of every network, with random weights under the published names."""
    folder = tmp_path_factory.mktemp("weights")
    found = {name: folder / f"{name}.pth" for name in ("inception", "dinov2-s14", "script")}
    torch.save(inception.random_weights(), found["inception"])
    torch.save(dino.random_weights("dinov2-s14"), found["dinov2-s14"])
    torch.jit.save(torch.jit.script(Script()), str(found["script"]))
    return found


@pytest.fixture(scope="module")
def loaded(files) -> dict[str, Features]:
    """Each Inception of the same file, and the TorchScript."""
    found = {
        name: load_features(name, weights=files["inception"], sha256="any")
        for name in ("inception", "inception-clean", "inception-tf")
    }
    script = files["script"]
    found["inception-jit"] = feature_networks.program_features(
        "inception-jit", script.read_bytes(), str(script)
    )
    return found


@pytest.fixture
def published(files, monkeypatch) -> Path:
    """The TorchScript, taken for the one that is pinned."""
    known = replace(KNOWN["inception-jit"], sha256=sha256_file(files["script"]))
    monkeypatch.setitem(KNOWN, "inception-jit", known)
    return files["script"]


def test_inceptions_differ_by_their_resize_alone(files, loaded):
    weights = torch.load(files["inception"], weights_only=True)
    net = inception.Plain(weights)
    for name, way in (("inception", "bilinear"), ("inception-clean", "clean"),
                      ("inception-tf", "tensorflow")):  # fmt: skip
        features = loaded[name]
        found = features(PICTURES[:1])
        with torch.inference_mode():
            wanted = inception.pool3(net, resize.RESIZES[way](PICTURES[:1])).numpy()
        assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max()
        assert (features.name, features.dim, features.size) == (name, 2048, 299)
        assert features.digest == sha256_file(files["inception"])
        logits = features.logits(found)
        assert logits.shape == (1, 1008)  # of the Inception score: without the bias
        assert np.allclose(logits, wanted @ weights["fc.weight"].numpy().T, atol=1e-3)
    one, other = (loaded[name](PICTURES[:1]) for name in ("inception", "inception-clean"))
    assert np.abs(one - other).max() > 1e-2


def test_torchscript_takes_the_clean_resize(files, loaded):
    features = loaded["inception-jit"]
    layers = torch.jit.load(str(files["script"])).layers
    with torch.inference_mode():
        wanted = layers(resize.clean(PICTURES)).numpy()
    assert np.allclose(features(PICTURES), wanted, atol=1e-6)
    assert (features.dim, features.logits) == (2048, None)


@pytest.mark.parametrize("name", ["inception-jit", "inception"])
def test_batches_chunks_and_none(loaded, monkeypatch, name):
    features = loaded[name]
    together = features(PICTURES)
    monkeypatch.setattr(feature_networks, "CPU_CHUNK", 2)
    assert np.allclose(features(PICTURES), together, atol=2e-6 * np.abs(together).max())
    assert features(PICTURES[:0]).shape == (0, 2048)


def test_convolutions_keep_all_bits_of_float32(monkeypatch, loaded):
    seen = []

    def noted(net, x_BCHW):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled))
        return torch.zeros(len(x_BCHW), inception.DIM)

    monkeypatch.setattr(inception, "pool3", noted)
    before = torch.backends.cudnn.allow_tf32
    loaded["inception"](PICTURES)
    assert seen == [(False, True)] and torch.backends.cudnn.allow_tf32 == before


def test_bfloat16_is_another_name_and_states_its_error(files):
    with pytest.raises(UserError, match="inception-jit are not computed in bfloat16"):
        load_features("inception-jit", weights=files["script"], dtype="bfloat16")
    rough = load_features("inception", weights=files["inception"], sha256="any", dtype="bfloat16")
    assert rough.name == "inception-bfloat16"
    error = float(re.search(r"features differ by (\S+) of the largest", rough.warning)[1])
    assert 1e-4 < error < 2e-2


def test_dinov2(files):
    features = load_features("dinov2-s14", weights=files["dinov2-s14"])
    assert (features.dim, features.size) == (384, 224)
    weights = torch.load(files["dinov2-s14"], weights_only=True)
    with torch.inference_mode():
        wanted = dino.load_dino("dinov2-s14", weights, "x")(dino.pixels(PICTURES[:1])).numpy()
    assert np.allclose(features(PICTURES[:1]), wanted, atol=1e-5)
    with pytest.raises(UserError, match=r"not the file of dinov2: it has no 'blocks.12"):
        load_features("dinov2", weights=files["dinov2-s14"])


@pytest.fixture
def tower(tmp_path, monkeypatch) -> Path:
    """A file of random weights for an architecture of open_clip made small."""
    import open_clip
    from open_clip import factory

    small = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    monkeypatch.setitem(factory._MODEL_CONFIGS, TINY, small)
    path = tmp_path / "tower.pt"
    torch.save(open_clip.create_model(TINY, pretrained=None).state_dict(), path)
    return path


def test_image_towers_of_open_clip(tower):
    from cm3leon.clip import load_clip

    wanted = load_clip(f"{TINY}:{tower}").images(PICTURES)
    for features in (
        load_features(f"open_clip:{TINY}:{tower}"),
        load_features(f"open_clip:{TINY}", weights=tower),
    ):
        assert np.allclose(features(PICTURES), wanted, atol=1e-6)
        assert (features.name, features.dim, features.size) == (f"open_clip:{TINY}", 16, 32)
        assert features.digest == sha256_file(tower)
    assert np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-5)


def load_known(monkeypatch, name: str, path: Path) -> Features:
    monkeypatch.setenv(KNOWN[name].variable, str(path))
    return load_features(name, sha256="any")


def test_the_variable_and_the_cache_are_looked_at(home, files, published, monkeypatch):  # noqa: F811
    with pytest.raises(UserError) as error:
        load_features("inception-clean")
    told = str(error.value)
    assert "name their file, set CM3LEON_INCEPTION, or: curl -LO https://github.com" in told
    assert load_known(monkeypatch, "inception-jit", files["script"]).name == "inception-jit"
    place = roots()["torch"] / KNOWN["inception"].places[0].partition("/")[2]
    place.parent.mkdir(parents=True)
    place.symlink_to(files["inception"])
    assert load_features("inception-tf", sha256="any").dim == 2048
    with pytest.raises(UserError, match=r"dinov2-s14 here; name their file$"):
        load_features("dinov2-s14")


def test_a_digest_that_differs(files, published):
    digest = sha256_file(published)
    for fine in (digest, digest[:8], digest.upper(), "any", None):
        load_features("inception-jit", weights=published, sha256=fine)
    with pytest.raises(UserError) as error:
        load_features("inception", weights=files["inception"])
    told = str(error.value)
    assert "expected for inception is 6726825d; get it again: curl" in told and "\n" not in told
    with pytest.raises(UserError, match=r"expected for inception is 0123 .expect 'any'"):
        load_features("inception", weights=files["inception"], sha256="0123")
    with pytest.raises(UserError, match=r"expected for inception-jit is 0123$"):
        load_features("inception-jit", weights=published, sha256="0123")
    for wrong in ("", "xyz"):
        with pytest.raises(UserError, match="must be hexadecimal or 'any'"):
            load_features("inception-jit", weights=published, sha256=wrong)


class Harm(torch.nn.Module):
    """A TorchScript file that writes another file when it is opened."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), self.path)


@pytest.fixture
def harm(tmp_path) -> tuple[Path, Path]:
    """A weight file that does harm, and the file by which it can be seen."""
    path, seen = tmp_path / "harm.pt", tmp_path / "seen"
    torch.jit.save(torch.jit.script(Harm(str(seen))), str(path))
    seen.unlink(missing_ok=True)
    torch.jit.load(str(path))
    assert seen.exists()  # it would
    seen.unlink()
    return path, seen


@pytest.mark.parametrize(
    "name", ["inception", "inception-clean", "inception-jit", "dinov2-s14", "open_clip:ViT-B-32"]
)
@pytest.mark.parametrize("sha256", ["any", "own", None])
def test_no_program_is_run_but_the_pinned_one(harm, name, sha256):
    path, seen = harm
    sha256 = sha256_file(path) if sha256 == "own" else sha256
    with pytest.raises(UserError) as error:
        load_features(name, weights=path, sha256=sha256)
    assert not seen.exists() and "\n" not in str(error.value)


def test_files_that_are_not_it(files, tmp_path):
    torn = tmp_path / "torn.pth"
    torn.write_bytes(files["inception"].read_bytes()[:100_000])
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    listed = tmp_path / "list.pth"
    torch.save([torch.ones(2)], listed)
    narrow = tmp_path / "narrow.pt"
    torch.jit.save(torch.jit.script(Script(100)), str(narrow))
    (tmp_path / "empty").mkdir()
    for name, path, message in (
        ("inception", torn, "torn.pth is truncated"),
        ("inception", text, "text.pth"),
        ("inception", listed, "list.pth is no list of tensors by name"),
        ("inception", files["dinov2-s14"], "472 of 472 tensors are missing"),
        ("inception", files["script"], "script.pth"),
        ("inception", tmp_path / "none.pth", "none.pth; name their file"),
        ("inception", tmp_path / "empty", "empty holds no weights"),
        ("inception-jit", torn, "torn.pth is a program, which is run only where its SHA-256"),
        ("inception-jit", narrow, "published f58cb9b6ec323ed6, got"),
        ("dinov2-s14", files["inception"], "not the file of dinov2-s14"),
        ("open_clip:ViT-B-32", files["inception"], "cannot load CLIP ViT-B-32"),
        ("open_clip:no-such", files["inception"], "no CLIP 'no-such'"),
        ("pixels", files["inception"], "unknown features 'pixels'; there are: scenes, inception"),
    ):
        with pytest.raises(UserError) as error:
            load_features(name, weights=path, sha256="any")
        assert message in str(error.value) and "\n" not in str(error.value), (name, path)
    for path, message in (
        (files["inception"], "is not clean-fid's TorchScript"),
        (narrow, "another network than Inception of FID: 100 features"),
    ):
        with pytest.raises(UserError, match=message):
            feature_networks.program_features("inception-jit", path.read_bytes(), str(path))


def test_downloads_only_when_asked(home, files, monkeypatch):  # noqa: F811
    asked = []

    def fetched(url, path, prefix):
        asked.append((url, prefix))
        Path(path).write_bytes(files["inception"].read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    with pytest.raises(UserError, match="no weights for features inception here"):
        load_features("inception")
    assert not asked
    assert load_features("inception", download=True, sha256="any").dim == 2048
    assert asked == [(KNOWN["inception"].url, "6726825d")]
    load_features("inception", sha256="any")  # it lies where it is looked for
    assert len(asked) == 1

    def failing(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", failing)
    with pytest.raises(UserError, match=r"cannot download .* no route to host; try: curl"):
        load_features("inception-jit", download=True)
    with pytest.raises(UserError, match="repository of files; get it by: hf download"):
        load_features("open_clip:ViT-B-32", download=True)


def test_scenes_is_as_before(monkeypatch, tmp_path):
    from cm3leon.evaluation.features.scenes import load_network
    from cm3leon.files import baselines_folder

    folder = baselines_folder() / "scenes" / "features"
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    wanted = load_network(folder).embed(images)
    assert (load_features()(images) == wanted).all()
    assert (load_features("scenes", "cpu", folder)(images) == wanted).all()
    assert load_features()(PICTURES).shape == (3, 128)  # cropped: it has no resize of its own
    assert NAMES[0] == "scenes" and not load_features().any_size


@given(st.lists(st.integers(0, 9), max_size=9))
def test_reading_ahead_changes_nothing(items):
    assert list(read_ahead(iter(items))) == items


def test_the_next_batch_is_read_meanwhile():
    started = [threading.Event() for _ in range(4)]

    def batches():
        for event in started:
            event.set()
            yield np.zeros((1, 8, 8, 3), np.uint8)

    seen = 0

    def embed(images):
        nonlocal seen
        seen += 1
        if seen < 4:
            assert started[seen].wait(5)  # the next one is under way while this one is used
        return np.zeros((1, 2), np.float32)

    network = Features("other", "0" * 64, 2, 8, embed)
    assert extract(network, batches(), 4).shape == (4, 2)


def test_a_fault_of_the_reader_comes_through_and_its_thread_ends():
    def batches():
        yield 1
        raise UserError("a broken file")

    with pytest.raises(UserError, match="a broken file"):
        list(read_ahead(batches()))
    stopped = read_ahead(iter(range(100)))
    assert next(stopped) == 0
    stopped.close()
    end = time.monotonic() + 5
    while any(one.name.startswith("read-ahead") for one in threading.enumerate()):
        assert time.monotonic() < end
