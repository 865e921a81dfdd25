"""Readers of public layouts, on files made on the spot and on MS-COCO's where it is at hand."""

import json
from itertools import pairwise
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cm3leon.data.examples import Example
from cm3leon.data.layouts import conditions, parquet
from cm3leon.data.layouts.boxes import MOST, boxes_as_text, coco_boxes, crop_box
from cm3leon.data.layouts.find import find_examples
from cm3leon.data.sources import Skipped
from cm3leon.errors import UserError
from cm3leon.images import crop_square, read_picture
from cm3leon.world.coco_export import DIGITS, export
from cm3leon.world.conditions import CONDITIONS
from cm3leon.world.coordinates import read_locations
from cm3leon.world.edits import changes, edit, words
from cm3leon.world.questions import questions
from cm3leon.world.scenes import scene

COUNT, SIZE = 3, 64
MINI = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco-mini"
mini = pytest.mark.skipif(not MINI.is_dir(), reason="no copy of coco-mini")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three scenes of `coco`, `test` in all layouts."""
    kinds = ("captions", "instances", "panoptic", "vqa", "edits", "conditions")
    return export(tmp_path_factory.mktemp("world"), kinds, "coco", "test", COUNT, SIZE)


def loaded(source) -> tuple[list[Example], list[Skipped]]:
    found = []
    for shard in range(source.shards):
        for part in source.parts(shard):
            digest, item = part.load()
            assert digest == part.digest()
            found.append(item)
    assert source.stamp(0) is not None
    skipped = [one for one in found if isinstance(one, Skipped)]
    return [one for one in found if not isinstance(one, Skipped)], skipped


def truth(index: int):
    return scene("coco", "test", index, SIZE)


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def picture(path: Path, value: int = 90, size=(8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path


def test_captions_are_those_of_pretraining(world):
    from cm3leon.tasks import TASKS
    from cm3leon.tasks.source import Asked

    source = Asked(find_examples(f"{world}:test", "caption", SIZE), TASKS["caption"])
    records = [record for part in source.parts(0) for record in part.load()[1].records]
    texts = ["".join(one.text for one in record.segments[:-1]) for record in records]
    said = [caption for k in range(COUNT) for caption in truth(k).captions]
    assert [text.removeprefix("Describe the given picture. ") for text in texts] == said


def test_vqav2(world):
    examples, skipped = loaded(find_examples(f"{world}:test", "answer", SIZE))
    assert not skipped and len(examples) == COUNT
    for k, example in enumerate(examples):
        asked = {(q.text, DIGITS.get(q.answer, q.answer)) for q in questions(truth(k))}
        assert {(one["question"], one["answer"]) for one in example.texts} == asked
        assert np.array_equal(example.pictures["image"], truth(k).image)


def test_okvqa_and_what_lacks_a_text_or_an_answer(tmp_path):
    asked = [
        {"image_id": 7, "question_id": n, "question": text}
        for n, text in enumerate(["what  is\nit?", " ", "who?", "why?"])
    ]
    write(tmp_path / "OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    answers = [
        {"question_id": n, "image_id": 7, "answers": [{"answer": word} for word in words]}
        for n, words in enumerate([["a dog", "dog", "dog", "a dog"], ["x"], []])
    ]
    write(tmp_path / "mscoco_val2014_annotations.json", {"annotations": answers})
    picture(tmp_path / "val2014" / "COCO_val2014_000000000007.jpg")
    source = find_examples(str(tmp_path), "answer", SIZE)
    examples, skipped = loaded(source)
    assert examples[0].texts == ({"question": "what is it?", "answer": "a dog"},)  # first of equals
    assert [tuple(one) for one in skipped] == [
        ("question 1", "has no text"), ("question 2", "has no answer"),
        ("question 3", "has no answer"),
    ]  # fmt: skip
    write(tmp_path / "mscoco_val2014_annotations.json", {"annotations": [
        {"question_id": 99, "answers": []}]})  # fmt: skip
    with pytest.raises(UserError, match="answers question 99, which OpenEnded"):
        find_examples(str(tmp_path), "answer", SIZE)
    (tmp_path / "mscoco_val2014_annotations.json").unlink()
    with pytest.raises(UserError, match=r"has no \*mscoco_val2014_annotations.json: no answers to"):
        find_examples(str(tmp_path), "answer", SIZE)
    with pytest.raises(UserError, match="no split 'train2014'; name one of val2014"):
        find_examples(f"{tmp_path}:train2014", "answer", SIZE)


def test_vizwiz(tmp_path):
    people = [{"answer": "unanswerable"}] * 3 + [{"answer": "soup"}]
    write(tmp_path / "Annotations" / "val.json", [
        {"image": "VizWiz_val_1.jpg", "question": "What is this?", "answers": people},
        {"image": "VizWiz_val_2.jpg", "question": "", "answers": people},
    ])  # fmt: skip
    picture(tmp_path / "val" / "VizWiz_val_1.jpg")
    examples, skipped = loaded(find_examples(f"{tmp_path}:val", "answer", SIZE))
    assert examples[0].texts == ({"question": "What is this?", "answer": "unanswerable"},)
    assert skipped == [("VizWiz_val_2.jpg", "has no text")]
    write(tmp_path / "Annotations" / "val.json", [{"image": "../x.jpg", "question": "a"}])
    with pytest.raises(UserError, match="lies outside its folder"):
        find_examples(f"{tmp_path}:val", "answer", SIZE)


def test_scienceqa(tmp_path):
    problem = {
        "question": "Which word?", "choices": ["shiny", "salty"], "answer": 1, "hint": "",
        "image": "image.png", "solution": "Salt tastes salty.", "split": "train",
    }  # fmt: skip
    problems = {"1": problem, "2": problem | {"image": None}, "3": problem | {"answer": 2}}
    write(tmp_path / "problems.json", problems)
    write(tmp_path / "pid_splits.json", {"train": ["1", "2"], "val": ["3"]})
    picture(tmp_path / "images" / "train" / "1" / "image.png")
    examples, skipped = loaded(find_examples(f"{tmp_path}:train", "answer-explained", SIZE))
    assert examples[0].texts == (
        {
            "question": "Which word?", "context": "N/A", "options": "(A) shiny (B) salty",
            "explanation": "Salt tastes salty.", "answer": "(B)",
        },
    )  # fmt: skip
    assert skipped == [("scienceqa-2", "has no picture")]
    with pytest.raises(UserError, match="answer 2 of scienceqa-3 is not among its 2 choices"):
        find_examples(f"{tmp_path}:val", "answer-choice", SIZE)
    with pytest.raises(UserError, match="several splits; name one of train, val"):
        find_examples(str(tmp_path), "answer-choice", SIZE)


def test_instruct_pix2pix_folders(world):
    examples, skipped = loaded(find_examples(str(world), "edit", SIZE))
    assert not skipped and len(examples) == COUNT
    for k, example in enumerate(examples):
        one = truth(k)
        (change,) = changes(one, 1)
        assert example.texts[0]["instruction"] in words(change)
        for name, exact in (("image1", one.image), ("image2", edit(one, change).image)):
            lost = np.abs(example.pictures[name].astype(int) - exact).mean()
            assert lost < 3  # JPEG of quality 100


def test_a_pair_that_cannot_be_read_is_skipped_by_name(tmp_path):
    write(tmp_path / "seeds.json", [["0000001", [5, 6]]])
    write(tmp_path / "0000001" / "prompt.json", {"edit": "make it red"})
    for name in ("5_0", "5_1", "6_0"):
        picture(tmp_path / "0000001" / f"{name}.jpg")
    examples, skipped = loaded(find_examples(str(tmp_path), "edit", SIZE))
    assert examples[0].names == ("0000001/5",) and skipped[0].id == "0000001/6"
    assert "6_1.jpg: No such file" in skipped[0].reason
    write(tmp_path / "seeds.json", [["../x", [5]]])
    with pytest.raises(UserError, match="outside its folder"):
        find_examples(str(tmp_path), "edit", SIZE)


def test_magicbrush(tmp_path):
    turn = {"input": "7-input.png", "mask": "7-mask1.png", "output": "7-output1.png"}
    write(tmp_path / "edit_turns.json", [
        turn | {"instruction": "add a cat"}, turn | {"instruction": " "},
    ])  # fmt: skip
    picture(tmp_path / "images" / "7" / "7-input.png", 10)
    picture(tmp_path / "images" / "7" / "7-output1.png", 20)
    examples, skipped = loaded(find_examples(str(tmp_path), "edit", SIZE))
    assert examples[0].texts == ({"instruction": "add a cat"},)
    assert [examples[0].pictures[f"image{k}"][0, 0, 0] for k in (1, 2)] == [10, 20]
    assert skipped == [("magicbrush-7-output1-1", "has no instruction")]


def test_parquet_of_both_layouts(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    shown = [{"bytes": picture(tmp_path / f"{k}.png", k).read_bytes(), "path": None}
             for k in (1, 2)]  # fmt: skip
    for name, columns in (("a", parquet.COLUMNS[0]), ("b", parquet.COLUMNS[2])):
        rows = dict(zip(columns, ([shown[0]] * 3, ["one", "two", ""], [shown[1]] * 3), strict=True))
        write_table(arrow.table(rows), tmp_path / f"{name}.parquet", row_group_size=2)
    examples, _ = loaded(find_examples(str(tmp_path), "edit", SIZE))
    assert [one.names for one in examples][:3] == [
        (f"a.parquet:{k}",) for k in ("0:0", "0:1", "1:0")
    ]
    assert [one.texts[0]["instruction"] for one in examples] == ["one", "two", ""] * 2
    assert examples[0].pictures["image2"][0, 0, 0] == 2
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a.parquet is damaged, or no parquet file"):
        find_examples(str(tmp_path), "edit", SIZE)
    write_table(arrow.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has the columns x; read are original_image"):
        find_examples(str(tmp_path), "edit", SIZE)


def test_what_is_not_installed_is_named(world, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a.parquet needs pyarrow, .*: pip install pyarrow"):
        find_examples(str(tmp_path), "edit", SIZE)
    monkeypatch.setattr(conditions.importlib.util, "find_spec", lambda name: None)
    write(tmp_path / "captions_x.json", {"images": [{"id": 1, "file_name": "a.png"}],
          "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]})  # fmt: skip
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(
        UserError, match="OpenCV, which is not installed: pip install opencv-python"
    ):
        find_examples(f"{tmp_path}:x", "edges", SIZE)


def test_edges_by_opencv(tmp_path):
    pytest.importorskip("cv2")
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, 16:] = 255
    found = conditions.canny(half)
    assert found.shape == half.shape and set(np.unique(found)) == {0, 255}
    assert found[8:24, 14:18].any() and not found[:, :12].any()


@pytest.mark.parametrize("kind", CONDITIONS)
def test_conditions_lie_under_their_pictures_names(world, kind):
    examples, skipped = loaded(find_examples(f"{world}:test", kind, SIZE))
    assert not skipped
    for k, example in enumerate(examples):
        assert np.array_equal(example.pictures["condition"], CONDITIONS[kind](truth(k)))
        assert [fields["caption"] for fields in example.texts] == list(truth(k).captions)


def test_a_folder_of_pairs_and_what_has_no_condition(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / "in" / f"{name}.jpg")
        (tmp_path / "in" / f"{name}.txt").write_text(f"picture {name}\n")
    picture(tmp_path / "maps" / "a.png", 7)
    (tmp_path / "maps" / "b.webp").write_bytes(b"torn")
    source = find_examples(str(tmp_path / "in"), "pose", SIZE, conditions=tmp_path / "maps")
    examples, skipped = loaded(source)
    assert examples[0].names == ("a.jpg",) and examples[0].pictures["condition"][0, 0, 0] == 7
    assert skipped[0].id == "b.jpg" and "no picture Pillow can read" in skipped[0].reason
    assert skipped[1] == ("c.jpg", f"has no condition in {tmp_path / 'maps'}")
    with pytest.raises(UserError, match="has no conditions/pose; name the folder of its maps"):
        find_examples(str(tmp_path / "in"), "pose", SIZE)
    with pytest.raises(UserError, match=r"no folder .*nowhere; name one of pose maps"):
        find_examples(str(tmp_path / "in"), "pose", SIZE, conditions=tmp_path / "nowhere")


def test_karpathys_splits(tmp_path):
    def entry(k, split):
        said = [{"raw": f"picture  {k}."}, {"raw": ""}] if k != 3 else []
        return {"filepath": "val2014", "filename": f"{k}.jpg", "cocoid": k, "split": split,
                "sentences": said}  # fmt: skip

    images = [entry(1, "train"), entry(2, "restval"), entry(3, "restval"), entry(4, "test")]
    path = write(tmp_path / "dataset_coco.json", {"images": images})
    for k in (1, 2, 4):
        picture(tmp_path / "pictures" / "val2014" / f"{k}.jpg", 10 * k)
    source = find_examples(f"{path}:train+restval", "caption", SIZE, pictures=tmp_path / "pictures")
    examples, skipped = loaded(source)
    assert [one.texts for one in examples] == [({"caption": f"picture {k}."},) for k in (1, 2)]
    assert skipped == [("karpathy-3", "has no caption")]
    with pytest.raises(UserError, match="several splits; name one of restval, test, train"):
        find_examples(str(path), "caption", SIZE)


@pytest.mark.parametrize("annotations", ["instances", "panoptic"])
def test_boxes_of_the_worlds_export(world, annotations):
    source = find_examples(f"{world}:test", "grounded", SIZE, annotations=annotations)
    examples, skipped = loaded(source)
    assert not skipped
    for k, example in enumerate(examples):
        boxes = read_locations(example.texts[0]["objects"], SIZE)
        assert sorted(boxes) == sorted(thing.box for thing in truth(k).objects)
        names = example.texts[0]["objects"].split(" at location")
        assert {name.split(", ")[-1] for name in names[:-1]} == {
            "entity" if thing.entity else thing.shape for thing in truth(k).objects
        }


@mini
@pytest.mark.parametrize("annotations", ["instances", "person_keypoints"])
def test_boxes_of_real_pictures(annotations):
    source = coco_boxes(MINI, "val2017", annotations)
    people = annotations == "person_keypoints"
    assert len(source.all) == (79 if not people else len(source.all)) > 20
    part = source.all[0]
    image = crop_square(read_picture(part.pictures["image"]), 256)
    boxes = read_locations(part.texts[0]["objects"], 256)
    assert 1 <= len(boxes) <= MOST and image.shape == (256, 256, 3)
    areas = [(c - a) * (d - b) for a, b, c, d in boxes]
    assert all(one >= 0.9 * other for one, other in pairwise(areas))
    if people:
        assert {text.split(" at ")[0] for text in part.texts[0]["objects"].split("), ")[:1]} == {
            "person"
        }
        assert all(one.reason == "has no box" for one in source.lost)


corner = st.integers(0, 40)


@given(st.integers(1, 40), st.integers(1, 40), corner, corner, corner, corner)
@hypothesis.example(30, 10, 5, 0, 14, 10)  # a little less than half of it is left
@hypothesis.example(30, 10, 5, 0, 15, 10)  # half of it
def test_a_cropped_box_is_what_is_left_of_its_pixels(width, height, x0, y0, x1, y1):
    if not (x0 < x1 <= width and y0 < y1 <= height):
        with pytest.raises(UserError, match="a box must have 0 <= x0 < x1 <= "):
            crop_box((x0, y0, x1 + 50, y1), width, height)
        return
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    kept = mask[top : top + side, left : left + side]
    found = crop_box((x0, y0, x1, y1), width, height)
    if kept.sum() < mask.sum() / 2:
        assert found is None
        return
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    assert found == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_bad_boxes_are_skipped_and_bad_files_refused(tmp_path):
    images = [{"id": k, "file_name": f"{k}.png", "width": 20, "height": 10} for k in (1, 2)]
    said = [{"id": k, "image_id": k, "caption": "a"} for k in (1, 2)]
    write(tmp_path / "captions_x.json", {"images": images, "annotations": said})
    boxes = [[6, 1, 4, 4], [6, 1, 0, 4], [15, 1, 9, 4], [0, 0, 4, 4]]
    found = [{"id": k, "image_id": 1, "category_id": 3, "bbox": box} for k, box in enumerate(boxes)]
    content = {"images": images, "categories": [{"id": 3, "name": "cat"}], "annotations": found}
    write(tmp_path / "instances_x.json", content)
    source = coco_boxes(tmp_path, "x")
    assert source.all[0].texts[0]["objects"] == "cat at location (26, 26) -> (127, 127)"
    assert [one.id for one in source.lost] == ["coco-1 box 1", "coco-1 box 2", "coco-2"]
    for wrong, message in (
        ({"image_id": 9}, "annotation 0 is of image 9, not listed"),
        ({"category_id": 9}, "annotation 0 has no known category: 9"),
        ({"bbox": [1, 2, 3]}, "annotation 0 has no box of four numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, None),
    ):
        write(tmp_path / "instances_x.json", content | {"annotations": [found[0] | wrong]})
        with pytest.raises(UserError, match=message or "no example to encode"):
            coco_boxes(tmp_path, "x")
    with pytest.raises(UserError, match=r"has no annotations/panoptic_x.json"):
        coco_boxes(tmp_path, "x", "panoptic")
    with pytest.raises(UserError, match="needs the name of what is in it"):
        boxes_as_text([(" ", (0, 0, 1, 1))], 8)
    with pytest.raises(UserError, match="needs a box, got none"):
        boxes_as_text([], 8)


NOTHING = {
    "answer": "has no questions: looked for", "answer-choice": r"has no problems.json",
    "edit": "has no edits: looked for", "write": "signs are read from a file of records",
    "grounded": "has no captions",
}  # fmt: skip


@pytest.mark.parametrize("task", NOTHING)
def test_a_folder_without_the_task_is_told_what_was_looked_for(tmp_path, task):
    with pytest.raises(UserError, match=NOTHING[task]):
        find_examples(str(tmp_path), task, SIZE)
    with pytest.raises(UserError, match="no source at nowhere; name a folder, a file or scenes"):
        find_examples("nowhere", task, SIZE)
