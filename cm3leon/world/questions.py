"""Questions about a scene with short answers, some with an explanation that ends in the answer.

Every question has one right answer by the scene's truth: what could be meant in two ways is not
asked. The kinds are named, so that scores can be given by kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cm3leon import seeds
from cm3leon.world.descriptions import noun, position, stands
from cm3leon.world.language import NUMBERS, OPPOSITE, article, join, plural
from cm3leon.world.scenes import ROOT, Plan, Scene, clear_relations, entities
from cm3leon.world.sprites import COLOURS, PATTERNS, SHAPES, SIZES

YES_NO = ("existence", "attribute", "relation yes/no")
WORDS = {0: "zero", **NUMBERS}


@dataclass(frozen=True)
class Question:
    """A question, its short answer (lower case, a sign's letters capitals) and, where there is one,
    the way to it.
    """

    kind: str
    text: str
    answer: str
    explanation: str | None = None

    @property
    def answer_type(self) -> str:
        """As VQAv2 names it: `yes/no`, `number` or `other`."""
        return "yes/no" if self.kind in YES_NO else "number" if self.kind == "count" else "other"


def questions(scene: Scene, n: int | None = None) -> tuple[Question, ...]:
    """One question of each kind the scene allows, in an order of its own; the first n of them.

    A pure function of the scene's id: the same on every machine and in any order.
    """
    generator = seeds.generator(ROOT, "questions", scene.id)
    found = []
    for kind in (KINDS[k] for k in generator.permutation(len(KINDS))):
        if n is not None and len(found) == n:
            break
        asked = _ASK[kind](scene.plan, generator)
        if asked is not None:
            found.append(Question(kind, *asked))
    return tuple(found)


def _pick(options, generator):
    return options[int(generator.random() * len(options))] if options else None


def _parts(plan: Plan) -> list[tuple[tuple, int]]:
    """(a planned thing, how many are alike) for each group."""
    return [(plan.things[index], count) for index, count in plan.groups]


def _plain(plan: Plan) -> list[tuple[tuple, int]]:
    return [part for part in _parts(plan) if not part[0][4]]


def _counted(thing, count: int, colour: bool = False) -> str:
    """`one star`, `two red stars`."""
    tint = f"{thing[1]} " if colour and not thing[4] else ""
    return f"{NUMBERS[count]} {tint}{noun(thing, count)}"


def _listed(parts, colour: bool = False) -> str:
    """`there is one star and one circle`, `there are two red stars`."""
    verb = "are" if parts[0][1] > 1 else "is"
    return f"there {verb} {join([_counted(*part, colour) for part in parts])}"


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _is(count: int) -> str:
    return "are" if count > 1 else "is"


def _colour(plan: Plan, generator):
    part = _pick(_plain(plan), generator)
    if part is None:
        return None
    (thing, count), verb = part, _is(part[1])
    word = noun(thing, count)
    texts = (f"what colour {verb} the {word}?", f"what is the colour of the {word}?")
    return _pick(texts, generator), thing[1]


def _colours_of(thing) -> set[str]:
    """The colours a thing shows; an entity shows two."""
    if not thing[4]:
        return {thing[1]}
    return next({one.first, one.second} for one in entities() if one.name == thing[4])


def _shape(plan: Plan, generator):
    """Of the only things in a colour or with a pattern."""
    options = []
    for thing, count in _plain(plan):
        others = [other for other, _ in _parts(plan) if other is not thing]
        if not any(thing[1] in _colours_of(other) for other in others):
            options.append((thing, count, thing[1]))
        if thing[3] != "plain" and not any(thing[3] == other[3] for other in others):
            options.append((thing, count, thing[3]))
    chosen = _pick(options, generator)
    if chosen is None:
        return None
    thing, count, told = chosen
    if count == 1:
        return f"what shape is the {told} object?", thing[0]
    return f"what shape are the {told} objects?", thing[0]


def _size(plan: Plan, generator):
    part = _pick(_parts(plan), generator)
    if part is None:
        return None
    (thing, count), verb = part, _is(part[1])
    word = noun(thing, count)
    texts = (f"{verb} the {word} large or small?", f"what size {verb} the {word}?")
    return _pick(texts, generator), thing[2]


def _pattern(plan: Plan, generator):
    part = _pick(_plain(plan), generator)
    if part is None:
        return None
    (thing, count), verb = part, _is(part[1])
    word = noun(thing, count)
    texts = (
        f"{verb} the {word} plain, striped or dotted?",
        f"what pattern {'do' if count > 1 else 'does'} the {word} have?",
    )
    return _pick(texts, generator), thing[3]


def _count(plan: Plan, generator):
    """All objects, those of a shape that is there, those of one that is not."""
    parts, draw = _parts(plan), generator.random()
    whole = len(plan.things)
    if plan.sign:  # a board may be counted or not
        return None
    if draw < 0.5:
        because = f"{_listed(parts)}, so {WORDS[whole]}"
        return "how many objects are there?", WORDS[whole], because
    plain = [part for part in _plain(plan) if not _silhouette(plan, part[0][0])]
    if draw < 0.85 and plain:
        thing, count = _pick(plain, generator)
        return f"how many {noun(thing, 2)} are there?", WORDS[count]
    shape = _pick(_absent(plan), generator)
    return f"how many {plural(shape)} are there?", WORDS[0]


def _silhouette(plan: Plan, shape: str) -> bool:
    """An entity of the scene has this outline, so that asking for the shape could mean it."""
    return any(thing[4] and thing[0] == shape for thing in plan.things)


def _absent(plan: Plan) -> list[str]:
    """Shapes that nothing in the scene has, entities included."""
    shown = {thing[0] for thing in plan.things}
    return [shape for shape in SHAPES if shape not in shown]


def _place(plan: Plan, generator):
    texts = ("what is in the background?", "what place is this?", "where is the scene?")
    return _pick(texts, generator), plan.place


def _position(plan: Plan, generator):
    part = _pick([part for part in _parts(plan) if part[1] == 1], generator)
    if part is None:
        return None
    return f"where is the {noun(part[0])}?", position(part[0][5])


def _relation(plan: Plan, generator):
    """What lies on one side of a thing, where nothing else does."""
    options, parts = [], _parts(plan)
    for i, word, j in clear_relations(plan):
        thing, base = parts[i][0], parts[j][0]
        beside = [other for other, _ in parts if other not in (thing, base)]
        if all(_offset(other, base, word) >= 0 for other in beside):
            options.append((thing, word, base))
    chosen = _pick(options, generator)
    if chosen is None:
        return None
    thing, word, base = chosen
    because = _compared(thing, base, noun(thing))
    return f"what is {_to(word)} the {noun(base)}?", noun(thing), because


def _to(word: str) -> str:
    return f"to the {word}" if word.endswith("of") else word


def _offset(thing, base, word: str) -> int:
    """Cells from `base` to the centre of `thing`, negative in the direction of the word."""
    axis = 0 if word in ("left of", "right of") else 1
    sign = 1 if word in ("left of", "above") else -1
    return sign * (thing[5][axis] - base[5][axis])


def _compared(one, other, answer: str) -> str | None:
    """Where two things stand, if words tell them apart, and what follows."""
    if position(one[5]) == position(other[5]):
        return None
    return (
        f"the {noun(one)} is {stands(one[5])} and the {noun(other)} is {stands(other[5])}, "
        f"so {answer}"
    )


def _side(plan: Plan, generator):
    """One of two opposite words."""
    chosen = _pick(clear_relations(plan), generator)
    if chosen is None:
        return None
    i, word, j = chosen
    one, other = _parts(plan)[i][0], _parts(plan)[j][0]
    if word.endswith("of"):
        text = f"is the {noun(one)} to the left or to the right of the {noun(other)}?"
    else:
        text = f"is the {noun(one)} above or below the {noun(other)}?"
    answer = word.removesuffix(" of")
    return text, answer, _compared(one, other, answer)


def _sign(plan: Plan, generator):
    if plan.sign is None:
        return None
    texts = ("what does the sign say?", "what is written on the sign?")
    return _pick(texts, generator), plan.sign.text


def _name(plan: Plan, generator):
    named = [thing for thing, _ in _parts(plan) if thing[4]]
    if len(named) != 1:
        return None
    texts = ("what is the object in two colours called?", "what is the name of the odd object?")
    return _pick(texts, generator), named[0][4]


def _comparison(plan: Plan, generator):
    parts = [thing for thing, count in _parts(plan) if count == 1]
    pairs = [(a, b) for a in parts for b in parts if a[2] != b[2]]
    pair = _pick(pairs, generator)
    if pair is None:
        return None
    asked = _pick(tuple(SIZES), generator)
    answer = noun(next(thing for thing in pair if thing[2] == asked))
    first, second = (f"the {noun(thing)}" for thing in pair)
    because = f"{first} is {pair[0][2]} and {second} is {pair[1][2]}, so {answer}"
    degree = {"large": "larger", "small": "smaller"}[asked]
    return f"which is {degree}, {first} or {second}?", answer, because


def _existence(plan: Plan, generator):
    """A shape or entity that is there or not, or a shape in a colour."""
    parts, truth = _parts(plan), generator.random() < 0.5
    if not parts:
        return None
    thing, _ = _pick(parts, generator)
    tinted = not thing[4] and generator.random() < 0.5
    because = f"{_listed(parts, colour=tinted)}, so {_yes(truth)}"
    if thing[4] and truth:
        asked = thing[4]
    elif tinted:
        shown = set().union(*(_colours_of(one) for one, _ in parts))
        tint = thing[1] if truth else _pick([c for c in COLOURS if c not in shown], generator)
        asked = f"{tint} {thing[0]}"
    else:
        asked = thing[0] if truth else _pick(_absent(plan), generator)
    return f"is there {article(asked)}?", _yes(truth), because


def _attribute(plan: Plan, generator):
    part = _pick(_plain(plan), generator)
    if part is None:
        return None
    (thing, count), truth = part, generator.random() < 0.5
    at, values = _pick(((1, tuple(COLOURS)), (2, tuple(SIZES)), (3, PATTERNS)), generator)
    told = thing[at] if truth else _pick([v for v in values if v != thing[at]], generator)
    verb, word = _is(count), noun(thing, count)
    because = f"the {word} {verb} {thing[at]}, so {_yes(truth)}"
    return f"{verb} the {word} {told}?", _yes(truth), because


def _related(plan: Plan, generator):
    chosen = _pick(clear_relations(plan), generator)
    if chosen is None:
        return None
    i, word, j = chosen
    one, other = _parts(plan)[i][0], _parts(plan)[j][0]
    truth = generator.random() < 0.5
    told = word if truth else OPPOSITE[word]
    text = f"is the {noun(one)} {_to(told)} the {noun(other)}?"
    return text, _yes(truth), _compared(one, other, _yes(truth))


_ASK: dict[str, Callable] = {
    "colour": _colour,
    "shape": _shape,
    "size": _size,
    "pattern": _pattern,
    "count": _count,
    "place": _place,
    "position": _position,
    "relation": _relation,
    "side": _side,
    "name": _name,
    "sign": _sign,
    "comparison": _comparison,
    "existence": _existence,
    "attribute": _attribute,
    "relation yes/no": _related,
}
KINDS = tuple(_ASK)
