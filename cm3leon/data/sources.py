"""Where documents come from: the embedded world, folders of pictures, MS-COCO, webdataset tars.

A source is read shard by shard, in parts: documents as they lie on disk, which any process can load
for itself, and, by name and reason, what could not be read: a damaged picture or a torn tar never
stops an encoding and is never lost silently. A shard has a `stamp`, which costs a look at its
files, and a digest of all its bytes (`content`), which decides where the stamp differs.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import open_file, read_file
from cm3leon.identity import joined, stamp
from cm3leon.images import decode_picture

SHARD = 4096  # documents of a shard, where the source does not decide
MOST_BYTES = 2**29  # of one file in a tar: read into memory
PICTURES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".jp2",
}  # fmt: skip
TARS = (".tar", ".tar.gz", ".tgz")
WORLD = ("seeds", "world/*")  # files that make scenes


class Item(NamedTuple):
    """A document before it is encoded: uint8 picture [H,W,3] of any size."""

    id: str
    captions: tuple[str, ...]
    image: np.ndarray


class Skipped(NamedTuple):
    """Something that could not be read, and why."""

    id: str
    reason: str

    def texts(self) -> tuple[str, ...]:
        """None."""
        return ()

    def digest(self) -> str:
        """Of name and reason."""
        return joined(self)

    def load(self) -> tuple[str, Skipped]:
        """(digest, itself)."""
        return self.digest(), self


class Part(Protocol):
    """A document as it lies on disk."""

    id: str

    def texts(self) -> tuple[str, ...]:
        """Its captions; no picture is read. Raises UserError when they cannot be read."""

    def digest(self) -> str:
        """Hex SHA-256 of its bytes; no picture is decoded."""

    def load(self) -> tuple[str, Item | Skipped]:
        """The digest and the document, or what is wrong with it."""


class Source(Protocol):
    """`about` says in JSON's types what was asked for, and the names found, but not what they hold:
    that is `content`.
    """

    about: dict
    shards: int

    def parts(self, shard: int) -> Iterator[Part]:
        """The documents of one shard, always in the same order."""

    def stamp(self, shard: int) -> str:
        """As `identity.stamp`, of all that a shard is read from."""


def read(source: Source, shard: int) -> Iterator[Item | Skipped]:
    """The documents of one shard, loaded."""
    for part in source.parts(shard):
        yield part.load()[1]


def content(source: Source, shard: int) -> str:
    """Hex SHA-256 of all that a shard is read from."""
    return joined(part.digest() for part in source.parts(shard))


class Pair(NamedTuple):
    """A picture and its captions: files, or their bytes; captions may be given as texts."""

    id: str
    captions: Path | bytes | tuple[str, ...]
    picture: Path | bytes

    def texts(self) -> tuple[str, ...]:
        """As `Part.texts`."""
        if isinstance(self.captions, tuple):
            return self.captions
        return captions_of(self._read(self.captions), self.id)

    def digest(self) -> str:
        """As `Part.digest`; a file that cannot be read has the digest of an empty one's name."""
        return self._digest(bytes_of(self.picture), bytes_of(self.captions))

    def load(self) -> tuple[str, Item | Skipped]:
        """As `Part.load`."""
        picture, captions = bytes_of(self.picture), bytes_of(self.captions)
        loaded = Pair(self.id, captions, picture)
        name = self.picture if isinstance(self.picture, Path) else self.id
        try:
            texts = loaded.texts()
            item = Item(self.id, texts, decode_picture(loaded._read(picture), name))
        except UserError as error:
            return self._digest(picture, captions), Skipped(self.id, str(error))
        return self._digest(picture, captions), item

    def _read(self, data: Path | bytes | OSError) -> bytes:
        data = bytes_of(data) if isinstance(data, Path) else data
        if not isinstance(data, OSError):
            return data
        if isinstance(data, FileNotFoundError) and data.filename.endswith(".txt"):
            raise UserError(f"no caption {readable(Path(data.filename).name)} beside it")
        raise UserError(f"cannot read {data.filename}: {data.strerror}")

    def _digest(self, *parts) -> str:
        told = [f"error {part.errno}" if isinstance(part, OSError) else part for part in parts]
        return joined([self.id, *(joined(one) if isinstance(one, tuple) else one for one in told)])


