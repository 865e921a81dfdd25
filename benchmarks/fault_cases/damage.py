"""Damage to the files that the product keeps, and what the next command makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.fault_cases.files import FILES, Kept, files_of
from benchmarks.fault_cases.rows import Row, right
from benchmarks.fault_cases.workshop import HOME, JOBS, OTHER, Workshop

WAYS = ("flip", "truncate", "empty", "swap", "delete")


def damage(workshop: Workshop, generator: np.random.Generator) -> Row:
    """One file of one kind is damaged in one way; one of the jobs that read it follows."""
    kept = FILES[generator.integers(len(FILES))]
    way = WAYS[generator.integers(len(WAYS))]
    job = JOBS[kept.jobs[generator.integers(len(kept.jobs))]]
    return damaged(workshop, kept, way, job.name, generator)


def damaged(
    workshop: Workshop, kept: Kept, way: str, name: str, generator: np.random.Generator
) -> Row:
    """The case of that kind, way and job."""
    job = JOBS[name]
    way = "truncate" if kept.optional and way == "delete" else way
    workshop.truth(job)
    home = HOME.get(kept.tree, kept.tree)
    if kept.tree in OTHER:
        workshop.kept(OTHER[kept.tree])
    now = workshop.clear(*dict.fromkeys((*job.needs, home)))
    found = files_of(kept, now / kept.tree)
    path = found[generator.integers(len(found))]
    how = f"{path.relative_to(now)}: {spoil(path, way, partner(workshop, kept, path), generator)}"
    done = workshop.run(job)
    return Row(job.name, how, right(workshop, job, done), done.told)


def partner(workshop: Workshop, kept: Kept, path: Path) -> list[Path]:
    """Files that another may be mixed up with: of its kind, here and in the tree beside it."""
    here = [one for one in files_of(kept, workshop.now / kept.tree) if one != path]
    if kept.tree in OTHER:
        here += files_of(kept, workshop.kept(OTHER[kept.tree]))
    data = path.read_bytes()
    return [one for one in here if one.read_bytes() != data]


def spoil(path: Path, way: str, others: list[Path], generator: np.random.Generator) -> str:
    """Damage a file; says how."""
    data = path.read_bytes()
    if way == "swap" and not others:
        way = "flip"
    if way == "delete":
        path.unlink()
        return "deleted"
    if way == "swap":
        other = others[generator.integers(len(others))]
        path.write_bytes(other.read_bytes())
        return f"swapped with {other.parent.name}/{other.name}"
    if way == "flip" and data:
        at, bit = int(generator.integers(len(data))), int(generator.integers(8))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
        return f"bit {bit} of byte {at} of {len(data)} flipped"
    kept = 0 if way == "empty" or not data else int(generator.integers(len(data)))
    path.write_bytes(data[:kept])
    return f"cut to {kept} of {len(data)} bytes"
