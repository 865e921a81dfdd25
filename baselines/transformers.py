"""Training of the transformers, and the memory bank they are trained with.

Token caches and neighbours are made when they are missing; a run continues where it stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from baselines.recipes import DRAWN_AT, DRAWN_WITH, Recipe
from baselines.tokenizers import device_name
from cm3leon import seeds
from cm3leon.bank import MemoryBank
from cm3leon.cache import TokenCache, encode
from cm3leon.checkpoint import digest, load, load_into, save
from cm3leon.clip import load_clip
from cm3leon.config import TrainConfig, VQConfig, from_dict, to_dict
from cm3leon.data import pair_batches, pair_held_out, pair_loss
from cm3leon.errors import UserError
from cm3leon.files import atomic_file, sha256_bytes, write_atomic
from cm3leon.neighbours import Neighbours, find_neighbours
from cm3leon.packed import BANK, pack
from cm3leon.scenes import ABOUT_ONE, PLAIN, SEEN, SPLITS, scene
from cm3leon.sequence import Vocabulary
from cm3leon.sources import Scenes
from cm3leon.sprites import PLACES
from cm3leon.text import TextTokenizer
from cm3leon.train import train
from cm3leon.transformer import Transformer
from cm3leon.vq import VQ

PAIR = 79  # tokens that a caption, a picture and their two <break> take, on average
KEPT = 87  # positions that training on pairs has taught well
HELD_OUT = 96  # pictures of `stock`, `val` behind the held-out losses, and as many of `tail`
TAIL_START = 1000  # of those: the first 1,000 of `tail` are for evaluation
AGAIN_FOLDER = "again"  # of a run: its second leg


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
        self.clip = load_clip(out / "clip")

    def tokens(self, split: str, start: int, count: int) -> TokenCache:
        """Scenes of `stock` as tokens, their CLIP vectors beside them."""
        source = Scenes("stock", split, start, count, self.vq.config.resolution)
        name = f"tokens-{split}-{start}-{count}-{self.clip.sha256[:8]}"
        return encode(source, self.vq, self.text, self.runs / name, clip=self.clip)

    def bank_tokens(self) -> TokenCache:
        """All documents of the memory bank."""
        return self.tokens("bank", 0, SPLITS["bank"])

    def neighbours(self, queries: TokenCache, recipe: Recipe, seen: bool) -> Neighbours:
        """Of the documents of `queries`; with `seen` among those without unseen entities alone."""
        documents = self.bank_tokens()
        bank = MemoryBank.of_cache(documents)
        if seen:
            kept = slice(0, SEEN)
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
        rows_NS = np.load(path)
        if seen and recipe.bursts:
            rows_NS = in_bursts(rows_NS, recipe.bursts, recipe.train.seed)
        return Neighbours(rows_NS, documents, recipe.shares, recipe.retrieval.modality)


def make_bank(out: Path, runs: Path) -> None:
    """Encode the memory bank and write it to `out`/bank."""
    documents = Shop(out, runs).bank_tokens()
    pack(documents, MemoryBank.of_cache(documents), out / "bank" / BANK)


def train_transformer(recipe: Recipe, out: Path, runs: Path, form: str, device: str) -> None:
    """Train a recipe, save it to `out`/<name> in bfloat16 with the run's log."""
    shop, run = Shop(out, runs), runs / f"{recipe.name}-{form}"
    model, seconds = trained(recipe, shop, run, device)
    extra = identity(recipe, shop) | {
        "train": to_dict(recipe.train),
        "seconds": round(seconds),
        "device": device_name(device),
    }
    del extra["model"]  # is the checkpoint's configuration
    if recipe.again:
        extra["again"] = to_dict(recipe.again)
    if recipe.retrieves:
        extra |= {"retrieval": to_dict(DRAWN_WITH), "decode": to_dict(DRAWN_AT)}
    tensors = {name: value.cpu() for name, value in model.state_dict().items()}
    write_atomic(out / recipe.name / "log.jsonl", joined_logs(recipe, run))
    save(out / recipe.name, "transformer", recipe.model, tensors, extra, dtype=torch.bfloat16)


