"""Whether what lies on disk is still what it was: content decides, and a cheap look comes first.

A `stamp` of files (sizes, times, inodes) that is still the same says that nobody touched them.
Where it differs a digest of the content decides. What is written to be read again carries its
digest: JSON in a `seal`, arrays in `write_array`, other files beside the name of their digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import read_file, sha256_bytes, sha256_file, write_atomic

SETTLED = 2_000_000_000  # ns; the coarsest clock of a file system in use
READERS = 4  # threads that read files meanwhile
END = b"sha256:"  # before the digest behind an array


def stamp(paths: Iterable[str | Path]) -> str:
    """What a cheap look tells of files, in their order; one that is not there is told as such.

    The change time is part of it, which no program can set back: a file that was replaced by one of
    the same size and date shows too. Empty where a file changed within the last two seconds: its
    next change might not show, so such a stamp is equal to none.
    """
    digest, newest = hashlib.sha256(), 0
    for path in paths:
        try:
            found = os.stat(path)
        except OSError as error:
            facts = (error.errno,)
        else:
            facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(repr(facts).encode())
    return "" if newest > time.time_ns() - SETTLED else digest.hexdigest()


def same_stamp(old: str, new: str) -> bool:
    """Whether two stamps say that nothing changed in between."""
    return bool(old) and old == new


def joined(parts: Iterable[str | bytes]) -> str:
    """Hex SHA-256 of texts and bytes in order; no two lists of parts have the same."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def check_file(path: Path, sha256: str, way_out: str) -> None:
    """Raise UserError, which ends in `way_out`, unless a file's digest is `sha256`.

    A file is read once in a process, and again only when its stamp differs.
    """
    try:
        found = os.stat(path)
        facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest = _digest(os.path.realpath(path), facts)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {way_out}") from None
    if digest != sha256:
        raise UserError(
            f"{path} is damaged: its digest is {digest[:12]}, not {sha256[:12]}; {way_out}"
        )


@lru_cache(maxsize=2**16)
def _digest(path: str, facts: tuple) -> str:
    return sha256_file(path)


def seal(content: dict, **beside) -> str:
    """JSON text of an object with the digest that `unseal` checks; `beside` is in no digest."""
    sealed = {"sha256": sha256_bytes(_plain(content)), "content": content}
    return json.dumps(beside | sealed) + "\n"


def unseal(path: Path, way_out: str) -> dict:
    """The content of a sealed file; UserError, which ends in `way_out`, when it is damaged."""
    try:
        about = json.loads(read_file(path))
        content, digest = about["content"], about["sha256"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {way_out}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged, or not what it is taken for; {way_out}") from None
    if not isinstance(content, dict) or sha256_bytes(_plain(content)) != digest:
        raise UserError(f"{path} is damaged: its digest does not fit its content; {way_out}")
    return content


def read_sealed(path: Path, format: int, way_out: str) -> dict:
    """As `unseal`, of a file with a "format"; UserError for another, also an old one unsealed."""
    try:
        plain = json.loads(read_file(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name an existing one") from None
    except (ValueError, RecursionError):
        plain = None
    content = plain
    if not isinstance(plain, dict) or "content" in plain or "format" not in plain:
        content = unseal(path, way_out)
    if content.get("format") != format:
        found = content.get("format")
        raise UserError(f"{path.parent} has format {found}, this version reads {format}; {way_out}")
    return content


def _plain(content: dict) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy, behind it the digest of the file's name and bytes, atomically."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_atomic(path, data + END + joined([path.name, data]).encode())


def read_array(path: Path) -> np.ndarray | None:
    """An array of `write_array`; None where there is no file, or none that is whole."""
    try:
        data, _, digest = read_file(path).rpartition(END)
    except FileNotFoundError:
        return None
    if joined([path.name, data]).encode() != digest:
        return None
    return np.load(BytesIO(data), allow_pickle=False)


def contents(paths: Iterable[Path]) -> Iterator[str | None]:
    """SHA-256 of each file in order; None for one that cannot be read.

    A size or a time would do for most, but not for a file that was repaired in place or unpacked
    with the times of its archive; reading it is little beside a network's features.
    """

    with ThreadPoolExecutor(READERS) as pool:
        return iter(list(pool.map(content, paths)))


def content(path: Path) -> str | None:
    """SHA-256 of a file, None for one that cannot be read; what is seen again is not read again.

    Seen again is a file that nobody wrote to since, by the time that no program can set (ctime).
    """
    try:
        found = path.stat()
        if time.time_ns() - found.st_ctime_ns < SETTLED:  # two writes may share a tick
            return sha256_file(path)
        return _content(path, found.st_ino, found.st_size, found.st_ctime_ns)
    except OSError:
        return None


@lru_cache(2**18)
def _content(path: Path, *_: int) -> str:
    return sha256_file(path)
