"""Captions of the embedded world: two dialects of one small grammar, and what each caption claims.

`stock` speaks in stock-photo phrases (training), `coco` in whole sentences (evaluation only). Both
name shapes, colours, sizes, patterns, places and relations by the same words and share most
function words; order, articles, verbs, length and the amount said differ in distribution. Every
caption comes with its Meaning, so that a picture can be judged by what was asked for and by nothing
else.
"""

from __future__ import annotations

from dataclasses import dataclass

from cm3leon.world.sprites import PLACES

NUMBERS = {1: "one", 2: "two", 3: "three"}
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Said:
    """One thing a caption names; None where the caption is silent. `count` pictures of it are
    meant.
    """

    shape: str | None
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None
    entity: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Meaning:
    """What a caption claims: things, at most one relation (i, word, j) between them, a place."""

    objects: tuple[Said, ...]
    relation: tuple[int, str, int] | None = None
    place: str | None = None
    sign: str | None = None  # the letters of a sign


class Dice:
    """Draws from one array of uniforms: one generator call for a whole picture's captions."""

    def __init__(self, uniforms):
        self.uniforms = iter(uniforms)

    def chance(self, p: float) -> bool:
        return next(self.uniforms) < p

    def pick(self, options):
        return options[int(next(self.uniforms) * len(options))]


DRAWS = 40  # uniforms one caption may use

_PLURAL = {"cross": "crosses"}
PREPOSITION = {place: "on the" for place in PLACES} | {"snow": "in the", "night sky": "in the"}


def plural(noun: str) -> str:
    """Regular English plural of a shape or an entity."""
    return _PLURAL.get(noun, noun + "s")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def noun_phrase(said: Said, dice: Dice) -> str:
    """`large striped red star`, `red star with stripes`, `three small blue circles`; no article."""
    noun = said.entity or said.shape
    words = [said.size] if said.size else []
    after = ""
    if said.pattern == "plain":
        words.append("plain")
    elif said.pattern:
        if dice.chance(0.4):
            after = " with stripes" if said.pattern == "striped" else " with dots"
        else:
            words.append(said.pattern)
    if said.colour:
        words.append(said.colour)
    if len(words) == 2 and dice.chance(0.15):
        words.reverse()
    words.append(plural(noun) if said.count > 1 else noun)
    if said.count > 1:
        words.insert(0, NUMBERS[said.count])
    return " ".join(words) + after


def _said(thing, count: int, dice: Dice, detail: float) -> Said:
    """Choose what is mentioned of a thing; `detail` scales how much."""
    if thing.entity:
        size = thing.size if dice.chance(0.3 * detail) else None
        return Said(None, None, size, None, thing.entity, count)
    colour = thing.colour if dice.chance(0.55 + 0.42 * detail) else None
    size = thing.size if dice.chance(0.7 * detail) else None
    likely = 0.2 if thing.pattern == "plain" else 0.9
    pattern = thing.pattern if dice.chance(likely * detail) else None
    return Said(thing.shape, colour, size, pattern, None, count)


