"""Text from the cached loops against plain ones: full forward each step, one row at a time.

Axes as in cm3leon/text_decode.py.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.config import ModelConfig, VocabularyConfig
from cm3leon.decode import choose, combine
from cm3leon.drawing import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.seeds import derive, generator, torch_generator, uniforms
from cm3leon.sequence import Vocabulary
from cm3leon.text_decode import BeamConfig, Continuation, beam_text, continue_text
from cm3leon.transformer import Transformer

CONTEXT, MOST = 32, 14
GREEDY = DecodeConfig(guidance=1.0, temperature=0.0)
SAMPLED = DecodeConfig(guidance=1.0, temperature=1.0)
DECODES = [
    GREEDY,
    SAMPLED,
    DecodeConfig(guidance=2.5, temperature=0.0),
    DecodeConfig(guidance=1.7, temperature=0.9, top_p=0.9),
    DecodeConfig(guidance=0.0, temperature=1.3, top_k=5),
    DecodeConfig(strategy="contrast", alpha=0.3, k=4, temperature=1.0),
    DecodeConfig(strategy="contrast", alpha=0.1, k=1, temperature=0.0),
]


def random_model(text_size: int) -> Transformer:
    """Random in every matrix, so that text, position and every drawn token move the logits."""
    vocabulary = VocabularyConfig(text_size, 7, 4, 8)
    config = ModelConfig("tiny", 2, 32, 4, context=CONTEXT, vocabulary=vocabulary)
    model = Transformer(config).eval().requires_grad_(False)
    weights = torch_generator(1, "test weights")
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=weights) * 0.25)
    return model


MODEL = random_model(12)
VOCABULARY = Vocabulary.from_config(MODEL.config.vocabulary)


def prompts_for(count: int, kind: str, longest: int = 25) -> list[np.ndarray]:
    random = generator(0, kind)
    return [
        random.integers(0, VOCABULARY.size, random.integers(1, longest + 1)) for _ in range(count)
    ]


PROMPTS, FREE = prompts_for(17, "prompts"), prompts_for(17, "free", 9)
UNIFORMS = uniforms([derive(0, index) for index in range(17)], MOST)


def distribution(model, vocabulary, streams, drawn: list[int], decode) -> torch.Tensor:
    """Combined logits [1, V] of the token after what was drawn: no cache, no batch, whole head."""
    rows = [torch.tensor(np.concatenate([ids, np.array(drawn, np.int64)])) for ids in streams]
    logits = [model(row[None])[:, -1] for row in rows]
    allowed = [*range(vocabulary.text_size), vocabulary.eom]
    return combine(*[one[:, allowed] for one in logits], decode)


def plain(prompt, free, uniforms_M, decode, model=MODEL, vocabulary=VOCABULARY) -> Continuation:
    """The definition of what is drawn."""
    drawn, score, stop = [], 0.0, vocabulary.text_size
    streams = (prompt, free)
    room = CONTEXT - (len(prompt) if decode.streams == 1 else max(len(prompt), len(free)))
    for uniform in uniforms_M[:room]:
        logits_1V = distribution(model, vocabulary, streams, drawn, decode)
        token = int(choose(logits_1V, torch.tensor([uniform]), decode))
        score += logits_1V.double().log_softmax(-1)[0, token].item()
        if token == stop:
            return Continuation(tuple(drawn), score, True)
        drawn.append(token)
    return Continuation(tuple(drawn), score, False)


def same(found: Continuation, wanted: Continuation) -> bool:
    return (found.ids, found.finished) == (wanted.ids, wanted.finished) and abs(
        found.score - wanted.score
    ) < 1e-3


@pytest.mark.parametrize("decode", DECODES, ids=str)
def test_equals_the_plain_loop(decode):
    found = continue_text(MODEL, VOCABULARY, PROMPTS, FREE, UNIFORMS, decode)
    wanted = [plain(*row, decode) for row in zip(PROMPTS, FREE, UNIFORMS, strict=True)]
    assert all(map(same, found, wanted)), (found, wanted)
    assert len({one.ids for one in found}) > 8  # a model worth testing


def test_rows_end_in_every_way():
    """By <eom>, by the count and by the context: the tests above see all three."""
    found = continue_text(MODEL, VOCABULARY, PROMPTS, FREE, UNIFORMS, SAMPLED)
    cut = [len(one.ids) for one in found if not one.finished]
    assert any(one.finished for one in found) and MOST in cut and min(cut) < MOST
