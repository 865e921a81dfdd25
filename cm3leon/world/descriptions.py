"""Long captions of the embedded world: every object in full, where each stands, the place."""

from __future__ import annotations

from cm3leon import seeds
from cm3leon.world.boards import HEIGHT, Sign
from cm3leon.world.coordinates import at_location
from cm3leon.world.language import (
    PREPOSITION,
    Dice,
    Said,
    article,
    join,
    noun_phrase,
    plural,
    sign_phrase,
)
from cm3leon.world.scenes import ROOT, Scene
from cm3leon.world.sprites import CELLS, SIZES

DRAWS = 24  # uniforms one description may use
MIDDLE = (2.5, 4.5)  # centre cells between these are in the middle of a picture of 8


def block(thing) -> tuple[int, int, int, int]:
    """The block of cells of a planned thing: first column and row, and those after the last."""
    (column, row), reach = thing[5], SIZES[thing[2]] // 2
    return column - reach, row - reach, column + reach + 1, row + reach + 1


def board_block(sign: Sign) -> tuple[int, int, int, int]:
    """The block of cells of a sign, as `block`."""
    column, row = sign.corner
    return column, row, column + sign.width, row + HEIGHT


def said(thing, count: int = 1) -> Said:
    """All there is to say of a planned thing."""
    shape, colour, size, pattern, entity, _ = thing
    if entity:
        return Said(None, None, size, None, entity, count)
    return Said(shape, colour, size, pattern, None, count)


def noun(thing, count: int = 1) -> str:
    """The word for a planned thing: an entity's name or the shape; plural for several."""
    word = thing[4] or thing[0]
    return plural(word) if count > 1 else word


def position(cell: tuple[float, float]) -> str:
    """Where a centre (column, row) in cells, from 0, lies: `top left`, `left`, `middle`, ..."""
    column, row = (_third(value) for value in cell)
    up, side = ("top", "", "bottom")[row], ("left", "", "right")[column]
    return f"{up} {side}".strip() or "middle"


def stands(cell: tuple[float, float]) -> str:
    """`at the top left`, `on the right`, `in the middle`."""
    where = position(cell)
    before = {"left": "on", "right": "on", "middle": "in"}.get(where, "at")
    return f"{before} the {where}"


def describe(scene: Scene, located: bool = False) -> str:
    """A caption that names everything, in the scene's dialect; `located` says the blocks of cells
    in coordinates instead of words.

    Its wording is drawn from the scene's address, so edited twins are told in the same form.
    """
    address = (scene.dialect, scene.split, scene.index)
    dice = Dice(seeds.generator(ROOT, "description", *address, located).random(DRAWS))
    plan = scene.plan
    phrases = []
    if plan.sign:
        c0, r0, c1, r1 = around = board_block(plan.sign)
        centre = (c0 + c1 - 1) / 2, (r0 + r1 - 1) / 2
        where = at_location(around, CELLS) if located else stands(centre)
        phrases.append((sign_phrase(plan.sign.text, dice), [where], 1))
    for index, count in plan.groups:
        alike = [t for t in plan.things if t[:5] == plan.things[index][:5]]
        where = [at_location(block(t), CELLS) if located else stands(t[5]) for t in alike]
        phrase = noun_phrase(said(plan.things[index], count), dice)
        phrases.append((phrase, where, count))
    return (_coco if scene.dialect == "coco" else _stock)(phrases, plan.place, dice)


def _third(value: float) -> int:
    return (value >= MIDDLE[0]) + (value > MIDDLE[1])


def _spread(where: list[str]) -> str:
    """Where the things of a group stand, as it follows the noun."""
    return f" {where[0]}" if len(where) == 1 else ": " + join([f"one {one}" for one in where])


def _stock(phrases, place: str, dice: Dice) -> str:
    with_article = dice.chance(0.4)
    parts = []
    for phrase, where, count in phrases:
        whole = article(phrase) if with_article and count == 1 else phrase
        parts.append(whole + _spread(where))
    mark = "; " if any(count > 1 for *_, count in phrases) else ", "
    body = mark.join(parts)
    text = dice.pick((f"{body}{mark}{place} background", f"{place}{mark}{body}"))
    return text[0].upper() + text[1:] if dice.chance(0.35) else text


def _coco(phrases, place: str, dice: Dice) -> str:
    lead = dice.chance(0.5)  # the place comes first
    ground = f"{PREPOSITION[place]} {place}"
    sentences = []
    for k, (phrase, where, count) in enumerate(phrases):
        whole, verb = (phrase, "are") if count > 1 else (article(phrase), "is")
        if k == 0 or dice.chance(0.3):
            start = f"{ground} there {verb}" if lead and k == 0 else f"there {verb}"
            sentences.append(f"{start} {whole}{_spread(where)}")
        else:
            sentences.append(f"{whole} {verb}{_spread(where).replace(':', ' placed:', 1)}")
    if not lead:
        total = sum(count for *_, count in phrases)
        sentences.append(f"{'they are' if total > 1 else 'it is'} {ground}")
    return " ".join(text[0].upper() + text[1:] + "." for text in sentences)
