"""Long captions name everything: read back by the caption reader they give the plan again."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.evaluation.text.caption_truth import read_caption
from cm3leon.world.coordinates import read_locations
from cm3leon.world.descriptions import describe, position
from cm3leon.world.scenes import scene
from cm3leon.world.signs import sign_scene

WHERE = {  # by the centre of a thing as a share of the picture
    (-1, -1): "at the top left",
    (0, -1): "at the top",
    (1, -1): "at the top right",
    (-1, 0): "on the left",
    (0, 0): "in the middle",
    (1, 0): "on the right",
    (-1, 1): "at the bottom left",
    (0, 1): "at the bottom",
    (1, 1): "at the bottom right",
}
ADDRESSES = st.tuples(
    st.sampled_from(["stock", "coco"]), st.sampled_from(["val", "tail"]), st.integers(0, 1999)
)


def place_of(thing, size=64):
    x, y = ((value > 0.625 * size) - (value < 0.375 * size) for value in thing.centre)
    return WHERE[x, y]


@settings(max_examples=80)
@given(ADDRESSES, st.booleans())
def test_everything_is_named_and_stands_where_it_is_said_to(address, located):
    one = scene(*address)
    text = describe(one, located)
    assert text == describe(scene(*address), located) and "\n" not in text
    meaning = read_caption(text)
    assert meaning.place == one.place and meaning.relation is None
    said = [(s.shape, s.colour, s.size, s.pattern, s.entity, s.count) for s in meaning.objects]
    things = one.objects
    groups = [(things[index], count) for index, count in one.plan.groups]
    wanted = [
        (None, None, t.size, None, t.entity, n) if t.entity
        else (t.shape, t.colour, t.size, t.pattern, None, n)
        for t, n in groups
    ]  # fmt: skip
    assert said == wanted
    if located:
        boxes = read_locations(text, 64)
        reach = {"small": 12, "large": 20}
        centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]
        assert centres == [thing.centre for thing in things]
        assert [x1 - x0 for x0, _, x1, _ in boxes] == [2 * reach[thing.size] for thing in things]
    else:
        found = re.findall(
            r"\b(?:at|on|in) the (?:top|bottom|left|right|middle)(?: left| right)?", text
        )
        assert found == [place_of(thing) for thing in things]


@settings(max_examples=40)
@given(st.integers(0, 4999), st.booleans())
def test_a_sign_is_quoted_and_stands_where_it_is_said_to(index, located):
    one = sign_scene("coco", "val", index)
    text = describe(one, located)
    assert re.findall(r'"([A-Z]+)"', text) == [one.plan.sign.text] and one.place in text
    if located:
        x0, y0, x1, y1 = read_locations(text, 8)[0]
        assert (x0, y0) == one.plan.sign.corner and (x1 - x0, y1 - y0) == (one.plan.sign.width, 3)
    assert len(re.findall("->", text)) == located * (1 + len(one.plan.things))


def test_places_are_told_alike_from_both_sides():
    """A mirrored centre has the mirrored word, also for boards between two cells."""
    mirror = str.maketrans("LR", "RL")
    for half in range(15):
        word = position((half / 2, 3)).replace("left", "L").replace("right", "R")
        other = position((7 - half / 2, 3)).replace("left", "L").replace("right", "R")
        assert word.translate(mirror) == other
    assert position((3, 4)) == "middle" and position((0, 3)) == "left"
