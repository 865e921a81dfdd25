"""Instruction tuning: records of tasks, mixed, on the weights of a trained model (section 4).

The folder is as that of a pretraining, with the tokenizers, the way of retrieval and the settings
of drawing of the model that it begins with.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cm3leon import checkpoint, loading, seeds
from cm3leon.config import ModelConfig, PaperRecipe, RowsConfig, TrainConfig, from_dict, to_dict
from cm3leon.data import token_cache
from cm3leon.data.mixture import LEAST, MOST, Mixture
from cm3leon.data.record_cache import RecordCache
from cm3leon.data.records import Encoded, EncodedRecord
from cm3leon.data.shards import ABOUT
from cm3leon.data.token_cache import TokenCache
from cm3leon.errors import UserError
from cm3leon.files import new_folder
from cm3leon.identity import unseal
from cm3leon.sequence.documents import Vocabulary
from cm3leon.tasks.rows import row_of, too_long
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.training.batches import collate, rows_at_once
from cm3leon.training.parallel import ALONE, Alone
from cm3leon.training.pretraining import HELD_OUT, RUN, check_made_by, last_of
from cm3leon.training.trainer import Source, begin_with, fit, place_tokenizers, write_model

# Tables 3 and 4, E.1: 2M tokens a step, 30B in all, for both sizes.
PAPER = PaperRecipe(rate=5e-5, tokens=30e9, batch_tokens=2e6, warmup=150)
ROWS, PASSES = 32, 2  # a step, and over the mixture, of models that are not the paper's
KEPT = ("retrieval", "clip", "bank", "decode", "text_sha256", "vq_sha256", "clip_sha256")
BESIDE = ("clip", "bank")  # folders beside a shipped model that was trained with documents
SAMPLED = 256  # records of a data set from which the mean length of its rows is taken


@dataclass(frozen=True)
class TuneRecipe:
    """Everything that decides the weights, given model and data. `recompute` moves memory alone."""

    train: TrainConfig
    rows: RowsConfig = field(default_factory=RowsConfig)
    target: float | None = None  # T of the mixture
    least: float = LEAST
    most: float = MOST
    accumulate: int = 1
    recompute: bool = False


@dataclass(frozen=True)
class Base:
    """The model that a tuning begins with."""

    folder: Path
    config: ModelConfig
    extra: dict
    text: TextTokenizer
    vq: VQ

    @classmethod
    def open(cls, name: str) -> Base:
        """A shipped model by name, or a folder; UserError as `loading.find_model`, and for
        tokenizers that are not the model's.
        """
        folder = loading.find_model(name)
        about = checkpoint.read_about(folder)
        if about["kind"] != "transformer":
            raise UserError(f"{folder} holds a {about['kind']!r}; name a transformer to tune")
        config, home = from_dict(ModelConfig, about["config"]), loading.home_of(folder)
        text, vq = loading.load_tokenizers(home)
        beside = loading.Beside(home, text, vq.config, checkpoint.digest(home / "vq"))
        loading.check_fit(folder, config, about["extra"], beside)
        return cls(folder, config, about["extra"], text, vq)

    @property
    def home(self) -> Path:
        """Of the tokenizers."""
        return loading.home_of(self.folder)

    @cached_property
    def sha256(self) -> str:
        """Names its weights."""
        return checkpoint.digest(self.folder)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The id space."""
        return Vocabulary.from_config(self.config.vocabulary)

    def place_beside(self, out: Path) -> None:
        """Tokenizers, CLIP and bank in the folder of the tuned model, unless they lie beside it."""
        if out.resolve().parent == self.home.resolve():
            return
        place_tokenizers(self.home, out)
        if "retrieval" not in self.extra or "bank" in self.extra:
            return  # a model of `cm3leon train` names where they lie
        for name in BESIDE:
            if not (out / name).exists():
                with new_folder(out / name) as folder:
                    shutil.copytree(self.home / name, folder, dirs_exist_ok=True)


@dataclass(frozen=True)
class DataSet:
    """The records of a cache: those learned from and those held out; `reason` is why the first of
    those left out does not fit the model.
    """

    cache: RecordCache | Pairs
    trained: np.ndarray  # int64, their numbers in the cache
    held: np.ndarray
    reason: str = ""

    @property
    def left_out(self) -> int:
        """Records that do not fit."""
        return len(self.cache) - len(self.trained) - len(self.held)


