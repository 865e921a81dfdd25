"""What is drawn under all readings of positions, against loops that place and read every row anew.

Axes as in cm3leon/decoding/images.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cm3leon.config import ModelConfig, VocabularyConfig
from cm3leon.decoding.config import DecodeConfig, EditGuidance
from cm3leon.decoding.image_infill import METHODS, Hole, fill_holes
from cm3leon.decoding.images import DRAW, Plan, generate_images
from cm3leon.decoding.loop import Decoder, pad
from cm3leon.decoding.sampling import choose, combine, guide_edit
from cm3leon.decoding.text import BeamConfig, beam_text, continue_text
from cm3leon.decoding.text_infill import Gaps, fill_gaps
from cm3leon.engine import cpu_step
from cm3leon.engine.rule import step_of
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import derive, generator, torch_generator, uniforms
from cm3leon.sequence.documents import (
    UNCONDITIONAL_READINGS,
    Document,
    Image,
    Text,
    Vocabulary,
    build_prompt,
    build_sample,
    build_unconditional_prompt,
)
from cm3leon.sequence.positions import place

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


@pytest.mark.parametrize("reading", UNCONDITIONAL_READINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_equal_the_plain_loop(kind, reading):
    """None to three documents, ragged, beside each other and alone; all streams of guidance."""
    model, noise = MODELS[kind], uniforms(range(len(QUERIES)), CODES)
    prompts = [build_prompt(query.segments[0].ids, before, VOCABULARY) for query, before in QUERIES]
    free = [build_unconditional_prompt(before, VOCABULARY, reading) for _, before in QUERIES]
    decoder = Decoder(model, VOCABULARY, DECODE)
    found = generate_images(decoder, prompts, free, noise).tolist()
    assert found == plain(model, [prompts, free], noise, DECODE)
    for row in (0, 3, 7):
        own = slice(row, row + 1)
        alone = generate_images(decoder, prompts[own], free[own], noise[own])
        assert alone.tolist() == found[own]
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


@pytest.mark.parametrize("engine", ["torch", "c"])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_and_steps_equal_the_whole_row(kind, engine):
    """Prompts read at once or in two parts, then steps, by torch's products and by step.c."""
    model = MODELS[kind]
    if engine == "c" and cpu_step.why_not(model):
        pytest.skip("no compiler here")
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
            logits = model.step(token, cache, by=step_of(model, 4, 0, None, engine))


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
    last = CONFIGS["grid"].places - 1
    ids, at = torch.tensor([[1]]), torch.tensor([[last]])
    MODELS["grid"].prefill(ids, torch.tensor([1]), cache, positions_BT=at)
    for _ in range(3):
        assert cache.next_B.tolist() == [last]
        assert MODELS["grid"].step(ids[0], cache).isfinite().all()


ONE = (torch.tensor([[1, 2]]), torch.tensor([2]))
PROMPT = build_prompt([1], [], VOCABULARY)


def draw(prompt, count: int = CODES):
    noise = uniforms([1], count)
    return generate_images(Decoder(MODELS["grid"], VOCABULARY, DECODE), [prompt], None, noise)


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


def trained(model: Transformer, row) -> torch.Tensor:
    """Logits [T, V] of a whole row, placed as in training; every moved span in it has come."""
    ids = np.asarray(row, np.int64)
    places = place(ids, VOCABULARY, model.config)
    return model(torch.tensor(ids)[None], torch.tensor(places)[None])[0]


def gaps(documents: int, *pieces: tuple[int, ...], seen: bool = True) -> Gaps:
    codes = tuple(RANDOM.integers(0, 16, CODES).tolist()) if seen else None
    return Gaps(pieces, codes, tuple(pairs(documents)))


CAPTIONS = [
    gaps(0, (), ()), gaps(2, (), ()), gaps(3, (1, 2), (5,)), gaps(1, (4,), (3,), ()),
    gaps(2, (), (8,), (9,), ()), gaps(1, (), (2, 2), seen=False), gaps(0, (6,), (), seen=False),
]  # fmt: skip
TEXTS = [*range(VOCABULARY.text_size), VOCABULARY.eom]


