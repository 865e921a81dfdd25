"""CM3 masking: worked examples, rotation and its inverse, where spans may lie, and the rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.config import PAPER_VOCABULARY, ObjectiveConfig
from cm3leon.errors import UserError
from cm3leon.seeds import generator
from cm3leon.sequence.documents import (
    Document,
    Image,
    Text,
    Vocabulary,
    build_caption_prompt,
    build_sample,
    build_unconditional_prompt,
)
from cm3leon.sequence.masking import draw_spans, mask_samples, masked_rates, rotate, unrotate

law = settings(max_examples=50, deadline=None)  # a shared machine has no deadlines
V = Vocabulary(20, 10, 8, multiple=8)
E, K, S0, S1, EOM, PAD = V.eos, V.break_, V.mask(0), V.mask(1), V.eom, V.pad
I1, I2, I3 = V.image(1), V.image(2), V.image(3)
WORKED = [E, 1, 2, K, I1, I2, I3, E]
OUR_WAY = ObjectiveConfig()
LITERAL = ObjectiveConfig(spans="block", p_full=0)  # the public code's recipe

texts = st.lists(st.integers(0, 19), max_size=6).map(Text)
images = st.lists(st.integers(0, 9), min_size=1, max_size=9).map(Image)
pairs = st.builds(lambda text, image: Document((text, image)), texts, images)
documents = st.one_of(pairs, texts.map(lambda text: Document((text,))))
samples = st.builds(
    lambda query, found: build_sample(query, found, V), pairs, st.lists(documents, max_size=3)
)
rows = st.builds(
    lambda packed, pads: np.concatenate([*packed, np.full(pads, PAD)]),
    st.lists(samples, min_size=1, max_size=2),
    st.integers(0, 4),
)
configs = st.builds(
    ObjectiveConfig,
    rate=st.sampled_from([0, 1, 4]),
    fewest=st.integers(0, 3),
    most=st.integers(3, 12),
    p_full=st.sampled_from([0, 0.5, 1]),
    spans=st.sampled_from(["segment", "block"]),
    cross_break=st.booleans(),
    sentinel_weight=st.sampled_from([0, 1]),
    document_weight=st.sampled_from([0.1, 1]),
)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def rows_and_spans(draw):
    """A row and any disjoint spans in it, also over <eos> and <break>."""
    row = draw(rows)
    end = int(np.flatnonzero(row != PAD)[-1]) + 1
    size = 2 * draw(st.integers(0, min(V.sentinels, end // 2)))
    cuts = sorted(draw(st.sets(st.integers(0, end), min_size=size, max_size=size)))
    return row, list(zip(cuts[::2], cuts[1::2], strict=True))


def one_rotation(spans, **options):
    ids, weights = rotate(np.array(WORKED), spans, V, ObjectiveConfig(**options))
    return ids.tolist(), weights.tolist()


def test_one_span_worked_example():
    ids, weights = one_rotation([(4, 6)])
    assert ids == [E, 1, 2, K, S0, I3, E, S0, I1, I2, EOM]
    assert weights == [0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1]


def test_two_spans_worked_example():
    ids, weights = one_rotation([(1, 3), (4, 6)])
    assert ids == [E, S0, K, S1, I3, E, S0, 1, 2, EOM, S1, I1, I2, EOM]
    assert weights == [0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1]


def test_sentinel_weight_is_that_of_both_places():
    _, weights = one_rotation([(4, 6)], sentinel_weight=0.25)
    assert weights == [0, 1, 1, 1, 0.25, 1, 1, 0.25, 1, 1, 1]


def test_no_span_is_the_causal_row():
    ids, weights = rotate(np.array([*WORKED, PAD]), [], V)
    assert (ids.dtype, weights.dtype) == (np.int64, np.float32)
    assert ids.tolist() == [*WORKED, PAD]
    assert weights.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]


def test_tail_stands_before_the_padding():
    ids, weights = rotate(np.array([*WORKED, PAD, PAD]), [(1, 3)], V)
    assert ids.tolist() == [E, S0, K, I1, I2, I3, E, S0, 1, 2, EOM, PAD, PAD]
    assert weights.tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0]


def test_first_token_counts_once_it_has_moved():
    """A block cut from a stream may begin inside a segment."""
    ids, weights = rotate(np.array([1, 2, K, I1, E]), [(0, 2)], V)
    assert ids.tolist() == [S0, K, I1, E, S0, 1, 2, EOM]
    assert weights.tolist() == [0, 1, 1, 1, 0, 1, 1, 1]


def test_documents_weigh_less_than_the_query():
    config = ObjectiveConfig(document_weight=0.5, sentinel_weight=1)
    row = build_sample(Document.pair([3], [4]), [Document.pair([1, 2], [5])], V)
    packed = np.array([*row, *row])
    half, query = [1, 0.5, 0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1]  # E 1 2 K I5 K | 3 K I4 E
    _, weights = rotate(packed, [], V, config)
    assert weights.tolist() == [0, *half[1:], *query, *half, *query]
    ids, weights = rotate(row, [(1, 3), (6, 7)], V, config)
    expected = [
        *[(E, 0), (S0, 0.5), (K, 0.5), (V.image(5), 0.5), (K, 0.5)],
        *[(S1, 1), (K, 1), (V.image(4), 1), (E, 1)],
        *[(S0, 0.5), (1, 0.5), (2, 0.5), (EOM, 0.5), (S1, 1), (3, 1), (EOM, 1)],
    ]
    assert list(zip(ids.tolist(), weights.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    "query, retrieved, light",
    [
        (Document.pair([3], [4]), [Document((Text([1]),))], 2),
        (Document.pair([3], [4]), [Document((Image([1]),))], 2),
        (Document.pair([], [4]), [Document((Image([1]),))], 2),
        (Document((Text([3]),)), [Document((Image([1]),))], 2),
        (Document((Image([3]),)), [], 0),
        (Document.pair([3], [4]), [], 0),
    ],
)
def test_query_is_the_last_pair_or_segment(query, retrieved, light):
    row = build_sample(query, retrieved, V)
    _, weights = rotate(row, [], V, ObjectiveConfig(document_weight=0.5))
    assert weights.tolist() == [0, *[0.5] * light, *[1] * (len(row) - 1 - light)]


@law
@given(rows_and_spans(), configs)
def test_rotation_can_be_undone(row_and_spans, config):
    row, spans = row_and_spans
    ids, weights = rotate(row, spans, V, config)
    assert len(ids) == len(weights) == len(row) + 3 * len(spans)
    assert unrotate(ids, V).tolist() == row.tolist()
    assert not np.any(weights[ids == PAD])


@law
@given(rows_and_spans())
def test_rotation_loses_no_loss(row_and_spans):
    """Every token but the first has weight 1 exactly once; sentinels and padding have none."""
    row, spans = row_and_spans
    ids, weights = rotate(row, spans, V)
    first = () if spans and spans[0][0] == 0 else row[:1]
    weighed = sorted(ids[weights == 1].tolist() + list(first))
    assert weighed == sorted([*row[row != PAD].tolist(), *[EOM] * len(spans)])
    assert set(np.unique(weights)) <= {0, 1}
    assert not np.any(weights[V.is_mask(ids)])


@law
@given(rows, configs, seeds)
def test_drawn_spans_lie_where_they_may(row, config, seed):
    spans = draw_spans(row, V, config, generator(seed, "spans"))
    assert spans == sorted(spans)
    assert len(spans) <= min(config.most, V.sentinels)
    inside = np.concatenate([row[start:stop] for start, stop in spans] or [row[:0]])
    assert len(inside) == sum(stop - start for start, stop in spans)
    assert len({at for span in spans for at in range(*span)}) == len(inside)
    assert all(start < stop for start, stop in spans)
    assert not np.isin(inside, [E, PAD]).any()
    if not config.cross_break:
        assert not np.any(inside == K)
    if config.spans == "segment" or config.p_full == 1:
        assert len(spans) >= min(config.fewest, 1)
    assert spans == draw_spans(row, V, config, generator(seed, "spans"))


@law
@given(rows, seeds, st.integers(1, 6))
def test_full_spans_are_whole_segments(row, seed, count):
    config = ObjectiveConfig(p_full=1, fewest=count, most=count, cross_break=True)
    spans = draw_spans(row, V, config, generator(seed, "full"))
    stops = {at for at, token in enumerate(row.tolist()) if token >= PAD} | {len(row)}
    segments = sum(at not in stops and at - 1 in stops for at in range(len(row)))
    assert len(spans) == min(count, segments)
    for start, stop in spans:
        assert start - 1 in stops and stop in stops


@law
@given(st.lists(samples, max_size=4), configs, seeds)
def test_mask_samples_is_draw_and_rotate(batch, config, seed):
    found, counts = mask_samples(batch, V, config, generator(seed, "mask"))
    draws, total = generator(seed, "mask"), {}
    for row, (ids, weights) in zip(batch, found, strict=True):
        spans = draw_spans(row, V, config, draws)
        expected_ids, expected_weights = rotate(row, spans, V, config)
        assert ids.tolist() == expected_ids.tolist()
        assert weights.tolist() == expected_weights.tolist()
        for name, count in masked_rates(row, spans, V).items():
            total[name] = total.get(name, 0) + count
    assert counts == total


@law
@given(pairs.filter(lambda pair: pair.segments[0].ids), st.lists(pairs, max_size=3))
def test_prompts_are_prefixes_of_masked_samples(query, retrieved):
    """What guidance and captioning ask of the model is exactly what it was trained on."""
    text, image = query.segments
    row = build_sample(query, retrieved, V)
    stop = len(row) - 2 - len(image.codes)
    ids, weights = rotate(row, [(stop - len(text.ids), stop)], V)
    free = build_unconditional_prompt(retrieved, V)
    assert ids[: len(free)].tolist() == free.tolist()
    assert V.is_image(ids[len(free) : len(free) + len(image.codes)]).all()
    prompt = build_caption_prompt(image.codes, retrieved, V)
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    assert ids[len(prompt) :].tolist() == [*text.ids, EOM]
    assert np.all(weights[len(prompt) :] == 1)


def test_counts_of_a_worked_example():
    row = build_sample(Document.pair([3, 4], [4]), [Document.pair([1, 2], [5, 5, 5])], V)
    spans = [(1, 3), (4, 6), (8, 9)]  # E [1 2] K [I I] I K [3] 4 K I E
    assert masked_rates(np.array([*row, PAD]), spans, V) == {
        **{"rows": 1, "causal_rows": 0, "tokens": 13, "spans": 3, "masked_tokens": 5},
        **{"text_segments": 2, "text_masked": 2, "text_full": 1},
        **{"image_segments": 2, "image_masked": 1, "image_full": 0},
    }


def span_counts(config, n=6_000):
    """Share of rows with 0, 1, 2 and 3 spans on rows whose spans never meet."""
    vocabulary = Vocabulary(2, 2, 512)
    row = np.array([vocabulary.eos, *[0, vocabulary.break_] * 40, vocabulary.eos])
    draws = generator(0, "poisson")
    counts = [len(draw_spans(row, vocabulary, config, draws)) for _ in range(n)]
    return np.bincount(counts, minlength=4)[:4] / n


def test_number_of_spans_is_a_clamped_poisson():
    near = {"abs": 0.025}  # 4 standard deviations of a share of 6,000
    free = span_counts(ObjectiveConfig(p_full=1))
    assert free.tolist() == pytest.approx([0.368, 0.368, 0.184, 0.061], **near)
    paper = span_counts(ObjectiveConfig(p_full=1, fewest=1))
    assert paper.tolist() == pytest.approx([0, 0.736, 0.184, 0.061], **near)
    one = span_counts(ObjectiveConfig(p_full=1, most=1), 200)
    assert one[2:].tolist() == [0, 0] and 0 < one[0] < 1


def test_cut_points_are_uniform():
    """Three tokens have four cut points: each of the six spans is drawn equally often."""
    config = ObjectiveConfig(p_full=0, fewest=1, most=1)
    draws, row = generator(0, "cuts"), np.array([E, 1, 2, 3, E])
    spans = [draw_spans(row, V, config, draws)[0] for _ in range(6000)]
    counts = [spans.count(span) for span in ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))]
    assert sum(counts) == 6000
    assert counts == pytest.approx([1000] * 6, abs=150)


def test_segments_are_chosen_uniformly_whatever_their_length():
    row = build_sample(Document.pair([1], [2] * 50), [], V)
    config = ObjectiveConfig(fewest=1, most=1)
    counts = mask_samples([row] * 2000, V, config, generator(0, "uniform"))[1]
    assert counts["text_masked"] == pytest.approx(1000, abs=100)


PAPER = Vocabulary.from_config(PAPER_VOCABULARY)


def paper_rates(config, rows):
    """Counts over blocks of four pairs of 9-token captions and 1024-code pictures."""
    pair, draws = Document.pair(range(9), range(1024)), generator(0, "rates")
    return mask_samples([build_sample(pair, [pair] * 3, PAPER)] * rows, PAPER, config, draws)[1]


def test_literal_recipe_hardly_ever_masks_text():
    """FACTS 1.4: under the public code's recipe the model does not see the prompts of guidance."""
    counts = paper_rates(ObjectiveConfig(spans="block", p_full=0, fewest=1, most=1), 2500)
    masked = counts["text_masked"] + counts["image_masked"]
    assert masked > 2400
    assert counts["text_masked"] / masked < 1e-3
    assert counts["masked_tokens"] / counts["spans"] == pytest.approx(730, rel=0.1)


