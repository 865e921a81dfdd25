"""Pretraining on a token cache, from an encoded source to a folder that draws.

The folder holds the model, its log, its tokenizers (`text/`, `vq/`) and the state of the run
(`run/`); CLIP and memory bank are large, so its config.json names where they lie.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from cm3leon import checkpoint, seeds
from cm3leon.clip import LOCAL, Clip
from cm3leon.config import (
    MODELS,
    ModelConfig,
    ObjectiveConfig,
    RetrievalConfig,
    TrainConfig,
    VQConfig,
    from_dict,
    to_dict,
)
from cm3leon.data.token_cache import TokenCache, read_about
from cm3leon.errors import UserError
from cm3leon.files import atomic_file, sha256_bytes, sha256_file, write_atomic
from cm3leon.identity import read_array, write_array
from cm3leon.loading import load_module
from cm3leon.model.transformer import Transformer
from cm3leon.retrieval import bank as banks
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.neighbours import Neighbours, find_neighbours
from cm3leon.retrieval.training_bank import Place, open_bank, open_documents, without
from cm3leon.sequence.documents import Document, Vocabulary
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.training.accumulate import shared, split
from cm3leon.training.batches import pair_batches, pair_held_out, pair_loss
from cm3leon.training.estimate import PIECE_TOKENS, row_tokens
from cm3leon.training.loop import LOG, train
from cm3leon.training.roles import role_losses

FOUND = RetrievalConfig(documents=4)  # two by text, two by picture, dropout 20 % (section 2.1)
DRAWN = 2  # documents in drawing, where training had as many (Table 1)
HELD_OUT = 256  # documents, where the user does not say how many
RUN = "run"  # of the folder: the state of the training
TOKENIZERS = ("text/tokenizer.json", f"vq/{checkpoint.WEIGHTS}", f"vq/{checkpoint.CONFIG}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, given the data. `recompute` moves memory alone."""

    model: ModelConfig
    train: TrainConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    shares: tuple[float, ...] = (1.0,)  # of the steps with 0, 1, .. documents before each sample
    retrieval: RetrievalConfig = FOUND  # of the neighbours in training
    accumulate: int = 1  # pieces of a batch
    recompute: bool = False  # blocks' activations are made again in the backward pass

    @property
    def documents(self) -> int:
        """The most that stand before a sample."""
        return max((at for at, share in enumerate(self.shares) if share), default=0)


@dataclass(frozen=True)
class Stretch:
    """Documents start .. stop of a cache, as a cache of their own."""

    cache: TokenCache
    start: int
    stop: int

    @property
    def captions(self) -> int:
        """Captions of a document."""
        return self.cache.captions

    @property
    def ids(self) -> list[str]:
        """Ids, in order."""
        return self.cache.ids[self.start : self.stop]

    def __len__(self) -> int:
        return self.stop - self.start

    def address(self, index: int) -> tuple[str, str, int] | None:
        """As `TokenCache.address`."""
        return self.cache.address(self.start + index)

    def codes(self, index: int) -> np.ndarray:
        """As `TokenCache.codes`."""
        return self.cache.codes(self.start + index)

    def text(self, index: int, caption: int = 0) -> np.ndarray:
        """As `TokenCache.text`."""
        return self.cache.text(self.start + index, caption)

    def document(self, index: int, caption: int = 0) -> Document:
        """As `TokenCache.document`."""
        return self.cache.document(self.start + index, caption)


@dataclass(frozen=True)
class Corpus:
    """The first `trained` documents of a cache to learn from, others held out."""

    cache: TokenCache
    trained: int
    held: Stretch
    text: TextTokenizer
    home: Path  # of the tokenizers
    bank: Place | None = None
    clip: Clip | None = None

    @property
    def pair(self) -> float:
        """Tokens of a pair, on average: caption, picture and two `<break>`."""
        return self.cache.mean_text + len(self.cache.codes(0)) + 2

    def check_bank(self, documents: int) -> None:
        """Raise UserError where a bank of the cache itself has fewer documents for a query."""
        if self.bank is None or self.bank.cache.resolve() != self.cache.folder.resolve():
            return
        others = self.trained - 1  # neither the query nor what is held out
        if others < documents:
            raise UserError(
                f"{self.bank.cache} has {others} documents beside a query, --retrieval.documents "
                f"finds {documents}; encode more of them or give fewer"
            )


