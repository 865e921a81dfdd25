"""The memory bank at size: seconds, memory and recall, and what 340 million documents would take.

    nox -s bank_speed                                     10k, 100k and 1M vectors of 512, ivfpq
    nox -s bank_speed -- --documents 10000 --index ivf    another index (exact, ivf, ivfpq)

Cost: about ten minutes on 2 cores, 5 GB of disk at the default. A document is one of 2,000 centres
(standard normal), plus 64 directions common to all, each times a standard normal number, plus
noise of a tenth in every dimension, made a unit vector: clusters of a low dimension, as CLIP's are,
but made up, so recall is theirs. Queries are fresh draws of the same kind. Each size is made, then
searched, in a process of its own, whose peak of resident memory counts. 340M is extrapolated from
the largest size; the formulas are printed. Timings are the machine's.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.evaluation.measures import HIGHER, LOWER, NONE, Measure
from cm3leon.options import Batch, Count

PIECE = 2**16  # vectors made at once
CENTRES, DIRECTIONS, NOISE = 2000, 64, 0.1
RESULTS = 10  # documents a query
PAPER = 340_000_000  # documents of the paper's data
MEASURES = (
    Measure("learn_s", "learn the index", "s", LOWER),
    Measure("add_s", "vectors and index of all parts", "s", LOWER),
    Measure("finish_s", "merge, recall, write", "s", LOWER),
    Measure("load_s", "open, digests checked", "s", LOWER),
    Measure("query_ms", "search, a query", "ms", LOWER),
    Measure("exact_query_ms", "exact search, a query", "ms", LOWER),
    Measure("recall_at_10", "recall@10 against exact search", "share", HIGHER),
    Measure("lists", "lists", "", NONE),
    Measure("lists_searched", "lists searched", "", NONE),
    Measure("index_bytes", "index", "B", LOWER),
    Measure("make_bytes", "peak memory of making", "B", LOWER),
    Measure("search_bytes", "peak memory of searching", "B", LOWER),
    Measure("neighbours_h", "two lists of all documents, one process", "h", LOWER),
)


@dataclass(frozen=True)
class Options:
    """Seconds, memory and recall of memory banks."""

    documents: tuple[Count, ...] = (10_000, 100_000, 1_000_000)
    """sizes, in rising order"""
    width: Batch = 512
    """numbers in a vector"""
    index: Literal["exact", "ivf", "ivfpq"] = "ivfpq"
    """as of `cm3leon index`"""
    code_bytes: Count = 64
    """of ivfpq: bytes of a document's code, at most"""
    queries: Count = 1000
    """asked for 10 documents each"""
    folder: Path | None = None
    """where banks are written; left out: a temporary folder"""
    results: Path = core.RESULTS
    """where the record goes"""

    def __post_init__(self):
        if not self.documents or sorted(set(self.documents)) != list(self.documents):
            raise UserError(f"--documents must rise, got {list(self.documents)}")


