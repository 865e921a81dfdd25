"""Captions alone: those that an encoding would read, in its order, whatever the source."""

import pytest
from PIL import Image

from cm3leon.data.captions import read_captions
from cm3leon.data.sources import Item, find_source
from tests.coco_maker import write_coco
from tests.paper_maker import caption, picture, write_tar


def of_items(source) -> list[str]:
    """The same the long way: by reading the pictures too."""
    items = [item for shard in range(source.shards) for item in source.read(shard)]
    return [text for item in items if isinstance(item, Item) for text in item.captions]


def write_files(folder):
    for index in range(3):
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture(index)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f" {caption(index)}\n")
    Image.fromarray(picture(9)).save(folder / "none.png")  # no caption
    return folder


def write_tars(folder):
    write_tar(folder / "0.tar", range(4))
    write_tar(folder / "1.tar", range(4, 7))
    return folder


@pytest.mark.parametrize("write", [write_tars, write_files])
def test_they_are_those_of_an_encoding(tmp_path, write):
    source = find_source(str(write(tmp_path / "source")))
    found = list(read_captions(source))
    assert found == of_items(source) and found[0] == caption(0) and len(found) in (3, 7)


def test_of_coco_every_caption_once(tmp_path):
    found = list(read_captions(find_source(str(write_coco(tmp_path, count=3, captions=2)))))
    assert sorted(found) == sorted(f"caption {n} of picture {k}" for k in (1, 2, 3) for n in (0, 1))


def test_of_scenes():
    source = find_source("scenes:stock/train:0:2")
    assert list(read_captions(source)) == of_items(source)


def test_a_torn_tar_and_bad_bytes_cost_no_more_than_themselves(tmp_path):
    whole = write_tar(tmp_path / "0.tar", range(3)).read_bytes()
    (tmp_path / "0.tar").write_bytes(whole.replace(caption(1).encode(), b"\xff" * len(caption(1))))
    skipped = []
    found = list(read_captions(find_source(str(tmp_path)), skipped))
    assert found == [caption(0), caption(2)]
    assert [reason for _, reason in skipped] == ["caption of 0/000000001 is no UTF-8 at byte 0"]
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 2])
    assert caption(0) in list(read_captions(find_source(str(tmp_path))))
