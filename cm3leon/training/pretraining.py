"""Pretraining on a token cache, from an encoded source to a folder that draws.

The folder holds the model, its log, its tokenizers (`text/`, `vq/`) and the state of the run
(`run/`); CLIP and memory bank are large, so its config.json names where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path

from cm3leon import checkpoint, seeds
from cm3leon.clip import LOCAL, Clip
from cm3leon.config import to_dict
from cm3leon.data.token_cache import TokenCache, read_about
from cm3leon.errors import UserError
from cm3leon.retrieval.neighbours import Neighbours
from cm3leon.retrieval.training_bank import Place, TrainingBank, open_documents
from cm3leon.sequence.documents import Vocabulary
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.training.pairs import HeldOut, Queries, pair_batches, pair_held_out
from cm3leon.training.parallel import ALONE, Alone
from cm3leon.training.recipe import Recipe
from cm3leon.training.roles import role_losses
from cm3leon.training.trainer import Source, fit, place_tokenizers, write_model

DRAWN = 2  # documents in drawing, where training had as many (Table 1)
HELD_OUT = 256  # documents, where the user does not say how many
RUN = "run"  # of the folder: the state of the training


def pair_source(
    recipe: Recipe, queries: Queries, held: Mapping[str, HeldOut], about: dict
) -> Source:
    """What a pretraining reads; `about` names its data. The keys of `held` stand before the names
    of the losses.
    """
    vocabulary, train = Vocabulary.from_config(recipe.model.vocabulary), recipe.train
    rows = pair_batches(
        queries, vocabulary, recipe.objective, train.batch, train.seed, recipe.model
    )
    losses = [
        (name, losses(some, vocabulary, recipe.model))
        for name, some in held.items()
        for losses in (pair_held_out, role_losses)
    ]
    return Source(rows, losses, recipe.about | about, recipe.accumulate)


def found_in(bank: TrainingBank, recipe: Recipe, queries: TokenCache) -> Neighbours:
    """The neighbours of the documents of a cache."""
    rows_NS = bank.rows(queries, recipe.retrieval, recipe.train.seed)
    return Neighbours(rows_NS, bank.documents, recipe.shares, recipe.retrieval.modality)


@dataclass(frozen=True)
class Corpus:
    """The first `trained` documents of a cache to learn from; held out are some of `held_cache`."""

    cache: TokenCache
    trained: int
    held_cache: TokenCache
    held: range
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

    def about(self, recipe: Recipe) -> dict:
        """What names the data of a training."""
        about = {
            "accumulate": recipe.accumulate,
            "text_sha256": self.text.digest,
            "vq_sha256": checkpoint.digest(self.home / "vq"),
            "cache": self.cache.about,
            "trained": self.trained,
            "held_out": len(self.held),
        }
        if self.held_cache is not self.cache:
            about["held_out_cache"] = self.held_cache.about
        if self.bank is not None and recipe.retrieves:
            about |= {"clip_sha256": self.clip.sha256, "bank_cache": read_about(self.bank.cache)}
        return about

    def drawing(self, recipe: Recipe) -> dict:
        """How the model is drawn with, for its config.json."""
        if self.bank is None or not recipe.retrieves:
            return {}
        drawn = min(DRAWN, recipe.documents)
        place = {name: path and str(path.resolve()) for name, path in self.bank._asdict().items()}
        return {
            "retrieval": to_dict(
                replace(recipe.retrieval, documents=drawn, by="text", order="ranked")
            ),
            "clip": {"name": absolute_clip(self.clip.name), "sha256": self.clip.sha256},
            "bank": place,
        }

    def neighbours(
        self, recipe: Recipe, run: Path, device: str
    ) -> tuple[Neighbours | None, Neighbours | None]:
        """Retrieved documents of the cache's documents, and of those of what is held out; None
        without a bank. What is held out is in no bank; what was found stays in the folder `run`.
        """
        if self.bank is None or not recipe.retrieves:
            return None, None
        left_out = [self.held_cache.ids[at] for at in self.held]
        documents = open_documents(self.bank, self.cache)
        bank = TrainingBank(
            self.bank, documents, self.clip, self.text, run, left_out=left_out, device=device
        )
        near = found_in(bank, recipe, self.cache)
        same = self.held_cache is self.cache
        return near, near if same else found_in(bank, recipe, self.held_cache)

    def source(self, recipe: Recipe, run: Path, device: str) -> Source:
        """What the training reads."""
        near, held_near = self.neighbours(recipe, run, device)
        held = {"": HeldOut(self.held_cache, self.held, held_near, recipe.documents)}
        queries = Queries(self.cache, near, range(self.trained))
        return pair_source(recipe, queries, held, self.about(recipe))


def check_tokenizers(vq: VQ, home: Path) -> None:
    """Raise UserError for an image tokenizer that cannot draw."""
    if not vq.config.decodes:
        raise UserError(f"{home / 'vq'} has no decoder: what is trained with it could not draw")


def open_cache(folder: Path, text: TextTokenizer, vq: VQ, home: Path) -> TokenCache:
    """The token cache in a folder; UserError unless its tokens are those of the tokenizers."""
    cache = TokenCache(folder)
    check_made_by(cache.about, folder, text, vq, home, "name its --tokenizers or encode it again")
    return cache


def check_made_by(
    about: dict, folder: Path, text: TextTokenizer, vq: VQ, home: Path, way_out: str
) -> None:
    """Raise UserError unless a cache, by what it says of itself, holds tokens of the tokenizers."""
    digests = {"text_sha256": text.digest, "vq_sha256": checkpoint.module_digest(vq)}
    for part, digest in digests.items():
        if about[part] != digest:
            raise UserError(
                f"{folder} was encoded with {part} {about[part][:12]}, {home} has "
                f"{digest[:12]}; {way_out}"
            )


def last_of(cache: Sized, count: int | None) -> range:
    """The last `count` documents of a cache (None: a sixteenth, at most 256), not all of them."""
    size = len(cache)
    count = min(HELD_OUT, max(1, size // 16)) if count is None else count
    if count >= size:
        raise UserError(f"hold_out must leave some of {size} documents to train on, got {count}")
    return range(size - count, size)


def first_of(held: TokenCache, count: int | None, cache: TokenCache) -> range:
    """The first `count` documents (None: 256) of another cache than the one that is trained on."""
    if held.about["source"] == cache.about["source"]:
        raise UserError(f"{held.folder} holds what is trained on; leave --held-out out")
    if held.about["clip_sha256"] != cache.about["clip_sha256"]:
        raise UserError(f"{held.folder} and {cache.folder} are of two CLIPs; encode one again")
    return range(min(len(held), count or HELD_OUT))


def pretrain(
    recipe: Recipe,
    corpus: Corpus,
    out: Path,
    device: str,
    start: Path | None = None,
    ranks: Alone = ALONE,
) -> dict:
    """Train, or go on where `out` was left, and write the model; what `fit` returns.

    `start` is the state that a branch begins from (`schedule.decay_from`); `ranks` are the
    processes that train (`parallel.together`), of which this is one. Raises UserError as `fit`, and
    when `out` holds other tokenizers.
    """
    run, draws = out / RUN, seeds.torch_generator(recipe.train.seed, "init")
    with ranks.in_turn():
        place_tokenizers(corpus.home, out)
        source = corpus.source(recipe, run, device)
    model = ranks.transformer(recipe.model, recipe.train, device, draws)
    model.recompute = recipe.recompute
    done = fit(model, source, recipe.train, run, start=start, ranks=ranks)
    extra = source.about | {"skipped": len(corpus.cache.skipped)} | corpus.drawing(recipe)
    write_model(model, recipe.train, out, done, extra, ranks)
    return done


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
