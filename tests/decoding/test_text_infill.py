"""Gaps in captions: prompts as training makes them, and texts against a plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.decoding.config import GREEDY, DecodeConfig
from cm3leon.decoding.loop import Decoder
from cm3leon.decoding.text import BeamConfig, TextDecode, beam_text
from cm3leon.decoding.text_infill import Gaps, fill_gaps, find_gaps, opened
from cm3leon.errors import UserError
from cm3leon.loading import load_system
from cm3leon.seeds import derive, uniforms
from cm3leon.sequence.documents import Document, build_caption_prompt, build_sample, parse_prompt
from cm3leon.sequence.masking import rotate, unrotate
from cm3leon.world.scenes import scene
from tests.decoding.test_text import DECODES, MODEL, VOCABULARY, plain, same
from tests.retrieval.test_retriever import add_bank
from tests.test_pipeline import write_tiny_baselines

EOS, BREAK, EOM = VOCABULARY.eos, VOCABULARY.break_, VOCABULARY.eom
ONE, TWO, THREE = (VOCABULARY.mask(index) for index in range(3))
PICTURE = (3, 1, 4)
CODES = [VOCABULARY.image(code) for code in PICTURE]
BEFORE = (Document.pair([7], [0]),)
HEAD = [EOS, 7, BREAK, VOCABULARY.image(0), BREAK]


def test_a_hidden_caption_is_the_caption_prompt():
    for documents in ((), BEFORE):
        hidden = Gaps(((), ()), PICTURE, documents)
        wanted = build_caption_prompt(PICTURE, documents, VOCABULARY)
        assert hidden.prompt(VOCABULARY).tolist() == wanted.tolist()
        assert parse_prompt(hidden.prompt(VOCABULARY), VOCABULARY).asks == "text"


def test_prompts_by_hand():
    gaps = Gaps(((1, 2), (5,)), PICTURE, BEFORE)
    assert gaps.prompt(VOCABULARY).tolist() == [*HEAD, 1, 2, ONE, 5, BREAK, *CODES, EOS, ONE]
    hidden = [1, 2, ONE, 5, BREAK, TWO, EOS, ONE]
    assert gaps.unconditional(VOCABULARY).tolist() == [*HEAD, *hidden]
    assert gaps.unconditional(VOCABULARY, "drop").tolist() == [*HEAD, 1, 2, ONE, 5, EOS, ONE]
    assert gaps.unconditional(VOCABULARY, "bare").tolist() == [EOS, *hidden]
    alone = replace(gaps, documents=())
    for reading in ("mask", "drop", "bare"):
        assert alone.unconditional(VOCABULARY, reading).tolist() == [EOS, *hidden]
    assert replace(alone, codes=None).prompt(VOCABULARY).tolist() == [EOS, *hidden]
    two = Gaps(((), (4,), ()), PICTURE)
    assert two.unconditional(VOCABULARY).tolist() == [EOS, ONE, 4, TWO, BREAK, THREE, EOS, ONE]


@given(st.lists(st.lists(st.integers(0, 11), max_size=3), min_size=2, max_size=4), st.booleans())
def test_a_prompt_is_the_beginning_of_a_training_sample(pieces, seen):
    """Whatever the gaps hide, rotating the whole sample begins with the prompt."""
    filled, spans, text = [[9, 8], [6], [11] * 4], [], list(pieces[0])
    for span, piece in zip(filled, pieces[1:], strict=False):
        spans.append((1 + len(text), 1 + len(text) + len(span)))
        text += [*span, *piece]
    sample = build_sample(Document.pair(text, PICTURE), [], VOCABULARY)
    if not seen:
        spans.append((len(sample) - 1 - len(PICTURE), len(sample) - 1))
    rotated, _ = rotate(sample, spans, VOCABULARY)
    gaps = Gaps(tuple(map(tuple, pieces)), PICTURE if seen else None)
    prompt = gaps.prompt(VOCABULARY)
    assert (
        rotated[: len(prompt)].tolist()
        == prompt.tolist()
        == opened(sample, spans, VOCABULARY).tolist()
    )
    assert unrotate(rotated, VOCABULARY).tolist() == sample.tolist()


JOBS = [
    Gaps(((), ()), PICTURE),
    Gaps(((1, 2), (5,)), (0, 6)),
    Gaps(((4,), (3,), ()), PICTURE),
    Gaps(((), (2, 2)), None),
    Gaps(((), (8,), (9,), ()), (1,)),
]
SEEDS = [5, 6, 7, 8, 9]


@pytest.mark.parametrize("decode", DECODES, ids=str)
def test_equals_the_plain_loop(decode):
    """Gap after gap, each with what was found before it; cut texts included."""
    found = fill_gaps(Decoder(MODEL, VOCABULARY, decode), JOBS, SEEDS, most=3)
    for job, seed, spans in zip(JOBS, SEEDS, found, strict=True):
        own = decode
        rows = [job.prompt(VOCABULARY), job.unconditional(VOCABULARY, decode.unconditional)]
        if job.codes is None:  # nothing to compare: one stream
            own = replace(decode, strategy="guide", guidance=1.0)
        assert len(spans) == job.count
        for gap, span in enumerate(spans):
            noise = uniforms([derive(seed, "gap", gap) if gap else seed], 3)[0]
            assert same(span, plain(*rows, noise, own))
            rows = [[*row, *span.ids, EOM, VOCABULARY.mask(gap + 1)] for row in rows]


def test_beams_fill_gaps_and_nothing_hangs_on_the_batch():
    beam, decode = BeamConfig(3), DecodeConfig(guidance=1.5, temperature=0.0)
    found = fill_gaps(Decoder(MODEL, VOCABULARY, decode), JOBS, SEEDS, beam, 4)
    rows = [[JOBS[1].prompt(VOCABULARY)], [JOBS[1].unconditional(VOCABULARY)]]
    assert same(found[1][0], beam_text(Decoder(MODEL, VOCABULARY, decode), *rows, beam, 4)[0][0])
    for job, seed, spans in zip(JOBS, SEEDS, found, strict=True):
        (alone,) = fill_gaps(Decoder(MODEL, VOCABULARY, decode), [job], [seed], beam, 4)
        assert all(map(same, alone, spans))


@pytest.mark.parametrize("beam", [None, BeamConfig(2)], ids=["sampled", "beam"])
def test_refill_cannot_be_seen(beam):
    decode, counters = DECODES[3], {}
    wanted = fill_gaps(Decoder(MODEL, VOCABULARY, decode), JOBS * 3, range(15), beam, 4)
    for slots in (1, 2, 6):
        found = fill_gaps(
            Decoder(MODEL, VOCABULARY, decode, slots=slots, counters=counters),
            JOBS * 3,
            range(15),
            beam,
            4,
        )
        for ours, theirs in zip(found, wanted, strict=True):
            assert all(map(same, ours, theirs)) and len(ours) == len(theirs)
    assert counters["step_tokens"] > counters["idle_tokens"] >= 0


def test_filled_texts():
    spans = fill_gaps(Decoder(MODEL, VOCABULARY, GREEDY), JOBS, SEEDS, most=3)
    for job, found in zip(JOBS, spans, strict=True):
        text = job.filled(found)
        assert len(text) == sum(map(len, job.pieces)) + sum(len(span.ids) for span in found)
        assert text[: len(job.pieces[0])] == list(job.pieces[0])


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    torch.manual_seed(0)  # of the bank's CLIP
    folder = write_tiny_baselines(tmp_path_factory.mktemp("baselines"))
    add_bank(folder)
    return load_system(folder)


IMAGES = np.stack([scene("coco", "val", index, 32).image for index in range(5)])
SAMPLE = DecodeConfig(guidance=1.5, temperature=1.0)


def test_find_gaps(system):
    text = system.text
    whole = text.encode("a large red star, on the sand")
    for hidden in ("large red", "star", "sand", "a", "a large red"):
        first, second = find_gaps(
            "a large red star, on the sand".replace(hidden, "<mask>", 1), text
        )
        assert [*first, *text.encode(hidden), *second] == whole, hidden
    assert find_gaps("<mask>", text) == ((), ())
    assert find_gaps(" <mask>  ", text) == ((), ())
    assert len(find_gaps("a <mask> star and a <mask> heart", text)) == 3


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a red star", "must hold <mask>, got 'a red star'"),
        ("", "must hold <mask>"),
        ("a <mask>s", "stands for whole words"),
        ("a re<mask> star", "stands for whole words"),
        ("a <mask> <mask> star", "nothing between them are one"),
        (None, "must hold <mask>"),
    ],
)
def test_captions_that_cannot_be_filled(system, caption, message):
    with pytest.raises(UserError, match=message) as caught:
        system.infill_text([caption], IMAGES[:1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("beam", [None, BeamConfig(2)])
def test_a_caption_depends_on_its_picture_and_seed_alone(system, beam):
    seeds = [3, 4, 5, 6, 7]
    options = dict(how=TextDecode(SAMPLE, beam), documents=2, most=8)
    together = system.caption(IMAGES, seeds, **options)
    small = replace(system, batch_size=2)
    assert small.caption(IMAGES[::-1], seeds[::-1], **options)[::-1] == together
    assert system.caption(IMAGES[2:3], seeds[2:3], **options) == together[2:3]
    assert len(set(together)) > 2
    if beam is None:
        assert system.caption(IMAGES, [8] * 5, **options) != together
    assert system.caption(IMAGES, seeds, **options | dict(documents=0)) != together


def test_captioning_is_filling_the_whole_text(system):
    assert system.caption(IMAGES, most=6) == system.infill_text(["<mask>"] * 5, IMAGES, most=6)
    seen = system.infill_text(["a <mask> star, <mask>"] * 5, IMAGES, most=4)
    assert all(text.startswith("a") and " star," in text for text in seen)
    blind = system.infill_text(["a <mask> star, <mask>"] * 5, most=4)
    assert len(set(blind)) == 1 and len(set(seen)) > 1
    assert system.caption(IMAGES[:0]) == [] and GREEDY.streams == 1


def test_a_document_is_found_by_the_picture(system):
    found = system.documents_like(IMAGES, 3)
    assert [len(one) for one in found] == [3] * 5
    assert system.documents_like(IMAGES[3:4], 3) == found[3:4]


MISTAKES = {
    r"seeds must be one a caption \(5\), got 1": lambda s: s.caption(IMAGES, [1]),
    "4 captions need as many pictures, got 5": lambda s: s.infill_text(["<mask>"] * 4, IMAGES),
    r"pictures must be uint8 \[B, 32, 32, 3\]": lambda s: s.caption(IMAGES[:, :16]),
    "documents are found by the picture": lambda s: s.infill_text(["<mask>"], documents=1),
    "most must be at least 1, got 0": lambda s: s.caption(IMAGES, most=0),
    "retrieval.documents must lie in 0..4": lambda s: s.caption(IMAGES, documents=5),
    "shorten the text": lambda s: s.infill_text(["雪" * 150 + " <mask>"], IMAGES[:1]),
    "trained without retrieval": lambda s: replace(s, retriever=None).caption(IMAGES, documents=1),
    "decode.unconditional must be one of": lambda s: Gaps(((), ()), (1,)).unconditional(
        s.vocabulary, "other"
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_get_one_line(system, message):
    with pytest.raises(UserError, match=message) as caught:
        MISTAKES[message](system)
    assert "\n" not in str(caught.value)
