"""Pictures to measure, in whatever form somebody has them.

    find_side("drawn/")            a folder, an archive (.zip, .tar), an .npz or .npy, or an array:
                                   a Listing, whose pictures are read one by one
    find_side("reference.npz")     mean and covariance (`features/statistics.py`): the path
    find_side(pictures)            anything that gives Pillow's or arrays in turn: an Iterator

Pictures that can be read in any order are taken in a seeded one: folders are sorted by class, and
the first n of them would be one class.

Shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cm3leon.data.npz import ALL, array, checked, members
from cm3leon.data.sources import MOST_BYTES, PICTURES, walk
from cm3leon.errors import UserError
from cm3leon.evaluation.features.cache import Listing
from cm3leon.files import read_file, sha256_bytes, sha256_file
from cm3leon.identity import contents
from cm3leon.images import check_picture, decode_picture, other_mode, read_picture, to_rgb
from cm3leon.seeds import generator

Source = str | os.PathLike[str] | np.ndarray | Iterable[Any]
FORMS = "a folder of pictures, a .zip or .tar of them, an .npz or .npy, or statistics (.npz)"
SQUEEZED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def find_side(source: Source, n: int | None = None) -> Listing | Path | Iterator[np.ndarray]:
    """At most `n` pictures (None: all) of a source as a listing, an iterator where they come one
    after the other, or the path of a file of statistics.

    Raises UserError for a path where none of these is, a damaged archive, an empty one, and arrays
    that are not uint8 [N, H, W, 3].
    """
    if isinstance(source, str | os.PathLike):
        return _of_path(Path(source), n)
    if hasattr(source, "__array__") and hasattr(source, "shape"):  # numpy's, torch's
        return _of_array(np.asarray(source), n)
    if not isinstance(source, Iterable):
        raise UserError(f"pictures must be {FORMS}, an array or an iterable, got {source!r:.60}")
    return _in_turn(source, n)


def _of_path(path: Path, n: int | None) -> Listing | Path:
    name = path.name.lower()
    if path.is_dir():
        return _of_folder(path, n)
    if not path.is_file():
        raise UserError(f"nothing is at {path}; name {FORMS}")
    if name.endswith(SQUEEZED):
        raise UserError(f"{path} is compressed as a whole; unpack it, or make it a .tar or a .zip")
    kinds: dict[str, Callable[[Path, int | None], Listing | Path]] = {
        ".zip": _of_zip, ".tar": _of_tar, ".npz": _of_npz, ".npy": _of_npy,
    }  # fmt: skip
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path} is none of these: {FORMS}")
    return kinds[path.suffix.lower()](path, n)


def _of_folder(folder: Path, n: int | None) -> Listing:
    found = walk(folder)
    if found.lost:
        raise UserError(f"{folder / found.lost[0].id}: {found.lost[0].reason}; mend or remove it")
    names = _some(found.pictures, n, folder)

    def read(place: int) -> tuple[np.ndarray, str]:
        path = folder / names[place]
        try:
            data = read_file(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        return decode_picture(data, path), other_mode(data)

    digests = contents([folder / name for name in names])
    stamps = [[name, digest] for name, digest in zip(names, digests, strict=True)]
    return Listing(str(folder), stamps, read, {}, lenient=True)


def _of_zip(path: Path, n: int | None) -> Listing:
    try:
        file = zipfile.ZipFile(path)
        sizes = {one.filename: one.file_size for one in file.infolist() if not one.is_dir()}
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{path} is no whole .zip: {error}; make it again") from None
    names = _some([name for name in sizes if _is_picture(name)], n, path)

    def data_of(place: int) -> bytes:
        try:
            return file.read(names[place])
        except Exception as error:  # zip, zlib and what is encrypted each have their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path}/{names[place]} is damaged: {reason}") from None

    return _of_archive(path, names, [sizes[name] for name in names], data_of)


def _of_tar(path: Path, n: int | None) -> Listing:
    try:
        with tarfile.open(path, "r:") as file:
            found = {one.name: one for one in file if one.isreg() and _is_picture(one.name)}
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no whole .tar: {error}; make it again") from None
    names = _some(list(found), n, path)

    def data_of(place: int) -> bytes:
        member = found[names[place]]
        with open(path, "rb") as raw:
            raw.seek(member.offset_data)
            return raw.read(member.size)

    return _of_archive(path, names, [found[name].size for name in names], data_of)


def _of_archive(
    path: Path, names: Sequence[str], sizes: Sequence[int], data_of: Callable[[int], bytes]
) -> Listing:
    """A listing of members of a file, whose digest stands for theirs."""

    def read(place: int) -> tuple[np.ndarray, str]:
        if sizes[place] > MOST_BYTES:
            raise UserError(f"{path}/{names[place]} says that it has {sizes[place]:,} bytes")
        data = data_of(place)
        return decode_picture(data, f"{path}/{names[place]}"), other_mode(data)

    whole = sha256_file(path)
    return Listing(str(path), [[name, whole] for name in names], read, {}, lenient=True)


def _of_npz(path: Path, n: int | None) -> Listing | Path:
    keys = members(path)
    if {"mu", "sigma"} <= set(keys):
        return path
    if ALL in keys:
        return _of_rows(path, checked(array(path, ALL), path, ALL, 4), n)
    names = _some(keys, n, path)
    whole = sha256_file(path)

    def read(place: int) -> tuple[np.ndarray, str]:
        return np.array(checked(array(path, names[place]), path, names[place], 3)), ""

    return Listing(str(path), [[name, whole] for name in names], read, {}, lenient=True)


def _of_npy(path: Path, n: int | None) -> Listing:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no whole .npy of numbers: {error}") from None
    return _of_rows(path, checked(found, path, "it", 4), n)


def _of_rows(path: Path, images_NHW3: np.ndarray, n: int | None) -> Listing:
    rows, whole = _some(range(len(images_NHW3)), n, path), sha256_file(path)
    stamps = [[row, whole] for row in rows]
    return Listing(str(path), stamps, lambda place: (np.array(images_NHW3[rows[place]]), ""), {})


def _of_array(images: np.ndarray, n: int | None) -> Listing:
    shape = list(images.shape)
    if images.dtype != np.uint8 or images.ndim != 4 or shape[3] != 3 or 0 in shape[1:]:
        raise UserError(
            f"pictures must be uint8 [N, H, W, 3], got {images.dtype} {shape}; scale to 0..255, "
            "round and cast them, colours last"
        )
    rows = _some(range(len(images)), n, "the array")
    stamps = [[place, sha256_bytes(images[row].tobytes())] for place, row in enumerate(rows)]
    return Listing("array", stamps, lambda place: (np.array(images[rows[place]]), ""), {})


def _in_turn(source: Iterable[Any], n: int | None) -> Iterator[np.ndarray]:
    """At most n pictures of an iterable as uint8 [H, W, 3]."""
    for place, one in enumerate(source):
        if place == n:
            return
        yield as_picture(one, place)


def as_picture(one: Any, place: int = 0) -> np.ndarray:
    """Uint8 [H, W, 3] of a picture of Pillow's, an array of that form, or a file's path."""
    from PIL import Image

    if isinstance(one, str | os.PathLike):
        return read_picture(Path(one))
    if isinstance(one, Image.Image):
        return np.array(to_rgb(one))
    found = np.asarray(one)
    try:
        check_picture(found)
    except UserError as error:
        raise UserError(f"picture {place}: {error}") from None
    return found


def _is_picture(name: str) -> bool:
    """Whether a member of an archive is a picture, and none of macOS's shadows."""
    path = PurePosixPath(name)
    hidden = path.name.startswith("._") or "__MACOSX" in path.parts
    return path.suffix.lower() in PICTURES and not hidden


def _some(names: Sequence, n: int | None, where: object) -> list:
    """At most n of the names, of a seeded order."""
    if not len(names):
        raise UserError(f"{where} holds no pictures; name {FORMS}")
    ordered = names if isinstance(names, range) else sorted(names)
    order = generator(0, "score", "order", len(ordered)).permutation(len(ordered))
    return [ordered[place] for place in order[:n]]
