"""What a training will cost, before it begins: rows, tokens, steps, FLOPs, as the paper counts.

A pair is `<break>`-closed caption and picture; a row holds documents, a query and its `<eos>`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cm3leon.config import ModelConfig, PaperRecipe, TrainConfig
from cm3leon.errors import UserError
from cm3leon.model.transformer import parameter_count, vocabulary_size
from cm3leon.training.batches import PIECE_TOKENS
from cm3leon.training.loop import steps_for_tokens

MOST = 3  # documents before a query (section 2.1)
STATE_BYTES = 16  # a parameter: float32 weight, gradient and two moments


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
        return parameter_count(self.model)

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
        ids = vocabulary_size(model.vocabulary)
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
