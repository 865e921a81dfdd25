"""Square pictures to put through a tokenizer: of the embedded world, a folder, MS-COCO, tars.

Captions are not asked for: a folder of bare picture files will do.

Shapes: S pixels of a side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.protocols.prompts import checked_count
from benchmarks.protocols.scenes import Rendered, coco_task
from cm3leon.data.sources import PICTURES, Skipped, Tars
from cm3leon.errors import UserError
from cm3leon.images import CROP, crop_square, read_picture

SCENES = 1000  # pictures of the embedded world where no number is given


@dataclass
class Squares:
    """(name, uint8 [S,S,3]) of pictures of any size, with what a protocol says of them.

    `source` is iterated anew for every pass and gives (name, uint8 [H,W,3]), or Skipped in its
    place. After a pass `unreadable` names those left out, with .reason.
    """

    source: Iterable
    size: int
    about: dict
    skipped: list[Skipped] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        self.skipped = []
        for one in self.source:
            if isinstance(one, Skipped):
                self.skipped.append(one)
            else:
                yield one[0], crop_square(one[1], self.size)

    @property
    def unreadable(self) -> list:
        """Id or name first, reason last."""
        return [*self.skipped, *getattr(self.source, "unreadable", ())]


@dataclass(frozen=True)
class FolderPictures:
    """The picture files below a folder, by name."""

    folder: Path
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, np.ndarray] | Skipped]:
        for name in self.names:
            try:
                yield name, read_picture(self.folder / name)
            except UserError as error:
                yield Skipped(name, str(error))


@dataclass(frozen=True)
class TarPictures:
    """The first n pictures of webdataset's tars (all for None), in their order."""

    tars: Tars
    n: int | None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray] | Skipped]:
        shards = range(self.tars.shards)
        found = (one for shard in shards for one in self.tars.read(shard))
        for one in islice(found, self.n):
            yield one if isinstance(one, Skipped) else (one.id, one.image)


def find_pictures(data: str, n: int | None, size: int, most: int | None = None) -> Squares:
    """Pictures as (id, uint8 [S,S,3]) that can be read again, with `about` and `unreadable`.

    `data`: "scenes" (coco dialect, test), a .tar or a folder of them, a root of MS-COCO ("root" or
    "root:split", in a seeded order), or a folder of picture files. n None: all there are (scenes:
    1,000), at most `most`. Raises UserError where nothing is found or there are fewer than n.
    """
    if data == "scenes":
        count = n or min(SCENES, most or SCENES)
        about = {"pictures": f"scenes coco test, at {size}"}
        return Squares(Rendered("coco", "test", range(count), size), size, about)
    path, split = Path(data), None
    if not path.exists() and ":" in data:
        name, _, split = data.rpartition(":")
        path = Path(name)
    if path.suffix == ".tar" and path.is_file():
        return of_tars([path], n, size, most)
    if not path.is_dir():
        raise UserError(f"no pictures at {data}; name scenes, a folder or a .tar")
    if tars := sorted(path.glob("*.tar")):
        return of_tars(tars, n, size, most)
    if split or any(path.glob("captions_*.json")) or any(path.glob("annotations/captions_*.json")):
        return of_coco(path, split, n, size, most)
    return of_folder(path, n, size, most)


def of_tars(paths: list[Path], n: int | None, size: int, most: int | None) -> Squares:
    """The first pictures of tars."""
    source = TarPictures(Tars(paths), n or most)
    about = {"pictures": f"webdataset tars in their order, {CROP} to {size}"}
    return Squares(source, size, about)


def of_folder(folder: Path, n: int | None, size: int, most: int | None) -> Squares:
    """The picture files of a folder, by name."""
    found = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES
    )
    if not found:
        raise UserError(f"{folder} holds no pictures ({' '.join(sorted(PICTURES))})")
    count = checked_count(n or min(len(found), most or len(found)), len(found), str(folder))
    about = {"pictures": f"a folder's, by name, {CROP} to {size}"}
    return Squares(FolderPictures(folder, tuple(found[:count])), size, about)


def of_coco(root: Path, split: str | None, n: int | None, size: int, most: int | None) -> Squares:
    """The captioned pictures of an MS-COCO split in the order of `fid_coco`'s prompts."""
    task = coco_task(root, split, n, size, most)
    name = task.about["prompts"].partition(",")[0]
    about = {"pictures": f"{name} in a seeded order, {CROP} to {size}"}
    return Squares(task.reference, size, about)
