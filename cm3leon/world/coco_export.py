"""Scenes as files in the layouts of real data, so that what reads those reads these.

MS-COCO (captions, instances, panoptic segmentation), VQAv2, InstructPix2Pix, COCO-Text for signs;
conditions as PNG under the pictures' names. Files are atomic, and a layout's index (its JSON) comes
last. Pictures are PNG; image ids are the scenes' indices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import write_atomic
from cm3leon.progress import progress as bar_of
from cm3leon.world.language import NUMBERS
from cm3leon.world.scenes import Scene, check_address, scene
from cm3leon.world.sprites import PLACES, SHAPES

CATEGORIES = [
    {"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(SHAPES)
] + [{"id": len(SHAPES) + 1, "name": "entity", "supercategory": "entity"}]
GROUND = 100  # category of the first place in panoptic files; the next ones follow
DIGITS = {"zero": "0"} | {word: str(number) for number, word in NUMBERS.items()}
ANSWERS = 10  # people a question of VQAv2 was answered by; here they agree


def export_coco(folder: str | Path, dialect: str, split: str, count: int, size: int = 64) -> Path:
    """Write the first `count` scenes of a split in MS-COCO's layout; returns the folder.

    `<split>/<12 digits>.png`, `annotations/captions_<split>.json`,
    `annotations/instances_<split>.json`. Raises UserError for an unknown address or size and for a
    folder that cannot be written.
    """
    return export(folder, ("captions",), dialect, split, count, size)


def export(
    folder: str | Path, kinds: tuple[str, ...], dialect: str, split: str, count: int, size: int = 64
) -> Path:
    """Write the first `count` scenes of a split in the layouts named; see KINDS; returns the
    folder. Pictures that layouts share are written once.

    Raises UserError for an unknown kind, address or size and for a folder that cannot be written.
    """
    folder = Path(folder)
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"no layout {kind!r}; there are {', '.join(KINDS)}")
    check_address(dialect, split, count - 1)
    _try_last(kinds, dialect, split, count - 1, size)
    if set(kinds) & SHOWING:
        write_pictures(folder / split, lambda: scenes(dialect, split, count, size), count)
    for kind in dict.fromkeys(kinds):
        KINDS[kind](folder, dialect, split, count, size)
    return folder


def _try_last(kinds, dialect: str, split: str, index: int, size: int) -> None:
    """Raise UserError before anything is written where a kind lacks the split or the size."""
    from cm3leon.world.conditions import segmentation
    from cm3leon.world.signs import sign_scene

    last = scene(dialect, split, index, size)
    if "conditions" in kinds:
        segmentation(last)
    if "signs" in kinds:
        sign_scene(dialect, split, index, size)


def scenes(dialect: str, split: str, count: int, size: int) -> Iterator[Scene]:
    """The first `count` scenes of a split."""
    return (scene(dialect, split, index, size) for index in range(count))


def write_pictures(folder: Path, made: Callable[[], Iterator[Scene]], count: int) -> None:
    """The scenes' pictures as `<12 digits>.png`."""
    from cm3leon.images import write_png

    for one in progress(made(), count):
        write_png(folder / file_name(one.index), one.image)


def progress(made: Iterator, count: int) -> Iterator:
    """What is written, with a bar."""
    with bar_of(count, "export") as bar:
        for one in made:
            yield one
            bar.update()


def file_name(index: int) -> str:
    """MS-COCO's name of a picture."""
    return f"{index:012d}.png"


def shared(dialect: str, split: str, count: int, size: int) -> dict:
    """What MS-COCO's files have in common."""
    info = {"description": f"cm3leon scenes, {dialect}, {split}, {count} pictures of {size} px"}
    images = [
        {"id": index, "file_name": file_name(index), "width": size, "height": size}
        for index in range(count)
    ]
    return {"info": info, "licenses": [], "images": images}


def write_json(path: Path, content) -> None:
    """Atomically."""
    write_atomic(path, json.dumps(content))


def write_captions(folder: Path, dialect: str, split: str, count: int, size: int) -> None:
    """Five captions a picture, and the instances."""
    write_caption_file(
        folder, shared(dialect, split, count, size), scenes(dialect, split, count, size), split
    )
    write_instances(folder, dialect, split, count, size)


