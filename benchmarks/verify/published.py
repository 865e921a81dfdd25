"""Checks of `verify_fid` against published files and values; what is not here is named.

CIFAR-10: torch-fidelity's own test, 5,000 of the training pictures against 5,000 of the test ones,
each drawn by numpy's RandomState(2020) without replacement. Its data are read in the binary form,
which needs no pickle.

Shapes: N pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.verify.checks import Check, array_check, value_check
from cm3leon.errors import UserError
from cm3leon.evaluation.features.inception import DIM
from cm3leon.evaluation.features.network import Features, extract, load_features
from cm3leon.evaluation.features.statistics import import_statistics
from cm3leon.evaluation.metrics.inception_score import inception_score
from cm3leon.evaluation.metrics.precision_recall import precision_recall
from cm3leon.evaluation.statistics.frechet import frechet_distance, frechet_from_features
from cm3leon.files import sha256_file
from cm3leon.interop.known_weights import HASHED, KNOWN, find, how_to_get

CIFAR = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_FILES = {
    "train": tuple(f"data_batch_{index}.bin" for index in range(1, 6)),
    "test": ("test_batch.bin",),
}
SIDE, DRAWN, SEED = 32, 5000, 2020
FID, FID_LIMIT = 10.3233274, 1e-2  # its own limit across devices
SCORE, SCORE_LIMIT = 10.75051, 0.1  # its parts hang on the order of the files
COVERED, COVERED_LIMIT = (0.6852, 0.6908), 2e-3  # precision and recall, in ascending order
NETWORKS_AGREE = 1e-3  # pytorch-fid's port and NVIDIA's, of the largest feature
PUBLISHED_FFHQ = "clean-fid: 5,000 FFHQ against 5,000 StyleGAN2, FID 8.96687"


def published_checks(
    cifar: Path | None, statistics: tuple[Path, Path] | None, expected: float | None
) -> Iterator[Check]:
    """All of them, made or named."""
    for key in KNOWN:
        yield digest_check(key)
    yield networks_check()
    yield from cifar_checks(cifar)
    yield statistics_check(statistics, expected)
    way = "features of both sets by inception, then --statistics A.npz B.npz --expected 8.96687"
    yield Check(PUBLISHED_FFHQ, missing="both sets of pictures", way=way)


def digest_check(key: str) -> Check:
    """Whether the file that is found is the one its publisher names."""
    name, known, path = f"digest of weights {key}", KNOWN[key], find(key)
    if path is None:
        return lacks_weights(name, key)
    if not known.sha256:
        return Check(name, missing="a digest", way="its publisher names none")
    if not path.is_file() or path.stat().st_size > HASHED:
        return Check(
            name, missing="one file", way=f"{path} is a folder, or too large to check here"
        )
    if path.suffix not in (".pt", ".pth"):
        way = f"{path} is another form of it"
        return Check(name, missing="the publisher's own file", way=way)
    return Check(name, float(not sha256_file(path).startswith(known.sha256)), 0.0)


def lacks_weights(name: str, key: str) -> Check:
    """A check that was not made for want of known weights."""
    return Check(name, missing=f"weights {key}", way=how_to_get(key))


def networks_check() -> Check:
    """Two publishers' files of one network, on the same pixels."""
    name = "inception-clean against inception-jit"
    for key in ("inception", "inception-jit"):
        if find(key) is None:
            return lacks_weights(name, key)
    images = gradients()
    try:
        one, other = (load_features(key)(images) for key in ("inception-clean", "inception-jit"))
    except UserError as error:  # another digest: a failure of its own, above
        return Check(name, missing="weights as published", way=str(error))
    return array_check(name, other, one, NETWORKS_AGREE)


def gradients() -> np.ndarray:
    """Four smooth pictures that every machine makes alike, uint8 [4, 256, 256, 3]."""
    y, x = np.mgrid[:256, :256]
    waves = [np.stack([x, y, (x * k + y) % 256], -1) for k in (1, 2, 3, 5)]
    return np.stack(waves).astype(np.uint8)


def cifar_checks(
    root: Path | None, load: Callable[[], Features] = lambda: load_features("inception-tf")
) -> Iterator[Check]:
    """FID, Inception score, precision and recall of torch-fidelity's test on CIFAR-10."""
    names = ("FID", "Inception score", "precision and recall, the lower", "the higher")
    names = [f"torch-fidelity on CIFAR-10: {name}" for name in names]
    if root is None:
        what, way = "CIFAR-10 in binary form", f"unpack {CIFAR} and pass --cifar10 FOLDER"
        yield from (Check(name, missing=what, way=way) for name in names)
        return
    try:
        features = load()
    except UserError as error:  # not here, or of another digest: a failure of its own, above
        yield from (Check(name, missing="weights inception", way=str(error)) for name in names)
        return
    train_ND, test_ND = (
        extract(features, _pieces(drawn(read_cifar(root, part))), DRAWN, f"CIFAR-10 {part}")
        for part in CIFAR_FILES
    )
    yield value_check(names[0], FID, frechet_from_features(train_ND, test_ND), FID_LIMIT)
    order = np.random.RandomState(SEED).permutation(len(train_ND))
    score, _ = inception_score(features.logits(train_ND)[order])
    yield value_check(names[1], SCORE, score, SCORE_LIMIT)
    found = sorted(precision_recall(train_ND, test_ND))
    for name, wanted, value in zip(names[2:], COVERED, found, strict=True):
        yield value_check(name, wanted, value, COVERED_LIMIT)


def read_cifar(root: Path, part: str) -> np.ndarray:
    """uint8 [N, 32, 32, 3] of "train" or "test"; UserError for missing or torn files."""
    rows = []
    for name in CIFAR_FILES[part]:
        path = next((one for one in (root / name, root / "cifar-10-batches-bin" / name)
                     if one.is_file()), None)  # fmt: skip
        if path is None:
            raise UserError(f"{root} has no {name}; unpack {CIFAR} there")
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if not len(data) or len(data) % (1 + 3 * SIDE**2):
            raise UserError(f"{path} is truncated: {len(data)} bytes; get {CIFAR} again")
        rows.append(data.reshape(-1, 1 + 3 * SIDE**2)[:, 1:])  # a label before each picture
    return np.concatenate(rows).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def drawn(images_NHW3: np.ndarray) -> np.ndarray:
    """The pictures that torch-fidelity's script draws."""
    if len(images_NHW3) < DRAWN:
        raise UserError(f"CIFAR-10 must have at least {DRAWN} pictures, got {len(images_NHW3)}")
    return images_NHW3[np.random.RandomState(SEED).choice(len(images_NHW3), DRAWN, replace=False)]


def _pieces(images_NHW3: np.ndarray, size: int = 32) -> Iterator[np.ndarray]:
    for start in range(0, len(images_NHW3), size):
        yield images_NHW3[start : start + size]


def statistics_check(paths: tuple[Path, Path] | None, expected: float | None) -> Check:
    """FID of two files of moments as pytorch-fid and clean-fid write them, with a known value."""
    name = "FID of two files of moments"
    if paths is None or expected is None:
        way = "two .npz with mu and sigma: --statistics A.npz B.npz --expected FID"
        return Check(name, missing="moments of known FID", way=way)
    one, other = (import_statistics(path, DIM) for path in paths)
    found = frechet_distance(one.mu, one.sigma, other.mu, other.sigma, check=False)
    return value_check(name, expected, found, 1e-4 * abs(expected) + 1e-6)
