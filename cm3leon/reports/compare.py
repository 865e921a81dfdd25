"""Two runs side by side: what differs in their making, then every measure with a verdict.

    nox -s compare -- RUN_A RUN_B      a run: a record's path, or bench/system

Of bench/system the run is taken that speaks for it (`store.speaking`): no trial, the largest, the
newest; of two, those of one protocol where there are such. The difference is B - A. Where both runs
kept the scores of their single samples and asked the same prompts it is paired (whole prompts
resampled); else its interval adds both runs' own in quadrature. Verdicts hold over all measures
together: p is adjusted by Benjamini and Hochberg. Runs of another benchmark,
version or protocol do not compare (exit code 2 after the list of what differs); times
compare on one device only, and one timing a side has no interval, hence no verdict.
"""

from __future__ import annotations

import re
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.evaluation.measures import NONE
from cm3leon.reports import called, extra, guarded, main_arm, own
from cm3leon.reports.records.store import (
    RESULTS,
    column,
    device,
    is_trial,
    largest_n,
    measure_of,
    read,
    read_files,
    weight,
)
from cm3leon.reports.tables import Table, number, span

LEVEL = 0.95
ROUNDING = 1e-3  # relative, of a distance whose features were kept in float32
BETTER, WORSE, OPEN = "better", "worse", "no difference resolved"
NO_INTERVAL, NOT_COMPARABLE = "no interval", "not comparable"


@dataclass(frozen=True)
class Row:
    """One measure of two runs; `difference` is (B - A, low, high), ends None where unknown."""

    measure: str
    a: float
    b: float
    difference: tuple[float, float | None, float | None]
    verdict: str
    better: str  # "lower" or "higher", as both records say
    paired: bool = False
    p: float | None = None  # adjusted for the number of measures
    smallest: float | None = None  # difference that would have been found four times in five


@dataclass(frozen=True)
class Comparison:
    """What differs in the making of two runs, and their measures."""

    made: tuple[tuple[str, str, str], ...]  # (what, in A, in B)
    rows: tuple[Row, ...]
    left_out: int = 0  # numbers of both that are better in no direction
    why_not: str = ""  # filled when the runs do not compare
    records: tuple[Mapping, Mapping] | None = None  # A and B

    def __str__(self) -> str:
        shown = () if self.records is None else tables(self, *self.records)
        return "\n\n".join(table.to_text() for table in shown)


def compare(a: Mapping, b: Mapping, samples: tuple | None = None) -> Comparison:
    """Records A and B; `samples` are the arrays kept beside them, (A's, B's), where both have."""
    made = tuple(differences(a, b))
    if column(a) != column(b):
        what = sorted({line[0] for line in made if line[0].split(".")[0] in _MUST_AGREE})
        why = f"they differ in {', '.join(what)}"
        return Comparison(made, (), why_not=why, records=(a, b))
    both = ["value", *(name for name in a["extra"] if name in b["extra"])]
    names = [name for name in both if _better(name, a, b) != NONE]
    rows = [_row(name, a, b, samples) for name in names]
    return Comparison(made, tuple(_judged(rows)), len(both) - len(names), records=(a, b))


def differences(a: Mapping, b: Mapping) -> list[tuple[str, str, str]]:
    """(what, in A, in B) of everything that differs in protocol, system, code and environment."""
    kept = ("bench", "version", "protocol", "system", "code", "environment")
    flat = [_flat({key: record[key] for key in kept}) for record in (a, b)]
    names = dict.fromkeys([*flat[0], *flat[1]])
    sides = [(name, *(one.get(name, "-") for one in flat)) for name in names]
    return [(name, _shown(x), _shown(y)) for name, x, y in sides if x != y]


def _better(name: str, a: Mapping, b: Mapping) -> str:
    """Which way a number is better, as both records say; in no direction where they disagree."""
    said = {measure_of(one, name).better for one in (a, b)}
    return said.pop() if len(said) == 1 else NONE


def verdict_of(difference: float, p: float | None, better: str, level: float = LEVEL) -> str:
    """What a difference B - A with an (adjusted) p says of B."""
    if p is None:
        return NO_INTERVAL if difference else OPEN
    if p >= 1 - level:
        return OPEN
    return BETTER if (difference < 0) == (better == "lower") else WORSE


def _row(name: str, a: Mapping, b: Mapping, samples: tuple | None) -> Row:
    from cm3leon.evaluation.statistics.significance import difference_p, smallest_effect

    ours, others = _entry(name, a), _entry(name, b)
    values = ours["value"], others["value"]
    paired = _paired(name, (a, b), samples) if samples else None
    apart = _unpaired(ours, others) if paired is None else paired
    value, low, high = apart
    better = _better(name, a, b)
    if low is None or high is None:
        return Row(name, *values, apart, NO_INTERVAL, better)
    p, smallest = difference_p(value, low, high, LEVEL), smallest_effect(low, high, LEVEL)
    return Row(name, *values, apart, "", better, paired is not None, p, smallest)


