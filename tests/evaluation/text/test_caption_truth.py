"""Captions read back: every caption of the grammar means what it says."""

from dataclasses import replace

import pytest

from cm3leon.evaluation.text.caption_truth import (
    in_order,
    judge_caption,
    read_caption,
    true_reading,
)
from cm3leon.world.language import Meaning, Said
from cm3leon.world.scenes import scene


@pytest.mark.parametrize("split", ["val", "tail"])
@pytest.mark.parametrize("dialect", ["stock", "coco"])
def test_every_caption_is_read_back(dialect, split):
    relations = 0
    for index in range(300):
        one = scene(dialect, split, index)
        for text, meaning in zip(one.captions, one.meanings, strict=True):
            assert read_caption(text) == in_order(meaning), text
            relations += meaning.relation is not None
    assert relations > 100


def test_what_is_not_of_the_grammar():
    assert read_caption("") is None and read_caption("photo of the sand") is None
    assert read_caption("zzz STAR star?? above blue") == Meaning((Said("star"), Said("star")))
    assert read_caption("stars") == Meaning((Said("star", count=2),))
    red = Said("star", "red", pattern="striped")
    assert read_caption("a red star with stripes sitting on") == Meaning((red,))


def test_true_captions_are_true_and_others_are_not():
    judged = []
    for index in range(100):
        one, other = (scene("coco", "val", k) for k in (index, index + 500))
        for text in one.captions:
            verdict = judge_caption(text, one)
            assert (
                verdict["readable"]
                and verdict["all"]
                and all(
                    verdict.get(task, True) for task in ("single", "two", "counting", "position")
                )
            ), text
        judged.append(judge_caption(one.captions[0], other)["all"])
    assert sum(judged) < 10
    empty = judge_caption("nothing at all", scene("coco", "val", 0))
    assert empty == {"readable": False, "named": False, "all": False}


def test_a_caption_that_leaves_something_out_is_told():
    scenes = (scene("coco", "val", index) for index in range(50))
    one = next(one for one in scenes if len(one.plan.groups) == len(one.plan.things) == 2)
    first = one.objects[0]
    text = f"a {first.colour} {first.entity or first.shape}"
    assert judge_caption(text, one)["all"] and not judge_caption(text, one)["named"]
    wrong = "green" if first.colour != "green" else "red"
    assert not judge_caption(f"a {wrong} {first.shape}", one)["all"]
    assert true_reading(one).place == one.place
    assert replace(true_reading(one), place="sea") != true_reading(one)
