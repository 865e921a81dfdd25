"""Kills at random moments, and the same command again: its result is that of an unbroken one."""

from __future__ import annotations

import signal

import numpy as np

from benchmarks.fault_cases.child import Done, Kill
from benchmarks.fault_cases.rows import HELD, Row, refusal
from benchmarks.fault_cases.workshop import JOBS, Job, Workshop

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
KILLED = (
    "encode", "encode workers", "index", "train", "train on", "train-text", "draw", "export",
    "import", "export-scenes", "fid_coco",
)  # fmt: skip
FRESH = 0.15  # of the cases begin with a new interpreter
TWICE = 0.25  # are killed a second time


def kill(workshop: Workshop, generator: np.random.Generator) -> Row:
    """One job is killed at a moment that is uniform over its duration, and given again."""
    job = JOBS[KILLED[generator.integers(len(KILLED))]]
    moments = [float(generator.random()) for _ in range(1 + (generator.random() < TWICE))]
    sent = [SIGNALS[generator.integers(len(SIGNALS))] for _ in moments]
    return killed(workshop, job, list(zip(sent, moments, strict=True)), generator.random() < FRESH)


def killed(workshop: Workshop, job: Job, moments: list, fresh: bool = False) -> Row:
    """The case of that job, with (signal, share of its duration) of each kill."""
    truth, seconds = workshop.truth(job)
    seconds += workshop.loading_s if fresh else 0
    workshop.clear(*job.needs)
    told = []
    for sent, moment in moments:
        done = workshop.run(job, kill=Kill(sent, moment * seconds), fresh=fresh)
        told.append(f"{sent.name} after {moment:.3f} of {seconds:.2f} s{', anew' * fresh}")
        if (outcome := interrupted(done, job)) != HELD:
            return Row(job.name, "; ".join(told), outcome, done.told)
    done = workshop.run(job)
    same = workshop.digest(job, done) == truth
    if done.code == 0 or (same and not job.again):  # it had ended before the signal came
        outcome = HELD if same else "silent" if workshop.digest(job, done) else "lost"
    else:
        outcome = refusal(done)
        outcome = "lost" if outcome == HELD else outcome
    return Row(job.name, "; ".join(told), outcome, done.told)


def interrupted(done: Done, job: Job) -> str:
    """The outcome of a killed process by itself: it ends, without a traceback."""
    if done.hung:
        return "hung"
    if done.raised:
        return "raised"
    ended = done.code == 0 or (not job.again and done.refused)
    if done.killed or ended:
        return HELD
    return "lost"