def _entry(name: str, record: Mapping) -> Mapping:
    """A number of a record as {value, low, high}."""
    found = own(record) if name == "value" else extra(record, name)
    if found is None:
        raise UserError(f"the record has no number {name!r}")
    return found


def _unpaired(a: Mapping, b: Mapping) -> tuple[float, float | None, float | None]:
    """B - A with both intervals in quadrature; each end from the ends that move it that way."""
    value = b["value"] - a["value"]
    if None in (a["low"], a["high"], b["low"], b["high"]):
        return value, None, None
    below = ((b["value"] - b["low"]) ** 2 + (a["high"] - a["value"]) ** 2) ** 0.5
    above = ((b["high"] - b["value"]) ** 2 + (a["value"] - a["low"]) ** 2) ** 0.5
    return value, value - below, value + above


def _paired(name: str, records: tuple, samples: tuple) -> tuple[float, float, float] | None:
    """B - A on the same prompts, or None where the samples do not hold this measure."""
    ours, others = (_arrays(name, *side) for side in zip(records, samples, strict=True))
    if ours is None or others is None:
        return None
    (measure, a), (_, b) = ours, others
    if measure in ("fid", "fid_own"):
        from cm3leon.evaluation.statistics.paired import frechet_difference

        reference = b["own_ND" if measure == "fid_own" else "reference_ND"]
        apart = frechet_difference(reference, b["features_KND"], a["features_KND"])
        _check_told(name, records, apart[0])
        return apart
    tasks = list(samples[1].get("tasks", ()))
    if measure not in tasks or list(samples[0].get("tasks", ())) != tasks:
        return None
    from cm3leon.evaluation.statistics.significance import paired_difference

    place = tasks.index(measure)
    shares = [_shares(side["right_NT"][:, place], side["asked_NT"][:, place]) for side in (b, a)]
    images = [str(image) for image in b["images"]]  # captions may share one
    if len({image for image, share in zip(images, shares[0], strict=True) if share == share}) < 2:
        return None  # too few prompts ask for it
    return paired_difference(shares[0], shares[1], clusters=images)[:3]


def _check_told(name: str, records: tuple, apart: float) -> None:
    """Raise UserError where the values of two records differ by another amount than the samples
    beside them.
    """
    a, b = (_entry(name, one) for one in records)
    told = b["value"] - a["value"]
    if abs(told - apart) > ROUNDING * max(abs(a["value"]), abs(b["value"])):
        raise UserError(
            f"{name}: the records differ by {told:g}, the samples beside them by {apart:g}; one of "
            "the records was edited, restore it from git"
        )


def _arrays(name: str, record: Mapping, samples: Mapping) -> tuple[str, dict] | None:
    """The last part of a measure's name, and the arrays of the split and arm that it is of."""
    main = main_arm(record)
    if main is None:  # one split, one arm
        if "features_KND" not in samples or "." in name:
            return None
        images = samples.get("images", samples["prompts"])
        return ("fid" if name == "value" else name), dict(samples) | {"images": images}
    split, arm, measure = (f"{main}.fid" if name == "value" else f"{name}..").split(".")[:3]
    parts = {
        "images": f"{split}.images", "own_ND": f"{split}.own_ND",
        "reference_ND": f"{split}.others_MD",
        **{key: f"{split}.{arm}.{key}" for key in ("features_KND", "right_NT", "asked_NT")},
    }  # fmt: skip
    if any(place not in samples for place in parts.values()):
        return None
    return measure, {key: samples[place] for key, place in parts.items()}


def _shares(right_N, asked_N):
    import numpy as np

    with np.errstate(invalid="ignore"):
        return np.where(asked_N > 0, right_N / np.maximum(asked_N, 1), np.nan)


def _judged(rows: list[Row]) -> list[Row]:
    """Rows with p adjusted for their number, and verdicts."""
    from cm3leon.evaluation.statistics.significance import benjamini_hochberg

    adjusted = iter(benjamini_hochberg([row.p for row in rows if row.p is not None]))
    out = []
    for row in rows:
        p = None if row.p is None else float(next(adjusted))
        out.append(replace(row, p=p, verdict=verdict_of(row.difference[0], p, row.better)))
    return out


