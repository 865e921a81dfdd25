"""Karpathy's split of MS-COCO, Flickr30k or Flickr8k: one JSON file, `dataset_coco.json`.

Split `train` holds the file's `train` alone; `restval`, which most trainings add, is named apart,
or both as `train+restval`. Pictures lie beside the file or in `pictures`, in their `filepath`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from cm3leon.checkpoint import read_json
from cm3leon.data.coco import field_of, objects_of
from cm3leon.data.examples import Examples, Shown
from cm3leon.data.sources import Skipped
from cm3leon.errors import UserError

WHAT = "a file of Karpathy's splits"


def karpathy(path: str | Path, split: str | None, pictures: Path | None = None) -> Examples:
    """The captioned pictures of a split.

    Raises UserError for a split that is not there, torn or misbuilt JSON, a name outside its
    folder.
    """
    path = Path(path)
    images = objects_of(read_json(path), "images", path, WHAT)
    splits = sorted({str(one.get("split")) for one in images})
    wanted = set((split or "").split("+"))
    if not wanted <= set(splits):
        told = "several splits" if split is None else f"no split {split!r}"
        raise UserError(f"{path} has {told}; name one of {', '.join(splits)}")
    home, parts, lost = pictures or path.parent, [], []
    for number, image in enumerate(images):
        if str(image.get("split")) not in wanted:
            continue
        file = field_of(image, "filename", str, f"image number {number}", path)
        inner = PurePosixPath(str(image.get("filepath") or ""), file)
        if inner.is_absolute() or ".." in inner.parts or "\0" in str(inner):
            raise UserError(f"{path}: image number {number} is {str(inner)!r}, outside its folder")
        name = f"karpathy-{image.get('cocoid', image.get('imgid', number))}"
        said = [
            " ".join(field_of(one, "raw", str, f"a sentence of {name}", path).split())
            for one in objects_of(image, "sentences", path, WHAT)
        ]
        if texts := tuple({"caption": text} for text in said if text):
            parts.append(Shown(name, {"image": _place(home, inner)}, texts))
        else:
            lost.append(Skipped(name, "has no caption"))
    return Examples("karpathy", parts, lost, {"split": split})


def _place(home: Path, inner: PurePosixPath) -> Path:
    """In its own folder, in `images/` before it, or in the home itself."""
    places = [
        home / inner,
        home / "images" / inner,
        home / "images" / inner.name,
        home / inner.name,
    ]
    return next((place for place in places if place.is_file()), places[0])
