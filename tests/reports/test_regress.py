"""The regression gate: planted regressions are found, noise is silent, nothing measured is told."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import ttest_ind

from benchmarks.speed.interleave import checkout
from cm3leon.errors import UserError
from cm3leon.reports.compare import BETTER, OPEN, WORSE
from cm3leon.reports.records.store import NothingThere
from cm3leon.reports.regress import (
    MISSING,
    at_base,
    counted_records,
    counters,
    exit_code_of,
    judged,
    quality,
    read_rounds,
    regress,
    speed,
    split,
    table,
)
from tests.record_maker import record, saved

LATER = {"date": "2026-02-02T00:00:00Z", "code": {"commit": "b" * 40, "dirty": False}}


def measured(mean: float, generator, deviation: float = 0.01, **changes) -> dict:
    """A record of five seeds whose values differ by `deviation` of the mean."""
    values = mean * (1 + deviation * generator.standard_normal(5))
    half = 0.15 * mean  # the images' own chance is far wider than that of the seeds
    interval = {"low": mean - half, "high": mean + half, "level": 0.95, "method": "x"}
    shares = {name: 0.6 + 0.01 * generator.standard_normal() for name in ("overall", "two")}
    extra = {name: {"value": v, "low": v - 0.03, "high": v + 0.03} for name, v in shares.items()}
    return record(
        float(values.mean()), per_seed=values.tolist(), interval=interval, extra=extra, **changes
    )


def rounds(scale: dict | None = None, seed: int = 0, count: int = 9, noise: float = 0.08) -> list:
    """Rounds of pytest-benchmark as its JSON: ten functions, machines that drift."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        benches = []
        for number in range(10):
            name = f"test_{number}"
            median = 0.01 * (number + 1) * (scale or {}).get(name, 1.0)
            median *= float(np.exp(noise * generator.standard_normal()))
            info = {"forward_calls": 64, "step_tokens": 2016} if number == 0 else {}
            benches.append({"name": name, "stats": {"median": median}, "extra_info": info})
        found.append({"benchmarks": benches})
    return found


def verdicts(found) -> dict:
    return {(one.kind, one.series, one.measure): one.verdict for one in judged(found)}


def test_five_per_cent_of_fid_are_found():
    generator = np.random.default_rng(0)
    base, head = measured(25.0, generator), measured(26.25, generator, **LATER)
    found = judged(quality([base], [head]))
    assert [one.verdict for one in found if one.measure == "value"] == [WORSE]
    assert exit_code_of(found) == 2
    found = judged(quality([head], [base]))
    assert [one.verdict for one in found if one.measure == "value"] == [BETTER]
    assert exit_code_of(found) == 0


def test_a_slow_down_of_thirty_per_cent_is_found():
    found = judged(speed(rounds(seed=1), rounds({"test_3": 1.3}, seed=2)))
    assert [one.series for one in found if one.verdict == WORSE] == ["test_3"]
    assert exit_code_of(found) == 2
    faster = judged(speed(rounds({"test_3": 1.3}, seed=1), rounds(seed=2)))
    assert [one.series for one in faster if one.verdict == BETTER] == ["test_3"]


def test_one_more_forward_call_is_found():
    base, head = rounds(), rounds()
    assert exit_code_of(counters(base, head)) == 0
    for one in head:
        one["benchmarks"][0]["extra_info"]["forward_calls"] += 1
    found = counters(base, head)
    assert [(one.measure, one.verdict) for one in found if one.verdict != OPEN] == [
        ("forward_calls", WORSE)
    ]
    assert exit_code_of(found) == 2 and exit_code_of(counters(head, base)) == 0


def test_a_benchmark_that_measured_nothing_is_told():
    head = rounds(seed=3)
    for one in head:
        del one["benchmarks"][4], one["benchmarks"][0]["extra_info"]["step_tokens"]
    base = rounds(seed=4)
    assert verdicts(speed(base, head))["speed", "test_4", "median"] == MISSING
    assert verdicts(counters(base, head))["counters", "test_0", "step_tokens"] == MISSING
    assert exit_code_of(judged(speed(base, head))) == 3
    lost = quality([record(), record(name="other")], [record(**LATER)])
    assert exit_code_of(judged(lost)) == 3 and exit_code_of([]) == 3


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_silent(seed):
    generator = np.random.default_rng(seed)
    base = [measured(value, generator, name=f"s{value}") for value in (10, 25, 80)]
    head = [measured(value, generator, name=f"s{value}", **LATER) for value in (10, 25, 80)]
    timed = speed(rounds(seed=100 + seed, noise=0.15), rounds(seed=200 + seed, noise=0.15))
    found = judged(quality(base, head) + timed + counters(rounds(), rounds()))
    assert len(found) == 3 * 3 + 10 + 2
    assert exit_code_of(found) == 0
    assert not [one for one in found if one.verdict == WORSE]


