"""What the transformers are trained on: scenes as tokens, and the memory bank.

Token caches and neighbours are made when they are missing; a run continues where it stopped.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch

from baselines.recipes import DRAWN_AT, DRAWN_WITH, Part, Recipe
from cm3leon import seeds
from cm3leon.checkpoint import digest, read_about, total_cost
from cm3leon.clip import Clip, load_clip
from cm3leon.config import to_dict
from cm3leon.data.sources import Scenes
from cm3leon.data.token_cache import TokenCache, encode
from cm3leon.loading import load_tokenizers
from cm3leon.model.transformer import Transformer
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.neighbours import Neighbours
from cm3leon.retrieval.packed import BANK, pack
from cm3leon.retrieval.training_bank import Place, TrainingBank
from cm3leon.training.loop import steps_for_tokens
from cm3leon.training.pairs import Joined, Queries
from cm3leon.training.pretraining import HeldOut, found_in, pair_source
from cm3leon.training.recipe import fitted
from cm3leon.training.schedule import find_state
from cm3leon.training.trainer import Source, begin_with, fit, fit_in_stages, write_model
from cm3leon.world.scenes import ABOUT_ONE, PLAIN, SEEN, SPLITS, entities, scene
from cm3leon.world.sprites import PLACES

HELD_OUT = 96  # pictures of `stock`, `val` behind the held-out losses, and as many of `tail`
TAIL_START = 1000  # of those: the first 1,000 of `tail` are for evaluation
HELD_DOCUMENTS = 2  # before each


class Shop:
    """What all transformers share: the finished tokenizers and CLIP of `out`, caches in `runs`."""

    def __init__(self, out: Path, runs: Path):
        self.out, self.runs = out, runs
        self.text, vq = load_tokenizers(out)
        self.vq = vq.to(memory_format=torch.channels_last)
        self.clip = load_clip(out / "clip")

    def fit(self, recipe: Recipe) -> Recipe:
        """The recipe with the vocabulary and the places of these tokenizers."""
        sizes = self.text.size, self.vq.config.codebook_size, self.vq.config.grid
        return replace(recipe, model=fitted(recipe.model, *sizes, fit=True))

    def part(self, part: Part, clip: Clip | None = None) -> TokenCache:
        """Scenes of `stock` as tokens, with `clip` its vectors beside them."""
        source = Scenes("stock", part.split, part.first, part.count, self.vq.config.resolution)
        of = f"-{clip.sha256[:8]}" if clip else ""
        name = f"tokens-{part.split}-{part.first}-{part.count}{of}"
        return encode(source, self.vq, self.text, self.runs / name, clip=clip)

    @cached_property
    def bank_tokens(self) -> TokenCache:
        """All documents of the memory bank, with their vectors."""
        return self.part(Part("bank", 0, SPLITS["bank"]), self.clip)

    def bank(self, left_out: list[str]) -> TrainingBank:
        """The memory bank without some documents."""
        tokens = self.bank_tokens
        return TrainingBank(Place(tokens.folder), tokens, self.clip, self.text, self.runs, left_out)

    def neighbours(self, recipe: Recipe) -> Neighbours | None:
        """Of a recipe's queries, among the documents without unseen entities; found or in bursts"""
        if not recipe.retrieves:
            return None
        bank, rows = self.bank(self.bank_tokens.ids[SEEN:]), []
        for part in recipe.queries:
            found_NS = bank.rows(self.part(part), recipe.retrieval, recipe.train.seed)
            rows.append(in_bursts(found_NS, part, recipe.bursts, recipe.train.seed))
        return Neighbours(
            np.concatenate(rows), bank.documents, recipe.shares, recipe.retrieval.modality
        )

    def held_out(self, recipe: Recipe, part: Part) -> HeldOut:
        """A part that losses are measured on, behind documents among all of the bank."""
        tokens = self.part(part)
        near = found_in(self.bank([]), recipe, tokens) if recipe.retrieves else None
        return HeldOut(tokens, range(part.count), near, HELD_DOCUMENTS)

    def about(self, recipe: Recipe) -> dict:
        """What names the data of a training."""
        about = {
            "queries": [asdict(part) for part in recipe.queries],
            "bursts": recipe.bursts,
            "text_sha256": self.text.digest,
            "vq_sha256": digest(self.out / "vq"),
            "clip_sha256": self.clip.sha256,
        }
        if recipe.start:
            folder = self.out / recipe.start
            about |= {"start": recipe.start, "start_sha256": digest(folder)}
        return about

    def source(self, recipe: Recipe) -> Source:
        """What the training of a recipe reads; held out are scenes of `val` and tail entities."""
        cache = Joined([self.part(part) for part in recipe.queries])
        queries = Queries(cache, self.neighbours(recipe))
        parts = {"": Part("val", 0, HELD_OUT), "tail_": Part("tail", TAIL_START, HELD_OUT)}
        held = {name: self.held_out(recipe, part) for name, part in parts.items()}
        return pair_source(recipe, queries, held, self.about(recipe))

    def model(self, recipe: Recipe) -> Transformer:
        """What the training begins with."""
        seed = seeds.torch_generator(recipe.train.seed, "init", recipe.model.name)
        model = Transformer(recipe.model, seed)
        if recipe.start:
            begin_with(model, self.out / recipe.start)
        return model