def bytes_of(part: Path | bytes | tuple) -> bytes | tuple | OSError:
    """What a file holds, or why it cannot be told; what is no file comes back."""
    if not isinstance(part, Path):
        return part
    try:
        return read_file(part)
    except OSError as error:
        return error


class Scene(NamedTuple):
    """One scene of the embedded world, not yet drawn."""

    dialect: str
    split: str
    index: int
    size: int

    @property
    def id(self) -> str:
        """As of the scene."""
        return f"{self.dialect}-{self.split}-{self.index}"

    def texts(self) -> tuple[str, ...]:
        """As `Part.texts`."""
        return self._drawn().captions

    def digest(self) -> str:
        """As `Part.digest`."""
        return self.load()[0]

    def load(self) -> tuple[str, Item]:
        """As `Part.load`."""
        one = self._drawn()
        digest = joined([one.id, *one.captions, one.image.tobytes()])
        return digest, Item(one.id, one.captions, one.image)

    def _drawn(self):
        from cm3leon.world.scenes import scene

        return scene(self.dialect, self.split, self.index, self.size)


@dataclass(frozen=True)
class Scenes:
    """Scenes start .. start + count of the embedded world."""

    dialect: str
    split: str
    start: int
    count: int
    size: int = 64
    shard: int = SHARD

    def __post_init__(self):
        from cm3leon.world.scenes import check_address

        if self.count < 1:
            raise UserError(f"count of scenes to encode must be at least 1, got {self.count}")
        check_address(self.dialect, self.split, self.start + self.count - 1)

    @property
    def about(self) -> dict:
        """Kind and address."""
        return {
            "kind": "scenes",
            "dialect": self.dialect,
            "split": self.split,
            "start": self.start,
            "count": self.count,
            "size": self.size,
            "shard": self.shard,
        }

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.shard)

    def parts(self, shard: int) -> Iterator[Scene]:
        """The scenes of a shard."""
        for index in chunk(self.count, self.shard, shard):
            yield Scene(self.dialect, self.split, self.start + index, self.size)

    def read(self, shard: int) -> Iterator[Item]:
        """The scenes of a shard, drawn."""
        return read(self, shard)

    def stamp(self, shard: int) -> str:
        """Of the code that draws them."""
        return world()


@cache
def world() -> str:
    """A digest of the code of the embedded world: where it differs, its scenes may."""
    here = Path(__file__).parents[1]
    files = [path for name in WORLD for path in sorted(here.glob(f"{name}.py"))]
    return joined(path.read_bytes() for path in files)


