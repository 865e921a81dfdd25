"""Every knob: frozen dataclasses that check themselves; presets are functions.

A value outside its range raises UserError with one line. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol, TypeVar

from cm3leon.errors import UserError


def check(condition: bool, name: str, rule: str, value) -> None:
    """Raise `name must rule, got value` unless the condition holds."""
    if not condition:
        raise UserError(f"{name} must {rule}, got {value!r}")


SPECIALS = 4  # <pad> <eos> <break> <eom>


@dataclass(frozen=True)
class VocabularyConfig:
    """Sizes of the one id space (FACTS 0.1): text | image codes | sentinels | specials | filler."""

    text_size: int = 1024
    image_size: int = 1664
    sentinels: int = 16
    multiple: int = 64  # the whole is padded up to a multiple of this

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            check(value >= 1, f"vocabulary.{field.name}", "be at least 1", value)

    @property
    def size(self) -> int:
        """Rows of the embedding: all ids, padded up to a multiple of `multiple`."""
        ids = self.text_size + self.image_size + self.sentinels + SPECIALS
        return -(-ids // self.multiple) * self.multiple


POSITIONS = ("row", "anchored", "grid")
PAPER_VOCABULARY = VocabularyConfig(56_320, 8_192, 512, multiple=512)  # pads to 65,536


@dataclass(frozen=True)
class ModelConfig:
    """Decoder-only transformer of Table 3: pre-norm, no biases, plain LayerNorm, ReLU, 4d FFN."""

    name: str
    layers: int
    width: int
    heads: int
    context: int = 4096  # tokens of a row
    vocabulary: VocabularyConfig = PAPER_VOCABULARY
    init_std: float = 0.006  # truncated normal, cut at 3 standard deviations
    position_std: float = 0.0002
    tied: bool = True  # A2: input and output embeddings share one matrix
    # Where a token stands (A61, `positions.py`): "row", its index in the row; "anchored", its index
    # in its text or its cell of its picture; "grid", the same with a vector for rows and columns.
    positions: str = "row"
    position_text: int = 128  # places of a text; of "anchored" and "grid"
    position_grid: int = 32  # codes a side of a picture; likewise
    position_pairs: int = 4  # texts with their pictures in a row; likewise

    def __post_init__(self):
        sizes = ("layers", "width", "heads", "context")
        for name in (*sizes, "position_text", "position_grid", "position_pairs"):
            check(getattr(self, name) >= 1, f"model.{name}", "be at least 1", getattr(self, name))
        check(
            self.positions in POSITIONS,
            "model.positions",
            f"be one of {', '.join(POSITIONS)}",
            self.positions,
        )
        check(
            self.width % self.heads == 0,
            "model.width",
            f"be a multiple of model.heads ({self.heads})",
            self.width,
        )
        check(0 < self.init_std < math.inf, "model.init_std", "be positive", self.init_std)
        check(
            0 <= self.position_std < math.inf,
            "model.position_std",
            "not be negative",
            self.position_std,
        )

    @property
    def parameters(self) -> int:
        """Of the network; a tied head is counted once."""
        tables = self.vocabulary.size * (1 if self.tied else 2) + self.position_vectors
        return tables * self.width + 12 * self.layers * self.width**2

    @property
    def position_vectors(self) -> int:
        """Learned position vectors: one a place, or those that the places of a grid are sums of."""
        if self.positions != "grid":
            return self.places
        return self.position_text + 2 * self.position_grid + 2 * (self.position_pairs + 1)

    @property
    def places(self) -> int:
        """Rows of the position table: places that a token can have."""
        if self.positions == "row":
            return self.context
        # Behind the last pair one more: of the <break> or <eos> that ends it.
        return self.position_pairs * self.pair_places + 1

    @property
    def pair_places(self) -> int:
        """Places of one text and one picture."""
        return self.position_text + self.position_grid**2


def cm3leon_350m() -> ModelConfig:
    """Table 3, row 1: 373.3M parameters with tied embeddings."""
    return ModelConfig("350m", layers=24, width=1024, heads=16)


def cm3leon_760m() -> ModelConfig:
    """Table 3, row 2: 786.4M parameters."""
    return replace(cm3leon_350m(), name="760m", width=1536)


def cm3leon_7b() -> ModelConfig:
    """Table 3, row 3: 6,727.7M parameters, 32 heads of 128."""
    return replace(cm3leon_350m(), name="7b", layers=32, width=4096, heads=32)


@dataclass(frozen=True)
class PaperRecipe:
    """How Table 3 trained one size; its "8M" tokens a step are 8e6 (FACTS 0.4)."""

    rate: float  # peak learning rate
    tokens: float  # in all
    batch_tokens: float = 8e6
    warmup: int = 1500  # steps


def paper_recipe(name: str) -> PaperRecipe | None:
    """Table 3's training of a model of `MODELS`; None for one that is not the paper's."""
    known = {"350m": (6e-4, 1.4e12), "760m": (5e-4, 1.9e12), "7b": (1.2e-4, 2.4e12)}
    return PaperRecipe(*known[name]) if name in known else None


def scenes_s() -> ModelConfig:
    """The embedded world's middle size, about 5M parameters; the wider init learns well at this
    width.
    """
    return ModelConfig(
        "scenes-s",
        layers=6,
        width=256,
        heads=8,
        context=512,
        vocabulary=VocabularyConfig(),
        init_std=0.02,
        position_std=0.02,
        positions="grid",
        position_grid=8,
    )


def scenes_xs() -> ModelConfig:
    """The embedded world's smallest size, about 1M parameters."""
    return replace(scenes_s(), name="scenes-xs", layers=4, width=128, heads=4)


