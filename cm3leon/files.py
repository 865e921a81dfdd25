"""Files at the rim: atomic writes, digests, and where the shipped weights lie."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cm3leon.errors import UserError

TEMPORARY = ".cm3leon"  # how the names of unfinished files end
LEFT = 60.0  # seconds after which one without a lock is a leftover
_cleaned: set[str] = set()  # folders in which this process has looked for leftovers


def write_atomic(path: str | Path, data: bytes | str, durable: bool = True) -> Path:
    """Write `data` so that `path` holds the old bytes or the new ones, never a part.

    Parent folders are made. Not `durable`: the bytes may be lost, or torn, when the machine itself
    stops, not when the process does; for what is checked when it is read and can be made again.
    Raises UserError (full disk, no permission) and leaves nothing behind.
    """
    with atomic_file(path, durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return Path(path)


@contextlib.contextmanager
def atomic_file(path: str | Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file to write into that becomes `path` when the `with` block ends without an error.

    For what is too large to hold as bytes; otherwise as `write_atomic`.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        handle, temporary = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
        with os.fdopen(handle, "wb") as file:
            _lock(file)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if not isinstance(error, OSError):  # an interrupt: pass it on
            raise
        reason = error.strerror or error
        raise UserError(
            f"cannot write {path}: {reason}; free space or choose another folder"
        ) from None


def write_new(path: str | Path, data: bytes | str) -> bool:
    """Write `data` whole to a path that must not exist yet; whether that was so.

    Of several processes that want one path exactly one gets it. Raises UserError as `write_atomic`.
    """
    path = Path(path)
    temporary = write_atomic(path.with_name(f".{path.name}.{os.getpid()}.new"), data)
    try:
        os.link(temporary, path)  # other than a rename it never replaces
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            os.replace(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; choose another folder"
            ) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return True


def check_writable(folder: str | Path) -> None:
    """Raise UserError unless files can be written below a folder, which need not exist yet.

    Leaves nothing behind: asked before work of hours, whose end writes there.
    """
    folder = Path(folder)
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        handle, probe = tempfile.mkstemp(dir=place, prefix=".probe.")
        try:
            os.write(handle, b"\0" * 4096)
        finally:
            os.close(handle)
            os.unlink(probe)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write into {folder}: {reason}; choose another folder") from None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of unfinished files; once a process for each folder.

    Who writes holds a lock on the file, which ends with the process: what has none, and is older
    than the moment between making and locking it, belongs to nobody.
    """
    place = os.path.abspath(folder)
    if place in _cleaned:
        return
    _cleaned.add(place)
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > LEFT and _lock(file):
                path.unlink()


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed; whether that went."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # not on Windows; a file system without locks; in use
        return False
    return True


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def baselines_folder() -> Path:
    """The folder of shipped baselines: `$CM3LEON_BASELINES`, else `baselines/` of the checkout."""
    named = os.environ.get("CM3LEON_BASELINES")
    folder = Path(named) if named else Path(__file__).resolve().parents[1] / "baselines"
    if not folder.is_dir():
        raise UserError(f"no baselines folder at {folder}; set CM3LEON_BASELINES to one")
    return folder