def make_bank(out: Path, runs: Path) -> None:
    """Encode the memory bank and write it to `out`/bank."""
    documents = Shop(out, runs).bank_tokens
    pack(documents, MemoryBank.of_cache(documents), out / "bank" / BANK)


def train_transformer(recipe: Recipe, out: Path, run: Path, device: str) -> None:
    """Train a recipe in the folder `run`, in stages, and save it to `out`/<name> with its log."""
    shop = Shop(out, run.parent)
    recipe = shop.fit(recipe)
    model, source = shop.model(recipe).to(device), shop.source(recipe)
    run, done = fit_in_stages(model, source, recipe.train, run)
    extra = source.about
    if recipe.retrieves:
        extra |= {"retrieval": to_dict(DRAWN_WITH), "decode": to_dict(DRAWN_AT)}
    if recipe.start:
        extra["before"] = total_cost(read_about(out / recipe.start)["extra"])
    write_model(model, recipe.train, out / recipe.name, done, extra)


def trained(recipe: Recipe, shop: Shop, run: Path, device: str) -> Transformer:
    """The model of a recipe trained in the folder `run`, all in one."""
    model = shop.model(recipe).to(device)
    fit(model, shop.source(recipe), recipe.train, run)
    return model


def steps_of(run: Path, tokens: float) -> int:
    """About the steps in which a run sees so many tokens, by what its stable part saw until now."""
    _, state = find_state(run)
    seen = state["position"]["tokens"] / state["position"]["step"]
    return steps_for_tokens(tokens, seen)


def in_bursts(rows_NS: np.ndarray, part: Part, share: float, seed: int) -> np.ndarray:
    """Neighbours of a part's scenes, for a share of those about an entity chosen by its name:
    documents of the bank that show it, first the one on the scene's place, the others drawn anew
    for each scene (Chan et al. 2022).
    """
    if not share:
        return rows_NS
    rows_NS, known = rows_NS.copy(), {one.name: at for at, one in enumerate(entities())}
    generator = seeds.generator(seed, "bursts", part.split, part.first)
    for row, (name, here) in enumerate(asked_for(part)[: len(rows_NS)]):
        others = generator.permutation(ABOUT_ONE)
        if name and generator.random() < share:
            chosen = [here, *(other for other in others.tolist() if other != here)]
            about = PLAIN + ABOUT_ONE * known[name]
            rows_NS[row] = about + np.array(chosen[: rows_NS.shape[1]])
    return rows_NS


@cache
def asked_for(part: Part) -> tuple[tuple[str | None, int], ...]:
    """Of each scene of a part the first entity, if any, and its place's number; kept, as making the
    scenes takes minutes and a sweep's trainings read the same.
    """
    scenes = (scene("stock", part.split, part.first + row) for row in range(part.count))
    return tuple(
        (next((thing[4] for thing in one.plan.things if thing[4]), None), PLACES.index(one.place))
        for one in scenes
    )
