"""Training of the transformers, and the memory bank they are trained with.

Token caches and neighbours are made when they are missing; a run continues where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from baselines.recipes import DRAWN_AT, DRAWN_WITH, Part, Recipe
from baselines.tokenizers import device_name
from cm3leon import seeds
from cm3leon.checkpoint import CONFIG, digest, load, load_into, read_about, save
from cm3leon.clip import Clip, load_clip
from cm3leon.config import VQConfig, from_dict, to_dict
from cm3leon.data.sources import Scenes
from cm3leon.data.token_cache import TokenCache, encode
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.identity import read_array, write_array
from cm3leon.model.transformer import Transformer, parameter_count
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.neighbours import Neighbours, find_neighbours
from cm3leon.retrieval.packed import BANK, pack
from cm3leon.sequence.documents import Vocabulary
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.training.batches import Joined, pair_batches, pair_held_out, pair_loss
from cm3leon.training.loop import steps_for_tokens, train
from cm3leon.training.recipe import fitted
from cm3leon.training.roles import role_losses
from cm3leon.training.schedule import find_state, keeps_state
from cm3leon.world.scenes import ABOUT_ONE, PLAIN, SEEN, SPLITS, entities, scene
from cm3leon.world.sprites import PLACES

HELD_OUT = 96  # pictures of `stock`, `val` behind the held-out losses, and as many of `tail`
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
        self.clip = load_clip(out / "clip")

    def fit(self, recipe: Recipe) -> Recipe:
        """The recipe with the vocabulary of these tokenizers."""
        sizes = self.text.size, self.vq.config.codebook_size
        return replace(recipe, model=fitted(recipe.model, *sizes, fit=True))

    def part(self, part: Part, clip: Clip | None = None) -> TokenCache:
        """Scenes of `stock` as tokens, with `clip` its vectors beside them."""
        source = Scenes("stock", part.split, part.first, part.count, self.vq.config.resolution)
        of = f"-{clip.sha256[:8]}" if clip else ""
        name = f"tokens-{part.split}-{part.first}-{part.count}{of}"
        return encode(source, self.vq, self.text, self.runs / name, clip=clip)

    def bank_tokens(self) -> TokenCache:
        """All documents of the memory bank, with their vectors."""
        return self.part(Part("bank", 0, SPLITS["bank"]), self.clip)

    def neighbours(self, recipe: Recipe) -> Neighbours:
        """Of a recipe's queries, among the documents without unseen entities."""
        rows = [self._rows(recipe, part) for part in recipe.queries]
        return Neighbours(
            np.concatenate(rows), self.bank_tokens(), recipe.shares, recipe.retrieval.modality
        )

    def held_neighbours(self, recipe: Recipe, part: Part) -> Neighbours:
        """Of what is held out, among all documents of the bank."""
        rows_NS = self._found(self.part(part), recipe, seen=False)
        return Neighbours(rows_NS, self.bank_tokens(), recipe.shares, recipe.retrieval.modality)

    def _rows(self, recipe: Recipe, part: Part) -> np.ndarray:
        """Documents of a part of the queries, int64 [N, S]: found, or in bursts."""
        rows_NS = self._found(self.part(part), recipe, seen=True)
        if not recipe.bursts:
            return rows_NS
        return in_bursts(rows_NS, part, recipe.bursts, recipe.train.seed)

    def _found(self, queries: TokenCache, recipe: Recipe, seen: bool) -> np.ndarray:
        """Documents found for each of `queries`, int64 [N, S]: looked up once, then kept."""
        documents = self.bank_tokens()
        bank = MemoryBank.of_cache(documents)
        if seen:
            kept = slice(0, SEEN)
            bank = MemoryBank(bank.vectors[kept], bank.ids[kept], bank.clip_sha256, bank.source)
        what = [queries.about, documents.about, seen, to_dict(recipe.retrieval), recipe.train.seed]
        name = sha256_bytes(json.dumps(what, sort_keys=True).encode())[:12]
        path = self.runs / f"neighbours-{name}.npy"  # found in minutes, read at once
        if (rows_NS := read_array(path)) is None:  # not there, or damaged: found again
            rows_NS = find_neighbours(
                queries, bank, self.clip, self.text, recipe.retrieval, recipe.train.seed
            )
            write_array(path, rows_NS)
        return rows_NS


def make_bank(out: Path, runs: Path) -> None:
    """Encode the memory bank and write it to `out`/bank."""
    documents = Shop(out, runs).bank_tokens()
    pack(documents, MemoryBank.of_cache(documents), out / "bank" / BANK)


