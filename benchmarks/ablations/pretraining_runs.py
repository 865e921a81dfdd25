"""Runs of the pretraining ablation: trained once, kept with their scores.

Shapes: N captions, D features.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from baselines.recipes import DRAWN_AT, DRAWN_WITH, Recipe
from baselines.transformers import Shop, trained
from benchmarks.evaluate.composition import answers
from benchmarks.protocols.prompts import Prompt, pick, scenes_prompts
from cm3leon import checkpoint, seeds
from cm3leon.config import to_dict
from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import extract, load_features
from cm3leon.evaluation.metrics.composition import ALL, shares
from cm3leon.evaluation.metrics.impossible import columns_of, impossible
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.identity import seal, unseal
from cm3leon.pipeline import System
from cm3leon.retrieval.retriever import Retriever, load_retriever
from cm3leon.training.loop import read_log
from cm3leon.world.scenes import SPLITS, scene

if TYPE_CHECKING:
    import torch

TAIL_START = 1000  # the first 1,000 of `tail` are for ablate_retrieval
REFERENCE = 1000  # real pictures of `val` that FID compares with


class Run:
    """A finished training: its model, its last held-out losses and the file for its scores."""

    def __init__(self, recipe: Recipe, model, folder: Path):
        self.recipe, self.model, self.folder = recipe, model, folder
        last = read_log(folder)[-1]
        self.losses = {k: v for k, v in last.items() if k.startswith("held_out")}
        self.scores_file = folder / "scores.json"


def train_arm(recipe: Recipe, weights: Path, runs: Path) -> Run:
    """Train an arm in a folder named by everything that decides its weights, or open it."""
    shop = Shop(weights, runs)
    recipe = shop.fit(recipe)
    about = {name: to_dict(getattr(recipe, name)) for name in ("model", "train")}
    about |= recipe.about | shop.about(recipe)
    name = sha256_bytes(json.dumps(about, sort_keys=True).encode())[:12]
    folder = runs / f"arm-{name}"
    return Run(recipe, trained(recipe, shop, folder, "cpu"), folder)


class Judge:
    """Draws and scores: the same captions and seeds for every run."""

    def __init__(self, weights: Path, count: int):
        self.weights, self.features = weights, load_features("scenes")
        self.plain = scenes_prompts(count, "val")
        self.tail = tail_prompts(count)
        real = np.stack([scene("coco", "val", index).image for index in range(REFERENCE)])
        self.real_ND = extract(self.features, np.array_split(real, 16), REFERENCE, "features")

    def scores(self, run: Run) -> dict[str, float]:
        """Losses, their gains by documents, and what drawings show; kept beside the run."""
        about = {
            "arm": run.folder.name,
            "captions": len(self.plain),
            "features": self.features.digest,
        }
        with contextlib.suppress(UserError):  # not there, damaged or another's: scored again
            kept = unseal(run.scores_file, "")
            if {name: kept.get(name) for name in about} == about:
                return kept["scores"]
        found = dict(run.losses)
        for name in ("", "tail_"):
            alone = found.get(f"held_out_{name}image_alone", found[f"held_out_{name}image"])
            found[f"held_out_{name}image_alone"] = alone
            found[f"held_out_{name}gain"] = alone - found[f"held_out_{name}image"]
        retrieves = run.recipe.retrieves
        for documents in (0, 2) if retrieves else (0,):
            drawn = self.drawn(run, documents)
            found |= {f"{name}_with_{documents}": value for name, value in drawn.items()}
        found = {name: value for name, value in found.items() if "image_at" not in name}
        write_atomic(run.scores_file, seal(about | {"scores": found}))
        return found

    def drawn(self, run: Run, documents: int) -> dict[str, float]:
        """FID and composition on `val`, entities on `tail`, with so many documents."""
        system = self.system(run, documents)
        codes_NK = draw_codes(system, self.plain)
        images = system.decode_codes(codes_NK)
        pieces = np.array_split(images, 8)
        fakes_ND = extract(self.features, pieces, len(images), "features of drawings")
        overall = shares(*answers(self.plain, [Kept(images)], self.features.size))[-1]
        entity = shares(*answers(self.tail, [Kept(draw_all(system, self.tail))], 64))
        return {
            "fid": frechet_from_features(self.real_ND, fakes_ND),
            "composition": float(overall),
            "entity": float(entity[ALL.index("entity")]),
            "impossible": float(impossible(codes_NK.numpy(), columns_of(system.vq)).mean()),
        }

    def system(self, run: Run, documents: int) -> System:
        """The run's model as a system."""
        return system(Shop(self.weights, run.folder.parent), run, documents)


def system(shop: Shop, run: Run, documents: int) -> System:
    """A run's model as a system that draws with so many documents of the shipped bank."""
    retriever: Retriever | None = None
    if documents:
        digests = {"text": shop.text.digest, "vq": checkpoint.module_digest(shop.vq)}
        config = replace(DRAWN_WITH, documents=documents)
        retriever = load_retriever(shop.out, config, digests)
    model = run.model.eval().requires_grad_(False)
    return System(run.recipe.name, "", shop.text, model, shop.vq, DRAWN_AT, retriever)


class Kept:
    """Pictures in memory, read like those of a cache."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def batches(self):
        """All at once."""
        yield self.images


def tail_prompts(count: int) -> list[Prompt]:
    """Captions of `tail` that the retrieval ablation leaves alone."""
    prompts = []
    for index in range(TAIL_START, min(TAIL_START + count, SPLITS["tail"])):
        one = scene("coco", "tail", index)
        captions, meanings = one.language
        k = pick(len(captions), 0, one.id)
        prompts.append(Prompt(f"{one.id}-{k}", captions[k], one.id, meanings[k]))
    return prompts


def draw_codes(system: System, prompts: list[Prompt]) -> torch.Tensor:
    """Codes of one picture a prompt, int64 [N, K], each from a seed of its own id."""
    own = [seeds.derive(0, prompt.id) for prompt in prompts]
    return system.draw_codes([prompt.caption for prompt in prompts], own)


def draw_all(system: System, prompts: list[Prompt]) -> np.ndarray:
    """One picture a prompt, uint8 [N, H, W, 3], each from a seed of its own id."""
    return system.decode_codes(draw_codes(system, prompts))
