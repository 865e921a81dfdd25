"""Sequences: worked examples of Figure 9 and the prompts, parse(build(x)) == x, and bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.config import PAPER_VOCABULARY, VocabularyConfig
from cm3leon.errors import UserError
from cm3leon.sequence.documents import (
    Document,
    Image,
    Mask,
    Prompt,
    Text,
    Vocabulary,
    build_caption_prompt,
    build_prompt,
    build_sample,
    build_unconditional_prompt,
    image_codes,
    parse_prompt,
    parse_sample,
    parse_segments,
)

law = settings(max_examples=50, deadline=None)  # a shared machine has no deadlines
V = Vocabulary(20, 10, 3, multiple=8)
E, K, S0, EOM, PAD = V.eos, V.break_, V.mask(0), V.eom, V.pad
A, B = Document.pair([1, 2], [3, 4, 5]), Document.pair([6], [7, 7])

texts = st.lists(st.integers(0, 19), max_size=5).map(Text)
images = st.lists(st.integers(0, 9), min_size=1, max_size=5).map(Image)
pairs = st.builds(lambda text, image: Document((text, image)), texts, images)
mixed = st.one_of(
    st.tuples(texts), st.tuples(images), st.tuples(texts, images), st.tuples(images, texts, images)
).map(Document)


def segments_of(documents):
    return tuple(segment for document in documents for segment in document.segments)


def test_paper_vocabulary_has_65536_ids():
    vocabulary = Vocabulary.from_config(PAPER_VOCABULARY)
    assert vocabulary == Vocabulary(56320, 8192, 512, multiple=512)
    assert vocabulary.size == 65536
    assert (vocabulary.text(0), vocabulary.image(0), vocabulary.mask(0)) == (0, 56320, 64512)
    assert (vocabulary.pad, vocabulary.eos, vocabulary.break_) == (65024, 65025, 65026)
    assert vocabulary.eom == 65027


sizes = st.integers(1, 50)


@law
@given(sizes, sizes, sizes, sizes)
def test_ids_are_disjoint_and_inside_the_size(text, image, sentinels, multiple):
    vocabulary = Vocabulary(text, image, sentinels, multiple)
    ids = np.arange(vocabulary.size)
    kinds = [vocabulary.is_text(ids), vocabulary.is_image(ids), vocabulary.is_mask(ids)]
    assert [kind.sum() for kind in kinds] == [text, image, sentinels]
    specials = [vocabulary.pad, vocabulary.eos, vocabulary.break_, vocabulary.eom]
    assert not np.any(np.sum(kinds, axis=0)[specials]) and len(set(specials)) == 4
    assert np.sum(kinds, axis=0).max() == 1
    assert max(specials) < vocabulary.size <= max(specials) + multiple
    assert vocabulary.size % multiple == 0
    assert [vocabulary.text(i) for i in range(text)] == ids[kinds[0]].tolist()
    assert [vocabulary.image(i) for i in range(image)] == ids[kinds[1]].tolist()
    assert [vocabulary.mask(i) for i in range(sentinels)] == ids[kinds[2]].tolist()
    assert (vocabulary.image_start, vocabulary.image_end) == (text, text + image)


def test_names_of_ids():
    names = [V.name(token) for token in (0, 20, 29, 30, E, K, EOM, PAD, 37, 40, -1)]
    assert names == [
        *("text 0", "image 0", "image 9", "<mask:0>", "<eos>", "<break>", "<eom>", "<pad>"),
        *("filler", "no token", "no token"),
    ]


@pytest.mark.parametrize("method, size", [("text", 20), ("image", 10), ("mask", 3)])
@pytest.mark.parametrize("beyond", [True, False])
def test_index_out_of_range(method, size, beyond):
    index = size if beyond else -1
    with pytest.raises(UserError, match=rf"\[0, {size}\), got {index}$"):
        getattr(V, method)(index)


def test_size_below_one():
    with pytest.raises(UserError, match=r"vocabulary.sentinels must be at least 1, got 0"):
        Vocabulary(1, 1, 0)
    assert Vocabulary.from_config(VocabularyConfig(1, 2, 3, 4)) == Vocabulary(1, 2, 3, 4)


def test_sample_worked_example():
    ids = build_sample(B, [A], V)
    assert ids.dtype == np.int64
    assert ids.tolist() == [E, 1, 2, K, 23, 24, 25, K, 6, K, 27, 27, E]


@pytest.mark.parametrize("count", range(5))
def test_figure_9_counts(count):
    """d documents and the query: 2 <eos>, 2d + 1 <break>, 1024 (d + 1) image tokens."""
    vocabulary = Vocabulary.from_config(PAPER_VOCABULARY)
    document = Document.pair(range(9), range(1024))
    ids = build_sample(document, [document] * count, vocabulary)
    assert (ids == vocabulary.eos).sum() == 2
    assert (ids == vocabulary.break_).sum() == 2 * count + 1
    assert vocabulary.is_image(ids).sum() == 1024 * (count + 1)
    assert vocabulary.is_text(ids).sum() == 9 * (count + 1)
    assert (len(ids) > 4096) == (count >= 3)  # A20: a full example does not fit


def test_breaks_part_documents_of_one_modality():
    retrieved = [Document((Text([1]),)), Document((Text([2]),)), Document((Image([0]),))]
    ids = build_sample(B, retrieved, V)
    assert ids.tolist() == [E, 1, K, 2, K, 20, K, 6, K, 27, 27, E]
    assert parse_segments(ids, V) == (*segments_of(retrieved), *B.segments)


@law
@given(pairs, st.lists(pairs, max_size=3))
def test_samples_of_pairs_parse_back(query, retrieved):
    assert parse_sample(build_sample(query, retrieved, V), V) == [*retrieved, query]


@law
@given(mixed, st.lists(mixed, max_size=3))
def test_segments_of_any_sample_parse_back(query, retrieved):
    ids = build_sample(query, retrieved, V)
    assert parse_segments(ids, V) == segments_of([*retrieved, query])


def test_documents_of_one_modality_have_no_bounds():
    with pytest.raises(UserError, match=r"pairs, got Text Text Image; use parse_segments$"):
        parse_sample(build_sample(A, [Document((Text([1]),))], V), V)


@pytest.mark.parametrize(
    "ids, expected",
    [
        (build_prompt([6], [], V), [E, 6, K]),
        (build_prompt([6], [A], V), [E, 1, 2, K, 23, 24, 25, K, 6, K]),
        (build_unconditional_prompt([], V), [E, S0, K]),
        (build_unconditional_prompt([A], V), [E, 1, 2, K, 23, 24, 25, K, S0, K]),
        (build_unconditional_prompt([A], V, "drop"), [E, 1, 2, K, 23, 24, 25, K]),
        (build_unconditional_prompt([A], V, "bare"), [E, S0, K]),
        (build_unconditional_prompt([], V, "drop"), [E, S0, K]),
        (build_caption_prompt([7, 7], [], V), [E, S0, K, 27, 27, E, S0]),
        (build_caption_prompt([7], [A], V), [E, 1, 2, K, 23, 24, 25, K, S0, K, 27, E, S0]),
    ],
)
def test_prompt_worked_examples(ids, expected):
    assert ids.dtype == np.int64
    assert ids.tolist() == expected


@law
@given(texts, images, st.lists(mixed, max_size=3))
def test_prompts_parse_back(text, image, retrieved):
    documents = segments_of(retrieved)
    prompt = build_prompt(text.ids, retrieved, V)
    assert parse_prompt(prompt, V) == Prompt("image", (*documents, text))
    free = build_unconditional_prompt(retrieved, V)
    assert parse_prompt(free, V) == Prompt("image", (*documents, Mask(0)))
    drop = parse_prompt(build_unconditional_prompt(retrieved, V, "drop"), V)
    assert drop == Prompt("image", documents or (Mask(0),))
    caption = build_caption_prompt(image.codes, retrieved, V)
    assert parse_prompt(caption, V) == Prompt("text", (*documents, Mask(0), image))


@law
@given(pairs, st.lists(mixed, max_size=3))
def test_prompt_begins_its_training_sample(query, retrieved):
    text, image = query.segments
    prompt = build_prompt(text.ids, retrieved, V)
    sample = build_sample(query, retrieved, V)
    assert sample[: len(prompt)].tolist() == prompt.tolist()
    assert image_codes(sample[len(prompt) : -1], V).tolist() == list(image.codes)


def test_raw_ids_may_come_as_lists_and_arrays():
    assert Document.pair(np.array([1, 2]), np.array([3, 4, 5], dtype=np.uint16)) == A
    assert type(Image(np.array([3])).codes[0]) is int
    assert Text(np.array([])) == Text(())


def test_image_codes_keep_their_shape():
    assert image_codes([[20, 29], [21, 20]], V).tolist() == [[0, 9], [1, 0]]
    with pytest.raises(UserError, match=r"\[20, 30\), got 3 \(text 3\) at position 1$"):
        image_codes([20, 3], V)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Text([1.5]), "text ids must be a flat sequence of integers"),
        (lambda: Text([[1, 2]]), "text ids must be a flat sequence of integers"),
        (lambda: Text([1, [2]]), "text ids must be a flat sequence of integers"),
        (lambda: Text("ab"), "text ids must be a flat sequence of integers, got 'ab'"),
        (lambda: Image([]), "image codes must not be empty"),
        (lambda: Document(()), "at least one segment"),
        (lambda: Document((Mask(0),)), "must be Text or Image, got Mask"),
        (lambda: Document((Text([1]), Text([2]))), "alternate in modality"),
        (
            lambda: build_sample(Document.pair([20], [1]), [], V),
            r"text token .* \[0, 20\), got 20$",
        ),
        (
            lambda: build_sample(Document.pair([-1], [1]), [], V),
            r"text token .* \[0, 20\), got -1$",
        ),
        (
            lambda: build_sample(B, [Document((Image([10]),))], V),
            r"image code .*\[0, 10\), got 10$",
        ),
        (lambda: build_sample([1], [], V), "must be of type Document, got list"),
        (lambda: build_unconditional_prompt([], V, "none"), "one of mask, drop, bare, got 'none'"),
    ],
)
def test_bad_documents(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    "ids, message",
    [
        ([], "sequence is empty"),
        ([E], rf"position 0 holds id {E} \(<eos>\); a sample ends with <eos>"),
        ([1, K, 20, E], r"position 0 holds id 1 \(text 1\); a sequence starts with <eos>"),
        ([E, 1, K, 20], r"position 3 holds id 20 \(image 0\); a sample ends with <eos>"),
        (
            [E, 1, E, 20, E],
            rf"position 2 holds id {E} \(<eos>\); <eos> stands only at the two ends",
        ),
        ([E, 1, 20, E], r"position 2 holds id 20 \(image 0\); it follows Text tokens"),
        ([E, 20, 20, 1, E], r"position 3 holds id 1 \(text 1\); it follows Image tokens"),
        ([E, 1, K, 20, E, PAD], rf"position 5 holds id {PAD} \(<pad>\)"),
        ([E, S0, K, 20, E, S0, 1, EOM], rf"position 7 holds id {EOM} \(<eom>\)"),
        ([E, PAD, E], rf"position 1 holds id {PAD} \(<pad>\); of the ids behind the sentinels"),
        ([E, 37, E], r"position 1 holds id 37 \(filler\)"),
        ([E, 99, E], r"position 1 holds id 99 \(no token\)"),
        ([E, -1, E], r"position 1 holds id -1 \(no token\)"),
        ([E, 1, K, S0, E], rf"position 3 holds id {S0} \(<mask:0>\); .*unrotate it first"),
        ([E, S0, 1, E], r"position 2 holds id 1 \(text 1\); a sentinel stands alone"),
        ([1.0, 2.0], r"ids must be integers of shape \[T\], got float64 \[2\]"),
        ([[E, E]], r"ids must be integers of shape \[T\], got int64 \[1, 2\]"),
    ],
)
def test_malformed_samples(ids, message):
    with pytest.raises(UserError, match=message):
        parse_segments(ids, V)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([E], "a prompt ends with <break> or with <eos> <mask:0>"),
        ([E, 1, K, 20, E], rf"position 4 holds id {E} .*a prompt ends with <break>"),
        ([E, 1, K, S0], rf"position 3 holds id {S0} \(<mask:0>\); a prompt ends with"),
        ([E, 1, K, 20, E, S0], "the prompt before it has no <mask:0>"),
        ([E, E, K], "position 1 .*<eos> stands only at the two ends"),
    ],
)
def test_malformed_prompts(ids, message):
    with pytest.raises(UserError, match=message):
        parse_prompt(ids, V)


@law
@given(st.lists(st.integers(-2, 42), max_size=12), st.booleans())
def test_any_ids_parse_and_rebuild_or_are_refused(middle, ended):
    """No sequence is accepted that its own segments would not rebuild."""
    ids = [E, *middle, E if ended else K]
    try:
        segments = parse_segments(ids, V) if ended else parse_prompt(ids, V).segments
    except UserError:
        return
    rebuilt = [E]
    for segment in segments:
        offset = {Text: 0, Image: V.image_start, Mask: V.mask(0)}[type(segment)]
        values = [segment.index] if isinstance(segment, Mask) else vars(segment).values()
        values = values if isinstance(segment, Mask) else next(iter(values))
        rebuilt += [*(value + offset for value in values), K]
    assert [*rebuilt[:-1], ids[-1]] == ids
