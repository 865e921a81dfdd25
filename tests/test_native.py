"""C files are compiled once, into the cache folder; whatever goes wrong, torch does the work."""

import ctypes
from pathlib import Path

import pytest

from cm3leon import native
from cm3leon.native import build, find_compiler, library, processor, stamp

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A cache folder of its own for every test, nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    yield tmp_path / "cache" / "cm3leon"
    library.cache_clear()


@needs_compiler
def test_compiled_once(own_folder, monkeypatch):
    found = library("step")
    assert isinstance(found, ctypes.CDLL) and found.step
    (path,) = own_folder.iterdir()  # the library, and no folder left from making it
    made = path.stat().st_mtime_ns
    library.cache_clear()
    monkeypatch.setattr(native, "build", lambda *_: pytest.fail("compiled again"))
    assert library("step") is not None and path.stat().st_mtime_ns == made


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
def test_what_goes_wrong_is_no_library(case, tmp_path, monkeypatch):
    if case == "no compiler":
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    elif case == "it fails":
        monkeypatch.setenv("CC", "false")
    elif case == "no place":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert library("nothing" if case == "no such file" else "step") is None


@needs_compiler
def test_a_broken_library_is_made_anew(own_folder):
    own_folder.mkdir(parents=True)
    source = Path(native.__file__).with_name("step.c")
    (own_folder / f"step-{stamp(source, find_compiler())}.so").write_bytes(b"torn")
    assert library("step").step


@needs_compiler
def test_a_failed_build_leaves_nothing(tmp_path):
    source, path = tmp_path / "bad.c", tmp_path / "out" / "bad.so"
    source.write_text("this is no C")
    with pytest.raises(native.subprocess.SubprocessError):
        build(source, path, find_compiler())
    assert list(Path(path.parent).iterdir()) == []