def join(parts: list[str], word: str = "and") -> str:
    """`one`, `one and two`, `one, two and three`."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return f"{parts[0]} {word} {parts[1]}"
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"


_STOCK_LEADS = ("",) * 6 + (
    "photo of ",
    "isolated ",
    "picture of ",
    "illustration of ",
    "a photo showing ",
    "we can see ",
    "there is ",
)
_STOCK_POSES = ("",) * 6 + (" lying", " sitting", " resting", " placed", " seen", " can be seen")


def _stock(phrases, relation, place, dice) -> str:
    """Short phrases, articles and verbs seldom, place first or last; now and then a capital, a
    stop.
    """
    if dice.chance(0.4):
        phrases = [p if p.startswith(("two", "three")) else article(p) for p in phrases]
    if relation:
        i, word, j = relation
        to = "to the " if word.endswith("of") and dice.chance(0.5) else ""
        body = f"{phrases[i]} {dice.pick(('', '', '', 'is ', 'sits '))}{to}{word} {phrases[j]}"
    else:
        links = ("and", "and", "with", "next to") if len(phrases) == 2 else ("and",)
        body = join(phrases, dice.pick(links))
    lead = dice.pick(_STOCK_LEADS)
    if lead == "there is " and phrases[0].startswith(("two", "three")):
        lead = "there are "
    if place:
        where = PREPOSITION[place] if dice.chance(0.6) else PREPOSITION[place].split()[0]
        pose = dice.pick(_STOCK_POSES)
        if pose and len(phrases) > 1 and not relation and dice.chance(0.3):
            pose = f" are{pose}" if "can" not in pose else pose
        elif pose and dice.chance(0.3):
            pose = f" is{pose}" if "can" not in pose else pose
        style = dice.pick(("on", "on", "on", "comma", "first", "background"))
        text = {
            "on": f"{lead}{body}{pose} {where} {place}",
            "comma": f"{lead}{body}, {place}",
            "first": f"{place}, {body}",
            "background": f"{lead}{body}, {place} background",
        }[style]
    else:
        text = lead + body
    text = text[0].upper() + text[1:] if dice.chance(0.35) else text
    return text + ("." if dice.chance(0.35) else "")


_COCO_VERBS = ("is lying", "is sitting", "is resting", "can be seen", "is placed")
_COCO_VERBS_MANY = ("are lying", "are sitting", "are resting", "can be seen", "are placed")


def _coco(phrases, relation, place, dice) -> str:
    """Whole sentences with articles and verbs."""
    many = phrases[0].startswith(("two", "three"))
    phrases = [p if p.startswith(("two", "three")) else article(p) for p in phrases]
    where = f" {PREPOSITION[place]} {place}" if place else ""
    if relation:
        i, word, j = relation
        to = f"to the {word}" if word.endswith("of") else word
        text = dice.pick(
            (
                f"{phrases[i]} {'are' if many and i == 0 else 'is'} {to} {phrases[j]}{where}",
                f"there is {phrases[i]} {to} {phrases[j]}{where}",
                f"{phrases[i]} sits {to} {phrases[j]}{where}",
            )
        )
    else:
        body = join(phrases)
        verbs = _COCO_VERBS_MANY if many or len(phrases) > 1 else _COCO_VERBS
        forms = [
            f"there {'are' if many else 'is'} {body}{where}",
            f"a picture of {body}{where}",
            f"a photo showing {body}{where}",
        ]
        forms += [f"{body} {dice.pick(verbs)}{where}"] * 2 if place else [f"we can see {body}"]
        text = dice.pick(forms)
    return text[0].upper() + text[1:] + "."


def caption(dialect: str, things, groups, relations, place, dice: Dice) -> tuple[str, Meaning]:
    """One caption and its Meaning.

    `groups` lists (index of a thing, how many are alike); `relations` lists the clear (i, word, j)
    between groups. The first caption words are drawn from `dice` alone.
    """
    detail = 1.0 if dice.chance(0.5) else 0.6
    said = [_said(things[index], count, dice, detail) for index, count in groups]
    relation = None
    if relations and dice.chance(0.6):
        relation = dice.pick(relations)
        if len(said) > 2:  # a relation names its two things only
            i, word, j = relation
            said, relation = [said[i], said[j]], (0, word, 1)
    elif len(said) > 1 and dice.chance(0.1):
        said.reverse()
    told_place = place if dice.chance(0.85 if dialect == "coco" else 0.75) else None
    phrases = [noun_phrase(one, dice) for one in said]
    text = (_coco if dialect == "coco" else _stock)(phrases, relation, told_place, dice)
    return text, Meaning(tuple(said), relation, told_place)


def captions(dialect: str, things, groups, relations, place, generator) -> tuple[tuple, tuple]:
    """Five captions and their five Meanings."""
    uniforms = generator.random((5, DRAWS))
    pairs = [caption(dialect, things, groups, relations, place, Dice(row)) for row in uniforms]
    return tuple(text for text, _ in pairs), tuple(meaning for _, meaning in pairs)


_SIGN_NOUNS = ("sign", "white sign", "board", "white board")
_SIGN_SAYS = ("that says", "reading", "with the text")


def sign_phrase(text: str, dice: Dice) -> str:
    """`white sign that says "MORN"`; no article."""
    says = _SIGN_SAYS if len(text) > 1 else (*_SIGN_SAYS, "with the letter")
    return f'{dice.pick(_SIGN_NOUNS)} {dice.pick(says)} "{text}"'


def sign_captions(dialect: str, text: str, things, groups, place, generator) -> tuple[tuple, tuple]:
    """Five captions of a scene with a sign and their five Meanings: all quote the letters."""
    pairs = [
        _sign_caption(dialect, text, things, groups, place, Dice(row))
        for row in generator.random((5, DRAWS))
    ]
    return tuple(text for text, _ in pairs), tuple(meaning for _, meaning in pairs)


def _sign_caption(dialect, text, things, groups, place, dice) -> tuple[str, Meaning]:
    detail = 1.0 if dice.chance(0.5) else 0.6
    told = groups if dice.chance(0.8) else ()
    said = [_said(things[index], count, dice, detail) for index, count in told]
    told_place = place if dice.chance(0.85 if dialect == "coco" else 0.75) else None
    phrases = [sign_phrase(text, dice), *(noun_phrase(one, dice) for one in said)]
    words = (_coco if dialect == "coco" else _stock)(phrases, None, told_place, dice)
    return words, Meaning(tuple(said), None, told_place, text)
