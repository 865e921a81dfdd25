"""What a GPU made of this code, beside what it should: the last lines of `benchmarks/gpu_check.sh`.

    python -m benchmarks.speed.goals --since 0      of the newest records of latency and train_speed

Goals on a GPU of an H100's class; the paper's numbers are those of its Figure 10, hardware unsaid.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import core
from cm3leon.cli.main import guarded, parse
from cm3leon.errors import UserError
from cm3leon.options import NotNegative

DRAWING = {"7b.bfloat16.b1": (4.5, 11.8), "7b.int8.b1": (2.8, 9.1)}  # s an image: goal, paper
TRAINING = ("350m.bfloat16.adamw.documents0", "760m.bfloat16.adamw.documents0")


@dataclass(frozen=True)
class Options:
    """Numbers of a GPU beside the goals."""

    since: NotNegative = 0.0
    """seconds since 1970: records that are older are passed over"""
    results: Path = core.RESULTS
    """where the records lie"""


def newest(folder: Path, since: float) -> dict:
    """The numbers of the newest record below a folder; none where there is none so new."""
    found = [(path.stat().st_mtime, path) for path in folder.rglob("*.json")]
    found = [one for one in found if one[0] >= since]
    return core.load(max(found)[1])["extra"] if found else {}


def number(extra: dict, name: str) -> float | None:
    """A number, or the median of one of several rounds; None where it was not measured."""
    value = extra.get(name)
    return value["value"] if isinstance(value, dict) else value


def lines(training: dict, drawing: dict) -> list[str]:
    """A line a number."""
    said = []
    for name in TRAINING:
        speed, mfu = (number(training, f"{name}.{one}") for one in ("tokens_per_s", "mfu"))
        peak = number(training, f"{name}.peak_share")
        told = "not measured"
        if speed is not None:
            told = f"{speed:,.0f} tokens/s, {peak:.1%} of the measured peak"
            told += ", maker's peak not known" if mfu is None else f", MFU {mfu:.1%}"
        said.append(f"train {name.partition('.')[0]}: {told}")
    for name, (goal, paper) in DRAWING.items():
        seconds = number(drawing, f"{name}.seconds_per_image")
        told = "not measured"
        if seconds is not None:
            met = "met" if seconds <= goal else "missed"
            told = f"{seconds:.2f} s an image, goal {goal} s {met}"
        said.append(f"draw {name.rpartition('.')[0]}: {told} (the paper: {paper} s)")
    return said


def run(options: Options) -> int:
    """Print the lines; UserError where nothing was measured."""
    folders = [options.results / name for name in ("train_speed", "latency")]
    training, drawing = (newest(folder, options.since) for folder in folders)
    if not training and not drawing:
        raise UserError(f"no record in {folders[0]} or {folders[1]} since {options.since:.0f}")
    print("\n".join(lines(training, drawing)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(parse(Options, None, "python -m benchmarks.speed.goals"))))
