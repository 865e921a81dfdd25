"""C files are compiled once, into the cache folder; whatever goes wrong, torch does the work."""

import ctypes
import os
import subprocess
import time
from pathlib import Path

import pytest

from cm3leon.engine import native
from cm3leon.engine.native import build, find_compiler, library, processor, stamp
from cm3leon.files import sha256_bytes, sha256_file

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A cache folder and a small source of its own for every test, nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "step.c").write_text("int step(void) { return 7; }")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    library.cache_clear()
    yield tmp_path / "cache" / "cm3leon"
    library.cache_clear()


@needs_compiler
def test_compiled_once(own_folder, monkeypatch):
    found = library("step")
    assert isinstance(found, ctypes.CDLL) and found.step() == 7
    (path,) = own_folder.iterdir()  # the library, and no folder left from making it
    assert path.stem.endswith(f"-{sha256_file(path)}")
    assert own_folder.stat().st_mode & 0o777 == 0o700 == path.stat().st_mode & 0o777
    made = path.stat().st_mtime_ns
    library.cache_clear()
    monkeypatch.setattr(native, "build", lambda *_: pytest.fail("compiled again"))
    assert library("step") is not None and path.stat().st_mtime_ns == made


PLANTED = """
#include <stdio.h>
#include <stdlib.h>
int step(void) { return 8; }
__attribute__((constructor)) void planted(void) { fclose(fopen(getenv("PLANTED"), "w")); }
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """(A library whose constructor leaves a file when it is loaded, that file)."""
    source, seen = tmp_path / "planted.c", tmp_path / "seen"
    source.write_text(PLANTED)
    monkeypatch.setenv("PLANTED", str(seen))
    native.compile_with([find_compiler(), *native.SHARED, str(source), "-o", f"{source}.so"])
    return Path(f"{source}.so").read_bytes(), seen


@needs_compiler
@pytest.mark.parametrize(
    "case", ["other bytes", "torn", "link", "writable", "another's file", "another's folder",
             "open folder above", "linked folder"],
)  # fmt: skip
def test_a_library_of_others_is_not_loaded(case, own_folder, planted, monkeypatch, capsys):
    """Whatever lies in the cache folder: our own library is compiled anew, by its own bytes."""
    data, seen = planted
    assert library("step") is not None
    (path,) = own_folder.iterdir()
    library.cache_clear()
    good = path.with_name(path.name.replace(path.stem[-64:], sha256_bytes(data)))
    path.unlink()
    if case == "other bytes":
        path.write_bytes(data)
    elif case == "torn":
        path.write_bytes(data[: len(data) // 2])
    else:
        good.write_bytes(data)
    if case == "link":
        good.rename(own_folder.parent / "elsewhere")
        good.symlink_to(own_folder.parent / "elsewhere")
    elif case == "writable":
        good.chmod(0o777)
    elif case.startswith("another's"):
        real, place = os.geteuid(), good if case.endswith("file") else own_folder
        if real:
            pytest.skip("only root can give a file away")
        os.chown(place, 12345, -1)
    elif case == "open folder above":
        own_folder.parent.chmod(0o777)
    elif case == "linked folder":
        own_folder.rename(own_folder.with_name("elsewhere"))
        own_folder.symlink_to("elsewhere")
    assert library("step").step() == 7 and not seen.exists()
    refused = case in ("another's folder", "open folder above", "linked folder")
    assert ("not of this user alone" in capsys.readouterr().err) == refused


@needs_compiler
def test_an_old_cache_folder_becomes_private(own_folder):
    own_folder.mkdir(parents=True)
    own_folder.chmod(0o777)
    assert library("step") is not None
    assert own_folder.stat().st_mode & 0o777 == 0o700


@needs_compiler
def test_a_compiler_that_is_too_slow_is_said_and_ends(tmp_path, monkeypatch, capsys):
    """The engine does not change without a word, and what the compiler started ends with it."""
    child, fake = tmp_path / "child", tmp_path / "compiler"
    fake.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {child}\nwait\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    running = subprocess.Popen.wait

    def wait(self, seconds=None):
        while seconds and not (child.exists() and child.read_text()):
            time.sleep(0.01)
        return running(self, None if seconds is None else 0)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    assert library("step") is None
    assert f"{fake} took more than {native.SECONDS} s" in capsys.readouterr().err
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    end = time.monotonic() + 30
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


@needs_compiler
def test_another_source_processor_or_compiler_is_another_library(tmp_path, monkeypatch):
    source = tmp_path / "a.c"
    source.write_text("int one(void) { return 1; }")
    stamps = {stamp(source, "cc"), stamp(source, "clang")}
    monkeypatch.setattr(native, "processor", lambda: "flags: none")
    stamps.add(stamp(source, "cc"))
    source.write_text("int one(void) { return 2; }")
    stamps.add(stamp(source, "cc"))
    assert len(stamps) == 4 and isinstance(processor(), str)


@needs_compiler
def test_a_compiler_without_openmp_makes_a_library_too(tmp_path, monkeypatch):
    real, asked = find_compiler(), tmp_path / "asked"
    fake = tmp_path / "compiler"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\n'
        f'case "$*" in *-fopenmp*) exit 1;; esac\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    assert library("step") is not None
    first, second = asked.read_text().splitlines()
    assert "-fopenmp" in first and "-fopenmp" not in second


@pytest.mark.parametrize("case", ["no compiler", "it fails", "no such file", "no place"])
def test_what_goes_wrong_is_no_library(case, tmp_path, monkeypatch, capsys):
    if case == "no compiler":
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    elif case == "it fails":
        monkeypatch.setenv("CC", "false")
    elif case == "no place":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert library("nothing" if case == "no such file" else "step") is None
    said = capsys.readouterr().err
    assert ("step.c is not used" in said) == (case in ("it fails", "no place"))


@needs_compiler
def test_a_failed_build_leaves_nothing(tmp_path):
    source = tmp_path / "bad.c"
    source.write_text("this is no C")
    (tmp_path / "out").mkdir()
    with pytest.raises(subprocess.SubprocessError):
        build(source, tmp_path / "out", "bad", find_compiler())
    assert list((tmp_path / "out").iterdir()) == []
