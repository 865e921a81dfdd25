"""What a training will cost, before it begins: rows, tokens, steps, FLOPs, as the paper counts.

A pair is `<break>`-closed caption and picture; a row holds documents, a query and its `<eos>`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cm3leon.config import ModelConfig, PaperRecipe, TrainConfig
from cm3leon.errors import UserError
from cm3leon.model.transformer import LOGITS_AT_ONCE
from cm3leon.training.batches import PIECE_TOKENS
from cm3leon.training.loop import steps_for_tokens

PEAKS = {  # FLOP/s of dense bfloat16 products, as the makers print them; memory, 1e9 bytes
    "v100": (125e12, 32),
    "a100": (312e12, 80),
    "l40s": (362e12, 48),
    "h100": (989e12, 80),
    "h200": (989e12, 141),
    "b200": (2250e12, 180),
}
BESIDE = 2e9  # bytes of a GPU that its context and the buffers of its messages take
MFU = 0.4  # of 6ND on H100 and A100 without float8; the share that others print (33 to 48 %)
MOST = 3  # documents before a query (section 2.1)
STATE_BYTES = 16  # a parameter: float32 weight, gradient and two moments


def peak_flops(device: str) -> float:
    """FLOP/s of a device by its name; 0 of one that is not known, a processor for one."""
    import torch

    if torch.device(device).type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device).lower()
    return next((flops for known, (flops, _) in PEAKS.items() if known in name), 0.0)


def row_tokens(pair: float, documents: float) -> float:
    """Tokens of a sample that no span was moved in (Figure 9)."""
    return (documents + 1) * pair + 1


def most_documents(context: int, pair: float) -> int:
    """Documents, 3 at the most, with which a row of average pairs fits the context (A20).

    A picture of 1,024 tokens leaves room for two in 4,096, though the paper speaks of three.
    """
    room = int((context - 1) // pair) - 1
    return max(0, min(MOST, room))


def check_row(context: int, pair: float, documents: int) -> None:
    """Raise UserError when rows with so many documents are longer than the context on average."""
    tokens = row_tokens(pair, documents)
    if tokens > context:
        fits = most_documents(context, pair)
        raise UserError(
            f"rows with {documents} documents take about {tokens:,.0f} tokens, model.context is "
            f"{context:,}; {fits} documents fit: give fewer --documents or a longer context"
        )


def schedule(
    recipe: PaperRecipe | None, row: float, tokens: float | None, given: dict
) -> TrainConfig:
    """The training of a model: what was given, else the recipe's (Table 3 for a model of the
    paper), else the defaults of TrainConfig. `row` is the mean number of tokens of a row.

    Raises UserError for both steps and tokens, and for values out of range.
    """
    own = TrainConfig()
    if tokens is not None and "steps" in given:
        raise UserError(f"give --steps {given['steps']} or --tokens {tokens:g}, not both")
    batch = round(recipe.batch_tokens / row) if recipe else own.batch
    batch = given.get("batch", max(1, batch))
    if batch < 1:
        raise UserError(f"train.batch must be at least 1, got {batch}")
    a_step = recipe.batch_tokens if recipe and "batch" not in given else batch * row
    tokens = tokens if tokens is not None or recipe is None else recipe.tokens
    steps = own.steps if tokens is None else steps_for_tokens(tokens, a_step)
    steps = given.get("steps", steps)
    rate, warmup = (recipe.rate, recipe.warmup) if recipe else (own.rate, own.warmup)
    # A "wsd" run may be made longer, which its warm-up must outlive.
    wsd = given.get("schedule") == "wsd"
    most = steps - given.get("decay", 0) if wsd else steps // 10
    values = {"rate": rate, "warmup": min(warmup, max(1, most))} | given
    return TrainConfig(**values | {"batch": batch, "steps": steps})


def pieces_of(batch: int, row: float) -> int:
    """In how many pieces to cut a batch so that each has about `PIECE_TOKENS` at the most."""
    rows = max(1, int(PIECE_TOKENS // row))
    return -(-batch // rows)


@dataclass(frozen=True)
class Estimate:
    """A training in numbers. `documents` is how many there are to train on; None: not known."""

    model: ModelConfig
    train: TrainConfig
    row: float  # tokens of a row, on average
    accumulate: int = 1
    documents: int | None = None

    @property
    def parameters(self) -> int:
        """N of the paper's accounting: all of them."""
        return self.model.parameters

    @property
    def tokens(self) -> float:
        """D: all tokens read, those of retrieved documents among them."""
        return self.train.steps * self.train.batch * self.row

    @property
    def flops(self) -> float:
        """6ND, forward and backward."""
        return 6.0 * self.parameters * self.tokens

    def lines(self) -> list[str]:
        """The numbers as text."""
        model, train = self.model, self.train
        ids = model.vocabulary.size
        at_once = f", in {self.accumulate} pieces" if self.accumulate > 1 else ""
        seen = train.steps * train.batch
        falls = f", falling in the last {train.decay:,}" if train.decay else ""
        epochs = f", {seen / self.documents:,.2f} epochs" if self.documents else ""
        return [
            f"model {model.name}: {self.parameters / 1e6:,.1f}M parameters, {ids:,} ids, context "
            f"{model.context:,}; weights, gradients and optimiser {self.bytes_gb:,.2f} GB",
            f"step: {train.batch:,} rows of about {self.row:,.0f} tokens, "
            f"{train.batch * self.row:.3g} tokens{at_once}; learning rate {train.rate:g} after "
            f"{train.warmup:,} steps{falls}",
            f"run: {train.steps:,} steps, {self.tokens:.3g} tokens{epochs}; 6ND {self.flops:.3g} "
            "FLOP",
        ]

    @property
    def bytes_gb(self) -> float:
        """Gigabytes (1e9) of the training's state, activations aside."""
        return STATE_BYTES * self.parameters / 1e9


