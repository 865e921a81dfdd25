"""Checks of `verify_fid` that need no published file: small ones with random weights are made.

Every file has the published layout, names and shapes, and goes through `load_features`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.verify.checks import Check, array_check, refusal_check
from cm3leon.clip import quiet
from cm3leon.evaluation.features.network import load_features
from cm3leon.evaluation.features.published import program_features
from cm3leon.seeds import generator, torch_default

SAME = 2e-6  # Fast against Plain, of the largest feature
ORACLE = 1e-4  # against other people's network
INSTALL = "pip install -e '.[bench]'"
DINO, TOWER = "dinov2-s14", "ViT-S-32-alt"  # the smallest of their kind; the larger have its layout


def pictures(count: int = 2, height: int = 64, width: int = 80) -> np.ndarray:
    """Noise, uint8 [count, height, width, 3]."""
    return generator(0, "verify").integers(0, 256, (count, height, width, 3), np.uint8)


def made_checks(folder: Path) -> Iterator[Check]:
    """All of them; files are written to `folder` (0.4 GB)."""
    import torch

    from cm3leon.evaluation.features.inception import random_weights

    weights, path = random_weights(), folder / "inception.pth"
    torch.save(weights, path)
    yield from inception_checks(weights, path)
    yield from resize_checks()
    yield from script_checks(weights, path, folder / "inception.pt")
    yield from dino_checks(folder / "dinov2.pth")
    yield from tower_checks(folder / "tower.pt")
    yield from refusals(path, folder)


def inception_checks(weights: dict, path: Path) -> Iterator[Check]:
    """Fast against plain for each resize; plain against pytorch-fid's network."""
    import torch

    from cm3leon.evaluation.features.inception import Plain, pool3
    from cm3leon.evaluation.features.published import INCEPTIONS
    from cm3leon.evaluation.features.resize import RESIZES

    images, plain = pictures(), Plain(weights)
    for name, way in INCEPTIONS.items():
        with torch.inference_mode():
            wanted = pool3(plain, RESIZES[way](images)).numpy()
        found = load_features(name, weights=path, sha256="any")(images)
        yield array_check(f"{name}: made file, fast against plain", wanted, found, SAME)
    name = "inception: against pytorch-fid's network"
    try:
        network = their_network(weights)
    except ImportError as error:
        yield Check(name, missing=f"the package {error.name}", way=INSTALL)
        return
    x_BCHW = RESIZES["bilinear"](images)
    with torch.inference_mode():
        kept: list = []
        network.avgpool.register_forward_hook(lambda *event: kept.append(event[-1].flatten(1)))
        logits = network(x_BCHW).numpy()
        found = pool3(plain, x_BCHW)
    yield array_check(name, kept[0].numpy(), found.numpy(), ORACLE)
    ours = (found @ weights["fc.weight"].T + weights["fc.bias"]).numpy()
    yield array_check("inception: its 1,008 logits", logits, ours, ORACLE)


def their_network(weights: dict):
    """pytorch-fid's network as clean-fid carries it, with these weights; nothing is fetched."""
    import warnings
    from unittest.mock import patch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about how clean-fid calls it
        from cleanfid import inception_pytorch

        with patch.object(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: weights):
            return inception_pytorch.fid_inception_v3().eval()


def resize_checks() -> Iterator[Check]:
    """Ours against the libraries' own, on pictures that grow and that shrink."""
    import torch

    from cm3leon.evaluation.features.resize import RESIZES

    for height, width in ((64, 80), (400, 310)):
        images = pictures(1, height, width)
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
        wanted = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear")
        found = RESIZES["bilinear"](images)
        name = f"of {height} x {width}"
        yield array_check(f"resize bilinear {name}", 2 * wanted - 1, found, 1e-6, False)
        name = f"resize clean {name}, against clean-fid"
        try:
            from cleanfid.resize import build_resizer
        except ImportError:
            yield Check(name, missing="the package cleanfid", way=INSTALL)
            continue
        theirs = build_resizer("clean")(images[0]).transpose(2, 0, 1)[None]
        yield array_check(name, (theirs - 128) / 128, RESIZES["clean"](images), 1e-6, False)


def script_checks(weights: dict, path: Path, script: Path) -> Iterator[Check]:
    """The TorchScript of the same weights must give what the other file gives."""
    write_script(weights, script)
    images = pictures()
    wanted = load_features("inception-clean", weights=path, sha256="any")(images)
    found = program_features("inception-jit", script.read_bytes(), str(script))(images)
    yield array_check("inception-jit: made file, against inception-clean", wanted, found, ORACLE)


def write_script(weights: dict, path: Path) -> None:
    """A TorchScript file of the form of clean-fid's: a module with `layers`, traced."""
    import warnings

    import torch

    from cm3leon.evaluation.features.inception import Plain, pool3

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Plain(weights)

        def forward(self, x_BCHW):
            return pool3(self.net, x_BCHW)

    class Whole(torch.nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x_BCHW):
            return self.layers(x_BCHW)

    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # torch would rather save another format
        example = torch.zeros(1, 3, 299, 299)
        layers = torch.jit.trace(Layers(), example, check_trace=False)
        torch.jit.save(torch.jit.trace(Whole(layers), example, check_trace=False), str(path))


def dino_checks(path: Path) -> Iterator[Check]:
    """A file of DINOv2's layout: batches of one give what a batch of two gives."""
    import torch

    from cm3leon.cli.doctor import installed
    from cm3leon.evaluation.features.dino import random_weights

    name = f"{DINO}: made file, alone and in a batch"
    if not installed("timm"):
        yield Check(name, missing="the package timm", way="pip install timm")
        return
    torch.save(random_weights(DINO), path)
    features, images = load_features(DINO, weights=path), pictures()
    alone = np.concatenate([features(images[k : k + 1]) for k in range(2)])
    yield array_check(name, alone, features(images), 1e-5)


def tower_checks(path: Path) -> Iterator[Check]:
    """A file of an open_clip architecture, against open_clip called directly."""
    import open_clip
    import torch
    from PIL import Image

    with torch_default(0, "tower"), quiet():  # it warns that nothing was loaded
        model, _, transform = open_clip.create_model_and_transforms(TOWER, pretrained=None)
    torch.save(model.state_dict(), path)
    images = pictures()
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
        wanted = torch.nn.functional.normalize(model.eval().encode_image(pixels), dim=-1)
    found = load_features(f"open_clip:{TOWER}", weights=path)(images)
    yield array_check(f"open_clip:{TOWER}: made file, against open_clip", wanted, found, 1e-5)


def refusals(path: Path, folder: Path) -> Iterator[Check]:
    """Files that are not it end in one line."""
    torn = folder / "torn.pth"
    with open(path, "rb") as file:
        torn.write_bytes(file.read(1_000_000))
    for name, file in (
        ("inception", torn),
        ("inception", folder / "tower.pt"),
        ("inception-jit", path),
        (DINO, path),
        (f"open_clip:{TOWER}", path),
    ):
        kind = "a truncated file" if file == torn else "another network's file"
        yield refusal_check(
            f"{name}: refuses {kind}",
            lambda name=name, file=file: load_features(name, weights=file, sha256="any"),
        )
    yield refusal_check(
        "inception: refuses another digest", lambda: load_features("inception", weights=path)
    )
