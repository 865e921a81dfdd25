"""Cases of faults, and how they ended.

A kind of fault is a function (workshop, generator) -> Row: what it does is drawn from the
generator alone. What a command may do is told here: give the right result, or refuse in one line.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.fault_cases.child import Done
from benchmarks.fault_cases.workshop import Job, Workshop

FAULTS = ("silent", "raised", "lost", "hung")
HELD, SKIPPED = "held", "skipped"
TOLD = "log.jsonl is not what was written"  # its damaged lines are left out


@dataclass(frozen=True)
class Row:
    """One case: what was run, what was done to it, how it ended."""

    what: str
    how: str
    outcome: str
    told: str = ""


def refusal(done: Done) -> str:
    """The outcome of a command that has nothing right to do but to refuse, in one line."""
    if done.hung:
        return "hung"
    if done.raised:
        return "raised"
    if done.refused:
        return HELD
    return "silent" if done.code == 0 else "raised"


def right(workshop: Workshop, job: Job, done: Done) -> str:
    """The outcome of a command that may give its usual result, or refuse."""
    if done.code or done.hung or done.raised:
        return refusal(done)
    if workshop.digest(job, done) == workshop.truth(job)[0]:
        return HELD
    told = TOLD in done.err and workshop.digest(job, done, log=False) == workshop.logless[job.name]
    return HELD if told else "silent"
