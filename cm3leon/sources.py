"""Where documents come from: the embedded world, folders of pictures, MS-COCO, webdataset tars.

A source is read shard by shard, and each shard gives documents and, by name and reason, what could
not be read: a damaged picture or a torn tar never stops an encoding and is never lost silently.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.pictures import decode_picture, read_picture

SHARD = 4096  # documents of a shard, where the source does not decide
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
COCO_CAPTIONS = 5


class Item(NamedTuple):
    """A document before it is encoded: uint8 picture [H,W,3] of any size."""

    id: str
    captions: tuple[str, ...]
    image: np.ndarray


class Skipped(NamedTuple):
    """Something that could not be read, and why."""

    id: str
    reason: str


class Source(Protocol):
    """`about` is its identity in JSON's types; every item of it has `captions` captions."""

    about: dict
    captions: int
    shards: int

    def read(self, shard: int) -> Iterator[Item | Skipped]:
        """The documents of one shard, always in the same order."""


@dataclass(frozen=True)
class Scenes:
    """Scenes start .. start + count of the embedded world."""

    dialect: str
    split: str
    start: int
    count: int
    size: int = 64
    shard: int = SHARD
    captions = 5

    def __post_init__(self):
        from cm3leon.scenes import check_address

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

    def read(self, shard: int) -> Iterator[Item]:
        """The scenes of a shard, drawn."""
        from cm3leon.scenes import scene

        for index in chunk(self.count, self.shard, shard):
            one = scene(self.dialect, self.split, self.start + index, self.size)
            yield Item(one.id, one.captions, one.image)


