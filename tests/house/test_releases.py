"""What a release needs: one version, a citation that is valid, wheels tried on each Python."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import cm3leon
from cm3leon.interop.hf_card import Result, header

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CI = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))


def check_people(people: list[dict]) -> None:
    """CFF 1.2.0: a person has names of its own, an entity a name."""
    for one in people:
        assert set(one) <= {"name", "family-names", "given-names", "orcid", "affiliation"}, one
        assert ("name" in one) != ("family-names" in one), one


def test_the_citation_is_valid_and_of_this_version():
    """By the required keys of the Citation File Format's schema."""
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert (found["cff-version"], found["type"]) == ("1.2.0", "software")
    assert found["version"] == cm3leon.__version__ and found["license"] == PROJECT["license"]
    paper = found["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper) and isinstance(paper["year"], int)
    for people in (found["authors"], paper["authors"]):
        assert people
        check_people(people)


def test_wheel_and_sdist_are_tried_on_every_python_that_is_named():
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line}
    matrix = CI["jobs"]["installed"]["strategy"]["matrix"]
    assert set(matrix["python"]) == named and set(matrix["package"]) == {"whl", "tar.gz"}
    assert CI["jobs"]["installed"]["needs"] == "packages"


def test_a_tag_is_released_with_its_part_of_the_changelog(tmp_path):
    """After lint, tests and the tries of the packages; the shell's own step, on a changelog."""
    job = CI["jobs"]["release"]
    assert job["needs"] == ["lint", "tests", "installed"] and "refs/tags/v" in job["if"]
    assert CI[True]["push"]["tags"] == ["v*"]  # yaml reads `on` as true
    (step,) = (one["run"] for one in job["steps"] if one.get("name") == "its part of the changelog")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n- later\n\n## 0.2.0 - 2026\n- new\n\n## 0.1.0\n- old\n"
    )
    for tag, notes in (("v0.2.0", "## 0.2.0 - 2026\n- new\n\n"), ("v0.1.0", "## 0.1.0\n- old\n")):
        run = ["bash", "-ec", step]
        subprocess.run(run, cwd=tmp_path, env=os.environ | {"GITHUB_REF_NAME": tag}, check=True)
        assert (tmp_path / "notes.md").read_text() == notes
    found = subprocess.run(
        run, cwd=tmp_path, env=os.environ | {"GITHUB_REF_NAME": "v3"}, check=False
    )
    assert found.returncode == 1  # a version that the changelog does not have


def test_the_header_of_a_card_is_yaml_with_its_numbers():
    one = Result("text-to-image", "a: b", "test", "fid", 24.1234567, 'FID, "n"=3')
    text = header("m #1", "text-to-image", "apache-2.0", [one])
    head = yaml.safe_load(text.strip("-\n"))
    (index,) = head["model-index"]
    (result,) = index["results"]
    assert (index["name"], result["dataset"]["name"]) == ("m #1", "a: b")
    assert result["metrics"] == [{"type": "fid", "value": 24.1235, "name": 'FID, "n"=3'}]
    assert "model-index" not in header("m", "text-to-image", "mit", [])


@pytest.mark.parametrize("path", sorted((ROOT / "baselines").rglob("scenes-*/README.md")),
                         ids=lambda path: path.parent.name)  # fmt: skip
def test_every_card_of_a_model_has_a_header(path):
    head = re.match(r"---\n(.*?)\n---\n", path.read_text("utf-8"), re.DOTALL)
    found = yaml.safe_load(head[1])
    assert found["license"] == "apache-2.0" and found["pipeline_tag"] == "text-to-image"
    for index in found.get("model-index", ()):
        assert index["name"] == path.parent.name
        assert all(one["metrics"][0]["value"] is not None for one in index["results"])
