"""Records -> series: what one line may join, and whether a run is better than the one before it.

    runs = read_runs("results")      every record with its file, its mark and what changed
    series = series_of(runs)         one per benchmark, system, version, protocol and device
    panels = panels_of(series)       series that may share axes: all of these but the system

Nothing is ever joined across a version, a protocol, a device, or measured and quoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cm3leon.reports.compare import BETTER, WORSE
from cm3leon.reports.compare import OPEN as SAME
from cm3leon.reports.records.store import RESULTS, column, device, read_files

FIRST = "first"
MARKS = (WORSE, BETTER, SAME, FIRST)
MOST = 12  # settings of a change that are told one by one


@dataclass(frozen=True)
class Run:
    """A record, its file, the record before it in its series, the mark against that, what changed.

    `number` is its place among all runs, oldest first.
    """

    number: int
    record: Mapping
    path: Path
    before: Mapping | None
    mark: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """Runs of one system that one line may join, oldest first."""

    runs: tuple[Run, ...]

    @property
    def newest(self) -> Mapping:
        """The record of the last run."""
        return self.runs[-1].record

    @property
    def system(self) -> str:
        """Name of the system."""
        return self.newest["system"]["name"]

    @property
    def axes(self) -> tuple:
        """What must be equal for two series to share axes."""
        return axes(self.newest)


@dataclass(frozen=True)
class Panel:
    """Series of several systems on the same axes."""

    series: tuple[Series, ...]

    @property
    def newest(self) -> Mapping:
        """The last record of all."""
        return max((one.newest for one in self.series), key=lambda record: record["date"])


def axes(record: Mapping) -> tuple:
    """Benchmark, version, protocol digest, unit, device, measured or quoted."""
    return (*column(record), record["unit"], device(record), record["source"])


def mark(old: Mapping | None, new: Mapping) -> str:
    """BETTER or WORSE where the intervals of two records lie apart, SAME where not; FIRST alone.

    A record without an interval decides nothing.
    """
    if old is None:
        return FIRST
    before, after = old["interval"], new["interval"]
    if before is None or after is None or old["value"] == new["value"]:
        return SAME
    if after["high"] < before["low"]:
        return BETTER if new["better"] == "lower" else WORSE
    if after["low"] > before["high"]:
        return BETTER if new["better"] == "higher" else WORSE
    return SAME


def changes(old: Mapping | None, new: Mapping) -> tuple[str, ...]:
    """What differs between two runs of a series, one phrase each: code, weights, settings."""
    if old is None:
        return ()
    found = []
    codes = [commit(record) for record in (old, new)]
    if codes[0] != codes[1]:
        found.append(f"code {codes[0]} → {codes[1]}")
    weights = [record["system"]["weights_sha256"] for record in (old, new)]
    if weights[0] != weights[1]:
        found.append("weights " + " → ".join((one or "none")[:6] for one in weights))
    for name, place in (("config", "system"), ("packages", "environment")):
        before, after = (_flat(record[place][name]) for record in (old, new))
        for key in sorted(before.keys() | after.keys()):
            parts = [values.get(key, "absent") for values in (before, after)]
            if parts[0] != parts[1]:
                found.append(f"{key} {parts[0]} → {parts[1]}")
    return (*found[:MOST], f"and {len(found) - MOST} more") if len(found) > MOST else tuple(found)


def commit(record: Mapping) -> str:
    """The commit's first seven characters; `+` where files had been changed since."""
    return record["code"]["commit"][:7] + ("+" if record["code"]["dirty"] else "")


def read_runs(folder: Path | str = RESULTS) -> list[Run]:
    """Every record below a folder, oldest first. Raises as `read_all` does."""
    last: dict[tuple, Mapping] = {}
    runs = []
    for number, (path, record) in enumerate(read_files(folder)):
        key = (axes(record), record["system"]["name"])
        old = last.get(key)
        last[key] = record
        runs.append(Run(number, record, path, old, mark(old, record), changes(old, record)))
    return runs


def series_of(runs: Sequence[Run]) -> list[Series]:
    """Runs, oldest first, by what may be joined; by benchmark, the newest first within it."""
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        found.setdefault((axes(run.record), run.record["system"]["name"]), []).append(run)
    series = [Series(tuple(found[key])) for key in sorted(found)]
    series.sort(key=lambda one: one.newest["date"], reverse=True)
    return sorted(series, key=lambda one: one.newest["bench"])


def panels_of(series: Sequence[Series]) -> list[Panel]:
    """Series by the axes they may share, in their own order; systems of a panel by name."""
    found: dict[tuple, list[Series]] = {}
    for one in series:
        found.setdefault(one.axes, []).append(one)
    return [Panel(tuple(sorted(part, key=lambda one: one.system))) for part in found.values()]


def _flat(settings: Mapping, before: str = "") -> dict[str, str]:
    """Nested settings as {"decode.guidance": "2.5"}; what looks like a digest is cut."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            text = str(value)
            found[f"{before}{key}"] = text[:6] if key.endswith("sha256") else text[:60]
    return found
