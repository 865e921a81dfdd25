"""Signs: the same letters, the same pixels; every sign is read back, and none where none is."""

import hashlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.world import scenes
from cm3leon.world.boards import HEIGHT, LETTERS, Sign, board, board_mask, glyph
from cm3leon.world.reader import read_picture, read_sign
from cm3leon.world.scenes import Plan, Scene, scene
from cm3leon.world.signs import SIGN_SPLITS, layouts, sign_scene
from cm3leon.world.sprites import PLACES, place_picture

ADDRESSES = st.tuples(
    st.sampled_from(scenes.DIALECTS), st.sampled_from(list(SIGN_SPLITS)), st.integers(0, 4999)
)
TEXTS = st.text(LETTERS, min_size=1, max_size=4)
GOLDEN = {  # sha256 of the pixels of signed scenes 0..31; the tokenizer was trained on them
    ("stock", "train", 64): "d571a94493adb4165f28593ad743dd2c0cb10279366428b181bd9fa82f68d310",
    ("coco", "test", 64): "8b96d5a60d726091d846d95cb9c2dfe2657468a721f367f3abe4142a410246b1",
    ("coco", "val", 128): "bfb4b57e43419f434cccac2e2e2e6613069de38498ba10dda0c35b136dd8371c",
}
GOLDEN_CAPTIONS = (
    'A picture of a white board reading "WGA" on the grass.',
    'A picture of a white sign reading "WGA" and a small red crescent on the grass.',
    'There is a white sign that says "WGA" and a red crescent on the grass.',
    'A photo showing a board that says "WGA" and a crescent on the grass.',
    'There is a board that says "WGA" and a small red crescent.',
)


@pytest.mark.parametrize("address", list(GOLDEN), ids=str)
def test_signs_are_the_golden_bytes(address):
    dialect, split, size = address
    pixels = b"".join(sign_scene(dialect, split, k, size).image.tobytes() for k in range(32))
    assert hashlib.sha256(pixels).hexdigest() == GOLDEN[address]
    assert sign_scene("coco", "test", 0).captions == GOLDEN_CAPTIONS


def shown(reading) -> tuple:
    """What was read, in the words of a plan."""
    objects = {(o.shape, o.colour, o.size, o.pattern, o.entity, o.cell) for o in reading.objects}
    return reading.place, objects, reading.sign


@settings(max_examples=40, deadline=None)
@given(ADDRESSES)
def test_a_signed_scene_is_read_back_exactly(address):
    one = sign_scene(*address)
    assert shown(read_picture(one.image)) == (one.place, set(one.plan.things), one.plan.sign)
    assert (sign_scene(*address).image == one.image).all()


@st.composite
def signs(draw) -> Sign:
    text = draw(TEXTS)
    return Sign(text, (draw(st.integers(0, 6 - len(text))), draw(st.integers(0, 5))))


@settings(max_examples=60, deadline=None)
@given(signs(), st.sampled_from(PLACES), st.sampled_from([64, 128]))
def test_any_sign_anywhere_is_read_back(sign, place, size):
    picture = Scene("stock", "made", 0, size, Plan(place, (), (), sign)).image
    assert read_sign(picture) == sign
    mask = board_mask(sign, size)
    assert (picture[~mask] == place_picture(place, size)[~mask]).all()


@settings(max_examples=40, deadline=None)
@given(ADDRESSES, st.integers(0, 9))
def test_a_noisy_sign_is_still_read(address, seed):
    one, noise = sign_scene(*address), np.random.default_rng(seed).normal(0, 25, (64, 64, 3))
    assert read_sign(np.clip(one.image + noise, 0, 255).astype(np.uint8)) == one.plan.sign


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["train", "test", "tail", "bank"]), st.integers(0, 1999))
def test_scenes_without_a_sign_are_read_as_before(split, index):
    one = scene("coco", split, index)
    found = shown(read_picture(one.image))
    assert found == (one.place, set(one.plan.things), None) and one.plan.sign is None


def test_at_sizes_without_letters_there_is_no_sign():
    assert read_sign(scene("coco", "test", 0, 32).image) is None
    with pytest.raises(UserError, match="must be uint8"):
        read_sign(np.zeros((64, 64, 3)))


