"""Boxes of pictures: plans as training makes them, and codes against a plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.decoding.config import DecodeConfig, EditGuidance
from cm3leon.decoding.image_infill import METHODS, Hole, InfillConfig, fill_holes, hidden_by_box
from cm3leon.decoding.images import DRAW
from cm3leon.decoding.loop import Decoder
from cm3leon.decoding.sampling import choose, combine, guide_edit
from cm3leon.errors import UserError
from cm3leon.loading import load_system
from cm3leon.seeds import derive, uniforms
from cm3leon.sequence.documents import Document, build_prompt, build_sample
from cm3leon.sequence.masking import rotate
from tests.decoding.test_text import DECODES, MODEL, VOCABULARY
from tests.decoding.test_text_infill import BEFORE, EOM, EOS, HEAD, IMAGES, ONE, THREE, TWO
from tests.test_pipeline import write_tiny_baselines

BREAK, FIRST = VOCABULARY.break_, VOCABULARY.image_start
CODES = (3, 1, 4, 1, 5, 6)
HIDDEN = (False, True, True, False, True, False)
HOLE = Hole(CODES, HIDDEN, (7, 8))
A, B, C, D, E, F = (FIRST + code for code in CODES)


def shown(plan) -> list[list[int]]:
    return [plan.prompt.tolist(), plan.planned.tolist()]


def test_plans_by_hand():
    text = [EOS, 7, 8, BREAK]
    assert shown(HOLE.plan(VOCABULARY)) == [[*text, A], [DRAW, DRAW, D, DRAW]]
    assert shown(HOLE.plan(VOCABULARY, rest=True)) == [[*text, A], [DRAW, DRAW, D, DRAW, F]]
    span = [[*text, A, ONE, F, EOS, ONE], [DRAW, DRAW, D, DRAW]]
    assert shown(HOLE.plan(VOCABULARY, "span")) == span
    spans = [[*text, A, ONE, D, TWO, F, EOS, ONE], [DRAW, DRAW, EOM, TWO, DRAW]]
    assert shown(HOLE.plan(VOCABULARY, "spans")) == spans
    assert (HOLE.bounds, HOLE.runs) == ((1, 5), [(1, 3), (4, 5)])


def test_plans_without_the_caption_by_hand():
    free = [EOS, ONE, BREAK]
    for reading in ("mask", "drop", "bare"):
        found = shown(HOLE.unconditional(VOCABULARY, "forward", reading))
        assert found == [[*free, A], [DRAW, DRAW, D, DRAW]]
    span = [[*free, A, TWO, F, EOS, ONE, EOM, TWO], [DRAW, DRAW, D, DRAW]]
    assert shown(HOLE.unconditional(VOCABULARY, "span", "mask")) == span
    spans = [[*free, A, TWO, D, THREE, F, EOS, ONE, EOM, TWO], [DRAW, DRAW, EOM, THREE, DRAW]]
    assert shown(HOLE.unconditional(VOCABULARY, "spans", "mask")) == spans
    assert shown(HOLE.blind(VOCABULARY, "mask")) == [[*free, TWO], [DRAW, DRAW, D, DRAW]]
    start = Hole((1, 2), (True, False), (7,))
    assert shown(start.blind(VOCABULARY, "mask")) == [free, [DRAW]]  # nothing before it to hide
    bare = replace(HOLE, text_ids=None)
    for method in METHODS:
        assert shown(bare.plan(VOCABULARY, method)) == shown(
            HOLE.unconditional(VOCABULARY, method, "mask")
        )


def test_documents_stand_before_the_caption():
    hole = replace(HOLE, documents=BEFORE)
    assert shown(hole.plan(VOCABULARY))[0] == [*HEAD, 7, 8, BREAK, A]
    assert shown(hole.unconditional(VOCABULARY, "forward", "drop"))[0] == [*HEAD, A]
    assert shown(hole.unconditional(VOCABULARY, "forward", "bare"))[0] == [EOS, ONE, BREAK, A]
    assert shown(hole.blind(VOCABULARY, "mask"))[0] == [*HEAD, ONE, BREAK, TWO]


hidden_codes = st.lists(st.booleans(), min_size=1, max_size=9).filter(any)


@given(hidden_codes, st.sampled_from(METHODS))
def test_a_filled_plan_is_a_training_sample(hidden, method):
    """With the true codes drawn, prompt and plan are a causal or a rotated row of the objective."""
    codes = tuple(index % 7 for index in range(len(hidden)))
    hole = Hole(codes, tuple(hidden), (2, 3))
    plan = hole.plan(VOCABULARY, method, rest=method == "forward")
    prompt, planned = plan.prompt, plan.planned
    ids = [FIRST + code for code, gone in zip(codes, hidden, strict=True) if gone]
    planned[planned == DRAW] = ids
    sample = build_sample(Document.pair((2, 3), codes), [], VOCABULARY)
    row = np.concatenate([prompt, planned, [EOS if method == "forward" else EOM]])
    if method == "forward":
        assert row.tolist() == sample.tolist()
        return
    picture = len(sample) - 1 - len(codes)
    spans = [hole.bounds] if method == "span" else hole.runs
    spans = [(picture + start, picture + end) for start, end in spans]
    assert row.tolist() == rotate(sample, spans, VOCABULARY)[0].tolist()


def plain(plans, noise_M, decode, edit=None) -> tuple[list[int], float]:
    """The definition: one picture, whole rows, no cache; drawn codes and log p of the known."""
    rows, drawn, score = [list(plan.prompt) for plan in plans], [], 0.0
    for place, uniform in enumerate(noise_M[: len(plans[0].planned)]):
        images = slice(FIRST, VOCABULARY.image_end)
        logits = [MODEL(torch.tensor([row]))[:, -1, images] for row in rows]
        mixed = (
            guide_edit(*logits, edit.image, edit.text)
            if edit
            else combine(logits[0], logits[1] if len(logits) > 1 else None, decode)
        )
        code = int(choose(mixed, torch.tensor([uniform]), decode))
        planned = [int(plan.planned[place]) for plan in plans]
        if planned[0] == DRAW:
            drawn.append(code)
        elif FIRST <= planned[0] < VOCABULARY.image_end:
            score += logits[0].double().log_softmax(-1)[0, planned[0] - FIRST].item()
        for row, token in zip(rows, planned, strict=True):
            row.append(FIRST + code if token == DRAW else token)
    return drawn, score


HOLES = [
    HOLE,
    Hole((0, 1, 2, 3), (True, False, True, True), (1,), ()),
    Hole((5, 5), (True, True), None),
    Hole((6, 5, 4, 3, 2, 1, 0), (False,) * 5 + (True, False), (9, 9, 9, 2, 1)),
]
SAME = [Hole(tuple(range(6)), gone, text) for gone, text in (
    (HIDDEN, (7, 8)), ((True,) * 6, None), ((False,) * 5 + (True,), (1, 2, 3)),
    ((True, False, False, False, False, True), (4,)),
)]  # fmt: skip
SEEDS = [4, 5, 6, 7]


def streams_of(hole, decode, method, edit=None, rest=False):
    plans = [hole.plan(VOCABULARY, method, rest)]
    if (hole.text_ids and decode.streams == 2) or edit:
        plans.append(hole.unconditional(VOCABULARY, method, decode.unconditional, rest))
    if edit:
        plans.append(hole.blind(VOCABULARY, decode.unconditional, rest))
    return plans


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decode", DECODES, ids=str)
def test_equals_the_plain_loop(decode, method):
    found = fill_holes(Decoder(MODEL, VOCABULARY, decode), SAME, SEEDS, method)
    for hole, seed, codes in zip(SAME, SEEDS, found, strict=True):
        drawn, _ = plain(streams_of(hole, decode, method), uniforms([seed], 20)[0], decode)
        gone = np.array(hole.hidden)
        assert codes[gone].tolist() == drawn
        assert codes[~gone].tolist() == np.array(hole.codes)[~gone].tolist()


def test_editing_equals_the_plain_loop():
    decode, edit = DecodeConfig(temperature=0.9, top_p=0.95), EditGuidance(1.6, 2.5)
    found = fill_holes(Decoder(MODEL, VOCABULARY, decode), SAME, SEEDS, edit=edit)
    for hole, seed, codes in zip(SAME, SEEDS, found, strict=True):
        plans = streams_of(hole, decode, "forward", edit)
        drawn, _ = plain(plans, uniforms([seed], 6)[0], decode, edit)
        assert codes[np.array(hole.hidden)].tolist() == drawn


@pytest.mark.parametrize("slots", [1, 5, 32, None])
def test_three_streams_of_a_sample_see_no_other(slots):
    """Alone and among 32, refilled or not, with captions and without: the loop without a cache."""
    decode, edit = DecodeConfig(temperature=0.9, top_p=0.95), EditGuidance(1.6, 2.5)
    decoder = Decoder(MODEL, VOCABULARY, decode, slots)
    found = fill_holes(decoder, HOLES * 8, range(32), edit=edit)
    for row, (hole, codes) in enumerate(zip(HOLES * 8, found, strict=True)):
        plans = streams_of(hole, decode, "forward", edit)
        drawn, _ = plain(plans, uniforms([row], 7)[0], decode, edit)
        assert codes[np.array(hole.hidden)].tolist() == drawn
        if row % 11 == 0:
            (alone,) = fill_holes(decoder, [hole], [row], edit=edit)
            assert alone.tolist() == codes.tolist()


def test_weights_of_editing():
    decode = DecodeConfig(guidance=1.0, temperature=1.0)
    one = fill_holes(Decoder(MODEL, VOCABULARY, decode), SAME, SEEDS)
    both = fill_holes(Decoder(MODEL, VOCABULARY, decode), SAME, SEEDS, edit=EditGuidance())
    assert np.array_equal(one, both)
    guided = fill_holes(Decoder(MODEL, VOCABULARY, replace(decode, guidance=2.5)), SAME, SEEDS)
    text = fill_holes(Decoder(MODEL, VOCABULARY, decode), SAME, SEEDS, edit=EditGuidance(text=2.5))
    assert np.array_equal(guided, text) and not np.array_equal(guided, one)


def test_the_best_of_tries_is_kept():
    decode = DecodeConfig(guidance=1.5, temperature=1.2)
    found = fill_holes(Decoder(MODEL, VOCABULARY, decode), SAME, SEEDS, tries=4)
    kept = []
    for hole, seed, codes in zip(SAME, SEEDS, found, strict=True):
        plans = streams_of(hole, decode, "forward", rest=True)
        noise = uniforms([seed, *(derive(seed, "try", k) for k in (1, 2, 3))], 6)
        tries = [plain(plans, row, decode) for row in noise]
        best = max(range(4), key=lambda k: tries[k][1])
        assert codes[np.array(hole.hidden)].tolist() == tries[best][0]
        kept.append(best)
    assert any(kept)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_depends_on_nothing_beside_it(method):
    decode = DecodeConfig(guidance=1.5, temperature=1.0)
    together = fill_holes(Decoder(MODEL, VOCABULARY, decode), SAME * 3, SEEDS * 3, method)
    for row, (hole, seed) in enumerate(zip(SAME, SEEDS, strict=True)):
        alone = fill_holes(Decoder(MODEL, VOCABULARY, decode), [hole], [seed], method)
        assert alone[0].tolist() == together[row].tolist() == together[row + 8].tolist()
    ragged = [fill_holes(Decoder(MODEL, VOCABULARY, decode), [hole], [1], method) for hole in HOLES]
    assert [len(codes) for (codes,) in ragged] == [len(hole.codes) for hole in HOLES]
    other_lengths = fill_holes(Decoder(MODEL, VOCABULARY, decode), HOLES, [1] * 4, method)
    assert all(map(np.array_equal, other_lengths, [codes for (codes,) in ragged]))


@pytest.mark.parametrize("tries", [1, 3])
def test_refill_cannot_be_seen(tries):
    decode, counters = DecodeConfig(guidance=1.5, temperature=1.0), {}
    wanted = fill_holes(Decoder(MODEL, VOCABULARY, decode), HOLES * 3, range(12), tries=tries)
    for slots in (1, 2, 5):
        decoder = Decoder(MODEL, VOCABULARY, decode, slots, counters)
        found = fill_holes(decoder, HOLES * 3, range(12), tries=tries)
        assert all(map(np.array_equal, found, wanted))
    assert counters["step_tokens"] > counters["idle_tokens"] >= 0


@pytest.mark.parametrize("decode", DECODES[3:], ids=str)
def test_no_caption_beside_captions(decode):
    """Contrast of a stream with itself would be even over its best: such a row has one stream."""
    together = fill_holes(Decoder(MODEL, VOCABULARY, decode), HOLES, [1, 2, 3, 4])
    assert HOLES[2].text_ids is None
    plain_decode = replace(decode, strategy="guide", guidance=1.0)
    (alone,) = fill_holes(Decoder(MODEL, VOCABULARY, plain_decode), HOLES[2:3], [3])
    assert alone.tolist() == together[2].tolist()


def test_a_hidden_picture_is_drawing_it():
    """All hidden, forward: the loop of drawing and this one are the same."""
    from cm3leon.decoding.images import generate_images
    from cm3leon.sequence.documents import build_unconditional_prompt

    decode = DecodeConfig(guidance=2.0, temperature=1.0)
    holes = [Hole((0,) * 6, (True,) * 6, text) for text in ((1, 2), (3,), (4, 5, 6))]
    found = fill_holes(Decoder(MODEL, VOCABULARY, decode), holes, [1, 2, 3])
    prompts = [build_prompt(hole.text_ids, [], VOCABULARY) for hole in holes]
    free = [build_unconditional_prompt([], VOCABULARY)] * 3
    noise = uniforms([1, 2, 3], 6)
    drawn = generate_images(Decoder(MODEL, VOCABULARY, decode), prompts, free, noise)
    assert np.array_equal(drawn, found)


@given(st.data())
def test_boxes(data):
    grid, stride = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    size = grid * stride
    x0, y0 = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    x1, y1 = (data.draw(st.integers(low + 1, size)) for low in (x0, y0))
    pixels = np.zeros((size, size), bool)
    pixels[y0:y1, x0:x1] = True
    touched = pixels.reshape(grid, stride, grid, stride).any((1, 3)).ravel()
    assert hidden_by_box((x0, y0, x1, y1), size, grid).tolist() == touched.tolist()


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 4), (4, 0, 2, 4), (0, 5, 4, 5), (-1, 0, 4, 4), (0, 0, 65, 4), (0, 70, 4, 80)]
)
def test_boxes_that_are_none(box):
    with pytest.raises(UserError, match="a box x0 y0 x1 y1 must have 0 <= x0 < x1 <= 64"):
        hidden_by_box(box, 64, 8)


def call(**other):
    told = dict(holes=SAME, seeds=SEEDS) | other
    return fill_holes(Decoder(MODEL, VOCABULARY, DECODES[1]), **told)


BIG = [Hole((0,) * 28, (True,) * 28, (1, 2, 3))]
MISTAKES = {
    r"seeds must be one a picture \(4\), got 2": lambda: call(seeds=[1, 2]),
    "method must be one of forward, span, spans, got 'x'": lambda: call(method="x"),
    "tries must be at least 1, got 0": lambda: call(tries=0),
    "method 'span' takes one try": lambda: call(method="span", tries=2),
    "method 'spans' takes one try": lambda: call(method="spans", edit=EditGuidance()),
    "image guidance must be finite, got nan": lambda: EditGuidance(image=float("nan")),
    "28 image tokens behind it this does not fit the context of 32": lambda: call(
        holes=BIG, seeds=[1]
    ),
    "hidden must hide at least one code": lambda: Hole((1, 2), (False, False)),
    "hidden must have one value a code": lambda: Hole((1, 2), (True,)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_get_one_line(message):
    with pytest.raises(UserError, match=message) as caught:
        MISTAKES[message]()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    system = load_system(write_tiny_baselines(tmp_path_factory.mktemp("baselines")))
    return system.with_decode(DecodeConfig(guidance=1.5, temperature=1.0))


def test_pictures_of_a_system(system):
    hidden = np.stack([hidden_by_box((8 * (k % 3), 0, 32, 9), 32, 4) for k in range(5)])
    captions, seeds = ["a red star", None, "a blue heart", "snow", None], [1, 2, 3, 4, 5]
    codes = system.encode(IMAGES)
    two = InfillConfig(tries=2)
    found = system.infill_image(IMAGES, hidden, captions, seeds, two)
    assert found.dtype == torch.int64 and found.shape == codes.shape
    assert (found == codes)[torch.tensor(~hidden)].all() and not (found == codes).all()
    small = replace(system, batch_size=4)
    assert small.infill_image(IMAGES, hidden, captions, seeds, two).tolist() == found.tolist()
    assert system.decode_codes(found).shape == IMAGES.shape
    none = system.infill_image(IMAGES[:0], hidden[:0], [], [])
    assert none.shape == (0, system.tokens)


def test_equal_captions_and_none_of_a_batch(system):
    """A picture without a caption draws the same beside captioned ones and alone."""
    hidden = np.stack([hidden_by_box((0, 0, 20, 20), 32, 4)] * 2)
    mixed = system.infill_image(IMAGES[:2], hidden, ["a star", None], [1, 2])
    alone = system.infill_image(IMAGES[1:2], hidden[1:], [None], [2])
    assert mixed[1].tolist() == alone[0].tolist()