def test_whole_captions_are_masked_by_our_recipe():
    literal, ours = paper_rates(LITERAL, 1000), paper_rates(OUR_WAY, 1000)
    assert literal["text_full"] / literal["text_segments"] < 2e-3
    # 0.632 of the rows have spans, half of those whole segments: 1 of 8, or more of them
    assert 0.05 < ours["text_full"] / ours["text_segments"] < 0.09
    assert ours["causal_rows"] / ours["rows"] == pytest.approx(0.368, abs=0.05)
    none = paper_rates(ObjectiveConfig(p_full=0), 1000)
    assert none["text_full"] < ours["text_full"] / 4


def test_crossing_masks_breaks_and_only_when_asked():
    row = build_sample(Document.pair([1] * 5, [2] * 5), [Document.pair([1] * 5, [2] * 5)], V)
    packed = np.array([*row, *row])
    for spans in ("segment", "block"):
        config = ObjectiveConfig(spans=spans, p_full=0, fewest=1, cross_break=True)
        found, _ = mask_samples([packed] * 200, V, config, generator(0, "cross"))
        tails = [ids[len(ids) - ids[::-1].tolist().index(E) :] for ids, _ in found]
        assert sum(K in tail for tail in tails) > 50
        assert not any(E in tail for tail in tails)