def samples_of(path: Path, record: Mapping) -> dict | None:
    """The arrays beside a record, or None; UserError where they are not the record's own."""
    if record["samples"] is None or not path.with_suffix(".npz").exists():
        return None
    import hashlib

    import numpy as np

    from cm3leon.files import check_unpacked

    beside = path.with_suffix(".npz")
    if hashlib.sha256(beside.read_bytes()).hexdigest() != record["samples"]["sha256"]:
        raise UserError(f"{beside} does not belong to {path.name}; measure again")
    check_unpacked(beside)
    try:
        with np.load(beside, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{beside} is no .npz of plain arrays: {error}; measure again") from None


def pairable(a: Mapping | None, b: Mapping | None) -> tuple | None:
    """Both sides' samples when they are of the same prompts in the same order."""
    if a is None or b is None or list(a["prompts"]) != list(b["prompts"]):
        return None
    return a, b


def find_runs(name: str, results: Path) -> list[tuple[dict, Path]]:
    """Records and paths that a name may stand for, the likeliest last: one by path, or all of
    `bench/system`."""
    path = Path(name)
    if path.suffix == ".json":
        return [(read(path), path)]
    bench, _, system = name.partition("/")
    if not system:
        raise UserError(f"a run is a record's path or bench/system, got {name!r}")
    found = [one for one in read_files(results, bench) if one[1]["system"]["name"] == system]
    if not found:
        raise UserError(f"no record of {name} in {results}; run nox -s {bench} first")
    most = largest_n([record for _, record in found])
    found.sort(key=lambda one: weight(one[1], most))
    return [(record, path) for path, record in found]


def find_pair(run_a: str, run_b: str, results: Path) -> tuple[tuple, tuple]:
    """(record, path) of both runs: the likeliest of one protocol, else the likeliest of each."""
    of_a, of_b = (find_runs(name, results) for name in (run_a, run_b))
    for a in reversed(of_a):
        for b in reversed(of_b):
            if column(a[0]) == column(b[0]) and is_trial(a[0]) == is_trial(b[0]):
                return a, b
    return of_a[-1], of_b[-1]


def tables(found: Comparison, a: Mapping, b: Mapping) -> list[Table]:
    """What differs, then the measures."""
    names = f"A: {_name(a)}", f"B: {_name(b)}"
    made = Table(("differs in", *names), found.made or (("nothing", "", ""),), "What differs")
    if found.why_not:
        return [made]
    rows = tuple(_cells(row, a) for row in found.rows)
    paired = any(row.paired for row in found.rows)
    notes = (
        f"B - A with 95% interval, {'paired over prompts' if paired else 'runs independent'}; "
        "verdicts of B at a false-discovery rate of 5% over all rows",
        "could have seen: the difference found in four of five such runs",
        *[f"{found.left_out} numbers left out: better in no direction"] * bool(found.left_out),
    )
    headers = (
        *("measure", "unit", "better"),
        *("A", "B", "B - A", "interval", "could have seen", "verdict"),
    )
    return [
        made,
        Table(headers, rows, "Measures", notes, numbers=frozenset({3, 4, 5, 7})),
        _times(a, b),
    ]


def _cells(row: Row, record: Mapping) -> tuple[str, ...]:
    value, low, high = row.difference
    smallest = "-" if row.smallest is None else number(row.smallest)
    cells = (number(row.a), number(row.b), number(value), span(value, low, high) or "-", smallest)
    name, unit = row.measure, measure_of(record, row.measure).unit
    if name == "value":
        name, unit = unit, ""
    return (name, unit, row.better, *cells, row.verdict)


def _times(a: Mapping, b: Mapping) -> Table:
    """Seconds by phase, compared on one device only; one timing a side has no interval."""
    same = device(a) == device(b)
    both = [name for name in a["cost"]["seconds"] if name in b["cost"]["seconds"]]
    rows = []
    for name in both:
        x, y = a["cost"]["seconds"][name], b["cost"]["seconds"][name]
        ratio = f"{y / x:.2f}" if same and x else "-"
        why = "one timing each" if same else f"{NOT_COMPARABLE}: other devices"
        rows.append((name, number(x), number(y), ratio, why))
    headers = ("phase", "A, s", "B, s", "B / A", "verdict")
    return Table(headers, tuple(rows), "Seconds", numbers=frozenset({1, 2, 3}))


def _name(record: Mapping) -> str:
    return f"{record['system']['name']} {record['date'][:10]} {record['code']['commit'][:7]}"


def _shown(value) -> str:
    """A digest by its first twelve digits, all else as it is."""
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _flat(value, name: str = "") -> dict:
    if isinstance(value, Mapping) and value:
        items = [_flat(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()]
        return {key: text for one in items for key, text in one.items()}
    return {name: value}


_MUST_AGREE = ("bench", "version", "protocol")


def compare_runs(run_a: str, run_b: str, results: Path = RESULTS) -> Comparison:
    """Two runs by their names, paired where both kept their samples."""
    (a, path_a), (b, path_b) = find_pair(run_a, run_b, results)
    return compare(a, b, pairable(samples_of(path_a, a), samples_of(path_b, b)))


def print_comparison(run_a: str, run_b: str, /, results: Path = RESULTS) -> None:
    """Compare two runs.

    Args:
        run_a: path of a record, or bench/system for the run that speaks for it
        run_b: the run that is judged
        results: folder of records
    """
    found = compare_runs(run_a, run_b, results)
    print(found)
    if found.why_not:
        raise UserError(f"{run_a} and {run_b} are not comparable: {found.why_not}")


def main() -> int:
    """Command line; exit code 2 for runs that do not compare, 3 for no records."""
    return guarded(lambda: called(print_comparison))


if __name__ == "__main__":
    sys.exit(main())
