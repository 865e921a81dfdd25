"""MS-COCO's layout on disk: captions, where their pictures lie, and the square reference pictures.

A root holds `annotations/captions_<split>.json` (2014, 2017 or any split with captions) and the
pictures in `<split>/`, `images/<split>/`, `images/` or beside them. Nothing is downloaded.

Axes: S side of a square picture, 3 RGB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cm3leon.checkpoint import read_json
from cm3leon.errors import UserError
from cm3leon.images import crop_square, read_picture

CAPTIONS = "a COCO captions file"


class Caption(NamedTuple):
    """One caption: its annotation id, and the text with runs of white space made one space."""

    id: int
    text: str


class Entry(NamedTuple):
    """One picture: `path` is where it should lie, whether it is there or not."""

    image_id: int
    path: Path
    captions: tuple[Caption, ...]  # in order of their ids


class Entries(list[Entry]):
    """Captioned pictures; `left_out` are (name, reason) of blank or broken captions, and of
    pictures without any.
    """

    left_out: list[tuple[str, str]]


class Unreadable(NamedTuple):
    """A picture that is missing or damaged, and why."""

    image_id: int
    path: Path
    reason: str


def find_splits(root: str | Path) -> dict[str, Path]:
    """Split name ("val2017") -> its captions file, sorted; UserError when there is none."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no folder {root}; name the root of an MS-COCO copy")
    files = [*root.glob("captions_*.json"), *(root / "annotations").glob("captions_*.json")]
    if not files:
        raise UserError(
            f"{root} has no captions: looked for {root}/annotations/captions_<split>.json "
            "and captions_<split>.json"
        )
    files = [path for path in files if not path.stem.endswith("_results")] or files  # a model's
    return {path.stem.removeprefix("captions_"): path for path in sorted(files)}


def only_split(root: str | Path, split: str | None) -> str:
    """The split itself, or the only one; UserError for a choice among several: what an encoding
    is for, training or validation, is not to be guessed.
    """
    if split is None and len(splits := list(find_splits(root))) > 1:
        raise UserError(f"{root} has the splits {', '.join(splits)}; name {root}:{splits[0]}")
    return split or next(iter(find_splits(root)))


def choose_split(splits: Sequence[str], root: str | Path) -> str:
    """The only split, or the only validation split among several; otherwise a UserError."""
    if len(splits) == 1:
        return splits[0]
    validation = [split for split in splits if split.startswith("val")]
    if len(validation) == 1:
        return validation[0]
    raise UserError(f"{root} has the splits {', '.join(splits)}; name one")


def read_captions(root: str | Path, split: str | None = None) -> Entries:
    """All captioned pictures of a split, sorted by image id.

    None takes the only split, or the validation split. Pictures without a caption are left out and
    named, and so are blank captions and those with half a character (a lone surrogate); captioned
    pictures without a file stay (a caption is a prompt all the same) and are reported by
    `Reference`. Raises UserError for a missing folder, split or captions file, for torn or
    misbuilt JSON, and for an annotation of an unknown picture.
    """
    root, splits = Path(root), find_splits(root)
    if split is None:
        split = choose_split(list(splits), root)
    if split not in splits:
        raise UserError(f"{root} has no captions of split {split!r}; it has {', '.join(splits)}")
    path = splits[split]
    content = read_json(path)
    names = names_of(objects_of(content, "images", path), path)
    captions, left_out = _captions(objects_of(content, "annotations", path), names, path)
    folders = folders_of(root, split, path)
    entries = Entries(
        Entry(image_id, place_of(names[image_id], folders), tuple(sorted(captions[image_id])))
        for image_id in sorted(captions)
    )
    bare = sorted(set(names) - set(captions))
    entries.left_out = left_out + [(f"coco-{image_id}", "has no caption") for image_id in bare]
    return entries


class Reference:
    """The pictures of entries as square reference pictures; iterate to read them.

    Yields (image id, uint8 [size,size,3]) for each readable one, cropped by
    `pictures.crop_square`. `unreadable` lists, after an iteration, those left out.
    """

    def __init__(self, entries: Sequence[Entry], size: int):
        self.entries, self.size = entries, size
        self.unreadable: list[Unreadable] = []

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        self.unreadable = []
        for image_id, path, _ in self.entries:
            try:
                image = read_picture(path)
            except UserError as error:
                self.unreadable.append(Unreadable(image_id, path, str(error)))
                continue
            yield image_id, crop_square(image, self.size)


def read_reference(entries: Sequence[Entry], size: int) -> Reference:
    """The square pictures of entries, read one by one, with a report of those left out."""
    return Reference(entries, size)


def objects_of(content: dict, key: str, path: Path, what: str = CAPTIONS) -> list[dict]:
    """The list of objects under `key` of a file that is to be `what`."""
    records = content.get(key)
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise UserError(f"{path} has no list of objects {key!r}; it is not {what}")
    return records


def field_of(record: dict, key: str, kind: type, what: str, path: Path):
    """A field of a record, of the right type."""
    value = record.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{path}: {what} needs {kind.__name__} {key!r}, got {value!r}")
    return value


def names_of(images: list[dict], path: Path) -> dict[int, str]:
    """Image id -> file name, which must stay inside the folder of pictures."""
    names: dict[int, str] = {}
    for number, image in enumerate(images):
        image_id = field_of(image, "id", int, f"image number {number}", path)
        name = field_of(image, "file_name", str, f"image {image_id}", path)
        parts = PurePosixPath(name)
        if not name or parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise UserError(f"{path}: image {image_id} has file_name {name!r}, outside its folder")
        if image_id in names:
            raise UserError(f"{path} lists image {image_id} twice")
        names[image_id] = name
    return names


def _captions(
    annotations: list[dict], names: dict, path: Path
) -> tuple[dict[int, list[Caption]], list[tuple[str, str]]]:
    """(image id -> its captions that hold text, (name, reason) of the others)."""
    captions: dict[int, list[Caption]] = {}
    left_out: list[tuple[str, str]] = []
    seen: set[int] = set()
    for number, annotation in enumerate(annotations):
        own = field_of(annotation, "id", int, f"annotation number {number}", path)
        image_id = field_of(annotation, "image_id", int, f"annotation {own}", path)
        text = field_of(annotation, "caption", str, f"annotation {own}", path)
        if own in seen:
            raise UserError(f"{path} lists annotation {own} twice")
        seen.add(own)
        if image_id not in names:
            raise UserError(f"{path}: annotation {own} is of image {image_id}, which is not listed")
        name = f"coco-{image_id} caption {own}"
        if broken := re.search("[\ud800-\udfff]", text):
            reason = f"has half a character (a lone surrogate) at {broken.start()}"
            left_out.append((name, f"{reason}; mend it in {path.name}"))
        elif words := text.split():
            captions.setdefault(image_id, []).append(Caption(own, " ".join(words)))
        else:
            left_out.append((name, f"is blank in {path.name}"))
    return captions, left_out


def folders_of(root: Path, split: str, path: Path) -> list[Path]:
    """Where pictures may lie, first guess first."""
    places = [root / split, root / "images" / split, root / "images", root, path.parent]
    return [place for place in places if place.is_dir()]


def place_of(name: str, folders: list[Path]) -> Path:
    """The first place where the file is; the first guess when it is nowhere."""
    return next((place / name for place in folders if (place / name).is_file()), folders[0] / name)
