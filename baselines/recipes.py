"""Recipes of the transformers shipped under `scenes/`: a CPU form for two cores, a longer GPU form.

A model learns on the scenes of `study` with documents of the memory bank before them: all of
`stock`, none about the entities that never occur in `train`. `val` gives the held-out loss; every
evaluation split is in the dialect `coco`, which no model sees before it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cm3leon.config import MODELS, ModelConfig, ObjectiveConfig, RetrievalConfig, TrainConfig
from cm3leon.errors import UserError
from cm3leon.scenes import SEEN

OBJECTIVE = ObjectiveConfig(rate=1.0, p_full=0.5)
# Found for each document in training: four by text. The paper takes two by text and two by picture
# and drops 20 % of a query's tokens; this CLIP seldom knows an entity by its look, and dropping as
# many tokens breaks half of the names, so that too few rows would pay for looking back (LOG.md).
FOUND = RetrievalConfig(documents=4, by="text", query_dropout=0.05)
# Of the steps with 0, 1, 2 and 3 documents: three, with dropout of documents (A20, A21).
SHARES = (0.1, 0.1, 0.1, 0.7)
DRAWN_WITH = RetrievalConfig(documents=2, by="text")  # two documents, found by the caption


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of one baseline, given the tokenizers and the CLIP."""

    name: str  # of its folder
    model: ModelConfig
    train: TrainConfig
    pictures: int = SEEN  # scenes of `study`, from the first on
    objective: ObjectiveConfig = OBJECTIVE
    shares: tuple[float, ...] = SHARES  # of the steps with 0, 1, .. documents before each sample
    retrieval: RetrievalConfig = FOUND  # of the neighbours in training

    @property
    def retrieves(self) -> bool:
        """Whether it is trained with documents."""
        return any(self.shares[1:])


def _schedule(steps: int, batch: int, rate: float) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch=batch,
        rate=rate,
        optimizer="muon",
        matrix_ratio=3.0,
        warmup=min(300, steps // 10),
        final=0.05,
        save_every=250,
        eval_every=500,
        log_every=50,
    )


def plain_twin(recipe: Recipe) -> Recipe:
    """The same training on the same queries, without documents: what retrieval is worth."""
    return replace(recipe, name=f"{recipe.name}-plain", shares=(1.0,))


def cpu_recipe(name: str) -> Recipe:
    """Under two hours on two cores (`scenes-m` is beyond them)."""
    rates = {"scenes-xs": 3e-3, "scenes-s": 1.5e-3}
    size = name.removesuffix("-plain")
    if size not in rates:
        raise UserError(f"no CPU recipe for {name!r}; there is one for {', '.join(rates)}")
    recipe = Recipe(size, MODELS[size](), _schedule(3500, 8, rates[size]))
    return plain_twin(recipe) if name != size else recipe


def gpu_recipe(name: str) -> Recipe:
    """The same code, longer and in larger batches."""
    steps = {"scenes-xs": 10_000, "scenes-s": 15_000, "scenes-m": 20_000}
    rates = {"scenes-xs": 3e-3, "scenes-s": 1.5e-3, "scenes-m": 8e-4}
    size = name.removesuffix("-plain")
    if size not in steps:
        raise UserError(f"no GPU recipe for {name!r}; there is one for {', '.join(steps)}")
    schedule = replace(_schedule(steps[size], 32, rates[size]), warmup=1000)
    recipe = Recipe(size, MODELS[size](), schedule)
    return plain_twin(recipe) if name != size else recipe


RECIPES = {"cpu": cpu_recipe, "gpu": gpu_recipe}