class Files:
    """Picture files with captions beside them: `name.jpg` and `name.txt`, in any folders below.

    Each line of a .txt is a caption. Folders behind links are entered; `._` files of a Mac's
    archives are left out. What else is not taken is among the skipped: captions without a picture,
    folders that cannot be entered.
    """

    def __init__(self, folder: str | Path, shard: int = SHARD, found: Found | None = None):
        self.folder, self.shard = Path(folder), shard
        if not self.folder.is_dir():
            raise UserError(f"no folder {folder}; name one with pictures and captions")
        found = found or walk(self.folder)
        if not found.pictures:
            raise UserError(f"{folder} holds no pictures ({' '.join(sorted(PICTURES))})")
        self.names, self.lost = found.pictures, list(found.lost)
        with_picture = {_caption_file(name) for name in self.names}
        for name in found.texts:
            if name not in with_picture:
                self.lost.append(Skipped(readable(name), "a caption without a picture beside it"))
        self.about = {"kind": "files", "fingerprint": joined(self.names)}
        self.about |= {"count": len(self.names), "shard": shard}
        self.shards = -(-len(self.names) // shard)

    def parts(self, shard: int) -> Iterator[Pair | Skipped]:
        """The pictures of a shard, by name; before the first, what is lost."""
        yield from self.lost if shard == 0 else ()
        for index in chunk(len(self.names), self.shard, shard):
            name = self.names[index]
            files = self.folder / _caption_file(name), self.folder / name
            yield Pair(readable(name), *files)

    def read(self, shard: int) -> Iterator[Item | Skipped]:
        """The pictures of a shard, loaded."""
        return read(self, shard)

    def stamp(self, shard: int) -> str:
        """Of the files of a shard."""
        names = [self.names[index] for index in chunk(len(self.names), self.shard, shard)]
        paths = (self.folder / one for name in names for one in (name, _caption_file(name)))
        return stamp_of(paths, self.lost if shard == 0 else ())


class Coco:
    """The captioned pictures of a split of MS-COCO with all their captions.

    Raises UserError as `coco.only_split` and `coco.read_captions`.
    """

    def __init__(self, root: str | Path, split: str | None = None, shard: int = SHARD):
        from cm3leon.data.coco import only_split, read_captions

        split = only_split(root, split)
        self.entries, self.shard = read_captions(root, split), shard
        self.lost = [Skipped(*pair) for pair in self.entries.left_out]
        ids = [f"{entry.image_id}" for entry in self.entries]
        self.about = {"kind": "coco", "fingerprint": joined(ids)}
        self.about |= {"count": len(ids), "shard": shard}
        self.shards = -(-len(ids) // shard)

    def parts(self, shard: int) -> Iterator[Pair | Skipped]:
        """The pictures of a shard, by image id; before the first, what is lost."""
        yield from self.lost if shard == 0 else ()
        for index in chunk(len(self.entries), self.shard, shard):
            entry = self.entries[index]
            texts = tuple(caption.text for caption in entry.captions)
            yield Pair(f"coco-{entry.image_id}", texts, entry.path)

    def read(self, shard: int) -> Iterator[Item | Skipped]:
        """The pictures of a shard, loaded."""
        return read(self, shard)

    def stamp(self, shard: int) -> str:
        """Of the pictures' files and of the captions themselves."""
        parts = list(self.parts(shard))
        pairs = [part for part in parts if isinstance(part, Pair)]
        told = [text for part in parts for text in (part.id, *part.texts())]
        return stamp_of([pair.picture for pair in pairs], [told, *self.lost])


class Tars:
    """Shards of webdataset's layout: the files of a sample share a key, `key.jpg` and `key.txt`.

    One tar is one shard; each line of a .txt is a caption. A torn tar gives the samples before the
    tear, and its name as skipped; of samples with one key the first is taken, the others skipped.
    Ids begin with the tar's name, below `base` where one is given.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        base: Path | None = None,
        lost: Sequence[Skipped] = (),
    ):
        self.paths, self.lost = sorted(map(Path, paths)), list(lost)
        if not self.paths:
            raise UserError("no tar files to read; name files ending in .tar or a folder of them")
        if gone := [path for path in self.paths if not path.is_file()]:
            raise UserError(f"no tar file {gone[0]}; name files that exist")
        self.names = [
            (path.name if base is None else path.relative_to(base).as_posix())
            for path in self.paths
        ]
        if len(set(map(_without_ending, self.names))) < len(self.names):
            raise UserError("two tar files have the same name; ids would repeat, rename one")
        self.about = {"kind": "tars", "fingerprint": joined(self.names), "tars": len(self.names)}
        self.shards = len(self.names)

    def parts(self, shard: int) -> Iterator[Pair | Skipped]:
        """The samples of one tar in its order."""
        yield from self.lost if shard == 0 else ()
        path, name = self.paths[shard], readable(self.names[shard])
        stem, sample, seen, empty = _without_ending(name), None, set(), True
        try:
            for member, data in members(path):
                empty = False
                key, kind = key_and_kind(readable(member))
                if isinstance(data, str):
                    yield Skipped(f"{stem}/{key}.{kind}", data)
                    continue
                if sample is not None and (key != sample.key or sample.has(kind)):
                    yield from sample.parts(f"{stem}/{sample.key}", sample.key in seen)
                    seen.add(sample.key)
                    sample = None
                sample = sample or Sample(key, {})
                sample.files[kind] = data if sample.is_wanted(kind) else b""
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            yield Skipped(name, f"torn tar: {error}")
            return
        if sample is not None:
            yield from sample.parts(f"{stem}/{sample.key}", sample.key in seen)
        if empty:
            yield Skipped(name, "no file in this tar")
        if not ends_well(path):
            yield Skipped(name, "torn tar: no mark of its end")

    def read(self, shard: int) -> Iterator[Item | Skipped]:
        """The samples of one tar, loaded."""
        return read(self, shard)

    def stamp(self, shard: int) -> str:
        """Of the tar."""
        return stamp_of([self.paths[shard]], self.lost if shard == 0 else ())


class Sample(NamedTuple):
    """The files of one key of a tar, by kind; those that are not wanted are empty."""

    key: str
    files: dict[str, bytes]

    @staticmethod
    def is_wanted(kind: str) -> bool:
        """Whether a kind is a picture or the captions."""
        return f".{kind}" in PICTURES or kind == "txt"

    def has(self, kind: str) -> bool:
        """Whether a file of this kind, or another picture, is there: then a new sample begins."""
        if f".{kind}" in PICTURES:
            return any(f".{other}" in PICTURES for other in self.files)
        return kind == "txt" and kind in self.files

    def parts(self, name: str, again: bool) -> Iterator[Pair | Skipped]:
        """The document, or each picture that is lost; `again`: a sample of this key came before."""
        picture = next((kind for kind in self.files if f".{kind}" in PICTURES), None)
        among = ", ".join(sorted(self.files))
        hidden = [kind for kind in self.files if f".{kind.rpartition('.')[2]}" in PICTURES]
        if again:
            yield Skipped(name, "its key stands twice in the tar; the first sample is taken")
        elif picture is not None and "txt" in self.files:
            yield Pair(name, self.files["txt"], self.files[picture])
        elif picture is not None:
            yield Skipped(name, f"no caption (.txt) among {among}")
        elif hidden:
            for kind in hidden:
                key = PurePosixPath(self.key).name
                reason = f"no picture among {among}: a key ends at its first dot, this is {key!r}"
                yield Skipped(f"{name}.{kind}", f"{reason}; rename it")
        else:
            yield Skipped(name, f"no picture among {among}")


class Found(NamedTuple):
    """The files below a folder by their relative names, sorted; what could not be entered."""

    pictures: list[str]
    texts: list[str]
    tars: list[str]
    lost: list[Skipped]


def walk(top: Path) -> Found:
    """Every picture, caption file and tar below a folder, also behind links."""
    found, waiting = Found([], [], [], []), [("", frozenset())]
    kinds = ((tuple(PICTURES), found.pictures), ((".txt",), found.texts), (TARS, found.tars))
    while waiting:
        folder, above = waiting.pop()
        try:
            facts = os.stat(top / folder)
            entries = list(os.scandir(top / folder))
        except OSError as error:
            found.lost.append(Skipped(readable(folder), f"cannot be entered: {error.strerror}"))
            continue
        here = (facts.st_dev, facts.st_ino)
        if here in above:
            found.lost.append(Skipped(readable(folder), "a link to a folder above it"))
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("._"):
                continue
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                waiting.append((name, above | {here}))
                continue
            for endings, names in kinds:
                if name.lower().endswith(endings):
                    names.append(name)
    for names in found:
        names.sort()
    return found


def find_source(name: str, size: int = 64, shard: int = SHARD) -> Source:
    """A source by what lies at a path, or an address of the embedded world.

    `scenes:stock/bank:0:1000` (dialect/split:start:count), a `.tar` file, a folder of tars, a root
    of MS-COCO (`root:split`, or `root` where it has one split), else a folder of pictures with
    captions beside them. Raises UserError for a folder of two kinds: nothing in it is hidden.
    """
    if name.startswith("scenes:"):
        return Scenes(*scenes_address(name), size, shard)
    path, split = Path(name), None
    if not path.exists() and ":" in name:
        path, split = Path(name.rpartition(":")[0]), name.rpartition(":")[2]
    if path.name.lower().endswith(TARS) and not path.is_dir():
        return Tars([path])
    if not path.is_dir():
        raise UserError(f"no source at {name}; name a folder, a .tar file or scenes:...")
    return Coco(path, split, shard) if split else _of_folder(path, shard)


def scenes_address(name: str) -> tuple[str, str, int, int]:
    """Dialect, split, start and count of `scenes:DIALECT/SPLIT:START:COUNT`."""
    try:
        _, place, start, count = name.split(":")
        dialect, split = place.split("/")
        return dialect, split, int(start), int(count)
    except ValueError:
        raise UserError(f"source {name!r} must read scenes:DIALECT/SPLIT:START:COUNT") from None


def _of_folder(path: Path, shard: int) -> Source:
    """The source that a folder is, by what lies in it."""
    found = walk(path)
    coco = any(path.glob("captions_*.json")) or any(path.glob("annotations/captions_*.json"))
    if found.tars and (coco or found.pictures):
        other, way = f"{len(found.pictures):,} pictures", "put one kind into a folder of its own"
        if coco:
            other, way = "captions of MS-COCO", f"name {path}:SPLIT"
        raise UserError(
            f"{path} holds {other} and {len(found.tars):,} tar files ({readable(found.tars[0])}); "
            f"{way}, or name a tar file itself"
        )
    if coco:
        return Coco(path, shard=shard)
    if found.tars:
        return Tars([path / one for one in found.tars], path, found.lost)
    return Files(path, shard, found)


def chunk(count: int, size: int, number: int) -> range:
    """Indices of piece `number` when `count` things are cut into pieces of `size`."""
    if not 0 <= number * size < count:
        raise UserError(f"shard must lie in 0..{-(-count // size) - 1}, got {number}")
    return range(number * size, min(count, (number + 1) * size))


def key_and_kind(name: str) -> tuple[str, str]:
    """webdataset's split of a member's name: at the first dot of its last part."""
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    return (path.parent / stem).as_posix(), kind.lower()


def members(path: Path) -> Iterator[tuple[str, bytes | str]]:
    """(name, bytes) of the files in a tar, or (name, why it is not read); `._` files left out.

    Raises what tarfile and the decompressors raise for a damaged one, also by its checksum.
    """
    with unpacked(path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if member.isdir() or PurePosixPath(member.name).name.startswith("._"):
                continue
            if not member.isfile():
                yield member.name, "no file, but a link or a device"
            elif member.size > MOST_BYTES:
                yield member.name, f"has {member.size:,} bytes, more than {MOST_BYTES:,}"
            else:
                data = tar.extractfile(member).read()
                if len(data) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield member.name, data
        while file.read(2**20):  # to the checksum behind compressed data
            pass


def unpacked(path: Path) -> BinaryIO:
    """A file open for reading, through gzip, bzip2 or xz where it is packed so."""
    with open_file(path) as file:
        start = file.read(6)
    for module, mark in ((gzip, b"\x1f\x8b"), (bz2, b"BZh"), (lzma, b"\xfd7zXZ\0")):
        if start.startswith(mark):
            return module.open(path, "rb")
    return open(path, "rb")


def ends_well(path: Path) -> bool:
    """Whether a tar that was read to its end has the two empty blocks that close an archive.

    One cut between two members reads without an error. A compressed one has its own check.
    """
    with open(path, "rb") as file:
        plain = file.read(512)[257:262] == b"ustar"
        if plain:
            file.seek(-min(1024, path.stat().st_size), 2)
            return not any(file.read())
    return True


def captions_of(data: bytes, name: str) -> tuple[str, ...]:
    """The captions in a file's bytes: one a line, runs of white space made one space.

    UTF-8, with a byte order mark or without; lines end with \\n or \\r\\n. Raises UserError when it
    is no UTF-8, and when no line has a word.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"caption of {name} is no UTF-8 at byte {error.start}") from None
    lines = (" ".join(line.split()) for line in text.split("\n"))
    if captions := tuple(filter(None, lines)):
        return captions
    raise UserError(f"caption of {name} is blank")


def readable(name: str) -> str:
    """A file's name with bytes that are no UTF-8 as \\xe9: a text that any encoding takes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _caption_file(name: str) -> str:
    return PurePosixPath(name).with_suffix(".txt").as_posix()


def _without_ending(name: str) -> str:
    ending = next((one for one in TARS if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def stamp_of(paths, told: Sequence) -> str:
    """The stamp of files, and of what was told of them beside."""
    files = stamp(paths)
    return files and joined([files, *(joined(one) for one in told)])
