"""Faults: the product's command lines under attack, by a campaign of its own.

    nox -s faults                                  500 cases, about 25 minutes on one core
    nox -s faults -- --cases 0 --minutes 60        as many as an hour holds
    nox -s faults -- --seed 7 --only 31            one case of a campaign again

Five kinds of case, drawn from the seed: a job killed at a random moment and given again (its result
must be that of an unbroken one); a file that the product keeps, damaged (the next command refuses
it in one line or makes it anew); an option given what its type forbids; a hostile input; a full
disk. What counts is the number of cases that were *silent* (something wrong was taken, exit 0),
*raised* (a traceback, a crash), *lost* (a result that was there, or could be resumed, is gone) or
*hung*. Exit code 2 if there was any. A row a case: on the terminal and in
reports/out/faults/cases.jsonl.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from benchmarks.fault_cases.child import load
from benchmarks.fault_cases.damage import damage
from benchmarks.fault_cases.disks import disk
from benchmarks.fault_cases.hostile import hostile
from benchmarks.fault_cases.kills import kill
from benchmarks.fault_cases.options import option
from benchmarks.fault_cases.rows import FAULTS, HELD, SKIPPED, Row
from benchmarks.fault_cases.workshop import Workshop
from benchmarks.harness import core
from cm3leon.cli.main import parse
from cm3leon.errors import UserError, printable
from cm3leon.evaluation.measures import LOWER, NONE, Measure
from cm3leon.options import Positive, Range, Whole
from cm3leon.seeds import generator

KINDS: dict[str, Callable[[Workshop, np.random.Generator], Row]] = {
    "kill": kill, "damage": damage, "option": option, "hostile": hostile, "disk": disk,
}  # fmt: skip
OUTCOMES = (
    Measure("silent", "something wrong was taken", "cases", LOWER),
    Measure("raised", "a traceback or a crash", "cases", LOWER),
    Measure("lost", "a result is gone", "cases", LOWER),
    Measure("hung", "no end within the limit", "cases", LOWER),
    Measure(HELD, "right, or refused in one line", "cases", NONE),
    Measure(SKIPPED, "not tried here", "cases", NONE),
)
SHARES = (0.2, 0.4, 0.15, 0.2, 0.05)


@dataclass(frozen=True)
class Options:
    """Attack the command lines: kills, damaged files, bad options, hostile inputs, full disks."""

    seed: int = 0
    """of the campaign; case k depends on seed and k alone"""
    cases: Whole = 500
    """how many; 0 with --minutes: as many as they hold"""
    minutes: Positive | None = None
    """begin no case after so many"""
    kinds: tuple[Literal["kill", "damage", "option", "hostile", "disk"], ...] = tuple(KINDS)
    """of faults"""
    only: Whole | None = None
    """this case alone, to look at"""
    limit: Annotated[float, Range(1, 3600)] = 120.0
    """seconds of the processor after which a command hangs"""
    folder: Path | None = None
    """where the small inputs are made and kept; left out: a temporary one"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where the rows go"""

    def __post_init__(self):
        if not self.cases and self.minutes is None:
            raise UserError("no end: give --cases, or --minutes")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError(f"kinds must name different ones, got {list(self.kinds)}")


class Product:
    """The system of the record: this package itself."""

    name = "cm3leon"
    weights_sha256 = None

    def __init__(self):
        self.config: dict = {}


def case(options: Options, workshop: Workshop, number: int) -> tuple[str, Row]:
    """(kind, row) of case `number`."""
    draws = generator(options.seed, "faults", number)
    shares = np.array([SHARES[list(KINDS).index(kind)] for kind in options.kinds])
    kind = options.kinds[int(draws.choice(len(shares), p=shares / shares.sum()))]
    return kind, KINDS[kind](workshop, draws)


def rows(options: Options, workshop: Workshop):
    """(number, kind, row, seconds) of the cases, one after the other."""
    start = time.monotonic()
    numbers = range(options.cases or sys.maxsize)
    for number in numbers if options.only is None else [options.only]:
        if options.minutes is not None and time.monotonic() - start > 60 * options.minutes:
            return
        begun = time.monotonic()
        kind, row = case(options, workshop, number)
        yield number, kind, row, time.monotonic() - begun


def measure(options: Options, system, protocol: dict, phases: core.Phases) -> core.Measurement:
    """Run the campaign; the value is the number of faults."""
    found: Counter = Counter()
    path = options.reports / "faults" / "cases.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with phases("load"):
        seconds = load()
    with tempfile.TemporaryDirectory(prefix="faults-") as own, open(path, "w") as file:
        home = (options.folder or Path(own)).resolve()
        workshop = Workshop(home, options.limit, seconds)
        with phases("cases"):
            for number, kind, row, spent in rows(options, workshop):
                found[kind, row.outcome] += 1
                line = f"{number:4} {row.outcome:7} {kind:7} {row.what}: {row.how}"
                print(printable(line if row.outcome not in FAULTS else f"{line}: {row.told}"),
                      flush=True)  # fmt: skip
                about = {"case": number, "kind": kind, "seconds": round(spent, 2)} | vars(row)
                file.write(json.dumps(about) + "\n")
                file.flush()
    tried = {key: count for key, count in found.items() if key[1] != SKIPPED}
    faults = Counter(outcome for (_, outcome), k in tried.items() for _ in range(k))
    extra = {f"{kind}.{outcome}": count for (kind, outcome), count in sorted(found.items())}
    return core.Measurement(
        value=float(sum(faults[name] for name in FAULTS)),
        n=sum(tried.values()),
        extra={name: faults[name] for name in FAULTS} | extra,
        measures=OUTCOMES,
        protocol={"kinds": list(options.kinds)},
    )


BENCH = core.Bench("faults", 1, "faults", "lower", protocol={}, measure=measure)


def command(argv: Sequence[str] | None) -> int:
    """Run, save; 2 where there was any fault."""
    options = parse(Options, argv, "faults")
    protocol = {"seed": options.seed, "cases": options.cases, "minutes": options.minutes}
    bench = replace(BENCH, measure=partial(measure, options))
    if options.only is not None:  # a look, no campaign
        found = measure(options, Product(), protocol, core.Phases())
        return 2 if found.value else 0
    record, path = core.run(bench, Product(), protocol, options.results)
    told = ", ".join(f"{record['extra'][name]:g} {name}" for name in FAULTS)
    print(f"{record['n']} cases: {told}\nrecord: {path}")
    return 2 if record["value"] else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 all held, 2 a fault or a user's mistake, 3 nothing tried, 130 interrupted."""
    return core.exit_code(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
