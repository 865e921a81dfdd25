"""Text from the cached loops against plain ones: full forward each step, one row at a time.

Axes as in cm3leon/decoding/text.py.
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
from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.loop import Decoder
from cm3leon.decoding.sampling import choose, combine
from cm3leon.decoding.text import BeamConfig, Continuation, beam_text, continue_text
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import derive, generator, torch_generator, uniforms
from cm3leon.sequence.documents import Vocabulary

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
    found = continue_text(Decoder(MODEL, VOCABULARY, decode), PROMPTS, FREE, UNIFORMS)
    wanted = [plain(*row, decode) for row in zip(PROMPTS, FREE, UNIFORMS, strict=True)]
    assert all(map(same, found, wanted)), (found, wanted)
    assert len({one.ids for one in found}) > 8  # a model worth testing


def test_rows_end_in_every_way():
    """By <eom>, by the count and by the context: the tests above see all three."""
    found = continue_text(Decoder(MODEL, VOCABULARY, SAMPLED), PROMPTS, FREE, UNIFORMS)
    cut = [len(one.ids) for one in found if not one.finished]
    assert any(one.finished for one in found) and MOST in cut and min(cut) < MOST


def test_no_row_sees_the_rest_of_its_batch():
    decode = DECODES[3]
    decoder = Decoder(MODEL, VOCABULARY, decode)
    together = continue_text(decoder, PROMPTS, FREE, UNIFORMS)
    for size in (1, 5):
        apart = [
            continue_text(decoder, PROMPTS[part], FREE[part], UNIFORMS[part])
            for part in (slice(start, start + size) for start in range(0, 17, size))
        ]
        assert all(map(same, itertools.chain(*apart), together))
    order = [*range(16, -1, -1)]
    back = continue_text(
        Decoder(MODEL, VOCABULARY, decode), PROMPTS[::-1], FREE[::-1], UNIFORMS[order]
    )
    assert all(map(same, back[::-1], together))


SENTENCES = generator(3, "documents").integers(0, VOCABULARY.size, (40, 6))


def with_documents(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ragged prompts and their free twins with 0 to 3 documents of 6 ids before them."""
    prompts, free = prompts_for(count, "few", 4), prompts_for(count, "few free", 4)
    before = [SENTENCES[row : row + row % 4].ravel() for row in range(count)]
    longer = [[*pair, SENTENCES[9, :3]] for pair in zip(before, prompts, strict=True)]
    shorter = zip(before, free, strict=True)
    return [np.concatenate(one) for one in longer], [np.concatenate(one) for one in shorter]


@pytest.mark.parametrize(
    "decode", [GREEDY, SAMPLED, DECODES[3]], ids=["greedy", "sampled", "guided"]
)
def test_refill_cannot_be_seen(decode):
    prompts, free = with_documents(32)
    noise = uniforms([derive(1, row) for row in range(32)], MOST)
    wanted = [plain(*row, decode) for row in zip(prompts, free, noise, strict=True)]
    steps = {}
    for slots in (1, 7, 32, None):
        counters = steps[slots] = {}
        decoder = Decoder(MODEL, VOCABULARY, decode, slots, counters)
        assert all(map(same, continue_text(decoder, prompts, free, noise), wanted))
    fed = sum(len(one.ids) - (not one.finished) for one in wanted) * decode.streams
    for counters in steps.values():
        assert counters["step_tokens"] - counters["idle_tokens"] == fed
    assert steps[1]["idle_tokens"] == 0 < steps[None]["idle_tokens"]
    assert steps[32] == steps[None]
    decoder = Decoder(MODEL, VOCABULARY, decode, counters=steps.setdefault("off", {}))
    batches = [
        continue_text(decoder, prompts[part], free[part], noise[part])
        for part in (slice(start, start + 7) for start in range(0, 32, 7))
    ]
    assert all(map(same, itertools.chain(*batches), wanted))
    assert steps[7]["idle_tokens"] < steps["off"]["idle_tokens"]


@pytest.mark.parametrize("beam", [BeamConfig(1), BeamConfig(3)], ids=str)
def test_refill_of_beams_cannot_be_seen(beam):
    prompts, free = with_documents(12)
    wanted = beam_text(Decoder(MODEL, VOCABULARY, DECODES[2]), prompts, free, beam, 8)
    for slots in (1, 5):
        found = beam_text(
            Decoder(MODEL, VOCABULARY, DECODES[2], slots=slots), prompts, free, beam, 8
        )
        for ours, theirs in zip(found, wanted, strict=True):
            assert all(map(same, ours, theirs)) and len(ours) == len(theirs)