@dataclass(frozen=True)
class Records:
    """What a tuning reads: its data sets, others of which some records are held out instead of
    these', and the model.
    """

    base: Base
    sets: Sequence[DataSet]
    held: Sequence[DataSet] = ()

    def mixture(self, recipe: TuneRecipe) -> Mixture:
        """The order in which the data sets are read."""
        thresholds = {"target": recipe.target, "least": recipe.least, "most": recipe.most}
        return Mixture([len(one.trained) for one in self.sets], recipe.train.seed, **thresholds)

    def row_tokens(self, recipe: TuneRecipe, mixture: Mixture) -> float:
        """Tokens of a row, on average over the mixture, from some records of each data set."""
        means = [self._mean_row(one, recipe.rows) for one in self.sets]
        return float(np.average(means, weights=mixture.counts))

    def _mean_row(self, one: DataSet, config: RowsConfig) -> float:
        some = one.trained[:: max(1, len(one.trained) // SAMPLED)]
        draws = seeds.generator(0, "row lengths")
        rows = [row_of(one.cache[int(at)], self.base.vocabulary, config, draws) for at in some]
        return float(np.mean([len(ids) for ids, _, _ in rows]))

    def held_records(self) -> list[EncodedRecord]:
        """All that losses are measured on."""
        return [one.cache[int(at)] for one in (*self.sets, *self.held) for at in one.held]

    def source(self, recipe: TuneRecipe) -> Source:
        """What the training reads: row i of step s is the record at place (s - 1) batch + i of the
        mixture, its row drawn from that place.
        """
        mixture, vocabulary, seed = self.mixture(recipe), self.base.vocabulary, recipe.train.seed

        def row(place: int):
            data_set, at = mixture.at(place)
            one = self.sets[data_set]
            draws = seeds.generator(seed, "row", place)
            return row_of(one.cache[int(one.trained[at])], vocabulary, recipe.rows, draws)

        def batch(step: int, part: slice = slice(None)) -> dict:
            first, counts = (step - 1) * recipe.train.batch, Counter()
            rows = [row(place) for place in range(first, first + recipe.train.batch)[part]]
            for _, _, own in rows:
                counts.update(own)
            pairs = [(ids, weights) for ids, weights, _ in rows]
            return collate(pairs, dict(counts), vocabulary, self.base.config)

        held = task_losses(self.held_records(), vocabulary, self.base.config)
        return Source(batch, [("", held)], self.about(recipe), recipe.accumulate)

    def about(self, recipe: TuneRecipe) -> dict:
        """What names the data and how rows are made of it."""
        return {
            "start_sha256": self.base.sha256,
            "rows": to_dict(recipe.rows),
            "mixture": {name: getattr(recipe, name) for name in ("target", "least", "most")},
            "accumulate": recipe.accumulate,
            "caches": [one.cache.about for one in self.sets],
            "trained": [len(one.trained) for one in self.sets],
            "held_out": [len(one.held) for one in (*self.sets, *self.held)],
            "held_out_caches": [one.cache.about for one in self.held],
        }


class Pairs:
    """A token cache as records of a task, "draw": a caption asks and its picture answers. Record i
    is caption i mod c of document i div c, where documents have up to c captions.
    """

    def __init__(self, folder: Path):
        self.cache = TokenCache(folder)
        self.folder, self.about, self.skipped = folder, self.cache.about, self.cache.skipped
        self.tasks = {"draw": len(self)}

    def __len__(self) -> int:
        return len(self.cache) * self.cache.captions

    def __getitem__(self, index: int) -> EncodedRecord:
        at, caption = divmod(index, self.cache.captions)
        text = Encoded("text", "prompt", self.cache.text(at, caption))
        return EncodedRecord("draw", (text, Encoded("image", "target", self.cache.codes(at))))

    @property
    def longest(self) -> int:
        """Tokens of the longest caption with its picture."""
        texts = [np.diff(shard["offsets"]).max(initial=0) for shard in self.cache.shards]
        return int(max(texts)) + len(self.cache.codes(0))


def open_records(folder: Path, base: Base) -> RecordCache | Pairs:
    """The records in a folder, of `cm3leon encode` with a task or without; UserError unless they
    were made with the model's tokenizers.
    """
    about = unseal(folder / ABOUT, "name what `cm3leon encode` made")
    cache = Pairs(folder) if about.get("format") == token_cache.FORMAT else RecordCache(folder)
    way_out = f"encode it again with --tokenizers {base.home}"
    check_made_by(cache.about, folder, base.text, base.vq, base.home, way_out)
    if not len(cache):
        raise UserError(f"{folder} holds no records; encode a source with some")
    return cache


def find_set(folder: Path, base: Base, hold_out: int | None) -> DataSet:
    """The records of a cache that fit the model; the last `hold_out` of them are held out (None: a
    sixteenth, at most 256). Raises UserError as `open_records`, and where no record fits.
    """
    cache, fits, reason = fitting(folder, base)
    start = last_of(fits, hold_out).start if hold_out != 0 else len(fits)
    return DataSet(cache, fits[:start], fits[start:], reason)


def find_held(folder: Path, base: Base, count: int | None) -> DataSet:
    """A cache whose first `count` records that fit (None: 256) are held out, and no others read.
    Raises UserError as `find_set`.
    """
    cache, fits, reason = fitting(folder, base)
    count = HELD_OUT if count is None else count
    return DataSet(cache, fits[count:], fits[:count], reason)


def fitting(folder: Path, base: Base) -> tuple[RecordCache | Pairs, np.ndarray, str]:
    """A record cache, the numbers of its records that fit, and why the first other does not."""
    cache = open_records(folder, base)
    reasons = left_out(cache, base)
    fits = np.setdiff1d(np.arange(len(cache)), list(reasons))
    reason = next(iter(reasons.values()), "")
    if not len(fits):
        raise UserError(
            f"no record of {folder} fits {base.folder.name}: {reason}; tune a model of a longer "
            "context"
        )
    return cache, fits, reason


def left_out(cache: RecordCache | Pairs, base: Base) -> dict[int, str]:
    """The records that have no room in the model, by their numbers, and why."""
    suspects = range(len(cache))
    if base.config.positions == "row":
        suspects = np.flatnonzero(longest_rows(cache) > base.config.context).tolist()
    reasons = {at: too_long(cache[at], base.config, base.vocabulary) for at in suspects}
    return {at: reason for at, reason in reasons.items() if reason}


def longest_rows(cache: RecordCache | Pairs) -> np.ndarray:
    """Tokens that each record's row has at most, int64 [N]: fewer than five more a segment."""
    if isinstance(cache, Pairs):
        return np.full(len(cache), cache.longest + 10)
    segments = np.concatenate([np.diff(shard["segments"]) for shard in cache.shards])
    return cache.lengths + 5 * segments


def task_losses(
    records: Sequence[EncodedRecord], vocabulary: Vocabulary, model: ModelConfig
) -> Callable[[nn.Module], dict]:
    """Held-out losses: nats per token of the answers, nothing of the prompt left out; "loss" over
    all and `<task>` over those of each task.
    """
    config = RowsConfig(loss="target", drop_text=0, drop_image=0, drop_both=0)
    draws = seeds.generator(0, "held out")  # nothing is left to draw
    rows = [row_of(record, vocabulary, config, draws)[:2] for record in records]
    tasks = [record.task for record in records]

    def evaluate(module: nn.Module) -> dict:
        device, sums = next(module.parameters()).device, defaultdict(lambda: np.zeros(2))
        size = rows_at_once(rows)
        for start in range(0, len(rows), size):
            batch = collate(rows[start : start + size], {}, vocabulary, model)
            ids_BT, weights_BT, positions_BT = (
                batch[name].to(device) for name in ("ids_BT", "weights_BT", "positions_BT")
            )
            with torch.no_grad():
                losses = module.loss_per_token(ids_BT, weights_BT, positions_BT)
            weights = weights_BT[:, 1:]
            found_B2 = torch.stack([(losses * weights).sum(1), weights.sum(1)], 1).cpu().numpy()
            for task, found in zip(tasks[start : start + size], found_B2, strict=True):
                sums[task] += found
        whole = {"loss": np.sum(list(sums.values()), 0)} | dict(sorted(sums.items()))
        return {name: float(total / max(1, count)) for name, (total, count) in whole.items()}

    return evaluate if rows else lambda module: {}


def tune(
    recipe: TuneRecipe,
    records: Records,
    out: Path,
    device: str,
    run: Path | None = None,
    ranks: Alone = ALONE,
) -> dict:
    """Train, or go on where the folder `run` (left out: one in `out`) was left, and write the
    model; what `fit` returns.

    `ranks` are the processes that train (`parallel.together`), of which this is one. Raises
    UserError as `fit`, and when `out` holds other tokenizers.
    """
    run = run or out / RUN
    base = records.base
    with ranks.in_turn():
        base.place_beside(out)
    model = ranks.transformer(base.config, recipe.train, device, drawn=False)
    begin_with(model, base.folder, ranks)
    model.recompute = recipe.recompute
    source = records.source(recipe)
    done = fit(model, source, recipe.train, run, ranks=ranks)
    tasks = Counter()
    for one in records.sets:
        tasks.update(one.cache.tasks)
    extra = {name: base.extra[name] for name in KEPT if name in base.extra}
    extra |= source.about | {"start": base.folder.name, "tasks": dict(tasks)}
    write_model(model, recipe.train, out, done, extra, ranks)
    return done
