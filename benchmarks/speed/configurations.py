"""Configurations of a speed benchmark: size x type x batch, each timed within its budget.

What cannot be timed, or only in part, says so in its row's note; the others go on.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.speed import memory, rounds
from benchmarks.speed.ceilings import Ceilings, Work
from benchmarks.speed.load import Gate, Load
from benchmarks.speed.peers.loops import Peer
from benchmarks.speed.subjects import COMPUTE, PROMPT, Drawing, Subject, make_model
from cm3leon.errors import UserError

OURS = "ours"


@dataclass
class Row:
    """One configuration: what was timed, or in `note` why not, or what was cut."""

    subject: Subject
    dtype: str
    batch: int
    note: str = ""
    plan: rounds.Plan | None = None
    times: dict[str, rounds.Times] | None = None
    work: Work | None = None  # of a mean step between the few tokens and the last
    others: float | None = None
    peak_bytes: int = 0

    @property
    def name(self) -> str:
        """Begins the names of its numbers in the record."""
        return f"{self.subject.name}.{self.dtype}.b{self.batch}"


@dataclass
class Runner:
    """What all configurations of a run share."""

    device: str
    gate: Gate
    ceilings: Ceilings
    guidance: float
    top_p: float
    batches: tuple[int, ...]
    repeats: int  # rounds asked for
    budget: float  # seconds of one configuration
    peers: Mapping[str, Peer] = field(default_factory=dict)
    engine: str = "auto"
    counters: dict[str, int] = field(default_factory=dict)  # work of our loop; steps by engine

    def row(self, subject: Subject, dtype: str, batch: int, model, networks) -> Row:
        """Time one configuration; used-up memory and too much work become its note."""
        row = Row(subject, dtype, batch)
        drawing = Drawing(model, subject, batch, self.guidance, self.top_p, self.engine)
        row.note = self.beyond(drawing, dtype)
        if row.note:
            return row
        engines = {OURS: drawing.draw}
        for name, network in networks.items():
            settings = self.guidance, self.top_p
            engines[name] = self.peers[name].drawing(network, batch, *settings)
        try:
            self.time(row, engines)
        except (RuntimeError, MemoryError) as error:
            if not memory.out_of_memory(error):
                raise
            row.note, row.times = said(error), None
            return row
        lengths = [length + (rounds.FEW + row.plan.tokens) / 2 for length in drawing.streams]
        row.work = subject.work(dtype, batch, tuple(lengths))
        for name, count in drawing.counters.items():
            whose = f"{row.name}.{name}" if name.startswith("steps_by_") else name
            self.counters[whose] = self.counters.get(whose, 0) + count
        self.ceilings.look(COMPUTE[dtype], row.work.bytes)
        return row

    def beyond(self, drawing: Drawing, dtype: str) -> str:
        """Why a configuration is not tried: it cannot fit the memory, or the budget by far."""
        subject, rows = drawing.subject, drawing.batch * len(drawing.streams)
        kept = subject.cache_bytes(dtype, rows, PROMPT + subject.tokens)
        logits = 12 * rows * subject.shape.head
        free = memory.free_bytes(self.device)
        if free is not None and 1.1 * kept + logits > free:
            need = (1.1 * kept + logits) / memory.GIB
            return f"out of memory: needs {need:.1f} GiB, {free / memory.GIB:.1f} are free"
        flops = 2 * drawing.batch * PROMPT * subject.shape.blocks  # text-free prompts are shared
        flops += min(rounds.SHORTEST, subject.tokens) * subject.work(dtype, rows, (PROMPT,)).flops
        least_s = flops / self.ceilings.peak(COMPUTE[dtype])
        if least_s > self.budget:
            return (
                f"not tried: {rounds.SHORTEST} tokens take {least_s:.0f} s at the machine's peak, "
                f"--budget is {self.budget:g} s"
            )
        return ""

    def time(self, row: Row, engines: dict) -> None:
        """Choose a plan and time it, on a quiet machine if there is one; once more if disturbed."""
        tokens, wanted = row.subject.tokens, self.repeats
        self.gate.wait()
        few_s, step_s, firsts = rounds.estimate(engines, tokens)
        row.plan = rounds.plan(few_s, step_s, tokens, wanted, self.budget)
        memory.start_peak(self.device)
        for attempt in range(2):
            with Load() as load:
                times = rounds.run_rounds(engines, row.plan, tokens)
            if row.times is None or (load.others or 0) < (row.others or 0):
                row.times, row.others = times, load.others
            if attempt or not self.gate.disturbed(load.others) or not self.gate.wait():
                break
        row.peak_bytes = memory.peak_bytes(self.device)
        for name, first_s in firsts.items():
            row.times[name].first_s = first_s
        notes = [row.plan.shortfall(tokens, wanted)]
        if self.gate.disturbed(row.others):
            notes.append(f"disturbed: others used {row.others:.0%} of the machine")
        row.note = ", ".join(filter(None, notes))


def rows_of(runner: Runner, subject: Subject, dtype: str) -> Iterator[Row]:
    """One model's rows, batch after batch; a model that cannot be made gives rows that say why."""
    model, networks, why = models(runner, subject, dtype)
    for batch in runner.batches:
        row = Row(subject, dtype, batch, why)
        yield row if why else runner.row(subject, dtype, batch, model, networks)
        free_memory()