@dataclass(frozen=True)
class Plan:
    """A training on GPUs: what lies on each, and how long it takes.

    `memory` is what one has, in bytes, `peak` its FLOP/s, `mfu` the share of it that 6ND is taken
    to reach; `replicas` and `recompute` are the options of `cm3leon train`; `half`: products are in
    bfloat16; `fused`: attention keeps no weights of keys, as on a GPU. The formulas follow
    `parallel.py` and `transformer.Block`; the tests hold them against processes.
    """

    estimate: Estimate
    gpus: int
    memory: float
    peak: float
    mfu: float = MFU
    replicas: int = 1
    recompute: bool = False
    half: bool = True
    fused: bool = True

    def __post_init__(self):
        batch = self.estimate.train.batch
        if self.gpus > batch:
            raise UserError(f"{self.gpus} GPUs need a --batch of as many rows, got {batch}")
        if self.gpus % self.replicas:
            raise UserError(f"--replicas {self.replicas} must divide {self.gpus} GPUs")

    @property
    def pieces(self) -> int:
        """Of a GPU's part of a batch."""
        batch, gpus = self.estimate.train.batch, self.gpus
        return min(math.ceil(self.estimate.accumulate / gpus), batch // gpus)

    @property
    def rows_at_once(self) -> int:
        """Of a GPU, in one piece."""
        return math.ceil(math.ceil(self.estimate.train.batch / self.gpus) / self.pieces)

    @property
    def tokens_at_once(self) -> float:
        """Of these rows."""
        return self.rows_at_once * self.estimate.row

    def parts(self) -> dict[str, float]:
        """Bytes on one GPU at the fullest moment, by what they hold."""
        model, muon = self.estimate.model, self.estimate.train.optimizer == "muon"
        blocks = 12.0 * model.layers * model.width**2
        rest = self.estimate.parameters - blocks
        shards, size = self.gpus // self.replicas, 2 if self.half else 4
        weights = gradients = 4 * (blocks + rest) / shards
        optimiser = ((4 if muon else 8) * blocks + 8 * rest) / shards
        held = {"weights": weights, "optimiser": optimiser}
        # In the step: what Muon moves along, that in one batch, and twice as its products are made.
        products = (4 + 4 + 2 * size) * blocks / shards if muon else 0.0
        step = held | {"gradients": gradients, "products": products}
        activations = self._activations(size)
        if self.pieces == 1:  # of one piece they take the place of activations one by one
            gradients = max(0.0, gradients - activations)
        gathered = size * blocks if self.half else 0.0  # one process: matrices in bfloat16
        if self.gpus > 1:
            # Tables and their gradients are whole from the first piece's forward to its backward
            # pass, of the blocks two: weights and gradients as computed, and as they are summed.
            gathered = 8 * rest + 2 * 12.0 * model.width**2 * (2 * size + 4)
        more = {"gradients": gradients, "gathered": gathered, "activations": activations}
        return max(held | more, step, key=lambda parts: sum(parts.values()))

    def _activations(self, size: int) -> float:
        """Bytes that the backward pass needs of a piece: of a block and of the head."""
        model, tokens = self.estimate.model, self.tokens_at_once
        # Two states in float32; as computed both norms, queries, keys, values, attention, ReLU.
        of_block = tokens * model.width * (8 + size * (1 + 3 + 1 + 1 + 4))
        of_block += tokens * size * (model.width if self.fused else model.heads * self.estimate.row)
        kept = tokens * model.width * 4 * model.layers + of_block
        if not self.recompute:
            kept = of_block * model.layers
        ids = model.vocabulary.size
        logits = min(tokens * ids, LOGITS_AT_ONCE)
        of_head = logits * size + tokens * model.width * (4 + size)
        if self.gpus == 1:  # else it is told with what is gathered
            of_head += 4.0 * ids * model.width
        of_backward = tokens * model.width * (4 + size * 8)
        return kept + max(of_head, of_backward)

    @property
    def bytes(self) -> float:
        """All parts."""
        return sum(self.parts().values())

    @property
    def fits(self) -> bool:
        """Whether a GPU holds it."""
        return self.bytes + BESIDE <= self.memory

    @property
    def hours(self) -> float:
        """Of the whole training; activations made again are a third more work."""
        work = self.estimate.flops * (4 / 3 if self.recompute else 1)
        return work / (self.gpus * self.peak * self.mfu) / 3600

    def ways_out(self) -> list[tuple[str, Plan]]:
        """Options, the cheapest first, that make it fit."""
        batch = self.estimate.train.batch
        row = replace(self, estimate=replace(self.estimate, accumulate=batch))
        found = [(f"--accumulate {batch}", row), ("--recompute", replace(self, recompute=True))]
        if self.replicas > 1:
            found.append(("--replicas 1", replace(self, replicas=1)))
        small = replace(row, recompute=True, replicas=1)
        found.append((f"--accumulate {batch} --recompute", small))
        gpus = 2 * self.gpus
        while gpus <= batch and not replace(small, gpus=gpus).fits:
            gpus *= 2
        if gpus <= batch:
            more = replace(small, gpus=gpus)
            found.append((f"--accumulate {batch} --recompute on {gpus:,} GPUs", more))
        return [(name, plan) for name, plan in found if plan.fits]

    def lines(self, gpu: str) -> list[str]:
        """The plan as text, for GPUs of a name."""
        parts = ", ".join(f"{name} {held / 1e9:,.1f}" for name, held in self.parts().items())
        again = ", activations made again" if self.recompute else ""
        lines = [
            f"memory of each of {self.gpus:,} {gpu}: {self.bytes / 1e9:,.1f} of "
            f"{self.memory / 1e9:,.0f} GB ({parts}); {self.rows_at_once} rows at once{again}",
            f"time: {self.hours:,.1f} hours, {self.hours * self.gpus:,.0f} GPU hours, at "
            f"{self.mfu:.0%} of {self.peak / 1e12:,.0f} TFLOP/s (an assumption: --mfu)",
        ]
        if self.fits:
            return lines
        ways = self.ways_out()
        way = "; more memory is needed: take more GPUs of another kind"
        if ways:
            name, plan = ways[0]
            way = f"; {name} makes it fit: {plan.bytes / 1e9:,.1f} GB"
        beside = f"{BESIDE / 1e9:,.0f} GB for the device itself"
        return [*lines, f"does not fit, with {beside}{way}"]


def find_gpu(name: str) -> tuple[float, float]:
    """(FLOP/s, bytes) of a kind of GPU; UserError for one that is not known."""
    if name.lower() not in PEAKS:
        raise UserError(f"unknown GPU {name!r}; known are {', '.join(PEAKS)}")
    flops, memory = PEAKS[name.lower()]
    return flops, memory * 1e9
