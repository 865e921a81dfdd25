"""Published feature networks, each from a file: where it is, whether it is the one, how it is used.

A file is the one that the caller names, else that of the environment variable, else where the
libraries keep what they fetched (`interop.known_weights`). It must have the published SHA-256, or
the one the caller expects; "any" takes whatever it is, and the digest in the protocol tells. What
is not here is fetched only when asked for. No pickle runs, and of programs (TorchScript) only the
one whose SHA-256 is pinned in `KNOWN`; "any" does not change that.

Shapes: B pictures of a batch, H x W pixels, D features.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import Features
from cm3leon.files import sha256_bytes, sha256_file
from cm3leon.interop.known_weights import KNOWN, find, how_to_get, roots

if TYPE_CHECKING:
    from torch import Tensor

INCEPTIONS = {  # name -> its resize; all are the same weights
    "inception": "bilinear",
    "inception-clean": "clean",
    "inception-tf": "tensorflow",
}
TOWER = "open_clip:"
TOWERS = {  # architecture -> known weights
    "ViT-B-32": "clip",
    "ViT-B-32-quickgelu": "clip-openai",
    "ViT-L-14-336-quickgelu": "clip-openai-l14-336",
}
PROGRAM = "inception-jit"  # its file is a program, and run
DTYPES = ("float32", "bfloat16")
ANY = "any"
CHUNK = 32  # pictures at once on a GPU; moves memory and speed, numbers by rounding
CPU_CHUNK = 8  # small enough to stay in the caches: a tenth faster than 32
HEXADECIMAL = set("0123456789abcdef")


def load_network(
    name: str,
    device: str,
    weights: Path | None,
    sha256: str | None,
    download: bool,
    dtype: str,
) -> Features:
    """The network of that name; see `features.load_features`."""
    if dtype not in DTYPES or (dtype != "float32" and name not in INCEPTIONS):
        raise UserError(f"features {name} are not computed in {dtype}; leave dtype at float32")
    if name.startswith(TOWER):
        return _tower(name, device, weights, sha256, download)
    key = "inception" if name in INCEPTIONS else name if name in KNOWN else None
    path, digest = checked_file(name, key, weights, sha256, download)
    if name in INCEPTIONS:
        return _inception(name, path, digest, device, dtype)
    return (_jit if name == PROGRAM else _dino)(name, path, digest, device)


def checked_file(
    name: str, key: str | None, weights: Path | None, sha256: str | None, download: bool
) -> tuple[Path, str]:
    """(the file, or folder, of these weights; its SHA-256). Raises UserError as one line.

    `key` names them in `known_weights.KNOWN`; None: nothing is known, and a path must be given.
    """
    if sha256 not in (None, ANY) and not (sha256 and set(sha256.lower()) <= HEXADECIMAL):
        raise UserError(f"the expected SHA-256 must be hexadecimal or {ANY!r}, got {sha256!r}")
    path = weights or (find(key) if key else None)
    if path is None and key and download:
        path = fetch(key)
    if path is None:
        way = f", set {KNOWN[key].variable}, or: {how_to_get(key)}" if key else ""
        raise UserError(f"no weights for features {name} here; name their file{way}")
    path = Path(path)
    if not path.exists():
        raise UserError(f"no weights for features {name} at {path}; name their file")
    digest = folder_digest(path) if path.is_dir() else sha256_file(path)
    known = KNOWN[key].sha256 if key else ""
    wanted = (known if sha256 is None else sha256).lower()
    if wanted != ANY and not digest.startswith(wanted):
        again = f"; get it again: {how_to_get(key)}" if key and sha256 is None else ""
        unless = "" if key == PROGRAM else f" (expect {ANY!r} to use it as it is)"
        raise UserError(
            f"{path} has SHA-256 {digest[:16]}, expected for {name} is {wanted[:16]}{again}{unless}"
        )
    return path, digest


def folder_digest(folder: Path) -> str:
    """One SHA-256 of the weight files of a folder."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    if not files:
        raise UserError(f"{folder} holds no weights; name a file of weights")
    return sha256_bytes("\n".join(sha256_file(path) for path in files).encode())


