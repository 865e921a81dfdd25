"""Tokens a second of training, as a share of what the processor or the GPU multiplies at most.

    nox -s train_speed                                      scenes-xs, scenes-s, 12x512; both types
    nox -s train_speed -- --peers                           beside Hugging Face's OPT, in turn
    nox -s train_speed -- --base FOLDER                     beside another revision's checkout
    nox -s train_speed -- --sizes scenes-s --dtypes bfloat16 --rounds 5
    nox -s train_speed -- --device cuda                     350m, 760m on full rows of 4,096 tokens

A step is forward, backward, clipping and update on rows of captions of different lengths, with and
without documents. The share is 6 N D over the peak of square products of the same type, measured in
the same run; N leaves out the position table. On a GPU `mfu` is 6 N D over the maker's peak. Every
contestant is a process of its own and they take turns, so that a disturbance falls on all. Timings
are the machine's: compare inside one record. Cost on two cores: about six minutes, --quick one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.harness import core
from benchmarks.speed.train_steps import lengths
from cm3leon.errors import UserError
from cm3leon.options import Count, Documents, Threads

WORKER = Path(__file__).with_name("train_steps.py")
SHAPES = {
    "scenes-xs": (4, 128, 4), "scenes-s": (6, 256, 8), "12x512": (12, 512, 8),
    "350m": (24, 1024, 16), "760m": (24, 1536, 16),
}  # fmt: skip
SMALL = ("scenes-xs", "scenes-s", "12x512")
PAPER = ("350m", "760m")  # Table 3: full rows, its vocabulary
CONTEXT, PAPER_IDS = 4096, 65_536
IDS = 2624  # of the vocabulary: about what the shipped tokenizers need
TOKENS = {"cpu": 5_500, "cuda": 16_384}  # of a step, about
SHORTEST_S = 1.0  # of a timing: so many steps are taken
OLD_ROWS = 16  # of a step before this benchmark was


@dataclass(frozen=True)
class Options:
    """Tokens a second of training, and the share of the processor's peak."""

    sizes: tuple[str, ...] | None = None
    """scenes-xs, scenes-s, 12x512, 350m, 760m; left out: the first three, on a GPU the last two"""
    dtypes: tuple[str, ...] | None = None
    """float32, bfloat16; left out: those that the processor multiplies"""
    optimizers: tuple[str, ...] = ("muon", "adamw")
    """muon, adamw"""
    documents: tuple[Documents, ...] = (0, 2)
    """before each row's query"""
    rounds: Count = 5
    """timings of each, of which the median counts"""
    threads: Threads | None = None
    """of the processor; left out: all"""
    device: str = "cpu"
    """cpu, cuda, cuda:1"""
    peers: bool = False
    """time Hugging Face's OPTForCausalLM with AdamW in turn with ours"""
    base: Path | None = None
    """a checkout of another revision, in turn: on the same batch, and on rows of 16 as of old"""
    quick: bool = False
    """scenes-xs and scenes-s, Muon, three rounds: another protocol"""
    results: Path = core.RESULTS
    """where the record goes"""

    def __post_init__(self):
        known = {"sizes": tuple(SHAPES), "dtypes": ("float32", "bfloat16"),
                 "optimizers": ("muon", "adamw"), "documents": (0, 1, 2, 3)}  # fmt: skip
        for name, values in known.items():
            for value in getattr(self, name) or ():
                if value not in values:
                    shown = ", ".join(map(str, values))
                    raise UserError(f"--{name} are of {shown}, got {value!r}")
        if self.rounds < 1 or (self.threads is not None and self.threads < 1):
            raise UserError("--rounds and --threads must be at least 1")
        if self.base is not None and not (self.base / "cm3leon" / "config.py").is_file():
            raise UserError(f"--base {self.base} is no checkout of this project; name its folder")


class Contestant:
    """A network in a process of its own; `seconds` of each timing."""

    def __init__(self, name: str, asked: dict, base: Path | None = None):
        self.name, self.tokens = name, sum(asked["lengths"])
        own = Path(__file__).resolve().parents[2] if base is None else base.resolve()
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(asked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(own), "OMP_NUM_THREADS": str(asked["threads"])},
        )  # fmt: skip
        self.parameters = self._read()["parameters"]
        self.steps, self.seconds = 1, []
        self.take()  # warm
        self.steps = max(1, round(SHORTEST_S / self.take()))
        self.seconds.clear()

    def take(self) -> float:
        """Time some steps; seconds of one."""
        self.process.stdin.write(f"{self.steps}\n")
        self.process.stdin.flush()
        self.seconds.append(self._read()["seconds"] / self.steps)
        return self.seconds[-1]

    @property
    def tokens_per_s(self) -> float:
        """By the median step."""
        return self.tokens / statistics.median(self.seconds)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name} ended without a timing; see its message above")
        return json.loads(line)


