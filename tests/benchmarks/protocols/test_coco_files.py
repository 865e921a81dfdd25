"""What a protocol finds in a copy of MS-COCO: its list, both references, and wrong copies."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.images import generated as images
from benchmarks.images.listings import (
    cropper,
    drawn_listing,
    real_listing,
    rounded_square,
    through_jpeg,
)
from benchmarks.protocols.coco import ROUNDED, find_protocol
from benchmarks.protocols.coco_files import check_pictures, read_task
from benchmarks.protocols.lists import list_digest, write_list
from cm3leon import identity
from cm3leon.errors import UserError
from cm3leon.files import sha256_file
from cm3leon.identity import content
from cm3leon.images import crop_square
from tests.coco_maker import Tinted, write_coco

CLEAN = find_protocol("coco2014-30k/clean")
QUICK = find_protocol("coco2014-30k/clean", quick=True)
DEV = find_protocol("coco2014-30k/clean", dev=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


@given(st.integers(2, 12))
def test_a_shorter_list_is_the_beginning(root, n):
    whole, part = read_task(CLEAN, root, 12), read_task(CLEAN, root, n)
    assert part.prompts == whole.prompts[:n]
    assert len({prompt.image_id for prompt in part.prompts}) == n
    assert part.list_sha256 == list_digest(part.prompts)
    assert [entry.image_id for entry in part.entries] == list(range(1, 13))  # A: all pictures
    own = {
        str(entry.image_id) for entry, mine in zip(part.entries, part.own_N, strict=True) if mine
    }
    assert own == {prompt.image_id for prompt in part.prompts}  # B: those of the prompts


def test_a_trial_says_so(root):
    assert read_task(CLEAN, root, 5).warnings == [
        "val2014 has 12 captioned pictures, the published one 40504",
        "a trial, not coco2014-30k/clean: n=5 of 30000",
    ]


def test_a_quick_look_is_against_its_own_pictures(root):
    task = read_task(QUICK, root)
    assert len(task.prompts) == len(task.entries) == 12 and task.own_N.all()
    assert len(read_task(QUICK, root, 4).entries) == 4


def test_settings_are_chosen_without_the_validation_split(tmp_path):
    write_coco(tmp_path, "train2014", 9)
    write_coco(tmp_path, "val2014", 5)
    before = read_task(DEV, tmp_path, 6)
    (tmp_path / "annotations" / "captions_val2014.json").write_text("{ torn")
    for path in (tmp_path / "val2014").iterdir():
        path.unlink()
    after = read_task(DEV, tmp_path, 6)
    assert after.prompts == before.prompts and "train2014" in str(after.entries[0].path)


def test_a_list_of_ones_own(root, tmp_path):
    chosen = read_task(CLEAN, root, 12).prompts[4:8]
    write_list(tmp_path / "prompts.jsonl", chosen)
    task = read_task(CLEAN, root, 4, tmp_path / "prompts.jsonl")
    assert task.prompts == chosen and task.own_N.sum() == 4
    (tmp_path / "list.csv").write_text("Prompt\na star\na ring\n")
    task = read_task(CLEAN, root, 2, tmp_path / "list.csv")
    assert len(task.entries) == 12 and not task.own_N.any()
    with pytest.raises(UserError, match="a list without image ids has none: name a protocol"):
        read_task(QUICK, root, 2, tmp_path / "list.csv")
    alone = read_task(CLEAN, None, 2, tmp_path / "list.csv", statistics=True)
    assert not alone.entries and [one.caption for one in alone.prompts] == ["a star", "a ring"]


def torn_root(tmp_path, change):
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append(c["images"][0]), "lists image 1 twice"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "lists annotation 100 twice"),
        (
            lambda c: c["annotations"].append({"id": 5, "image_id": 99, "caption": "a"}),
            "annotation 5 is of image 99, which is not listed",
        ),
    ],
)
def test_ids(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_task(CLEAN, torn_root(tmp_path, change), 4)


def test_copies_that_are_not_the_one(tmp_path, root):
    write_coco(tmp_path / "new", "val2017")
    for n in (None, 5):
        with pytest.raises(UserError, match=r"new has val2017, coco2014-30k/clean needs val2014"):
            read_task(CLEAN, tmp_path / "new", n)
    with pytest.raises(UserError, match=r"12 captioned pictures, the published one 40504; name"):
        read_task(CLEAN, root)
    with pytest.raises(UserError, match=r"n must be at most 12, .*, got 13"):
        read_task(CLEAN, root, 13)
    with pytest.raises(UserError, match=r"needs --coco-root"):
        read_task(CLEAN, None, 5)
    other = tmp_path / "prompts.jsonl"
    write_list(other, read_task(CLEAN, root, 12).prompts)
    small = write_coco(tmp_path / "small", count=5)
    with pytest.raises(UserError, match=r"image \d+ of the prompts is not in val2014; the list"):
        read_task(CLEAN, small, 12, other)
    for path in (small / "val2014").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"captions but no pictures of val2014, e.g. .*_0{11}1"):
        read_task(CLEAN, small, 5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_crops(height, width, size):
    """GigaGAN's crop is torchvision's; it and ours differ by one pixel, where the rest is odd."""
    import torch
    from torchvision.transforms.functional import center_crop

    image = np.arange(height * width * 3, dtype=np.uint32).astype(np.uint8)
    image = image.reshape(height, width, 3)
    theirs = center_crop(torch.from_numpy(image).permute(2, 0, 1), min(height, width))
    assert (rounded_square(image) == theirs.permute(1, 2, 0).numpy()).all()
    pinned = replace(find_protocol("coco2014-30k/gigagan"), size=size)
    square = cropper(pinned)(image)
    assert pinned.crop == ROUNDED and square.shape == (size, size, 3)
    if abs(height - width) % 4 != 3:
        assert (square == crop_square(image, size)).all()


def test_real_pictures_are_named_when_they_are_not_plain(tmp_path):
    root = write_coco(tmp_path, count=6)
    paths = sorted((root / "val2014").iterdir())
    Image.new("L", (30, 20), 99).save(paths[0])
    Image.new("CMYK", (30, 20)).save(paths[1])
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    paths[3].unlink()
    one = real_listing(CLEAN, read_task(CLEAN, root, 6).entries)
    assert [one.read(k)[1] for k in (0, 1, 4, 5)] == ["L", "CMYK", "", ""]
    assert (one.read(0)[0] == 99).all() and one.read(1)[0].shape == (256, 256, 3)
    for k in (2, 3):
        with pytest.raises(UserError, match=re.escape(str(paths[k]))):
            one.read(k)
    assert one.stamps[3][2] is None and one.stamps[4][2] == sha256_file(paths[4])


def test_a_reference_picture_repaired_in_place_is_another(root):
    entries = read_task(CLEAN, root, 6).entries
    path = entries[2].path
    good, times = path.read_bytes(), path.stat()
    stamps = [real_listing(CLEAN, entries).stamps]
    for data in (bytes(len(good)), good):  # the same size and time, as an archive may give it
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        stamps.append(real_listing(CLEAN, entries).stamps)
    assert stamps[0] == stamps[2] and [k for k in range(6) if stamps[0][k] != stamps[1][k]] == [2]


def test_a_content_is_read_once_and_again_when_it_was_written(tmp_path, monkeypatch):
    path, reads = tmp_path / "a", []
    path.write_bytes(b"1")
    monkeypatch.setattr(identity, "sha256_file", lambda one: reads.append(one) or len(reads))
    monkeypatch.setattr(identity, "SETTLED", 0)
    assert [content(path), content(path)] == [1, 1]
    other = tmp_path / "b"
    other.write_bytes(b"2")
    other.replace(path)
    assert content(path) == 2
    monkeypatch.setattr(identity, "SETTLED", 10**12)  # too new to be sure
    assert [content(path), content(path)] == [3, 4]
    assert content(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["order", "named"])
def test_archives_of_one_time_are_told_apart(root, tmp_path, name):
    prompts = read_task(CLEAN, root, 3).prompts
    found = []
    for value in (1, 2):
        path = tmp_path / f"{name}.npz"
        arrays = np.full((3, 8, 8, 3), value, np.uint8)
        named = dict(zip((one.image_id for one in prompts), arrays, strict=True))
        np.savez(path, arrays) if name == "order" else np.savez(path, **named)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        found.append(drawn_listing(CLEAN, "x", images.from_folder(path, prompts, 8)).stamps)
    assert not [a for a, b in zip(*found, strict=True) if a == b]


def test_drawn_pictures_go_through_the_protocol_s_file(root, tmp_path):
    prompts = read_task(CLEAN, root, 3).prompts
    drawn = images.draw(Tinted(), prompts, folder=tmp_path)
    plain = drawn_listing(CLEAN, "tinted", drawn)
    pinned = find_protocol("coco2014-30k/pytorch-fid-jpeg")
    lossy = drawn_listing(pinned, "tinted", drawn)
    assert plain.about != lossy.about and plain.stamps == lossy.stamps
    image = next(drawn.batches())[0]
    assert (plain.read(0)[0] == crop_square(image, 256)).all()
    assert (lossy.read(0)[0] == crop_square(through_jpeg(image, 75), 256)).all()
    assert (lossy.read(0)[0] != plain.read(0)[0]).any()


def test_a_picture_drawn_again_is_another(root, tmp_path):
    drawn = images.draw(Tinted(), read_task(CLEAN, root, 3).prompts, folder=tmp_path)
    before = drawn_listing(CLEAN, "tinted", drawn).stamps
    path = drawn.paths[1]
    path.write_bytes(path.read_bytes())  # another time and nothing else
    assert drawn_listing(CLEAN, "tinted", drawn).stamps == before
    times = path.stat()
    path.write_bytes(drawn.paths[0].read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = drawn_listing(CLEAN, "tinted", drawn).stamps
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_reference_pictures_that_are_not_there(tmp_path):
    """A number asked for is a trial; a protocol's own run is refused before anything is drawn."""
    root = write_coco(tmp_path)
    for path in sorted((root / "val2014").iterdir())[:5]:
        path.unlink()
    said = read_task(CLEAN, root, 12).warnings
    assert "a trial, not coco2014-30k/clean: 7 of 12 reference pictures are there" in said
    small = replace(CLEAN, n=12)
    with pytest.raises(UserError, match=r"has 7 of 12 reference pictures of val2014, lacking"):
        check_pictures(small, root, read_task(CLEAN, root, 12).entries, None)
    assert check_pictures(small, root, read_task(CLEAN, root, 12).entries[5:], None) == []
