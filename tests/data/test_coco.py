"""MS-COCO's layout: real files where they are at hand, and the ways a copy can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cm3leon.data.coco import choose_split, find_splits, read_captions, read_reference
from cm3leon.errors import UserError

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco-mini"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason="no MS-COCO sample beside the checkout")


def content(count=3) -> dict:
    """A captions file of `count` pictures, two captions each, in no order."""
    images = [{"id": k, "file_name": f"{k:012d}.png"} for k in range(count, 0, -1)]
    annotations = [
        {"id": 10 * k + n, "image_id": k, "caption": f" caption {n}\nof  {k} "}
        for n in (1, 0)
        for k in range(1, count + 1)
    ]
    return {"images": images, "annotations": annotations}


def write(root, split="val2017", folder="annotations", **changes) -> Path:
    path = root / folder / f"captions_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content() | changes))
    return path


def draw(folder, name, size=(30, 20), colour=(9, 8, 7)):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)


def test_captions_in_order(tmp_path):
    write(tmp_path)
    entries = read_captions(tmp_path)
    assert [entry.image_id for entry in entries] == [1, 2, 3]
    assert entries[1].captions == ((20, "caption 0 of 2"), (21, "caption 1 of 2"))
    assert entries[1].captions[0].text == "caption 0 of 2"


@pytest.mark.parametrize("place", ["val2017", "images/val2017", "images", ".", "annotations"])
def test_pictures_are_found_in_every_usual_place(tmp_path, place):
    write(tmp_path)
    draw(tmp_path / place, "000000000002.png")
    path = read_captions(tmp_path)[1].path
    assert path.is_file() and path.parent.resolve() == (tmp_path / place).resolve()


def test_file_names_with_folders(tmp_path):
    names = [{"id": 1, "file_name": "val2014/COCO_val2014_000000000001.png"}]
    captions = [{"id": 5, "image_id": 1, "caption": "a"}]
    write(tmp_path, "val2014", images=names, annotations=captions)
    draw(tmp_path / "val2014", "COCO_val2014_000000000001.png")
    assert read_captions(tmp_path)[0].path.is_file()


def test_reference_names_what_it_leaves_out(tmp_path):
    write(tmp_path)
    draw(tmp_path / "val2017", "000000000001.png")
    draw(tmp_path / "val2017", "000000000002.png")
    broken = tmp_path / "val2017" / "000000000002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    reference = read_reference(read_captions(tmp_path), 16)
    for _ in range(2):  # a second pass reports the same, not twice as much
        read = dict(reference)
        assert list(read) == [1]
        assert read[1].shape == (16, 16, 3) and (read[1] == (9, 8, 7)).all()
        assert [(one.image_id, one.path.name) for one in reference.unreadable] == [
            (2, "000000000002.png"),
            (3, "000000000003.png"),
        ]
        assert "No such file" in reference.unreadable[1].reason
    assert len(reference) == 3


def test_pictures_without_caption_are_left_out(tmp_path):
    captions = [
        {"id": 1, "image_id": 3, "caption": "a star"},
        {"id": 2, "image_id": 2, "caption": " \n"},
    ]
    write(tmp_path, annotations=captions)
    assert [entry.image_id for entry in read_captions(tmp_path)] == [3]


def test_the_split_is_chosen_when_there_is_no_doubt(tmp_path):
    write(tmp_path, "train2017")
    assert choose_split(list(find_splits(tmp_path)), tmp_path) == "train2017"
    write(tmp_path, "val2017")
    assert choose_split(list(find_splits(tmp_path)), tmp_path) == "val2017"
    write(tmp_path, "val2014")
    with pytest.raises(UserError, match="has the splits train2017, val2014, val2017; name one"):
        read_captions(tmp_path)
    assert len(read_captions(tmp_path, "train2017")) == 3
    with pytest.raises(UserError, match=r"no captions of split 'test2017'; it has train2017, val"):
        read_captions(tmp_path, "test2017")


def test_results_of_a_model_beside_the_captions_are_no_split(tmp_path):
    """COCO's own way of naming them: captions_<split>_<model>_results.json, a list."""
    write(tmp_path, "val2014")
    results = tmp_path / "annotations" / "captions_val2014_mymodel_results.json"
    results.write_text(json.dumps([{"image_id": 1, "caption": "a star"}]))
    assert choose_split(list(find_splits(tmp_path)), tmp_path) == "val2014"
    assert len(read_captions(tmp_path)) == 3


def test_captions_beside_the_pictures(tmp_path):
    write(tmp_path, "mine", folder=".")
    draw(tmp_path, "000000000001.png")
    assert read_captions(tmp_path)[0].path.is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "no list of objects 'images'"),
        ({"annotations": {}}, "no list of objects 'annotations'"),
        ({"annotations": [3]}, "no list of objects 'annotations'"),
        ({"images": [{"file_name": "a.png"}]}, "image number 0 needs int 'id', got None"),
        ({"images": [{"id": True, "file_name": "a"}]}, "image number 0 needs int 'id', got True"),
        ({"images": [{"id": 1, "file_name": 5}]}, "image 1 needs str 'file_name', got 5"),
        ({"images": [{"id": 1, "file_name": "../a"}]}, r"file_name '../a', outside its folder"),
        ({"images": [{"id": 1, "file_name": "/etc/a"}]}, r"file_name '/etc/a', outside"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2}, "lists image 1 twice"),
        ({"annotations": [{"id": 4, "image_id": 1}]}, "annotation 4 needs str 'caption', got None"),
        (
            {"annotations": [{"id": 4, "image_id": 99, "caption": "a"}]},
            "annotation 4 is of image 99, which is not listed",
        ),
    ],
)
def test_misbuilt_files_are_refused(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        read_captions(tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_torn_json_names_file_and_place(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(UserError, match=r"captions_val2017.json is no JSON: .* at line 1 column"):
        read_captions(tmp_path)
    path.write_text('{"categories": [1]}')
    with pytest.raises(UserError, match="no list of objects 'images'"):
        read_captions(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*; name the root"):
        read_captions(tmp_path / "none")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    with pytest.raises(UserError, match=r"looked for .*annotations/captions_<split>.json"):
        read_captions(tmp_path)


@needs_mini
@pytest.mark.parametrize(("split", "count"), [("val2017", 79), ("train2017", 80)])
def test_real_files(split, count):
    entries = read_captions(MINI, split)
    assert len(entries) == count and all(len(entry.captions) >= 5 for entry in entries)
    assert read_captions(MINI) == read_captions(MINI, "val2017")
    reference = read_reference(entries[:20], 64)
    read = dict(reference)
    assert len(read) == 20 and not reference.unreadable
    assert all(one.shape == (64, 64, 3) and one.dtype == np.uint8 for one in read.values())
    assert 60 < np.mean([one.mean() for one in read.values()]) < 190
