"""Is this revision worse than another? For CI: nox -s regress -- --base REV

Three kinds of evidence, each judged by what it can carry:
quality   newest record of each (bench, version, protocol, system) against the base's, by the spread
          over sampling seeds that all its records show, or by both intervals where there is none
speed     medians of the hot functions, both revisions in turn (`speed/interleave.py`); records
          that are timings themselves (TIMED) were not taken in turn and are left out
counters  FLOPs, forward calls, tokens, bytes: exact, any increase is worse
Exit codes: 0 nothing is worse, 2 something is (or a user's mistake), 3 nothing, or not all that was
asked for, was measured. An alarm needs p < 0.001 after Benjamini and Hochberg and, for speed, five
per cent at least: ten runs of pure noise stay silent.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.reports import ROOT, called, guarded, own, read_json
from cm3leon.reports.compare import BETTER, NO_INTERVAL, OPEN, WORSE, compare
from cm3leon.reports.records.store import (
    RESULTS,
    NothingThere,
    column,
    is_trial,
    read_all,
    read_files,
)
from cm3leon.reports.tables import Table, number

ALARM = 0.001  # adjusted p below which a difference counts
TIMED = ("latency",)  # benchmarks whose numbers are timings of one run
SLOWER = 0.05  # log ratio that a slow-down must exceed as well
EXACT = (
    "forward_calls",
    "prefill_tokens",
    "step_tokens",
    "tokens",
    "flops",
    "cache_bytes",
)  # counters that may not rise
MISSING = "nothing measured"


@dataclass(frozen=True)
class Finding:
    """One measure of one series at both revisions."""

    kind: str  # quality, speed, counters
    series: str
    measure: str
    base: float | None
    head: float | None
    verdict: str
    p: float | None = None


def quality(base: Sequence[Mapping], head: Sequence[Mapping]) -> list[Finding]:
    """Findings of every series that the base has; one without a head record measured nothing."""
    newest = _newest(head)
    series = _newest(base)
    found = []
    for key, old in series.items():
        name = f"{key[0]} {key[3]} ({key[2][:6]})"
        new = newest.get(key)
        if new is None:
            found.append(Finding("quality", name, "value", old["value"], None, MISSING))
            continue
        alike = [one for one in (*base, *head) if _key(one) == key]
        found += _changes(name, old, new, alike)
    return found


def speed(base: Sequence[Mapping], head: Sequence[Mapping]) -> list[Finding]:
    """Findings from rounds of pytest-benchmark JSON, round by round in turn.

    The log ratio of the medians of each round is one sample; Student's t over rounds.
    """
    sides = [_medians(rounds) for rounds in (base, head)]
    found = []
    for name, olds in sides[0].items():
        news = sides[1].get(name, [])
        pairs = list(zip(olds, news, strict=False))
        if not pairs:
            found.append(Finding("speed", name, "median", olds[0], None, MISSING))
            continue
        ratios = [math.log(new / old) for old, new in pairs]
        middle = sorted(olds)[len(olds) // 2], sorted(news)[len(news) // 2]
        verdict = WORSE if sum(ratios) > 0 else BETTER
        found.append(Finding("speed", name, "median, s", *middle, verdict, _one_sided(ratios)))
    return found


def counters(base: Sequence[Mapping], head: Sequence[Mapping]) -> list[Finding]:
    """Exact counters of perf rounds: more is worse, whatever the noise."""
    sides = [_counted(rounds) for rounds in (base, head)]
    found = []
    for (name, counter), old in sides[0].items():
        new = sides[1].get((name, counter))
        verdict = MISSING if new is None else WORSE if new > old else BETTER if new < old else OPEN
        found.append(Finding("counters", name, counter, old, new, verdict))
    return found


def counted_records(base: Sequence[Mapping], head: Sequence[Mapping]) -> list[Finding]:
    """Exact counters of records: `cost.tokens`, `cost.flops` and those named in EXACT."""
    sides = [
        {key: _costs(one) for key, one in _newest(records).items()} for records in (base, head)
    ]
    found = []
    for key in sides[0].keys() & sides[1].keys():
        for counter in sides[0][key].keys() & sides[1][key].keys():
            old, new = sides[0][key][counter], sides[1][key][counter]
            verdict = WORSE if new > old else BETTER if new < old else OPEN
            found.append(Finding("counters", f"{key[0]} {key[3]}", counter, old, new, verdict))
    return sorted(found, key=lambda one: (one.series, one.measure))


def judged(found: Sequence[Finding]) -> list[Finding]:
    """Findings with p adjusted over all of them, and the verdicts that follow."""
    from cm3leon.evaluation.statistics.significance import benjamini_hochberg

    open_ones = [one for one in found if one.p is not None]
    adjusted = iter(benjamini_hochberg([one.p for one in open_ones]))
    out = []
    for one in found:
        if one.p is None:
            out.append(one)
            continue
        p = float(next(adjusted))
        out.append(replace(one, p=p, verdict=one.verdict if p < ALARM else OPEN))
    return out


def exit_code_of(found: Sequence[Finding]) -> int:
    """2 when something is worse, else 3 when something asked for was not measured, else 0."""
    verdicts = {one.verdict for one in found}
    if not found:
        return 3
    return 2 if WORSE in verdicts else 3 if MISSING in verdicts else 0


def table(found: Sequence[Finding]) -> Table:
    """Everything that was looked at, worst first."""
    order = {WORSE: 0, MISSING: 1, BETTER: 2, NO_INTERVAL: 3, OPEN: 4}
    rows = []
    for one in sorted(found, key=lambda one: (order[one.verdict], one.kind, one.series)):
        change = "-"
        if one.base and one.head is not None:
            change = f"{100 * (one.head / one.base - 1):+.1f}%"
        p = "exact" if one.kind == "counters" else "-" if one.p is None else f"{one.p:.1g}"
        cells = number(one.base), number(one.head), change, p
        rows.append((one.kind, one.series, one.measure, *cells, one.verdict))
    worse = sum(one.verdict == WORSE for one in found)
    return Table(
        ("kind", "of", "measure", "base", "this", "change", "p", "verdict"),
        tuple(rows),
        f"Regression gate: {worse} of {len(found)} measures worse",
        notes=(f"worse: p < {ALARM} over all measures together; counters: any increase",),
        numbers=frozenset({3, 4, 5, 6}),
    )


def _changes(name: str, old: Mapping, new: Mapping, alike: Sequence[Mapping]) -> list[Finding]:
    """Measures of one series; the value by the spread over seeds where records show it."""
    found = []
    for row in compare(old, new).rows:
        p = row.p
        if row.measure == "value":
            by_seeds = _seeds_p(old, new, alike)
            p = p if by_seeds is None else by_seeds
        if p is None:
            same = row.a == row.b
            verdict = OPEN if same else NO_INTERVAL
            found.append(Finding("quality", name, row.measure, row.a, row.b, verdict))
            continue
        verdict = BETTER if (row.b < row.a) == (row.better == "lower") else WORSE
        found.append(Finding("quality", name, row.measure, row.a, row.b, verdict, p))
    return found


def _seeds_p(old: Mapping, new: Mapping, alike: Sequence[Mapping]) -> float | None:
    """Two-sided p from the deviation over seeds, pooled over all records of the series."""
    from scipy.special import stdtr

    sets = [one["per_seed"] for one in alike if len(one["per_seed"]) > 1]
    freedom = sum(len(one) - 1 for one in sets)
    if not freedom or min(len(old["per_seed"]), len(new["per_seed"])) < 1:
        return None
    scatter = sum((value - sum(one) / len(one)) ** 2 for one in sets for value in one)
    error = (scatter / freedom * (1 / len(old["per_seed"]) + 1 / len(new["per_seed"]))) ** 0.5
    apart = abs(own(new)["value"] - own(old)["value"])
    if error == 0:
        return 0.0 if apart else 1.0
    return float(2 * stdtr(freedom, -apart / error))


def _one_sided(ratios: Sequence[float]) -> float:
    """p of "slower by SLOWER at most", or of "faster by SLOWER at most", over rounds."""
    from scipy.special import stdtr

    count, mean = len(ratios), sum(ratios) / len(ratios)
    if count < 3:
        return 1.0
    error = (sum((one - mean) ** 2 for one in ratios) / (count - 1) / count) ** 0.5
    beyond = abs(mean) - SLOWER
    if error == 0:
        return 0.0 if beyond > 0 else 1.0
    return float(stdtr(count - 1, -beyond / error))


def _key(record: Mapping) -> tuple:
    return (*column(record), record["system"]["name"])


def _newest(records: Sequence[Mapping]) -> dict[tuple, Mapping]:
    """Series -> its last record; records come oldest first."""
    return {_key(one): one for one in records}


def read_rounds(path: Path) -> dict:
    """A round as pytest-benchmark writes it; UserError for anything else, and where it is not
    what the digest beside it names.
    """
    found, beside = read_json(path), path.with_name(f"{path.name}.sha256")
    if beside.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if beside.read_bytes().split()[:1] != [digest.encode()]:
            raise UserError(f"{path} is not what {beside.name} names; measure again")
    try:
        for one in found["benchmarks"]:
            if not (isinstance(one["name"], str) and one["stats"]["median"] > 0):
                raise ValueError
            dict(one.get("extra_info", {}))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} is no output of pytest-benchmark (benchmarks, name, stats.median); "
            "python -m benchmarks.speed.interleave writes it"
        ) from None
    return found


def _medians(rounds: Sequence[Mapping]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in rounds:
        for bench in one["benchmarks"]:
            found.setdefault(bench["name"], []).append(bench["stats"]["median"])
    return found


def _counted(rounds: Sequence[Mapping]) -> dict[tuple[str, str], float]:
    return {
        (bench["name"], counter): value
        for one in rounds
        for bench in one["benchmarks"]
        for counter, value in bench.get("extra_info", {}).items()
        if counter in EXACT
    }


def _costs(record: Mapping) -> dict[str, float]:
    cost = record["cost"]
    named = {name: cost[name] for name in ("tokens", "flops") if cost[name] is not None}
    return named | {name: n for name, n in cost["counters"].items() if name in EXACT}


def git(root: Path, *words: str, given: str = "") -> str | None:
    """What git prints; None where it fails."""
    line = ["git", "-C", str(root), *words]
    done = subprocess.run(line, capture_output=True, text=True, input=given)
    return None if done.returncode else done.stdout


def ancestors(base: str, root: Path = ROOT) -> set[str]:
    """Commits that `base` contains, itself among them.

    Raises UserError for an unknown revision, and for a shallow clone, where older ones are
    missing and would pass for newer.
    """
    if (git(root, "rev-parse", "--is-shallow-repository") or "").strip() == "true":
        raise UserError(
            f"{root} is a shallow clone, whose old records would pass for new ones; "
            "git fetch --unshallow (fetch-depth: 0 of actions/checkout)"
        )
    found = git(root, "rev-list", base, "--")
    if found is None:
        raise UserError(f"no revision {base!r} in {root}; fetch it or name another")
    return set(found.split())


def split(records: Sequence[Mapping], base: str, root: Path = ROOT) -> tuple[list, list]:
    """Records made at `base` or before it, and those made after.

    One of a commit that the repository does not have (another clone's, squashed since, "unknown")
    is on neither side; how many there are is said on stderr.
    """
    known = ancestors(base, root)
    commits = {one["code"]["commit"] for one in records}
    asked = "".join(f"{commit}^{{commit}}\n" for commit in sorted(commits - known))
    told = git(root, "cat-file", "--batch-check", given=asked) or ""
    there = known | {line.split()[0] for line in told.splitlines() if line.split()[1] == "commit"}
    sides: tuple[list, list] = [], []
    for one in records:
        if one["code"]["commit"] in there:
            sides[one["code"]["commit"] not in known].append(one)
    if lost := len(records) - len(sides[0]) - len(sides[1]):
        print(
            f"{lost} records are of commits that {root} does not have: judged on neither side",
            file=sys.stderr,
        )
    return sides


def at_base(base: str, folder: Path) -> set[Path]:
    """Files below a folder that `base` holds, whatever commits they name; nothing outside git."""
    top = git(folder, "rev-parse", "--show-toplevel")
    names = git(folder, "ls-tree", "-r", "-z", "--name-only", "--full-tree", base)
    if top is None or names is None:
        return set()
    return {(Path(top.strip()) / name).resolve() for name in names.split("\0") if name}


def regress(
    base: str = "",
    results: Path = RESULTS,
    base_results: Path | None = None,
    perf: Path | None = None,
    benches: tuple[str, ...] = (),
) -> int:
    """Compare this revision with a base; prints a table, returns the exit code.

    Args:
        base: a git revision: records made after it are judged against those before
        results: folder of records
        base_results: records of the base in a folder of their own, instead of `base`
        perf: folder of rounds, base-*.json and head-*.json (written by benchmarks.speed.interleave)
        benches: judge these benchmarks alone, and each must have been measured anew
    """
    found = []
    if base or base_results:
        sides = _sides(base, results, base_results)
        old, new = (
            [one for one in side if one["bench"] not in TIMED and not is_trial(one)]
            for side in sides
        )
        if benches:
            old, new = ([one for one in side if one["bench"] in benches] for side in (old, new))
        qualities = quality(old, new)
        if not benches:  # a run need not measure everything anew
            qualities = [one for one in qualities if one.verdict != MISSING]
        found += qualities + counted_records(old, new)
    if perf is not None:
        rounds = [
            [read_rounds(path) for path in sorted(perf.glob(f"{side}-*.json"))]
            for side in ("base", "head")
        ]
        found += speed(*rounds) + counters(*rounds)
    if not found:
        raise NothingThere("nothing was measured at both revisions; run the benchmarks first")
    found = judged(found)
    print(table(found).to_text())
    return exit_code_of(found)


def _sides(base: str, results: Path, base_results: Path | None) -> tuple[list, list]:
    if base_results is not None:
        return read_all(base_results), read_all(results)
    files, held = read_files(results), at_base(base, results)
    inside = [path.resolve() in held for path, _ in files]
    old = [record for (_, record), one in zip(files, inside, strict=True) if one]
    rest = [record for (_, record), one in zip(files, inside, strict=True) if not one]
    before, after = split(rest, base)
    return sorted([*old, *before], key=lambda one: one["date"]), after


def main() -> int:
    """Command line."""
    return guarded(lambda: called(regress))


if __name__ == "__main__":
    sys.exit(main())