def test_weights_of_the_streams():
    def texts(prompts, free, guidance):
        decode = replace(SAMPLED, guidance=guidance)
        return [
            one.ids
            for one in continue_text(Decoder(MODEL, VOCABULARY, decode), prompts, free, UNIFORMS)
        ]

    short = [prompt[:9] for prompt in PROMPTS]
    assert texts(short, FREE, 1.0) == texts(short, None, 3.0) == texts(short, short, 3.0)
    same_room = [np.resize(prompt, 9) for prompt in FREE]
    fixed = [np.resize(prompt, 9) for prompt in PROMPTS]
    assert texts(fixed, same_room, 0.0) == texts(same_room, None, 1.0)


BEAMS = [BeamConfig(3), BeamConfig(4, "mean"), BeamConfig(5, alpha=0.0)]


def plain_beam(prompt, free, beam: BeamConfig, decode, most: int) -> list[Continuation]:
    """Beam search of one sample written down once more: a list of tuples, no cache, no batch."""
    streams = (prompt, free) if decode.streams == 2 else (prompt, prompt)
    limit = min(most, CONTEXT - max(map(len, streams)))
    alive, ended, stop = [((), 0.0)], [], VOCABULARY.text_size
    while alive:
        grown = []
        for ids, score in alive:
            logits_1V = distribution(MODEL, VOCABULARY, streams, list(ids), decode)
            gains = logits_1V.double().log_softmax(-1)[0].tolist()
            grown += [((*ids, token), score + gain) for token, gain in enumerate(gains)]
        grown = [one for one in grown if one[1] > -np.inf]
        grown = sorted(grown, key=lambda one: -one[1])[: beam.width - len(ended)]
        alive = []
        for ids, score in grown:
            if ids[-1] == stop:
                ended.append(Continuation(ids[:-1], score, True))
            elif len(ids) == limit:
                ended.append(Continuation(ids, score, False))
            else:
                alive.append((ids, score))
    return sorted(ended, key=beam.rank, reverse=True)


@pytest.mark.parametrize("decode", [DECODES[0], DECODES[2], DECODES[5]], ids=str)
@pytest.mark.parametrize("beam", BEAMS, ids=str)
def test_beams_equal_the_plain_search(beam, decode):
    prompts, free = PROMPTS[:6], FREE[:6]
    found = beam_text(Decoder(MODEL, VOCABULARY, decode), prompts, free, beam, 6)
    for row, (prompt, without) in enumerate(zip(prompts, free, strict=True)):
        wanted = plain_beam(prompt, without, beam, decode, 6)
        assert len(found[row]) == len(wanted) == beam.width
        assert all(map(same, found[row], wanted))


@pytest.mark.parametrize("decode", [DECODES[0], DECODES[2], DECODES[6]], ids=str)
def test_a_beam_of_one_is_greedy(decode):
    greedy = continue_text(
        Decoder(MODEL, VOCABULARY, replace(decode, temperature=0)), PROMPTS, FREE, UNIFORMS
    )
    beams = beam_text(Decoder(MODEL, VOCABULARY, decode), PROMPTS, FREE, BeamConfig(1), MOST)
    assert all(len(one) == 1 and same(one[0], two) for one, two in zip(beams, greedy, strict=True))


def every_text(model, vocabulary, prompt, most: int) -> list[Continuation]:
    """All texts of up to `most` tokens with their scores: 1 + V + V^2 + .. of them."""
    allowed, every = [*range(vocabulary.text_size), vocabulary.eom], []
    for length in range(most + 1):
        for ids in itertools.product(range(vocabulary.text_size), repeat=length):
            row = torch.tensor([[*prompt, *ids]])
            logs = model(row)[0, len(prompt) - 1 :, allowed].double().log_softmax(-1)
            score = sum(logs[at, token].item() for at, token in enumerate(ids))
            if length < most:
                score += logs[length, vocabulary.text_size].item()
            every.append(Continuation(ids, score, length < most))
    return every