def gap_logits(model, job: Gaps, spans, streams, decode: DecodeConfig) -> list[torch.Tensor]:
    """Of each gap the logits of its tokens, <eom> too, in rows as training has them."""
    parts = []
    for prompt in streams:
        row, starts = list(prompt), []
        for gap, span in enumerate(spans):
            starts.append(len(row))
            more = [VOCABULARY.mask(gap + 1)] if gap + 1 < job.count else []
            row += [*span.ids, VOCABULARY.eom, *more]
        picture = VOCABULARY.mask(job.count)
        if picture in prompt:  # hidden too: its span comes last
            row += [picture, *[VOCABULARY.image_start] * CODES, VOCABULARY.eom]
        logits = trained(model, row)[:, TEXTS]
        parts.append(
            [logits[at - 1 :][: span.tokens] for at, span in zip(starts, spans, strict=True)]
        )
    return [combine(*own, decode) if len(own) == 2 else own[0] for own in zip(*parts, strict=True)]


@pytest.mark.parametrize("beam", [None, BeamConfig(3)], ids=["sampled", "beam"])
@pytest.mark.parametrize("reading", UNCONDITIONAL_READINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_equal_the_rows_of_training(kind, reading, beam):
    """Captioning and gaps with none to three documents; refilled, and alone."""
    model, decode = MODELS[kind], replace(DECODE, unconditional=reading)
    seeds = list(range(len(CAPTIONS)))
    found = fill_gaps(Decoder(model, VOCABULARY, decode), CAPTIONS, seeds, beam, 12)
    few = fill_gaps(Decoder(model, VOCABULARY, decode, slots=6), CAPTIONS, seeds, beam, 12)
    assert [[span.ids for span in spans] for spans in few] == [
        [span.ids for span in spans] for spans in found
    ]
    for job, seed, spans in zip(CAPTIONS, seeds, found, strict=True):
        streams = [job.prompt(VOCABULARY)]
        if job.codes is not None:
            streams.append(job.unconditional(VOCABULARY, reading))
        for gap, logits in enumerate(gap_logits(model, job, spans, streams, decode)):
            span, own = spans[gap], derive(seed, "gap", gap) if gap else seed
            ids = [*span.ids, VOCABULARY.text_size][: span.tokens]
            gains = logits.double().log_softmax(-1)[range(len(ids)), ids]
            assert span.score == pytest.approx(gains.sum().item(), abs=1e-3)
            if beam is None:
                noise = torch.tensor(uniforms([own], 12)[0][: len(ids)])
                assert choose(logits, noise, decode).tolist() == ids
    alone = fill_gaps(Decoder(model, VOCABULARY, decode), CAPTIONS[3:4], seeds[3:4], beam, 12)
    assert [span.ids for span in alone[0]] == [span.ids for span in found[3]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_ends_where_its_places_end(kind):
    """The first gap of a caption begins behind what stands before it, and has so many places."""
    model = MODELS[kind]
    prompts = [gaps(2, tuple(range(k)), ()).prompt(VOCABULARY) for k in range(7)]
    noise = np.full((7, 20), 0.01)  # never <eom>, the last of all choices
    found = continue_text(
        Decoder(model, VOCABULARY, replace(DECODE, guidance=1.0)), prompts, None, noise
    )
    rooms = [20] * 7 if kind == "row" else [9 - k for k in range(7)]
    assert [span.tokens for span in found] == rooms and not any(one.finished for one in found)
    beams = beam_text(Decoder(model, VOCABULARY, DECODE), prompts, None, BeamConfig(2), 20)
    assert all(one.tokens <= room for own, room in zip(beams, rooms, strict=True) for one in own)


def hole(documents: int, hidden: str, text: tuple[int, ...] | None) -> Hole:
    codes = tuple(RANDOM.integers(0, 16, CODES).tolist())
    return Hole(codes, tuple(letter == "x" for letter in hidden), text, tuple(pairs(documents)))


HOLES = [
    hole(0, ".xx..x...", (1, 2)), hole(1, "x...x.x.x", (3,)), hole(2, "xxxxxxxxx", (1, 2, 3)),
    hole(3, "....x....", (4,) * 6), hole(0, "..xx.xx..", None), hole(2, ".x.x.x.x.", None),
    # Their prompts are the same ids at other places, where all runs are hidden apart.
    *(Hole((5,) * 9, tuple(letter == "x" for letter in hidden), (7,))
      for hidden in (".xxxx.x..", ".x.xxxx..")),
]  # fmt: skip


def codes_ids(codes) -> list[int]:
    return (np.asarray(codes) + IMAGES.start).tolist()


def training_row(one: Hole, plan: Plan, codes) -> list[int]:
    """The row of training that a plan begins, with these codes in the picture."""
    row, start = plan.prompt.tolist(), one.bounds[0]
    if row.count(VOCABULARY.eos) == 1:  # forward
        row += [*codes_ids(codes[start:]), VOCABULARY.eos]
        for sentinel, told in ((0, [1]), (1, codes_ids(codes[:start]))):
            if VOCABULARY.mask(sentinel) in row:
                row += [VOCABULARY.mask(sentinel), *told, VOCABULARY.eom]
        return row
    drawn = iter(codes_ids(codes[np.array(one.hidden)]))
    return [*row, *(next(drawn) if k == DRAW else k for k in plan.planned), VOCABULARY.eom]


def hole_logits(model, one: Hole, plan: Plan, codes) -> torch.Tensor:
    """Logits [n, V] of the n hidden codes, in the row of training."""
    at = len(plan.prompt) - 1 + np.flatnonzero(plan.planned == DRAW)
    return trained(model, training_row(one, plan, codes))[at, IMAGES]


def drawn_again(model, one: Hole, codes, noise_M, method: str, decode, edit) -> list[int]:
    """The hidden codes, each drawn behind those of `codes` before it."""
    plans = [one.plan(VOCABULARY, method)]
    if edit or one.text_ids is not None:
        plans.append(one.unconditional(VOCABULARY, method, decode.unconditional))
    if edit:
        plans.append(one.blind(VOCABULARY, decode.unconditional))
    logits = [hole_logits(model, one, plan, codes) for plan in plans]
    if edit:
        mixed = guide_edit(*logits, edit.image, edit.text)
    else:
        mixed = combine(logits[0], logits[1] if len(logits) == 2 else None, decode)
    noise = torch.tensor(noise_M[np.flatnonzero(plans[0].planned == DRAW)])
    return choose(mixed, noise, decode).tolist()


@pytest.mark.parametrize("method", [*METHODS, "edit"])
@pytest.mark.parametrize("reading", UNCONDITIONAL_READINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_with_holes_equal_the_rows_of_training(kind, reading, method):
    """All ways to ask, captions or none; refilled, and alone."""
    model, decode = MODELS[kind], replace(DECODE, unconditional=reading)
    method, edit = ("forward", EditGuidance(3.0, 2.0)) if method == "edit" else (method, None)
    seeds = list(range(len(HOLES)))
    found = fill_holes(Decoder(model, VOCABULARY, decode), HOLES, seeds, method, edit)
    few = fill_holes(Decoder(model, VOCABULARY, decode, slots=2), HOLES, seeds, method, edit)
    assert np.array_equal(few, found)
    for one, seed, codes in zip(HOLES, seeds, found, strict=True):
        again = drawn_again(model, one, codes, uniforms([seed], 20)[0], method, decode, edit)
        assert codes[np.array(one.hidden)].tolist() == again
    alone = fill_holes(Decoder(model, VOCABULARY, decode), HOLES[1:2], seeds[1:2], method, edit)
    assert alone[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_picture_hidden_is_drawing_it(kind):
    holes = [hole(row % 4, "x" * CODES, (row + 1,)) for row in range(5)]
    prompts = [build_prompt(one.text_ids, one.documents, VOCABULARY) for one in holes]
    free = [build_unconditional_prompt(one.documents, VOCABULARY) for one in holes]
    noise = uniforms(range(5), CODES)
    drawn = generate_images(Decoder(MODELS[kind], VOCABULARY, DECODE), prompts, free, noise)
    found = fill_holes(Decoder(MODELS[kind], VOCABULARY, DECODE), holes, range(5), tries=1)
    assert np.array_equal(found, drawn)
