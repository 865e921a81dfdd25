"""Conditions: what is drawn is the truth, and is read back from the picture exactly."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.world import conditions
from cm3leon.world.boards import board_mask
from cm3leon.world.conditions import CLASSES, CONDITIONS, MAPS, READERS, ROUGH
from cm3leon.world.scenes import Plan, Scene, scene
from cm3leon.world.signs import sign_scene
from cm3leon.world.sprites import SHAPES

GOLDEN = {  # sha256 of 48 pictures of each kind; the tokenizer was trained on such
    "segmentation": "72e420c52b98fb9a2f05e2e67d18619f2f1770b5c51759a384c29a8acb4dc0f3",
    "depth": "c11ba15720f5a6f63f2dd66b7bc8de9b6f4d1be28db83746469f528e67e1de43",
    "edges": "10276c5b7da5c8cf86f72d47719d01d5a63c7e9c8e4aa7a365a5f1e9003c7471",
    "scribble": "b5738e2d91ec892d4b661313d830a4919a066bf67358b2209aecd4f63d839fde",
}
FEW = {"segmentation": 300, "depth": 120, "edges": 400, "scribble": 200}  # cells in 1,000 scenes


def some(kind: int, index: int, size: int = 64) -> Scene:
    if kind == 0:
        return sign_scene("stock", "train", index, size)
    return scene("coco", ("test", "tail")[kind - 1], index, size)


SCENES = st.builds(some, st.integers(0, 2), st.integers(0, 1999))
KINDS = pytest.mark.parametrize("kind", list(CONDITIONS))


@KINDS
def test_conditions_are_the_golden_bytes(kind):
    pictures = [CONDITIONS[kind](some(k, index)) for index in range(16) for k in (1, 2, 0)]
    digest = hashlib.sha256(b"".join(one.tobytes() for one in pictures)).hexdigest()
    assert digest == GOLDEN[kind]


@KINDS
@settings(max_examples=40, deadline=None)
@given(truth=SCENES, seed=st.integers(0, 9))
def test_a_condition_is_read_back_exactly_and_under_noise(kind, truth, seed):
    picture, made, read = CONDITIONS[kind](truth), MAPS[kind], READERS[kind]
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert (read(picture) == made(truth)).all() and read(picture).dtype == made(truth).dtype
    assert (CONDITIONS[kind](truth) == picture).all()
    noise = np.random.default_rng(seed).normal(0, 15, picture.shape)
    assert (read(np.clip(picture + noise, 0, 255).astype(np.uint8)) == made(truth)).all()


@KINDS
@pytest.mark.parametrize("size", [32, 96, 128, 256])
def test_other_sizes_are_read_back_too(kind, size):
    truth = scene("coco", "test", 3, size)
    made, read = MAPS[kind], READERS[kind]
    assert (read(CONDITIONS[kind](truth)) == made(truth)).all()


def stands(truth: Scene) -> list[tuple[str, np.ndarray]]:
    """Class and mask, farthest first."""
    found = [(thing.shape, thing.mask) for thing in truth.objects]
    sign = truth.plan.sign
    return [("sign", board_mask(sign, 64)), *found] if sign else found


@settings(max_examples=40, deadline=None)
@given(SCENES)
def test_a_block_belongs_to_the_nearest_that_covers_half_of_it(truth):
    things = stands(truth)
    classes, ranks = conditions.class_map(truth), conditions.depth_map(truth)
    for y in range(16):
        for x in range(16):
            part = (slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
            owner = [k for k, (_, mask) in enumerate(things) if mask[part].mean() >= 0.5]
            assert CLASSES[classes[y, x]] == (things[owner[-1]][0] if owner else "ground")
            assert ranks[y, x] == (len(things) - owner[-1] if owner else 0)


@settings(max_examples=40, deadline=None)
@given(SCENES)
def test_edges_are_what_erosion_takes_away(truth):
    ndimage = pytest.importorskip("scipy.ndimage")
    masks = [mask for _, mask in stands(truth)]
    expected = np.any([mask & ~ndimage.binary_erosion(mask) for mask in masks], axis=0)
    assert (conditions.edge_map(truth) == expected).all() and expected.any()


@settings(max_examples=40, deadline=None)
@given(SCENES)
def test_strokes_run_where_things_end(truth):
    """None on a block that nothing covers enough; one where a thing surely ends."""
    strokes = conditions.scribble_map(truth).reshape(16, 2, 16, 2).any((1, 3))
    shares = [mask.reshape(16, 4, 16, 4).mean((1, 3)) for _, mask in stands(truth)]
    assert not strokes[np.max(shares, axis=0) < ROUGH[0]].any() and strokes.any()
    for share in shares:
        out = np.pad(share < ROUGH[0], 1, constant_values=True)
        beside = out[2:, 1:-1] | out[:-2, 1:-1] | out[1:-1, 2:] | out[1:-1, :-2]
        assert strokes[(share >= ROUGH[1]) & beside].all()


def test_strokes_of_like_things_differ():
    things = tuple(("circle", "red", "small", "plain", None, cell) for cell in ((1, 1), (6, 6)))
    plans = [
        Scene("stock", "made", k, 64, Plan("sand", things, ((0, 1), (1, 1)))) for k in range(9)
    ]
    maps = [conditions.scribble_map(one) for one in plans]
    parts = {part.tobytes() for one in maps for part in (one[:12, :12], one[20:, 20:])}
    assert len(parts) > 1


@KINDS
def test_few_cells_make_all_pictures(kind):
    cells = set()
    for index in range(1000):
        picture = CONDITIONS[kind](some(index % 3, index))
        blocks = picture.reshape(8, 8, 8, 8, 3).swapaxes(1, 2).reshape(64, -1)
        cells |= {block.tobytes() for block in blocks}
    assert 16 < len(cells) <= FEW[kind]


def test_the_nearest_is_the_brightest():
    truth = next(one for k in range(99) if len((one := scene("coco", "test", k)).objects) == 3)
    picture, shades = conditions.depth(truth), []
    for thing in truth.objects:
        column, row = (int(value) for value in thing.centre)
        assert thing.mask[row, column] or thing.shape == "crescent"
        shades.append(picture[thing.mask].max())
    assert shades == sorted(shades) and shades[-1] == 255 and len(set(shades)) == 3


def test_colours_of_classes_are_apart():
    assert len(CLASSES) == len(conditions.CLASS_COLOURS) == 10 and set(SHAPES) < set(CLASSES)
    colours = conditions.CLASS_COLOURS.astype(int)
    apart = ((colours[:, None] - colours) ** 2).sum(-1) + 10**6 * np.eye(10, dtype=int)
    assert apart.min() > 120**2


def crowd() -> Scene:
    cells = ((1, 1), (1, 4), (4, 1), (4, 4), (6, 6))
    things = tuple(("star", "red", "small", "plain", None, cell) for cell in cells)
    return Scene("stock", "made", 0, 64, Plan("sand", things, ((0, 5),)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: conditions.depth(crowd()), "shades for 4 things, stock-made-0 shows 5"),
        (lambda: conditions.edges(scene("coco", "test", 0, 40)), "multiple of 32 pixels, got 40"),
        (lambda: conditions.read_edges(np.zeros((48, 48, 3), np.uint8)), "got 48"),
        (lambda: conditions.read_depth(np.zeros((64, 64, 3))), "must be uint8"),
        (lambda: conditions.read_segmentation(np.zeros((64, 32, 3), np.uint8)), "[64, 32, 3]"),
    ],
)
def test_what_cannot_be_is_one_line(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)
