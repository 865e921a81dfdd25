"""Token cache: exact, restartable, honest about what it could not read."""

import json
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cm3leon.checkpoint import module_digest
from cm3leon.config import VQConfig
from cm3leon.data.sources import Files, Scenes, find_source
from cm3leon.data.token_cache import TokenCache, encode
from cm3leon.errors import UserError
from cm3leon.images import write_png
from cm3leon.sequence.documents import Document
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.world.scenes import scene
from tests.coco_maker import write_coco

COUNT, SHARD = 22, 8


class Blocks(nn.Module):
    """A stand-in for the image tokenizer: codes are the mean grey of 16 blocks."""

    def __init__(self, shift: float = 0.0):
        super().__init__()
        self.config = VQConfig(resolution=32, codebook_size=64)
        self.shift = nn.Parameter(torch.tensor(shift))
        self.pictures = 0

    def encode(self, images) -> torch.Tensor:
        self.pictures += len(images)
        grey = torch.as_tensor(images).float().mean(3)
        return grey.unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)).div(4).long().flatten(1)


class Lengths:
    """A stand-in for CLIP: directions by the length of a text and the brightness of a picture."""

    sha256, width = "ab" * 32, 2

    def texts(self, texts):
        angles = np.array([len(text) / 50 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def images(self, images):
        angles = np.array([image.mean() / 255 for image in images])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def source(count=COUNT) -> Scenes:
    return Scenes("stock", "train", 100, count, 32, SHARD)


@pytest.fixture(scope="module")
def tokenizer():
    captions = [text for index in range(60) for text in scene("stock", "train", index).captions]
    return TextTokenizer.train(captions, 300)


@pytest.fixture(scope="module")
def cache(tokenizer, tmp_path_factory):
    """22 training scenes in three shards."""
    return encode(source(), Blocks(), tokenizer, tmp_path_factory.mktemp("data") / "cache")


def contents(folder) -> dict:
    """What the files of a cache hold; not when their source was looked at."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    sealed = {name: json.loads(data) for name, data in found.items() if name.endswith(".json")}
    return found | {name: (one["sha256"], one["content"]) for name, one in sealed.items()}


def test_the_cache_holds_what_the_tokenizers_make(cache, tokenizer):
    assert len(cache) == COUNT and cache.captions == 5 and not cache.skipped
    for index in (0, 7, 8, 21):
        truth = scene("stock", "train", 100 + index, 32)
        assert np.array_equal(cache.codes(index), Blocks().encode(truth.image[None])[0])
        for k, caption in enumerate(truth.captions):
            assert tokenizer.decode(cache.text(index, k)) == caption
    assert cache.document(3, 2) == Document.pair(cache.text(3, 2), cache.codes(3))
    assert cache.ids == [f"stock-train-{100 + k}" for k in range(COUNT)]
    assert cache.about["vq_sha256"] == module_digest(Blocks())
    assert cache.about["text_sha256"] == tokenizer.digest
    with pytest.raises(UserError, match=r"document must lie in 0..21, got 22"):
        cache.codes(22)
    with pytest.raises(UserError, match="was encoded without a CLIP"):
        cache.vectors("image_vectors")


def test_vectors_lie_beside_the_tokens(tokenizer, tmp_path):
    cache = encode(source(), Blocks(), tokenizer, tmp_path, clip=Lengths())
    truth = [scene("stock", "train", 100 + k, 32) for k in range(COUNT)]
    images, texts = cache.vectors("image_vectors"), cache.vectors("text_vectors")
    assert np.array_equal(images, Lengths().images([one.image for one in truth]))
    assert np.array_equal(texts, Lengths().texts([one.captions[0] for one in truth]))
    assert cache.about["clip_sha256"] == Lengths.sha256
    with pytest.raises(UserError, match=r"with clip_sha256 = .*, asked for None"):
        encode(source(), Blocks(), tokenizer, tmp_path)


def test_a_kill_loses_at_most_a_shard(tokenizer, cache, tmp_path):
    class Killed(Blocks):
        def encode(self, images):
            if self.pictures >= SHARD:
                raise KeyboardInterrupt
            return super().encode(images)

    with pytest.raises(KeyboardInterrupt):
        encode(source(), Killed(), tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"was not encoded to its end; run `cm3leon encode`"):
        TokenCache(tmp_path)
    again = Blocks()
    encode(source(), again, tokenizer, tmp_path)
    assert again.pictures == COUNT - SHARD
    assert contents(tmp_path) == contents(cache.folder)
    encode(source(), again, tokenizer, tmp_path)
    assert again.pictures == COUNT - SHARD  # finished: nothing is drawn again


@pytest.mark.parametrize("batch", [1, 5])
def test_batch_size_cannot_be_seen(tokenizer, cache, tmp_path, batch, monkeypatch):
    monkeypatch.setattr("cm3leon.data.token_cache.BATCH", batch)
    encode(source(), Blocks(), tokenizer, tmp_path)
    assert contents(tmp_path) == contents(cache.folder)


def test_workers_cannot_be_seen(tokenizer, cache, tmp_path):
    encode(source(), Blocks(), tokenizer, tmp_path, workers=1)
    assert contents(tmp_path) == contents(cache.folder)


def test_another_cache_is_refused(tokenizer, cache):
    with pytest.raises(UserError, match=r"with vq_sha256 = '.*', asked for") as error:
        encode(source(), Blocks(shift=1.0), tokenizer, cache.folder)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"with source = .*'count': 22.*, asked for .*'count': 23"):
        encode(source(23), Blocks(), tokenizer, cache.folder)


def another(index: int) -> SimpleNamespace:
    """A scene with other captions."""
    one = scene("stock", "train", index, 32)
    return SimpleNamespace(id=one.id, captions=("something else",), image=one.image)


def flipped(path):
    data = path.read_bytes()
    path.write_bytes(data[:-7] + bytes([data[-7] ^ 1]) + data[-6:])


def torn(path):
    path.write_bytes(path.read_bytes()[:-9])


def swapped(path):
    path.write_bytes(path.with_name(path.name.replace("00001", "00002")).read_bytes())


FILES = ("codes", "texts", "offsets", "captions", "image_vectors", "text_vectors", "shard", "cache")


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("harm", [flipped, torn, swapped, os.unlink])
def test_no_damaged_file_is_used_and_encoding_again_mends_it(tokenizer, tmp_path, part, harm):
    encode(source(), Blocks(), tokenizer, tmp_path, clip=Lengths())
    good = contents(tmp_path)
    (path,) = [one for one in tmp_path.iterdir() if one.stem in (part, f"{part}-00001")]
    if part == "cache" and harm is swapped:
        harm = flipped  # there is only one
    harm(path)
    with pytest.raises(UserError) as error:
        TokenCache(tmp_path)
    said = str(error.value)
    assert part == "shard" or str(path) in said, said
    assert ("\n" not in said and "encode" in said) or (harm is os.unlink and part == "cache")
    if part == "cache" and harm is not os.unlink:
        with pytest.raises(UserError, match=r"cache.json is damaged.*; remove .* and encode"):
            encode(source(), Blocks(), tokenizer, tmp_path, clip=Lengths())
        path.unlink()
    again = Blocks()
    encode(source(), again, tokenizer, tmp_path, clip=Lengths())
    assert contents(tmp_path) == good
    assert again.pictures == (0 if part == "cache" else SHARD)  # no more than what was amiss


def test_a_shard_of_another_encoding_is_no_part_of_this_one(tokenizer, tmp_path, monkeypatch):
    """As a backup would bring it back: whole, but not what the cache was finished with."""
    encode(source(), Blocks(), tokenizer, tmp_path / "a")
    for place in ("00001", "00002"):
        shutil.copytree(tmp_path / "a", tmp_path / place)
        for path in (tmp_path / "a").glob("*-00002.*"):
            shutil.copy(path, tmp_path / place / path.name.replace("00002", place))
    with pytest.raises(UserError, match=r"shard-00001.json is that of shard 2; run `cm3leon enc"):
        TokenCache(tmp_path / "00001")
    encode(source(), Blocks(), tokenizer, tmp_path / "00001")
    assert contents(tmp_path / "00001") == contents(tmp_path / "a")
    other = another(117)
    real = scene
    monkeypatch.setattr(
        "cm3leon.world.scenes.scene", lambda *at: other if at[2] == 117 else real(*at)
    )
    encode(source(), Blocks(), tokenizer, tmp_path / "b")
    for path in (tmp_path / "b").glob("*-00002.*"):
        shutil.copy(path, tmp_path / "a" / path.name)
    with pytest.raises(UserError, match=r"a holds shards of two encodings; run `cm3leon encode`"):
        TokenCache(tmp_path / "a")
    encode(source(), Blocks(), tokenizer, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_is_no_cache(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*cache.json"):
        TokenCache(tmp_path)
    (tmp_path / "cache.json").write_text(json.dumps({"format": 2, "source": {}}))
    for use in (TokenCache, lambda folder: encode(source(), Blocks(), tokenizer, folder)):
        with pytest.raises(UserError, match=r"has format 2, this version reads 3; remove /"):
            use(tmp_path)


def pictures(folder, count=6):
    for k in range(count):
        write_png(folder / f"{k}.png", scene("stock", "val", k, 40).image)
        (folder / f"{k}.txt").write_text(f"picture {k}")
    return folder


def as_tar(folder):
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for one in sorted(folder.iterdir()):
            tar.add(one, one.name)
    return path


def keeping_its_date(path, data):
    facts = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


CHANGES = {
    "a caption": lambda folder: (folder / "1.txt").write_text("a blue square"),
    "a caption of the same size, same date": lambda folder: keeping_its_date(
        folder / "1.txt", b"picture 9"
    ),
    "a picture of the same size, same date": lambda folder: keeping_its_date(
        folder / "1.png", (folder / "1.png").read_bytes()[:-20] + b"?" * 20
    ),
    "a caption that was missing": lambda folder: (folder / "4.txt").write_text("there it is"),
    "a picture that was damaged": lambda folder: write_png(
        folder / "3.png", scene("stock", "val", 9, 40).image
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [str, as_tar])
def test_a_corrected_source_is_encoded_anew(tokenizer, tmp_path, monkeypatch, capsys, kind, change):
    monkeypatch.setattr("cm3leon.identity.SETTLED", -(10**18))
    folder = pictures(tmp_path / "given")
    (folder / "3.png").write_bytes(b"damaged")
    (folder / "4.txt").unlink()

    def encoded(name: str, blocks=None):
        given = find_source(str(kind(folder)), shard=4)
        return encode(given, blocks or Blocks(), tokenizer, tmp_path / name)

    old, good = encoded("cache"), contents(tmp_path / "cache")
    capsys.readouterr()
    CHANGES[change](folder)
    new = encoded("cache")
    assert contents(tmp_path / "cache") == contents(encoded("fresh").folder) != good
    assert new.about["source"] != old.about["source"]
    assert capsys.readouterr().err.count("changed since") == 1
    still = Blocks()
    encoded("cache", still)
    assert not still.pictures
    shutil.copytree(folder, tmp_path / "copy")  # other dates, the same bytes
    folder = tmp_path / "copy"
    if kind is str:
        encoded("cache", still)
        assert not still.pictures


def test_captions_of_coco_are_content_too(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("cm3leon.identity.SETTLED", -(10**18))
    root = write_coco(tmp_path / "root", count=5)
    hidden = (root / "val2014").rename(tmp_path / "later")
    with pytest.raises(UserError, match="no document could be read"):
        encode(find_source(str(root)), Blocks(), tokenizer, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    (root / "val2014").mkdir()
    shutil.copy(next(hidden.iterdir()), root / "val2014")
    assert len(encode(find_source(str(root)), Blocks(), tokenizer, tmp_path / "cache")) == 1
    shutil.copytree(hidden, root / "val2014", dirs_exist_ok=True)  # unpacked later
    whole = encode(find_source(str(root)), Blocks(), tokenizer, tmp_path / "cache")
    assert len(whole) == 5 and not whole.skipped
    path = root / "annotations" / "captions_val2014.json"
    path.write_text(path.read_text().replace("caption 1 of picture 3", "caption 1 of picture 4"))
    again = encode(find_source(str(root)), Blocks(), tokenizer, tmp_path / "cache")
    assert tokenizer.decode(again.text(2, 1)) == "caption 1 of picture 4"
    assert again.about["source"] != whole.about["source"]


def test_a_world_of_other_code_is_drawn_again(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("cm3leon.data.sources.world", lambda: "as it was")
    first, blocks = encode(source(), Blocks(), tokenizer, tmp_path), Blocks()
    monkeypatch.setattr("cm3leon.data.sources.world", lambda: "rewritten")
    encode(source(), blocks, tokenizer, tmp_path)
    assert not blocks.pictures  # the code differs, the scenes do not
    changed = another(110)
    real = scene
    monkeypatch.setattr(
        "cm3leon.world.scenes.scene", lambda *at: changed if at[2] == 110 else real(*at)
    )
    monkeypatch.setattr("cm3leon.data.sources.world", lambda: "another world")
    again = encode(source(), blocks, tokenizer, tmp_path)
    assert blocks.pictures == SHARD and again.about["source"] != first.about["source"]
    assert tokenizer.decode(again.text(10)) == "something else"


def test_of_two_sources_at_once_one_gets_the_folder(tokenizer, tmp_path):
    def attempt(count):
        try:
            return encode(source(count), Blocks(), tokenizer, tmp_path)
        except UserError as error:
            assert "holds a cache with source" in str(error)

    with ThreadPoolExecutor(4) as pool:
        done = [one for one in pool.map(attempt, [9, 17, 9, 17]) if one]
    assert len({len(one) for one in done}) == 1 and len(TokenCache(tmp_path)) == len(done[0])


def test_ids_that_repeat_are_refused(tokenizer, tmp_path):
    folder = pictures(tmp_path / "given", 2)
    with open(os.fsencode(folder) + b"/\xe9.png", "wb") as file:
        file.write((folder / "0.png").read_bytes())
    (folder / os.fsdecode(b"\xe9.txt")).write_text("one")
    (folder / "1.png").rename(folder / "\\xe9.png")
    (folder / "1.txt").rename(folder / "\\xe9.txt")
    with pytest.raises(UserError, match=r"two documents .* called '\\\\xe9.png'; rename one"):
        encode(Files(folder), Blocks(), tokenizer, tmp_path / "cache")


def test_what_could_not_be_read_is_named_and_the_rest_is_there(tokenizer, tmp_path):
    pictures = tmp_path / "pictures"
    for k in range(6):
        write_png(pictures / f"{k}.png", scene("stock", "val", k, 40).image)
        (pictures / f"{k}.txt").write_text(f"picture  number\n{k}")
    (pictures / "1.png").write_bytes(b"no picture")
    (pictures / "4.txt").unlink()
    cache = encode(Files(pictures, 4), Blocks(), tokenizer, tmp_path / "cache", clip=Lengths())
    assert cache.ids == ["0.png", "2.png", "3.png", "5.png"] and len(cache) == 4
    assert [name for name, _ in cache.skipped] == ["1.png", "4.png"]
    assert "no picture Pillow can read" in cache.skipped[0][1]
    assert "no caption 4.txt beside it" in cache.skipped[1][1]
    captions = [tokenizer.decode(cache.text(3, k)) for k in range(3)]
    assert captions == ["picture number", "5", "picture number"]
    assert cache.captions == 2 and cache.mean_text > 0
    assert cache.vectors("text_vectors").shape == (4, 2)


def broken(folder, tokenizer, monkeypatch):
    (folder / "a.png").write_bytes(b"no picture")
    (folder / "a.txt").write_text("a")
    return Files(folder), tokenizer, r"no document could be read .* a.png: .*no picture"


def without_words(folder, tokenizer, monkeypatch):
    pictures(folder, 2)
    for path in folder.glob("*.txt"):
        path.write_text(" \n")
    return Files(folder), tokenizer, r"no document could be read .* is blank"


def torn_archive(folder, tokenizer, monkeypatch):
    (folder / "a.tar").write_bytes(b"no archive" * 100)
    return find_source(str(folder)), tokenizer, "a.tar"


def full_disk(folder, tokenizer, monkeypatch):
    def full(*_):
        raise UserError("cannot write: No space left on device")

    monkeypatch.setattr("cm3leon.data.shards._write_shard", full)
    return source(), tokenizer, "No space left on device"


def many_ids(folder, tokenizer, monkeypatch):
    return source(), SimpleNamespace(size=2**16 + 1), "tokenizer must have at most 65536 ids"


@pytest.mark.parametrize("refuse", [broken, without_words, torn_archive, full_disk, many_ids])
def test_a_refused_encoding_claims_no_folder(tokenizer, tmp_path, refuse):
    (tmp_path / "given").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        given, ids, message = refuse(tmp_path / "given", tokenizer, patch)
        for _ in range(2):  # the same again says the same
            with pytest.raises(UserError, match=message):
                encode(given, Blocks(), ids, tmp_path / "cache")
            assert not (tmp_path / "cache").exists()
    assert len(encode(source(), Blocks(), tokenizer, tmp_path / "cache")) == COUNT


def test_what_was_whole_before_a_refusal_is_kept(tokenizer, tmp_path, monkeypatch):
    class Full(Blocks):
        def encode(self, images):
            if self.pictures >= SHARD:
                raise UserError("cannot write: No space left on device")
            return super().encode(images)

    with pytest.raises(UserError, match="No space left"):
        encode(source(), Full(), tokenizer, tmp_path)
    vq = Blocks()
    assert len(encode(source(), vq, tokenizer, tmp_path)) == COUNT
    assert vq.pictures == COUNT - SHARD
