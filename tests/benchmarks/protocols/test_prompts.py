"""Which captions are asked for: distinct pictures, one caption each, the same ones every time."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.protocols.prompts import Prompt, digest, scenes_prompts
from cm3leon.errors import UserError
from cm3leon.world.scenes import scene


def test_scenes_prompts_are_captions_of_distinct_pictures():
    prompts = scenes_prompts(50)
    assert (
        len({prompt.image_id for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 50
    )
    for index, prompt in enumerate(prompts):
        picture = scene("coco", "test", index)
        captions, meanings = picture.language
        k = captions.index(prompt.caption)
        assert (prompt.image_id, prompt.meaning) == (picture.id, meanings[k])
    assert (
        len({prompt.id.rsplit("-", 1)[1] for prompt in prompts}) == 5
    )  # every place of five is used


def test_scenes_prompts_are_nested_and_fixed():
    assert scenes_prompts(20)[:7] == scenes_prompts(7)
    assert digest(scenes_prompts(7)) == digest(scenes_prompts(7))
    assert digest(scenes_prompts(7)) != digest(scenes_prompts(8))
    assert digest(scenes_prompts(7)) != digest(scenes_prompts(7, seed=1))


KNOWN = [Prompt("1", "a star", "5"), Prompt("2", "two rings", "6")]


def test_the_digest_is_of_ids_pictures_and_captions():
    lines = b"1\t5\ta star\n2\t6\ttwo rings\n"  # the form that records have had from the first
    assert digest(KNOWN) == hashlib.sha256(lines).hexdigest()
    for field in ("id", "caption", "image_id"):
        assert digest([replace(KNOWN[0], **{field: "other"}), KNOWN[1]]) != digest(KNOWN)
    assert digest(KNOWN[::-1]) != digest(KNOWN) != digest(KNOWN[:1])


fields = st.text('ab\t\n\\"[', max_size=4)
lists = st.lists(st.builds(Prompt, fields, fields, fields), max_size=3)


@given(lists, lists)
@example([Prompt("a\tb", "c", "d")], [Prompt("a", "c", "b\td")])
@example([Prompt("a", "b\nc\td\te", "f")], [Prompt("a", "b", "f"), Prompt("c", "e", "d")])
def test_no_two_lists_have_one_digest(one, other):
    assert (digest(one) == digest(other)) == (one == other)


@pytest.mark.parametrize("n", [0, -3])
def test_no_prompts(n):
    with pytest.raises(UserError, match=f"n must be at least 1, got {n}"):
        scenes_prompts(n)


def test_more_than_there_are():
    with pytest.raises(UserError, match="n must be at most 5000"):
        scenes_prompts(5001, split="val")


def test_unknown_split():
    with pytest.raises(UserError, match="split must be one of val, test"):
        scenes_prompts(3, split="train")