@pytest.mark.parametrize("beam", [BeamConfig(), BeamConfig(penalty="mean"), BeamConfig(alpha=-1.0)])
def test_a_beam_of_everything_is_exhaustive(beam):
    model = random_model(3)
    vocabulary = Vocabulary.from_config(model.config.vocabulary)
    prompt = np.array([1, 2, vocabulary.mask(0)])
    most, choices = 3, 4
    beam = replace(beam, width=choices**most)
    (found,) = beam_text(Decoder(model, vocabulary, GREEDY), [prompt], None, beam, most)
    wanted = sorted(every_text(model, vocabulary, prompt, most), key=beam.rank, reverse=True)
    assert len(found) == len(wanted) == 1 + 3 + 9 + 27
    assert all(map(same, found, wanted))
    assert np.isclose(sum(np.exp(one.score) for one in found), 1)  # texts share one probability


def test_wider_beams_find_likelier_sums():
    plain_sum = BeamConfig(alpha=0.0)
    decoder = Decoder(MODEL, VOCABULARY, GREEDY)
    best = [
        [max(one, key=plain_sum.rank).score for one in
         beam_text(decoder, PROMPTS, None, replace(plain_sum, width=width), 5)]
        for width in (1, 30)
    ]  # fmt: skip
    assert np.mean(best[1]) > np.mean(best[0])


@given(st.integers(1, 50), st.floats(-100, -0.01), st.floats(0, 2))
def test_penalties(tokens, score, alpha):
    text = Continuation((0,) * (tokens - 1), score, True)
    assert text.tokens == tokens
    assert BeamConfig(alpha=0.0).rank(text) == score
    assert BeamConfig(penalty="mean").rank(text) == pytest.approx(score / tokens)
    longer = Continuation((0,) * tokens, score, True)
    assert BeamConfig(alpha=alpha).rank(longer) >= BeamConfig(alpha=alpha).rank(text)


def test_beams_do_not_see_the_batch_and_repeat_prompts():
    beam = BeamConfig(3)
    together = beam_text(
        Decoder(MODEL, VOCABULARY, DECODES[2]), PROMPTS[:5] * 2, FREE[:5] * 2, beam, 8
    )
    for row in range(5):
        (alone,) = beam_text(
            Decoder(MODEL, VOCABULARY, DECODES[2]), [PROMPTS[row]], [FREE[row]], beam, 8
        )
        assert all(map(same, alone, together[row])) and all(map(same, alone, together[row + 5]))


def test_nothing_asked_for():
    assert continue_text(Decoder(MODEL, VOCABULARY, GREEDY), [], [], np.zeros((0, 3))) == []
    assert beam_text(Decoder(MODEL, VOCABULARY, GREEDY), [], None, BeamConfig(), 3) == []


LONG = [np.zeros(CONTEXT, np.int64)] * 2
MISTAKES = {
    "prompt 0 has 32 tokens and must have 1 to 31 .*shorten the text": dict(prompts=LONG),
    "2 samples need 2 prompts, got 3": dict(prompts=PROMPTS[:3]),
    "most must be at least 1, got 0": dict(noise=np.zeros((2, 0))),
    "the vocabulary has 40 ids but the model 32": dict(vocabulary=Vocabulary(12, 7, 9, 40)),
    r"uniforms must lie in \[0, 1\), got 1.5": dict(noise=np.full((2, 3), 1.5)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_get_one_line(message):
    told = dict(prompts=PROMPTS[:2], noise=UNIFORMS[:2], vocabulary=VOCABULARY) | MISTAKES[message]
    with pytest.raises(UserError, match=message) as caught:
        continue_text(
            Decoder(MODEL, told["vocabulary"], SAMPLED), told["prompts"], None, told["noise"]
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(width=0), "beam.width must be at least 1, got 0"),
        (dict(penalty="none"), "beam.penalty must be 'wu' or 'mean'"),
        (dict(alpha=float("nan")), "beam.alpha must be finite"),
    ],
)
def test_beam_settings_are_checked(values, message):
    with pytest.raises(UserError, match=message):
        BeamConfig(**values)


def test_broken_weights_are_reported():
    broken = random_model(12)
    broken.blocks[1].up.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        beam_text(Decoder(broken, VOCABULARY, GREEDY), PROMPTS[:2], None, BeamConfig(2), 3)
    with pytest.raises(UserError, match="NaN"):
        continue_text(Decoder(broken, VOCABULARY, GREEDY), PROMPTS[:2], None, UNIFORMS[:2])
