"""The sessions fit the files, and the tested set of versions fits the package."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREE = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"^([a-z0-9]+(?:[-.][a-z0-9]+)*)==([0-9][0-9A-Za-z.!]*)( ; .+)?$")


def assigned(tree: ast.Module, name: str):
    """The value assigned to a name at the top of a file, or None."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return node.value
    return None


def benches() -> tuple[str, ...]:
    return ast.literal_eval(assigned(TREE, "BENCHES"))


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> set[str]:
    """Every package that pyproject.toml names."""
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [line for part in extras.values() for line in part]
    return {plain(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in lines}


def test_every_bench_is_a_file_and_every_file_is_a_session():
    files = sorted((ROOT / "benchmarks").rglob("*.py"))
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    assert set(benches()) == {name for name, tree in trees.items() if assigned(tree, "BENCH")}
    assert len(set(benches())) == len(benches()) > 0


@pytest.mark.parametrize("name", benches())
def test_a_bench_is_named_as_its_file(name):
    (path,) = (ROOT / "benchmarks").rglob(f"{name}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    call = assigned(tree, "BENCH")
    assert isinstance(call, ast.Call) and call.args[0].value == name
    assert f"nox -s {name}" in ast.get_docstring(tree)  # the file says how to run it


def test_nox_sees_every_session():
    nox_registry = pytest.importorskip("nox.registry")
    before = dict(nox_registry._REGISTRY)
    try:
        exec(compile(TREE, "noxfile.py", "exec"), {"__name__": "noxfile"})
        found = set(nox_registry.get())
    finally:
        nox_registry._REGISTRY.clear()
        nox_registry._REGISTRY.update(before)
    assert found >= {"lint", "tests", "train_baselines", *benches()}


def test_every_session_says_what_it_does():
    functions = [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]
    assert all(ast.get_docstring(node) for node in functions if node.name != "run")


def test_sessions_ask_for_extras_that_exist():
    calls = [
        node.args[1].value
        for node in ast.walk(TREE)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "install"
    ]
    assert calls
    asked = {extra for call in calls for extra in call.split(",")}
    by_hand = {
        "diffusers",
        "transformers",
        "int8",
        "tensorboard",
    }  # of systems and weights that are not ours
    assert asked == {"bench", "report", "dev"}
    assert set(PROJECT["optional-dependencies"]) == asked | by_hand


def test_constraints_are_names_and_versions_only():
    assert PINS and all(PIN.match(line) for line in PINS)
    names = [PIN.match(line)[1] for line in PINS]
    assert names == sorted(set(names))


def test_constraints_pin_all_that_is_asked_for():
    pinned = {plain(PIN.match(line)[1]) for line in PINS}
    assert {"torch", "torchvision"} <= pinned
    assert wanted() - pinned == set()


def test_torch_and_torchvision_fit_each_other():
    """torchvision 0.N belongs to torch 2.(N - 15) since torch 2.0 (0.15 came with 2.0)."""
    versions = dict(line.split("==") for line in PINS if " ; " not in line)
    torch_minor = int(versions["torch"].split(".")[1])
    vision_minor = int(versions["torchvision"].split(".")[1])
    assert versions["torch"].startswith("2.")
    assert vision_minor - torch_minor in (14, 15), (versions["torch"], versions["torchvision"])
