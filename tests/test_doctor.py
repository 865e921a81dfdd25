"""What the doctor says of weights and benchmarks, on machines that have them and that have not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_known_weights import home  # noqa: F401  (a fixture: an empty home)

from cm3leon import doctor
from cm3leon.doctor import NEEDS, Need, benchmark_facts, known_facts, lacks
from cm3leon.files import sha256_bytes
from cm3leon.known_weights import KNOWN, how_to_get

ROOT = Path(__file__).resolve().parents[1]


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

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for name, need in NEEDS.items():
        brought = "\n".join(line for part in need.extra.split(",") for line in extras[part])
        assert all(package in brought for package in need.packages), name
        assert set(need.shipped) <= set(PARTS) and set(need.weights) <= set(KNOWN), name


def test_a_machine_without_anything(home, monkeypatch):  # noqa: F811
    monkeypatch.setattr(doctor, "installed", lambda name: False)
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    facts = benchmark_facts()
    assert not [fact for fact in facts if not fact.startswith("- ")]
    text = "\n".join(facts)
    for name, need in NEEDS.items():
        said = "\n".join(fact for fact in facts if fact.startswith(f"- {name} lacks"))
        assert all(part in said for part in (*need.packages, *need.shipped)), name
        assert all(how_to_get(key) in said for key in need.weights), name
    assert "pip install -e '.[diffusers]'" in text
    assert "nox -s train_baselines -- --parts scenes-s text vq features" in text
    found = known_facts()
    assert len(found) == len(KNOWN) and all("not found" in fact for fact in found)


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
    assert [fact.split(":")[0] for fact in facts] == ["benchmark     " + n for n in (
        name.split(":")[0] for name in NEEDS
    )]  # fmt: skip
    assert "pass --coco-root FOLDER" in facts[1] and facts[0].endswith("fid_coco: ready")
    digest = sha256_bytes(b"weights")[:16]
    assert all(f"sha256 {digest}" in fact for fact in known_facts())


def test_weights_of_another_digest_are_a_fault(home, monkeypatch):  # noqa: F811
    path = home / "inception.pth"
    path.write_bytes(b"other")
    monkeypatch.setenv("CM3LEON_INCEPTION", str(path))
    fact = known_facts()[0]
    assert fact.startswith("! weights") and "published is 6726825d; get it again: curl" in fact
    monkeypatch.setattr(doctor, "HASHED", 3)
    assert "too large to check here" in known_facts()[0]
    path.unlink()
    assert known_facts()[0].startswith("! CM3LEON_INCEPTION names")
    assert lacks(Need((), weights=("inception",)))[0][1] == how_to_get("inception")


@pytest.mark.parametrize("name", ["torch", "no-such-package"])
def test_installed(name):
    assert doctor.installed(name) == (name == "torch")
