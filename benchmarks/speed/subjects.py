"""The transformers whose speed is measured, and the prompts they draw from.

A subject is a shipped baseline (`scenes-s`), a size of cm3leon.config.MODELS (`7b`) or a shape,
layers x width x heads (`12x512x8`). All but the baselines have random weights: time does not depend
on what is drawn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.speed.ceilings import Shape, Work, decode_work
from cm3leon.config import MODELS, ModelConfig, VocabularyConfig
from cm3leon.errors import UserError

PROMPT = 32  # tokens before the picture, as of a caption of 30
SHAPES = VocabularyConfig(512, 4076, 16, multiple=64)  # 4,608 ids
SHAPE_TOKENS, PAPER_TOKENS, SCENES_TOKENS = 256, 1024, 64  # of one picture
CONTEXT = 2048  # positions of a shape
STD = 0.02  # of random weights
NOISE = 1_000_003  # random numbers, a prime: repeated, they give no two equal rows
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # of a layer's weight
STATE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2}  # of the head, keys and values
COMPUTE = {"float32": "float32", "bfloat16": "bfloat16", "int8": "bfloat16"}


@dataclass(frozen=True)
class Subject:
    """A transformer to be timed: its configuration, and where its weights are, if anywhere."""

    name: str
    config: ModelConfig
    tokens: int  # of one picture
    folder: Path | None = None

    @property
    def shape(self) -> Shape:
        """What a step reads: the head is needed for image ids alone."""
        head = self.config.vocabulary.image_size
        return Shape(self.config.layers, self.config.width, head)

    def work(self, dtype: str, batch: int, lengths: tuple[float, ...]) -> Work:
        """Work of a step of `batch` samples whose streams have so many tokens each."""
        rows, slots = batch * len(lengths), batch * sum(lengths)
        return decode_work(self.shape, rows, slots, WEIGHT_BYTES[dtype], STATE_BYTES[dtype])

    def weights_bytes(self, dtype: str) -> int:
        """Bytes of all weights; int8 ones are made from bfloat16."""

        return self.config.parameters * STATE_BYTES[dtype]

    def cache_bytes(self, dtype: str, rows: int, tokens: int) -> int:
        """Bytes of keys and values."""
        return 2 * self.config.layers * self.config.width * rows * tokens * STATE_BYTES[dtype]


def find_subject(name: str, new: int | None = None) -> Subject:
    """The subject of a name, drawing `new` tokens (default: one picture of its kind).

    Raises UserError for an unknown name, a shape that cannot be, or more tokens than positions.
    """
    found = _shape(name) or _shipped(name) or _size(name)
    if found is None:
        from cm3leon.loading import model_names

        known = ", ".join(dict.fromkeys([*model_names(), *MODELS]))
        raise UserError(f"unknown size {name!r}; known are {known} and shapes such as 12x512x8")
    found = found if new is None else replace(found, tokens=new)
    room = found.config.context - PROMPT
    if found.config.positions != "row":
        room = min(room, found.config.position_grid**2)
    if found.tokens > room:
        raise UserError(f"size {name} has room for {room} tokens, got --new {found.tokens}")
    return found


def _shape(name: str) -> Subject | None:
    numbers = re.fullmatch(r"(\d+)x(\d+)x(\d+)", name)
    if numbers is None:
        return None
    layers, width, heads = map(int, numbers.groups())
    try:
        config = ModelConfig(name, layers, width, heads, context=CONTEXT, vocabulary=SHAPES)
    except UserError as error:
        raise UserError(f"size {name}: {error}; a shape is layers x width x heads") from None
    return Subject(name, config, SHAPE_TOKENS)


def _shipped(name: str) -> Subject | None:
    from cm3leon import checkpoint
    from cm3leon.config import from_dict
    from cm3leon.loading import find_model, model_names

    if name not in model_names():
        return None
    folder = find_model(name)
    config = from_dict(ModelConfig, checkpoint.read_about(folder)["config"])
    return Subject(name, config, SCENES_TOKENS, folder)


def _size(name: str) -> Subject | None:
    if name not in MODELS:
        return None
    config = MODELS[name]()
    return Subject(name, config, SCENES_TOKENS if name.startswith("scenes") else PAPER_TOKENS)


def make_model(subject: Subject, dtype: str, device: str):
    """The transformer in `dtype` on `device`, in evaluation mode.

    Random weights are made where they are used, in their type: the largest needs no copy elsewhere.
    Raises UserError where int8 needs a package that is not there.
    """
    import torch

    from cm3leon.config import ModelConfig
    from cm3leon.engine.int8 import quantised
    from cm3leon.loading import load_module
    from cm3leon.model.transformer import Transformer

    state = getattr(torch, COMPUTE[dtype])
    if subject.folder is not None:
        model, _ = load_module(subject.folder, "transformer", ModelConfig, Transformer)
        model = model.to(device, state)
    else:
        with torch.device("meta"):
            model = Transformer(subject.config)
        model = model.to(state).to_empty(device=device)
        fill(model, subject.name)
    model = model.eval().requires_grad_(False)
    return quantised(model) if dtype == "int8" else model


def fill(module, name: str) -> None:
    """Weights from one stretch of normal numbers, repeated: the same on every device."""
    import torch

    from cm3leon.seeds import torch_generator

    noise = torch.empty(NOISE).normal_(0.0, STD, generator=torch_generator(0, "latency", name))
    with torch.no_grad():
        for weight in module.parameters():
            flat, part = weight.view(-1), noise.to(weight.device, weight.dtype)
            for start in range(0, len(flat), NOISE):
                flat[start : start + NOISE] = part[: len(flat) - start]


@dataclass(frozen=True)
class Drawing:
    """Prompts of a batch and the model that draws from them; every call draws the same tokens."""

    model: object
    subject: Subject
    batch: int
    guidance: float
    top_p: float
    engine: str = "auto"
    counters: dict = field(default_factory=dict)

    @cached_property
    def prompts(self) -> tuple[list, list | None]:
        """Captions of random text, all different, and their text-free twins under guidance."""
        from cm3leon.seeds import generator
        from cm3leon.sequence.documents import Vocabulary, build_prompt, build_unconditional_prompt

        vocabulary = Vocabulary.from_config(self.subject.config.vocabulary)
        draws = generator(0, "latency", "captions")
        texts = draws.integers(0, vocabulary.text_size, (self.batch, PROMPT - 2))
        prompts = [build_prompt(row.tolist(), [], vocabulary) for row in texts]
        bare = build_unconditional_prompt([], vocabulary)
        return prompts, None if self.guidance == 1 else [bare] * self.batch

    @property
    def streams(self) -> tuple[int, ...]:
        """Tokens of a sample's prompt in each stream."""
        streams = [stream for stream in self.prompts if stream is not None]
        return tuple(len(stream[0]) for stream in streams)

    def draw(self, tokens: int) -> np.ndarray:
        """Codes int64 [batch, tokens] on the host: whoever has them waited for the device."""
        from cm3leon.decoding.config import DecodeConfig
        from cm3leon.decoding.images import generate_images
        from cm3leon.decoding.loop import Decoder
        from cm3leon.seeds import uniforms
        from cm3leon.sequence.documents import Vocabulary

        decode = DecodeConfig(guidance=self.guidance, temperature=1.0, top_p=self.top_p)
        vocabulary = Vocabulary.from_config(self.subject.config.vocabulary)
        prompts, unconditional = self.prompts
        uniforms_BN = uniforms(range(self.batch), self.subject.tokens)[:, :tokens]
        decoder = Decoder(
            self.model, vocabulary, decode, counters=self.counters, engine=self.engine
        )
        codes_BN = generate_images(decoder, prompts, unconditional, uniforms_BN)
        return codes_BN.cpu().numpy()