def fetch(key: str) -> Path:
    """Download these weights to where they are looked for; the libraries' own download.

    Raises UserError where that fails, a digest differs, or they are a repository of several files.
    """
    import torch

    known = KNOWN[key]
    root, _, place = known.places[0].partition("/")
    if "*" in place:
        raise UserError(f"{key} is a repository of files; get it by: {how_to_get(key)}")
    path = roots()[root.strip("{}")] / place
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(known.url, str(path), known.sha256 or None)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot download {known.url}: {reason}; try: {how_to_get(key)}") from None
    return path


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name; UserError where it holds something else."""
    import torch

    from cm3leon.safe_load import read_weights

    found = read_weights(path)
    if not isinstance(found, Mapping) or not all(torch.is_tensor(one) for one in found.values()):
        raise UserError(f"{path} is no list of tensors by name; name the published weights")
    return dict(found)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Convolutions in whole float32: GPUs would round their inputs to TF32's ten bits unasked."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def in_chunks(images_BHW3: np.ndarray, dim: int, one, device: str = "cpu") -> np.ndarray:
    """Float32 [B, D] of `one(pictures) -> Tensor [b, D]`, a chunk after the other."""
    import torch

    rows, chunk = [np.zeros((0, dim), np.float32)], CPU_CHUNK if device == "cpu" else CHUNK
    with torch.inference_mode(), exact():
        for start in range(0, len(images_BHW3), chunk):
            rows.append(one(images_BHW3[start : start + chunk]).float().cpu().numpy())
    return np.concatenate(rows)


def _inception(name: str, path: Path, digest: str, device: str, dtype: str) -> Features:
    from cm3leon.evaluation.features import inception
    from cm3leon.evaluation.features.resize import RESIZES

    resize = RESIZES[INCEPTIONS[name]]
    weights = inception.check_weights(tensors(path), str(path))
    head_KD = weights["fc.weight"].numpy()

    def embedding(net):
        def one(images_BHW3: np.ndarray):
            return inception.pool3(net, resize(images_BHW3, device))

        return lambda images_BHW3: in_chunks(images_BHW3, inception.DIM, one, device)

    embed, warning = embedding(inception.fastest(weights, device, dtype)), ""
    if dtype != "float32":
        error = _error(embed, embedding(inception.fastest(weights, device)))
        warning = f"{name} in {dtype}: features differ by {error:.2g} of the largest on noise"
        name = f"{name}-{dtype}"
    return Features(
        name, digest, inception.DIM, inception.SIDE, embed, True,
        logits=lambda features_BD: features_BD @ head_KD.T, warning=warning,
    )  # fmt: skip


def _error(embed, exact) -> float:
    """Largest difference of two embeddings of one picture of noise, against the largest value."""
    from cm3leon.seeds import generator

    images = generator(0, "noise").integers(0, 256, (1, 64, 64, 3), np.uint8)
    wanted = exact(images)
    return float(np.abs(embed(images) - wanted).max() / np.abs(wanted).max())


def _jit(name: str, path: Path, digest: str, device: str) -> Features:
    wanted = KNOWN[name].sha256
    data = path.read_bytes() if digest == wanted else b""
    if not data or sha256_bytes(data) != wanted:  # what is run are these bytes
        raise UserError(
            f"{path} is a program, which is run only where its SHA-256 is the published "
            f"{wanted[:16]}, got {digest[:16]}; get it by: {how_to_get(name)} (or use "
            "inception-clean, which reads tensors alone)"
        )
    return program_features(name, data, str(path), device)


def program_features(name: str, data: bytes, path: str, device: str = "cpu") -> Features:
    """Features of the bytes of a TorchScript file in clean-fid's form.

    Its program is run, so whoever calls this answers for the bytes; `path` is for messages.
    """
    from io import BytesIO

    import torch

    from cm3leon.evaluation.features.inception import DIM, SIDE
    from cm3leon.evaluation.features.resize import clean

    try:
        with warnings.catch_warnings():  # torch would rather load another format
            warnings.simplefilter("ignore", FutureWarning)
            layers = torch.jit.load(BytesIO(data), map_location=device).eval().layers
        with torch.inference_mode():
            width = layers(torch.zeros(1, 3, SIDE, SIDE, device=device)).flatten(1).shape[1]
    except Exception as error:  # TorchScript raises many kinds for files that do not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise UserError(f"{path} is not clean-fid's TorchScript: {reason[:160]}") from None
    if width != DIM:
        raise UserError(f"{path} is another network than Inception of FID: {width} features")

    def one(images_BHW3: np.ndarray):
        return layers(clean(images_BHW3, device)).flatten(1)

    digest = sha256_bytes(data)
    return Features(name, digest, DIM, SIDE, lambda x: in_chunks(x, DIM, one, device), True)


def _dino(name: str, path: Path, digest: str, device: str) -> Features:
    from cm3leon.evaluation.features import dino

    dim = dino.ARCHITECTURES[name][2]
    network = dino.load_dino(name, tensors(path), str(path), device)

    def one(images_BHW3: np.ndarray):
        return network(dino.pixels(images_BHW3).to(device))

    return Features(name, digest, dim, dino.SIDE, lambda x: in_chunks(x, dim, one, device), True)


def _tower(
    name: str, device: str, weights: Path | None, sha256: str | None, download: bool
) -> Features:
    """The image tower of a CLIP, `open_clip:ARCHITECTURE` or `open_clip:ARCHITECTURE:FILE`."""
    from cm3leon.evaluation.features.towers import load_tower

    architecture, _, file = name.removeprefix(TOWER).partition(":")
    weights = weights or (Path(file) if file else None)
    name = f"{TOWER}{architecture}"
    path, digest = checked_file(name, TOWERS.get(architecture), weights, sha256, download)
    clip = load_tower(architecture, path)
    clip.model.to(device)
    size = clip.model.visual.image_size
    side = size if isinstance(size, int) else size[0]

    def embed(images_BHW3: np.ndarray) -> np.ndarray:
        with exact():
            return clip.images(images_BHW3)

    return Features(name, digest, clip.width, side, embed, True)
