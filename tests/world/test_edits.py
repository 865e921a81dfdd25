"""Edits: the picture after is what the words say, read back from its pixels; the rest stays."""

import re
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.world.coordinates import read_location
from cm3leon.world.edits import KINDS, Change, captions_around, changes, edit, words
from cm3leon.world.language import NUMBERS, Said
from cm3leon.world.reader import read_picture
from cm3leon.world.scenes import Plan, Scene, entities, scene
from cm3leon.world.signs import sign_scene
from cm3leon.world.sprites import CELLS, COLOURS, PATTERNS, SHAPES, SIZES, coverage, place_picture

COUNTS = {word: count for count, word in NUMBERS.items()}
AFTER = {"stripes": "striped", "dots": "dotted", "no pattern": "plain"}


@st.composite
def scenes(draw):
    """Ordinary scenes, scenes about entities, scenes with a sign, scenes edited before."""
    split = draw(st.sampled_from(["val", "tail", "sign", "twice"]))
    index = draw(st.integers(0, 1999))
    if split == "sign":
        return sign_scene("coco", "val", index)
    one = scene("coco", "val" if split == "twice" else split, index)
    return edit(one, changes(one, 1)[0]) if split == "twice" else one


# An instruction applied by its words alone: the second route to the picture after.


def truth(one):
    """Place and sign, and the things (shape, colour, size, pattern, entity, cell)."""
    return (one.place, one.plan.sign), sorted(one.plan.things, key=str)


def shows(picture, wanted) -> bool:
    """The reader sees what is wanted. It takes three striped circles in a corner for a heart: where
    it sees something else, what is wanted must give the same pixels when it is drawn.
    """
    reading = read_picture(picture)
    things = [(f.shape, f.colour, f.size, f.pattern, f.entity, f.cell) for f in reading.objects]
    if ((reading.place, reading.sign), sorted(things, key=str)) == wanted:
        return True
    (place, sign), things = wanted
    plans = [Plan(place, order, (), sign) for order in permutations(things)]
    return any((Scene("coco", "", 0, 64, plan).image == picture).all() for plan in plans)


def named(phrase: str):
    """(attributes, noun, count, block or None) of `two red stars with dots at location ...`."""
    phrase, _, where = phrase.partition(" at location ")
    block = tuple(int(v) for v in read_location(where, CELLS)) if where else None
    phrase, _, dress = phrase.partition(" with ")
    *adjectives, noun = phrase.split()
    told = {AFTER[dress]} if dress else set()
    count = next((COUNTS[word] for word in adjectives if word in COUNTS), 1)
    if count > 1:
        noun = "cross" if noun == "crosses" else noun.removesuffix("s")
    return told | {word for word in adjectives if word not in COUNTS}, noun, count, block


def block_of(thing):
    reach = SIZES[thing[2]] // 2
    (column, row) = thing[5]
    return column - reach, row - reach, column + reach + 1, row + reach + 1


def centre(block):
    return (block[0] + block[2]) // 2, (block[1] + block[3]) // 2


def apply(text: str, place: tuple, things: list):
    """What an instruction makes of a place with its sign and of things."""
    if found := re.fullmatch(
        r"(?:put the scene (?:on|in) the|change the place to|make the background) (.*)", text
    ):
        return (found[1], place[1]), things
    if found := re.fullmatch(r"(?:add|put|draw) an? (.*)", text):
        told, noun, _, block = named(found[1])
        colour, size = ((told & set(kind)).pop() for kind in (COLOURS, SIZES))
        pattern = (told & set(PATTERNS) or {"plain"}).pop()
        return place, [*things, (noun, colour, size, pattern, None, centre(block))]
    phrase, do = parsed(text)
    told, noun, count, block = named(phrase)
    meant = [t for t in things if noun == (t[4] or t[0]) and told <= set(t[1:4])]
    meant = [t for t in meant if block is None or block_of(t) == block]
    assert len(meant) == count, "the words must tell the thing apart"
    rest = [t for t in things if t not in meant]
    return place, rest + [made for t in meant for made in do(t)]


def parsed(text: str):
    """The phrase of what is meant, and thing -> what stands there afterwards."""
    if found := re.fullmatch(r"(?:remove|delete) the (.*)|take the (.*) away", text):
        return found[1] or found[2], lambda t: []
    if found := re.fullmatch(r"(?:move|shift) the (.*) to location (.*)", text):
        block = tuple(int(v) for v in read_location(found[2], CELLS))
        return found[1], lambda t: [(*t[:5], centre(block))]
    if found := re.fullmatch(r"give the (.*) (stripes|dots|no pattern)", text):
        return found[1], altered(AFTER[found[2]])
    for form in (
        r"change the (?:colour|shape|size|pattern) of the (.*) to (?:an? )?(\w+)",
        r"turn the (.*) into (?:an? )?(\w+)",
        r"(?:make|paint) the (.*?) (?:an? )?(\w+)",
    ):
        if found := re.fullmatch(form, text):
            return found[1], altered(found[2])
    raise AssertionError(f"no reading of {text!r}")


