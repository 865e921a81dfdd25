"""All texts of the embedded world that the text tokenizer is trained on: none of `coco`, which is
kept for evaluation, and of no entity that training must not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cm3leon import seeds
from cm3leon.world.boards import LETTERS
from cm3leon.world.coordinates import SIDE, at_location
from cm3leon.world.descriptions import describe
from cm3leon.world.edits import changes, words
from cm3leon.world.questions import questions
from cm3leon.world.scenes import PLAIN, ROOT, SEEN, scene
from cm3leon.world.signs import sign_scene

# What stands before the target in the paper's tasks (arXiv 2309.02591, Table 5 and Figures 5, 7);
# its "[newline]" is a line feed. Pictures are segments of their own and no part of a text.
TEMPLATES = (
    "{caption}",
    "Describe the given picture. {caption}",
    "Describe the given picture in very detail. {caption}",
    "Describe all the objects in the given image in very detail. {caption}",
    "Generate a long caption for the given image. {caption}",
    "Generate a long narration of what is happening in the given image. {caption}",
    "Question: {question} Answer: {answer}.",
    "Question: {question}\n{answer}",
    "Question: {question} The answer is {answer}.",
    "Question: {question}\nContext: {context}\nOptions: {options}\nAnswer: {answer}.",
    "Question: {question}\nContext: {context}\nOptions: {options}\n"
    "Answer: Let's think step-by-step: {explanation} So the answer is {answer}.",
    "Edit first image following the instruction",
    "Edit the image following the text instruction",
    'draw "{letters}"',
    'A white sign that says "{letters}"',
    "Generate high quality image of {caption} with segmentations {objects}",
    "Make high quality image from canny edge features",
    "Make high quality image from a segmentation map",
    "Make high quality image from hed features",
    "Make high quality image from openpose features",
    "Make high quality image from depth features",
    "Make high quality image from 3D norm features",
    "Make high quality image from children's scribbles",
    "Make high quality image from M-LSD lines",
)
PICTURES = 20_000  # of `stock`, `train`, five captions each
TASKS = 6_000  # scenes of `stock`, `train` that the texts of tasks are about


def texts(pictures: int = PICTURES, tasks: int = TASKS, about: int = SEEN - PLAIN) -> Iterator[str]:
    """Captions of `stock`, `train`, of `about` documents and as many queries about entities, and
    what tasks say of scenes.
    """
    for index in range(pictures):
        yield from scene("stock", "train", index).captions
    for index in range(PLAIN, PLAIN + about):
        yield from scene("stock", "bank", index).captions
        yield from scene("stock", "study", index).captions[:2]
    for index in range(tasks):
        yield from task_texts(index)


def task_texts(index: int) -> Iterator[str]:
    """The templates filled by one scene of `stock`, `train`, a box of any corners, and what a sign
    beside it says.

    Of a sign's letters the first alone is kept, so that no two of them become one token.
    """
    one = scene("stock", "train", index)
    generator = seeds.generator(ROOT, "corpus", index)
    long, located = describe(one), describe(one, located=True)
    low = generator.integers(0, SIDE, 2)
    high = [int(generator.integers(value, SIDE)) + 1 for value in low]
    yield from (long, located, at_location((*low.tolist(), *high), SIDE))
    board = sign_scene("stock", "train", index)
    for text in (*board.captions[:2], describe(board, located=index % 2 == 0)):
        yield re.sub(r'"([A-Z])[A-Z]*"', r'"\1"', text)
    for change in changes(one):
        yield from words(change)
    asked = questions(one)
    spare = asked[int(generator.integers(len(asked)))]
    filling = {
        "caption": one.captions[0],
        "context": long,
        "objects": located,
        "question": spare.text,
        "answer": spare.answer,
        "options": f"(A) {spare.answer} (B) {asked[0].answer}",
        "explanation": next((q.explanation for q in asked if q.explanation), long),
        "letters": LETTERS[index % len(LETTERS)],
    }
    yield TEMPLATES[index % len(TEMPLATES)].format_map(filling)
    for question in asked:
        template = TEMPLATES[6 + int(generator.integers(3))]
        yield template.format(question=question.text, answer=question.answer)
        if question.explanation:
            yield question.explanation
