"""Sources of documents: what is read, what is named as unreadable, and how a source is named."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cm3leon.data.captions import read_captions
from cm3leon.data.sources import (
    WORLD,
    Coco,
    Files,
    Item,
    Scenes,
    Skipped,
    Tars,
    captions_of,
    chunk,
    content,
    find_source,
    key_and_kind,
)
from cm3leon.errors import UserError
from cm3leon.images import write_png
from cm3leon.world.scenes import export_coco, scene
from tests.coco_maker import write_coco
from tests.house.house import ROOT, imports

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def png(index: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(scene("stock", "val", index, 32).image).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(count: int) -> list[tuple[str, bytes]]:
    return [
        pair
        for k in range(count)
        for pair in (
            (f"{k:04}.png", png(k)),
            (f"{k:04}.txt", f"a  caption\t{k} \r\n\nanother\n".encode()),
            (f"{k:04}.json", b"{}"),
        )
    ]


def everything(source) -> list:
    return [item for shard in range(source.shards) for item in source.read(shard)]


def test_scenes():
    source = Scenes("stock", "bank", 5, 7, 32, shard=3)
    items = everything(source)
    assert source.shards == 3 and [item.id for item in items] == [
        f"stock-bank-{k}" for k in range(5, 12)
    ]
    truth = scene("stock", "bank", 9, 32)
    assert items[4].captions == truth.captions and (items[4].image == truth.image).all()
    for wrong, message in [
        (("latin", "train", 0, 4), "no dialect 'latin'"),
        (("stock", "val", 4999, 2), "split 'val' has indices"),
        (("stock", "val", 0, 0), "must be at least 1, got 0"),
    ]:
        with pytest.raises(UserError, match=message):
            Scenes(*wrong)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars(tmp_path, mode):
    files = samples(3)
    files.insert(3, ("folder/x.y.txt", b"no picture beside it"))
    files += [("9.jpg", b"damaged"), ("9.txt", b"a"), ("bad.png", png(1)), ("bad.txt", b"\xff")]
    source = Tars([write_tar(tmp_path / "a.tar", files, mode)])
    found = everything(source)
    read = [item for item in found if isinstance(item, Item)]
    assert [(item.id, item.captions) for item in read] == [
        (f"a/{k:04}", (f"a caption {k}", "another")) for k in range(3)
    ]
    assert (read[2].image == scene("stock", "val", 2, 32).image).all()
    skipped = {item.id: item.reason for item in found if isinstance(item, Skipped)}
    assert skipped.keys() == {"a/folder/x", "a/9", "a/bad"}
    assert skipped["a/folder/x"] == "no picture among y.txt"
    assert "no picture Pillow can read" in skipped["a/9"] and "byte 0" in skipped["a/bad"]


def test_a_torn_tar_gives_what_stands_before_the_tear(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", samples(4)).read_bytes()
    good = [item.id for item in everything(Tars([tmp_path / "whole.tar"]))]
    lost = 0
    for size in range(len(whole) - 1, 0, -700):
        path = tmp_path / "torn.tar"
        path.write_bytes(whole[:size])
        found = everything(Tars([path]))
        read = [item.id.replace("torn", "whole") for item in found if isinstance(item, Item)]
        assert read == good[: len(read)]
        torn = [item for item in found if isinstance(item, Skipped) and item.id == "torn.tar"]
        # Only the padding behind the end mark can be cut without being noticed.
        assert torn or size > len(whole) - 10240
        lost += len(torn)
    assert lost > 10


def test_files(tmp_path):
    for name in ("b/1.PNG", "a.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(0))
        (tmp_path / name).with_suffix(".txt").write_text(name)
    (tmp_path / "notes.md").write_text("no picture")
    source = Files(tmp_path, shard=2)
    assert [item.id for item in everything(source)] == ["a.png", "b/1.PNG", "b/2.png"]
    before, about = content(source, 0), source.about
    (tmp_path / "a.png").write_bytes(png(0) + b" ")
    assert content(Files(tmp_path, shard=2), 0) != before
    assert Files(tmp_path, shard=2).about == about
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "3.png")
    assert Files(tmp_path, shard=2).about != about
    with pytest.raises(UserError, match="holds no pictures"):
        Files(make(tmp_path / "empty"))
    with pytest.raises(UserError, match="no folder"):
        Files(tmp_path / "nowhere")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_coco(tmp_path):
    export_coco(tmp_path, "coco", "val", 3, 32)
    source = Coco(tmp_path)
    items = everything(source)
    assert len(items) == 3 and items[0].id.startswith("coco-")
    truth = scene("coco", "val", 0, 32)
    assert items[0].captions == truth.captions and (items[0].image == truth.image).all()
    captions = next(tmp_path.rglob("captions_*.json"))
    content = json.loads(captions.read_text())
    content["annotations"] = [
        one for one in content["annotations"] if one["id"] % 5 < 2 or one["image_id"] > 1
    ]
    captions.write_text(json.dumps(content))
    next(tmp_path.rglob("*.png")).unlink()
    found = everything(Coco(tmp_path))
    assert sum(isinstance(item, Skipped) for item in found) == 1
    counts = {item.id: len(item.captions) for item in found if isinstance(item, Item)}
    assert set(counts.values()) <= {2, 5} and len(counts) == 2


def test_names_of_sources(tmp_path):
    source = find_source("scenes:stock/bank:10:20", size=32)
    assert isinstance(source, Scenes) and (source.start, source.count) == (10, 20)
    write_tar(make(tmp_path / "tars") / "a.tar", samples(1))
    assert isinstance(find_source(str(tmp_path / "tars")), Tars)
    assert isinstance(find_source(str(tmp_path / "tars" / "a.tar")), Tars)
    export_coco(tmp_path / "coco", "coco", "val", 2, 32)
    split = next((tmp_path / "coco").rglob("captions_*.json")).stem.removeprefix("captions_")
    assert isinstance(find_source(str(tmp_path / "coco")), Coco)
    assert len(everything(find_source(f"{tmp_path / 'coco'}:{split}"))) == 2
    write_png(tmp_path / "files" / "a.png", np.zeros((8, 8, 3), np.uint8))
    assert isinstance(find_source(str(tmp_path / "files")), Files)
    for name, message in [
        ("scenes:stock:5", "must read scenes:DIALECT/SPLIT:START:COUNT"),
        ("scenes:stock/val:a:5", "must read scenes:DIALECT"),
        (str(tmp_path / "nowhere"), "no source at"),
        (str(tmp_path / "no.tar"), "no tar file"),
        (f"{tmp_path / 'coco'}:train1999", "no captions of split 'train1999'"),
    ]:
        with pytest.raises(UserError, match=message):
            find_source(name)


def test_small_parts(tmp_path):
    assert list(chunk(10, 4, 2)) == [8, 9] and len(chunk(8, 4, 1)) == 4
    with pytest.raises(UserError, match=r"shard must lie in 0..2, got 3"):
        chunk(10, 4, 3)
    assert key_and_kind("./x/0001.seg.PNG") == ("x/0001", "seg.png")
    with pytest.raises(UserError, match="no tar files to read"):
        Tars([])
    write_tar(make(tmp_path / "x") / "a.tar", samples(1))
    write_tar(tmp_path / "a.tar", samples(1))
    with pytest.raises(UserError, match="two tar files have the same name"):
        Tars([tmp_path / "a.tar", tmp_path / "x" / "a.tar"])


CAPTIONS = {  # bytes of a caption file: the captions, or what is said instead
    b"\xef\xbb\xbfa red square": ("a red square",),
    b"one\ntwo\r\n\n three\n": ("one", "two", "three"),
    "a\u2028b\x85c\x0bd\x1ce".encode(): ("a b c d e",),  # only \n and \r\n end lines
    b"": "is blank",
    b" \n\t\xef\xbb\xbf"[:3]: "is blank",
    b"\xff": "is no UTF-8 at byte 0",
    "\ufeffé".encode("utf-16"): "is no UTF-8 at byte 0",
    b"a\xed\xa0\x80": "is no UTF-8 at byte 1",  # half a character
}


@pytest.mark.parametrize("data", CAPTIONS)
def test_caption_files(tmp_path, data):
    """The same by every way in."""
    wanted = CAPTIONS[data]
    write_tar(tmp_path / "a.tar", [("0.png", png(0)), ("0.txt", data)])
    (make(tmp_path / "files") / "0.png").write_bytes(png(0))
    (tmp_path / "files" / "0.txt").write_bytes(data)
    for place in ("a.tar", "files"):
        (found,) = everything(find_source(str(tmp_path / place)))
        captions = list(read_captions(find_source(str(tmp_path / place))))
        if isinstance(wanted, tuple):
            assert found.captions == wanted == tuple(captions)
        else:
            assert wanted in found.reason and not captions
    if isinstance(wanted, str):
        with pytest.raises(UserError, match=f"caption of x {wanted}"):
            captions_of(data, "x")


RED, BLUE = (b"a red square", b"a blue square")
REPEATED = {  # members of a tar, picture by number: (ids and captions taken, ids skipped)
    "side by side": (["0.png:1", "0.txt", "0.png:2", "0.TXT", "1.png:3", "1.txt"],
                     [("0", 1), ("1", 3)], ["0"]),
    "of two kinds": (["0.jpg:1", "0.txt", "0.png:2", "0.txt"], [("0", 1)], ["0"]),
    "far apart": (["0.png:1", "0.txt", "1.png:2", "1.txt", "0.png:3", "0.txt"],
                  [("0", 1), ("1", 2)], ["0"]),
    "two pictures, one caption": (["0.jpg:1", "0.png:2", "0.txt"], [], ["0", "0"]),
    "a mask beside the picture": (["0.png:1", "0.seg.png:2", "0.txt"], [("0", 1)], []),
    "a Mac's own files": (["./._0.png:1", "./._0.txt", "./0.png:2", "./0.txt"], [("0", 2)], []),
    "dots in the names": (["I.0.png:1", "I.0.txt", "I.1.png:2", "I.1.txt", "0.png:3", "0.txt"],
                          [("0", 3)], ["I.0.png", "I.1.png"]),
}  # fmt: skip


@pytest.mark.parametrize("content", [bytes(4096), write_tar])
def test_a_tar_that_holds_nothing_is_named(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content) if isinstance(content, bytes) else content(path, [])
    (found,) = everything(Tars([path]))
    assert (found.id, found.reason) == ("a.tar", "no file in this tar")


@pytest.mark.parametrize("case", REPEATED)
def test_every_member_of_a_tar_is_taken_or_named(tmp_path, case):
    members, taken, skipped = REPEATED[case]
    files = []
    for place, member in enumerate(members):
        name, _, number = member.partition(":")
        files.append((name, png(int(number)) if number else f"caption {place - 1}".encode()))
    found = everything(Tars([write_tar(tmp_path / "a.tar", files)]))
    read = [item for item in found if isinstance(item, Item)]
    assert [item.id for item in read] == [f"a/{name}" for name, _ in taken]
    for item, (_, number) in zip(read, taken, strict=True):
        assert (item.image == scene("stock", "val", number, 32).image).all()
        place = next(k for k, one in enumerate(members) if one.endswith(f":{number}"))
        assert case.startswith("a mask") or item.captions == (f"caption {place}",)
    assert sorted(one.id for one in found if isinstance(one, Skipped)) == [
        f"a/{name}" for name in skipped
    ]


def test_links_and_large_members_of_a_tar_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("cm3leon.data.sources.MOST_BYTES", 5000)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in [*samples(1), ("large.png", b"x" * 5001)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0000.png"
        tar.addfile(link)
    found = everything(Tars([tmp_path / "a.tar"]))
    reasons = {one.id: one.reason for one in found if isinstance(one, Skipped)}
    assert [item.id for item in found if isinstance(item, Item)] == ["a/0000"]
    assert reasons.keys() == {"a/large.png", "a/link.png"}
    assert "5,001 bytes, more than 5,000" in reasons["a/large.png"]
    assert "no file, but a link" in reasons["a/link.png"]


def test_a_damaged_compressed_tar_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", samples(3), "w:gz")
    whole = path.read_bytes()
    for place in range(40, len(whole), len(whole) // 60):  # behind the header
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = everything(find_source(str(path)))
        torn = [one for one in found if isinstance(one, Skipped) and one.id == "a.tar.gz"]
        assert len(torn) == 1 and "torn tar" in torn[0].reason, place


def write_pair(folder: Path, name: str, index: int = 0) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(png(index))
    (folder / f"{name}.txt").write_text(f"caption {index}")


def test_every_file_of_a_folder_is_taken_or_named(tmp_path):
    top = tmp_path / "top"
    write_pair(top, "IMG_2024.01.00")
    write_pair(top, "IMG_2024.01.01")
    write_pair(tmp_path, "elsewhere/3", 3)
    (top / "linked").symlink_to(tmp_path / "elsewhere")
    (top / "inner").mkdir()
    (top / "inner" / "round").symlink_to(top)
    (top / "folder.png").mkdir()
    (top / "gone.png").symlink_to(tmp_path / "nowhere")
    (top / "._IMG_2024.01.00.png").write_bytes(b"a Mac's")
    (top / "alone.txt").write_text("no picture")
    found = everything(find_source(str(top)))
    read = [item.id for item in found if isinstance(item, Item)]
    assert read == ["IMG_2024.01.00.png", "IMG_2024.01.01.png", "linked/3.png"]
    lost = {one.id: one.reason for one in found if isinstance(one, Skipped)}
    assert lost.keys() == {"alone.txt", "gone.png", "inner/round"}
    assert lost["inner/round"] == "a link to a folder above it"
    assert lost["alone.txt"] == "a caption without a picture beside it"


@pytest.mark.parametrize("beside", ["pictures", "captions of MS-COCO"])
def test_a_stray_tar_hides_nothing(tmp_path, beside):
    if beside == "pictures":
        write_pair(tmp_path, "below/0")
    else:
        export_coco(tmp_path, "coco", "val", 1, 32)
    write_tar(tmp_path / "backup.tar", samples(1))
    with pytest.raises(UserError, match=rf"holds .*{beside} and 1 tar files \(backup.tar\); "):
        find_source(str(tmp_path))
    assert isinstance(find_source(str(tmp_path / "backup.tar")), Tars)
    if beside != "pictures":
        (path,) = tmp_path.rglob("captions_*.json")
        split = path.stem.removeprefix("captions_")
        assert isinstance(find_source(f"{tmp_path}:{split}"), Coco)


def test_tars_in_folders_of_one_folder(tmp_path):
    for part in ("a", "b"):
        write_tar(make(tmp_path / part) / "0.tar", samples(1))
    found = everything(find_source(str(tmp_path)))
    assert [item.id for item in found] == ["a/0/0000", "b/0/0000"]


def test_the_worlds_stamp_covers_all_the_code_that_draws():
    here, waiting, found = ROOT / "cm3leon", {"cm3leon.world.scenes"}, set()
    while waiting - found:
        name = (waiting - found).pop()
        found.add(name)
        path = here.parent.joinpath(*name.split(".")).with_suffix(".py")
        waiting |= {one for one in imports(path, late=False) if one.startswith("cm3leon.")}
    covered = {path for name in WORLD for path in here.glob(f"{name}.py")}
    files = {here.parent.joinpath(*name.split(".")).with_suffix(".py") for name in found}
    assert files - covered == {here / "errors.py"}


def test_names_that_are_no_utf8(tmp_path):
    folder = os.fsencode(make(tmp_path / "files"))
    for ending, data in ((b".png", png(0)), (b".txt", b"a")):
        with open(os.path.join(folder, b"caf\xe9" + ending), "wb") as file:
            file.write(data)
    (item,) = everything(find_source(str(tmp_path / "files")))
    assert item.id == "caf\\xe9.png" and item.id.encode()
    form = {"format": tarfile.GNU_FORMAT, "encoding": "latin-1"}
    with tarfile.open(tmp_path / "a.tar", "w", **form) as tar:
        tar.add(tmp_path / "files" / os.fsdecode(b"caf\xe9.png"), "caf\xe9.png")
        tar.add(tmp_path / "files" / os.fsdecode(b"caf\xe9.txt"), "caf\xe9.txt")
    (item,) = everything(find_source(str(tmp_path / "a.tar")))
    assert item.id == "a/caf\\xe9" and item.captions == ("a",)


def test_a_split_of_coco_is_not_guessed(tmp_path):
    for split in ("train2017", "val2017"):
        write_coco(tmp_path, split, 2)
    with pytest.raises(UserError, match=r"has the splits train2017, val2017; name .*:train2017"):
        find_source(str(tmp_path))
    assert len(everything(find_source(f"{tmp_path}:val2017"))) == 2


def test_captions_of_coco_that_hold_no_text_are_named(tmp_path):
    path = write_coco(tmp_path, count=3) / "annotations" / "captions_val2014.json"
    known = json.loads(path.read_text())
    known["annotations"][0]["caption"] = "a red star \ud83d"
    known["annotations"][2]["caption"] = " \n"
    known["annotations"][3]["caption"] = "\x85"
    path.write_text(json.dumps(known))
    found = everything(find_source(str(tmp_path)))
    read = {item.id: len(item.captions) for item in found if isinstance(item, Item)}
    assert read == {"coco-1": 1, "coco-3": 2}
    lost = [(one.id, one.reason) for one in found if isinstance(one, Skipped)]
    assert [name for name, _ in lost] == [
        "coco-1 caption 100", "coco-2 caption 200", "coco-2 caption 201", "coco-2",
    ]  # fmt: skip
    assert "half a character (a lone surrogate) at 11" in lost[0][1]
    assert lost[3][1] == "has no caption"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the checkout")
def test_real_files():
    shard = everything(Tars([SHARED / "cc12m" / "cc12m-train-0000.tar"]))
    assert len(shard) == 32 and all(isinstance(item, Item) for item in shard)
    for split, count in (("train2017", 80), ("val2017", 79)):
        found = everything(Coco(SHARED / "coco-mini", split))
        assert len(found) == count and all(isinstance(item, Item) for item in found)
        assert all(item.image.ndim == 3 and len(item.captions) >= 5 for item in found)
