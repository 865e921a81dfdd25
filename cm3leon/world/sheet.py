"""A contact sheet: scenes of one split with all that the world says and draws about them."""

from __future__ import annotations

import textwrap

import numpy as np

from cm3leon.world.coco_export import panoptic
from cm3leon.world.conditions import CONDITIONS
from cm3leon.world.descriptions import describe
from cm3leon.world.edits import changes, edit, words
from cm3leon.world.questions import questions
from cm3leon.world.scenes import Scene, scene
from cm3leon.world.signs import sign_scene

SIDE = 192  # pixels of a picture on the sheet
TEXT = 132  # pixels below it
GAP = 10
CHARACTERS = 33  # a line
LINE = 13
QUESTIONS = 4
BOX = (255, 0, 255)


def contact_sheet(dialect: str, split: str, count: int, size: int = 64) -> np.ndarray:
    """uint8 [H,W,3]: for each of the first `count` scenes three rows of pictures with their words:
    captions, boxes, panoptic map, questions; conditions; edits with what they say; a signed scene.
    """
    rows = []
    for index in range(count):
        one = scene(dialect, split, index, size)
        signed = sign_scene(dialect, split if split in ("train", "val", "test") else "test", index)
        rows += [_about(one), _conditions(one), _edits(one, signed)]
    width = max(map(len, rows))
    blank = np.full((SIDE + TEXT, SIDE, 3), 255, np.uint8)
    lines = []
    for row in rows:
        cells = [_labelled(*cell) for cell in row] + [blank] * (width - len(row))
        padded = [np.pad(cell, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255) for cell in cells]
        lines.append(np.concatenate(padded, 1))
    return np.concatenate(lines)


def _about(one: Scene) -> list[tuple[np.ndarray, str]]:
    asked = [f"{q.text} {q.explanation or q.answer}" for q in questions(one, 2 * QUESTIONS)]
    first, second = asked[:QUESTIONS], asked[QUESTIONS:]
    names = "instances: " + ", ".join(t.entity or t.shape for t in one.objects)
    return [
        (one.image, f"{one.id}: {one.captions[0]}\n{one.captions[1]}"),
        (one.image, describe(one)),
        (one.image, describe(one, located=True)),
        (_boxed(one), names),
        (panoptic(one)[0], f"panoptic: {one.place} and things"),
        (one.image, "\n".join(first)),
        (one.image, "\n".join(second)),
    ]


def _conditions(one: Scene) -> list[tuple[np.ndarray, str]]:
    return [(one.image, one.id)] + [(draw(one), name) for name, draw in CONDITIONS.items()]


def _edits(one: Scene, signed: Scene) -> list[tuple[np.ndarray, str]]:
    edits = [(edit(one, change), words(change)) for change in changes(one, 6)]
    cells = [(after.image, "\n".join(texts[:2])) for after, texts in edits]
    return [*cells, (signed.image, f"{signed.id}: {signed.captions[0]}")]


def _boxed(one: Scene) -> np.ndarray:
    """The picture with the box of each visible part."""
    image, times = _enlarged(one.image), SIDE // one.size
    for thing in one.objects:
        x0, y0, x1, y1 = (int(value) * times for value in thing.box)
        for rows, columns in (
            (slice(y0, y1), [x0, x1 - 1]),
            ([y0, y1 - 1], slice(x0, x1)),
        ):
            image[rows, columns] = BOX
    return image


def _enlarged(image: np.ndarray) -> np.ndarray:
    times = max(1, SIDE // len(image))
    return image.repeat(times, 0).repeat(times, 1)[:SIDE, :SIDE]


def _labelled(image: np.ndarray, text: str) -> np.ndarray:
    """A picture with its words below, uint8 [SIDE + TEXT, SIDE, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("RGB", (SIDE, SIDE + TEXT), "white")
    canvas.paste(Image.fromarray(_enlarged(image)))
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, CHARACTERS)]
    drawing, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for k, line in enumerate(lines):
        drawing.text((0, SIDE + 2 + k * LINE), line, fill="black", font=font)
    return np.asarray(canvas)
