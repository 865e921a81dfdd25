"""Pictures in an `.npz` that somebody else wrote; uncompressed arrays are mapped, not read.

Shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import check_unpacked

ALL = "arr_0"  # the array of all pictures, in ADM's form
LOCAL_HEADER = 30  # bytes of a zip member's own header before its name


def members(path: Path) -> list[str]:
    """Names of the arrays in the file."""
    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; name a folder or an .npz") from None


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
