"""Twins for editing: a scene, a change told in words, and the exact picture after it.

`edit` is pure: it changes the scene's plan and nothing else, so what the words do not name keeps
its pixels. The scene after it obeys the world's laws: one to three objects, blocks of cells that
share at most one corner cell, and things of one shape alike in every way, so that the fewest
attributes that tell a thing apart are its noun, or its noun and where it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.world.boards import Sign
from cm3leon.world.coordinates import at_location, location
from cm3leon.world.descriptions import block, board_block, describe, noun, said
from cm3leon.world.language import PREPOSITION, Dice, Said, article, noun_phrase, plural
from cm3leon.world.scenes import ROOT, Plan, Scene, entities
from cm3leon.world.sprites import CELLS, COLOURS, PATTERNS, PLACES, SHAPES, SIZES

MOST = 3  # objects of a scene
ATTRIBUTES = {  # kind of change -> (attribute, its place in a planned thing, its values)
    "recolour": ("colour", 1, tuple(COLOURS)),
    "reshape": ("shape", 0, SHAPES),
    "resize": ("size", 2, tuple(SIZES)),
    "repattern": ("pattern", 3, PATTERNS),
}
KINDS = (*ATTRIBUTES, "remove", "add", "move", "place")
_DRAWS = 8  # uniforms for the noun phrase of an instruction

Block = tuple[int, int, int, int]  # first column and row, those after the last


@dataclass(frozen=True)
class Change:
    """One change of a scene, as far as words say it.

    `target`: the thing meant, its noun and what else is said; for `add` all of it (a pattern not
    said is plain). `at`: the block where the target stands, when its looks do not tell it apart.
    `to`: the new colour, shape, size, pattern or place. `block`: where an added or moved thing
    stands afterwards. Raises UserError for an unknown kind or value and for one that is missing.
    """

    kind: str
    target: Said | None = None
    to: str | None = None
    block: Block | None = None
    at: Block | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"no change {self.kind!r}; the world knows {', '.join(KINDS)}")
        if self.kind == "place":
            _known("place", self.to, PLACES)
        elif self.target is None or not (self.target.shape or self.target.entity):
            raise UserError(f"{self.kind} needs a target with its shape or name, got {self.target}")
        if self.kind in ATTRIBUTES:
            attribute, _, values = ATTRIBUTES[self.kind]
            _known(attribute, self.to, values)
        if self.kind in ("add", "move") and self.block is None:
            raise UserError(f"{self.kind} needs the block of cells where the thing is to stand")


def edit(scene: Scene, change: Change) -> Scene:
    """The scene after a change; its id tells both. See `Change`.

    Raises UserError for what is impossible: no such object, a target that fits several, a thing or
    place that is so already, one that does not fit into the picture or would overlap another, two
    things of one shape that differ, more than three objects or none, an entity in other colours.
    """
    things, place = list(scene.plan.things), scene.plan.place
    if change.kind == "place":
        if change.to == place:
            raise UserError(f"{scene.id} is on {place} already; name another place")
        place = change.to
    elif change.kind == "add":
        things.append(_added(change))
    else:
        chosen = _targets(scene, change)
        things = _DO[change.kind](scene, change, things, chosen)
    plan = Plan(place, tuple(things), groups(things), scene.plan.sign)
    _check(scene.id, plan)
    after = Scene(scene.dialect, scene.split, scene.index, scene.size, plan)
    after.id = f"{scene.id}+{change.kind}-{sha256_bytes(repr(change).encode())[:8]}"
    return after


def words(change: Change) -> tuple[str, ...]:
    """The change as instructions, several wordings; each determines the picture after exactly."""
    if change.kind == "place":
        where = f"{PREPOSITION[change.to]} {change.to}"
        return (
            f"put the scene {where}",
            f"change the place to {change.to}",
            f"make the background {change.to}",
        )
    uniforms = seeds.generator(ROOT, "instruction", change).random(_DRAWS)
    phrase = noun_phrase(change.target, Dice(uniforms))
    it = f"the {phrase}" + (f" {at_location(change.at, CELLS)}" if change.at else "")
    where = location(change.block, CELLS) if change.block else ""
    return _WORDS[change.kind](change, it, phrase, where)


def changes(scene: Scene, n: int | None = None) -> tuple[Change, ...]:
    """Valid changes of a scene, one of each kind that is possible, in an order of its own; the
    first n of them. A pure function of the scene's id.
    """
    generator = seeds.generator(ROOT, "changes", scene.id)
    found = []
    for kind in (KINDS[k] for k in generator.permutation(len(KINDS))):
        if n is not None and len(found) == n:
            break
        change = _DRAW[kind](scene.plan, kind, generator)
        if change is not None:
            found.append(change)
    return tuple(found)


def captions_around(scene: Scene, change: Change) -> tuple[str, str]:
    """A caption of the scene before and one after a change, in the same form where there is one.

    The first of the five captions that the change makes another, else the long caption.
    """
    before, after = scene.captions, edit(scene, change)
    for k in seeds.generator(ROOT, "captions around", after.id).permutation(len(before)):
        if before[k] != after.captions[k]:
            return before[k], after.captions[k]
    return describe(scene, located=True), describe(after, located=True)


def groups(things) -> tuple[tuple[int, int], ...]:
    """(index of a thing, how many are alike) for planned things, in the order they come."""
    looks = [thing[:5] for thing in things]
    return tuple((looks.index(look), looks.count(look)) for look in dict.fromkeys(looks))


def name(plan: Plan, index: int) -> tuple[Said, Block | None]:
    """The fewest words that tell a thing of a plan apart: its noun, and its block of cells when
    others are alike.
    """
    thing = plan.things[index]
    target = Said(None if thing[4] else thing[0], entity=thing[4])
    alone = sum(_fits(target, other) for other in plan.things) == 1
    return target, None if alone else block(thing)


def _known(attribute: str, value, values) -> None:
    if value not in values:
        raise UserError(f"no {attribute} {value!r}; the world has {', '.join(values)}")


def _fits(target: Said, thing) -> bool:
    """A planned thing is what the words say."""
    noun_fits = thing[4] == target.entity if target.entity else (thing[0], thing[4]) == (
        target.shape, None
    )  # fmt: skip
    claims = ((target.colour, thing[1]), (target.size, thing[2]), (target.pattern, thing[3]))
    return noun_fits and all(claim in (None, fact) for claim, fact in claims)


def _targets(scene: Scene, change: Change) -> list[int]:
    """Indices of the things that a change means."""
    target, plan = change.target, scene.plan
    phrase = noun_phrase(replace(target, count=1), Dice([0.9] * _DRAWS))
    fitting = [k for k, thing in enumerate(plan.things) if _fits(target, thing)]
    if not fitting:
        raise UserError(f"no {phrase} in {scene.id}: it shows {_shown(plan)}")
    if change.at is not None:
        fitting = [k for k in fitting if block(plan.things[k]) == change.at]
        if not fitting:
            where = at_location(change.at, CELLS)
            raise UserError(f"no {phrase} {where} in {scene.id}: it shows {_shown(plan)}")
    if len(fitting) != target.count:
        raise UserError(
            f"{phrase!r} is ambiguous in {scene.id}: {target.count} meant, {len(fitting)} there; "
            "say how many, or at which location"
        )
    if change.at is None and change.kind == "move" and target.count > 1:
        raise UserError(
            f"only one thing moves at a time, got {target.count}; say at which location"
        )
    return fitting


def _shown(plan: Plan) -> str:
    return describe(Scene("stock", "", 0, 64, plan), located=True)


def _alter(scene: Scene, change: Change, things: list, chosen: list[int]) -> list:
    attribute, at, _ = ATTRIBUTES[change.kind]
    for k in chosen:
        if things[k][4] and change.kind != "resize":
            raise UserError(
                f"{things[k][4]} is an entity, whose look is its own; it can be resized, moved and "
                "removed"
            )
        if things[k][at] == change.to:
            raise UserError(
                f"the {noun(things[k])} in {scene.id} is {change.to} already; name another "
                f"{attribute}"
            )
        things[k] = (*things[k][:at], change.to, *things[k][at + 1 :])
    return things


def _remove(scene: Scene, change: Change, things: list, chosen: list[int]) -> list:
    if len(chosen) == len(things) and not scene.plan.sign:
        raise UserError(f"{scene.id} would be empty: a scene keeps at least one object")
    return [thing for k, thing in enumerate(things) if k not in chosen]


def _move(scene: Scene, change: Change, things: list, chosen: list[int]) -> list:
    thing = things[chosen[0]]
    if block(thing) == change.block:
        raise UserError(
            f"the {noun(thing)} in {scene.id} stands {at_location(change.block, CELLS)} already; "
            "name another location"
        )
    things[chosen[0]] = (*thing[:5], _centre(change.block, thing[2]))
    return things


_DO: dict[str, Callable] = dict.fromkeys(ATTRIBUTES, _alter) | {"remove": _remove, "move": _move}


def _added(change: Change) -> tuple:
    """The planned thing that an addition names."""
    target = change.target
    if target.count != 1:
        raise UserError(f"only one thing is added at a time, got {target.count}")
    _known("size", target.size, tuple(SIZES))
    cell = _centre(change.block, target.size)
    if target.entity:
        found = next((one for one in entities() if one.name == target.entity), None)
        if found is None:
            raise UserError(f"no entity {target.entity!r}; scenes.entities() lists all 4,000")
        return found.shape, found.first, target.size, None, found.name, cell
    _known("shape", target.shape, SHAPES)
    _known("colour", target.colour, tuple(COLOURS))
    _known("pattern", target.pattern or "plain", PATTERNS)
    return target.shape, target.colour, target.size, target.pattern or "plain", None, cell


def _centre(where: Block, size: str) -> tuple[int, int]:
    """The centre cell of a block, which must be as large as a thing of this size and in the
    picture.
    """
    c0, r0, c1, r1 = where
    side = SIZES[size]
    if c1 - c0 != side or r1 - r0 != side:
        raise UserError(f"a {size} object fills {side} x {side} cells, got {c1 - c0} x {r1 - r0}")
    if min(c0, r0) < 0 or max(c1, r1) > CELLS:
        raise UserError(f"a {size} object does not fit at cells {where}: a picture has 8 x 8")
    return c0 + side // 2, r0 + side // 2


def _check(name: str, plan: Plan) -> None:
    """Raise UserError unless the plan is one that the world may show."""
    things = plan.things
    if len(things) > MOST:
        raise UserError(f"{name} would show {len(things)} objects; a scene holds {MOST} at most")
    for thing in things:
        c0, r0, c1, r1 = block(thing)
        if min(c0, r0) < 0 or max(c1, r1) > CELLS:
            raise UserError(
                f"the {thing[2]} {noun(thing)} does not fit into {name} where it stands"
            )
        if plan.sign and not beside_sign(block(thing), plan.sign):
            raise UserError(
                f"the {noun(thing)} would stand on the sign of {name} or close to it; leave a cell "
                "between them"
            )
    for one, other in combinations(things, 2):
        if shared_cells(one, other) > 1:
            raise UserError(
                f"the {noun(one)} and the {noun(other)} would overlap in {name}; they may share "
                "one corner cell"
            )
        if noun(one) == noun(other) and one[:5] != other[:5]:
            raise UserError(
                f"{name} would show two {noun(one, 2)} that differ; things of one shape look "
                "alike, so change them all or name another shape"
            )


def shared_cells(one, other) -> int:
    """Cells that the blocks of two planned things have in common."""
    a, b = block(one), block(other)
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    return max(width, 0) * max(height, 0)


def beside_sign(where: Block, sign: Sign) -> bool:
    """A block and a sign with a cell between them."""
    c0, r0, c1, r1 = board_block(sign)
    return where[2] < c0 or where[0] > c1 or where[3] < r0 or where[1] > r1


# Instructions: (change, "the red star", "red star", location) -> wordings
def _recolour_words(change, it, phrase, where):
    return (
        f"make {it} {change.to}",
        f"change the colour of {it} to {change.to}",
        f"paint {it} {change.to}",
    )


def _reshape_words(change, it, phrase, where):
    new = plural(change.to) if change.target.count > 1 else article(change.to)
    return f"turn {it} into {new}", f"make {it} {new}", f"change the shape of {it} to {new}"


def _resize_words(change, it, phrase, where):
    return f"make {it} {change.to}", f"change the size of {it} to {change.to}"


def _repattern_words(change, it, phrase, where):
    dress = {"plain": "no pattern", "striped": "stripes", "dotted": "dots"}[change.to]
    return (
        f"make {it} {change.to}",
        f"give {it} {dress}",
        f"change the pattern of {it} to {change.to}",
    )


def _remove_words(change, it, phrase, where):
    return f"remove {it}", f"take {it} away", f"delete {it}"


def _add_words(change, it, phrase, where):
    return tuple(f"{verb} {article(phrase)} at location {where}" for verb in ("add", "put", "draw"))


def _move_words(change, it, phrase, where):
    return f"move {it} to location {where}", f"shift {it} to location {where}"


_WORDS = {
    "recolour": _recolour_words,
    "reshape": _reshape_words,
    "resize": _resize_words,
    "repattern": _repattern_words,
    "remove": _remove_words,
    "add": _add_words,
    "move": _move_words,
}


# Draws: (plan, kind, generator) -> a valid change, None where there is none
def _pick(options, generator):
    return options[int(generator.random() * len(options))] if options else None


def _described(plan: Plan, index: int, generator) -> tuple[Said, Block | None]:
    """The name of a thing, in half of the draws with one attribute more than needed."""
    target, at = name(plan, index)
    everything = said(plan.things[index])
    if generator.random() < 0.5:
        options = [a for a in ("colour", "size", "pattern") if getattr(everything, a)]
        attribute = _pick(options, generator)
        target = replace(target, **{attribute: getattr(everything, attribute)})
    return target, at


def _draw_alter(plan: Plan, kind: str, generator) -> Change | None:
    """Another value for all things that are alike; colours and shapes that the scene has not."""
    _, at, values = ATTRIBUTES[kind]
    options = []
    for index, count in plan.groups:
        thing = plan.things[index]
        if thing[4] and kind != "resize":
            continue
        taken = {t[at] for t in plan.things} if kind in ("recolour", "reshape") else {thing[at]}
        for value in values:
            changed = [(*t[:at], value, *t[at + 1 :]) if t[:5] == thing[:5] else t
                       for t in plan.things]  # fmt: skip
            if value not in taken and (kind != "resize" or _possible(plan, changed)):
                options.append((index, count, value))
    chosen = _pick(options, generator)
    if chosen is None:
        return None
    index, count, value = chosen
    target, _ = _described(plan, index, generator)
    return Change(kind, replace(target, count=count), value)


def _possible(plan: Plan, things) -> bool:
    """Whether all blocks lie in the picture and share no more cells than they may."""
    inside = all(min(block(t)) >= 0 and max(block(t)) <= CELLS for t in things)
    clear = plan.sign is None or all(beside_sign(block(t), plan.sign) for t in things)
    return inside and clear and all(shared_cells(a, b) <= 1 for a, b in combinations(things, 2))


def _free_blocks(size: str, others, sign: Sign | None) -> list[Block]:
    """Blocks where a thing of this size can stand beside others and a sign."""
    side = SIZES[size]
    line = range(CELLS - side + 1)
    probe = [(c, r, c + side, r + side) for c in line for r in line]
    stays = [(None, None, size, None, None, _centre(where, size)) for where in probe]
    return [
        where
        for where, thing in zip(probe, stays, strict=True)
        if all(shared_cells(thing, other) <= 1 for other in others)
        and (sign is None or beside_sign(where, sign))
    ]


def _draw_remove(plan: Plan, kind: str, generator) -> Change | None:
    if len(plan.things) <= (0 if plan.sign else 1):
        return None
    target, at = _described(plan, int(generator.random() * len(plan.things)), generator)
    return Change(kind, target, at=at)


def _draw_move(plan: Plan, kind: str, generator) -> Change | None:
    """To a block at least two cells away."""
    if not plan.things:
        return None
    index = int(generator.random() * len(plan.things))
    thing = plan.things[index]
    others = [other for k, other in enumerate(plan.things) if k != index]
    here = block(thing)
    far = [
        where
        for where in _free_blocks(thing[2], others, plan.sign)
        if max(abs(where[0] - here[0]), abs(where[1] - here[1])) >= 2
    ]
    where = _pick(far, generator)
    if where is None:
        return None
    target, at = _described(plan, index, generator)
    return Change(kind, target, block=where, at=at)


def _draw_add(plan: Plan, kind: str, generator) -> Change | None:
    """A shape and a colour that the scene has not; small, large if alone with one small thing."""
    if len(plan.things) == MOST:
        return None
    shape = _pick([s for s in SHAPES if s not in {t[0] for t in plan.things}], generator)
    colour = _pick([c for c in COLOURS if c not in {t[1] for t in plan.things}], generator)
    size = "large" if generator.random() < 0.25 else "small"
    pattern = _pick((None, *PATTERNS[1:]), generator)
    where = _pick(_free_blocks(size, plan.things, plan.sign), generator)
    if where is None:
        size, where = "small", _pick(_free_blocks("small", plan.things, plan.sign), generator)
    if where is None:
        return None
    return Change(kind, Said(shape, colour, size, pattern), block=where)


def _draw_place(plan: Plan, kind: str, generator) -> Change:
    return Change(kind, to=_pick([place for place in PLACES if place != plan.place], generator))


_DRAW: dict[str, Callable] = dict.fromkeys(ATTRIBUTES, _draw_alter) | {
    "remove": _draw_remove,
    "add": _draw_add,
    "move": _draw_move,
    "place": _draw_place,
}