def write_caption_file(folder: Path, common: dict, made: Iterator[Scene], split: str) -> None:
    """`annotations/captions_<split>.json`."""
    captions = [{"image_id": one.index, "caption": text} for one in made for text in one.captions]
    captions = [{"id": k} | caption for k, caption in enumerate(captions)]
    write_json(
        folder / "annotations" / f"captions_{split}.json", common | {"annotations": captions}
    )


def write_instances(folder: Path, dialect: str, split: str, count: int, size: int) -> None:
    """Boxes, visible masks as run lengths, categories and attributes."""
    found = [
        (thing, one.index) for one in scenes(dialect, split, count, size) for thing in one.objects
    ]
    instances = [instance(thing, index, k + 1) for k, (thing, index) in enumerate(found)]
    content = {"annotations": instances, "categories": CATEGORIES}
    path = folder / "annotations" / f"instances_{split}.json"
    write_json(path, shared(dialect, split, count, size) | content)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths of a mask [H,W]: column by column, zeros first."""
    flat = mask.T.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def category_of(thing) -> int:
    """Its id in CATEGORIES."""
    return (len(SHAPES) if thing.entity else SHAPES.index(thing.shape)) + 1


def xywh(box) -> list[float]:
    """COCO's form of a box of corners."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def instance(thing, image_id: int, identity: int) -> dict:
    """One object as a COCO annotation; the segmentation is the visible part."""
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": category_of(thing),
        "bbox": xywh(thing.box),
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


def panoptic(one: Scene) -> tuple[np.ndarray, list[dict]]:
    """A panoptic map uint8 [S,S,3], id = R + 256 G + 65536 B, and its segments: the place, then
    the things.
    """
    ids = np.full((one.size, one.size), 1, np.int64)
    segments = [(1, GROUND + PLACES.index(one.place))]
    for thing in one.objects:
        base = 24 * category_of(thing)
        identity = base + (thing.depth + 1) * 40 * 256 + (255 - base) * 65536
        ids[thing.mask] = identity
        segments.append((identity, category_of(thing)))
    infos = []
    for identity, category in segments:
        mask = ids == identity
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
        infos.append(
            {
                "id": identity,
                "category_id": category,
                "area": int(mask.sum()),
                "bbox": xywh(box),
                "iscrowd": 0,
            }
        )
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    return colours, infos


def write_panoptic(folder: Path, dialect: str, split: str, count: int, size: int) -> None:
    """`annotations/panoptic_<split>/<12 digits>.png` and `annotations/panoptic_<split>.json`."""
    from cm3leon.images import write_png

    annotations = []
    for one in progress(scenes(dialect, split, count, size), count):
        colours, infos = panoptic(one)
        name = file_name(one.index)
        write_png(folder / "annotations" / f"panoptic_{split}" / name, colours)
        annotations.append({"image_id": one.index, "file_name": name, "segments_info": infos})
    things = [category | {"isthing": 1} for category in CATEGORIES]
    stuff = [
        {"id": GROUND + k, "name": name, "supercategory": "place", "isthing": 0}
        for k, name in enumerate(PLACES)
    ]
    content = {"annotations": annotations, "categories": things + stuff}
    path = folder / "annotations" / f"panoptic_{split}.json"
    write_json(path, shared(dialect, split, count, size) | content)


def write_vqa(folder: Path, dialect: str, split: str, count: int, size: int) -> None:
    """VQAv2's two files: `v2_OpenEnded_mscoco_<split>_questions.json` and
    `v2_mscoco_<split>_annotations.json`.

    The ten answers are one; numbers are digits, as its evaluation wants them; the question's type
    is our kind; what explains an answer stands beside it as `explanation`.
    """
    from cm3leon.world.questions import questions

    asked, answered = [], []
    for one in scenes(dialect, split, count, size):
        for k, question in enumerate(questions(one)):
            keys = {"image_id": one.index, "question_id": one.index * 1000 + k}
            asked.append(keys | {"question": question.text})
            answer = DIGITS.get(question.answer, question.answer)
            answers = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": n + 1}
                for n in range(ANSWERS)
            ]
            found = {
                "question_type": question.kind,
                "answer_type": question.answer_type,
                "multiple_choice_answer": answer,
                "answers": answers,
            }
            why = {"explanation": question.explanation} if question.explanation else {}
            answered.append(keys | found | why)
    description = f"cm3leon scenes, {dialect}, {split}: questions about {count} pictures"
    common = {
        "info": {"description": description, "version": "1"},
        "data_type": "mscoco",
        "data_subtype": split,
        "license": {"name": "", "url": ""},
    }
    path = folder / f"v2_OpenEnded_mscoco_{split}_questions.json"
    write_json(path, common | {"task_type": "Open-Ended", "questions": asked})
    write_json(folder / f"v2_mscoco_{split}_annotations.json", common | {"annotations": answered})


