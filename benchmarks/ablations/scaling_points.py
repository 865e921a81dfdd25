"""The store of scaling sweeps: one sealed file a point, there as soon as it is measured.

<folder>/points/<point>.json   numbers of a branch; <point>-drawn-<n>.json those of its drawings
<folder>/locks/<run>.lock      who trains a run
<folder>/trained/<run>/        states of its training

A run's name here ends in a digest of what it is trained by, so that all plans share a folder: a
larger plan goes on from what a smaller one trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.ablations.scaling_plan import Plan, Run
from cm3leon.config import to_dict
from cm3leon.errors import UserError, note
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.identity import seal, unseal


@dataclass(frozen=True)
class Points:
    """Those of a plan in a folder. `made_of` are digests of what all trainings read."""

    folder: Path
    plan: Plan
    made_of: dict
    damaged: list[str] = field(default_factory=list)  # files that were measured again

    def run_name(self, run: Run) -> str:
        """Of a run's states and lock."""
        return f"{run.name}-{stable_digest(run, json.dumps(self.made_of, sort_keys=True))}"

    def lock(self, run: Run) -> Path:
        """Whoever trains a run holds it."""
        return self.folder / "locks" / f"{self.run_name(run)}.lock"

    def states(self, run: Run) -> Path:
        """The folder of a run's training."""
        return self.folder / "trained" / self.run_name(run)

    def name(self, run: Run, budget: float) -> str:
        """Of a point."""
        return f"{self.run_name(run)}-{budget:.6g}"

    def numbers(self, name: str) -> dict | None:
        """What a point measured; None where it is not yet, or its file is damaged (a note)."""
        path = self.folder / "points" / f"{name}.json"
        if not path.exists():
            return None
        try:
            found = unseal(path, "it is measured again")
            if found["point"] != name:
                raise UserError(f"{path} is another point's; it is measured again")
        except (UserError, KeyError) as error:
            note(str(error))
            self.damaged.append(path.name)
            path.unlink(missing_ok=True)
            return None
        return found["numbers"]

    def keep(self, name: str, numbers: dict) -> dict:
        """Write what a point measured."""
        content = {"point": name, "numbers": numbers}
        write_atomic(self.folder / "points" / f"{name}.json", seal(content))
        return numbers

    def measured(self, name: str, measure: Callable[[], dict]) -> dict:
        """The numbers of a point, measured where they are not there yet."""
        found = self.numbers(name)
        return self.keep(name, measure()) if found is None else found

    def of(self, run: Run) -> list[dict | None]:
        """The points of a run in the order of its budgets, with what they drew if the plan draws;
        None for one that is not whole yet.
        """
        found = []
        for budget in run.budgets:
            name = self.name(run, budget)
            parts = [self.numbers(name)]
            if self.plan.draw:
                parts.append(self.numbers(self.drawn(name)))
            whole = None not in parts
            found.append({k: v for part in parts for k, v in part.items()} if whole else None)
        return found

    def drawn(self, name: str) -> str:
        """The name under which the drawings of a point are measured."""
        return f"{name}-drawn-{self.plan.draw}"


@cache
def stable_digest(run: Run, made_of: str) -> str:
    """Of the training that all budgets of a run share, and of what it reads: 8 digits."""
    told = json.dumps(to_dict(run.recipe(run.budgets[0])), sort_keys=True)
    return sha256_bytes(f"{told}\n{made_of}".encode())[:8]