def test_block_end_points_reach_the_last_token_but_not_the_first():
    """The first token of a block is never masked (FACTS 1.3), also where it is no <eos>."""
    config = ObjectiveConfig(spans="block", p_full=0, fewest=1, most=1)
    draws = generator(0, "ends")
    spans = {span for _ in range(300) for span in draw_spans(np.array([1, 2, 3]), V, config, draws)}
    assert spans == {(1, 2), (1, 3), (2, 3)}


def test_no_more_spans_than_sentinels():
    row = build_sample(Document.pair([1], [1]), [Document.pair([1], [1])] * 9, V)
    for options in ({"p_full": 1}, {"p_full": 0}):
        config = ObjectiveConfig(fewest=12, most=16, **options)
        [(ids, _)], counts = mask_samples([row], V, config, generator(0, "many"))
        assert counts["spans"] == V.sentinels == 8
        assert unrotate(ids, V).tolist() == row.tolist()


@pytest.mark.parametrize(
    "spans, message",
    [
        ([(4, 4)], r"spans must be sorted.*within \[0, 8\), got \[\(4, 4\)\]$"),
        ([(5, 4)], "spans must be sorted"),
        ([(4, 6), (1, 2)], "spans must be sorted"),
        ([(1, 3), (2, 4)], "spans must be sorted"),
        ([(-1, 2)], "spans must be sorted"),
        ([(6, 9)], r"within \[0, 8\)"),
        ([(at, at + 1) for at in range(9)], r"at most 8 \(sentinels\), got 9$"),
    ],
)
def test_bad_spans(spans, message):
    with pytest.raises(UserError, match=message):
        rotate(np.array([*WORKED, PAD]), spans, V)


