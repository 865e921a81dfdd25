"""What a scaling sweep trains: sizes x budgets x arms x seeds, as data.

A run is one training of a size, an arm and a seed with a stable rate; each of its budgets is a
branch of it that decays (`recipes.with_budget`). Budgets are FLOPs by 6ND, N all parameters and D
all tokens read, so that every size has the same ones: isoFLOP curves.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from baselines.recipes import ABOUT_ENTITIES, Part, Recipe, cpu_recipe, plain_twin, with_budget
from cm3leon.checkpoint import read_json
from cm3leon.config import MODELS, ModelConfig, check, from_dict
from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.scaling import CHINCHILLA, names
from cm3leon.training.estimate import row_tokens

ARMS = ("plain", "documents")  # without retrieved documents, and with as in `scenes-xs`
PAIR = 77.2  # tokens of a pair of `train` on average, with the sentinels that masking adds
DECAY = 0.2  # of a budget's steps
LEAST_STEPS = 10  # of a budget: warm-up, stable part and decay
LEAST_POINTS = len(names(CHINCHILLA)) + 1  # of an arm, for its law
HEAD_WIDTH = 32
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,2})")


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep. `ratio` are the fewest and the most tokens a parameter, `most` the most
    FLOPs of each size: budgets of a size beyond them are left out.
    """

    name: str
    sizes: tuple[str, ...]  # WIDTHxLAYERS
    budgets: tuple[float, ...]  # FLOPs
    arms: tuple[str, ...] = ("plain",)
    seeds: tuple[int, ...] = (1,)  # how many for each size; one number for all
    batch: int = 16
    queries: int = 32_768  # scenes of `train` that are encoded, read again when they are over
    entities: bool = False  # with the scenes about entities that shipped recipes mix in
    ratio: tuple[float, ...] = (0.0, 1e9)
    most: tuple[float, ...] = ()
    draw: int = 0  # captions of each split drawn by each point

    def __post_init__(self):
        for field in ("sizes", "budgets", "arms", "seeds", "ratio", "most"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        check(bool(re.fullmatch(r"[a-z0-9-]{1,40}", self.name)), "plan.name", "be a-z, 0-9, -",
              self.name)  # fmt: skip
        for size in self.sizes:
            check(bool(SIZE.fullmatch(size)), "plan.sizes", "be like 64x2, WIDTHxLAYERS", size)
        for arm in self.arms:
            check(arm in ARMS, "plan.arms", f"be of {', '.join(ARMS)}", arm)
        for name in ("batch", "queries"):
            check(1 <= getattr(self, name) <= 10**7, f"plan.{name}", "lie in [1, 1e7]",
                  getattr(self, name))  # fmt: skip
        check(all(0 < one < 1e30 for one in self.budgets), "plan.budgets", "be positive",
              self.budgets)  # fmt: skip
        check(self.draw == 0 or self.draw >= 4, "plan.draw", "be 0 or at least 4 (FID)", self.draw)
        check(len(self.ratio) == 2, "plan.ratio", "be two numbers", self.ratio)
        check(len(self.seeds) in (1, len(self.sizes)) and min(self.seeds, default=0) >= 1,
              "plan.seeds", "be a count, or one for each size", self.seeds)  # fmt: skip
        check(len(self.most) in (0, len(self.sizes)), "plan.most",
              "be empty, or a number for each size", self.most)  # fmt: skip
        self._check_runs()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What all trainings read."""
        plain = Part("train", 0, self.queries)
        return (plain, ABOUT_ENTITIES) if self.entities else (plain,)

    def _check_runs(self) -> None:
        """Raise UserError for equal runs, too small budgets and too few points."""
        every = [f"{run.name} of {budget:g} FLOPs" for run in self.runs for budget in run.budgets]
        if twice := [name for name, count in Counter(every).items() if count > 1]:
            raise UserError(f"the plan has two equal runs: {twice[0]}; name each once")
        for run in self.runs:
            run.check_budgets()
        for arm in self.arms or ("no arm",):
            points = sum(len(run.budgets) for run in self.runs if run.arm == arm)
            if points < LEAST_POINTS:
                raise UserError(
                    f"{arm} has {points} points; a fit needs at least {LEAST_POINTS} (sizes x "
                    "budgets x seeds): add some"
                )

    @property
    def runs(self) -> list[Run]:
        """Every training, small ones first."""
        seeds = self.seeds * (len(self.sizes) if len(self.seeds) == 1 else 1)
        found = [
            Run(self, size, arm, seed)
            for (size, count), arm in product(zip(self.sizes, seeds, strict=True), self.arms)
            for seed in range(count)
        ]
        return sorted((run for run in found if run.budgets), key=lambda run: run.flops)


@dataclass(frozen=True)
class Run:
    """One training of a plan."""

    plan: Plan
    size: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its points."""
        return f"{self.size}-{self.arm}-{self.seed}"

    @property
    def model(self) -> ModelConfig:
        """Its shape: heads of 32, or as wide as fits."""
        width, layers = map(int, SIZE.fullmatch(self.size).groups())
        heads = max(1, width // HEAD_WIDTH)
        while width % heads:
            heads -= 1
        return replace(
            MODELS["scenes-xs"](), name=self.size, width=width, layers=layers, heads=heads
        )

    @property
    def parameters(self) -> int:
        """N: all of them."""
        return self.model.parameters

    @property
    def blocks(self) -> int:
        """Parameters of the blocks alone, embeddings aside."""
        return 12 * self.model.layers * self.model.width**2

    @property
    def batch_tokens(self) -> float:
        """Tokens of a step on average, documents among them."""
        return self.plan.batch * row_tokens(PAIR, self._recipe.mean_documents)

    @property
    def budgets(self) -> list[float]:
        """Those of the plan that its ratio and the size's most allow, the smallest first."""
        low, high = (6.0 * self.parameters**2 * ratio for ratio in self.plan.ratio)
        if self.plan.most:
            high = min(high, self.plan.most[self.plan.sizes.index(self.size)])
        return sorted(one for one in self.plan.budgets if low <= one <= high)

    @property
    def flops(self) -> float:
        """All that are spent: the stable part once, and every decay."""
        last = max(self.budgets, default=0.0)
        return (1 - DECAY) * last + DECAY * sum(self.budgets)

    @property
    def _recipe(self) -> Recipe:
        full = cpu_recipe("scenes-xs")
        return plain_twin(full) if self.arm == "plain" else full

    def steps(self, budget: float) -> int:
        """Updates that read a budget's tokens."""
        return round(budget / (6.0 * self.parameters * self.batch_tokens))

    def check_budgets(self) -> None:
        """Raise UserError for one of fewer steps than a schedule has parts."""
        a_step = 6.0 * self.parameters * self.batch_tokens
        for budget in self.budgets:
            if self.steps(budget) < LEAST_STEPS:
                below = "below one batch" if budget < a_step else f"{self.steps(budget)} batches"
                raise UserError(
                    f"a budget of {budget:g} FLOPs is {below} of {self.size}, {self.arm}; give at "
                    f"least {LEAST_STEPS * a_step:.3g} ({LEAST_STEPS} batches of "
                    f"{self.batch_tokens:,.0f} tokens)"
                )

    def recipe(self, budget: float) -> Recipe:
        """The training of a budget; those of all budgets share their stable part. The rate falls
        with the width, as from `scenes-xs` to `scenes-s`.
        """
        first = self.steps(self.budgets[0])
        train = replace(
            self._recipe.train, steps=5 * first, decay=first, batch=self.plan.batch,
            rate=4e-3 * min(2.0, 128 / self.model.width), warmup=min(300, max(1, first // 5)),
            seed=self.seed, keep_every=0, save_every=50, eval_every=10**9,
            log_every=max(1, first // 10),
        )  # fmt: skip
        whole = replace(
            self._recipe, model=self.model, train=train, name=self.name, queries=self.plan.parts
        )  # fmt: skip
        return with_budget(whole, self.steps(budget))


QUICK = Plan("quick", ("32x1", "32x2", "48x1"), (4e10, 8e10, 1.6e11), batch=8, queries=4096, draw=8)
DEFAULT = Plan(
    "default", ("32x1", "48x2", "64x2", "80x2", "88x3"), (3e11, 6e11, 1.2e12), draw=16
)  # fmt: skip
# Budgets lie as far apart as rows with and without documents: a row of documents has read as many
# queries as the plain one a budget below, so that arms meet at equal FLOPs and at equal queries.
ROWS_APART = 2.75
SMALL = Plan(
    "small",
    ("32x1", "48x2", "64x2", "80x2", "96x3", "128x4"),
    tuple(4e12 / ROWS_APART**k for k in range(4, -3, -1)),
    ARMS,
    seeds=(3,),
    queries=98_304,
    entities=True,
    ratio=(0.6, 400.0),
    most=(*5 * (4e12,), 4e13),
    draw=64,
)
FULL = Plan(
    "full",
    ("32x1", "48x2", "64x2", "96x3", "128x4", "192x5", "256x6", "320x8"),
    tuple(1e12 * 4.0**k for k in range(6)),
    ARMS,
    seeds=(3, 3, 3, 3, 3, 2, 2, 2),
    batch=24,
    queries=98_304,
    entities=True,
    ratio=(1.0, 400.0),
    draw=64,
)
PLANS = {plan.name: plan for plan in (QUICK, DEFAULT, SMALL, FULL)}


def find_plan(name: str) -> Plan:
    """A plan by name, or of a JSON file with the fields of `Plan`."""
    if name in PLANS:
        return PLANS[name]
    if not name.endswith(".json"):
        raise UserError(f"no plan {name!r}; name {', '.join(PLANS)} or a .json file")
    values = read_json(Path(name))
    try:
        return from_dict(Plan, {"name": Path(name).stem.lower()} | values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def dry_run(plan: Plan, flops_per_s: float) -> str:
    """Runs, tokens, FLOPs and hours as text."""
    lines = [f"{'run':24}{'parameters':>11}{'budgets':>9}{'tokens':>10}{'FLOPs':>10}{'hours':>8}"]
    for run in plan.runs:
        tokens = run.flops / (6.0 * run.parameters)
        hours = run.flops / flops_per_s / 3600
        lines.append(
            f"{run.name:24}{run.parameters:11,}{len(run.budgets):9}{tokens:10.3g}"
            f"{run.flops:10.3g}{hours:8.2f}"
        )
    total = sum(run.flops for run in plan.runs)
    points = sum(len(run.budgets) for run in plan.runs)
    lines.append(
        f"{len(plan.runs)} runs, {points} points, {total:.3g} FLOPs by 6ND, "
        f"{total / flops_per_s / 3600:,.2f} hours at {flops_per_s / 1e9:g} GFLOP/s (an assumption: "
        "--gflops); encoding and drawing come on top"
    )
    return "\n".join(lines)


def described(plan: Plan) -> dict:
    """What names a plan's points, in JSON's types: all but its name and what it draws."""
    found = json.loads(json.dumps({k: getattr(plan, k) for k in Plan.__dataclass_fields__}))
    return {key: value for key, value in found.items() if key not in ("name", "draw")}
