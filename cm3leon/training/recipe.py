"""What decides the weights of a pretraining, given its data; and the shape of its model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from cm3leon.checkpoint import read_json
from cm3leon.config import (
    MODELS,
    ModelConfig,
    ObjectiveConfig,
    RetrievalConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from cm3leon.errors import UserError

FOUND = RetrievalConfig(documents=4)  # two by text, two by picture, dropout 20 % (section 2.1)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, given the data. `recompute` moves memory alone."""

    model: ModelConfig
    train: TrainConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    shares: tuple[float, ...] = (1.0,)  # of the steps with 0, 1, .. documents before each sample
    retrieval: RetrievalConfig = FOUND  # of the neighbours in training
    accumulate: int = 1  # pieces of a batch
    recompute: bool = False  # blocks' activations are made again in the backward pass

    @property
    def documents(self) -> int:
        """The most that stand before a sample."""
        return max((at for at, share in enumerate(self.shares) if share), default=0)

    @property
    def mean_documents(self) -> float:
        """How many stand before a sample on average."""
        return sum(at * share for at, share in enumerate(self.shares))

    @property
    def retrieves(self) -> bool:
        """Whether it is trained with documents."""
        return self.documents > 0

    @property
    def about(self) -> dict:
        """What names it beside model and training settings."""
        about = {"objective": to_dict(self.objective), "shares": list(self.shares)}
        return about | ({"neighbours": to_dict(self.retrieval)} if self.retrieves else {})


def find_model_config(name: str) -> ModelConfig:
    """A model's shape: a name of `config.MODELS`, or a JSON file with ModelConfig's fields."""
    if name in MODELS:
        return MODELS[name]()
    if not name.endswith(".json"):
        raise UserError(f"unknown model {name!r}; name {', '.join(MODELS)} or a .json file")
    values = read_json(Path(name))
    try:
        return from_dict(ModelConfig, values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def fitted(model: ModelConfig, text_size: int, codes: int, grid: int, fit: bool) -> ModelConfig:
    """The model, if its vocabulary, and its places for a picture of `grid` x `grid` codes, are
    those of the tokenizers; with `fit` made to be.

    Raises UserError naming the part that differs.
    """
    places = model.position_grid if model.positions == "row" else grid
    if fit:
        vocabulary = replace(model.vocabulary, text_size=text_size, image_size=codes)
        return replace(model, vocabulary=vocabulary, position_grid=places)
    if places != model.position_grid:
        raise UserError(
            f"model {model.name} has places for pictures of {model.position_grid} x "
            f"{model.position_grid} codes, the image tokenizer makes {grid} x {grid}; take another "
            "tokenizer, or --fit-vocabulary for the tokenizers' sizes"
        )
    for part, wanted, found in (
        ("text", model.vocabulary.text_size, text_size),
        ("image", model.vocabulary.image_size, codes),
    ):
        if wanted != found:
            raise UserError(
                f"model {model.name} has {wanted} {part} ids, the {part} tokenizer {found}; take "
                "another tokenizer, or --fit-vocabulary for the tokenizers' sizes"
            )
    return model
