"""Seconds an image and images a second against the batch, beside the machine's roofline.

    nox -s latency                                       every size and type at hand
    nox -s latency -- --quick                            two sizes, short: a look, another protocol
    nox -s latency -- --sizes 12x512x8 --batches 1 8 32 --peers   beside Hugging Face's generate
    nox -s latency -- --llamagen FOLDER                  beside LlamaGen's loop, of its checkout
    nox -s latency -- --sizes 7b --dtypes bfloat16       the paper's largest, on a GPU

The paper's Figure 10 (one image) and Figure 11 (batches of 1 to 256). Cost on 2 cores: about ten
minutes a type; --quick less than one in float32. A size is a shipped baseline, a shape (layers x
width x heads) or one of the paper's Table 3; all but the baselines have random weights. Measured is
the drawing of a picture's tokens under guidance, without documents and without the image tokenizer.
Ceilings come from the same run: `roofline_share` is the ideal decode step (harness/ceilings.py)
over the measured one. Timings are the machine's: compare them inside one record.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.harness import core
from benchmarks.speed import rounds
from benchmarks.speed.ceilings import Ceilings
from benchmarks.speed.configurations import Row, Runner, numbers, rows_of
from benchmarks.speed.load import Gate
from benchmarks.speed.peers.loops import Peer, find_peers
from benchmarks.speed.subjects import PROMPT, STATE_BYTES, Subject, find_subject
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.options import Batch, Count, Engine, Positive, Threads
from cm3leon.progress import progress

SMALL = ("scenes-s", "scenes-xs", "8x256x8", "12x512x8", "24x1024x16")
LARGE = ("350m", "760m", "7b")
BATCHES = (1, 8, 32, 64, 256)
QUICK = {
    "sizes": ("scenes-s", "8x256x8"),
    "batches": (1, 8),
    "repeats": 3,
    "budget": 1.5,
    "new": 32,
}
LEAST_TOKENS = 8
INSTRUCTIONS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")  # that torch can tell of
QUICK_WAIT_S = 5.0  # for a quiet machine, in all


@dataclass(frozen=True)
class Options:
    """Seconds an image against the batch, and the share of the roofline (Figures 10 and 11)."""

    sizes: tuple[str, ...] | None = None
    """baselines, shapes such as 12x512x8, or 350m 760m 7b (left out: these on a GPU only)"""
    batches: tuple[Batch, ...] | None = None
    """pictures drawn at once; left out: 1 8 32 64 256"""
    dtypes: tuple[str, ...] | None = None
    """float32, bfloat16, int8 (weights alone); left out: those that the device is made for"""
    guidance: float = 3.0
    """classifier-free guidance weight; 1 is one stream instead of two"""
    top_p: float = 0.9
    """nucleus, as the peers have it"""
    new: Count | None = None
    """tokens of a picture; left out: 64 of scenes, 256 of shapes, 1,024 of the paper's sizes"""
    repeats: Count | None = None
    """rounds, of which the median counts; left out: 5"""
    budget: Positive | None = None
    """seconds a configuration may take; fewer rounds and tokens where it would take more"""
    threads: Threads | None = None
    """of the processor; left out: as torch chooses"""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one"""
    peers: bool = False
    """time Hugging Face's OPTForCausalLM.generate in turn with ours"""
    engine: Engine = "auto"
    """what takes our steps; auto: as the rule of the package says"""
    llamagen: Path | None = None
    """a checkout of FoundationVision/LlamaGen, whose loop is timed in turn with ours"""
    quick: bool = False
    """two sizes, two batches, 32 tokens: another protocol"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where tables and plot go"""

    def __post_init__(self):
        for name, least in (("batches", 1), ("repeats", 1), ("new", LEAST_TOKENS), ("threads", 1)):
            given = getattr(self, name)
            values = given if isinstance(given, tuple) else () if given is None else (given,)
            if given == () or any(value < least for value in values):
                raise UserError(f"--{name} must be at least {least}, got {given}")
        for name in ("sizes", "batches", "dtypes"):
            given = getattr(self, name)
            if given is not None and (not given or len(set(given)) < len(given)):
                raise UserError(f"--{name} must be different values, got {list(given)}")
        for dtype in self.dtypes or ():
            if dtype not in STATE_BYTES:
                raise UserError(f"unknown dtype {dtype!r}; known are {', '.join(STATE_BYTES)}")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise UserError(f"--budget must be positive seconds, got {self.budget}")
        if self.llamagen is not None and self.guidance < 1:
            raise UserError(f"--llamagen needs --guidance of at least 1, got {self.guidance}")
        DecodeConfig(guidance=self.guidance, top_p=self.top_p)  # checks both


def latency(options: Options) -> tuple[dict, Path]:
    """Measure and save: (record, its path)."""
    import torch

    device = usable_device(options.device)
    options = resolved(options, device)
    subjects = [find_subject(name, options.new) for name in options.sizes]
    peers = find_peers(options.peers, options.llamagen)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    protocol = protocol_of(options, subjects) | {"machine": machine(device)}
    bench = replace(BENCH, measure=partial(measure, options, device))
    return core.run(bench, Timed(subjects, peers), protocol, options.results)


def protocol_of(options: Options, subjects: Sequence[Subject]) -> dict:
    """What is drawn and how it is timed."""
    return (
        {
            "sizes": {subject.name: subject.tokens for subject in subjects},
            "batches": list(options.batches),
            "dtypes": list(options.dtypes),
            "guidance": options.guidance,
            "top_p": options.top_p,
            "prompt_tokens": PROMPT,
            "rounds": options.repeats,
            "budget_s": options.budget,
            "peers": options.peers,  # Hugging Face's
        }
        | ({"llamagen": True} if options.llamagen is not None else {})
        | ({} if options.engine == "auto" else {"engine": options.engine})
    )


