"""Exported scenes, read as the layouts' own readers read them, are the scenes again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cm3leon.errors import UserError
from cm3leon.images import read_picture as read_file
from cm3leon.world.coco_export import KINDS, export
from cm3leon.world.conditions import CONDITIONS
from cm3leon.world.edits import changes, edit, words
from cm3leon.world.questions import questions
from cm3leon.world.reader import read_picture
from cm3leon.world.scenes import scene
from cm3leon.world.sheet import GAP, SIDE, TEXT, contact_sheet
from cm3leon.world.signs import sign_scene

COUNT = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    export(root, ("panoptic",), "coco", "tail", 3)
    return export(root, tuple(KINDS), "coco", "val", COUNT)


def content(path: Path):
    return json.loads(path.read_text())


def test_every_kind_is_there_with_pictures_once(folder):
    for kind in ("captions", "instances", "panoptic"):
        about = content(folder / "annotations" / f"{kind}_val.json")
        assert [image["file_name"] for image in about["images"]] == [
            path.name for path in sorted((folder / "val").iterdir())
        ]
    for index in range(COUNT):
        picture = read_file(folder / "val" / f"{index:012d}.png")
        assert (picture == scene("coco", "val", index).image).all()


def test_pycocotools_reads_instances_and_captions(folder):
    tools = pytest.importorskip("pycocotools.coco")
    found = tools.COCO(str(folder / "annotations" / "instances_val.json"))
    signs = tools.COCO(str(folder / "annotations" / "captions_signs-val.json"))
    for index in range(COUNT):
        things = scene("coco", "val", index).objects
        annotations = found.loadAnns(found.getAnnIds(imgIds=[index]))
        assert len(annotations) == len(things)
        for annotation, thing in zip(annotations, things, strict=True):
            assert (found.annToMask(annotation).astype(bool) == thing.mask).all()
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == thing.box
            (category,) = found.loadCats(annotation["category_id"])
            assert category["name"] == ("entity" if thing.entity else thing.shape)
        texts = [a["caption"] for a in signs.loadAnns(signs.getAnnIds(imgIds=[index]))]
        assert tuple(texts) == sign_scene("coco", "val", index).captions


@pytest.mark.parametrize("split", ["val", "tail"])
def test_panoptic_maps_hold_every_pixel_once(folder, split):
    """By the format's own rule, id = R + 256 G + 65536 B."""
    about = content(folder / "annotations" / f"panoptic_{split}.json")
    names = {category["id"]: category for category in about["categories"]}
    assert {c["isthing"] for c in names.values()} == {0, 1}
    for annotation in about["annotations"]:
        one = scene("coco", split, annotation["image_id"])
        path = folder / "annotations" / f"panoptic_{split}" / annotation["file_name"]
        ids = np.asarray(Image.open(path)).astype(int) @ [1, 256, 65536]
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) == set(segments) and len(segments) == len(one.objects) + 1
        assert sum(segment["area"] for segment in segments.values()) == ids.size
        ground, *things = annotation["segments_info"]
        assert names[ground["category_id"]]["name"] == one.place
        for segment, thing in zip(things, one.objects, strict=True):
            assert ((ids == segment["id"]) == thing.mask).all()
            assert segment["area"] == thing.mask.sum() and segment["iscrowd"] == 0
            x, y, width, height = segment["bbox"]
            assert (x, y, x + width, y + height) == thing.box
            assert names[segment["category_id"]]["name"] in (thing.shape, "entity")


