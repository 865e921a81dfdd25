"""Tune a model of the embedded world on its tasks (section 4): the generalist, or one task alone.

    python -m baselines.tune_tasks --model scenes-s                  # writes scenes-s-tuned
    python -m baselines.tune_tasks --model scenes-xs --only edit     # a specialist: scenes-xs-edit

The rows of all tasks stand in `PARTS` by their shares; `draw`, pretraining's own pairs, is among
them so that text-to-image is kept, half of it behind retrieved documents where the model was
trained with such. A specialist reads of its task as many rows as the generalist. Tasks are about
scenes of `stock`, `train`, behind those of pretraining; `stock`, `val` gives the held-out loss. A
killed training goes on with the same command. Cost of the generalist at 4,000 tokens a second, one
core: `scenes-s` 144,000 rows, 17M tokens, 75 minutes; its caches some 8 minutes before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from cm3leon import seeds
from cm3leon.config import RowsConfig, TrainConfig
from cm3leon.data.record_cache import RecordCache, encode_records
from cm3leon.data.records import Encoded, EncodedRecord
from cm3leon.data.sources import Scenes
from cm3leon.data.token_cache import encode
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.loading import find_model, load_system
from cm3leon.options import Count, Positive, Range, Share, Whole
from cm3leon.retrieval.retriever import Retriever
from cm3leon.sequence.documents import Document, Text
from cm3leon.tasks import TASKS
from cm3leon.tasks.source import find_records
from cm3leon.training.tuning import Base, DataSet, Pairs, Records, TuneRecipe, left_out, tune

FIRST = 1_000_000  # scene of `stock`, `train` with which the tasks begin; the next has its own
EACH = 50_000  # scenes kept free for each
HELD = 24  # scenes of `val` a task, one record of each
FOUND = 256  # captions whose documents are looked for at once
DRAW, DOCUMENTED = "draw", "draw-documents"
TUNED = "tuned"


class Part(NamedTuple):
    """A task's part of the rows, and how many scenes its records are about."""

    share: float
    scenes: int


# A picture that is drawn anew costs the most tokens, an answer of one word the fewest rows alone
# would teach: so shares are of rows, and questions have more of them than their tokens say.
PARTS = {
    DRAW: Part(0.08, 4_000),
    DOCUMENTED: Part(0.08, 2_400),
    "edit": Part(0.20, 4_800),
    "segmentation": Part(0.07, 11_000),
    "edges": Part(0.05, 8_000),
    "depth": Part(0.04, 6_500),
    "scribble": Part(0.04, 6_500),
    "grounded": Part(0.10, 16_000),
    "write": Part(0.05, 8_000),
    "caption": Part(0.07, 4_000),
    "caption-long": Part(0.06, 10_000),
    "answer": Part(0.10, 4_000),
    "answer-choice": Part(0.03, 2_000),
    "answer-explained": Part(0.03, 4_000),
}
ROWS = {"scenes-xs": 72_000, "scenes-s": 144_000, "scenes-m": 288_000}
RATES = {"scenes-xs": 3e-3, "scenes-s": 1.5e-3, "scenes-m": 6e-4}  # of pretraining about 0.75
BATCH = 48
LOSS = RowsConfig(loss="target")


@dataclass(frozen=True)
class Options:
    """What to tune, on what, and where."""

    model: str = "scenes-s"
    """name of a folder in --out, or of a shipped model, which is tuned"""
    only: tuple[str, ...] = ()
    """tasks of a specialist; left out: all, and text-to-image"""
    out: Path | None = None
    """folder with the model, its tokenizers, clip/ and bank/, where the tuned one is written
    too; left out: the shipped ones"""
    runs: Path = Path(".runs")
    """caches and states"""
    rows: Count | None = None
    """of the generalist, in all; left out: by size, 144,000 of scenes-s"""
    rate: Positive | None = None
    """peak learning rate; left out: by size, 1.5e-3 of scenes-s"""
    balance: Share = 0.0
    """how much a row's loss counts alike whatever its length: 0 each token, 1 each row"""
    seed: Whole = 0
    """of order and rows; above 0 it stands in the name"""
    threads: Annotated[int, Range(0, 1024)] = 0
    """of the processor; 0: all"""
    device: str = "cpu"
    """cpu or cuda"""