def test_rotating_twice_is_refused():
    ids, _ = rotate(np.array(WORKED), [(4, 6)], V)
    with pytest.raises(UserError, match=r"already: position 4 holds <mask:0>$"):
        rotate(ids, [(1, 2)], V)


@pytest.mark.parametrize(
    "row, message",
    [
        ([E, S0, E], r"got <mask:0> at \[1\]"),
        ([E, S1, E, S1, 1, EOM], r"got <mask:1>, <mask:1> at \[1, 3\]"),
        ([E, S0, S1, E, S1, 1, EOM, S0, 1, EOM], "must hold <mask:0>.. in order"),
        ([E, S0, E, S0, 1], r"positions \[4\]; got them at \[\]"),
        ([E, S0, E, S0, 1, EOM, 1], r"positions \[6\]; got them at \[5\]"),
        ([E, EOM], r"got none at \[\]"),
    ],
)
def test_unrotate_refuses_what_is_not_rotated(row, message):
    with pytest.raises(UserError, match=message):
        unrotate(np.array(row), V)


@pytest.mark.parametrize("row", [[], [PAD, PAD], [E, E], [E, K, K, E, PAD]])
@pytest.mark.parametrize("config", [OUR_WAY, LITERAL, ObjectiveConfig(cross_break=True, fewest=1)])
def test_rows_without_segments(row, config):
    row = np.array(row, dtype=np.int64)
    [(ids, weights)], counts = mask_samples([row], V, config, generator(0, "empty"))
    assert unrotate(ids, V).tolist() == row.tolist()
    assert len(weights) == len(ids)
    assert counts["text_segments"] == counts["image_segments"] == 0


