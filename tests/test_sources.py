"""Sources of documents: what is read, what is named as unreadable, and how a source is named."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cm3leon.errors import UserError
from cm3leon.pictures import write_png
from cm3leon.scenes import export_coco, scene
from cm3leon.sources import (
    Coco,
    Files,
    Item,
    Scenes,
    Skipped,
    Tars,
    chunk,
    find_source,
    fingerprint,
    key_and_kind,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


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
            (f"{k:04}.txt", f"a  caption\n{k} ".encode()),
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
        (f"a/{k:04}", (f"a caption {k}",)) for k in range(3)
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
    before = source.about["fingerprint"]
    (tmp_path / "a.png").write_bytes(png(0) + b" ")
    assert Files(tmp_path, shard=2).about["fingerprint"] != before
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
    assert all(len(item.captions) == 5 for item in found if isinstance(item, Item))


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
    assert fingerprint(["a"], [1]) != fingerprint(["a"], [2]) != fingerprint(["b"], [2])
    assert key_and_kind("./x/0001.seg.PNG") == ("x/0001", "seg.png")
    with pytest.raises(UserError, match="no tar files to read"):
        Tars([])
    write_tar(make(tmp_path / "x") / "a.tar", samples(1))
    write_tar(tmp_path / "a.tar", samples(1))
    with pytest.raises(UserError, match="two tar files have the same name"):
        Tars([tmp_path / "a.tar", tmp_path / "x" / "a.tar"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the checkout")
def test_real_files():
    shard = everything(Tars([SHARED / "cc12m" / "cc12m-train-0000.tar"]))
    assert len(shard) == 32 and all(isinstance(item, Item) for item in shard)
    for split, count in (("train2017", 80), ("val2017", 79)):
        found = everything(Coco(SHARED / "coco-mini", split))
        assert len(found) == count and all(isinstance(item, Item) for item in found)
        assert all(item.image.ndim == 3 and len(item.captions) == 5 for item in found)