class Retrieved(Pairs):
    """As `Pairs`, with the documents that a retriever finds before each caption.

    Their texts and pictures are segments of the prompt, in the order in which a model is drawn
    from (`pipeline.System.draw_with`).
    """

    def __init__(self, folder: Path, retriever: Retriever, texts: Sequence[str]):
        super().__init__(folder)
        self.retriever = retriever
        found = [retriever.rows(texts[at : at + FOUND]) for at in range(0, len(texts), FOUND)]
        self.rows_NS = np.concatenate(found)
        self.about = self.about | {"documents": retriever.about}

    def __getitem__(self, index: int) -> EncodedRecord:
        task, segments = super().__getitem__(index)
        before = [
            encoded(one)
            for document in self.retriever.take(self.rows_NS[index])
            for one in document.segments
        ]
        return EncodedRecord(task, (*before, *segments))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        documents = range(self.rows_NS.max(initial=0) + 1) if self.rows_NS.size else ()
        lengths = [length(self.retriever.documents.document(row)) for row in documents]
        return super().longest + self.rows_NS.shape[1] * max(lengths, default=0)


def encoded(segment) -> Encoded:
    """A segment of a document as a part of a record's prompt."""
    text = isinstance(segment, Text)
    ids = np.asarray(segment.ids if text else segment.codes, np.int32)
    return Encoded("text" if text else "image", "prompt", ids)


def length(document: Document) -> int:
    """Tokens of a document in a row."""
    return sum(len(encoded(one).ids) + 1 for one in document.segments)