def altered(value: str):
    single = "cross" if value == "crosses" else value if value in SHAPES else value.rstrip("s")
    kinds = (SHAPES, COLOURS, SIZES, PATTERNS)
    value = value if any(value in kind for kind in kinds) else single
    at = next(k for k, kind in enumerate(kinds) if value in kind)
    return lambda t: [(*t[:at], value, *t[at + 1 :])]


@settings(max_examples=40)
@given(scenes(), st.integers(0, 7))
def test_every_edit_read_back_equals_its_words_and_leaves_the_rest_alone(one, k):
    found = changes(one)
    change = found[k % len(found)]
    before = one.image
    after = edit(one, change)
    assert (one.image == before).all() and (edit(one, change).image == after.image).all()
    (place, things), texts = truth(one), words(change)
    assert len(texts) >= 2 and len(set(texts)) == len(texts)
    made = [apply(text, place, things) for text in texts]
    wanted = {(where, tuple(sorted(found, key=str))) for where, found in made}
    assert len(wanted) == 1  # all wordings say the same
    (where, found) = wanted.pop()
    assert shows(after.image, (where, list(found)))
    assert after.plan.sign == one.plan.sign and after.id != one.id
    rest_is_alone(one, after, change)


def rest_is_alone(one, after, change):
    """Nothing differs outside the blocks of what changed. Where the place changes: no pixel that
    objects or sign cover wholly differs, and those that they leave free show the new place.
    """
    differs = (one.image != after.image).any(-1)
    assert differs.any()
    if change.kind != "place":
        old, new = set(one.plan.things), set(after.plan.things)
        may = np.zeros((64, 64), bool)
        for thing in old ^ new:
            c0, r0, c1, r1 = block_of(thing)
            may[8 * r0 : 8 * r1, 8 * c0 : 8 * c1] = True
        assert not (differs & ~may).any()
        return
    whole, touched = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    if one.plan.sign:
        (column, row), width = one.plan.sign.corner, len(one.plan.sign.text) + 2
        whole[8 * row : 8 * row + 24, 8 * column : 8 * (column + width)] = True
    for thing in one.plan.things:
        first, second, full = coverage(thing[0], thing[2], "plain", 64)
        c0, r0, c1, r1 = block_of(thing)
        whole[8 * r0 : 8 * r1, 8 * c0 : 8 * c1] |= first + second == full
        touched[8 * r0 : 8 * r1, 8 * c0 : 8 * c1] |= first + second > 0
    assert not (differs & whole).any()
    free = ~(whole | touched)
    assert (after.image[free] == place_picture(change.to, 64)[free]).all()
    for thing, same in zip(one.objects, after.objects, strict=True):
        assert thing.box == same.box and (thing.mask == same.mask).all()


@settings(max_examples=40)
@given(scenes())
def test_changes_are_pure_varied_and_valid(one):
    found = changes(one)
    assert found == changes(one) and len({change.kind for change in found}) == len(found) >= 1
    assert changes(one, 2) == found[:2]
    for change in found:
        after = edit(one, change)
        before_text, after_text = captions_around(one, change)
        assert before_text != after_text
        assert len(after.captions) == 5
        for text, meaning in zip(after.captions, after.meanings, strict=True):
            assert_true(text, meaning, after)


def assert_true(text, meaning, one):
    """What a caption claims holds of the plan, and no more things fit its nouns than it says."""
    assert meaning.place in (None, one.place)
    for said in meaning.objects:
        noun = said.entity or said.shape
        claims = ((1, said.colour), (2, said.size), (3, said.pattern))
        fitting = [t for t in one.plan.things if (t[4] or t[0]) == noun]
        fitting = [t for t in fitting if all(v in (None, t[at]) for at, v in claims)]
        assert len(fitting) == said.count and noun in text.lower()


def test_every_kind_of_change_is_drawn():
    kinds = [change.kind for k in range(60) for change in changes(scene("coco", "val", k), 1)]
    assert set(kinds) == set(KINDS) and max(map(kinds.count, KINDS)) < 20


def custom(*things, place="sand"):
    """A scene of our own making."""
    looks = [thing[:5] for thing in things]
    groups = tuple((looks.index(look), looks.count(look)) for look in dict.fromkeys(looks))
    return Scene("coco", "val", 0, 64, Plan(place, tuple(things), groups))


STAR = ("star", "red", "small", "plain", None, (1, 1))
CIRCLE = ("circle", "blue", "small", "striped", None, (6, 6))
PAIR = custom(STAR, CIRCLE)
TWINS = custom(STAR, (*STAR[:5], (5, 1)))
NAMED = entities()[7]
ODD = custom((NAMED.shape, NAMED.first, "small", None, NAMED.name, (1, 1)), CIRCLE)