def train_transformer(recipe: Recipe, out: Path, run: Path, device: str) -> None:
    """Train a recipe in the folder `run`, save it to `out`/<name> in bfloat16 with its log.

    The stable part of a "wsd" schedule stays in `run`, where longer recipes go on and shorter ones
    branch; the decay has a folder below.
    """
    shop, train, start = Shop(out, run.parent), recipe.train, None
    recipe = shop.fit(recipe)
    if train.decay:
        stable = replace(train, steps=train.decay_start, decay=0)
        if not keeps_state(run, stable.steps):
            trained(replace(recipe, train=stable), shop, run, device)
        start, _ = find_state(run, stable.steps)
        run = run / f"decay-{stable.steps}-{train.decay}"
    model, done = trained(recipe, shop, run, device, start)
    extra = identity(recipe, shop) | {
        "train": to_dict(train),
        "cost": {
            "queries": train.steps * train.batch,
            "tokens": done["tokens"],
            "flops": 6 * parameter_count(recipe.model) * done["tokens"],
        },
        "seconds": round(done["seconds"]),
        "device": device_name(device),
    }
    del extra["model"]  # is the checkpoint's configuration
    if recipe.retrieves:
        extra |= {"retrieval": to_dict(DRAWN_WITH), "decode": to_dict(DRAWN_AT)}
    extra |= chosen_decode(out / recipe.name)
    tensors = {name: value.cpu() for name, value in model.state_dict().items()}
    write_atomic(out / recipe.name / "log.jsonl", (run / "log.jsonl").read_bytes())
    save(out / recipe.name, "transformer", recipe.model, tensors, extra, dtype=torch.bfloat16)


def chosen_decode(folder: Path) -> dict:
    """The settings of drawing that were chosen for the model before (choose_decoding), if any."""
    if not (folder / CONFIG).exists():
        return {}
    extra = read_about(folder)["extra"]
    return {"decode": extra["decode"]} if "decode" in extra else {}


def steps_of(run: Path, tokens: float) -> int:
    """About the steps in which a run sees so many tokens, by what its stable part saw until now."""
    _, state = find_state(run)
    seen = state["position"]["tokens"] / state["position"]["step"]
    return steps_for_tokens(tokens, seen)


def trained(
    recipe: Recipe, shop: Shop, run: Path, device: str, start: Path | None = None
) -> tuple[Transformer, dict]:
    """The model trained in the folder `run`, and what `train` returns; `start` as there."""
    seed = recipe.train.seed
    model = Transformer(recipe.model, seeds.torch_generator(seed, "init", recipe.model.name))
    if recipe.start:
        begin_with(model, shop.out / recipe.start)
    vocabulary = Vocabulary.from_config(recipe.model.vocabulary)
    queries = Joined([shop.part(part) for part in recipe.queries])
    near = shop.neighbours(recipe) if recipe.retrieves else None
    batches = pair_batches(
        queries,
        vocabulary,
        recipe.objective,
        recipe.train.batch,
        seed,
        model=recipe.model,
        neighbours=near,
    )
    done = train(
        model.to(device),
        pair_loss(vocabulary),
        batches,
        recipe.train,
        run,
        evaluate=held_out(recipe, shop, vocabulary),
        about=identity(recipe, shop),
        start=start,
    )
    return model, done


def in_bursts(rows_NS: np.ndarray, part: Part, share: float, seed: int) -> np.ndarray:
    """Neighbours of a part's scenes, for a share of those about an entity chosen by its name:
    documents of the bank that show it, first the one on the scene's place, the others drawn anew
    for each scene (Chan et al. 2022).
    """
    rows_NS, known = rows_NS.copy(), {one.name: at for at, one in enumerate(entities())}
    generator = seeds.generator(seed, "bursts", part.split, part.first)
    for row in range(len(rows_NS)):
        found = scene("stock", part.split, part.first + row)
        names = [thing[4] for thing in found.plan.things if thing[4]]
        others = generator.permutation(ABOUT_ONE)
        if names and generator.random() < share:
            here = PLACES.index(found.place)
            chosen = [here, *(other for other in others.tolist() if other != here)]
            about = PLAIN + ABOUT_ONE * known[names[0]]
            rows_NS[row] = about + np.array(chosen[: rows_NS.shape[1]])
    return rows_NS


def begin_with(model: Transformer, folder: Path) -> None:
    """Take the weights of another baseline."""
    config, tensors, _ = load(folder, "transformer")
    if config != to_dict(model.config):
        raise UserError(f"{folder} is a model of another shape; train {folder.name} again")
    load_into(model, tensors)


def held_out(recipe: Recipe, shop: Shop, vocabulary: Vocabulary):
    """Held-out losses of `val`, also by role, and of tail entities, as `tail_`."""
    parts = []
    splits = {"": Part("val", 0, HELD_OUT), "tail_": Part("tail", TAIL_START, HELD_OUT)}
    for prefix, part in splits.items():
        near = shop.held_neighbours(recipe, part) if recipe.retrieves else None
        held = shop.part(part), vocabulary, HELD_OUT
        more = {"model": recipe.model, "neighbours": near, "documents": 2}
        parts += [(prefix, losses(*held, **more)) for losses in (pair_held_out, role_losses)]
    return lambda module: {
        f"{prefix}{name}": value for prefix, part in parts for name, value in part(module).items()
    }


def identity(recipe: Recipe, shop: Shop) -> dict:
    """What names a run beside its training settings."""
    about = {
        "model": to_dict(recipe.model),
        "objective": to_dict(recipe.objective),
        "queries": [asdict(part) for part in recipe.queries],
        "bursts": recipe.bursts,
        "shares": list(recipe.shares),
        "text_sha256": shop.text.digest,
        "vq_sha256": digest(shop.out / "vq"),
        "clip_sha256": shop.clip.sha256,
    }
    if recipe.start:
        about |= {"start": recipe.start, "start_sha256": digest(shop.out / recipe.start)}
    return about | ({"neighbours": to_dict(recipe.retrieval)} if recipe.retrieves else {})
