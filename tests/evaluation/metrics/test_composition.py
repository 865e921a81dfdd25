"""The reader of pictures and the judge of captions: measured on the truth, and case by case."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.protocols.prompts import scenes_prompts
from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.composition import (
    ALL,
    EXTRAS,
    TASKS,
    asks_for_unseen,
    composition,
    judge,
    objects_right,
    scores,
    shares,
    stands,
    unseen_names,
)
from cm3leon.world.language import OPPOSITE, Meaning, Said
from cm3leon.world.reader import MOST, Found, Reading, read_picture
from cm3leon.world.scenes import SEEN_ENTITIES, entities, scene
from cm3leon.world.sprites import PLACES, place_picture

CELL = st.tuples(st.integers(0, 7), st.integers(0, 7))


def share_right(scenes, images=None) -> float:
    """Objects read right in every attribute, of all."""
    pictures = images if images is not None else [one.image for one in scenes]
    pairs = [
        objects_right(read_picture(image), one.objects)
        for one, image in zip(scenes, pictures, strict=True)
    ]
    right, total = np.sum(pairs, axis=0)
    return right / total


@pytest.mark.parametrize(
    ("dialect", "split", "count", "size"),
    [
        ("stock", "test", 60, 64),
        ("coco", "test", 60, 64),
        ("coco", "tail", 40, 64),
        ("coco", "val", 5, 128),
        ("stock", "val", 10, 32),
    ],
)
def test_real_pictures_are_read_back(dialect, split, count, size):
    scenes = [scene(dialect, split, index, size) for index in range(count)]
    assert share_right(scenes) >= 0.99
    assert all(read_picture(one.image).place == one.place for one in scenes[:10])


def test_reconstructions_are_read_back():
    from cm3leon.files import baselines_folder
    from cm3leon.loading import load_tokenizers
    from cm3leon.training.image_tokenizer import reconstruct

    home = baselines_folder() / "scenes"
    if not (home / "vq" / "config.json").exists() or not (home / "text").exists():
        pytest.skip("the shipped tokenizers are not trained yet")
    scenes = [scene("coco", "test", index) for index in range(60)]
    images = reconstruct(load_tokenizers(home)[1], np.stack([one.image for one in scenes]))
    assert share_right(scenes, images) >= 0.95


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("place", PLACES)
def test_an_empty_place_shows_nothing(place, size):
    assert read_picture(place_picture(place, size)) == Reading(place, ())


def test_pictures_that_show_nothing_of_the_world():
    generator = seeds.generator(0, "noise")
    noise = [generator.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3)]
    plain = [np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)]
    for image in noise + plain:
        assert len(read_picture(image).objects) <= 2


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 32, 3), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((64, 64, 3)),
        np.zeros((60, 60, 3), np.uint8),
        np.zeros((24, 24, 3), np.uint8),
        np.zeros((264, 264, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{list(image.shape)}",
)
def test_a_strange_picture_is_one_line(image):
    with pytest.raises(UserError) as error:
        read_picture(image)
    shown = (str(list(image.shape)), f"got {len(image)}")
    assert any(text in str(error.value) for text in shown) and "\n" not in str(error.value)


def found(shape, colour="red", cell=(3, 3), **more) -> Found:
    values = {"size": "small", "pattern": "plain", "entity": None} | more
    return Found(shape, colour, values["size"], values["pattern"], values["entity"], cell, 1.0)


def reading(*objects, place="sand") -> Reading:
    return Reading(place, objects)


STAR, HEART = found("star", cell=(1, 3)), found("heart", "blue", (6, 3))
TUB = found("cross", "pink", pattern=None, entity="bagozu")
CASES = {  # task -> meaning, readings of which it is true, readings of which it is not
    "single": (
        Meaning((Said("star", "green"),)),
        [reading(STAR), reading(HEART, STAR)],
        [reading(HEART), reading(), reading(replace(TUB, shape="star"))],
    ),
    "two": (
        Meaning((Said("star"), Said("heart", "pink"))),
        [reading(STAR, HEART), reading(HEART, TUB, STAR)],
        [reading(STAR), reading(STAR, STAR), reading(HEART)],
    ),
    "counting": (
        Meaning((Said("star", "blue", count=2),)),
        [reading(STAR, found("star", "blue")), reading(STAR, HEART, STAR)],
        [reading(STAR), reading(STAR, STAR, STAR), reading(HEART, HEART)],
    ),
    "colors": (
        Meaning((Said("star", "red", size="large"),)),
        [reading(STAR), reading(found("star", "blue"), STAR)],
        [reading(found("star", "blue")), reading(found("heart", "red")), reading()],
    ),
    "position": (
        Meaning((Said("star", "red"), Said("heart", "blue")), (0, "left of", 1)),
        [reading(STAR, HEART), reading(found("star", cell=(7, 7)), STAR, HEART)],
        [
            reading(replace(STAR, colour="blue"), replace(HEART, colour="red")),  # swapped
            reading(replace(STAR, colour="pink"), HEART),
            reading(replace(STAR, cell=(7, 3)), HEART),
            reading(replace(STAR, cell=(5, 7)), HEART),
            reading(STAR),
            reading(HEART),
        ],
    ),
    "attribution": (
        Meaning((Said("star", "red"), Said("heart", "blue"))),
        [reading(STAR, HEART), reading(HEART, found("heart", "red"), STAR)],
        [reading(found("star", "blue"), found("heart", "red")), reading(STAR)],
    ),
    "entity": (
        Meaning((Said(None, entity="bagozu"), Said("heart"))),
        [reading(HEART, replace(STAR, entity="bagozu")), reading(replace(STAR, entity="bagozu"))],
        [reading(HEART, STAR), reading(replace(STAR, entity="unnamed")), reading()],
    ),
    "size": (
        Meaning((Said("star", size="small"),)),
        [reading(STAR)],
        [reading(replace(STAR, size="large")), reading(HEART)],
    ),
    "pattern": (
        Meaning((Said("star", pattern="striped"),)),
        [reading(replace(STAR, pattern="striped"))],
        [reading(STAR), reading(replace(HEART, pattern="striped"))],
    ),
    "place": (
        Meaning((Said("star"),), place="snow"),
        [reading(place="snow")],
        [reading(STAR, place="sand")],
    ),
    "all": (
        Meaning((Said("star", "red"), Said("heart")), (0, "left of", 1), "sand"),
        [reading(STAR, HEART)],
        [
            reading(STAR, HEART, place="snow"),
            reading(replace(STAR, colour="pink"), HEART),
            reading(HEART, replace(STAR, cell=(7, 3))),
            reading(STAR),
        ],
    ),
}


@pytest.mark.parametrize("task", TASKS + EXTRAS)
def test_the_judge_on_hand_made_readings(task):
    meaning, true, false = CASES[task]
    assert [judge(shown, meaning)[task] for shown in true] == [True] * len(true)
    assert [judge(shown, meaning)[task] for shown in false] == [False] * len(false)


def test_one_claim_of_several_is_not_all():
    meaning = Meaning((Said("star", "red"), Said("heart")))
    assert judge(reading(STAR, HEART), meaning)["all"]
    for shown in (reading(replace(STAR, colour="pink"), HEART), reading(STAR, found("disc"))):
        assert not judge(shown, meaning)["all"]


def test_a_caption_takes_part_in_what_it_claims():
    def asked(*said, **more):
        return set(judge(reading(), Meaning(said, **more)))

    star, heart = Said("star"), Said("heart")
    red = Said("star", "red")
    assert asked(star) == {"single", "all"}
    assert asked(red) == {"single", "colors", "all"}
    assert asked(star, heart) == {"two", "all"}
    assert asked(red, heart) == {"two", "all"}  # not every object has a colour
    assert asked(red, Said("heart", "blue")) == {"two", "attribution", "all"}
    assert asked(red, Said(None, entity="bagozu")) == {"two", "attribution", "entity", "all"}
    assert asked(Said("star", "red", count=3)) == {"counting", "all"}
    assert asked(red, relation=None, place="snow") == {"single", "colors", "place", "all"}
    assert asked(star, heart, relation=(1, "above", 0)) == {"two", "position", "all"}
    assert asked(Said("star", size="large", pattern="dotted")) >= {"size", "pattern"}


def test_an_entity_is_known_by_its_name_and_is_no_shape():
    named = Meaning((Said(None, entity="bagozu"),))
    assert judge(reading(TUB), named)["single"]
    assert not judge(reading(replace(TUB, entity="unnamed")), named)["single"]
    assert not judge(reading(TUB), Meaning((Said("cross"),)))["single"]


def test_the_truth_of_a_scene_fulfils_its_captions():
    for index in range(40):
        one = scene("coco", ("test", "tail")[index % 2], index)
        objects = tuple(
            Found(t.shape, t.colour, t.size, t.pattern, t.entity, t.cell, 1.0) for t in one.objects
        )
        for meaning in one.meanings:
            assert all(judge(Reading(one.place, objects), meaning).values())


def test_overall_is_the_mean_of_the_six():
    right = {task: True for task in TASKS}
    wrong = {"single": False, "colors": False, "place": False}
    found = scores([right, wrong, {"single": False}])
    assert found["single"] == (pytest.approx(1 / 3), 3) and found["colors"] == (0.5, 2)
    assert found["place"] == (0.0, 1) and "size" not in found
    assert found["overall"] == (pytest.approx((1 / 3 + 0.5 + 4) / 6), 3)
    assert scores([{"counting": True}, {"place": False}])["overall"] == (1.0, 2)
    assert scores([]) == {} and "overall" not in scores([{"place": True}])


def thing(found: Found) -> SimpleNamespace:
    """A true object that looks like this one."""
    names = ("shape", "colour", "size", "pattern", "entity", "cell")
    return SimpleNamespace(**{name: getattr(found, name) for name in names})


def test_objects_right_counts_every_fault():
    assert objects_right(reading(STAR, HEART), [thing(HEART), thing(STAR)]) == (2, 2)
    assert objects_right(reading(STAR), [thing(STAR), thing(HEART)]) == (1, 2)  # one is missing
    assert objects_right(reading(STAR, HEART, TUB), [thing(STAR)]) == (1, 3)  # two too many
    assert objects_right(reading(STAR), [thing(STAR), thing(STAR)]) == (1, 2)  # one answers for one
    assert objects_right(reading(), []) == (0, 0)
    changes = {"shape": "cross", "colour": "pink", "size": "large", "pattern": "dotted"}
    changes |= {"entity": "bagozu", "cell": (1, 4)}
    for name, value in changes.items():
        assert objects_right(reading(replace(STAR, **{name: value})), [thing(STAR)]) == (0, 1)


@given(CELL, CELL)
def test_relations_mirror_and_exclude_each_other(first, second):
    one, two = found("star", cell=first), found("heart", cell=second)
    for word, opposite in OPPOSITE.items():
        assert stands(one, word, two) == stands(two, opposite, one)
        assert not (stands(one, word, two) and stands(one, opposite, two))
        assert not (stands(one, word, two) and stands(two, word, one))
    assert any(stands(one, word, two) for word in OPPOSITE) == (first != second)


@settings(max_examples=40)
@given(st.integers(0, 4999))
def test_a_relation_that_is_told_stands(index):
    one = scene("coco", "val", index)
    for meaning in one.meanings:
        if meaning.relation:
            i, word, j = meaning.relation
            by_noun = {t.entity or t.shape: found(t.shape, cell=t.cell) for t in one.objects}
            nouns = [said.entity or said.shape for said in meaning.objects]
            assert stands(by_noun[nouns[i]], word, by_noun[nouns[j]])


def test_a_reading_is_bounded():
    crowded = np.tile(scene("stock", "train", 3, 32).image, (4, 4, 1))
    assert len(read_picture(crowded).objects) <= MOST


def test_overall_is_of_genevals_six_alone():
    asked = np.full((10, len(ALL)), 1)
    right = np.zeros_like(asked)
    right[:5, : len(TASKS)] = 1  # half of each of the six
    found = shares(right, asked)
    assert len(found) == len(TASKS) + len(EXTRAS) + 1 and found[-1] == 0.5
    right[:, len(TASKS) :] = 1  # entities, sizes, patterns, places: all right, and left out
    assert shares(right, asked)[-1] == 0.5
    asked[:, 0] = 0  # a task that nobody asked
    found = shares(right, asked)
    assert np.isnan(found[0]) and found[-1] == 0.5


def test_shares_and_intervals_by_name():
    rng = np.random.default_rng(0)
    asked = rng.integers(0, 2, (40, len(ALL)))
    asked[:, ALL.index("entity")] = 0
    right = asked * rng.integers(0, 2, asked.shape)
    found = composition(right, asked, [str(k // 2) for k in range(40)], 50)
    assert "entity" not in found and set(found) == {*ALL, "overall"} - {"entity"}
    for name, (value, low, high) in found.items():
        assert 0 <= low <= value <= high <= 1
        if name != "overall":
            place = ALL.index(name)
            assert value == pytest.approx(right[:, place].sum() / asked[:, place].sum())
    assert found["overall"][0] == pytest.approx(np.mean([found[name][0] for name in TASKS]))


def test_unseen_entities_are_those_that_train_never_shows():
    names = [one.name for one in entities()]
    assert (
        len(names) == 4000 and unseen_names() == frozenset(names[3800:]) and SEEN_ENTITIES == 3800
    )
    shown = {thing.entity for k in range(400) for thing in scene("stock", "train", k).objects}
    assert not shown & unseen_names()
    asked = [asks_for_unseen(one.meaning) for one in scenes_prompts(40, "tail")]
    assert not any(asked[::2]) and sum(asked[1::2]) > 10  # even indices: entities of `train`
