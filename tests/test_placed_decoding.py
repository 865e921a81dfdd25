"""What is drawn under all readings of positions, against loops that place and read every row anew.

Axes as in cm3leon/generate.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cm3leon import fused_step
from cm3leon.config import ModelConfig, VocabularyConfig
from cm3leon.decode import choose, combine
from cm3leon.drawing import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.generate import generate_images, pad
from cm3leon.positions import place, table_rows
from cm3leon.seeds import generator, torch_generator, uniforms
from cm3leon.sequence import (
    FREE_READINGS,
    Document,
    Image,
    Text,
    Vocabulary,
    build_free_prompt,
    build_prompt,
    build_sample,
)
from cm3leon.transformer import Transformer

CODES, KINDS = 9, ("row", "anchored", "grid")
CONFIGS = {
    kind: ModelConfig(
        "tiny", 2, 16, 2, 120, VocabularyConfig(12, 16, 6, 8), positions=kind,
        position_text=10, position_grid=3,
    )
    for kind in KINDS
}  # fmt: skip
VOCABULARY = Vocabulary.from_config(CONFIGS["row"].vocabulary)
IMAGES = slice(VOCABULARY.image_start, VOCABULARY.image_end)
DECODE = DecodeConfig(guidance=1.7, temperature=1.0)


def random_model(kind: str) -> Transformer:
    """Random in every matrix, so that a token at another place moves the logits."""
    model, weights = Transformer(CONFIGS[kind]).eval(), torch_generator(1, "placed")
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=weights) * 0.4)
    return model.requires_grad_(False)


MODELS = {kind: random_model(kind) for kind in KINDS}
RANDOM = generator(0, "placed decoding")


def pairs(count: int) -> list[Document]:
    return [
        Document.pair(RANDOM.integers(0, 12, RANDOM.integers(1, 8)), RANDOM.integers(0, 16, CODES))
        for _ in range(count)
    ]


# Queries with none to three documents; of the others one is a text and one a picture alone.
QUERIES = [(pairs(1)[0], pairs(row % 4)) for row in range(7)]
QUERIES.append((pairs(1)[0], [Document((Image(range(CODES)),)), Document((Text((1, 2)),))]))


def whole(model: Transformer, rows, follows: int, hidden=None) -> torch.Tensor:
    """Logits [R, V] behind rows: placed and read from scratch, no cache. What follows is not read:
    it tells a sentinel before it whether it hides a text or a picture.
    """
    told = hidden or [None] * len(rows)
    places = [
        place([*row, follows], VOCABULARY, model.config, own)[:-1]
        for row, own in zip(rows, told, strict=True)
    ]
    (ids_RT, lengths_R), (places_RT, _) = pad(rows, 0), pad(places, 0)
    return model(ids_RT, places_RT)[torch.arange(len(rows)), lengths_R - 1]


def plain(model: Transformer, streams, uniforms_BN, decode: DecodeConfig) -> list[list[int]]:
    """The definition of what is drawn: codes behind prompts, stream by stream."""
    rows, codes_NB = [list(prompt) for prompts in streams for prompt in prompts], []
    for uniforms_B in uniforms_BN.T:
        logits = whole(model, rows, IMAGES.start)[:, IMAGES].chunk(len(streams))
        mixed = combine(logits[0], logits[1] if len(logits) == 2 else None, decode)
        codes_NB.append(choose(mixed, torch.tensor(uniforms_B), decode).tolist())
        for row, code in zip(rows, codes_NB[-1] * len(streams), strict=True):
            row.append(IMAGES.start + code)
    return np.array(codes_NB).T.tolist()


@pytest.mark.parametrize("reading", FREE_READINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_equal_the_plain_loop(kind, reading):
    """None to three documents, ragged, beside each other and alone; all streams of guidance."""
    model, noise = MODELS[kind], uniforms(range(len(QUERIES)), CODES)
    prompts = [build_prompt(query.segments[0].ids, before, VOCABULARY) for query, before in QUERIES]
    free = [build_free_prompt(before, VOCABULARY, reading) for _, before in QUERIES]
    found = generate_images(model, VOCABULARY, prompts, free, noise, DECODE).tolist()
    assert found == plain(model, [prompts, free], noise, DECODE)
    for row in (0, 3, 7):
        own = slice(row, row + 1)
        asked = (prompts[own], free[own], noise[own], DECODE)
        assert generate_images(model, VOCABULARY, *asked).tolist() == found[own]
    assert len({tuple(codes) for codes in found}) == len(QUERIES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_is_seen(kind):
    """The tests here are worth nothing if a token at another place gave the same logits."""
    model, (query, before) = MODELS[kind], QUERIES[2]
    ids = build_sample(query, before, VOCABULARY)
    places = place(ids, VOCABULARY, model.config)
    other = places.copy()
    other[-1] -= 1
    logits = [model(torch.tensor(ids)[None], torch.tensor(at)[None]) for at in (places, other)]
    assert (logits[0][0, -1] - logits[1][0, -1]).abs().max() > 0.1


@pytest.mark.parametrize("fused", [False, True], ids=["torch", "c"])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_and_steps_equal_the_whole_row(kind, fused, monkeypatch):
    """Prompts read at once or in two parts, then steps, by torch's products and by step.c."""
    if fused and not fused_step.possible(MODELS[kind]):
        pytest.skip("no compiler here")
    seconds = (0.0, 1.0) if fused else (1.0, 0.0)
    measured = iter(seconds * 2)
    monkeypatch.setattr(fused_step, "_faster", {})
    monkeypatch.setattr(fused_step, "timed", lambda *_: next(measured))
    model = MODELS[kind]
    samples = [build_sample(query, before, VOCABULARY) for query, before in QUERIES[:4]]
    places = [place(row, VOCABULARY, model.config) for row in samples]
    cuts = [len(row) - 6 for row in samples]
    whole_T = [
        model(torch.tensor(row)[None], torch.tensor(at)[None])[0]
        for row, at in zip(samples, places, strict=True)
    ]

    def part(rows, starts, stops):
        return pad([r[a:b] for r, a, b in zip(rows, starts, stops, strict=True)], 0)

    for first in (cuts, [cut // 2 for cut in cuts]):
        cache = model.cache(4, 120)
        (ids, lengths), (at, _) = (part(rows, [0] * 4, first) for rows in (samples, places))
        logits = model.prefill(ids, lengths, cache, positions_BT=at)
        if first != cuts:
            (ids, lengths), (at, _) = (part(rows, first, cuts) for rows in (samples, places))
            logits = model.extend(ids, lengths, cache, positions_BT=at)
        for step in range(6):
            wanted = torch.stack(
                [one[cut - 1 + step] for one, cut in zip(whole_T, cuts, strict=True)]
            )
            torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4)
            now = [cut + step for cut in cuts]
            assert cache.next_B.tolist() == [one[k] for one, k in zip(places, now, strict=True)]
            token = torch.tensor([row[k] for row, k in zip(samples, now, strict=True)])
            logits = model.step(token, cache)
        (way,) = cache.ways.values()
        assert isinstance(way, fused_step.Fused) == fused


def test_a_grid_that_was_changed_in_place_is_seen():
    """Its vectors are summed once, not at every step; until the weights change."""
    model = random_model("grid")
    sums, table = [], model.position_table
    model.position_table = lambda: sums.append(1) or table()
    row = build_sample(*QUERIES[0], VOCABULARY)
    at = torch.tensor(place(row, VOCABULARY, model.config))[None]
    ids, cache = torch.tensor(row)[None], model.cache(1, 40)
    model.prefill(ids[:, :-3], torch.tensor([len(row) - 3]), cache, positions_BT=at[:, :-3])
    model.step(ids[:, -3], cache)
    assert len(sums) == 1
    model.position_embedding.weight.mul_(-1)
    found = model.step(ids[:, -2], cache)
    fresh, again = model.cache(1, 40), model.cache(1, 40)
    assert len(sums) == 2
    model.position_embedding.weight.mul_(-1)
    model.prefill(ids[:, :-2], torch.tensor([len(row) - 2]), fresh, positions_BT=at[:, :-2])
    model.position_embedding.weight.mul_(-1)
    torch.testing.assert_close(found, model.step(ids[:, -2], fresh))
    model.prefill(ids[:, :-2], torch.tensor([len(row) - 2]), again, positions_BT=at[:, :-2])
    assert not torch.allclose(found, model.step(ids[:, -2], again), atol=1e-2)


def test_idle_rows_wait_at_the_last_place():
    cache = MODELS["grid"].cache(1, 40)
    last = table_rows(CONFIGS["grid"]) - 1
    ids, at = torch.tensor([[1]]), torch.tensor([[last]])
    MODELS["grid"].prefill(ids, torch.tensor([1]), cache, positions_BT=at)
    for _ in range(3):
        assert cache.next_B.tolist() == [last]
        assert MODELS["grid"].step(ids[0], cache).isfinite().all()


ONE = (torch.tensor([[1, 2]]), torch.tensor([2]))
PROMPT = build_prompt([1], [], VOCABULARY)


def draw(prompt, count: int = CODES):
    noise = uniforms([1], count)
    return generate_images(MODELS["grid"], VOCABULARY, [prompt], None, noise, DECODE)


def read(positions):
    model = MODELS["grid"]
    return model.prefill(*ONE, model.cache(1, 9), positions_BT=positions)


MISTAKES = {
    "a model of positions 'grid' must be told where the tokens stand": lambda: read(None),
    r"positions of shape \[1, 3\] do not match ids of shape \[1, 2\]": lambda: read(
        torch.zeros(1, 3, dtype=torch.int64)
    ),
    r"positions must lie in \[0, 77\), got 77": lambda: read(torch.tensor([[0, 77]])),
    "a picture of 10 codes has no places in this model, which has 9": lambda: draw(PROMPT, 10),
    "a text of 9 tokens has no places in this model, which has 8": lambda: draw(
        build_prompt([1] * 9, [], VOCABULARY)
    ),
    "a row of more than 4 texts with their pictures has no places": lambda: draw(
        build_prompt([1], [replace(QUERIES[0][0])] * 4, VOCABULARY)
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_get_one_line(message):
    with pytest.raises(UserError, match=message) as caught:
        MISTAKES[message]()
    assert "\n" not in str(caught.value)
