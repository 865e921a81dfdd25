"""Numbers and intervals of small runs of the benchmarks by their command lines, as kept in
goldens/numbers.json.

By default on random weights, the same on every machine; behind `full` on the shipped ones.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.guard import entry_points as at

FOLDERS = ["--results", "results", "--reports", "out", "--cache", "cache"]
CLOSE = 1e-3  # a pixel may move by one step of 255 with the processor's order of sums
SMALL = ["--n", "6", "--real", "8", "--resamples", "5"]
RUNS = {
    "fid_coco": ["--system", "scenes-xs", *SMALL],
    "fid_coco documents": ["--split", "natural", "tail", "--documents", "0", "1", "2", *SMALL],
    "fid_coco seeds": ["--split", "test", "--system", "scenes-xs", "--seeds", "0", "3", *SMALL],
    "fid_coco best of two": ["--split", "test", "--documents", "0", "--samples", "2", *SMALL],
    "fid_coco decode": [
        "--split", "test", "--system", "scenes-xs", "--strategy", "contrast", "--k", "3", *SMALL],
    "fid_coco coco": [
        "--system", "scenes-xs", "--data", "coco", "--coco-root", "coco", "--n", "8",
        "--resamples", "5"],
    "fid_coco pinned": [
        "--system", "scenes-xs", "--protocol", "coco2014-30k/clean", "--coco-root", "coco",
        "--n", "8", "--seeds", "0", "1", "--resamples", "5"],
    "ablate_retrieval": [
        "--system", "scenes-s", "--n", "4", "--seeds", "0", "--resamples", "6",
        "--only", "documents"],
    "ablate_retrieval text-only": [
        "--system", "scenes-s", "--n", "4", "--seeds", "0", "--resamples", "6", "--only", "only"],
    "choose_decoding": [
        "--system", "scenes-xs", "--n", "25", "--real", "25", "--guidance", "1", "1.5",
        "--temperature", "0.8"],
    "rfid": ["--n", "12", "--resamples", "10"],
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return at.write_home(tmp_path_factory.mktemp("baselines"))


@pytest.fixture
def place(home, tmp_path, monkeypatch):
    """An empty folder to run in, with random weights as what is shipped."""
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    monkeypatch.chdir(tmp_path)
    at.small_runs(monkeypatch)
    return tmp_path


def numbers(folder: Path) -> dict:
    """What a record says it measured, but for what a clock tells."""
    (path,) = folder.rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: record[key] for key in ("unit", "n", "value", "per_seed")}
    for key in ("interval", "spread"):
        kept[key] = ends(record[key])
    kept["extra"] = {
        name: compact(value) for name, value in record["extra"].items() if "seconds" not in name
    }
    return kept


def ends(interval):
    """The two ends of an interval, or of several by name."""
    if interval is None:
        return None
    if "low" in interval:
        return [interval["low"], interval["high"]]
    return {name: ends(one) for name, one in interval.items()}


def compact(value):
    """A number with its interval as [value, low, high]."""
    return list(value.values()) if isinstance(value, dict) else value


@pytest.mark.parametrize("case", RUNS)
def test_numbers_of_a_small_run(case, place, golden):
    if "coco" in RUNS[case]:
        at.write_coco_files(place / "coco")
    bench, arguments = case.split()[0], RUNS[case]
    folders = FOLDERS[:-2] if bench == "rfid" else FOLDERS
    assert at.run_bench(bench, [*arguments, *folders]) == 0
    golden.check(numbers(place / "results"), CLOSE, 1e-6)


def test_numbers_of_ablate_decoding(tmp_path, monkeypatch, golden):
    """Of the shipped scenes-xs: its captions are of pictures of 64 pixels."""
    monkeypatch.chdir(tmp_path)
    at.small_runs(monkeypatch)
    parts = ["guidance", "surface", "nucleus", "pool", "captions"]
    options = ["--quick", "--sizes", "scenes-xs", "--parts", *parts, "--resamples", "6"]
    assert at.run_bench("ablate_decoding", [*options, *FOLDERS]) == 0
    golden.check(numbers(tmp_path / "results"), CLOSE, 1e-5)


def test_numbers_of_equal_compute(place, golden):
    at.write_twins(place / "results")
    before = set((place / "results").rglob("*.json"))
    options = ["--resamples", "40", "--results", "results", "--reports", "out"]
    options += ["--flops", "scenes-s-plain+flops"]
    assert at.run_bench("equal_compute", options) == 0
    for path in before:
        path.unlink()
    golden.check(numbers(place / "results"), CLOSE, 1e-6)


def test_numbers_of_codes(capsys, golden):
    at.codes_table(128, 4)
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    found = {name: [None if one == "nan" else float(one) for one in values]
             for name, *values in rows[1:]}  # fmt: skip
    golden.check(found, absolute=2e-3)


def test_features_of_pictures(golden):
    found = at.features(at.pictures("natural", 3)).astype(float)
    told = [[*one[:6].tolist(), float(np.linalg.norm(one))] for one in found]
    golden.check(told, 1e-4, 1e-5)


SHIPPED = {
    "fid_coco": ["--system", "scenes-xs", "--quick"],
    "fid_coco documents": ["--system", "scenes-s", "--quick"],
    "ablate_retrieval": ["--quick"],
    "ablate_decoding": ["--quick"],
    "choose_decoding": ["--system", "scenes-xs", "--n", "50", "--real", "50"],
    "rfid": ["--n", "200"],
}


@pytest.mark.full
@pytest.mark.parametrize("case", SHIPPED)
def test_numbers_of_the_shipped_weights(case, tmp_path, monkeypatch, golden):
    monkeypatch.chdir(tmp_path)
    bench = case.split()[0]
    folders = FOLDERS[:-2] if bench == "rfid" else FOLDERS
    assert at.run_bench(bench, [*SHIPPED[case], *folders]) == 0
    golden.check(numbers(tmp_path / "results"), CLOSE, 1e-6)