def scenes_m() -> ModelConfig:
    """The embedded world's largest size, about 20M parameters."""
    return replace(scenes_s(), name="scenes-m", layers=10, width=400, heads=10)


MODELS: dict[str, Callable[[], ModelConfig]] = {
    "350m": cm3leon_350m,
    "760m": cm3leon_760m,
    "7b": cm3leon_7b,
    "scenes-xs": scenes_xs,
    "scenes-s": scenes_s,
    "scenes-m": scenes_m,
}


@dataclass(frozen=True)
class ObjectiveConfig:
    """CM3 masking (FACTS 1.5, A13-A18): each open point of the paper is an option here."""

    rate: float = 1.0  # lambda of the Poisson draw of the number of spans
    fewest: int = 0  # lower clamp of the count: 0 public code, 1 CM3 paper (A13)
    most: int = 16  # upper clamp, further bounded by the number of sentinels
    p_full: float = 0.5  # probability that the masked spans are whole segments (FACTS 1.4; ours)
    spans: str = (
        "segment"  # A14: "segment" draws inside one segment; "block" over the block, then clips
    )
    cross_break: bool = False  # True: spans may cross <break>, as in the original CM3 (H6)
    sentinel_weight: float = 0.0  # loss weight of predicting a sentinel: 0 paper, 1 code (A17)
    document_weight: float = 1.0  # loss weight of retrieved documents: 0.1 RA-CM3, 1 CM3Leon (A18)

    def __post_init__(self):
        check(0 <= self.rate < math.inf, "objective.rate", "be finite, not negative", self.rate)
        check(self.fewest >= 0, "objective.fewest", "not be negative", self.fewest)
        check(
            self.most >= max(1, self.fewest),
            "objective.most",
            "be at least 1 and objective.fewest",
            self.most,
        )
        check(0 <= self.p_full <= 1, "objective.p_full", "lie in [0, 1]", self.p_full)
        check(
            self.spans in ("segment", "block"),
            "objective.spans",
            "be 'segment' or 'block'",
            self.spans,
        )
        for name in ("sentinel_weight", "document_weight"):
            value = getattr(self, name)
            check(0 <= value < math.inf, f"objective.{name}", "be finite, not negative", value)


LOSSES = ("all", "target", "cm3")


@dataclass(frozen=True)
class RowsConfig:
    """How records of tasks become rows; each open point of the paper's section 4 is an option.

    `loss` "all", the paper's literal text ("combine instruction and output"): on every token;
    "target": on the target, and on what closes it, alone; "cm3": as in pretraining, on every token
    of a row whose masked spans are drawn (`objective`) instead of chosen. `balance` divides a row's
    weights by their sum to that power: at 0 every token counts alike, a picture 64 times as much as
    an answer of one word, at 1 every row.
    """

    loss: str = "all"
    balance: float = 0.0
    rotated: float = 1.0  # share of rows whose answer is moved behind them; of "all" and "target"
    drop_text: float = 0.05  # shares of rows without the prompt's text, without its pictures,
    drop_image: float = 0.05  # without both: what guidance by two weights compares
    drop_both: float = 0.05
    objective: ObjectiveConfig = ObjectiveConfig()

    def __post_init__(self):
        check(self.loss in LOSSES, "rows.loss", f"be one of {', '.join(LOSSES)}", self.loss)
        for name in ("balance", "rotated", "drop_text", "drop_image", "drop_both"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"rows.{name}", "lie in [0, 1]", value)
        total = self.drop_text + self.drop_image + self.drop_both
        check(total <= 1, "rows.drop_text, drop_image and drop_both", "add up to at most 1", total)


