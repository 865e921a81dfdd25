"""The store of a scaling sweep: one sealed file a point, there as soon as it is measured.

<folder>/plan.json             which plan's points these are
<folder>/points/<point>.json   numbers of a branch; <point>-drawn-<n>.json those of its drawings
<folder>/locks/<run>.lock      who trains a run
<folder>/trained/<run>/        states of its training
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ablations.scaling_plan import Plan, Run, described
from cm3leon.errors import UserError, note
from cm3leon.files import write_atomic, write_new
from cm3leon.identity import seal, unseal


@dataclass(frozen=True)
class Points:
    """Those of a plan in a folder. `made_of` are digests of what all trainings read."""

    folder: Path
    plan: Plan
    made_of: dict
    damaged: list[str] = field(default_factory=list)  # files that were measured again

    def begin(self) -> None:
        """Name the plan of a new folder; raises UserError for one of another plan."""
        path, own = self.folder / "plan.json", {"plan": described(self.plan)} | self.made_of
        if write_new(path, seal(own)):
            return
        found = unseal(path, f"remove {path}: its points say their plan too")
        if found != own:
            before, now = ({**one.get("plan", {}), **one} for one in (found, own))
            other = next(k for k in now if k != "plan" and before.get(k) != now[k])
            raise UserError(
                f"{self.folder} holds points of another plan: {other} is "
                f"{before.get(other)!r} there, {now[other]!r} here; name another --runs"
            )

    def name(self, run: Run, budget: float) -> str:
        """Of a point."""
        return f"{run.name}-{budget:.6g}"

    def numbers(self, name: str) -> dict | None:
        """What a point measured; None where it is not yet, or its file is damaged (a note)."""
        path = self.folder / "points" / f"{name}.json"
        if not path.exists():
            return None
        try:
            found = unseal(path, "it is measured again")
            if (found["point"], found["plan"]) != (name, described(self.plan)):
                raise UserError(f"{path} is another point's; it is measured again")
        except (UserError, KeyError) as error:
            note(str(error))
            self.damaged.append(path.name)
            path.unlink(missing_ok=True)
            return None
        return found["numbers"]

    def keep(self, name: str, numbers: dict) -> dict:
        """Write what a point measured."""
        content = {"point": name, "plan": described(self.plan), "numbers": numbers}
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
