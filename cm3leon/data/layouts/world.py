"""The embedded world's tasks: every example a pure function of its address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cm3leon import seeds
from cm3leon.data.examples import Example, Examples
from cm3leon.data.layouts.boxes import boxes_as_text
from cm3leon.data.sources import SHARD, Scenes, world
from cm3leon.errors import UserError
from cm3leon.identity import joined
from cm3leon.world.conditions import CONDITIONS
from cm3leon.world.descriptions import block, board_block, describe, said
from cm3leon.world.edits import changes, edit, words
from cm3leon.world.language import Dice, noun_phrase
from cm3leon.world.questions import WORDS, Question, questions
from cm3leon.world.scenes import ROOT, Scene, scene
from cm3leon.world.signs import sign_scene
from cm3leon.world.sprites import CELLS, COLOURS, PATTERNS, PLACES, SHAPES, SIZES

SIGNS = "signs-"  # before the split of a scene with a sign
SELECT = "Select the best answer."  # ScienceQA's context where a question needs none (Figure 7)
CHOICES = (2, 3, 4)  # options of a question
KINDS = (  # words that can answer the same question
    ("yes", "no"),
    tuple(WORDS.values()),
    tuple(COLOURS),
    SHAPES,
    PATTERNS,
    tuple(SIZES),
    PLACES,
    ("left", "right"),
    ("above", "below"),
    ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom"),
)


class WorldPart(NamedTuple):
    """What a task shows and says of one scene, not yet drawn."""

    task: str
    dialect: str
    split: str
    index: int
    size: int

    @property
    def id(self) -> str:
        """As of the scene."""
        return f"{self.dialect}-{self.split}-{self.index}"

    def digest(self) -> str:
        """As `ExamplePart.digest`."""
        return self.load()[0]

    def load(self) -> tuple[str, Example]:
        """As `ExamplePart.load`."""
        example = MAKE[self.task](scene_at(self.dialect, self.split, self.index, self.size))
        parts = [*example.names]
        for fields in (example.pictures, *example.texts):
            for name, value in sorted(fields.items()):
                parts += [name, value if isinstance(value, str) else value.tobytes()]
        return joined(parts), example

    def seen(self) -> tuple[list[Path], list[str]]:
        """As `ExamplePart.seen`: the code that draws."""
        return [], [world()]


def world_examples(
    task: str, address: tuple[str, str, int, int], size: int, shard: int = SHARD
) -> Examples:
    """The examples of a task about the scenes at an address (`data.sources.scenes_address`),
    pictures of `size` pixels; a split `signs-SPLIT` has those with a sign, which the task `write`
    takes alone.

    Raises UserError for an unknown address, and for a task that the world has no truth for.
    """
    dialect, split, start, count = address
    if task not in MAKE:
        raise UserError(f"the embedded world has no {task}; it has {', '.join(MAKE)}")
    if task == "write" and not split.startswith(SIGNS):
        split = SIGNS + split
    if split.startswith(SIGNS):
        scene_at(dialect, split, start + count - 1, size)
    else:
        Scenes(dialect, split, start, count, size)  # its checks
    about = {"dialect": dialect, "split": split, "start": start, "size": size}
    parts = [WorldPart(task, dialect, split, start + k, size) for k in range(count)]
    return Examples("scenes", parts, (), about, shard)


def scene_at(dialect: str, split: str, index: int, size: int) -> Scene:
    """The scene at an address, with a sign where its split says so."""
    if not split.startswith(SIGNS):
        return scene(dialect, split, index, size)
    return sign_scene(dialect, split.removeprefix(SIGNS), index, size)


def _caption(one: Scene) -> Example:
    return Example.of(one.id, {"image": one.image}, ({"caption": said} for said in one.captions))


def _long(one: Scene) -> Example:
    return Example.of(one.id, {"image": one.image}, [{"caption": describe(one)}])


def _answer(one: Scene) -> Example:
    asked = ({"question": q.text, "answer": q.answer} for q in questions(one))
    return Example.of(one.id, {"image": one.image}, asked)


def _choice(one: Scene) -> Example:
    return Example.of(one.id, {"image": one.image}, (_options(one, q) for q in questions(one)))


def _explained(one: Scene) -> Example:
    asked = [q for q in questions(one) if q.explanation]
    texts = (_options(one, q) | {"explanation": f"{q.explanation}."} for q in asked)
    return Example.of(one.id, {"image": one.image}, texts)


def _options(one: Scene, question: Question) -> dict[str, str]:
    """A question with options in ScienceQA's form: the answer among others of its kind."""
    generator = seeds.generator(ROOT, "options", one.id, question.text)
    kind = next((words for words in KINDS if question.answer in words), SHAPES)
    others = [word for word in kind if word != question.answer]
    count = min(len(others) + 1, int(generator.choice(CHOICES)))
    chosen = [others[k] for k in generator.permutation(len(others))[: count - 1]]
    at = int(generator.integers(count))
    chosen.insert(at, question.answer)
    letters = "ABCD"
    options = " ".join(f"({letters[k]}) {word}" for k, word in enumerate(chosen))
    return {
        "question": question.text, "context": SELECT, "options": options,
        "answer": f"({letters[at]})",
    }  # fmt: skip


def _edit(one: Scene) -> Example:
    """One of each kind of change that the scene allows, in one of its wordings."""
    texts = []
    for k, change in enumerate(changes(one)):
        wordings = words(change)
        pick = seeds.generator(ROOT, "instruction wording", one.id, k).integers(len(wordings))
        texts.append({"instruction": wordings[int(pick)], "image2": edit(one, change).image})
    return Example.of(one.id, {"image1": one.image}, texts)


def _structure(kind: str) -> Callable[[Scene], Example]:
    def make(one: Scene) -> Example:
        pictures = {"condition": CONDITIONS[kind](one), "image": one.image}
        return Example.of(one.id, pictures, [{"caption": _one_caption(one)}])

    return make


def _grounded(one: Scene) -> Example:
    """Every thing with all its looks, in its block of cells."""
    dice = Dice(seeds.generator(ROOT, "grounded", one.id).random(24))
    boxes = [(noun_phrase(said(thing), dice), block(thing)) for thing in one.plan.things]
    if one.plan.sign:
        boxes.insert(0, (f'sign that says "{one.plan.sign.text}"', board_block(one.plan.sign)))
    fields = {"caption": _one_caption(one)} | boxes_as_text(boxes, CELLS)
    return Example.of(one.id, {"image": one.image}, [fields])


def _write(one: Scene) -> Example:
    return Example.of(one.id, {"image": one.image}, [{"letters": one.plan.sign.text}])


def _one_caption(one: Scene) -> str:
    pick = seeds.generator(ROOT, "caption of task", one.id).integers(len(one.captions))
    return one.captions[int(pick)]


MAKE: dict[str, Callable[[Scene], Example]] = {
    "caption": _caption,
    "caption-long": _long,
    "answer": _answer,
    "answer-choice": _choice,
    "answer-explained": _explained,
    "edit": _edit,
    **{kind: _structure(kind) for kind in CONDITIONS},
    "grounded": _grounded,
    "write": _write,
}
