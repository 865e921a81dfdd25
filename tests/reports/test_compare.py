"""Two runs side by side: what differs, and verdicts that can be trusted."""

import subprocess

import numpy as np
import pytest

from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.evaluation.measures import HIGHER, Measure, declared
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.files import sha256_bytes
from cm3leon.reports.compare import (
    BETTER,
    NO_INTERVAL,
    OPEN,
    WORSE,
    compare,
    differences,
    find_pair,
    find_runs,
    pairable,
    samples_of,
    tables,
)
from tests.record_maker import record, saved

LATER = {"date": "2026-02-02T00:00:00Z", "code": {"commit": "b" * 40, "dirty": False}}


def verdicts(found) -> dict[str, str]:
    return {row.measure: row.verdict for row in found.rows}


def interval(value: float, half: float) -> dict:
    return {"low": value - half, "high": value + half, "level": 0.95, "method": "x"}


def test_a_run_equals_itself():
    found = compare(record(), record(**LATER))
    assert set(verdicts(found).values()) == {OPEN}
    assert [line[0] for line in found.made] == ["code.commit"]
    assert not {"floor", "rfid", "ceiling"} & set(verdicts(found))  # of the protocol


def test_better_and_worse_follow_the_measure():
    worse = record(20.0, **LATER, extra={"overall": {"value": 0.9, "low": 0.88, "high": 0.92}})
    found = compare(record(), worse)
    assert verdicts(found) == {"value": WORSE, "overall": BETTER}
    row = found.rows[0]
    assert row.difference[0] == pytest.approx(7.655) and not row.paired
    assert row.difference[2] - row.difference[0] == pytest.approx(2**0.5)
    assert row.smallest == pytest.approx(2**0.5 / 1.96 * 2.8016, rel=1e-3)
    assert verdicts(compare(worse, record())) == {"value": BETTER, "overall": WORSE}
    near = compare(record(), record(13.0, **LATER))
    assert verdicts(near)["value"] == OPEN
    assert verdicts(near)["single"] == OPEN  # equal numbers without an interval
    other = record(13.0, **LATER, interval=None, spread={"images": None, "seeds": None})
    assert verdicts(compare(record(), other))["value"] == NO_INTERVAL


def test_verdicts_hold_over_all_measures_together():
    """One of forty at p = 0.02 is chance; each of forty is not."""

    def shares(moved: int) -> dict:
        values = {f"task{k}": 0.5 + (0.0332 if k < moved else 0.0) for k in range(40)}
        ends = {name: {"value": v, "low": v - 0.02, "high": v + 0.02} for name, v in values.items()}
        return {"extra": ends, "measures": declared(ends, [Measure("task*", "x", "share", HIGHER)])}

    alone = compare(record(**shares(0)), record(**LATER, **shares(1)))
    together = compare(record(**shares(0)), record(**LATER, **shares(40)))
    assert verdicts(alone)["task0"] == OPEN and verdicts(together)["task0"] == BETTER


def around(**values: float) -> dict:
    return {name: {"value": v, "low": v - 0.01, "high": v + 0.01} for name, v in values.items()}


def test_the_direction_is_the_record_s():
    """A loss that falls is better, more copies are worse, a floor is neither."""
    before = {"a.held_out_loss": 9.0, "a.copy_pixels": 0.1, "a.fid_with_0": 9.0, "floor": 9.0}
    after = {"a.held_out_loss": 4.0, "a.copy_pixels": 0.6, "a.fid_with_0": 4.0, "floor": 1.0}
    leads = {"a.fid_vs_b": 1.0, "a.held_out_gain_minus_b": 1.0, "a.fid_minus_b": 1.0}
    one = record(extra=around(**before, **leads))
    other = record(**LATER, extra=around(**after, **{name: 2.0 for name in leads}))
    found = compare(one, other)
    assert verdicts(found) == {
        "value": OPEN, "a.held_out_loss": BETTER, "a.copy_pixels": WORSE, "a.fid_with_0": BETTER,
        "a.fid_vs_b": BETTER, "a.held_out_gain_minus_b": BETTER, "a.fid_minus_b": WORSE,
    }  # fmt: skip
    assert found.left_out == 1
    text = tables(found, one, other)[1].to_text()
    assert "nats" in text and "1 numbers left out: better in no direction" in text
    turned = one["measures"] | {
        "held_out_loss": one["measures"]["copy_pixels"] | {"better": HIGHER}
    }
    found = compare(one | {"measures": turned}, other | {"measures": turned})
    assert verdicts(found)["a.held_out_loss"] == WORSE  # nothing is guessed from a name
    assert "a.held_out_loss" not in verdicts(compare(one | {"measures": turned}, other))


def test_other_protocols_do_not_compare():
    other = record(protocol={"n": 5, "documents": 0}, **LATER)
    found = compare(record(), other)
    assert not found.rows and found.why_not == "they differ in protocol.features.name, protocol.n"
    assert len(tables(found, record(), other)) == 1
    again = compare(record(), record(version=2, **LATER))
    assert again.why_not == "they differ in version"


def test_differences_are_named_whole():
    system = {"name": "scenes-s", "config": {"decode": {"top_p": 0.9}}, "weights_sha256": "c" * 64}
    lines = differences(record(), record(system=system))
    assert ("system.config.decode.top_p", "-", "0.9") in lines
    assert ("system.weights_sha256", "None", "c" * 12) in lines


