"""Small trainings in several processes, for the tests: forked, as a start of torch for each rank
would cost seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor

from cm3leon import seeds
from cm3leon.cli.main import guarded
from cm3leon.config import ModelConfig, TrainConfig, VocabularyConfig
from cm3leon.retrieval.neighbours import Neighbours
from cm3leon.sequence.documents import Document, Vocabulary
from cm3leon.training import parallel, ranks, trainer
from cm3leon.training.pairs import Queries, pair_batches
from cm3leon.training.recipe import ObjectiveConfig
from cm3leon.training.trainer import Source

DOCUMENTS, CODES = 24, 9
# 61 ids: 2, 3 and 4 ranks hold unequal parts of the tied table.
MODEL = ModelConfig(
    "tiny", layers=2, width=24, heads=2, context=64, init_std=0.05, position_std=0.05,
    vocabulary=VocabularyConfig(37, 16, 4, 1),
)  # fmt: skip
TRAIN = TrainConfig(
    steps=4, batch=7, rate=3e-3, warmup=2, clip=0.5, precision="float32", save_every=2,
    eval_every=100, log_every=1,
)  # fmt: skip


class Pages:
    """A cache of made-up documents, which tells what was read of it."""

    captions = 2

    def __init__(self, told: Path | None = None):
        self.told, self.step = told, 0

    def __len__(self) -> int:
        return DOCUMENTS

    def _document(self, index: int, caption: int, real: bool) -> Document:
        draws = seeds.generator(0, "page", index, caption)
        text = draws.integers(0, 37, draws.integers(0, 7)) * real
        return Document.pair(text, draws.integers(0, 16, CODES) * real)

    def document(self, index: int, caption: int = 0) -> Document:
        if self.told is not None:
            with open(self.told, "a") as file:
                file.write(json.dumps([self.step, index, caption]) + "\n")
        return self._document(index, caption, True)

    def outline(self, index: int, caption: int = 0) -> Document:
        return self._document(index, caption, False)


def source(model: ModelConfig, train: TrainConfig, told: Path | None, event) -> Source:
    """Rows behind 0, 1 or 2 documents; `event(step)` comes before a step's."""
    vocabulary, pages = Vocabulary.from_config(model.vocabulary), Pages(told)
    found = np.array([[(at + k + 1) % DOCUMENTS for k in range(3)] for at in range(DOCUMENTS)])
    near = Neighbours(found, Pages(), (0.3, 0.4, 0.3))
    queries = Queries(pages, near)
    batches = pair_batches(queries, vocabulary, ObjectiveConfig(), train.batch, train.seed, model)

    def rows(step: int, part: slice = slice(None)) -> dict:
        event(step)
        pages.step = step
        return batches(step, part)

    def held_out(module) -> dict:
        ids_BT = torch.arange(40).view(2, 20) % 37
        with torch.no_grad():
            return {"loss": float(module.loss_per_token(ids_BT).mean())}

    return Source(rows, [("", held_out)], {"data": "made up"})