@dataclass(frozen=True)
class Shop:
    """The model to tune, and the data of its tasks."""

    base: Base
    runs: Path

    @cached_property
    def retriever(self) -> Retriever | None:
        """What finds its documents; None for a model without retrieval."""
        return load_system(self.base.folder).retriever

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks of the generalist."""
        retrieves = "retrieval" in self.base.extra
        return tuple(name for name in PARTS if name != DOCUMENTED or retrieves)

    def records(self, tasks: Sequence[str], rows: int, seed: int) -> Records:
        """Of each task its share of so many rows of the generalist, drawn from its records."""
        return Records(
            self.base,
            [self.data_set(task, self.count(task, rows), seed) for task in tasks],
            [self.held_out(task) for task in tasks],
        )

    def count(self, task: str, rows: int) -> int:
        """Rows of a task; without retrieval those behind documents are drawn without."""
        share = PARTS[task].share
        if task == DRAW and DOCUMENTED not in self.tasks:
            share += PARTS[DOCUMENTED].share
        return max(1, round(share * rows))

    def data_set(self, task: str, count: int, seed: int) -> DataSet:
        """`count` records of a task, of which some come again where there are fewer."""
        cache = self.cache(task, "train", FIRST + EACH * list(PARTS).index(task))
        fits = self.fitting(cache)
        order = seeds.generator(seed, "records", task)
        whole = [order.permutation(fits) for _ in range(-(-count // len(fits)))]
        return DataSet(cache, np.concatenate(whole)[:count], fits[:0])

    def held_out(self, task: str) -> DataSet:
        """One record of each of the first scenes of `val`."""
        cache = self.cache(task, "val", 0, HELD)
        fits = self.fitting(cache)
        return DataSet(cache, fits[:0], fits[:: max(1, len(fits) // HELD)][:HELD])

    def fitting(self, cache: RecordCache | Pairs) -> np.ndarray:
        """Numbers of the records that have room in the model; UserError where none has."""
        lost = left_out(cache, self.base)
        if len(lost) == len(cache):
            raise UserError(f"no record of {cache.folder} fits {self.base.folder.name}")
        return np.setdiff1d(np.arange(len(cache)), list(lost))

    def cache(
        self, task: str, split: str, first: int, scenes: int | None = None
    ) -> RecordCache | Pairs:
        """The records of a task, encoded where they are not yet."""
        count = scenes or PARTS[task].scenes
        text, vq, size = self.base.text, self.base.vq, self.base.vq.config.resolution
        folder = self.runs / f"{task}-{split}-{first}-{count}-{self.base.text.digest[:8]}"
        if task not in (DRAW, DOCUMENTED):
            address = f"scenes:stock/{split}:{first}:{count}"
            source = find_records(address, task, TASKS, size, "table")
            return encode_records(source, vq, text, folder)
        encode(Scenes("stock", split, first, count, size), vq, text, folder)
        pairs = Pairs(folder)
        if task == DRAW:
            return pairs
        records = (pairs[at] for at in range(len(pairs)))
        texts = [text.decode(one.segments[0].ids.tolist()) for one in records]
        return Retrieved(folder, self.retriever, texts)


def recipe_of(size: str, rows: int, rate: float | None = None, seed: int = 0) -> TuneRecipe:
    """How so many rows are read once: warm-up, stable, decay over the last third. A data set's rows
    are chosen already, so that the mixture leaves them as they are.
    """
    if size not in ROWS:
        raise UserError(f"no recipe for a model {size!r}; there is one for {', '.join(ROWS)}")
    steps = max(1, rows // BATCH)
    train = TrainConfig(
        steps=steps,
        batch=BATCH,
        rate=rate or RATES[size],
        optimizer="muon",
        matrix_ratio=3.0,
        warmup=min(100, steps // 10),
        schedule="wsd",
        decay=steps // 3,
        final=0.0,
        seed=seed,
        save_every=100,
        eval_every=500,
        log_every=50,
    )
    return TuneRecipe(train, LOSS, least=1.0, most=1.0)


def name_of(model: str, only: Sequence[str], seed: int) -> str:
    """Of the tuned model's folder."""
    return "-".join([model, *(only or [TUNED]), *([f"seed{seed}"] if seed else [])])


def main(options: Options) -> int:
    """Encode what is missing, tune or go on, write; the exit code."""
    import torch

    if strange := [task for task in options.only if task not in PARTS]:
        raise UserError(f"no task {strange[0]!r} to tune on; there are {', '.join(PARTS)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    home = options.out or baselines_folder() / "scenes"
    folder = home / options.model
    base = Base.open(str(folder) if folder.is_dir() else str(find_model(options.model)))
    shop = Shop(base, options.runs / "tasks")
    tasks = options.only or shop.tasks
    if strange := [task for task in tasks if task not in shop.tasks]:
        raise UserError(f"{options.model} was trained without retrieval; leave {strange[0]} out")
    size = base.config.name
    records = shop.records(tasks, options.rows or ROWS.get(size, BATCH), options.seed)
    rows = sum(len(one.trained) for one in records.sets)
    recipe = recipe_of(size, rows, options.rate, options.seed)
    recipe = replace(recipe, rows=replace(recipe.rows, balance=options.balance))
    name = name_of(options.model, options.only, options.seed)
    tokens = rows * records.row_tokens(recipe, records.mixture(recipe))
    told = f"{rows:,} rows, {recipe.train.steps:,} steps, about {tokens / 1e6:.2g}M tokens"
    print(f"{home / name}: {told} of {', '.join(tasks)}", file=sys.stderr)
    done = tune(recipe, records, home / name, options.device, options.runs / f"tasks-{name}")
    print(f"{home / name}: {done['step']} steps, loss {done['loss']:.4f}")
    return 0


if __name__ == "__main__":
    from cm3leon.cli.main import guarded, parse

    sys.exit(guarded(lambda: main(parse(Options, None, "python -m baselines.tune_tasks"))))
