"""What the doctor says of weights and benchmarks, on machines that have them and that have not."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from cm3leon.cli import doctor
from cm3leon.cli.doctor import (
    FILES,
    HEADINGS,
    NEEDS,
    Doctor,
    Fact,
    Need,
    benchmark_facts,
    device_facts,
    file_facts,
    known_facts,
    lacks,
)
from cm3leon.files import sha256_bytes
from cm3leon.interop.known_weights import KNOWN, how_to_get
from tests.interop.test_known_weights import home  # noqa: F401  (a fixture: an empty home)

ROOT = Path(__file__).resolve().parents[2]


def test_every_benchmark_has_its_needs():
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    benches = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "BENCHES"
    )
    assert {name.split()[0] for name in NEEDS} >= set(benches), "add a row to doctor.NEEDS"


def test_needs_are_of_this_repository():
    import tomllib

    from baselines.train import PARTS
    from cm3leon.loading import model_names

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for name, need in NEEDS.items():
        more = [line for part in need.extra.split(",") for line in extras[part]]
        brought = "\n".join([*project["dependencies"], *more])
        assert all(package in brought for package in need.packages), name
        assert set(need.shipped) <= {*PARTS, *model_names()}, name
        assert set(need.weights) <= set(KNOWN), name


def test_every_command_for_what_is_not_shipped_can_be_given(home, monkeypatch):  # noqa: F811
    """A part that is trained is one that there is a recipe for; all else lies in git's history."""
    import subprocess

    from baselines.train import PARTS

    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    seen = set()
    for need in NEEDS.values():
        for _, way in lacks(need):
            if "--parts" in way:
                seen |= set(way.partition("--parts ")[2].split())
            elif way.startswith("git checkout "):
                commit, _, path = way.removeprefix("git checkout ").partition(" -- ")
                listed = subprocess.run(
                    ["git", "-C", ROOT, "ls-tree", "-r", "--name-only", commit, path],
                    capture_output=True, text=True,
                )  # fmt: skip
                assert listed.returncode or f"{path}/model.safetensors" in listed.stdout.split()
    assert seen and seen <= set(PARTS)


def test_a_machine_without_anything(home, monkeypatch):  # noqa: F811
    monkeypatch.setattr(doctor, "installed", lambda name: False)
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    facts = benchmark_facts()
    assert len(facts) == len(NEEDS)
    for (name, need), fact in zip(NEEDS.items(), facts, strict=True):
        wanting = bool(need.packages or need.shipped or need.weights)
        assert fact.kind == ("lacks" if wanting else "fine")
        said = fact.line()
        assert f"{name}: " in said and all(part in said for part in need.packages + need.shipped)
        assert all(f"weights {key} (above)" in said for key in need.weights)
        assert all(part in said for part in need.files)
        if need.packages:
            assert f"pip install -e '.[{need.extra}]'" in fact.way
    ways = "\n".join(fact.way for fact in facts)
    assert "pip install -e '.[bench,report,diffusers]'" in ways
    assert "nox -s train_baselines -- --parts scenes-s text vq features" in ways
    for key, fact in zip(KNOWN, known_facts(), strict=True):  # every file, and how to get it
        assert fact.kind == "lacks" and key in fact.text and "not found" in fact.text
        assert fact.way == how_to_get(key)
    protocol = facts[list(NEEDS).index("fid_coco --protocol NAME")].text
    assert "does without FD-DINOv2, CMMD, CLIP score" in protocol


def test_every_file_of_ones_own_is_explained():
    named = {name for need in NEEDS.values() for name in need.files}
    assert named == set(FILES) == {fact.name for fact in file_facts()}
    assert all("--" in text or "tars" in text or "npz" in text for text in FILES.values())
    used = {key for need in NEEDS.values() for key in (*need.weights, *need.further)}
    assert used == set(KNOWN)


def test_a_machine_with_everything(home, monkeypatch):  # noqa: F811
    monkeypatch.setattr(doctor, "installed", lambda name: True)
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    for need in NEEDS.values():
        for name in need.shipped:
            (home / "scenes" / name).mkdir(parents=True, exist_ok=True)
    for known in KNOWN.values():
        (home / known.variable).write_bytes(b"weights")
        monkeypatch.setenv(known.variable, str(home / known.variable))
    facts = benchmark_facts()
    assert all(fact.kind == "fine" and not fact.way for fact in facts)
    assert facts[0].line() == "benchmark       fid_coco: ready"
    assert facts[1].text == "fid_coco --protocol NAME: needs MS-COCO (above)"
    digest = sha256_bytes(b"weights")[:16]
    assert all(f"sha256 {digest}" in fact.text for fact in known_facts())


def test_weights_of_another_digest_are_a_fault(home, monkeypatch):  # noqa: F811
    path = home / "inception.pth"
    path.write_bytes(b"other")
    monkeypatch.setenv("CM3LEON_INCEPTION", str(path))
    fact = known_facts()[0]
    assert fact.kind == "fault" and fact.line().startswith("! weights")
    assert "published is 6726825d" in fact.text and fact.way.startswith("get it again: curl")
    monkeypatch.setattr(doctor, "HASHED", 3)
    assert "too large to check here" in known_facts()[0].text
    path.unlink()
    assert "CM3LEON_INCEPTION names" in known_facts()[0].text and known_facts()[0].kind == "fault"
    assert lacks(Need((), weights=("inception",))) == [("weights inception (above)", "")]


@pytest.mark.parametrize("baselines", [True, False])
def test_the_page_and_its_json_say_the_same(home, monkeypatch, capsys, baselines):  # noqa: F811
    if not baselines:
        monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    code = Doctor().run()
    lines = capsys.readouterr().out.splitlines()
    assert Doctor(json=True).run() == code == (0 if baselines else 2)
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == code
    facts = [Fact(**fact) for fact in said["facts"]]
    assert {fact.about for fact in facts} == set(HEADINGS)
    shown = [line for line in lines if line and line.rstrip(":") not in HEADINGS.values()]

    def same(lines) -> list[str]:  # others may take space meanwhile
        return sorted(line for line in lines if not line.startswith("disk"))

    assert same(shown[:-1]) == same(fact.line() for fact in facts)
    faults = sum(line.startswith("! ") for line in lines)
    assert (faults > 0) == (code == 2) and lines[-1].startswith(f"{faults} fault")


@pytest.mark.parametrize("name", ["torch", "no-such-package"])
def test_installed(name):
    assert doctor.installed(name) == (name == "torch")


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_compiler_is_told(there, monkeypatch):
    monkeypatch.setattr("cm3leon.engine.cpu_step.compiled", lambda: object() if there else None)
    (found,) = [fact.text for fact in device_facts() if fact.name == "drawing"]
    assert found.startswith("steps in C" if there else "steps by torch: no C compiler")
