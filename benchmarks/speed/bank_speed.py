"""The memory bank at size: seconds and memory to build, save, load and ask it.

    nox -s bank_speed                         a million vectors of 512, with an inverted file
    nox -s bank_speed -- --documents 20000 --width 128 --exact 1000000

Cost: about four minutes on 2 cores and 5 GiB at the default. The vectors are directions around
random centres, in which an inverted file has something to find; queries are documents of the bank
with noise. Printed, not recorded: the numbers are the machine's.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cm3leon.cli.main import guarded, parse
from cm3leon.errors import UserError
from cm3leon.options import Batch, Count, Whole

PIECE = 2**16  # vectors made at once
CENTRES = 2000


@dataclass
class Options:
    """Time a memory bank."""

    documents: Count = 1_000_000  # in the bank
    width: Batch = 512  # numbers in a vector
    queries: Count = 1000  # asked, 10 documents each
    strategy: Whole = 2000  # queries through the whole strategy, by text and by image
    exact: Whole = 500_000  # above this an inverted file is trained
    folder: Path | None = None  # where the bank is written; default: a temporary folder


def run(options: Options) -> int:
    """Measure and print; returns the exit code."""
    if min(options.documents, options.width, options.queries, options.strategy) < 1:
        raise UserError("documents, width, queries and strategy must be at least 1")
    import numpy as np

    from cm3leon.config import RetrievalConfig
    from cm3leon.retrieval.bank import MemoryBank, recall
    from cm3leon.retrieval.select import Query, select

    vectors = np.empty((options.documents, options.width), np.float32)
    with timed("make the vectors"):
        for start in range(0, options.documents, PIECE):
            directions(vectors[start : start + PIECE], start)
    with timed("build the bank"):
        ids = [f"d{row}" for row in range(options.documents)]
        bank = MemoryBank(vectors, ids, "0" * 64, {"kind": "random"})
    if options.documents > options.exact:
        with timed("train the inverted file and measure its recall"):
            bank.train_index()
        print(f"{'recall@10 against exact search':50} {bank.recall:.4f}")
    asked = near(vectors, options.queries)
    with timed("exact search, 1k queries", options.queries / 1000):
        _, truth = bank.search_exact(asked, 10)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        with timed("save"):
            bank.save(folder)
        del bank, vectors
        with timed("load, digests checked"):
            bank = MemoryBank.load(folder)
        with timed("search, 1k queries", options.queries / 1000):
            _, found = bank.search(asked, 10)
        print(f"{'recall@10 of these queries':50} {recall(found, truth):.4f}")
        texts = near(bank.vectors, options.strategy)
        query = Query(texts, near(bank.vectors, options.strategy), bank.ids[: options.strategy])
        started = time.perf_counter()
        select(query, bank, RetrievalConfig(documents=4))
        spent = time.perf_counter() - started
        print(f"{'strategy, two lists of two: queries a second':50} {options.strategy / spent:.0f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{'peak memory of this process, GiB':50} {peak:.2f}")
    return 0


@contextmanager
def timed(name: str, per: float = 1.0) -> Iterator[None]:
    """Print the seconds of a block, divided by `per`."""
    started = time.perf_counter()
    yield
    print(f"{name + ', seconds':50} {(time.perf_counter() - started) / per:.2f}", flush=True)


def directions(out_ND, start: int) -> None:
    """Fill rows with unit vectors around shared centres; `start` seeds this piece."""
    import numpy as np

    from cm3leon.seeds import generator

    width = out_ND.shape[1]
    centres = generator(0, "centres").standard_normal((CENTRES, width), np.float32)
    draws = generator(0, "piece", start)
    out_ND[:] = centres[draws.integers(0, CENTRES, len(out_ND))]
    out_ND += draws.standard_normal(out_ND.shape, np.float32)
    out_ND /= np.linalg.norm(out_ND, axis=1, keepdims=True)


def near(vectors_ND, count: int):
    """Unit vectors near the first `count` documents."""
    import numpy as np

    from cm3leon.seeds import generator

    rows = np.array(vectors_ND[:count])
    rows += 0.02 * generator(0, "near", count).standard_normal(rows.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(parse(Options, None, "python -m benchmarks.speed.bank_speed"))))