class Made:
    """Stands for a token cache: vectors that are made when they are asked for."""

    folder = Path("made-up")

    def __init__(self, count: int, width: int):
        self.count, self.width = count, width
        self.about = {"clip_sha256": "0" * 64, "source": {"kind": "made up", "count": count}}

    def __len__(self) -> int:
        return self.count

    @property
    def ids(self) -> list[str]:
        """Names of all documents."""
        return [f"d{row}" for row in range(self.count)]

    def vectors(self, part: str, rows=None) -> np.ndarray:
        """Those of some documents in rising order, the same for text and image: float32 [N, D]."""
        rows = np.arange(self.count) if rows is None else np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.width), np.float32)
        for piece in np.unique(rows // PIECE):
            there = rows // PIECE == piece
            found[there] = drawn(PIECE, self.width, int(piece))[rows[there] % PIECE]
        return found


def drawn(count: int, width: int, *purpose) -> np.ndarray:
    """Unit vectors as this file's head says: float32 [count, width]."""
    from cm3leon.retrieval.bank import unit
    from cm3leon.seeds import generator

    common = generator(0, "centres", width)
    centres = common.standard_normal((CENTRES, width), np.float32)
    directions = common.standard_normal((DIRECTIONS, width), np.float32) / DIRECTIONS**0.5
    draws = generator(0, "vectors", *purpose)
    found = centres[draws.integers(0, CENTRES, count)]
    found += draws.standard_normal((count, DIRECTIONS), np.float32) @ directions
    found += NOISE * draws.standard_normal((count, width), np.float32)
    return unit(found)


def make(options: Options, count: int, folder: Path) -> dict:
    """Make a bank of one part after the other; seconds."""
    from cm3leon.retrieval.parts import PART, Parts

    bank = Parts(Made(count, options.width), folder, options.index, options.code_bytes)
    seconds = {}
    with Clock(seconds, "learn_s"):
        if options.index != "exact":
            bank.learn()
    with Clock(seconds, "add_s"):
        for number in range(-(-count // PART)):
            bank.part(number)()
    with Clock(seconds, "finish_s"):
        bank.finish()
    return seconds | {"make_bytes": peak()}


def search(options: Options, count: int, folder: Path) -> dict:
    """Open a bank and ask it."""
    from cm3leon.retrieval import index as indexes
    from cm3leon.retrieval.bank import INDEX, MemoryBank

    asked, found = drawn(options.queries, options.width, "queries"), {}
    with Clock(found, "load_s"):
        bank = MemoryBank.load(folder)
    with Clock(found, "query_ms", 1000 / len(asked)):
        _, rows = bank.search(asked, RESULTS)
    found["search_bytes"] = peak()
    with Clock(found, "exact_query_ms", 1000 / len(asked)):
        _, truth = indexes.exact(bank.vectors, asked, RESULTS)
    found["recall_at_10"] = indexes.recall(rows, truth)
    if bank.index is not None:
        found |= {"lists": bank.index.nlist, "lists_searched": bank.index.nprobe}
        found["index_bytes"] = (folder / INDEX).stat().st_size
    return found


def peak() -> int:
    """Bytes that this process had resident at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Clock:
    """A `with` block whose seconds, times a factor, become a number."""

    def __init__(self, numbers: dict, name: str, factor: float = 1.0):
        self.numbers, self.name, self.factor = numbers, name, factor

    def __enter__(self):
        self.started = time.perf_counter()

    def __exit__(self, *_):
        self.numbers[self.name] = self.factor * (time.perf_counter() - self.started)


def apart(work, *arguments) -> dict:
    """What `work` returns in a new process, whose memory is its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, work, *arguments))
    child.start()
    sender.close()
    try:
        found = json.loads(receiver.recv())
    except EOFError:
        raise UserError(f"{work.__name__} of a bank ended without a number; see above") from None
    finally:
        child.join()
    return found


def _child(sender, work, *arguments) -> None:
    sender.send(json.dumps(work(*arguments)))


def extrapolated(count: int, found: dict, options: Options) -> tuple[dict, list[str]]:
    """(numbers, formulas) of PAPER documents, from those of `count` with an index."""
    more, lists = PAPER / count, (PAPER / count) ** 0.5
    code = (found["index_bytes"] - 4 * found["lists"] * options.width) / count
    numbers = {
        "index_bytes": code * PAPER + 4 * found["lists"] * lists * options.width,
        "query_ms": found["query_ms"] * lists,
        "learn_s": found["learn_s"] * more,
        "add_s": found["add_s"] * more * lists,
    }
    numbers["neighbours_h"] = 2 * PAPER * numbers["query_ms"] / 3.6e6
    told = {
        "index_bytes": f"N {code:.1f} B + lists x {options.width} x 4 B, lists = 4 sqrt(N)",
        "query_ms": "t sqrt(N / n): all lists are compared, as many of N / lists documents read",
        "learn_s": "t N / n: 64 lists of samples against all lists",
        "add_s": "t (N / n)^1.5: every document against all lists; parts go to many processes",
        "neighbours_h": "2 N t: by text and by image; parts go to many processes",
    }
    shown = [f"  {name:16} {numbers[name]:>14,.4g}   {told[name]}" for name in numbers]
    return numbers, [f"extrapolated from n = {count:,} to N = {PAPER:,}, in one process:", *shown]


def measure(options: Options, system, protocol: dict, phases: core.Phases) -> core.Measurement:
    """Every size in turn."""
    extra, found = {}, {}
    for count in options.documents:
        with phases(f"{count}"), tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found = apart(make, options, count, Path(folder))
            found |= apart(search, options, count, Path(folder))
        extra |= {f"{count}.{name}": float(value) for name, value in found.items()}
        print(f"{count:,} documents", file=sys.stderr)
        for name, value in found.items():
            print(f"  {name:16} {value:>14,.4g}", file=sys.stderr)
    if options.index != "exact":
        numbers, lines = extrapolated(options.documents[-1], found, options)
        extra |= {f"{PAPER}.{name}": float(value) for name, value in numbers.items()}
        print("\n".join(lines), file=sys.stderr)
    return core.Measurement(
        value=found["recall_at_10"], n=options.queries, extra=extra, measures=MEASURES
    )


class Bank:
    """What the record says was measured: this code."""

    name = "cm3leon"
    weights_sha256 = "0" * 64

    def __init__(self, options: Options):
        self.config = {"index": options.index, "code_bytes": options.code_bytes}


BENCH = core.Bench("bank_speed", 1, "recall@10", "higher", protocol={}, measure=measure)


def bank_speed(options: Options) -> tuple[dict, Path]:
    """Measure and save: (record, its path)."""
    from benchmarks.speed.latency import machine

    protocol = {
        "machine": machine("cpu"), "threads": int(os.environ.get("OMP_NUM_THREADS") or 0),
        "documents": list(options.documents), "width": options.width,
        "index": options.index, "code_bytes": options.code_bytes, "queries": options.queries,
        "vectors": {"centres": CENTRES, "directions": DIRECTIONS, "noise": NOISE},
    }  # fmt: skip
    bench = replace(BENCH, measure=partial(measure, options))
    return core.run(bench, Bank(options), protocol, options.results)


def report(_: Options, record: dict) -> None:
    """Every number."""
    for name, value in record["extra"].items():
        print(f"{name:34} {value if isinstance(value, float) else value[0]:,.4g}")


main = core.command(Options, "bank_speed", bank_speed, report)


if __name__ == "__main__":
    sys.exit(main())