def test_other_protocols_are_other_series():
    found = quality([record()], [record(50.0, protocol={"n": 7}, **LATER)])
    assert [one.verdict for one in found] == [MISSING]


def test_few_rounds_give_no_verdict():
    found = judged(speed(rounds(count=2, noise=0), rounds({"test_1": 3.0}, count=2, noise=0)))
    assert {one.verdict for one in found} == {OPEN}


def write_rounds(folder, side: str, found: list) -> None:
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(found):
        (folder / f"{side}-{number:03d}.json").write_text(json.dumps(one))


def test_the_gate_from_folders(tmp_path, capsys):
    saved(tmp_path / "base", record())
    saved(tmp_path / "head", record(**LATER))
    folders = {"results": tmp_path / "head", "base_results": tmp_path / "base"}
    assert regress(**folders) == 0
    for side in ("base", "head"):
        write_rounds(tmp_path / "perf", side, rounds(seed=len(side) + ord(side[0])))
    assert regress(**folders, perf=tmp_path / "perf", benches=("fid_coco",)) == 0
    assert "0 of 16 measures worse" in capsys.readouterr().out
    saved(tmp_path / "base", record(), record(1.0, name="lost"))
    assert regress(**folders) == 0  # not all need be measured anew
    assert regress(**folders, benches=("fid_coco",)) == 3  # unless it was asked for
    with pytest.raises(NothingThere, match="nothing was measured at both revisions"):
        regress(perf=tmp_path / "empty")


