"""`import cm3leon as c`: every name, its examples, and that it does what the commands do."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cm3leon as c
from cm3leon.cli.data import tile
from cm3leon.cli.main import main
from cm3leon.errors import UserError
from cm3leon.images import write_png
from cm3leon.loading import find_retrieving, load_system
from cm3leon.pipeline import first_seeds
from cm3leon.reports.records.record import code_state
from cm3leon.world.scenes import scene
from tests.benchmarks.test_fid_coco import write_all_baselines
from tests.record_maker import record, saved
from tests.retrieval.test_retriever import add_bank

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = ("cm3leon", "cm3leon.evaluation.score")
EXAMPLES = [
    test for module in PUBLIC
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    if test.examples
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Weights of random numbers with a memory bank, as if shipped."""
    folder = write_all_baselines(tmp_path_factory.mktemp("baselines"))
    add_bank(folder / "scenes" / "scenes-s", 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM3LEON_BASELINES", str(folder))
        yield folder


def test_every_name_is_there_and_says_what_it_does():
    assert set(c.__all__) <= set(dir(c)) and "x" not in dir(c)
    for name in c.__all__:
        found = getattr(c, name)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            assert "Raises UserError" in found.__doc__ or name in ("compare",), name
    with pytest.raises(AttributeError, match="module 'cm3leon' has no attribute 'x'"):
        c.x  # noqa: B018
    typed = ast.parse((ROOT / "cm3leon" / "__init__.py").read_text()).body
    imported = {
        alias.name: line.module for node in typed if isinstance(node, ast.If)
        for line in node.body if isinstance(line, ast.ImportFrom) for alias in line.names
    }  # fmt: skip
    assert {name: imported[name] for name in c._ELSEWHERE} == c._ELSEWHERE
    assert (ROOT / "cm3leon" / "py.typed").is_file()


def retrieving() -> bool:
    try:
        return bool(find_retrieving())
    except UserError:
        return False


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.name)
def test_the_examples_of_docstrings_run(example, monkeypatch):
    """With what is shipped."""
    monkeypatch.delenv("CM3LEON_BASELINES", raising=False)
    if example.name.endswith("retrieve") and not retrieving():
        pytest.skip("no shipped model retrieves")
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, tried = runner.run(example, out=said.append)
    assert tried and not failed, "".join(said)


def test_there_are_examples():
    names = {one.name.rpartition(".")[2] for one in EXAMPLES}
    assert {"load", "retrieve", "train", "score"} <= names


def test_drawing_without_seeds_is_what_the_command_draws(home, tmp_path):
    system = c.load("scenes-s", documents=0)
    images = system.draw(["a red star", "a red star", "a blue moon"])
    words = ["draw", "a red star", "--count", "2", "--documents", "0"]
    assert main([*words, "--out", str(tmp_path / "two.png")]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "two.png")), tile(images[:2]))
    seeds = first_seeds(["a red star", "a red star", "a blue moon"])
    assert len(set(seeds)) == 3 and np.array_equal(
        images, system.draw(["a red star"] * 2 + ["a blue moon"], seeds)
    )
    with pytest.raises(UserError, match="must be a sequence of strings"):
        system.draw("a red star")


def test_what_is_retrieved_is_what_stands_before_the_caption(home, tmp_path, capsys):
    found = c.retrieve("a red star", k=3)
    system = load_system("scenes-s", documents=3)
    rows = system.retriever.rows(["a red star"])[0]
    assert {one.id for one in found} == {system.retriever.bank.ids[row] for row in rows}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        row = system.retriever.bank.ids.index(one.id)
        vector = system.retriever.clip.texts(["a red star"])[0]
        wanted = float(system.retriever.bank.vectors[row] @ vector)
        assert one.score == pytest.approx(wanted, abs=1e-6) and -1 <= one.score <= 1
        text, picture = system.retriever.documents.document(row).segments
        assert one.text == system.text.decode(list(text.ids))
        assert np.array_equal(system.encode(one.image[None])[0], system.encode(
            system.decode_codes(np_codes(picture.codes)))[0])  # fmt: skip
    words = ["retrieve", "a red star", "--k", "3", "--out", str(tmp_path / "found")]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in told] == [one.id for one in found]
    assert np.array_equal(np.asarray(Image.open(told[0]["picture"])), found[0].image)
    assert main(words) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f"{found[0].score:.3f}  ") and line.endswith("1.png")


def np_codes(codes):
    import torch

    return torch.tensor([codes])