def test_letters_are_far_apart():
    assert len(LETTERS) == 26 and "".join(sorted(LETTERS)) == LETTERS
    for one, two in combinations(LETTERS, 2):
        assert (glyph(one) != glyph(two)).sum() >= 3, (one, two)
    for letter in LETTERS:
        assert not glyph(letter)[7].any() and not glyph(letter)[:, 7].any()  # letters do not touch


def test_few_cells_make_all_boards_and_larger_ones_scale():
    seen = set()
    for text in ("ABCD", "EFGH", "IJKL", "MNOP", "QRST", "UVWX", "YZ", "A"):
        picture = board(text, 64)
        assert picture.shape == (24, 8 * len(text) + 16, 3)
        cells = picture.reshape(3, 8, -1, 8, 3).swapaxes(1, 2).reshape(-1, 192)
        seen |= {cell.tobytes() for cell in cells}
        assert (board(text, 192) == picture.repeat(3, 0).repeat(3, 1)).all()
    assert len(seen) == 26 + 8


@settings(max_examples=60, deadline=None)
@given(ADDRESSES)
def test_what_stands_beside_a_board_is_a_cell_away(address):
    one = sign_scene(*address)
    assert 1 <= len(one.plan.sign.text) <= 4 and len(one.objects) <= 1
    near = np.zeros((64, 64), bool)
    rows, columns = np.nonzero(board_mask(one.plan.sign, 64))
    near[max(0, rows.min() - 8) : rows.max() + 9, max(0, columns.min() - 8) : columns.max() + 9] = 1
    assert not any((thing.mask & near).any() for thing in one.objects)


def test_every_length_letter_place_and_layout_occurs():
    many = [sign_scene("stock", "train", k) for k in range(2000)]
    lengths = Counter(len(one.plan.sign.text) for one in many)
    letters = Counter("".join(one.plan.sign.text for one in many))
    assert min(lengths.values()) > 430 and max(lengths.values()) < 570  # 500 expected, 3.6 sigma
    assert min(letters.values()) > 140 and max(letters.values()) < 250 and len(letters) == 26
    assert {one.place for one in many} == set(PLACES)
    assert 920 < sum(len(one.plan.things) for one in many) < 1080
    for count in range(1, 5):
        boards = {corner for corner, _ in layouts(count)}
        assert len(boards) < len(layouts(count)) and HEIGHT == 3
    assert len({one.id for one in many} | {scene("stock", "train", k).id for k in range(9)}) == 2009


@settings(max_examples=60, deadline=None)
@given(ADDRESSES)
def test_captions_quote_the_letters_and_claim_what_is_there(address):
    one = sign_scene(*address)
    assert len(one.captions) == len(one.meanings) == 5
    for text, meaning in zip(one.captions, one.meanings, strict=True):
        assert meaning.sign == one.plan.sign.text and f'"{meaning.sign}"' in text
        assert meaning.place in (None, one.place) and meaning.relation is None
        assert len(meaning.objects) <= len(one.plan.things)
        for said, thing in zip(meaning.objects, one.plan.things, strict=False):
            assert said.shape == thing[0] and said.colour in (None, thing[1])
            assert said.shape in text.lower()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sign("ÄB", (0, 0)), "a sign with letters the world lacks: 'ÄB'; it writes 1 to 4"),
        (lambda: Sign("", (0, 0)), "lacks: ''"),
        (lambda: Sign("HELLO", (0, 0)), "lacks: 'HELLO'"),
        (lambda: Sign("ab", (0, 0)), "1 to 4 of A to Z"),
        (lambda: Sign("ABCD", (3, 0)), "its corner may be 0..2, 0..5"),
        (lambda: sign_scene("coco", "test", 0, 32), "64, 128, 192 or 256 pixels, got 32"),
        (lambda: sign_scene("coco", "test", 0, 80), "got 80"),
        (lambda: sign_scene("klingon", "test", 0), "klingon"),
        (lambda: sign_scene("coco", "tail", 0), "there are train, val, test"),
        (lambda: sign_scene("coco", "val", 5000), "0..4999"),
        (lambda: sign_scene("coco", "val", -1), "-1"),
    ],
)
def test_what_cannot_be_is_one_line(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)
