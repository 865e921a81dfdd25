"""The examples of a task at a path, or at an address of the embedded world, by what lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cm3leon.data.layouts.boxes import coco_boxes
from cm3leon.data.layouts.conditions import Conditions, condition_folder
from cm3leon.data.layouts.edits import SEEDS, TURNS, magicbrush, pix2pix
from cm3leon.data.layouts.karpathy import karpathy
from cm3leon.data.layouts.parquet import parquet_edits
from cm3leon.data.layouts.scienceqa import PROBLEMS, scienceqa
from cm3leon.data.layouts.vqa import vizwiz, vizwiz_splits, vqa, vqa_splits
from cm3leon.data.layouts.world import world_examples
from cm3leon.data.sources import Coco, Files, Source, find_source, scenes_address
from cm3leon.errors import UserError


class Where(NamedTuple):
    """What a source is called, and where what belongs to it lies."""

    name: str
    path: Path
    split: str | None
    size: int  # pixels of the embedded world's pictures
    annotations: str = "instances"  # boxes of MS-COCO
    conditions: Path | None = None  # folder of a structure's maps
    pictures: Path | None = None  # of a JSON file


def find_examples(
    name: str,
    task: str,
    size: int,
    *,
    annotations: str = "instances",
    conditions: Path | None = None,
    pictures: Path | None = None,
) -> Source:
    """The source of examples of a task that lies at a path, `path:split` where it has several.

    `scenes:DIALECT/SPLIT:START:COUNT` is the embedded world's, pictures `size` pixels wide; the
    other arguments as in `Where`. Raises UserError where nothing of the task is.
    """
    if name.startswith("scenes:"):
        return world_examples(task, scenes_address(name), size)
    path, split = Path(name), None
    if not path.exists() and ":" in name:
        path, split = Path(name.rpartition(":")[0]), name.rpartition(":")[2]
    if not path.exists():
        raise UserError(f"no source at {name}; name a folder, a file or scenes:...")
    where = Where(name, path, split, size, annotations, conditions, pictures)
    return READ[task](where) if task in READ else _conditioned(where, task)


def _captions(where: Where) -> Source:
    """Of any source of pairs: captions are what one says they are, short or long."""
    if where.path.suffix == ".json":
        return karpathy(where.path, where.split, where.pictures)
    return find_source(where.name, where.size)


def _answers(where: Where) -> Source:
    path = where.path
    if path.is_dir() and vqa_splits(path):
        return vqa(path, where.split)
    if path.is_dir() and vizwiz_splits(path):
        return vizwiz(path, where.split)
    raise UserError(
        f"{path} has no questions: looked for *OpenEnded*_questions.json (VQAv2, OKVQA) and "
        "train.json, val.json (VizWiz)"
    )


def _science(where: Where) -> Source:
    if not (where.path / PROBLEMS).is_file():
        raise UserError(f"{where.path} has no {PROBLEMS}; such answers are read from ScienceQA")
    return scienceqa(where.path, where.split)


def _edits(where: Where) -> Source:
    path = where.path
    for home in (path, path / "edits"):
        if (home / SEEDS).is_file():
            return pix2pix(home)
    if (path / TURNS).is_file():
        return magicbrush(path)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("**/*.parquet"))):
        return parquet_edits(path)
    raise UserError(
        f"{path} has no edits: looked for {SEEDS} (InstructPix2Pix), {TURNS} (MagicBrush) and "
        "*.parquet"
    )


def _boxes(where: Where) -> Source:
    return coco_boxes(where.path, where.split, where.annotations)


def _signs(where: Where) -> Source:
    raise UserError(f"{where.name}: signs are read from a file of records (.jsonl) or scenes:...")


def _conditioned(where: Where, kind: str) -> Source:
    base = find_source(where.name, where.size)
    if not isinstance(base, Coco | Files):
        raise UserError(f"{where.name}: conditions lie beside pictures in folders, not in tars")
    folder = where.conditions or condition_folder(where.path, kind, where.split)
    if folder is None and kind != "edges":
        raise UserError(
            f"{where.path} has no conditions/{kind}; name the folder of its maps with --conditions"
        )
    if folder is not None and not folder.is_dir():
        raise UserError(f"no folder {folder}; name one of {kind} maps")
    return Conditions(base, kind, folder)


READ: dict[str, Callable[[Where], Source]] = {  # by task; any other is a structure's
    "caption": _captions,
    "caption-long": _captions,
    "answer": _answers,
    "answer-choice": _science,
    "answer-explained": _science,
    "edit": _edits,
    "grounded": _boxes,
    "write": _signs,
}
