"""The cached loop against a plain one: full forward each step, one row at a time.

Axes as in cm3leon/decoding/images.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.config import ModelConfig, VocabularyConfig
from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.images import generate_images
from cm3leon.decoding.loop import Decoder, by_length, common_start, pad, unique
from cm3leon.decoding.sampling import contrast, draw, guide, restrict, temperature, top_p
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import derive, generator, torch_generator, uniforms
from cm3leon.sequence.documents import Vocabulary

CONFIG = ModelConfig(
    "tiny", layers=2, width=32, heads=4, context=32, vocabulary=VocabularyConfig(30, 40, 6, 16)
)
VOCABULARY = Vocabulary.from_config(CONFIG.vocabulary)
COUNT = 12  # image tokens
DECODE = DecodeConfig(guidance=2.5, temperature=0.9, top_p=0.9)


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Random in every matrix, so that text, position and every drawn token move the logits."""
    model = Transformer(CONFIG).eval().requires_grad_(False)
    weights = torch_generator(1, "test weights")
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=weights) * 0.25)
    return model


def prompts_for(count: int, kind: str, longest: int = 20) -> list[np.ndarray]:
    random = generator(0, kind)
    return [
        random.integers(0, VOCABULARY.size, random.integers(1, longest + 1)) for _ in range(count)
    ]


PROMPTS, FREE = prompts_for(32, "prompts"), prompts_for(32, "free", 9)
UNIFORMS = uniforms([derive(0, index) for index in range(32)], COUNT)


def plain(model, prompt, free, uniforms_N, decode: DecodeConfig) -> list[int]:
    """One sample without cache, batch or head slice: the definition of what is drawn."""
    codes = []
    for uniform in uniforms_N:
        drawn = np.array(codes, dtype=np.int64) + VOCABULARY.image_start
        rows = [torch.tensor(np.concatenate([ids, drawn]))[None] for ids in (prompt, free)]
        cond_1V, free_1V = (model(row)[:, -1] for row in rows)
        images = VOCABULARY.image_start, VOCABULARY.image_end
        if decode.strategy == "contrast":
            cond_1V, free_1V = (one[:, slice(*images)] for one in (cond_1V, free_1V))
            logits_1V = contrast(cond_1V, free_1V, decode.alpha, decode.k)
        else:
            logits_1V = restrict(guide(cond_1V, free_1V, decode.guidance), *images)
            logits_1V = logits_1V[:, slice(*images)]
        if decode.temperature == 0:
            codes.append(int(logits_1V.argmax()))
            continue
        logits_1V = top_p(temperature(logits_1V, decode.temperature), decode.top_p)
        codes.append(draw(logits_1V, torch.tensor([uniform], dtype=torch.float64)).item())
    return codes


@pytest.mark.parametrize(
    "decode",
    [
        DecodeConfig(guidance=3.0),
        DECODE,
        DecodeConfig(guidance=1.0, top_p=0.8),
        DecodeConfig(guidance=0.0),
        DecodeConfig(guidance=-1.0, temperature=2.0),
        DecodeConfig(strategy="contrast", alpha=0.3, k=4, temperature=1.0),
        DecodeConfig(strategy="contrast", alpha=0.1, k=1, temperature=1.0, top_p=0.9),
        DecodeConfig(guidance=3.0, temperature=0),
    ],
    ids=str,
)
def test_equals_the_plain_loop(model, decode):
    found = generate_images(Decoder(model, VOCABULARY, decode), PROMPTS[:5], FREE[:5], UNIFORMS[:5])
    wanted = [plain(model, *row, decode) for row in zip(PROMPTS[:5], FREE, UNIFORMS, strict=False)]
    assert found.tolist() == wanted
    assert found.dtype == torch.int64 and found.shape == (5, COUNT)
    assert len(set(found.flatten().tolist())) > 10  # a model worth testing: not one token repeated


@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_cannot_be_seen(model, size):
    together = generate_images(Decoder(model, VOCABULARY, DECODE), PROMPTS, FREE, UNIFORMS)
    apart = [
        generate_images(
            Decoder(model, VOCABULARY, DECODE), PROMPTS[part], FREE[part], UNIFORMS[part]
        )
        for part in (slice(start, start + size) for start in range(0, 32, size))
    ]
    assert torch.cat(apart).tolist() == together.tolist()


