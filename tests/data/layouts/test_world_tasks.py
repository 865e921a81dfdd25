"""The embedded world's tasks: examples say what their scenes show."""

import re

import numpy as np
import pytest

from cm3leon.config import scenes_s
from cm3leon.data.layouts.find import find_examples
from cm3leon.data.layouts.world import MAKE, scene_at, world_examples
from cm3leon.data.records import encode_record
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.sequence.documents import Vocabulary
from cm3leon.tasks import TASKS
from cm3leon.tasks.rows import too_long
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.world.conditions import MAPS, READERS
from cm3leon.world.coordinates import read_locations
from cm3leon.world.descriptions import block, describe
from cm3leon.world.edits import changes, edit, words
from cm3leon.world.questions import questions
from cm3leon.world.sprites import CELLS

FIRST = 20


def examples(task: str, count: int = 6, split: str = "train"):
    source = world_examples(task, ("stock", split, FIRST, count), 64)
    for part in source.parts(0):
        digest, example = part.load()
        assert digest == part.digest() and example.names[0].startswith(
            f"stock-{source.more['split']}"
        )
        yield scene_at("stock", part.split, part.index, 64), example


@pytest.mark.parametrize("task", MAKE)
def test_examples_make_records_of_their_task(task):
    for _, example in examples(task, 3):
        bundle = TASKS[task].records(example, "both")
        assert len(bundle.records) == len(example.texts) and not bundle.skipped


def test_edits_show_what_their_words_say():
    for one, example in examples("edit"):
        made = changes(one)
        assert np.array_equal(example.pictures["image1"], one.image)
        for change, fields in zip(made, example.texts, strict=True):
            assert fields["instruction"] in words(change)
            assert np.array_equal(fields["image2"], edit(one, change).image)


@pytest.mark.parametrize("kind", READERS)
def test_conditions_read_back(kind):
    for one, example in examples(kind):
        assert np.array_equal(READERS[kind](example.pictures["condition"]), MAPS[kind](one))
        assert example.texts[0]["caption"] in one.captions


def test_boxes_are_the_blocks_of_the_things():
    for one, example in examples("grounded"):
        for name in ("objects", "with_objects"):
            boxes = read_locations(example.texts[0][name], CELLS)
            assert boxes == [block(thing) for thing in one.plan.things]


def test_captions_answers_and_signs_are_the_scenes_own():
    for one, example in examples("caption"):
        assert [fields["caption"] for fields in example.texts] == list(one.captions)
    for one, example in examples("caption-long"):
        assert example.texts == ({"caption": describe(one)},)
    for one, example in examples("answer"):
        asked = [(fields["question"], fields["answer"]) for fields in example.texts]
        assert asked == [(q.text, q.answer) for q in questions(one)]
    for one, example in examples("write"):
        assert example.texts[0]["letters"] == one.plan.sign.text


@pytest.mark.parametrize("task", ["answer-choice", "answer-explained"])
def test_one_option_is_right(task):
    for one, example in examples(task):
        truth = {q.text: q for q in questions(one)}
        for fields in example.texts:
            options = dict(re.findall(r"(\(\w\)) (.*?)(?= \(\w\) |$)", fields["options"]))
            question = truth[fields["question"]]
            assert options[fields["answer"]] == question.answer
            assert 2 <= len(set(options.values())) == len(options) <= 4
            if task == "answer-explained":
                assert fields["explanation"] == f"{question.explanation}."


@pytest.mark.parametrize("task", MAKE)
def test_rows_fit_the_worlds_models(task):
    text = TextTokenizer.load(baselines_folder() / "scenes" / "text")
    vocabulary, codes = Vocabulary(text.size, 1024, 16), np.zeros(64, np.int32)
    for _, example in examples(task, 4):
        for record in TASKS[task].records(example, "both").records:
            pictures = sum(one.kind == "image" for one in record.segments)
            encoded = encode_record(record, text, [codes] * pictures)
            assert too_long(encoded, scenes_s(), vocabulary) is None


def test_what_the_world_has_not_is_refused():
    with pytest.raises(UserError, match="the embedded world has no hed; it has caption, "):
        find_examples("scenes:stock/train:0:2", "hed", 64)
    with pytest.raises(UserError, match=r"split 'val' of signs has indices 0\.\.4999, got 5000"):
        find_examples("scenes:stock/val:4999:2", "write", 64)
    with pytest.raises(UserError, match="must read scenes:DIALECT/SPLIT:START:COUNT"):
        find_examples("scenes:stock", "answer", 64)
