"""Scenes as MS-COCO files: PNG pictures, captions and instances, so that COCO readers read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cm3leon.files import write_atomic
from cm3leon.scenes import check_address, scene
from cm3leon.sprites import SHAPES

CATEGORIES = [
    {"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(SHAPES)
] + [{"id": len(SHAPES) + 1, "name": "entity", "supercategory": "entity"}]


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths of a mask [H,W]: column by column, zeros first."""
    flat = mask.T.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def instance(thing, image_id: int, identity: int) -> dict:
    """One object as a COCO annotation; the segmentation is the visible part."""
    x0, y0, x1, y1 = thing.box
    category = len(SHAPES) if thing.entity else SHAPES.index(thing.shape)
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": category + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(thing.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"counts": run_lengths(thing.mask), "size": list(thing.mask.shape)},
        "attributes": {
            "colour": thing.colour,
            "size": thing.size,
            "pattern": thing.pattern,
            "entity": thing.entity,
            "depth": thing.depth,
        },
    }


def export_coco(folder: str | Path, dialect: str, split: str, count: int, size: int = 64) -> Path:
    """Write the first `count` scenes of a split in MS-COCO's layout; returns the folder.

    `<split>/<12 digits>.png`, `annotations/captions_<split>.json`,
    `annotations/instances_<split>.json`; image ids are the scenes' indices. Files are atomic and
    annotations come last. Raises UserError for an unknown address or size and for a folder that
    cannot be written.
    """
    from tqdm import tqdm

    from cm3leon.pictures import write_png

    folder = Path(folder)
    check_address(dialect, split, count - 1)
    images, captions, instances = [], [], []
    for index in tqdm(range(count), desc="export", unit="picture", disable=None):
        one = scene(dialect, split, index, size)
        name = f"{index:012d}.png"
        write_png(folder / split / name, one.image)
        images.append({"id": index, "file_name": name, "width": size, "height": size})
        for text in one.captions:
            captions.append({"id": len(captions), "image_id": index, "caption": text})
        for thing in one.objects:
            instances.append(instance(thing, index, len(instances) + 1))
    info = {"description": f"cm3leon scenes, {dialect}, {split}, {count} pictures of {size} px"}
    shared = {"info": info, "licenses": [], "images": images}
    files = {
        f"captions_{split}.json": shared | {"annotations": captions},
        f"instances_{split}.json": shared | {"annotations": instances, "categories": CATEGORIES},
    }
    for name, content in files.items():
        write_atomic(folder / "annotations" / name, json.dumps(content))
    return folder