def test_vqa_has_the_official_fields_and_our_answers(folder):
    asked = content(folder / "v2_OpenEnded_mscoco_val_questions.json")
    answered = content(folder / "v2_mscoco_val_annotations.json")
    head = {"info", "data_type", "data_subtype", "license"}
    assert set(asked) == head | {"task_type", "questions"}
    assert set(answered) == head | {"annotations"}
    wanted = [(k, q) for k in range(COUNT) for q in questions(scene("coco", "val", k))]
    pairs = zip(asked["questions"], answered["annotations"], wanted, strict=True)
    for question, annotation, (index, truth) in pairs:
        assert set(question) == {"image_id", "question_id", "question"}
        fields = {"image_id", "question_id", "question_type", "answer_type", "answers"}
        assert set(annotation) - {"explanation"} == fields | {"multiple_choice_answer"}
        assert question["question_id"] == annotation["question_id"]
        assert question["image_id"] == annotation["image_id"] == index
        assert question["question"] == truth.text
        answer = annotation["multiple_choice_answer"]
        assert answer == {"zero": "0", "one": "1", "two": "2", "three": "3"}.get(
            truth.answer, truth.answer
        )
        assert [set(a) for a in annotation["answers"]] == [
            {"answer", "answer_confidence", "answer_id"}
        ] * 10
        assert {a["answer"] for a in annotation["answers"]} == {answer}
        assert annotation.get("explanation") == truth.explanation
        assert annotation["question_type"] == truth.kind
        assert annotation["answer_type"] == truth.answer_type
    assert len({q["question_id"] for q in asked["questions"]}) == len(wanted)
    assert {a["answer_type"] for a in answered["annotations"]} == {"yes/no", "number", "other"}


def test_instruct_pix2pix_finds_its_pairs(folder):
    """As its loader goes: seeds.json, the prompt's folder, one of its seeds, two pictures."""
    root = folder / "edits"
    seeds = content(root / "seeds.json")
    assert len(seeds) == COUNT
    for index, (name, own) in enumerate(seeds):
        prompt = content(root / name / "prompt.json")
        one = scene("coco", "val", index)
        (change,) = changes(one, 1)
        assert prompt["edit"] in words(change) and prompt["input"] != prompt["output"]
        assert prompt["input"] in one.captions or "location" in prompt["input"]
        for k, side in enumerate((one, edit(one, change))):
            loaded = Image.open(root / name / f"{own[0]}_{k}.jpg")
            assert loaded.format == "JPEG"
            difference = np.asarray(loaded).astype(int) - side.image
            assert abs(difference).max() <= 8 and abs(difference).mean() < 1
            assert (read_file(root / name / f"{own[0]}_{k}.png") == side.image).all()
            assert read_picture(np.asarray(loaded)).place == side.place


def test_signs_carry_text_and_box(folder):
    about = content(folder / "annotations" / "cocotext_signs-val.json")
    assert set(about) == {"info", "cats", "imgs", "anns", "imgToAnns"}
    for index in range(COUNT):
        (identity,) = about["imgToAnns"][str(index)]
        annotation = about["anns"][str(identity)]
        picture = read_file(folder / "signs-val" / about["imgs"][str(index)]["file_name"])
        sign = read_picture(picture).sign
        assert annotation["utf8_string"] == sign.text
        x, y, width, height = annotation["bbox"]
        assert (x / 8, y / 8) == sign.corner and (width / 8, height / 8) == (sign.width, 3)
        assert annotation["area"] == width * height and annotation["legibility"] == "legible"


def test_conditions_lie_under_the_names_of_their_pictures(folder):
    for name, draw in CONDITIONS.items():
        for path in sorted((folder / "val").iterdir()):
            drawn = read_file(folder / "conditions" / name / "val" / path.name)
            assert (drawn == draw(scene("coco", "val", int(path.stem)))).all()


def test_a_contact_sheet_shows_the_pictures(tmp_path):
    sheet = contact_sheet("coco", "val", 2)
    assert sheet.dtype == np.uint8 and sheet.shape[0] == 6 * (SIDE + TEXT + GAP)
    first = sheet[GAP : GAP + SIDE : SIDE // 64, GAP : GAP + SIDE : SIDE // 64]
    assert (first == scene("coco", "val", 0).image).all()
    words_below = sheet[GAP + SIDE : GAP + SIDE + TEXT, GAP : GAP + SIDE]
    assert (words_below < 128).any() and (words_below == 255).mean() > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("postcards",), "coco", "val", 2), "no layout 'postcards'; there are captions, inst"),
        ((("captions", "signs"), "coco", "tail", 2), "no split 'tail' of signs"),
        ((("captions", "signs"), "coco", "val", 2, 32), "letters need a picture of 64"),
        ((("captions", "conditions"), "coco", "val", 2, 40), "size must be a multiple of 32"),
        ((("vqa",), "coco", "val", 5001), "indices 0..4999, got 5000"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        export(tmp_path / "out", *arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
