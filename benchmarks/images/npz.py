"""Pictures somebody else drew, in one `.npz`: `--images FILE.npz`.

Either `arr_0`, uint8 [N, H, W, 3] in the order of the prompts (ADM's form; `arr_1` and on are
ignored), or one array uint8 [H, W, 3] an image id. Uncompressed arrays are mapped, not read.

Shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.images.generated import Pictures, by_image_id
from benchmarks.protocols.prompts import Prompt
from cm3leon.errors import UserError
from cm3leon.files import check_unpacked
from cm3leon.images import crop_square

ALL = "arr_0"
LOCAL_HEADER = 30  # bytes of a zip member's own header before its name


def from_npz(path: str | Path, prompts: Sequence[Prompt], size: int) -> Pictures:
    """The pictures in the order of `prompts`, cropped to a square of `size` pixels.

    Raises UserError for a torn file, floats, another shape, and fewer pictures than prompts; more
    of them are reported as extra.
    """
    path = Path(path)
    keys = members(path)
    if ALL in keys:
        images_NHW3 = checked(array(path, ALL), path, ALL, 4)
        if len(images_NHW3) < len(prompts):
            raise UserError(
                f"{path} has {len(images_NHW3)} pictures for {len(prompts)} prompts; draw the rest"
            )
        names = tuple(path / str(row) for row in range(len(prompts)))
        extra = tuple(f"{path.name}[{row}]" for row in range(len(prompts), len(images_NHW3)))
        return Pictures(
            names,
            lambda name: crop_square(np.array(images_NHW3[int(name.name)]), size),
            reused=len(names),
            extra=extra,
        )
    chosen, extra = by_image_id(keys, prompts, path)

    def read(name: Path) -> np.ndarray:
        return crop_square(checked(array(path, name.name), path, name.name, 3), size)

    names = tuple(path / keys[place] for place in chosen)
    return Pictures(names, read, reused=len(names), extra=tuple(keys[place] for place in extra))


def members(path: Path) -> list[str]:
    """Names of the arrays in the file."""
    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; --images takes a folder or .npz") from None


def array(path: Path, key: str) -> np.ndarray:
    """One array of the file; mapped where it lies uncompressed. UserError when torn or pickled."""
    check_unpacked(path, {f"{key}.npy"})
    try:
        return mapped(path, key)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is torn at {key!r}: {error}; write it again") from None


def mapped(path: Path, key: str) -> np.ndarray:
    """`numpy.load(path)[key]`, without reading it where that can be avoided."""
    with zipfile.ZipFile(path) as file:
        member = file.getinfo(f"{key}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[key]
        with file.open(member) as inside:
            version = np.lib.format.read_magic(inside)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(inside)
            header = inside.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    with open(path, "rb") as raw:
        raw.seek(member.header_offset + 26)
        lengths = [int.from_bytes(raw.read(2), "little") for _ in range(2)]
    offset = member.header_offset + LOCAL_HEADER + sum(lengths) + header
    order = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", offset, shape, order)


def checked(images: np.ndarray, path: Path, key: str, axes: int) -> np.ndarray:
    """The array itself, if it is uint8 of `axes` axes, the last one RGB."""
    wanted = "[N, H, W, 3]" if axes == 4 else "[H, W, 3]"
    found = f"{images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8:
        raise UserError(
            f"{path}: {key} must be uint8 {wanted}, got {found}; scale, round and cast it"
        )
    if images.ndim != axes or images.shape[-1] != 3 or not all(images.shape[-3:]):
        raise UserError(f"{path}: {key} must be uint8 {wanted}, got {found}")
    return images