def machine(device: str) -> dict:
    """Processor, device, threads and what a processor that computes multiplies with, as one name
    may stand for several generations: timings of two machines never stand in one column.
    """
    import torch

    found = core.environment_of(None if device == "cpu" else device)
    able = torch.cpu.get_capabilities() if device == "cpu" else {}  # older torch cannot tell
    known = [name for name in INSTRUCTIONS if able.get(name)]
    return {key: found[key] for key in ("cpu", "device", "threads")} | {"instructions": known}


def usable_device(name: str) -> str:
    """`cpu` or a CUDA device that is there; UserError for another."""
    import torch

    from cm3leon.loading import checked_device

    device = checked_device(name)
    kind = torch.device(device)
    if kind.type not in ("cpu", "cuda"):
        raise UserError(f"device must be 'auto', 'cpu' or 'cuda', got {name!r}")
    return device


def resolved(options: Options, device: str) -> Options:
    """The options with every default in its place, as this device has them."""
    from cm3leon.config import TrainConfig
    from cm3leon.training.loop import precision

    able = str(precision(TrainConfig(), device)) == "torch.bfloat16"
    on_gpu = device.startswith("cuda")
    defaults = {
        "sizes": SMALL + (LARGE if on_gpu else ()),
        "batches": BATCHES,
        "dtypes": ("float32", *(("bfloat16",) if able else ()), *(("int8",) if on_gpu else ())),
        "repeats": 5,
        "budget": 10.0,
    } | (QUICK if options.quick else {})
    missing = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    options = replace(options, **missing)
    return replace(options, batches=tuple(sorted(options.batches)))


class Timed:
    """What the record says was measured: this code on networks of these shapes."""

    name = "cm3leon"

    def __init__(self, subjects: Sequence[Subject], peers: Mapping[str, Peer] | None = None):
        from cm3leon.checkpoint import digest
        from cm3leon.config import to_dict

        self.config = {
            subject.name: {"model": to_dict(subject.config), "weights": "random"}
            | ({"weights": digest(subject.folder)} if subject.folder else {})
            for subject in subjects
        }
        for name, peer in (peers or {}).items():
            if peer.sha256 is not None:
                self.config[name] = {"sha256": peer.sha256}
        self.subjects, self.peers = subjects, peers or {}
        self.weights_sha256 = None  # several, or random ones; those of baselines are in `config`


def measure(options: Options, device: str, system: Timed, protocol, phases) -> core.Measurement:
    """Every configuration in turn; the numbers of those that ran, the notes of all."""
    import torch

    # On a GPU the processor only starts kernels: one free core is enough.
    gate = Gate(1 if device != "cpu" else torch.get_num_threads())
    gate.total_s = QUICK_WAIT_S if options.quick else gate.total_s
    runner = Runner(
        device, gate, Ceilings(device), options.guidance, options.top_p, options.batches,
        options.repeats, options.budget, system.peers, options.engine,
    )  # fmt: skip
    found: list[Row] = []
    total = len(system.subjects) * len(options.dtypes) * len(options.batches)
    with progress(total, "latency", unit="configuration") as bar, phases("time"):
        for subject in system.subjects:
            for dtype in options.dtypes:
                for row in rows_of(runner, subject, dtype):
                    found.append(row)
                    bar.update()
    return measured(found, runner)


def measured(found: Sequence[Row], runner: Runner) -> core.Measurement:
    """The record's numbers: the value is seconds an image of the first row that has any."""
    extra: dict = {}
    for row in found:
        if row.times:
            own = numbers(row, runner.ceilings)
            extra |= {f"{row.name}.{name}": value for name, value in own.items()}
    ran = [row for row in found if row.times]
    notes = [f"{row.name}: {row.note}" for row in found if row.note]
    if not ran:
        raise core.NothingMeasured(f"latency measured nothing: {notes[0] if notes else 'no row'}")
    head, count = ran[0], ran[0].plan.rounds
    value, interval = extra[f"{head.name}.seconds_per_image"], None
    if count > 1:
        (value, low, high), level = value, min(rounds.coverage(count), 0.95)
        interval = core.Interval(low, high, level, rounds.INTERVAL_METHOD)
    drawn = sum(row.batch * row.plan.tokens * row.plan.rounds for row in ran)
    return core.Measurement(
        value=value,
        n=count,
        interval=interval,
        extra=extra | runner.ceilings.numbers(),
        warnings=notes,
        protocol={"value_of": head.name},
        tokens=drawn,
        counters=runner.counters,
        device=None if runner.device == "cpu" else runner.device,
    )


def report(options: Options, record: dict) -> None:
    """Tables on the terminal and as files, and the plot."""
    from cm3leon.reports import read_published
    from cm3leon.reports.benches.latency import latency_plot, latency_tables
    from cm3leon.reports.tables import write_all

    folder = core.report_folder(options.reports, "latency")
    for stem, table in latency_tables(record, read_published()).items():
        print(f"\n{table.to_text()}")
        write_all(table, folder, stem)
    print(f"\nplot: {latency_plot(record, folder)[0]}")


BENCH = core.Bench("latency", 1, "s/image", "lower", protocol={}, measure=measure)


main = core.command(Options, "latency", latency, report)


if __name__ == "__main__":
    sys.exit(main())
