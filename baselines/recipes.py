"""Recipes of the transformers shipped under `scenes/`: a CPU form for two cores, a longer GPU form.

`NAME` learns captions and pictures, one of each a row, on `stock`, `train`, and draws without
documents. From it goes on `NAME-documents`, with documents of the memory bank before every query:
found by CLIP, or in bursts: for most queries about an entity they are chosen by its name and all
right. `NAME-plain` goes on from `NAME` on the same queries without documents. Queries are scenes of
`study`, documents those of the memory bank, none about the entities that never occur in `train`.
`val` gives the held-out loss; every evaluation split is in the dialect `coco`, which no model sees
before it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cm3leon.config import MODELS, ModelConfig, ObjectiveConfig, RetrievalConfig, TrainConfig
from cm3leon.drawing import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.scenes import SEEN

# Of pairs: half the paper's mask rate, as a short training wants more whole captions and pictures.
PAIRS = ObjectiveConfig(rate=0.5, p_full=0.5)
OBJECTIVE = ObjectiveConfig(rate=1.0, p_full=0.5)
# Found for each document in training: four by text. The paper takes two by text and two by picture
# and drops 20 % of a query's tokens; this CLIP seldom knows an entity by its look, and a name is
# six or seven tokens, so that dropping breaks most names: too few rows would pay for looking back.
FOUND = RetrievalConfig(documents=4, by="text", query_dropout=0.0)
# Of the steps with 0, 1, 2 and 3 documents (A20, A21). The paper has three; one right document
# teaches looking back as well as three do, in half the tokens.
SHARES = (0.1, 0.3, 0.35, 0.25)
DRAWN_WITH = RetrievalConfig(documents=2, by="text")  # two documents, found by the caption
# Chosen on `val` and on `tail` from 1,000 on (LOG.md): "bare" lets guidance strengthen what the
# documents say too.
DRAWN_AT = DecodeConfig(guidance=1.75, temperature=0.7, top_p=1.0, free="bare")
ROLES = ("-documents", "-plain")
# Of the queries about an entity: so many have documents chosen by its name.
BURSTS = 0.65
AGAIN = 2400  # steps of the second leg on a CPU
FEW_PLAIN = 10_000  # of the 20,000 plain scenes of `study`: those left out of the second stage


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of one baseline, given the tokenizers and the CLIP."""

    name: str  # of its folder
    model: ModelConfig
    train: TrainConfig
    split: str = "study"  # of `stock`: where queries come from
    pictures: int = SEEN  # scenes of the split, from the first on
    objective: ObjectiveConfig = OBJECTIVE
    shares: tuple[float, ...] = SHARES  # of the steps with 0, 1, .. documents before each sample
    retrieval: RetrievalConfig = FOUND  # of the neighbours in training
    start: str | None = None  # the baseline that it goes on from
    first: int = 0  # scene of the split
    bursts: float = 0.0  # share of the queries about an entity with documents chosen by its name
    again: TrainConfig | None = None  # a second leg: from the first one's weights, other rows

    @property
    def retrieves(self) -> bool:
        """Whether it is trained with documents."""
        return any(self.shares[1:])


def _schedule(steps: int, batch: int, rate: float) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch=batch,
        rate=rate,
        optimizer="muon",
        matrix_ratio=3.0,
        warmup=min(300, steps // 10),
        final=0.05,
        save_every=250,
        eval_every=500,
        log_every=50,
    )


def plain_twin(recipe: Recipe) -> Recipe:
    """The same training on the same queries, without documents: what retrieval is worth."""
    size = recipe.name.removesuffix("-documents")
    return replace(recipe, name=f"{size}-plain", shares=(1.0,), bursts=0.0)


def cpu_recipe(name: str) -> Recipe:
    """Up to two hours a stage on two cores (`scenes-m` is beyond them)."""
    rates = {"scenes-xs": 3e-3, "scenes-s": 1.5e-3}
    size, role = _parsed(name, rates, "CPU")
    first, later = _schedule(5500, 16, rates[size]), _schedule(4800, 12, 0.8 * rates[size])
    # The losses of the first leg still fell when its rate had (LOG.md). Half its rate, other rows.
    again = replace(_schedule(AGAIN, 12, 0.4 * rates[size]), seed=1)
    return _stage(size, first, 65_536, later, role, again)


def gpu_recipe(name: str) -> Recipe:
    """The same code, longer and in larger batches."""
    rates = {"scenes-xs": 3e-3, "scenes-s": 1.5e-3, "scenes-m": 8e-4}
    steps = {"scenes-xs": 20_000, "scenes-s": 30_000, "scenes-m": 40_000}
    size, role = _parsed(name, rates, "GPU")
    first = replace(_schedule(steps[size], 128, rates[size]), warmup=1000)
    later = _schedule(steps[size] // 6, 64, 0.8 * rates[size])
    return _stage(size, first, 409_600, later, role)


def _parsed(name: str, known: dict, form: str) -> tuple[str, str]:
    """Size and role that a name tells."""
    role = next((role for role in ROLES if name.endswith(role)), "")
    size = name.removesuffix(role)
    if size not in known:
        raise UserError(f"no {form} recipe for {name!r}; there is one for {', '.join(known)}")
    return size, role


def _stage(
    size: str,
    first: TrainConfig,
    pictures: int,
    later: TrainConfig,
    role: str,
    again: TrainConfig | None = None,
) -> Recipe:
    """The stage that a role names."""
    pairs = Recipe(size, MODELS[size](), first, "train", pictures, PAIRS, shares=(1.0,))
    if not role:
        return pairs
    second = Recipe(
        f"{size}-documents",
        pairs.model,
        later,
        start=size,
        first=FEW_PLAIN,
        bursts=BURSTS,
        again=again,
    )
    return second if role == "-documents" else plain_twin(second)


RECIPES = {"cpu": cpu_recipe, "gpu": gpu_recipe}
