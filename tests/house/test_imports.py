"""The arrows between the packages and inside cm3leon; and that importing costs little."""

import ast
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("cm3leon", "benchmarks", "baselines", "reports")
ARROWS = {  # package -> what it may import besides itself
    "cm3leon": set(),
    "baselines": {"cm3leon", "reports"},
    "benchmarks": {"cm3leon", "baselines", "reports"},
    "reports": {"benchmarks"},  # it reads JSON; of the benchmarks it may use the pure statistics
}
STATISTICS = {
    "cm3leon.evaluation.statistics.intervals",
    "cm3leon.evaluation.statistics.significance",
    "cm3leon.evaluation.statistics.paired",
}
LAYERS = [  # inside cm3leon: imports go to the left or stay inside a group
    {"errors", "files", "seeds", "config", "options", "drawing", "workers", "native", "identity"}
    | {"known_weights", "capture"},
    {"sequence", "text", "vq", "transformer", "kv_cache", "linears", "fused_step", "optimizer"}
    | {"graph_step", "quantise", "attention", "cross_entropy", "positions"}
    | {"decode", "pictures", "pixels", "convert_tokenizer", "public_weights"}
    | {"sprites", "language", "scenes", "scene_files"}  # its door: scenes.export_coco
    | {"world.boards", "world.signs", "world.conditions"}
    | {"world.coordinates", "world.descriptions", "world.edits", "world.questions"}
    | {"world.sheet"},
    {"objective", "vq_loss", "checkpoint", "coco", "export", "hf_tokenizer", "hf_card"}
    | {"image_tokenizer", "fused_draw"},
    {"generate", "clip", "bank", "retrieve", "retriever", "sources", "readers", "cache"}
    | {"packed"}
    | {"neighbours", "data", "streams", "text_decode", "infill", "inpaint"}
    | {"accumulate", "source_captions", "training_bank", "schedule", "roles"},
    {"train", "pipeline"},
    {"loading", "estimate"},
    {"rerank", "doctor", "hf_folder", "pretrain"},
    {"commands", "export_commands", "convert_commands", "infill_commands", "train_commands"},
    {"cli"},
]
LIGHT = {"errors", "files", "config", "options", "drawing"}  # need nothing but the standard library
LATE = {"torch", "torchvision", "pandas", "matplotlib", "transformers", "cleanfid", "scipy"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    """Dotted name inside cm3leon: `scenes`, `world.edits`."""
    return ".".join(path.relative_to(ROOT / "cm3leon").with_suffix("").parts)


def imports(path: Path, late: bool = True) -> set[str]:
    """Dotted names of the modules a file imports; without `late` those at its top only."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    tops = [node for node in body if not _typing_only(node)]
    nodes = [inner for node in tops for inner in (ast.walk(node) if late else [node])]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:  # `from cm3leon import seeds` imports a module
                inner = ROOT.joinpath(*node.module.split("."), f"{alias.name}.py")
                found.add(f"{node.module}.{alias.name}" if inner.exists() else node.module)
    return found


def _typing_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def layer(module: str) -> int:
    return next(k for k, group in enumerate(LAYERS) if module in group)


@pytest.mark.parametrize("package", OURS)
def test_arrows_between_packages(package):
    assert sources(package)
    for path in sources(package):
        others = {name.split(".")[0] for name in imports(path)} & set(OURS) - {package}
        assert others <= ARROWS[package], f"{path} imports {others - ARROWS[package]}"


def test_reports_use_nothing_but_the_statistics_of_the_benchmarks():
    for path in sources("reports"):
        assert {name for name in imports(path) if name.startswith("benchmarks")} <= STATISTICS


def test_metrics_know_nothing_of_the_harness():
    """The numbers can be used alone: no systems, no prompts, no baselines."""
    for path in sources("benchmarks/metrics"):
        for name in imports(path):
            assert not name.startswith(("benchmarks.harness", "baselines", "reports")), path


def test_every_module_has_a_layer():
    files = {module_of(path) for path in sources("cm3leon") if path.stem != "__init__"}
    assert files == set().union(*LAYERS) and sum(map(len, LAYERS)) == len(files)


@pytest.mark.parametrize("module", sorted(set().union(*LAYERS)))
def test_layers_inside_cm3leon(module):
    for name in imports(ROOT.joinpath("cm3leon", *module.split(".")).with_suffix(".py")):
        if name.startswith("cm3leon."):
            other = name.removeprefix("cm3leon.")
            assert layer(other) <= layer(module), f"{module} imports {other}"


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
        for name in imports(ROOT / "cm3leon" / f"{module}.py"):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or name.split(".")[1] in LIGHT, (module, name)
    assert not imports(ROOT / "cm3leon" / "__init__.py")


@pytest.mark.parametrize("package", ["reports", "benchmarks/harness"])
def test_what_every_command_imports_is_light(package):
    for path in sources(package):
        heavy = {name.split(".")[0] for name in imports(path, late=False)} & LATE
        assert not heavy, f"{path} imports {heavy} at its top"
    for path in sources("reports"):
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
