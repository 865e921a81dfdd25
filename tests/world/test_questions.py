"""Questions: every answer is the one that the truth gives, found by the question's words alone."""

import re
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.evaluation.text.caption_truth import true_reading
from cm3leon.world.edits import changes, edit
from cm3leon.world.language import NUMBERS, plural
from cm3leon.world.questions import KINDS, questions
from cm3leon.world.scenes import Plan, Scene, entities, scene
from cm3leon.world.signs import sign_scene
from cm3leon.world.sprites import COLOURS, PATTERNS, SIZES

COUNTS = {"zero": 0} | {word: count for count, word in NUMBERS.items()}
SECOND = {entity.name: entity.second for entity in entities()}
AXES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}


@st.composite
def scenes(draw):
    """Ordinary scenes, scenes about entities, scenes with a sign, edited scenes."""
    split, index = (
        draw(st.sampled_from(["val", "tail", "sign", "edited"])),
        draw(st.integers(0, 1999)),
    )
    if split == "sign":
        return sign_scene("coco", "val", index)
    one = scene("coco", "val" if split == "edited" else split, index)
    found = changes(one)
    return edit(one, found[index % len(found)]) if split == "edited" else one


def single(word: str) -> str:
    return "cross" if word in ("cross", "crosses") else word.removesuffix("s")


def those(reading, word: str):
    """What a noun means."""
    return [f for f in reading.objects if (f.entity or f.shape) == single(word)]


def the(reading, word: str):
    """The one look that a noun means; several things must be alike."""
    found = those(reading, word)
    assert len({(f.colour, f.size, f.pattern) for f in found}) == 1, word
    return found[0]


def where(found) -> str:
    x, y = ((value + 0.5) / 8 for value in found.cell)
    row = "top" if y < 0.375 else "bottom" if y > 0.625 else ""
    column = "left" if x < 0.375 else "right" if x > 0.625 else ""
    return f"{row} {column}".strip() or "middle"


def offset(one, other, word: str) -> int:
    """Cells that one stands from the other in the direction of the word."""
    axis, sign = AXES[word]
    return sign * (one.cell[axis] - other.cell[axis])


def shape(words, reading) -> str:
    told = words[-2]
    shown = [f for f in reading.objects if told in colours(f) or told == f.pattern]
    assert len({f.shape for f in shown}) == 1 and not any(f.entity for f in shown)
    assert len(shown) == 1 or words[-1] == "objects"
    return shown[0].shape


def count(words, reading) -> str:
    found = reading.objects if words[2] == "objects" else alone(reading, words[2])
    return next(word for word, value in COUNTS.items() if value == len(found))


def position(words, reading) -> str:
    (found,) = those(reading, words[-1])
    return where(found)


def name(words, reading) -> str:
    (found,) = [f for f in reading.objects if f.entity]
    return found.entity


def comparison(words, reading) -> str:
    pair = [the(reading, words[4]), the(reading, words[-1])]
    assert pair[0].size != pair[1].size
    wanted = {"larger": "large", "smaller": "small"}[words[2]]
    return words[4] if pair[0].size == wanted else words[-1]


def relation(words, reading) -> str:
    base = the(reading, words[-1])
    word = next(word for word in words if word in AXES)
    (found,) = [f for f in reading.objects if offset(f, base, word) > 0]
    assert offset(found, base, word) >= 2
    return found.entity or found.shape


def side(words, reading) -> str:
    one, other = the(reading, words[2]), the(reading, words[-1])
    pair = ("left", "right") if "left" in words else ("above", "below")
    return max(pair, key=lambda word: offset(one, other, word))


ANSWERS = {
    "colour": lambda words, reading: the(reading, words[-1]).colour,
    "shape": shape,
    "size": lambda words, reading: (
        the(reading, words[2] if words[-1] == "small" else words[-1]).size
    ),
    "pattern": lambda words, reading: (
        the(reading, words[-2] if words[-1] == "have" else words[2]).pattern
    ),
    "count": count,
    "place": lambda words, reading: reading.place,
    "position": position,
    "sign": lambda words, reading: reading.sign.text,
    "name": name,
    "comparison": comparison,
    "relation": relation,
    "side": side,
}