def trained(recipe: Recipe, shop: Shop, run: Path, device: str) -> tuple[Transformer, float]:
    """The trained model, and the seconds that it took."""
    seed = recipe.train.seed
    model = Transformer(recipe.model, seeds.torch_generator(seed, "init", recipe.model.name))
    if recipe.start:
        go_on_from(model, shop.out / recipe.start)
    vocabulary = Vocabulary.from_config(recipe.model.vocabulary)
    queries = shop.tokens(recipe.split, 0, recipe.pictures)
    near = shop.neighbours(queries, recipe, seen=True) if recipe.retrieves else None
    evaluate, seconds = held_out(recipe, shop, vocabulary), 0.0
    model.to(device)
    for leg, config in legs(recipe, run).items():
        batches = pair_batches(
            queries,
            vocabulary,
            recipe.objective,
            config.batch,
            config.seed,
            model=recipe.model,
            neighbours=near,
            among=np.arange(recipe.first, recipe.pictures),
        )
        about, loss = identity(recipe, shop), pair_loss(vocabulary)
        done = train(model, loss, batches, config, leg, evaluate=evaluate, about=about)
        seconds += done["seconds"]
    return model, seconds


def legs(recipe: Recipe, run: Path) -> dict[Path, TrainConfig]:
    """The run folder of each leg and its schedule: the second, if any, goes on from the first."""
    return {run: recipe.train} | ({run / AGAIN_FOLDER: recipe.again} if recipe.again else {})


def joined_logs(recipe: Recipe, run: Path) -> bytes:
    """The logs of all legs as one: steps and seconds count on."""
    lines, step, seconds = [], 0, 0.0
    for leg, config in legs(recipe, run).items():
        records = [json.loads(line) for line in (leg / "log.jsonl").read_bytes().splitlines()]
        for record in records:
            moved = {"step": step + record["step"], "seconds": seconds + record["seconds"]}
            lines.append(json.dumps(record | moved))
        step, seconds = step + config.steps, seconds + records[-1]["seconds"]
    return "".join(line + "\n" for line in lines).encode()


def in_bursts(rows_NS: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Neighbours of the scenes of `study`, for a share of those about an entity chosen by its name:
    documents of the bank that show it, first the one on the scene's place, the others drawn anew
    for each scene (Chan et al. 2022).
    """
    rows_NS, generator = rows_NS.copy(), seeds.generator(seed, "bursts")
    for index in range(PLAIN, len(rows_NS)):
        about = PLAIN + (index - PLAIN) // ABOUT_ONE * ABOUT_ONE
        others = generator.permutation(ABOUT_ONE)
        if generator.random() < share:
            here = PLACES.index(scene("stock", "study", index).place)
            chosen = [here, *(other for other in others.tolist() if other != here)]
            rows_NS[index] = about + np.array(chosen[: rows_NS.shape[1]])
    return rows_NS


def go_on_from(model: Transformer, folder: Path) -> None:
    """Take the weights of another stage; if that knew pairs alone, its positions come again.

    From KEPT on position p becomes a copy of position p - PAIR, so that a pair reads about the
    same wherever it stands in a row. Left as they were drawn, the later positions took 700 steps
    to learn what the first ones know (LOG.md).
    """
    config, tensors, extra = load(folder, "transformer")
    if config != to_dict(model.config):
        raise UserError(f"{folder} is a model of another shape; train {folder.name} again")
    load_into(model, tensors)
    if any(extra.get("shares", (1.0,))[1:]):  # it was trained with documents
        return
    table = model.position_embedding.weight
    with torch.no_grad():
        for place in range(KEPT, len(table)):
            table[place] = table[place - PAIR]


def held_out(recipe: Recipe, shop: Shop, vocabulary: Vocabulary):
    """Held-out losses of `val`, and of tail entities, as `tail_`."""
    parts = {}
    for prefix, split, start in (("", "val", 0), ("tail_", "tail", TAIL_START)):
        cache = shop.tokens(split, start, HELD_OUT)
        near = shop.neighbours(cache, recipe, seen=False) if recipe.retrieves else None
        parts[prefix] = pair_held_out(
            cache,
            vocabulary,
            HELD_OUT,
            model=recipe.model,
            neighbours=near,
            documents=2,
        )
    return lambda module: {
        f"{prefix}{name}": value
        for prefix, part in parts.items()
        for name, value in part(module).items()
    }


def identity(recipe: Recipe, shop: Shop) -> dict:
    """What names a run beside its training settings."""
    about = {
        "model": to_dict(recipe.model),
        "objective": to_dict(recipe.objective),
        "split": recipe.split,
        "first": recipe.first,
        "pictures": recipe.pictures,
        "bursts": recipe.bursts,
        "shares": list(recipe.shares),
        "text_sha256": shop.text.digest,
        "vq_sha256": digest(shop.out / "vq"),
        "clip_sha256": shop.clip.sha256,
    }
    if recipe.start:
        about |= {"start": recipe.start, "start_sha256": digest(shop.out / recipe.start)}
    return about | ({"neighbours": to_dict(recipe.retrieval)} if recipe.retrieves else {})
