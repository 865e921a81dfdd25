"""Boxes of MS-COCO (instances, panoptic, person keypoints) as grounded examples.

Pictures are cropped to their centre square, so boxes are too: one of which less than half is left
goes. Crowds, and what is no thing (panoptic's stuff), are left out. A picture's largest boxes come
first, `MOST` at most; each of its captions makes a record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from cm3leon.checkpoint import read_json
from cm3leon.data.coco import field_of, names_of, objects_of, only_split, read_captions
from cm3leon.data.examples import Examples, Shown
from cm3leon.data.sources import Skipped
from cm3leon.errors import UserError
from cm3leon.world.coordinates import Box, at_location

ANNOTATIONS = ("instances", "panoptic", "person_keypoints")
MOST = 10  # boxes of a prompt
KEPT = 0.5  # share of a box that the crop must leave
SLACK = 1.0  # pixels by which the annotations themselves leave their pictures


def boxes_as_text(boxes: Sequence[tuple[str, Sequence[float]]], size: float) -> dict[str, str]:
    """The fields `objects` and `with_objects` of (name, box x0, y0, x1, y1 in pixels) of a picture
    `size` wide, as the paper writes them (Table 5, Figure 15).

    Raises UserError for no box, a blank name, a box outside the picture or with x1 <= x0.
    """
    if not boxes:
        raise UserError("a grounded prompt needs a box, got none")
    if any(not name.strip() for name, _ in boxes):
        raise UserError("a box needs the name of what is in it, got a blank one")
    said = [f"{name.strip()} {at_location(box, size)}" for name, box in boxes]
    return {"objects": ", ".join(said), "with_objects": "with " + " and with ".join(said)}


def crop_box(box: Box, width: int, height: int) -> Box | None:
    """A box in the centre square of a picture (`images.crop_square`); None where less than half of
    it is left.

    Raises UserError for a box that is empty, reversed or leaves the picture.
    """
    x0, y0, x1, y1 = box
    if not (-SLACK <= x0 < x1 <= width + SLACK and -SLACK <= y0 < y1 <= height + SLACK):
        rule = f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
        raise UserError(f"a box must have {rule}, got {tuple(box)}")
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    a, b = max(x0 - left, 0.0), max(y0 - top, 0.0)
    c, d = min(x1 - left, float(side)), min(y1 - top, float(side))
    if a >= c or b >= d or (c - a) * (d - b) < KEPT * (x1 - x0) * (y1 - y0):
        return None
    return a, b, c, d


def coco_boxes(root: str | Path, split: str | None, annotations: str = "instances") -> Examples:
    """Grounded examples of a split: boxes of `annotations/<annotations>_<split>.json`, captions
    beside. Raises UserError as `coco.read_captions`, and for a file that is not such annotations.

    What is skipped: pictures without a box, boxes that are none, each by name and reason.
    """
    if annotations not in ANNOTATIONS:
        raise UserError(f"annotations are {', '.join(ANNOTATIONS)}, got {annotations!r}")
    root, split = Path(root), only_split(root, split)
    entries = read_captions(root, split)
    path = next(
        (
            place / f"{annotations}_{split}.json"
            for place in (root / "annotations", root)
            if (place / f"{annotations}_{split}.json").is_file()
        ),
        None,
    )
    if path is None:
        raise UserError(f"{root} has no annotations/{annotations}_{split}.json; name another split")
    content = read_json(path)
    images = objects_of(content, "images", path, "a COCO annotations file")
    names_of(images, path)  # its checks
    sizes = {
        one["id"]: (field_of(one, "width", int, f"image {one['id']}", path),
                    field_of(one, "height", int, f"image {one['id']}", path))
        for one in images
    }  # fmt: skip
    found, lost = defaultdict(list), [Skipped(*pair) for pair in entries.left_out]
    for image_id, identity, name, box in _boxes(content, annotations, path):
        if image_id not in sizes:
            raise UserError(f"{path}: annotation {identity} is of image {image_id}, not listed")
        try:
            cropped = crop_box(box, *sizes[image_id])
        except UserError as error:
            lost.append(Skipped(f"coco-{image_id} box {identity}", str(error)))
            continue
        if cropped is not None:
            found[image_id].append((name, cropped))
    parts = []
    for entry in entries:
        boxes = sorted(found[entry.image_id], key=_area, reverse=True)[:MOST]
        if not boxes:
            lost.append(Skipped(f"coco-{entry.image_id}", "has no box"))
            continue
        told = boxes_as_text(boxes, min(sizes[entry.image_id]))
        texts = tuple({"caption": caption.text} | told for caption in entry.captions)
        parts.append(Shown(f"coco-{entry.image_id}", {"image": entry.path}, texts))
    return Examples(f"coco-{annotations}", parts, lost, {"split": split})


def _area(named: tuple[str, Box]) -> float:
    x0, y0, x1, y1 = named[1]
    return (x1 - x0) * (y1 - y0)


def _boxes(content: dict, annotations: str, path: Path) -> Iterator[tuple[int, int, str, Box]]:
    """(image id, annotation id, name of the category, box) of everything that is one thing."""
    what = f"a COCO {annotations} file"
    categories = {one.get("id"): one for one in objects_of(content, "categories", path, what)}
    for one in objects_of(content, "annotations", path, what):
        image_id = field_of(one, "image_id", int, "an annotation", path)
        panoptic = annotations == "panoptic"
        for part in objects_of(one, "segments_info", path, what) if panoptic else (one,):
            identity = field_of(part, "id", int, f"an annotation of image {image_id}", path)
            category = categories.get(part.get("category_id"))
            if category is None or not isinstance(category.get("name"), str):
                unknown = part.get("category_id")
                raise UserError(f"{path}: annotation {identity} has no known category: {unknown!r}")
            if part.get("iscrowd") or (panoptic and not category.get("isthing", 1)):
                continue
            box = part.get("bbox")
            if not _is_box(box):
                raise UserError(f"{path}: annotation {identity} has no box of four numbers")
            x, y, width, height = box
            yield image_id, identity, category["name"], (x, y, x + width, y + height)


def _is_box(box) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in box)
    )