@dataclass(frozen=True)
class Case:
    """A training, and what happens to it."""

    folder: Path
    train: TrainConfig = TRAIN
    model: ModelConfig = MODEL
    accumulate: int = 1
    recompute: bool = False
    replicas: int | None = None
    dies: tuple[int, str, int] | None = None  # rank, where ("rows", "save", "named"), step
    poisoned: tuple[int, int] | None = None  # rank and step whose loss is not a number
    about: dict = field(default_factory=dict)  # rank -> what it takes the data to be
    export: bool = False
    shard_bytes: int | None = None

    def log(self) -> list[dict]:
        """A record a step."""
        text = (self.folder / "run" / "log.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def losses(self) -> list[float]:
        """Of every step."""
        return [record["loss"] for record in self.log()]

    def samples(self) -> dict[int, list]:
        """Step -> documents and captions read for it as queries, sorted."""
        found: dict[int, list] = {}
        for path in self.folder.glob("read-*"):
            for line in path.read_text().splitlines():
                step, *rest = json.loads(line)
                found.setdefault(step, []).append(rest)
        return {step: sorted(rows) for step, rows in sorted(found.items())}


def kill() -> None:
    """End this process as the machine would."""
    os.kill(os.getpid(), signal.SIGKILL)


def trained(case: Case, team: parallel.Alone) -> int:
    """The work of one rank."""

    def event(step: int) -> None:
        if case.dies == (team.rank, "rows", step):
            kill()

    if case.shard_bytes:
        parallel.checkpoint.SHARD_BYTES = case.shard_bytes
    if case.dies is not None and case.dies[1] in ("save", "named") and case.dies[0] == team.rank:
        deadly(case)
    told = case.folder / f"read-{team.size}-{team.rank}-{os.getpid()}"
    case.folder.mkdir(parents=True, exist_ok=True)
    read = source(case.model, case.train, told, event)
    mine = case.about.get(team.rank, {})
    read = replace(read, about=read.about | mine, accumulate=case.accumulate)
    if case.poisoned and case.poisoned[0] == team.rank:
        read = replace(read, rows=poisoned(read.rows, case.poisoned[1]))
    draws = seeds.torch_generator(1, "init")
    model = team.transformer(case.model, case.train, "cpu", draws)
    model.recompute = case.recompute
    run = case.folder / "run"
    done = trainer.fit(model, read, case.train, run, ranks=team)
    if case.export:
        trainer.write_model(model, case.train, case.folder / "model", done, {}, team)
    return 0


def deadly(case: Case) -> None:
    """Die in a save: with half of a state written, or when it is whole but not named."""
    _, where, step = case.dies
    name, write = f"state-{step:08d}", parallel.write
    if where == "save":

        def half(folder, tensors, told):
            if folder.name.startswith(name):
                (folder / f"shard-{case.dies[0] + 1:05d}-x").write_bytes(b"half")
                kill()
            write(folder, tensors, told)

        parallel.write = half
        return
    finish = parallel.checkpoint.finish_state

    def never(folder, about, keep):
        if about["tensors"] == name:
            kill()
        finish(folder, about, keep)

    parallel.checkpoint.finish_state = never


def poisoned(rows: Callable, step: int) -> Callable:
    """Rows with a weight that is not a number."""

    def bad(at: int, part: slice = slice(None)) -> dict:
        batch = rows(at, part)
        if at == step:
            batch["weights_BT"][0, 2] = float("nan")
        return batch

    return bad


def rank_process(rank: int, size: int, port: int, said: Path, work: Callable) -> None:
    """The life of a rank: `work()` -> exit code, with torchrun's variables."""
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (os.fdopen(one, "w", closefd=False) for one in (1, 2))
    torch.set_num_threads(1)
    if size > 1:
        named = dict(zip(ranks.NEEDED, (rank, size, "127.0.0.1", port), strict=True))
        os.environ.update({name: str(value) for name, value in named.items()})
        os.environ["TORCHELASTIC_RUN_ID"] = "as by torchrun"
    code = 99
    try:
        code = guarded(work)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


@dataclass(frozen=True)
class Training:
    """`trained` as something that a new process can be given."""

    case: Case

    def __call__(self) -> int:
        return parallel.together("cpu", self.case.replicas, lambda team: trained(self.case, team))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def forking() -> multiprocessing.context.BaseContext:
    """Starts processes that import nothing again. Threads do not outlive a fork: a process that may
    have some starts one that has none, which forks.
    """
    threaded = os.environ.get("OMP_NUM_THREADS") != "1" or torch.cuda.is_available()
    context = multiprocessing.get_context("forkserver" if threaded else "fork")
    if threaded:
        context.set_forkserver_preload([__name__])
        os.environ["OMP_NUM_THREADS"] = "1"
    return context


def start(size: int, case: Case, patience_s: float = 150) -> list[tuple[int, str]]:
    """Train in so many processes: [(exit code or -signal, what it said)]."""
    return start_work(size, Training(case), case.folder, patience_s)


def start_work(size: int, work: Callable, folder: Path, patience_s: float = 150) -> list:
    """Run `work()` in so many processes of a job; as `start`."""
    folder.mkdir(parents=True, exist_ok=True)
    context, port = forking(), free_port()
    said = [folder / f"said-{rank}.txt" for rank in range(size)]
    children = [
        context.Process(target=rank_process, args=(rank, size, port, said[rank], work))
        for rank in range(size)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads
        for child in children:
            child.start()
    end = time.monotonic() + patience_s
    for child in children:
        child.join(max(0.1, end - time.monotonic()))
    hung = [rank for rank, child in enumerate(children) if child.is_alive()]
    for child in children:
        child.kill()
        child.join()
    texts = [path.read_text() if path.exists() else "" for path in said]
    assert not hung, f"ranks {hung} hung: {texts}"
    return [(child.exitcode, text) for child, text in zip(children, texts, strict=True)]