def test_order_cannot_be_seen(model):
    together = generate_images(Decoder(model, VOCABULARY, DECODE), PROMPTS, FREE, UNIFORMS)
    backwards = generate_images(
        Decoder(model, VOCABULARY, DECODE), PROMPTS[::-1], FREE[::-1], UNIFORMS[::-1].copy()
    )
    assert backwards.flip(0).tolist() == together.tolist()


def test_one_stream_is_weight_one(model):
    alone = replace(DECODE, guidance=1.0)
    counters = {}
    one = generate_images(
        Decoder(model, VOCABULARY, alone, counters=counters), PROMPTS, FREE, UNIFORMS
    )
    assert counters["step_tokens"] == 32 * (COUNT - 1)
    bare = generate_images(Decoder(model, VOCABULARY, DECODE), PROMPTS, None, UNIFORMS)
    twins = generate_images(Decoder(model, VOCABULARY, DECODE), PROMPTS, PROMPTS, UNIFORMS)
    assert one.tolist() == bare.tolist() == twins.tolist()
    guided = generate_images(Decoder(model, VOCABULARY, DECODE), PROMPTS, FREE, UNIFORMS)
    assert guided.tolist() != one.tolist()


def test_weight_zero_is_the_free_stream(model):
    zero = generate_images(
        Decoder(model, VOCABULARY, replace(DECODE, guidance=0.0)), PROMPTS, FREE, UNIFORMS
    )
    free = generate_images(Decoder(model, VOCABULARY, DECODE), FREE, None, UNIFORMS)
    assert zero.tolist() == free.tolist()


