"""The arrows between folders, as docs/design.md draws them; and that importing costs little."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.house import DOORS, OURS, ROOT, imports, module_of, sources

BELOW = {"model", "sequence", "tokenizers"}
ARROWS = {  # folder of cm3leon -> what it may import besides itself and the single files below
    "files": set(),
    "world": set(),
    "tokenizers": set(),
    "sequence": set(),
    "model": {"sequence"},
    "engine": {"model"},
    "clip": {"tokenizers"},
    "data": {"sequence", "tokenizers", "world"},
    "decoding": BELOW | {"engine", "clip"},
    "retrieval": {"data", "sequence", "tokenizers", "clip"},
    "pipeline": BELOW | {"engine", "data", "decoding", "retrieval", "tasks"},
    "loading": BELOW | {"engine", "data", "decoding", "retrieval", "clip", "pipeline"},
    "tasks": BELOW | {"data", "decoding", "world"},
    "training": BELOW | {"tasks"} | {"data", "retrieval", "world", "clip", "loading", "reports"},
    "interop": BELOW | {"decoding", "retrieval", "loading"},
    "evaluation.statistics": set(),
    "evaluation.sides": {"evaluation.measures", "evaluation.statistics"},
    "evaluation.metrics": {"evaluation.sides", "evaluation.statistics", "world"},
    "evaluation.tasks": set(),
    "evaluation.text": {"evaluation.metrics", "world"},
    "evaluation.features": {"evaluation.sides", "evaluation.statistics"}
    | {"tokenizers", "interop", "clip"},
    "evaluation.pictures": {"evaluation.features", "data"},
    "evaluation.score": {"evaluation.features", "evaluation.pictures", "evaluation.sides"}
    | {"evaluation.metrics", "evaluation.measures", "evaluation.statistics"}
    | {"interop", "loading"},
    "evaluation.measures": set(),
    "reports": {"evaluation.statistics", "evaluation.measures"},
    "serve": {"decoding", "pipeline"},
    "__main__": {"cli"},
    "cli": BELOW
    | {"data", "decoding", "engine", "interop", "loading", "pipeline", "retrieval", "training"}
    | {"world", "clip", "tasks", "reports", "serve"}
    | {"evaluation.score", "evaluation.pictures"},
}
BETWEEN = {  # package -> what it may import besides itself
    "cm3leon": set(),
    "baselines": {"cm3leon"},
    "benchmarks": {"cm3leon", "baselines"},
}
OWED: set[tuple[str, str]] = set()  # arrows that a next move cuts: none may be added
LIGHT = {"errors", "files", "config", "options", "decoding.config"}  # the standard library alone
LATE = {"torch", "torchvision", "pandas", "matplotlib", "transformers", "cleanfid", "scipy"}


def room(module: str) -> str:
    """Where a module of cm3leon stands: a key of ARROWS."""
    parts = module.split(".")
    if len(parts) == 1:
        folder = (ROOT / "cm3leon" / module).is_dir()
        return module if folder or module in DOORS else "files"
    return ".".join(parts[:2]) if parts[0] == "evaluation" else parts[0]


def arrows(path: Path) -> set[tuple[str, str]]:
    """(room, room) of a file of cm3leon, late imports too."""
    names = {name.removeprefix("cm3leon.") for name in imports(path) if "cm3leon." in name}
    here = room(module_of(path))
    return {(here, room(name)) for name in names} - {(here, here), (here, "files")}


@pytest.mark.parametrize("package", OURS)
def test_arrows_between_packages(package):
    assert sources(package)
    for path in sources(package):
        others = {name.split(".")[0] for name in imports(path)} & set(OURS) - {package}
        owed = {other for one, other in OWED if one == package}
        assert others <= BETWEEN[package] | owed, f"{path} imports {others - BETWEEN[package]}"


@pytest.mark.parametrize("path", sources("cm3leon"), ids=module_of)
def test_arrows_between_the_folders_of_cm3leon(path):
    if path.stem == "__init__":
        return
    allowed = {(one, other) for one, others in ARROWS.items() for other in others}
    assert not arrows(path) - allowed - OWED


def test_the_drawing_of_the_arrows_has_no_circle():
    graph = {name: set(others) for name, others in ARROWS.items()}
    while graph:
        leaves = {name for name, needed in graph.items() if not needed & graph.keys()}
        assert leaves, f"a circle in {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in leaves}


def test_what_is_owed_is_still_there():
    """Whoever cuts an arrow takes it off the list."""
    found = {arrow for path in sources("cm3leon") for arrow in arrows(path)}
    found |= {("cm3leon", name.split(".")[0]) for path in sources("cm3leon")
              for name in imports(path)}  # fmt: skip
    assert found >= OWED


def test_no_module_imports_itself_in_a_circle():
    names = {module_of(path): path for path in sources("cm3leon")}
    graph = {
        name: {f.removeprefix("cm3leon.") for f in imports(path, late=False) if "cm3leon." in f}
        for name, path in names.items()
    }
    while graph:
        leaves = {name for name, needed in graph.items() if not needed & graph.keys()}
        assert leaves, f"a circle in {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in leaves}


def test_light_modules_need_the_standard_library_only():
    for module in LIGHT:
        for name in imports(ROOT.joinpath("cm3leon", *module.split(".")).with_suffix(".py")):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or name.split(".", 1)[1] in LIGHT, (module, name)
    assert imports(ROOT / "cm3leon" / "__init__.py", late=False) <= {"__future__", "typing"}


@pytest.mark.parametrize("package", ["cm3leon/reports", "benchmarks/harness"])
def test_what_every_command_imports_is_light(package):
    for path in sources(package):
        heavy = {name.split(".")[0] for name in imports(path, late=False)} & LATE
        assert not heavy, f"{path} imports {heavy} at its top"
    for path in sources("cm3leon/reports"):
        assert "torch" not in {name.split(".")[0] for name in imports(path)}


def child(code: str) -> tuple[str, float]:
    """What a fresh Python prints, and the seconds of processor (not of the clock) it needed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, spent


def test_importing_the_package_costs_nothing():
    out, spent = child("import sys, cm3leon; print(sorted({'torch', 'numpy'} & set(sys.modules)))")
    assert out == "[]\n" and spent < 0.3


HELP = """
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
print("heavy:", sorted({late!r} & set(sys.modules)))
"""


@pytest.mark.parametrize("module", ["cm3leon.cli.main", "baselines.train"])
def test_help_answers_without_torch(module):
    out, spent = child(HELP.format(module=module, late=LATE))
    assert "usage" in out and out.endswith("heavy: []\n")
    assert spent < 1.5  # a second on a machine with nothing else to do


def test_no_test_reaches_a_network():
    with socket.socket() as one, pytest.raises(RuntimeError, match="tests use no network"):
        one.connect(("127.0.0.1", 9))
    with pytest.raises(RuntimeError, match="look-up of 'example"):
        socket.create_connection(("example.org", 80), timeout=1)
    left, right = socket.socketpair()  # between processes of this machine: fine
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"