def test_a_system_without_retrieval_says_so(home, tmp_path, capsys):
    assert main(["draw", "x", "--system", "scenes-s", "--documents", "0", "--out",
                 str(tmp_path / "x.png")]) == 0  # fmt: skip
    plain = c.load("scenes-s", documents=0)
    with pytest.raises(UserError, match="scenes-s was trained without retrieval"):
        type(plain)(**{**vars(plain), "retriever": None}).retrieve("x")
    with pytest.raises(UserError, match=r"k must lie in 1\.\.4, got 0|documents"):
        c.load("scenes-s").retrieve("x", 0)
    assert main(["retrieve", "x", "--k", "5"]) == 2
    assert "k must lie in [1, 4], got 5" in capsys.readouterr().err


def test_training_from_python(home, tmp_path):
    with pytest.raises(UserError, match="unknown setting 'speed'; there are: batch, "):
        c.train("scenes:stock/train:0:8", tmp_path, speed=1)
    assert not any(tmp_path.iterdir())
    given = {"model": "scenes-xs", "steps": 2, "batch": 2, "threads": 1, "precision": "float32"}
    system = c.train("scenes:stock/train:0:24", tmp_path / "own", **given)
    assert system.draw(["a red star"]).shape == (1, 32, 32, 3)
    run = tmp_path / "own" / "model" / "run"
    assert {"loss.csv", "loss.png", "log.jsonl"} <= {path.name for path in run.iterdir()}
    header = (run / "loss.csv").read_text().splitlines()[0].split(",")
    assert {"step", "loss", "held_out_image"} <= set(header)


def test_records_and_comparison(tmp_path, capsys):
    saved(tmp_path, record(12.0, "one"), record(10.0, "two"))
    frame = c.records(tmp_path)
    assert list(frame["system"]) == ["one", "two"] and list(frame["value"]) == [12.0, 10.0]
    assert len(c.records(tmp_path, "fid_coco")) == 2
    found = c.compare("fid_coco/one", "fid_coco/two", tmp_path)
    row = found.rows[0]
    assert (row.measure, row.difference[0]) == ("value", -2.0) and "Measures" in str(found)
    assert c.compare(record(12.0, "one"), record(10.0, "two")).rows[0].difference[0] == -2.0
    other = c.compare(record(12.0), record(10.0, protocol={"features": {}}))
    assert other.why_not and "Measures" not in str(other)
    with pytest.raises(UserError, match="give both as one kind"):
        c.compare(record(1.0), "fid_coco/one")
    assert main(["compare", "fid_coco/one", "fid_coco/two", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(found).strip()
    assert main(["compare", "fid_coco/one", "x/two", "--results", str(tmp_path)]) == 3
    assert main(["dashboard", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "dashboard" / "index.html").is_file()


def test_scores_are_kept_as_records(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    for name, part in (("a", images[:8]), ("b", images[8:14]), ("real", images)):
        np.save(f"{name}.npy", part)
    for name in ("a", "b"):
        words = ["score", f"{name}.npy", "real.npy", "--metrics", "fid", "kid"]
        assert main([*words, "--record", name, "--results", "results"]) == 0
        capsys.readouterr()
    frame = c.records("results")
    assert list(frame["system"]) == ["a", "b"] and frame["extra.kid"].notna().all()
    found = c.compare("score/a", "score/b", "results")
    assert "differ in protocol" in found.why_not  # n
    assert main(["score", "a.npy", "real.npy", "--record", "a/b"]) == 2
    assert capsys.readouterr().err.startswith("error: record must be letters")


def test_a_record_of_an_installed_package_names_the_users_commit(tmp_path, monkeypatch):
    from cm3leon.reports.records import record as making

    monkeypatch.setattr(making, "HOME", tmp_path)
    assert code_state() == {"commit": "unknown", "dirty": None}
    asked = []
    monkeypatch.setattr(
        making,
        "_git",
        lambda root, *words: (
            asked.append(root) or (str(tmp_path.parent) if "--show-toplevel" in words else "f" * 40)
        ),
    )
    assert code_state() == {"commit": "f" * 40, "dirty": True}
    assert asked == [tmp_path, tmp_path.parent, tmp_path.parent, tmp_path.parent]


def test_the_version(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    commit = r"( \([0-9a-f]{7}(, changed)?\))?"
    assert re.fullmatch(rf"cm3leon {re.escape(c.__version__)}{commit}\n", said)


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch):
    """As somebody runs them in an empty folder, with what is shipped."""
    if not retrieving():
        pytest.skip("no shipped model retrieves")
    monkeypatch.delenv("CM3LEON_BASELINES", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("drawn", "real"):
        for index in range(6):
            image = scene("coco", "val", index + 6 * (name == "real")).image
            write_png(tmp_path / name / f"{index}.png", image)
    text = (ROOT / "README.md").read_text("utf-8")
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", text, re.S) if "as c\n" in one]
    exec(compile(code, "README.md", "exec"), {})