def test_records_split_at_a_revision(tmp_path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        line = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    commits = []
    for text in ("one", "two"):
        (tmp_path / "code.py").write_text(text)
        git("add", ".")
        git("commit", "-q", "-m", text)
        commits.append(git("rev-parse", "HEAD"))
    codes = [{"commit": commit, "dirty": False} for commit in commits]
    old, new = record(code=codes[0]), record(code=codes[1])
    assert split([old, new], commits[0], tmp_path) == ([old], [new])
    assert split([old, new], "HEAD", tmp_path) == ([old, new], [])
    with pytest.raises(UserError, match="no revision 'nowhere' in"):
        split([old], "nowhere", tmp_path)
    with checkout(commits[0], tmp_path) as tree:
        assert (tree / "code.py").read_text() == "one"
    assert not tree.exists() and git("worktree", "list").count("\n") == 0
    with pytest.raises(UserError, match="git worktree: "), checkout("nowhere", tmp_path):
        pass


def repository(folder):
    """A function that runs git there, in a fresh repository."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        line = ["git", "-C", str(folder), *who, *words]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    folder.mkdir(exist_ok=True)
    git("init", "-q")
    return git


def committed(git, text: str) -> str:
    git("commit", "-q", "--allow-empty", "-m", text)
    return git("rev-parse", "HEAD")


def test_a_shallow_clone_is_refused(tmp_path):
    git = repository(tmp_path / "full")
    commits = [committed(git, text) for text in ("one", "two", "three", "four")]
    line = ["git", "clone", "-q", "--depth", "2", f"file://{tmp_path / 'full'}"]
    subprocess.run([*line, str(tmp_path / "shallow")], check=True, capture_output=True)
    old = record(code={"commit": commits[0], "dirty": False})
    assert split([old], "HEAD~1", tmp_path / "full") == ([old], [])
    with pytest.raises(UserError, match=r"is a shallow clone.*fetch --unshallow"):
        split([old], "HEAD~1", tmp_path / "shallow")


def test_records_of_strange_commits_are_on_neither_side(tmp_path, capsys):
    git = repository(tmp_path)
    base, head = (committed(git, text) for text in ("one", "two"))
    tree = git("rev-parse", "HEAD^{tree}")  # an object, and no commit
    names = {"old": base, "new": head, "gone": "f" * 40, "none": "unknown", "tree": tree}
    made = {
        name: record(name=name, code={"commit": commit, "dirty": None})
        for name, commit in names.items()
    }
    assert split(list(made.values()), base, tmp_path) == ([made["old"]], [made["new"]])
    assert "3 records are of commits that" in capsys.readouterr().err


def test_what_the_base_holds_is_old_whatever_commit_it_names(tmp_path):
    """Records of a branch that was squashed name commits that nobody has."""
    git = repository(tmp_path)
    (path,) = saved(tmp_path / "results", record())
    git("add", "-A")
    base = committed(git, "squashed")
    (tmp_path / "results" / "new.json").write_text("{}")
    assert at_base(base, tmp_path / "results") == {path.resolve()}
    assert at_base("nowhere", tmp_path / "results") == set()


def alone(**changes) -> dict:
    """A record of one seed, so that its interval speaks."""
    half = changes.pop("half", 1.0)
    value = changes.pop("value", 25.0)
    interval = {"low": value - half, "high": value + half, "level": 0.95, "method": "x"}
    return record(value, extra={}, per_seed=[value], interval=interval, **changes)


def test_an_alarm_needs_one_in_a_thousand():
    """Intervals of 1 either way: s.e. 0.51 each, 0.72 of the difference, z of 2 and of 3.5."""
    for apart, verdict in ((1.45, OPEN), (2.2, OPEN), (2.6, WORSE)):
        (found,) = judged(quality([alone()], [alone(value=25 + apart, **LATER)]))
        assert (found.verdict == verdict) and found.p == pytest.approx(
            float(2 * ndtr(-apart / (2**0.5 / 1.959964))), rel=1e-3
        )


def test_seeds_of_both_sides_count():
    """Pooled deviation s over all seeds, error s sqrt(1/n + 1/m): Student's t by scipy."""
    sides = [[24.0, 25.0, 26.0], [27.0, 28.5]]
    records = [
        record(float(np.mean(one)), per_seed=one, extra={}, **(LATER if place else {}),
               interval={"low": 0, "high": 99, "level": 0.95, "method": "x"})
        for place, one in enumerate(sides)
    ]  # fmt: skip
    (found,) = quality(records[:1], records[1:])
    assert found.p == pytest.approx(ttest_ind(*sides).pvalue)


def test_counters_of_records_are_compared():
    def costed(counters: dict, **changes):
        cost = record()["cost"] | {"counters": counters, "tokens": 640}
        return record(cost=cost, **changes)

    base = costed({"forward_calls": 64, "drawn": 10})
    more = costed({"forward_calls": 65, "drawn": 99}, **LATER)
    assert [(one.measure, one.verdict) for one in counted_records([base], [more])] == [
        ("forward_calls", WORSE),
        ("tokens", OPEN),
    ]
    assert [one.verdict for one in counted_records([more], [base])] == [BETTER, OPEN]
    assert counted_records([base], [costed({"forward_calls": 65}, protocol={"n": 2})]) == []


def test_the_gate_judges_counters_of_records(tmp_path, capsys):
    cost = record()["cost"]
    saved(tmp_path / "base", record(cost=cost | {"tokens": 640}))
    saved(tmp_path / "head", record(cost=cost | {"tokens": 641}, **LATER))
    assert regress(results=tmp_path / "head", base_results=tmp_path / "base") == 2
    assert "tokens" in capsys.readouterr().out


def test_a_trial_is_not_judged(tmp_path):
    saved(tmp_path / "base", record())
    trial = record(900.0, warnings=["a trial, not x"], **LATER)
    saved(tmp_path / "head", record(**LATER), trial | {"date": "2026-03-03T00:00:00Z"})
    assert regress(results=tmp_path / "head", base_results=tmp_path / "base") == 0


def test_a_round_that_is_not_what_was_measured_is_refused(tmp_path):
    write_rounds(tmp_path, "base", rounds(seed=1, count=1))
    path = tmp_path / "base-000.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("base-000.json.sha256").write_text(f"{digest}  {path.name}\n")
    assert len(read_rounds(path)["benchmarks"]) == 10
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(UserError, match=r"base-000.json is not what base-000.json.sha256 names"):
        read_rounds(path)


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", '{"benchmarks": 3}', '{"benchmarks": [{}]}',
     '{"benchmarks": [{"name": "a", "stats": {"median": 0}}]}',
     '{"benchmarks": [{"name": "a", "stats": {"median": "x"}}]}'],
)  # fmt: skip
def test_rounds_of_another_form_are_one_line(tmp_path, content):
    for side in ("base", "head"):
        (tmp_path / f"{side}-000.json").write_text(content)
    with pytest.raises(UserError, match=r"base-000.json is no output of pytest-benchmark"):
        regress(perf=tmp_path)


def test_the_table_shows_the_worst_first():
    found = judged(speed(rounds(seed=1), rounds({"test_3": 1.5}, seed=2)))
    rows = table(found).rows
    assert rows[0][1] == "test_3" and rows[0][-1] == WORSE and rows[0][5].startswith("+")