def star(**more):
    return Said("star", **more)


@pytest.mark.parametrize(
    ("one", "change", "message"),
    [
        (PAIR, Change("recolour", Said("heart"), "red"), "no heart in coco-val-0: it shows"),
        (PAIR, Change("recolour", star(colour="blue"), "pink"), "no blue star in coco-val-0"),
        (PAIR, Change("recolour", star(), "red"), "the star in coco-val-0 is red already"),
        (PAIR, Change("repattern", star(), "plain"), "is plain already; name another pattern"),
        (PAIR, Change("place", to="sand"), "coco-val-0 is on sand already; name another place"),
        (PAIR, Change("resize", star(), "large"), "star does not fit into coco-val-0"),
        (PAIR, Change("reshape", star(), "circle"), "would show two circles that differ"),
        (PAIR, Change("move", star(), block=(5, 5, 8, 8)), "star and the circle would overlap"),
        (PAIR, Change("move", star(), block=(0, 0, 3, 3)), "stands at location .* already"),
        (PAIR, Change("move", star(), block=(0, 0, 5, 5)), "fills 3 x 3 cells, got 5 x 5"),
        (PAIR, Change("move", star(), block=(6, 0, 9, 3)), "does not fit at cells"),
        (PAIR, Change("add", star(size="small", colour="red"), block=(4, 4, 7, 7)), "overlap"),
        (PAIR, Change("add", Said("heart", size="small"), block=(3, 0, 6, 3)), "no colour None"),
        (TWINS, Change("remove", star()), "'star' is ambiguous in coco-val-0: 1 meant, 2 there"),
        (TWINS, Change("move", star(count=2), block=(2, 4, 5, 7)), "one thing moves at a time"),
        (TWINS, Change("remove", star(count=2)), "would be empty"),
        (TWINS, Change("remove", star(), at=(3, 3, 6, 6)), r"no star at location \(96, 96\)"),
        (ODD, Change("recolour", Said(None, entity=NAMED.name), "red"), "is an entity"),
        (ODD, Change("reshape", Said(None, entity=NAMED.name), "heart"), "is an entity"),
        (ODD, Change("add", Said(None, entity="xo", size="small"), block=(4, 0, 7, 3)), "'xo'"),
    ],
)  # fmt: skip
def test_an_impossible_edit_is_one_line(one, change, message):
    with pytest.raises(UserError, match=message) as error:
        edit(one, change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("melt", star()), "no change 'melt'; the world knows recolour"),
        (("recolour", star(), "mauve"), "no colour 'mauve'; the world has red"),
        (("place", None, "moon"), "no place 'moon'; the world has sand"),
        (("remove",), "remove needs a target with its shape or name"),
        (("remove", Said(None, "red")), "remove needs a target with its shape or name"),
        (("move", star()), "move needs the block of cells"),
    ],
)
def test_a_change_that_says_nothing_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        Change(*arguments)
    assert "\n" not in str(error.value)


def test_four_objects_are_refused_and_an_entity_moves_grows_and_goes():
    three = edit(PAIR, Change("add", star(colour="red", size="small"), block=(4, 0, 7, 3)))
    assert three.plan.groups == ((0, 2), (1, 1))  # alike: two stars
    with pytest.raises(UserError, match="would show 4 objects; a scene holds 3 at most"):
        edit(three, Change("add", Said("heart", "pink", "small"), block=(0, 5, 3, 8)))
    target = Said(None, entity=NAMED.name)
    moved = edit(ODD, Change("move", target, block=(2, 2, 5, 5)))
    grown = edit(moved, Change("resize", target, "large"))
    assert grown.plan.things[0][2:] == ("large", None, NAMED.name, (3, 3))
    assert edit(ODD, Change("remove", target)).plan.things == (CIRCLE,)
    assert words(Change("remove", target))[0] == f"remove the {NAMED.name}"


def test_blocks_may_share_one_corner_cell_and_no_more():
    touching = edit(PAIR, Change("move", star(), block=(3, 3, 6, 6)))
    assert touching.plan.things[0][5] == (4, 4)
    with pytest.raises(UserError, match="would overlap in coco-val-0; they may share one corner"):
        edit(PAIR, Change("move", star(), block=(4, 3, 7, 6)))


def test_one_of_several_alike_is_named_by_its_location():
    found = [change for k in range(40) for change in changes(twins_at(k)) if change.kind == "move"]
    assert found and all(change.at for change in found)
    after = edit(TWINS, Change("remove", star(), at=(4, 0, 7, 3)))
    assert after.plan.things == (STAR,)
    assert words(Change("remove", star(), at=(4, 0, 7, 3)))[0] == (
        "remove the star at location (128, 0) -> (223, 95)"
    )


def twins_at(index):
    """The twins under another address, so that other changes are drawn."""
    return Scene("coco", "val", index, 64, TWINS.plan)