class Files:
    """Picture files with captions beside them: `name.jpg` and `name.txt`, in any folders below."""

    captions = 1

    def __init__(self, folder: str | Path, shard: int = SHARD):
        self.folder, self.shard = Path(folder), shard
        if not self.folder.is_dir():
            raise UserError(f"no folder {folder}; name one with pictures and captions")
        found = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in PICTURES)
        if not found:
            raise UserError(f"{folder} holds no pictures ({' '.join(sorted(PICTURES))})")
        self.names = [path.relative_to(self.folder).as_posix() for path in found]
        sizes = [path.stat().st_size for path in found]
        self.about = {"kind": "files", "fingerprint": fingerprint(self.names, sizes)}
        self.about |= {"count": len(self.names), "shard": shard}
        self.shards = -(-len(self.names) // shard)

    def read(self, shard: int) -> Iterator[Item | Skipped]:
        """The pictures of a shard, by name."""
        for index in chunk(len(self.names), self.shard, shard):
            name = self.names[index]
            path = self.folder / name
            try:
                text = path.with_suffix(".txt").read_bytes()
                yield Item(name, (caption_of(text, name),), read_picture(path))
            except FileNotFoundError:
                yield Skipped(name, f"no caption {path.with_suffix('.txt').name} beside it")
            except UserError as error:
                yield Skipped(name, str(error))


class Coco:
    """The captioned pictures of a split of MS-COCO; five captions each, fewer are repeated."""

    captions = COCO_CAPTIONS

    def __init__(self, root: str | Path, split: str | None = None, shard: int = SHARD):
        from cm3leon.coco import read_captions

        self.entries, self.shard = read_captions(root, split), shard
        ids = [f"{entry.image_id}" for entry in self.entries]
        sizes = [len(entry.captions) for entry in self.entries]
        self.about = {"kind": "coco", "fingerprint": fingerprint(ids, sizes)}
        self.about |= {"count": len(ids), "shard": shard}
        self.shards = -(-len(ids) // shard)

    def read(self, shard: int) -> Iterator[Item | Skipped]:
        """The pictures of a shard, by image id."""
        for index in chunk(len(self.entries), self.shard, shard):
            entry = self.entries[index]
            texts = [caption.text for caption in entry.captions]
            texts = tuple(texts[k % len(texts)] for k in range(COCO_CAPTIONS))
            try:
                yield Item(f"coco-{entry.image_id}", texts, read_picture(entry.path))
            except UserError as error:
                yield Skipped(f"coco-{entry.image_id}", str(error))


class Tars:
    """Shards of webdataset's layout: the files of a sample share a key, `key.jpg` and `key.txt`.

    One tar is one shard. A torn tar gives the samples before the tear, and its name as skipped.
    """

    captions = 1

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = sorted(map(Path, paths))
        if not self.paths:
            raise UserError("no tar files to read; name files ending in .tar or a folder of them")
        if gone := [path for path in self.paths if not path.is_file()]:
            raise UserError(f"no tar file {gone[0]}; name files that exist")
        names = [path.name for path in self.paths]
        if len(set(names)) < len(names):
            raise UserError("two tar files have the same name; ids would repeat, rename one")
        sizes = [path.stat().st_size for path in self.paths]
        self.about = {"kind": "tars", "fingerprint": fingerprint(names, sizes)}
        self.about |= {"tars": len(names)}
        self.shards = len(names)

    def read(self, shard: int) -> Iterator[Item | Skipped]:
        """The samples of one tar in its order."""
        path = self.paths[shard]
        parts: dict[str, bytes] = {}
        before = None
        try:
            with tarfile.open(path, "r|*") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    key, kind = key_and_kind(member.name)
                    if before is not None and key != before:
                        yield sample(f"{path.stem}/{before}", parts)
                        parts = {}
                    data = tar.extractfile(member).read()
                    if len(data) < member.size:
                        raise tarfile.ReadError("unexpected end of data")
                    before, parts[kind] = key, data
        except (tarfile.TarError, EOFError, OSError) as error:
            yield Skipped(path.name, f"torn tar: {error}")
            return
        if before is not None:
            yield sample(f"{path.stem}/{before}", parts)
        if not ends_well(path):
            yield Skipped(path.name, "torn tar: no mark of its end")


def find_source(name: str, size: int = 64, shard: int = SHARD) -> Source:
    """A source by what lies at a path, or an address of the embedded world.

    `scenes:stock/bank:0:1000` (dialect/split:start:count), a `.tar` file, a folder of tars, a root
    of MS-COCO (`root` or `root:split`), else a folder of pictures with captions beside them.
    """
    if name.startswith("scenes:"):
        try:
            _, place, start, count = name.split(":")
            dialect, split = place.split("/")
            return Scenes(dialect, split, int(start), int(count), size, shard)
        except ValueError:
            raise UserError(f"source {name!r} must read scenes:DIALECT/SPLIT:START:COUNT") from None
    path, split = Path(name), None
    if not path.exists() and ":" in name:
        path, split = Path(name.rpartition(":")[0]), name.rpartition(":")[2]
    if path.suffix == ".tar":
        return Tars([path])
    if not path.is_dir():
        raise UserError(f"no source at {name}; name a folder, a .tar file or scenes:...")
    if tars := sorted(path.glob("*.tar")):
        return Tars(tars)
    if (
        split
        or list(path.glob("captions_*.json"))
        or list(path.glob("annotations/captions_*.json"))
    ):
        return Coco(path, split, shard)
    return Files(path, shard)


def chunk(count: int, size: int, number: int) -> range:
    """Indices of piece `number` when `count` things are cut into pieces of `size`."""
    if not 0 <= number * size < count:
        raise UserError(f"shard must lie in 0..{-(-count // size) - 1}, got {number}")
    return range(number * size, min(count, (number + 1) * size))


def fingerprint(names: Sequence[str], sizes: Sequence[int]) -> str:
    """SHA-256 over names and sizes: another file, or a changed one, is another source."""
    pairs = zip(names, sizes, strict=True)
    return sha256_bytes("\n".join(f"{name}\t{size}" for name, size in pairs).encode())


def key_and_kind(name: str) -> tuple[str, str]:
    """webdataset's split of a member's name: at the first dot of its last part."""
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    return (path.parent / stem).as_posix(), kind.lower()


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


def sample(name: str, parts: dict[str, bytes]) -> Item | Skipped:
    """The document of a sample's files."""
    picture = next((data for kind, data in parts.items() if f".{kind}" in PICTURES), None)
    if picture is None or "txt" not in parts:
        lacking = "picture" if picture is None else "caption (.txt)"
        return Skipped(name, f"no {lacking} among {', '.join(sorted(parts))}")
    try:
        return Item(name, (caption_of(parts["txt"], name),), decode_picture(picture, name))
    except UserError as error:
        return Skipped(name, str(error))


def caption_of(data: bytes, name: str) -> str:
    """A caption file's text with runs of white space made one space; UserError when not UTF-8."""
    try:
        return " ".join(data.decode().split())
    except UnicodeDecodeError as error:
        raise UserError(f"caption of {name} is no UTF-8 at byte {error.start}") from None