def contestants(options: Options, size: str, dtype: str, optimizer: str, documents: int):
    """Ours, then those it is compared with: (name, what to run, checkout)."""
    layers, width, heads = SHAPES[size]
    tokens = TOKENS[options.device.split(":")[0]]
    asked = {
        "kind": "ours", "layers": layers, "width": width, "heads": heads, "ids": IDS,
        "dtype": dtype, "optimizer": optimizer, "threads": options.threads,
        "device": options.device,
    }  # fmt: skip
    if size in PAPER:
        full = [CONTEXT] * max(1, tokens // CONTEXT)
        asked |= {"ids": PAPER_IDS, "context": CONTEXT, "lengths": full}
    else:
        rows = max(1, round(tokens / (statistics.mean(lengths(64, documents)))))
        asked["lengths"] = lengths(rows, documents)
    yield "ours", asked, None
    if options.base:
        yield "base", asked, options.base
        yield "base16", asked | {"lengths": lengths(OLD_ROWS, documents)}, options.base
    if options.peers:
        yield "opt", asked | {"kind": "opt"}, None


def measure(options: Options, system, protocol: dict, phases: core.Phases) -> core.Measurement:
    """Every configuration in rounds, the processor's peak looked at in each."""
    extra, peaks = {}, {}
    for dtype in options.dtypes:
        for size in options.sizes:
            for optimizer in options.optimizers:
                for documents in options.documents:
                    name = f"{size}.{dtype}.{optimizer}.documents{documents}"
                    with phases(size):
                        found = timed(options, peaks, size, dtype, optimizer, documents)
                    extra |= {f"{name}.{key}": value for key, value in found.items()}
                    print(name, {k: round(v, 3) for k, v in found.items()}, file=sys.stderr)
    extra |= {f"peak_gflop_per_s.{dtype}": peak / 1e9 for dtype, peak in peaks.items()}
    first = next(key for key in extra if key.endswith(".peak_share"))
    return core.Measurement(value=extra[first], n=options.rounds, extra=extra)


def timed(options, peaks: dict, size: str, dtype: str, optimizer: str, documents: int) -> dict:
    """Tokens a second, share of the peak and ratios of one configuration."""
    from benchmarks.speed.ceilings import matmul_peak

    asked = contestants(options, size, dtype, optimizer, documents)
    all_ = [Contestant(*one) for one in asked]
    for _ in range(options.rounds):
        peaks[dtype] = max(peaks.get(dtype, 0.0), matmul_peak(dtype, options.device))
        for one in all_:
            one.take()
    for one in all_:
        one.close()
    ours, *others = all_
    found = {
        "tokens_per_s": ours.tokens_per_s,
        "peak_share": 6 * ours.parameters * ours.tokens_per_s / peaks[dtype],
    }
    if (maker := maker_peak(options.device)) is not None and dtype == "bfloat16":
        found["mfu"] = 6 * ours.parameters * ours.tokens_per_s / maker
    for other in others:
        ratios = [
            (theirs / other.tokens) / (own / ours.tokens)
            for own, theirs in zip(ours.seconds, other.seconds, strict=True)
        ]
        found[f"over_{other.name}"] = statistics.median(ratios)
    return found


def maker_peak(device: str) -> float | None:
    """FLOP/s of dense bfloat16 products, as the maker of a GPU prints them (of the SXM form); None
    for one that is not known.
    """
    import torch

    from cm3leon.training.estimate import PEAKS

    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device).lower()
    return next((flops for kind, (flops, _) in PEAKS.items() if kind in name), None)


class Timed:
    """What the record says was measured: this code."""

    name = "cm3leon"
    weights_sha256 = "0" * 64

    def __init__(self, options: Options):
        self.config = {"peers": options.peers, "base": options.base is not None}


BENCH = core.Bench("train_speed", 1, "share of peak", "higher", protocol={}, measure=measure)


def train_speed(options: Options) -> tuple[dict, Path]:
    """Measure and save: (record, its path)."""
    import torch

    from benchmarks.speed.latency import machine, usable_device
    from cm3leon.config import TrainConfig
    from cm3leon.training.optimizer import precision

    if options.quick:
        options = replace(options, sizes=("scenes-xs", "scenes-s"), optimizers=("muon",), rounds=3)
    device = usable_device(options.device)
    on_gpu = device.startswith("cuda")
    sizes = options.sizes or (PAPER if on_gpu else SMALL)
    paper_alone = set(sizes) <= set(PAPER)  # full rows have no documents to count
    options = replace(
        options, device=device, sizes=sizes, documents=(0,) if paper_alone else options.documents
    )
    threads = options.threads or torch.get_num_threads()
    able = precision(TrainConfig(), device) == torch.bfloat16
    wanted = ("bfloat16",) if on_gpu else ("bfloat16", "float32")
    dtypes = options.dtypes or (wanted if able else ("float32",))
    options = replace(options, threads=threads, dtypes=dtypes)
    torch.set_num_threads(threads)
    protocol = {
        "machine": machine(device), "threads": threads, "sizes": list(options.sizes),
        "dtypes": list(dtypes), "optimizers": list(options.optimizers),
        "documents": list(options.documents), "rounds": options.rounds,
        "tokens": TOKENS[device.split(":")[0]],
    }  # fmt: skip
    bench = replace(BENCH, measure=partial(measure, options))
    return core.run(bench, Timed(options), protocol, options.results)


def report(_: Options, record: dict) -> None:
    """Every number."""
    for name, value in record["extra"].items():
        print(f"{name:52} {value if isinstance(value, float) else value[0]:,.3f}")


main = core.command(Options, "train_speed", train_speed, report)


if __name__ == "__main__":
    sys.exit(main())
