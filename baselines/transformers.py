"""Training of the transformers, and the memory bank they are trained with.

A run of pairs, then a run with documents (`recipes.py`), each with a folder of its own that
continues where it stopped; token caches and neighbours are made when they are missing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from baselines.recipes import DRAWN_WITH, Recipe
from baselines.tokenizers import device_name
from cm3leon import seeds
from cm3leon.bank import MemoryBank
from cm3leon.cache import TokenCache, encode
from cm3leon.checkpoint import digest, load, load_into, save
from cm3leon.clip import Clip, load_clip
from cm3leon.config import VQConfig, from_dict, to_dict
from cm3leon.data import pair_batches, pair_held_out, pair_loss
from cm3leon.files import atomic_file, sha256_bytes, write_atomic
from cm3leon.neighbours import Neighbours, find_neighbours
from cm3leon.packed import BANK, pack
from cm3leon.scenes import ABOUT_ONE, BANK_SEEN, BANK_STOCK, SPLITS, scene
from cm3leon.sequence import Vocabulary
from cm3leon.sources import Scenes
from cm3leon.text import TextTokenizer
from cm3leon.train import train
from cm3leon.transformer import Transformer
from cm3leon.vq import VQ

HELD_OUT = 256  # pictures of `stock`, `val` behind the held-out loss of pairs
HELD_OUT_NEAR = 96  # the same with documents, and as many of `stock`, `tail`
TAIL_START = 1000  # of those: the first 1,000 of `tail` are for evaluation


def load_tokenizers(out: Path) -> tuple[TextTokenizer, VQ]:
    """The finished text and image tokenizers of a weights folder."""
    config, tensors, _ = load(out / "vq", "vq")
    vq = VQ(from_dict(VQConfig, config))
    load_into(vq, tensors)
    text = TextTokenizer.load(out / "text" / "tokenizer.json")
    return text, vq.eval().to(memory_format=torch.channels_last)


class Shop:
    """What all transformers share: the finished tokenizers and CLIP of `out`, caches in `runs`."""

    def __init__(self, out: Path, runs: Path):
        self.out, self.runs = out, runs
        self.text, self.vq = load_tokenizers(out)
        self.clip: Clip | None = None

    def tokens(self, split: str, start: int, count: int, near: bool) -> TokenCache:
        """Scenes of `stock` as tokens; with `near` their CLIP vectors beside them."""
        if near and self.clip is None:
            self.clip = load_clip(self.out / "clip")
        source = Scenes("stock", split, start, count, self.vq.config.resolution)
        folder = self.runs / f"tokens-{split}-{start}-{count}{'-near' if near else ''}"
        return encode(source, self.vq, self.text, folder, clip=self.clip if near else None)

    def bank_tokens(self) -> TokenCache:
        """All documents of the memory bank."""
        return self.tokens("bank", 0, SPLITS["bank"], near=True)

    def neighbours(self, queries: TokenCache, recipe: Recipe, seen: bool) -> Neighbours:
        """Of the documents of `queries`; with `seen` among those without unseen entities alone."""
        documents = self.bank_tokens()
        bank = MemoryBank.of_cache(documents)
        if seen:
            kept = slice(0, BANK_SEEN)
            bank = MemoryBank(bank.vectors[kept], bank.ids[kept], bank.clip_sha256, bank.source)
        what = [queries.about, documents.about, seen, to_dict(recipe.retrieval), recipe.train.seed]
        name = sha256_bytes(json.dumps(what, sort_keys=True).encode())[:12]
        path = self.runs / f"neighbours-{name}.npy"  # found in minutes, read at once
        if not path.exists():
            found = find_neighbours(
                queries, bank, self.clip, self.text, recipe.retrieval, recipe.train.seed
            )
            with atomic_file(path) as file:
                np.save(file, found)
        return Neighbours(np.load(path), documents, recipe.shares, recipe.retrieval.modality)


def make_bank(out: Path, runs: Path) -> None:
    """Encode the memory bank and write it to `out`/bank."""
    documents = Shop(out, runs).bank_tokens()
    pack(documents, MemoryBank.of_cache(documents), out / "bank" / BANK)


def train_transformer(recipe: Recipe, out: Path, runs: Path, form: str, device: str) -> None:
    """Train a recipe, save it to `out`/<name> in bfloat16 with the log of its last run."""
    shop = Shop(out, runs)
    model, seconds = trained(recipe, shop, form, device)
    extra = digests(shop) | {
        "objective": to_dict(recipe.objective),
        "train": to_dict(recipe.train),
        "pictures": recipe.pictures,
        "split": recipe.split,
        "shares": list(recipe.shares),
        "seconds": round(seconds),
        "device": device_name(device),
    }
    extra["stages"] = [described(stage) for stage in line(recipe)]
    if recipe.retrieves:
        extra |= {"neighbours": to_dict(recipe.retrieval), "retrieval": to_dict(DRAWN_WITH)}
    tensors = {name: value.cpu() for name, value in model.state_dict().items()}
    log = runs / f"{recipe.name}-{form}" / "log.jsonl"
    write_atomic(out / recipe.name / "log.jsonl", log.read_bytes())
    save(out / recipe.name, "transformer", recipe.model, tensors, extra, dtype=torch.bfloat16)


def trained(recipe: Recipe, shop: Shop, form: str, device: str) -> tuple[Transformer, float]:
    """The trained model, its base trained first, and the seconds that all of it took."""
    run, before = shop.runs / f"{recipe.name}-{form}", 0.0
    if recipe.base:
        model, before = trained(recipe.base, shop, form, device)
    else:
        generator = seeds.torch_generator(recipe.train.seed, "init", recipe.model.name)
        model = Transformer(recipe.model, generator).to(device)
    vocabulary = Vocabulary.from_config(recipe.model.vocabulary)
    seen, near, among = training_data(recipe, shop)
    done = train(
        model,
        pair_loss(vocabulary),
        pair_batches(
            seen,
            vocabulary,
            recipe.objective,
            recipe.train.batch,
            recipe.train.seed,
            context=recipe.model.context,
            neighbours=near,
            among=among,
        ),
        recipe.train,
        run,
        evaluate=held_out(recipe, shop, vocabulary),
        about=identity(recipe, shop),
    )
    return model, before + done["seconds"]


def training_data(
    recipe: Recipe, shop: Shop
) -> tuple[TokenCache, Neighbours | None, np.ndarray | None]:
    """Tokens, the neighbours of their documents, and which of them are trained on."""
    if recipe.base is None:
        return shop.tokens(recipe.split, 0, recipe.pictures, near=False), None, None
    seen, among = shop.bank_tokens(), np.arange(recipe.pictures)
    if recipe.bursts:
        rows_NS = groups(recipe.pictures, recipe.train.seed)
        among = np.flatnonzero(rows_NS[:, 0] >= 0)
        near = Neighbours(rows_NS, seen, recipe.shares)
        return seen, near if recipe.retrieves else None, among
    return seen, shop.neighbours(seen, recipe, seen=True) if recipe.retrieves else None, among


def groups(count: int, seed: int) -> np.ndarray:
    """Two other documents about its entity for each of the first documents of the bank: int [N, 2].

    All have one object. Rows of -1: plain documents, more objects, or fewer than two others.
    """
    rows_N2 = np.full((count, 2), -1)
    for start in range(BANK_STOCK, count, ABOUT_ONE):
        around = range(start, min(start + ABOUT_ONE, count))
        alone = [at for at in around if len(scene("stock", "bank", at).plan.things) == 1]
        for at in alone if len(alone) > 2 else ():
            others = [other for other in alone if other != at]
            rows_N2[at] = seeds.generator(seed, "burst", at).permutation(others)[:2]
    return rows_N2


def held_out(recipe: Recipe, shop: Shop, vocabulary: Vocabulary):
    """Held-out losses of `val`; in the second stage those of tail entities as well, as `tail_`."""
    context = recipe.model.context
    if recipe.base is None:
        cache = shop.tokens("val", 0, HELD_OUT, near=False)
        return pair_held_out(cache, vocabulary, HELD_OUT, context=context)
    parts = {}
    for name, split, start in (("", "val", 0), ("tail_", "tail", TAIL_START)):
        cache = shop.tokens(split, start, HELD_OUT_NEAR, near=True)
        near = shop.neighbours(cache, recipe, seen=False) if recipe.retrieves else None
        parts[name] = pair_held_out(
            cache, vocabulary, HELD_OUT_NEAR, context=context, neighbours=near, documents=2
        )
    return lambda module: {
        f"{prefix}{name}": value
        for prefix, part in parts.items()
        for name, value in part(module).items()
    }


def line(recipe: Recipe) -> list[Recipe]:
    """The stages of a recipe, first to last."""
    return [*(line(recipe.base) if recipe.base else []), recipe]


def described(stage: Recipe) -> dict:
    """A stage in plain values, for the card."""
    return {
        "name": stage.name,
        "split": stage.split,
        "pictures": stage.pictures,
        "bursts": stage.bursts,
        "shares": list(stage.shares),
        "train": to_dict(stage.train),
    }


def digests(shop: Shop) -> dict:
    """Of the tokenizers."""
    return {"text_sha256": shop.text.digest, "vq_sha256": digest(shop.out / "vq")}


def identity(recipe: Recipe, shop: Shop) -> dict:
    """What names a run beside its training settings; a first stage has no more than it needs."""
    about = {"model": to_dict(recipe.model), "objective": to_dict(recipe.objective)}
    if recipe.bursts:
        about |= {"bursts": True}
    if recipe.base is not None:
        about |= {"split": recipe.split, "shares": list(recipe.shares)}
        about |= {"pictures": recipe.pictures, "clip_sha256": shop.clip.sha256}
        about |= {"base": identity(recipe.base, shop) | {"train": to_dict(recipe.base.train)}}
    if recipe.retrieves:
        about |= {"neighbours": to_dict(recipe.retrieval)}
    return about | digests(shop)