@dataclass(frozen=True)
class RetrievalConfig:
    """Which documents stand before a query (section 2.1; A22-A28)."""

    documents: int = 2  # in the context, 0 to 4
    by: str = "both"  # lists: of the query's "text", of its "image", or "both"
    each: int = 2  # documents of each list where there are two
    threshold: float = 0.9  # highest score against the query and against those chosen (A24)
    order: str = "ranked"  # "ranked", best first, or "shuffled", drawn from the lists (A22)
    modality: str = "both"  # of a document: "both", its "text" alone or its "image" alone
    query_dropout: float = 0.2  # of the query's CLIP text tokens, in training (A26)

    def __post_init__(self):
        check(0 <= self.documents <= 4, "retrieval.documents", "lie in 0..4", self.documents)
        for name in ("by", "modality"):
            value = getattr(self, name)
            check(
                value in ("text", "image", "both"),
                f"retrieval.{name}",
                "be 'text', 'image' or 'both'",
                value,
            )
        check(1 <= self.each <= 4, "retrieval.each", "lie in 1..4", self.each)
        check(
            self.by != "both" or self.documents <= 2 * self.each,
            "retrieval.documents",
            f"be at most two lists of retrieval.each ({self.each})",
            self.documents,
        )
        check(-1 <= self.threshold < math.inf, "retrieval.threshold", "be >= -1", self.threshold)
        check(
            self.order in ("ranked", "shuffled"),
            "retrieval.order",
            "be 'ranked' or 'shuffled'",
            self.order,
        )
        check(
            0 <= self.query_dropout < 1,
            "retrieval.query_dropout",
            "lie in [0, 1)",
            self.query_dropout,
        )


@dataclass(frozen=True)
class VQConfig:
    """Convolutional VQGAN in taming-transformers' layout; stride 2 ** (len(multipliers) - 1)."""

    resolution: int = 64  # pixels a side it was trained on
    channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    blocks: int = 1  # residual blocks a level (decoder: one more)
    # Side lengths at which self-attention stands, and with any also in the middle. taming has
    # it there always: its `attn_resolutions: []` is (0,) here; () has none at all.
    attention: tuple[int, ...] = (8,)
    z_channels: int = 64
    codebook_size: int = 512
    code_dim: int = 64
    # "nearest" (VQModel), "unit" (LlamaGen: the same among vectors of length 1) or "gumbel"
    # (GumbelVQ: argmax of a 1x1 convolution).
    quantiser: str = "nearest"
    # What a code may depend on: "picture" (taming's encoder, all of it) or "cell" (its own stride x
    # stride pixels: codes that repeat exactly, which is what a small language model can learn).
    reach: str = "picture"
    groups: int = 0  # of every GroupNorm: 32 in all public tokenizers; 0: by width, `vq.normalise`
    decodes: bool = True  # False: weights without a decoder (transformers' Chameleon)

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))
        for name in ("channels", "blocks", "z_channels", "codebook_size", "code_dim"):
            check(getattr(self, name) >= 1, f"vq.{name}", "be at least 1", getattr(self, name))
        check(len(self.multipliers) >= 1, "vq.multipliers", "not be empty", self.multipliers)
        check(
            all(multiplier >= 1 for multiplier in self.multipliers),
            "vq.multipliers",
            "each be at least 1",
            self.multipliers,
        )
        check(
            self.resolution >= 1 and self.resolution % self.stride == 0,
            "vq.resolution",
            f"be a positive multiple of the stride {self.stride}",
            self.resolution,
        )
        check(
            self.quantiser in ("nearest", "unit", "gumbel"),
            "vq.quantiser",
            "be 'nearest', 'unit' or 'gumbel'",
            self.quantiser,
        )
        check(
            self.reach in ("picture", "cell"),
            "vq.reach",
            "be 'picture' or 'cell'",
            self.reach,
        )
        narrow = math.gcd(*(self.channels * multiplier for multiplier in self.multipliers))
        check(
            self.groups >= 0 and narrow % (self.groups or 1) == 0,
            "vq.groups",
            f"be 0 or divide every width (all multiples of {narrow})",
            self.groups,
        )

    @property
    def stride(self) -> int:
        """Pixels a code is wide."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """Codes a side at the training resolution; tokens of an image = grid ** 2."""
        return self.resolution // self.stride


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Its rate (`schedule.py`): linear warm-up, then linear to `final` of the
    peak, at once (A10) or in the last `decay` steps alone ("wsd": warm-up, stable, decay).
    """

    steps: int = 1000
    batch: int = 32  # samples a step
    rate: float = 2e-3  # peak learning rate
    warmup: int = 100  # steps
    final: float = 0.1  # last learning rate as a share of the peak
    schedule: str = "linear"  # or "wsd"
    decay: int = 0  # wsd: steps of the decay; with 0 the stable part stays open-ended
    betas: tuple[float, float] = (0.9, 0.98)  # A9
    weight_decay: float = 0.1
    clip: float = 1.0  # L2 norm of the whole gradient
    optimizer: str = "adamw"  # or "muon": orthogonalised momentum for the matrices of the blocks
    matrix_ratio: float = 2.0  # muon's rate for them, as a multiple of `rate`
    precision: str = "auto"  # "auto": bf16 where the device has it; "float32"; "bfloat16"
    seed: int = 0
    save_every: int = 200  # steps between checkpoints
    keep_every: int = 0  # wsd: steps between states of the stable part that stay; 0: its last alone
    eval_every: int = 200  # steps between held-out losses
    log_every: int = 20

    def __post_init__(self):
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("steps", "batch", "save_every", "eval_every", "log_every"):
            check(getattr(self, name) >= 1, f"train.{name}", "be at least 1", getattr(self, name))
        check(
            self.schedule in ("linear", "wsd"),
            "train.schedule",
            "be 'linear' or 'wsd'",
            self.schedule,
        )
        for name in ("decay", "keep_every"):
            value = getattr(self, name)
            check(value >= 0, f"train.{name}", "not be negative", value)
            check(
                value == 0 or self.schedule == "wsd",
                f"train.{name}",
                "be 0 unless train.schedule is 'wsd'",
                value,
            )
        room = "train.steps - train.decay" if self.decay else "train.steps"
        check(
            0 <= self.warmup <= self.steps - self.decay,
            "train.warmup",
            f"lie in [0, {room}]",
            self.warmup,
        )
        check(self.rate > 0 and math.isfinite(self.rate), "train.rate", "be positive", self.rate)
        check(0 <= self.final <= 1, "train.final", "lie in [0, 1]", self.final)
        check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "train.betas",
            "be two numbers in [0, 1)",
            self.betas,
        )
        check(self.weight_decay >= 0, "train.weight_decay", "not be negative", self.weight_decay)
        check(self.clip > 0, "train.clip", "be positive", self.clip)
        check(
            self.optimizer in ("adamw", "muon"),
            "train.optimizer",
            "be 'adamw' or 'muon'",
            self.optimizer,
        )
        check(
            0 < self.matrix_ratio < math.inf,
            "train.matrix_ratio",
            "be positive and finite",
            self.matrix_ratio,
        )
        check(
            self.precision in ("auto", "float32", "bfloat16"),
            "train.precision",
            "be 'auto', 'float32' or 'bfloat16'",
            self.precision,
        )

    @property
    def decay_start(self) -> int:
        """The last step at the peak rate."""
        return self.warmup if self.schedule == "linear" else self.steps - self.decay

    def keeps(self, step: int) -> bool:
        """Whether the state of a step stays for later branches: one of the stable part."""
        if self.schedule == "linear" or not self.warmup <= step <= self.decay_start:
            return False
        return step == self.decay_start or bool(self.keep_every and step % self.keep_every == 0)


