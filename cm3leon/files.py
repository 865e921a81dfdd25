"""Files at the rim: atomic writes, digests, and where the shipped weights lie."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
import time
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from cm3leon.errors import UserError

TEMPORARY = ".cm3leon"  # how the names of unfinished files end
STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
MOST_UNPACKED = 2**31  # bytes of what lies compressed in a .npz or an archive of weights
SHIPPED, TUNED = "scenes-s", "scenes-s-tuned"  # models that commands take where none is named
LEFT = 60.0  # seconds after which one without a lock is a leftover
_cleaned: set[str] = set()  # folders in which this process has looked for leftovers


def write_atomic(path: str | Path, data: bytes | str, durable: bool = True) -> Path:
    """Write `data` so that `path` holds the old bytes or the new ones, never a part.

    Parent folders are made; of a link its target is written, and what is no regular file (a device,
    a pipe) is written into. Not `durable`: the bytes may be lost, or torn, when the machine itself
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
        if special(path):
            with open(path, "wb") as file:
                yield file
            return
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        handle, temporary = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
        with os.fdopen(handle, "wb") as file:
            _lock(handle)
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
    mine = f"{os.getpid()}-{threading.get_ident()}"
    temporary = write_atomic(path.with_name(f".{path.name}.{mine}.new"), data)
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
    """Remove what killed processes left of unfinished files and folders; once a process for each
    folder.

    Who writes holds a lock on the file, which ends with the process: what has none, and is older
    than the moment between making and locking it, belongs to nobody.
    """
    place = os.path.abspath(folder)
    if place in _cleaned:
        return
    _cleaned.add(place)
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError), _opened(path) as handle:
            if time.time() - os.fstat(handle).st_mtime > LEFT and _lock(handle):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The handle of a file, or of a folder where the system opens those."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; whether that went."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # not on Windows; a file system without locks; in use
        return False
    return True


def check_free(folder: Path) -> None:
    """Raise UserError where something of that name is there already."""
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} exists; name a new folder")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes `out` when the block ends without an error, else vanishes.

    Raises UserError where `out` is there already, and for a full disk.
    """
    temporary, held = None, contextlib.ExitStack()
    try:
        check_free(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent)
        temporary = Path(tempfile.mkdtemp(TEMPORARY, f".{out.name}.", out.parent))
        with contextlib.suppress(OSError):  # Windows opens no folders
            _lock(held.enter_context(_opened(temporary)))
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(0o644)
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        temporary.chmod(0o755)
        check_free(out)
        os.rename(temporary, out)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {out}: {reason}; free space or choose another") from None
    finally:
        held.close()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def special(path: Path) -> bool:
    """Whether a path is what no file may take the place of: a device, a pipe, a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    kernels = path.is_symlink() and str(path.absolute()).startswith(("/dev/", "/proc/"))  # stdout
    return not stat.S_ISDIR(mode) and (kernels or not stat.S_ISREG(mode))


def open_file(path: str | Path) -> BinaryIO:
    """A file open for reading, as `open(path, "rb")`.

    OSError for a device, or a pipe that lies somewhere as a file: they may never end, or not begin.
    """
    given = str(path).startswith(STREAMS)  # what a shell or a caller hands over
    handle = os.open(path, os.O_RDONLY | (0 if given else getattr(os, "O_NONBLOCK", 0)))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or given:
        try:
            return os.fdopen(handle, "rb")
        except OSError as error:  # a folder
            os.close(handle)
            raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(handle)
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_file(path: str | Path) -> bytes:
    """The bytes of a file; OSError as `open_file`."""
    with open_file(path) as file:
        return file.read()


def check_unpacked(path: str | Path, names: Collection[str] | None = None) -> None:
    """Raise UserError where members of a zip (an .npz, weights) are larger than MOST_UNPACKED.

    Of the compressed ones (all, or those named): what is stored plainly is no larger than the file.
    Nothing is unpacked; what is no zip at all is left to the reader to say.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
    except (OSError, zipfile.BadZipFile):
        return
    size = sum(one.file_size for one in packed if names is None or one.filename in names)
    if size > MOST_UNPACKED:
        raise UserError(
            f"{path} has {size:,} bytes once unpacked, more than {MOST_UNPACKED:,}; write it "
            "without compression (numpy.savez, torch.save)"
        )


def parse_json(data: str | bytes, name: object):
    """The JSON value in a text; UserError with the place for what is torn, too deep or too long."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name} is no JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise UserError(f"{name} is no JSON we read: it is nested too deeply") from None
    except ValueError as error:  # a whole number of thousands of digits, bytes that are no text
        reason = str(error).partition(";")[0]
        raise UserError(f"{name} is no JSON we read: {reason}") from None


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shipped_folder() -> Path:
    """Where what is shipped lies: in a wheel inside the package, in a checkout `baselines/`."""
    inside = Path(__file__).resolve().parent / "shipped"
    return inside if inside.is_dir() else inside.parents[1] / "baselines"


def baselines_folder() -> Path:
    """The folder of the shipped weights: `$CM3LEON_BASELINES`, else `shipped_folder`."""
    named = os.environ.get("CM3LEON_BASELINES")
    folder = Path(named) if named else shipped_folder()
    if not folder.is_dir():
        raise UserError(f"no baselines folder at {folder}; set CM3LEON_BASELINES to one")
    return folder