def models(runner: Runner, subject: Subject, dtype: str) -> tuple:
    """(our model, the peers' by name, why there is none or nothing)."""
    free_memory()  # of the model before
    peers = {} if dtype == "int8" else runner.peers
    need = (1 + len(peers)) * subject.weights_bytes(dtype)
    free = memory.free_bytes(runner.device)
    if free is not None and 1.1 * need > free:
        sizes = f"{need / memory.GIB:.1f} GiB, {free / memory.GIB:.1f} are free"
        return None, {}, f"out of memory: the weights need {sizes}"
    try:
        model = make_model(subject, dtype, runner.device)
        networks = {name: peer.make(subject, dtype, runner.device) for name, peer in peers.items()}
    except UserError as error:
        return None, {}, str(error)
    except (RuntimeError, MemoryError) as error:
        if not memory.out_of_memory(error):
            raise
        return None, {}, said(error)
    return model, networks, ""


def said(error: BaseException) -> str:
    """One line of a note."""
    return f"out of memory: {str(error).splitlines()[0][:120]}" if str(error) else "out of memory"


def free_memory() -> None:
    """Give back what the last configuration held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def numbers(row: Row, ceilings: Ceilings) -> dict:
    """Measure -> (median, low, high) over rounds, or one number; a peer's end in its name."""
    best = ceilings.ideal(row.work, COMPUTE[row.dtype])
    found = {
        "tokens": row.plan.tokens,
        "rounds": row.plan.rounds,
        "ideal_memory_ms": 1e3 * best.memory_s,
        "ideal_compute_ms": 1e3 * best.compute_s,
        "peak_memory_gib": row.peak_bytes / memory.GIB,
    }
    if row.others is not None:
        found["load_of_others"] = row.others
    steps = {}
    for name, times in row.times.items():
        end = "" if name == OURS else f"_{name}"
        steps[name] = rounds.steps_s(times, row.plan.tokens)
        batch_s = rounds.batch_s(times, row.plan.tokens, row.subject.tokens)
        found |= speeds(row, batch_s, steps[name], best.step_s, end)
        found[f"first_call_s{end}"] = times.first_s
    for name, theirs in steps.items():
        if name != OURS and min((*theirs, *steps[OURS]), default=0) > 0:
            gains = [peer / own for peer, own in zip(theirs, steps[OURS], strict=True)]
            found[f"gain_over_{name}"] = rounds.spread(gains)
    return found


def speeds(row: Row, batch_s: list, step_s: list, ideal_s: float, end: str) -> dict:
    """Speeds of one engine; a decode step below zero is noise and gives no number."""
    pictures, tokens = row.batch, row.subject.tokens
    found = {
        "seconds_per_batch": batch_s,
        "seconds_per_image": [one / pictures for one in batch_s],
        "images_per_s": [pictures / one for one in batch_s],
        "tokens_per_s": [pictures * tokens / one for one in batch_s],
    }
    if step_s and min(step_s) > 0:
        found |= {
            "decode_ms": [1e3 * one for one in step_s],
            "decode_tokens_per_s": [pictures / one for one in step_s],
            "roofline_share": [ideal_s / one for one in step_s],
        }
    return {f"{name}{end}": rounds.spread(values) for name, values in found.items()}
