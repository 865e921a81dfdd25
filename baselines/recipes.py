"""Recipes of the transformers shipped under `scenes/`: a CPU form for two cores, a longer GPU form.

`NAME` is retrieval-augmented from its first step (section 2.1): 0 to 3 documents of the memory bank
before every query, found by CLIP, or in bursts: for most queries about an entity they are chosen by
its name and all right. `NAME-plain` is its twin: the same queries in the same order without
documents, until it has taken as many tokens, which is as many FLOPs; a branch of it ends where it
has seen as many queries. Queries are scenes of `train`, as often about entities as `natural` asks
for them, and of `study`; documents those of the memory bank, none about the entities that never
occur in training. The rate is warmed up, stable and decayed at the end: more tokens later go on
from the stable part. `val` gives the held-out loss; every evaluation split is in the dialect
`coco`, which no model sees before it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cm3leon.config import MODELS, ObjectiveConfig, RetrievalConfig, TrainConfig
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.training.recipe import Recipe as PretrainingRecipe
from cm3leon.world.scenes import ABOUT_ONE, PLAIN, SEEN_ENTITIES

OBJECTIVE = ObjectiveConfig(rate=0.5, p_full=0.5)
# Found for each document in training: four by text. The paper takes two by text and two by picture
# and drops 20 % of a query's tokens; this CLIP seldom knows an entity by its look, and a name is
# six or seven of its tokens, so that dropping breaks most names: too few rows would pay for looking
# back.
FOUND = RetrievalConfig(documents=4, by="text", query_dropout=0.0)
# Of the steps with 0, 1, 2 and 3 documents (A20, A21). The paper has three; one right document
# teaches looking back as well as three do, in half the tokens.
SHARES = (0.1, 0.3, 0.35, 0.25)
DRAWN_WITH = RetrievalConfig(documents=2, by="text")  # two documents, found by the caption
# Chosen on `val` and on `tail` from 1,000 on for `scenes-s` (`choose_decoding --write` names each
# model's own in its config.json): "bare" lets guidance strengthen what the documents say too.
DRAWN_AT = DecodeConfig(guidance=1.5, temperature=0.6, top_p=1.0, unconditional="bare")
PLAIN_ROLE = "-plain"
KEEP_EVERY = 600  # steps between the states of the stable part that stay
# Of the queries about an entity: so many have documents chosen by its name.
BURSTS = 0.65


@dataclass(frozen=True)
class Part:
    """Scenes of a split of `stock`: `count` from the scene `first` on."""

    split: str
    first: int
    count: int


# Ordinary scenes and entities as in `natural`; and each entity six times among other objects.
ABOUT_ENTITIES = Part("study", PLAIN, ABOUT_ONE * SEEN_ENTITIES)
QUERIES = (Part("train", 0, 98_304), ABOUT_ENTITIES)
MANY_QUERIES = (Part("train", 0, 491_520), ABOUT_ENTITIES)


@dataclass(frozen=True)
class Recipe(PretrainingRecipe):
    """Everything that decides the weights of one baseline, given the tokenizers and the CLIP."""

    objective: ObjectiveConfig = OBJECTIVE
    shares: tuple[float, ...] = SHARES
    retrieval: RetrievalConfig = FOUND
    name: str = ""  # of its folder
    queries: tuple[Part, ...] = QUERIES
    bursts: float = BURSTS  # share of the queries about an entity with documents chosen by its name
    start: str | None = None  # the baseline whose weights it begins with


def _schedule(steps: int, batch: int, rate: float) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch=batch,
        rate=rate,
        optimizer="muon",
        matrix_ratio=3.0,
        warmup=min(300, steps // 10),
        schedule="wsd",
        decay=steps // 5,
        final=0.0,
        save_every=100,
        keep_every=KEEP_EVERY,
        eval_every=300,
        log_every=50,
    )


def with_budget(recipe: Recipe, steps: int) -> Recipe:
    """The same training of about so many steps, of which the same share is the decay: a branch of
    the stable part that all budgets have in common, from one of its kept states.
    """
    train = recipe.train
    share, every = train.decay / train.steps, train.keep_every or 1
    start = max(1, round(steps * (1 - share) / every)) * every
    decay = max(1, round(start * share / (1 - share)))
    return replace(recipe, train=replace(train, steps=start + decay, decay=decay))


def plain_twin(recipe: Recipe, steps: int | None = None) -> Recipe:
    """The same training on the same queries in the same order, without documents; with `steps` of
    another budget.
    """
    if steps:
        recipe = with_budget(recipe, steps)
    return replace(recipe, name=recipe.name + PLAIN_ROLE, shares=(1.0,), bursts=0.0)


def cpu_recipe(name: str) -> Recipe:
    """Hours on two cores (`scenes-m` is beyond them)."""
    rates = {"scenes-xs": 4e-3, "scenes-s": 2e-3}
    return _recipe(name, rates, {"scenes-xs": 3_000, "scenes-s": 6_000}, 24, QUERIES, "CPU")


def gpu_recipe(name: str) -> Recipe:
    """The same code, longer and in larger batches."""
    rates = {"scenes-xs": 3e-3, "scenes-s": 1.5e-3, "scenes-m": 8e-4}
    steps = {"scenes-xs": 10_000, "scenes-s": 15_000, "scenes-m": 20_000}
    return _recipe(name, rates, steps, 128, MANY_QUERIES, "GPU")


def _recipe(
    name: str, rates: dict, steps: dict, batch: int, queries: tuple[Part, ...], form: str
) -> Recipe:
    """The recipe that a name tells. A row with documents is 2.7 times as long as one without."""
    size = name.removesuffix(PLAIN_ROLE)
    if size not in rates:
        raise UserError(f"no {form} recipe for {name!r}; there is one for {', '.join(rates)}")
    train = _schedule(steps[size], batch, rates[size])
    recipe = Recipe(MODELS[size](), train, name=size, queries=queries)
    if name == size:
        return recipe
    return plain_twin(recipe, steps=round(2.7 * steps[size]))


RECIPES = {"cpu": cpu_recipe, "gpu": gpu_recipe}