def find_model_config(name: str) -> ModelConfig:
    """A model's shape: a name of `config.MODELS`, or a JSON file with ModelConfig's fields."""
    if name in MODELS:
        return MODELS[name]()
    if not name.endswith(".json"):
        raise UserError(f"unknown model {name!r}; name {', '.join(MODELS)} or a .json file")
    values = checkpoint.read_json(Path(name))
    try:
        return from_dict(ModelConfig, values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def fitted(model: ModelConfig, text_size: int, codes: int, fit: bool) -> ModelConfig:
    """The model, if its vocabulary is that of the tokenizers; with `fit` made to be.

    Raises UserError naming the part that differs.
    """
    if fit:
        vocabulary = replace(model.vocabulary, text_size=text_size, image_size=codes)
        return replace(model, vocabulary=vocabulary)
    for part, wanted, found in (
        ("text", model.vocabulary.text_size, text_size),
        ("image", model.vocabulary.image_size, codes),
    ):
        if wanted != found:
            raise UserError(
                f"model {model.name} has {wanted} {part} ids, the {part} tokenizer {found}; take "
                "another tokenizer, or --fit-vocabulary for the tokenizers' sizes"
            )
    return model


def load_tokenizers(home: Path) -> tuple[TextTokenizer, VQ]:
    """The tokenizers in `text/` and `vq/` of a folder."""
    vq, _ = load_module(home / "vq", "vq", VQConfig, VQ)
    if not vq.config.decodes:
        raise UserError(f"{home / 'vq'} has no decoder: what is trained with it could not draw")
    return TextTokenizer.load(home / "text"), vq


def open_cache(folder: Path, text: TextTokenizer, vq: VQ, home: Path) -> TokenCache:
    """The token cache in a folder; UserError unless its tokens are those of the tokenizers."""
    cache = TokenCache(folder)
    digests = {"text_sha256": text.digest, "vq_sha256": checkpoint.module_digest(vq)}
    for part, digest in digests.items():
        if cache.about[part] != digest:
            raise UserError(
                f"{folder} was encoded with {part} {cache.about[part][:12]}, {home} has "
                f"{digest[:12]}; name its --tokenizers or encode it again"
            )
    return cache


def last_of(cache: TokenCache, count: int | None) -> Stretch:
    """The last `count` documents of a cache (None: a sixteenth, at most 256), not all of them."""
    size = len(cache)
    count = min(HELD_OUT, max(1, size // 16)) if count is None else count
    if count >= size:
        raise UserError(f"hold_out must leave some of {size} documents to train on, got {count}")
    return Stretch(cache, size - count, size)


def first_of(held: TokenCache, count: int | None, cache: TokenCache) -> Stretch:
    """The first `count` documents (None: 256) of another cache than the one that is trained on."""
    if held.about["source"] == cache.about["source"]:
        raise UserError(f"{held.folder} holds what is trained on; leave --held-out out")
    if held.about["clip_sha256"] != cache.about["clip_sha256"]:
        raise UserError(f"{held.folder} and {cache.folder} are of two CLIPs; encode one again")
    return Stretch(held, 0, min(len(held), count or HELD_OUT))


def pretrain(
    recipe: Recipe, corpus: Corpus, out: Path, device: str, start: Path | None = None
) -> dict:
    """Train, or go on where `out` was left, and write the model; "step", "seconds" and "loss".

    `start` is the state that a branch begins from (`schedule.decay_from`). Raises UserError as
    `train.train`, and when `out` holds other tokenizers.
    """
    place_tokenizers(corpus.home, out)
    near, held_near = neighbours(recipe, corpus, out / RUN, device)
    model = Transformer(recipe.model, seeds.torch_generator(recipe.train.seed, "init"))
    model.recompute = recipe.recompute
    vocabulary = Vocabulary.from_config(recipe.model.vocabulary)
    batches = pair_batches(
        corpus.cache,
        vocabulary,
        recipe.objective,
        recipe.train.batch,
        recipe.train.seed,
        model=recipe.model,
        neighbours=near,
        among=np.arange(corpus.trained),
    )
    held = corpus.held, vocabulary, len(corpus.held)
    more = {"model": recipe.model, "neighbours": held_near, "documents": recipe.documents}
    size = max(1, int(PIECE_TOKENS // row_tokens(corpus.pair, recipe.documents)))
    losses, roles = pair_held_out(*held, batch=size, **more), role_losses(*held, **more)
    loss, parts = pair_loss(vocabulary), None
    if recipe.accumulate > 1:
        parts = partial(split, count=recipe.accumulate, vocabulary=vocabulary)
        loss = shared(loss)
    about = identity(recipe, corpus)
    done = train(
        model.to(device), loss, batches, recipe.train, out / RUN,
        parts=parts, evaluate=lambda module: losses(module) | roles(module), about=about,
        start=start,
    )  # fmt: skip
    write_model(model, recipe, corpus, out, done["seconds"], device)
    return done


def neighbours(
    recipe: Recipe, corpus: Corpus, run: Path, device: str
) -> tuple[Neighbours | None, Neighbours | None]:
    """Retrieved documents of the cache's documents, and of those held out; None without a bank.

    What is held out is in no bank. Found once and kept in the folder of the run, rows of the
    bank's cache.
    """
    if corpus.bank is None or not recipe.documents:
        return None, None
    place, documents = corpus.bank, open_documents(corpus.bank, corpus.cache)
    index = None if place.index is None else banks.read_about(place.index)

    @cache
    def bank() -> tuple[MemoryBank, np.ndarray]:  # opened when something must be looked up
        return without(open_bank(place, documents), corpus.held.ids)

    def of(queries: TokenCache) -> np.ndarray:
        what = [queries.about, documents.about, index, corpus.held.ids]
        what += [to_dict(recipe.retrieval), recipe.train.seed]
        path = run / f"neighbours-{sha256_bytes(json.dumps(what).encode())[:12]}.npy"
        if (rows_NS := read_array(path)) is None:  # not there, or damaged: found again
            corpus.clip.model.to(device)
            known, kept_K = bank()
            found_NS = find_neighbours(
                queries, known, corpus.clip, corpus.text, recipe.retrieval, recipe.train.seed
            )
            corpus.clip.model.to("cpu")
            rows_NS = kept_K[found_NS]
            write_array(path, rows_NS)
        return rows_NS

    rows_NS, held = of(corpus.cache), corpus.held
    held_NS = rows_NS if held.cache is corpus.cache else of(held.cache)
    held_NS = held_NS[held.start : held.stop]
    modality = recipe.retrieval.modality
    return (
        Neighbours(rows_NS, documents, recipe.shares, modality),
        Neighbours(held_NS, documents, recipe.shares, modality),
    )


def identity(recipe: Recipe, corpus: Corpus) -> dict:
    """What names a run beside its training settings."""
    about = {
        "model": to_dict(recipe.model),
        "objective": to_dict(recipe.objective),
        "shares": list(recipe.shares),
        "accumulate": recipe.accumulate,
        "text_sha256": corpus.text.digest,
        "vq_sha256": checkpoint.digest(corpus.home / "vq"),
        "cache": corpus.cache.about,
        "trained": corpus.trained,
        "held_out": len(corpus.held),
    }
    if corpus.held.cache is not corpus.cache:
        about["held_out_cache"] = corpus.held.cache.about
    if corpus.bank is None or not recipe.documents:
        return about
    return about | {
        "neighbours": to_dict(recipe.retrieval),
        "clip_sha256": corpus.clip.sha256,
        "bank_cache": read_about(corpus.bank.cache),
    }


def write_model(
    model: Transformer, recipe: Recipe, corpus: Corpus, out: Path, seconds: float, device: str
) -> None:
    """The checkpoint, in bfloat16 like the shipped ones, and the run's log beside it."""
    extra = identity(recipe, corpus) | {
        "train": to_dict(recipe.train),
        "skipped": len(corpus.cache.skipped),
        "seconds": round(seconds),
        "device": device_name(device),
    }
    del extra["model"]  # is the checkpoint's configuration
    if corpus.bank is not None and recipe.documents:
        drawn = min(DRAWN, recipe.documents)
        index = corpus.bank.index
        extra |= {
            "retrieval": to_dict(
                replace(recipe.retrieval, documents=drawn, by="text", order="ranked")
            ),
            "clip": {"name": absolute_clip(corpus.clip.name), "sha256": corpus.clip.sha256},
            "bank": {
                "cache": str(corpus.bank.cache.resolve()),
                "index": None if index is None else str(index.resolve()),
            },
        }
    write_atomic(out / LOG, (out / RUN / LOG).read_bytes())
    tensors = {name: value.cpu() for name, value in model.state_dict().items()}
    checkpoint.save(out, "transformer", recipe.model, tensors, extra, dtype=torch.bfloat16)


def place_tokenizers(home: Path, out: Path) -> None:
    """Copies of the tokenizers in `text/` and `vq/` of the model's folder.

    Raises UserError where other ones lie there.
    """
    for name in TOKENIZERS:
        source, target = home / name, out / name
        if not target.exists():
            with open(source, "rb") as read, atomic_file(target) as write:
                shutil.copyfileobj(read, write)
        elif sha256_file(source) != sha256_file(target):
            raise UserError(f"{target} is of another tokenizer than {source}; name another --out")


def absolute_clip(name: str) -> str:
    """The name of a CLIP (`clip.load_clip`) with its file or folder by its absolute path."""
    if name == "scenes":
        return name
    kind, colon, place = name.rpartition(":")
    if name.startswith(LOCAL):
        kind, colon, place = LOCAL[:-1], ":", name.removeprefix(LOCAL)
    elif Path(name).is_dir():
        kind, colon, place = "", "", name
    return f"{kind}{colon}{Path(place).resolve()}"


def device_name(device: str) -> str:
    """The accelerator, or the architecture of the processor."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