def test_inputs_are_left_alone(model):
    prompts, free = [row.copy() for row in PROMPTS[:3]], [row.copy() for row in FREE[:3]]
    noise, weights = UNIFORMS[:3].copy(), [weight.clone() for weight in model.parameters()]
    generate_images(Decoder(model, VOCABULARY, DECODE), prompts, free, noise)
    for before, after in zip([*PROMPTS[:3], *FREE[:3]], [*prompts, *free], strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(noise, UNIFORMS[:3])
    assert all((a == b).all() for a, b in zip(weights, model.parameters(), strict=True))


def test_work_is_counted_exactly(model):
    counters = {"forward_calls": 100}
    prompts, free = [np.arange(5), np.arange(9)], [np.arange(2), np.arange(3)]
    generate_images(
        Decoder(model, VOCABULARY, DECODE, counters=counters), prompts, free, UNIFORMS[:2]
    )
    counted = {name: counters[name] for name in ("prefill_tokens", "step_tokens", "forward_calls")}
    assert counted == {
        "prefill_tokens": 2 * 2 + 4 * 7,  # beginnings 0 and 0 1, then what follows them
        "step_tokens": 4 * (COUNT - 1),
        "forward_calls": 100 + COUNT + 1,
    }


def test_what_prompts_share_is_read_once(model):
    documents, counters = np.arange(10), {}
    captions = [np.array([11, 12, 13]), np.array([14, 15])]
    prompts = [np.concatenate([documents, caption]) for caption in captions] * 3
    free = [np.concatenate([documents, [20]])] * 6
    noise = UNIFORMS[:6]
    found = generate_images(
        Decoder(model, VOCABULARY, DECODE, counters=counters), prompts, free, noise
    )
    # One beginning for all, then three different ends for the six samples of two streams.
    assert counters["prefill_tokens"] == 10 + 3 * 3
    wanted = [plain(model, *row, DECODE) for row in zip(prompts, free, noise, strict=True)]
    assert found.tolist() == wanted


def test_a_prompt_of_one_token(model):
    one, codes = [np.array([7])], []
    for free in ([np.array([7])], [np.array([3, 4])]):
        codes.append(generate_images(Decoder(model, VOCABULARY, DECODE), one, free, UNIFORMS[:1]))
        assert codes[-1][0].tolist() == plain(model, one[0], free[0], UNIFORMS[0], DECODE)


def test_the_context_can_be_filled_to_the_last_token(model):
    full = [np.arange(32 - COUNT)]
    codes = generate_images(Decoder(model, VOCABULARY, DECODE), full, FREE[:1], UNIFORMS[:1])
    assert codes[0].tolist() == plain(model, full[0], FREE[0], UNIFORMS[0], DECODE)


def test_nothing_to_draw(model):
    counters = {}
    none = generate_images(
        Decoder(model, VOCABULARY, DECODE, counters=counters), [], [], uniforms([], COUNT)
    )
    assert none.shape == (0, COUNT) and none.dtype == torch.int64 and counters == {}


def test_bfloat16_draws_image_codes(model):
    half = Transformer(CONFIG)
    half.load_state_dict(model.state_dict())
    codes = generate_images(
        Decoder(half.bfloat16(), VOCABULARY, DECODE), PROMPTS[:3], FREE[:3], UNIFORMS[:3, :3]
    )
    assert codes.shape == (3, 3) and codes.min() >= 0 and codes.max() < 40


def test_padding():
    ids_RT, lengths_R = pad([np.array([1, 2, 3]), np.array([4])], filler=9)
    assert ids_RT.tolist() == [[1, 2, 3], [4, 9, 9]] and lengths_R.tolist() == [3, 1]


def test_common_starts():
    rows = [np.array([1, 2, 3, 4]), np.array([1, 2, 9])]
    assert common_start(rows) == 2
    assert common_start([np.array([1, 2]), np.array([1, 2])]) == 1  # the last token is left
    assert common_start([np.array([1, 2, 3])]) == 2
    assert common_start([np.array([1]), np.array([1, 2])]) == 0
    assert unique([rows[0], rows[1], rows[0], rows[1]]) == ([0, 1], [0, 1, 0, 1])


@given(st.lists(st.sampled_from(["", "a", "b", "aa", "ab", "bbb"]), min_size=1, max_size=9))
def test_different_rows_by_their_length(words):
    rows = [np.array([ord(letter) for letter in word], np.int64) for word in words]
    firsts, which = by_length(rows, *unique(rows))
    assert [words[firsts[at]] for at in which] == words
    assert [len(words[at]) for at in firsts] == sorted(len(words[at]) for at in firsts)
    assert len(firsts) == len(set(words))


def call(model, prompts=PROMPTS[:2], free=FREE[:2], noise=UNIFORMS[:2], vocabulary=VOCABULARY):
    return generate_images(Decoder(model, vocabulary, DECODE), prompts, free, noise)


LONG, EMPTY = [np.arange(21), np.arange(3)], [np.arange(0), np.arange(3)]
BAD_CALLS = {
    "prompt 0 has 21 tokens; with 12 image tokens behind it this does not fit the context of 32": (
        dict(prompts=LONG)
    ),
    r"prompt 0 has 0 tokens and must have 1 to 31 \(model.context 32\)": dict(free=EMPTY),
    "2 samples need 2 prompts, got 3": dict(prompts=PROMPTS[:3]),
    "2 samples need 2 prompts, got 1": dict(free=FREE[:1]),
    r"uniforms must have shape \[samples, tokens\], got \[12\]": dict(noise=UNIFORMS[0]),
    r"uniforms must lie in \[0, 1\), got 1.5": dict(noise=UNIFORMS[:2] * 0 + 1.5),
    "the vocabulary has 96 ids but the model 80": dict(vocabulary=Vocabulary(40, 40, 6, 16)),
    r"ids must lie in \[0, 80\), got 80": dict(prompts=[np.array([80]), np.array([0])]),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_mistakes_get_one_line(model, message):
    with pytest.raises(UserError, match=message) as caught:
        call(model, **BAD_CALLS[message])
    assert "\n" not in str(caught.value)


def test_broken_weights_are_reported(model):
    broken = Transformer(CONFIG)
    broken.load_state_dict(model.state_dict())
    broken.blocks[1].up.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="logits of row 0 hold NaN"):
        call(broken)
