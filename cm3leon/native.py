"""C files of ours, compiled where they run: once a machine, into the user's cache folder.

Nothing needs them: where there is no compiler, what they do is done by torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from cm3leon.files import sha256_bytes

COMPILERS = ("cc", "gcc", "clang")  # after $CC
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
SHARED = ("-shared", "-fPIC")
PARALLEL = ("-fopenmp",)  # tried first; without it a library works on one thread
SECONDS = 60  # for a compilation


@lru_cache
def library(name: str, *defined: str) -> ctypes.CDLL | None:
    """The compiled `cm3leon/<name>.c`, with some names defined; None where it cannot be compiled
    or loaded.
    """
    source = Path(__file__).with_name(f"{name}.c")
    compiler = find_compiler()
    if compiler is None or not source.is_file():
        return None
    path = cache_folder() / f"{name}-{stamp(source, compiler, *defined)}.so"
    with contextlib.suppress(OSError):  # it is not there yet, or is damaged
        return ctypes.CDLL(str(path))
    try:
        build(source, path, compiler, *defined)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None


def find_compiler() -> str | None:
    """The path of a C compiler: $CC, or the first of COMPILERS."""
    named = [os.environ["CC"]] if os.environ.get("CC") else []
    return next(filter(None, map(shutil.which, (*named, *COMPILERS))), None)


def cache_folder() -> Path:
    """`cm3leon` in $XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "cm3leon"


def stamp(source: Path, compiler: str, *defined: str) -> str:
    """What a library depends on, as 16 digits: its source, flags, compiler and processor."""
    about = [platform.platform(), platform.machine(), processor(), compiler, *FLAGS, *defined]
    return sha256_bytes(source.read_bytes() + "\0".join(about).encode())[:16]


def processor() -> str:
    """What names the instructions that this processor has, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def build(source: Path, path: Path, compiler: str, *defined: str) -> None:
    """Compile to `path`, which holds a whole library or nothing.

    Raises OSError (no place to write) or subprocess.SubprocessError (the compiler failed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        names = [f"-D{name}" for name in defined]
        command = [compiler, *FLAGS, *names, *SHARED, str(source), "-o", str(made), "-lm"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": SECONDS}
        try:
            subprocess.run([*command, *PARALLEL], check=True, **quiet)
        except subprocess.CalledProcessError:
            subprocess.run(command, check=True, **quiet)
        os.replace(made, path)
