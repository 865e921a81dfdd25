"""C files of ours, compiled where they run: once a machine, into the user's cache folder.

Nothing needs them: where there is no compiler, what they do is done by torch. A library is code, so
one is loaded only from a folder that no other user can write into, and only where its bytes have
the digest in its name; else it is compiled anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cm3leon.errors import note
from cm3leon.files import sha256_bytes, sha256_file

SOURCES = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")  # after $CC
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
SHARED = ("-shared", "-fPIC")
PARALLEL = ("-fopenmp",)  # tried first; without it a library works on one thread
SECONDS = 300  # for a compilation, which takes a few where nothing else runs
OTHERS = stat.S_IWGRP | stat.S_IWOTH  # modes in which others can write


@lru_cache
def library(name: str, *flags: str) -> ctypes.CDLL | None:
    """The compiled `cm3leon/<name>.c`, with flags of its own; None where there is no compiler, or,
    said on stderr, where it cannot be compiled or loaded.
    """
    source = SOURCES / f"{name}.c"
    compiler = find_compiler()
    if compiler is None or not source.is_file():
        return None
    key, folder = f"{name}-{stamp(source, compiler, *flags)}", cache_folder()
    try:
        if not make_private(folder):
            note(f"{folder} is not of this user alone, {source.name} is compiled anew; set "
                 "XDG_CACHE_HOME to a folder of your own")  # fmt: skip
            with tempfile.TemporaryDirectory() as own:
                return ctypes.CDLL(str(build(source, Path(own), key, compiler, *flags)))
        if (found := whole(folder, key)) is not None:
            with contextlib.suppress(OSError):  # whole, and yet not for this machine
                return ctypes.CDLL(str(found))
        return ctypes.CDLL(str(build(source, folder, key, compiler, *flags)))
    except (OSError, subprocess.SubprocessError) as error:
        slow = isinstance(error, subprocess.TimeoutExpired)
        reason = f"{compiler} took more than {SECONDS} s" if slow else error
        note(f"{source.name} is not used, torch does its work more slowly: {reason}")
        return None


def find_compiler() -> str | None:
    """The path of a C compiler: $CC, or the first of COMPILERS."""
    named = [os.environ["CC"]] if os.environ.get("CC") else []
    return next(filter(None, map(shutil.which, (*named, *COMPILERS))), None)


def cache_folder() -> Path:
    """`cm3leon` in $XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "cm3leon"


def make_private(folder: Path) -> bool:
    """Make the folder, for this user alone (0700). False where others could put something there:
    it, or a folder above it, is another user's, a link of another's, or writable by others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = os.geteuid()
    if folder.is_symlink() or folder.stat().st_uid != user:
        return False
    folder.chmod(0o700)
    for above in folder.resolve().parents:
        about = above.stat()
        own_group = about.st_gid == os.getegid() and not about.st_mode & stat.S_IWOTH
        open_to_all = about.st_mode & OTHERS and not own_group
        if about.st_uid not in (0, user) or (open_to_all and not about.st_mode & stat.S_ISVTX):
            return False
    return True


def whole(folder: Path, key: str) -> Path | None:
    """The library of that key: this user's own file, its bytes those that its name tells.

    What is damaged is removed.
    """
    for path in sorted(folder.glob(f"{key}-*.so")):
        about = path.lstat()
        own = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()
        if own and not about.st_mode & OTHERS and path.stem == f"{key}-{sha256_file(path)}":
            return path
        path.unlink()
    return None


def stamp(source: Path, compiler: str, *flags: str) -> str:
    """What a library depends on, as 16 digits: its source, flags, compiler and processor."""
    about = [platform.platform(), platform.machine(), processor(), compiler, *FLAGS, *flags]
    return sha256_bytes(source.read_bytes() + "\0".join(about).encode())[:16]


def processor() -> str:
    """What names the instructions that this processor has, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def build(source: Path, folder: Path, key: str, compiler: str, *flags: str) -> Path:
    """Compile into `folder`, as `KEY-SHA256.so`: a whole library or nothing.

    Raises OSError (no place to write) or subprocess.SubprocessError (the compiler failed, or took
    more than `SECONDS`).
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = Path(place) / "made.so"
        command = [compiler, *FLAGS, *flags, *SHARED, str(source), "-o", str(made), "-lm"]
        try:
            compile_with([*command, *PARALLEL])
        except subprocess.CalledProcessError:
            compile_with(command)
        made.chmod(0o700)
        path = folder / f"{key}-{sha256_file(made)}.so"
        os.replace(made, path)
    return path


def compile_with(command: Sequence[str]) -> None:
    """Run a compiler; it and what it started end with this call.

    Raises subprocess.SubprocessError.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        code = running.wait(SECONDS)
    except BaseException:  # too slow, or an interrupt
        with contextlib.suppress(OSError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        raise
    if code:
        raise subprocess.CalledProcessError(code, command[0])
