"""Where tokens stand: laws of the anchored places; rows, rotated rows and prompts agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.config import ModelConfig, ObjectiveConfig, VocabularyConfig
from cm3leon.decoding.text_infill import opened
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.sequence.documents import (
    Document,
    Image,
    Text,
    Vocabulary,
    build_caption_prompt,
    build_prompt,
    build_sample,
    build_unconditional_prompt,
)
from cm3leon.sequence.masking import draw_spans, rotate
from cm3leon.sequence.positions import place, place_prompt

SIZES = VocabularyConfig(12, 16, 4, 8)
VOCABULARY = Vocabulary.from_config(SIZES)
ANCHORED = ModelConfig(
    "tiny", 1, 8, 2, 120, SIZES, init_std=0.3, position_std=0.3,
    positions="anchored", position_text=10, position_grid=3,
)  # fmt: skip
GRID, ROW = replace(ANCHORED, positions="grid"), replace(ANCHORED, positions="row")
TEXT, CODES, EACH = 10, 9, 19


def pair(draws, length: int) -> Document:
    return Document.pair(draws.integers(0, 12, length), draws.integers(0, 16, CODES))


def sample(seed: int, lengths: list[int]) -> np.ndarray:
    draws = seeds.generator(seed, "positions")
    *documents, query = [pair(draws, length) for length in lengths]
    return build_sample(query, documents, VOCABULARY)


LENGTHS = st.lists(st.integers(0, 8), min_size=1, max_size=4)
SEEDS = st.integers(0, 999)


def test_by_hand():
    ids = build_sample(Document.pair([1, 2], range(9)), [Document.pair([3], range(9))], VOCABULARY)
    wanted = [0, 1, 2, *range(10, 19), 19, 20, 21, 22, *range(29, 38), 38]
    assert place(ids, VOCABULARY, ANCHORED).tolist() == wanted
    assert (ANCHORED.pair_places, ANCHORED.places) == (19, 77)
    assert place(ids, VOCABULARY, ROW).tolist() == list(range(len(ids)))


@given(SEEDS, LENGTHS)
def test_a_cell_stands_at_the_same_place_whatever_the_captions(seed, lengths):
    ids = sample(seed, lengths)
    places = place(ids, VOCABULARY, ANCHORED)
    wanted = [k * EACH + TEXT + cell for k in range(len(lengths)) for cell in range(CODES)]
    assert places[VOCABULARY.is_image(ids)].tolist() == wanted
    assert len(set(places.tolist())) == len(ids)  # no two tokens of a row share a place


@example(5, [1], "block", False)  # two spans hide a whole picture between them
@given(SEEDS, LENGTHS, st.sampled_from(["segment", "block"]), st.booleans())
def test_moved_codes_keep_their_cells_and_moved_words_follow_their_sentinel(
    seed, lengths, spans_by, full
):
    ids = sample(seed, lengths)
    objective = ObjectiveConfig(rate=2.0, p_full=float(full), spans=spans_by, most=4)
    spans = draw_spans(ids, VOCABULARY, objective, seeds.generator(seed, "spans"))
    before = place(ids, VOCABULARY, ANCHORED)
    rotated, _ = rotate(ids, spans, VOCABULARY)
    after = place(rotated, VOCABULARY, ANCHORED)
    codes = VOCABULARY.is_image(rotated)
    cells = dict(zip(before[VOCABULARY.is_image(ids)], ids[VOCABULARY.is_image(ids)], strict=True))
    assert dict(zip(after[codes], rotated[codes], strict=True)) == cells
    for index in range(len(spans)):
        first, second = np.flatnonzero(rotated == VOCABULARY.mask(index))
        stop = second + 1 + spans[index][1] - spans[index][0]
        assert after[second] == after[first]
        assert after[second + 1 : stop + 1].tolist() == [
            after[first] + k for k in range(stop - second)
        ]


@given(SEEDS, LENGTHS, st.sampled_from(["mask", "drop", "bare"]))
def test_prompts_stand_as_the_rows_they_begin(seed, lengths, reading):
    draws = seeds.generator(seed, "prompt")
    *documents, query = [pair(draws, length) for length in lengths]
    text, picture = query.segments
    whole = build_sample(query, documents, VOCABULARY)
    prompt = build_prompt(text.ids, documents, VOCABULARY)
    places = place(whole, VOCABULARY, ANCHORED)
    assert place(prompt, VOCABULARY, ANCHORED).tolist() == places[: len(prompt)].tolist()
    image = VOCABULARY.image_start
    assert place_prompt(prompt, image, VOCABULARY, ANCHORED)[-1] == places[len(prompt)]
    free = build_unconditional_prompt(documents, VOCABULARY, reading)
    cell = place_prompt(free, image, VOCABULARY, ANCHORED)[-1] % EACH
    assert cell == TEXT  # a picture begins in its first cell in every stream
    if not text.ids:
        return
    start = len(whole) - 2 - CODES - len(text.ids)
    rotated, _ = rotate(whole, [(start, start + len(text.ids))], VOCABULARY)
    prompt = build_caption_prompt(picture.codes, documents, VOCABULARY)
    assert rotated[: len(prompt)].tolist() == prompt.tolist()
    wanted = place(rotated, VOCABULARY, ANCHORED)
    assert place(prompt, VOCABULARY, ANCHORED).tolist() == wanted[: len(prompt)].tolist()
    assert place_prompt(prompt, 0, VOCABULARY, ANCHORED)[-1] == wanted[len(prompt)]


@given(SEEDS, LENGTHS, st.data())
def test_a_prompt_with_one_hole_in_a_picture_knows_the_cells_behind_it(seed, lengths, data):
    ids = sample(seed, lengths)
    picture = len(ids) - 1 - CODES
    left = data.draw(st.integers(0, CODES - 1))
    right = data.draw(st.integers(left + 1, CODES))
    rotated, _ = rotate(ids, [(picture + left, picture + right)], VOCABULARY)
    prompt = opened(ids, [(picture + left, picture + right)], VOCABULARY)
    wanted = place(rotated, VOCABULARY, ANCHORED)
    assert place(prompt, VOCABULARY, ANCHORED).tolist() == wanted[: len(prompt)].tolist()
    assert (
        place_prompt(prompt, VOCABULARY.image_start, VOCABULARY, ANCHORED)[-1]
        == wanted[len(prompt)]
    )


def test_a_prompt_with_two_holes_is_told_how_much_they_hide():
    ids = sample(3, [2])
    start = len(ids) - 1 - CODES
    spans = [(start + 1, start + 3), (start + 5, start + 8)]
    rotated, _ = rotate(ids, spans, VOCABULARY)
    prompt = opened(ids, spans, VOCABULARY)
    places = place(prompt, VOCABULARY, ANCHORED, hidden={0: 2, 1: 3})
    assert places.tolist() == place(rotated, VOCABULARY, ANCHORED)[: len(prompt)].tolist()


def test_texts_and_pictures_alone_take_pairs_of_their_own():
    documents = [Document((Text((1, 2)),)), Document((Text((3,)),)), Document((Image(range(9)),))]
    ids = build_sample(Document.pair([4], range(9)), documents, VOCABULARY)
    places = place(ids, VOCABULARY, ANCHORED)
    starts = places[VOCABULARY.is_text(ids)]
    assert starts.tolist() == [1, 2, 20, 39]
    assert places[VOCABULARY.is_image(ids)][::9].tolist() == [29, 48]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([9], "a text of 9 tokens .* which has 8 "), ([1] * 5, "a row of more than 4 texts")],
)
def test_what_has_no_place_is_refused(lengths, message):
    with pytest.raises(UserError, match=message):
        place(sample(0, lengths), VOCABULARY, ANCHORED)
    assert len(place(sample(0, lengths), VOCABULARY, ROW))


@settings(max_examples=10, deadline=None)
@given(SEEDS, LENGTHS)
def test_a_grid_is_the_network_with_the_summed_table(seed, lengths):
    """Two routes: "grid", and "anchored" with its table written out."""
    grid = Transformer(GRID, seeds.torch_generator(seed, "grid"))
    flat = Transformer(ANCHORED, seeds.torch_generator(seed, "grid"))
    flat.load_state_dict(
        grid.state_dict() | {"position_embedding.weight": grid.position_table().detach()}
    )
    ids = torch.tensor(sample(seed, lengths))[None]
    places = torch.tensor(place(ids[0].numpy(), VOCABULARY, GRID))[None]
    torch.testing.assert_close(grid(ids, places), flat(ids, places))


def test_a_grid_shares_rows_and_columns():
    table = Transformer(GRID, seeds.torch_generator(1, "grid")).position_table()
    first, second = table[TEXT : TEXT + CODES], table[EACH + TEXT : EACH + TEXT + CODES]
    cells = first.view(3, 3, -1)
    torch.testing.assert_close(first - second, (first - second)[:1].expand_as(first))
    torch.testing.assert_close(cells[1] - cells[0], (cells[1] - cells[0])[:1].expand(3, -1))


@pytest.mark.parametrize("config", [ROW, ANCHORED, GRID])
def test_parameters_are_counted(config):
    model = Transformer(config)
    assert config.parameters == sum(p.numel() for p in model.parameters())
    assert len(model.position_table()) == config.places
