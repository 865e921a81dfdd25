"""The trainings of a scaling sweep: branches, what they lose, what they draw.

Shapes: N captions, D features.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from baselines.recipes import Recipe
from baselines.transformers import Shop
from benchmarks.ablations.pretraining_runs import REFERENCE, Kept, draw_all, system
from benchmarks.ablations.pretraining_runs import Run as Trained
from benchmarks.ablations.scaling_plan import Run
from benchmarks.ablations.scaling_points import Points
from benchmarks.evaluate.composition import answers
from benchmarks.protocols.prompts import scenes_prompts
from cm3leon.evaluation.features.network import extract, load_features
from cm3leon.evaluation.metrics.composition import ALL, shares
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.training.trainer import Source, device_name, fit_in_stages
from cm3leon.world.scenes import scene

SPLITS = ("natural", "test", "tail")
DOCUMENTS = 2  # before a caption that is drawn, beside none


class Worker:
    """Trains runs of a plan and measures their points, each in the folder of the points."""

    def __init__(self, points: Points, shop: Shop, device: str):
        self.points, self.shop, self.device = points, shop, device
        self._source: tuple[str, Source] | None = None

    def point(self, run: Run, budget: float) -> None:
        """Train a branch where that is not done, and measure what is not measured."""
        name, held = self.points.name(run, budget), []

        def trained() -> tuple[Trained, dict]:
            if not held:
                held.append(self.trained(run, budget))
            return held[0]

        self.points.measured(name, lambda: losses(run, *trained(), self.device))
        if captions := self.points.plan.draw:
            drawn = self.points.drawn(name)
            self.points.measured(drawn, lambda: self.judge.numbers(trained()[0], captions))

    def trained(self, run: Run, budget: float) -> tuple[Trained, dict]:
        """The branch of a budget, and what its training returned; goes on where it stopped."""
        recipe = self.shop.fit(run.recipe(budget))
        model = self.shop.model(recipe).to(self.device)
        folder = self.points.states(run)
        where, done = fit_in_stages(model, self.source(run, recipe), recipe.train, folder)
        return Trained(recipe, model.to("cpu"), where), done

    def source(self, run: Run, recipe: Recipe) -> Source:
        """What a run reads; that of the newest is kept, as its branches read the same."""
        if self._source is None or self._source[0] != run.name:
            self._source = run.name, self.shop.source(recipe)
        return self._source[1]

    @cached_property
    def judge(self) -> Judge:
        """Of drawings."""
        return Judge(self.shop)


def losses(run: Run, trained: Trained, done: dict, device: str) -> dict:
    """Held-out losses of a branch, and what it took: N, D, 6ND, queries, seconds, device."""
    config = trained.recipe.train
    return {
        "parameters": run.parameters,
        "blocks": run.blocks,
        "steps": config.steps,
        "queries": config.steps * config.batch,
        "tokens": done["tokens"],
        "flops": 6.0 * run.parameters * done["tokens"],
        "seconds": done["seconds"],
        "device": device_name(device),
        **trained.losses,
    }


class Judge:
    """Draws the same captions from the same seeds for every point."""

    def __init__(self, shop: Shop):
        self.shop, self.features = shop, load_features("scenes")
        self._real: dict[str, np.ndarray] = {}

    def real(self, split: str) -> np.ndarray:
        """Features of the last REFERENCE pictures of a split's thousands, [N, D]."""
        if split not in self._real:
            first = 1000 if split == "tail" else 10_000
            images = np.stack(
                [scene("coco", split, at).image for at in range(first, first + REFERENCE)]
            )
            pieces = np.array_split(images, 16)
            self._real[split] = extract(self.features, pieces, REFERENCE, f"features of {split}")
        return self._real[split]

    def numbers(self, trained: Trained, captions: int) -> dict[str, float]:
        """FID, composition and entity share of every split with 0 and, where the training had
        documents, with `DOCUMENTS` of them.
        """
        found = {}
        for documents in (0, DOCUMENTS) if trained.recipe.retrieves else (0,):
            one = system(self.shop, trained, documents)
            for split in SPLITS:
                prompts = scenes_prompts(captions, split)
                images = draw_all(one, prompts)
                pieces = np.array_split(images, max(1, captions // 64))
                fakes_ND = extract(self.features, pieces, captions, "features of drawings")
                share = shares(*answers(prompts, [Kept(images)], self.features.size))
                end = f"with_{documents}"
                found[f"{split}.fid_{end}"] = frechet_from_features(self.real(split), fakes_ND)
                found[f"{split}.composition_{end}"] = float(share[-1])
                found[f"{split}.entity_{end}"] = float(share[ALL.index("entity")])
        return {name: value for name, value in found.items() if np.isfinite(value)}