def samples(seed: int, shift: float, right: float) -> dict:
    generator = np.random.default_rng(0)
    reference, prompts = generator.standard_normal((2, 120, 4))
    own = np.random.default_rng(seed)
    features = (prompts + shift + 0.1 * own.standard_normal((1, 120, 4))).astype(np.float32)
    hard = np.linspace(0, 1, 120)[:, None]  # prompts that are hard are hard for both
    return {
        "prompts": np.array([f"p{k}" for k in range(120)]),
        "reference_ND": reference,
        "features_KND": features,
        "right_NT": (hard < right + 0.02 * own.standard_normal((120, 1))).astype(np.int8),
        "asked_NT": np.ones((120, 1), np.int8),
        "tasks": np.array(["overall"]),
    }


def test_samples_of_the_same_prompts_are_paired():
    a, b = samples(1, 0.0, 0.6), samples(2, 0.4, 0.66)
    fids = [frechet_from_features(one["reference_ND"], one["features_KND"][0]) for one in (a, b)]
    wide = {"overall": {"value": 0.6, "low": 0.5, "high": 0.7}}
    one = record(fids[0], extra=wide)
    two = record(fids[1], **LATER, extra={"overall": {"value": 0.66, "low": 0.56, "high": 0.76}})
    assert verdicts(compare(one, two)) == {"value": OPEN, "overall": OPEN}
    found = compare(one, two, pairable(a, b))
    assert all(row.paired for row in found.rows)
    assert verdicts(found) == {"value": WORSE, "overall": BETTER}
    assert pairable(a, b | {"prompts": b["prompts"][::-1]}) is None
    assert pairable(a, None) is None
    for side in (a, b):
        side["asked_NT"][1:] = 0  # one prompt alone asks for it: nothing to pair
    lonely = {row.measure: row.paired for row in compare(one, two, pairable(a, b)).rows}
    assert lonely == {"value": True, "overall": False}
    edited = record(fids[1] - 0.9, **LATER)  # within its own interval, and of no digest
    with pytest.raises(UserError, match=r"value: the records differ by .*, the samples beside"):
        compare(one, edited, pairable(a, b))


def test_samples_must_be_the_record_s_own(tmp_path):
    packed = core.packed_samples(samples(1, 0, 0.5))
    (path,) = saved(tmp_path, record(samples={"sha256": sha256_bytes(packed)}))
    ((one, found),) = find_runs("fid_coco/scenes-s", tmp_path)
    assert found == path and samples_of(path, one) is None  # not at hand
    path.with_suffix(".npz").write_bytes(packed)
    assert samples_of(path, one)["features_KND"].shape == (1, 120, 4)
    path.with_suffix(".npz").write_bytes(packed[:-1])
    with pytest.raises(UserError, match=r"0\.npz does not belong to 0\.json; measure again"):
        samples_of(path, one)
    np.savez(path.with_suffix(".npz"), x=np.array([{}], dtype=object))  # a pickle, its digest told
    told = {"sha256": sha256_bytes(path.with_suffix(".npz").read_bytes())}
    with pytest.raises(UserError, match=r"0\.npz is no \.npz of plain arrays"):
        samples_of(path, record(samples=told))


def test_runs_of_one_protocol_are_compared(tmp_path):
    full, small = {"n": 1000}, {"n": 128}
    trial = {"warnings": ["a trial, not x"], "protocol": small, "n": 128}
    paths = saved(
        tmp_path,
        record(25.0, "a", protocol=full),
        record(24.0, "a", protocol=full, **LATER),
        record(600.0, "a", date="2026-05-05T00:00:00Z", **trial),
        record(50.0, "b", protocol=full),
        record(40.0, "b", protocol=small, n=128, date="2026-06-06T00:00:00Z"),
        record(70.0, "c", protocol=small, n=128),
    )

    def pair(one: str, other: str) -> list[float]:
        found = find_pair(one, other, tmp_path)
        assert all(path in paths for _, path in found)
        return [run["value"] for run, _ in found]

    assert pair("fid_coco/a", "fid_coco/b") == [24.0, 50.0]  # the newest of the full protocol
    assert pair("fid_coco/c", "fid_coco/b") == [70.0, 40.0]  # the only one that both have
    assert pair("fid_coco/c", "fid_coco/a") == [70.0, 24.0]  # a trial is no run of its protocol
    assert pair(str(paths[2]), "fid_coco/c") == [600.0, 70.0]  # named by its path


def test_the_command(tmp_path, run_module):
    one, two = saved(tmp_path, record(), record(20.0, **LATER))
    saved(tmp_path, record(30.0, "other", protocol={"n": 5}))

    def command(*runs: str) -> subprocess.CompletedProcess:
        return run_module("cm3leon.reports.compare", *runs, "--results", str(tmp_path))

    done = command(str(one), "fid_coco/scenes-s")
    assert done.returncode == 0 and "worse" in done.stdout and "code.commit" in done.stdout
    done = command(str(one), "fid_coco/other")
    assert done.returncode == 2 and "differs in" in done.stdout
    assert "are not comparable: they differ in protocol.documents, protocol.f" in done.stderr
    assert done.stderr.count("\n") == 1
    for run, message, code in (
        ("fid_coco", "a run is a record's path or bench/system, got 'fid_coco'", 2),
        ("fid_coco/none", "no record of fid_coco/none in", 2),
        ("none/none", "no records in", 3),
        (str(two.with_name("9.json")), "cannot read", 2),
    ):
        done = command(str(one), run)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1) and message in done.stderr