def answer(kind: str, text: str, reading) -> str:
    """The answer that a reading gives."""
    words = re.findall(r"[a-z]+", text)
    if kind in ANSWERS:
        return ANSWERS[kind](words, reading)
    return "yes" if holds(kind, words, reading) else "no"


def holds(kind: str, words: list, reading) -> bool:
    if kind == "existence":
        found = those(reading, words[-1])
        silhouettes = {f.shape for f in reading.objects if f.entity}
        assert found or words[-1] not in silhouettes  # else it could be meant
        return bool(found) and (words[-2] not in COLOURS or found[0].colour == words[-2])
    if kind == "attribute":
        found, told = the(reading, words[2]), words[-1]
        return told in (found.colour, found.size, found.pattern)
    one, other = the(reading, words[2]), the(reading, words[-1])
    return offset(one, other, next(word for word in words if word in AXES)) > 0


def colours(found) -> set:
    return {found.colour} | ({SECOND[found.entity]} if found.entity else set())


def alone(reading, word: str):
    """Things of a shape; no entity has its outline, else it could be counted too."""
    assert not any(f.entity and f.shape == single(word) for f in reading.objects)
    return those(reading, word)


def explained(text: str, reading) -> None:
    """Every statement of an explanation is true."""
    for count, rest in re.findall(
        r"\b(one|two|three) ([a-z ]+?)(?=,| and |$)", text.split(", so ")[0]
    ):
        *tint, noun = rest.split()
        found = those(reading, noun)
        assert len(found) == COUNTS[count]
        assert not tint or {f.colour for f in found} == set(tint)
    for noun, told in re.findall(r"the (\w+) is (?:at|on|in) the ((?:\w+)(?: left| right)?)", text):
        assert where(the(reading, noun)) == told
    for noun, told in re.findall(r"the (\w+) (?:is|are) (\w+)", text):
        found = the(reading, noun)
        if told not in ("at", "on", "in"):
            assert told in (found.colour, found.size, found.pattern)


@settings(max_examples=150)
@given(scenes())
def test_answers_agree_with_the_truth(one):
    reading, found = replace(true_reading(one), sign=one.plan.sign), questions(one)
    assert found == questions(one) and questions(one, 3) == found[:3]
    assert len({question.kind for question in found}) == len(found) >= 1
    for question in found:
        assert question.answer == answer(question.kind, question.text, reading), question
        if question.explanation:
            assert question.explanation.endswith(f", so {question.answer}")
            explained(question.explanation, reading)
        assert question.answer_type == (
            "yes/no" if question.answer in ("yes", "no")
            else "number" if question.answer in COUNTS else "other"
        )  # fmt: skip


def test_a_shape_is_not_counted_where_an_entity_has_its_outline():
    """Nor asked for by a colour that the entity has too."""
    odd = entities()[7]
    named = (odd.shape, odd.first, "small", None, odd.name, (1, 1))
    plain = (odd.shape, odd.second, "small", "striped", None, (6, 6))
    plan = Plan("sand", (named, plain), ((0, 1), (1, 1)))
    found = [q for k in range(200) for q in questions(Scene("coco", "val", k, 64, plan))]
    assert sum(q.kind == "count" for q in found) == 200
    asked = {q.text for q in found if q.kind in ("count", "shape")}
    assert f"how many {plural(odd.shape)} are there?" not in asked
    assert f"what shape is the {odd.second} object?" not in asked
    assert "what shape is the striped object?" in asked


def test_every_kind_is_asked_and_answers_are_balanced():
    found = [q for k in range(400) for q in questions(scene("coco", "natural", k))]
    found += [q for k in range(40) for q in questions(sign_scene("coco", "val", k))]
    assert {question.kind for question in found} == set(KINDS)
    for kind in ("existence", "attribute", "relation yes/no"):
        answers = Counter(q.answer for q in found if q.kind == kind)
        assert set(answers) == {"yes", "no"} and 0.4 < answers["yes"] / answers.total() < 0.6
    assert {q.answer for q in found if q.kind == "count"} == set(COUNTS)
    assert {q.answer for q in found if q.kind == "colour"} == set(COLOURS)
    assert {q.answer for q in found if q.kind == "pattern"} == set(PATTERNS)
    assert {q.answer for q in found if q.kind == "size"} == set(SIZES)
    explained_kinds = {q.kind for q in found if q.explanation}
    assert explained_kinds >= {"count", "relation", "side", "comparison", "existence"}