def to_dict(config) -> dict:
    """Plain JSON-able dict of a configuration (tuples become lists), its keys as files call them:
    a field that got another name since keeps the first there (`STORED` of its class).
    """
    stored = getattr(config, "STORED", {})
    return {
        stored.get(key, key): list(value) if isinstance(value, tuple) else value
        for key, value in asdict(config).items()
    }


class Configuration(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Made = TypeVar("Made", bound=Configuration)


def from_dict(kind: type[Made], values: dict) -> Made:
    """Build the dataclass `kind` from a plain dict, e.g. of a config.json.

    An unknown or missing key and a value of another type are UserErrors, as are values out of
    range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} must be a mapping, got {type(values).__name__}")
    fresh = {old: new for new, old in getattr(kind, "STORED", {}).items()}
    values = {fresh.get(key, key): value for key, value in values.items()}
    known = {field.name for field in fields(kind)}
    if strange := sorted(set(values) - known):
        raise UserError(f"{kind.__name__} has no field {strange[0]!r}; it has {sorted(known)}")
    for field in fields(kind):
        if field.name in values and not _fits(values[field.name], str(field.type)):
            name, value = f"{kind.__name__}.{field.name}", values[field.name]
            raise UserError(f"{name} must be of type {field.type}, got {value!r}")
    if kind is ModelConfig and "vocabulary" in values:
        values["vocabulary"] = from_dict(VocabularyConfig, values["vocabulary"])
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if lacking := [name for name in needed if name not in values]:
        raise UserError(f"{kind.__name__} lacks {', '.join(map(repr, lacking))}")
    return kind(**values)


def _fits(value, wanted: str) -> bool:
    """Whether a plain value is of the type a field names; types we do not know fit anything."""
    if wanted.startswith("tuple["):
        inner = wanted.removeprefix("tuple[").split(",")[0]
        return isinstance(value, list | tuple) and all(_fits(part, inner) for part in value)
    if wanted == "bool":
        return isinstance(value, bool)
    known = {"int": Integral, "float": Real, "str": str}
    return isinstance(value, known.get(wanted, object)) and not (
        wanted in ("int", "float") and isinstance(value, bool)
    )