def test_a_span_that_meets_another_is_drawn_again():
    """Two spans in one segment of four tokens: all rows but those whose first span holds them all,
    a tenth; without another draw half of the rows have one span.
    """
    row = [E, 1, 2, 3, 4, E]
    both = ObjectiveConfig(rate=9.0, fewest=2, most=2, p_full=0)
    counts = [len(draw_spans(row, V, both, generator(seed, "redraw"))) for seed in range(300)]
    assert np.mean(np.array(counts) == 2) > 0.8


def test_a_row_may_begin_without_eos():
    """A sample that packing cut: its first token belongs to its first segment."""
    row = [1, 2, K, I1, E]
    whole = ObjectiveConfig(fewest=9, most=9, p_full=1)
    assert draw_spans(row, V, whole, generator(0, "cut")) == [(0, 2), (3, 4)]
    assert masked_rates(row, [(0, 1)], V)["text_masked"] == 1


def test_a_block_draws_as_many_spans_as_it_was_asked_for():
    """Of n^2 candidates in a long row several fit; n are taken."""
    row = [E, *range(18), *range(18), *range(18), E]
    several = ObjectiveConfig(rate=9.0, fewest=3, most=3, p_full=0, spans="block")
    counts = {len(draw_spans(row, V, several, generator(seed, "block"))) for seed in range(200)}
    assert max(counts) == 3