def write_edits(folder: Path, dialect: str, split: str, count: int, size: int) -> None:
    """InstructPix2Pix' folders under `edits/`: `seeds.json`, and for each pair
    `<7 digits>/prompt.json`, `<seed>_0.jpg` before, `<seed>_1.jpg` after.

    One change a scene; its seed is the scene's index. JPEG of quality 100 without subsampling,
    since its readers open `.jpg`; the exact pictures lie beside as PNG.
    """
    from cm3leon.images import write_png
    from cm3leon.world.edits import captions_around, changes, edit, words

    root, seeds = folder / "edits", []
    for one in progress(scenes(dialect, split, count, size), count):
        (change,) = changes(one, 1)
        pair, texts = (one, edit(one, change)), words(change)
        name = f"{one.index:07d}"
        for k, side in enumerate(pair):
            write_atomic(root / name / f"{one.index}_{k}.jpg", jpeg(side.image))
            write_png(root / name / f"{one.index}_{k}.png", side.image)
        before, after = captions_around(one, change)
        prompt = {"edit": texts[one.index % len(texts)], "input": before, "output": after}
        write_json(root / name / "prompt.json", prompt | {"kind": change.kind})
        seeds.append([name, [one.index]])
    write_json(root / "seeds.json", seeds)


def jpeg(image: np.ndarray) -> bytes:
    """A picture as JPEG of the best quality, no subsampling."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()


def write_signs(folder: Path, dialect: str, split: str, count: int, size: int) -> None:
    """Scenes with a sign: `signs-<split>/<12 digits>.png`, captions, and the words on the boards
    in COCO-Text's form, `annotations/cocotext_signs-<split>.json`.
    """
    from cm3leon.world.boards import board_mask
    from cm3leon.world.signs import sign_scene

    def made() -> Iterator[Scene]:
        return (sign_scene(dialect, split, index, size) for index in range(count))

    name = f"signs-{split}"
    write_pictures(folder / name, made, count)
    common = shared(dialect, name, count, size)
    write_caption_file(folder, common, made(), name)
    annotations = {}
    for one in made():
        mask = board_mask(one.plan.sign, size)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
        x, y, width, height = xywh(box)
        annotations[str(one.index)] = {
            "id": one.index,
            "image_id": one.index,
            "bbox": [x, y, width, height],
            "mask": [x, y, x + width, y, x + width, y + height, x, y + height],
            "area": width * height,
            "utf8_string": one.plan.sign.text,
            "legibility": "legible",
            "language": "english",
            "class": "machine printed",
        }
    content = {
        "info": common["info"],
        "cats": {},
        "imgs": {str(image["id"]): image | {"set": split} for image in common["images"]},
        "anns": annotations,
        "imgToAnns": {str(index): [index] for index in range(count)},
    }
    write_json(folder / "annotations" / f"cocotext_{name}.json", content)


def write_conditions(folder: Path, dialect: str, split: str, count: int, size: int) -> None:
    """`conditions/<segmentation, depth, edges, scribble>/<split>/<12 digits>.png`: under the name
    of the picture that each was made from.
    """
    from cm3leon.images import write_png
    from cm3leon.world.conditions import CONDITIONS

    for one in progress(scenes(dialect, split, count, size), count):
        for name, draw in CONDITIONS.items():
            write_png(folder / "conditions" / name / split / file_name(one.index), draw(one))


KINDS: dict[str, Callable] = {
    "captions": write_captions,
    "instances": write_instances,
    "panoptic": write_panoptic,
    "vqa": write_vqa,
    "edits": write_edits,
    "signs": write_signs,
    "conditions": write_conditions,
}
SHOWING = {"captions", "instances", "panoptic", "vqa", "conditions"}  # about `<split>/`'s pictures
