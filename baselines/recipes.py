"""Recipes of the transformers shipped under `scenes/`: a CPU form for two cores, a longer GPU form.

Only `stock`, `train` is ever trained on; `val` gives the held-out loss; every evaluation split is
in the dialect `coco`, which no model sees before it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cm3leon.config import MODELS, ModelConfig, ObjectiveConfig, TrainConfig
from cm3leon.errors import UserError

# Half the paper's mask rate: a short training needs more whole caption-to-picture samples.
OBJECTIVE = ObjectiveConfig(rate=0.5, p_full=0.5)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of one baseline, given the tokenizers."""

    model: ModelConfig
    train: TrainConfig
    pictures: int  # scenes of `stock`, `train`, five captions each
    objective: ObjectiveConfig = OBJECTIVE

    @property
    def name(self) -> str:
        """Name of the model and of its folder."""
        return self.model.name


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


def cpu_recipe(name: str) -> Recipe:
    """Under 90 minutes on two cores (`scenes-m` is beyond them)."""
    if name == "scenes-xs":
        return Recipe(MODELS[name](), _schedule(5500, 16, 3e-3), pictures=65_536)
    if name == "scenes-s":
        return Recipe(MODELS[name](), _schedule(5500, 16, 1.5e-3), pictures=65_536)
    raise UserError(f"no CPU recipe for {name!r}; there is one for scenes-xs and scenes-s")


def gpu_recipe(name: str) -> Recipe:
    """The same code, longer and in larger batches."""
    steps = {"scenes-xs": 20_000, "scenes-s": 30_000, "scenes-m": 40_000}
    rates = {"scenes-xs": 3e-3, "scenes-s": 1.5e-3, "scenes-m": 8e-4}
    if name not in steps:
        raise UserError(f"no GPU recipe for {name!r}; there is one for {', '.join(steps)}")
    recipe = Recipe(MODELS[name](), _schedule(steps[name], 128, rates[name]), pictures=409_600)
    return replace(recipe, train=replace(recipe.train, warmup=1000))


RECIPES = {"cpu": cpu_recipe, "gpu": gpu_recipe}
