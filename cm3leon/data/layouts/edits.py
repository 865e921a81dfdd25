"""Editing data: InstructPix2Pix' folders and MagicBrush's test folders.

InstructPix2Pix: `seeds.json` lists (folder, seeds); a folder holds `prompt.json` with the
instruction as "edit", and `<seed>_0.jpg` before, `<seed>_1.jpg` after. MagicBrush:
`edit_turns.json` lists {input, mask, output, instruction}, pictures in `images/<image id>/`; every
turn is one example. What both publish as parquet is read by `parquet`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cm3leon.data.coco import field_of, objects_of
from cm3leon.data.examples import Example, Examples, Shown, readable
from cm3leon.data.sources import Skipped, bytes_of
from cm3leon.errors import UserError
from cm3leon.files import parse_json
from cm3leon.identity import joined
from cm3leon.images import decode_picture

SEEDS, PROMPT, TURNS = "seeds.json", "prompt.json", "edit_turns.json"


class Pair(NamedTuple):
    """One pair of InstructPix2Pix; its instruction is read with its pictures."""

    id: str
    folder: Path
    seed: str

    def digest(self) -> str:
        """As `ExamplePart.digest`."""
        return self._digest([bytes_of(path) for path in self._paths()])

    def load(self) -> tuple[str, Example | Skipped]:
        """As `ExamplePart.load`."""
        paths = self._paths()
        data = [bytes_of(path) for path in paths]
        digest = self._digest(data)
        try:
            *pictures, asked = (readable(one, path) for one, path in zip(data, paths, strict=True))
            content = parse_json(asked, paths[-1])
            instruction = content.get("edit") if isinstance(content, dict) else None
            found = {f"image{k + 1}": decode_picture(*one)
                     for k, one in enumerate(zip(pictures, paths, strict=False))}  # fmt: skip
        except UserError as error:
            return digest, Skipped(self.id, str(error))
        return digest, Example.of(self.id, found, [{"instruction": instruction}])

    def seen(self) -> tuple[list[Path], list[str]]:
        """As `ExamplePart.seen`."""
        return list(self._paths()), [self.id]

    def _digest(self, data: list[bytes | OSError]) -> str:
        told = (f"error {one.errno}" if isinstance(one, OSError) else one for one in data)
        return joined([self.id, *told])

    def _paths(self) -> tuple[Path, Path, Path]:
        names = (f"{self.seed}_0.jpg", f"{self.seed}_1.jpg", PROMPT)
        return tuple(self.folder / name for name in names)


def pix2pix(root: str | Path) -> Examples:
    """All pairs of a folder of InstructPix2Pix.

    Raises UserError for a `seeds.json` that is torn or names a folder outside. What is skipped: a
    pair whose instruction or pictures cannot be read.
    """
    root = Path(root)
    path, parts = root / SEEDS, []
    content = parse_json(readable(bytes_of(path), path), path)
    if not isinstance(content, list):
        raise UserError(f"{path} must hold a list of [folder, seeds], got {type(content).__name__}")
    for entry in content:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list)):
            raise UserError(f"{path} must hold a list of [folder, seeds], got {entry!r}")
        name, seeds = str(entry[0]), [str(seed) for seed in entry[1]]
        if any(PurePosixPath(one).name != one for one in (name, *seeds)):
            raise UserError(f"{path} names {name!r} {seeds}, outside its folder")
        parts += [Pair(f"{name}/{seed}", root / name, seed) for seed in seeds]
    return Examples("instruct-pix2pix", parts)


def magicbrush(root: str | Path) -> Examples:
    """All turns of a folder of MagicBrush. Raises UserError for a torn or misbuilt list."""
    root = Path(root)
    path, parts, lost = root / TURNS, [], []
    content = parse_json(readable(bytes_of(path), path), path)
    for number, turn in enumerate(objects_of({"list": content}, "list", path, "MagicBrush's list")):
        names = [field_of(turn, key, str, f"turn {number}", path) for key in ("input", "output")]
        instruction = field_of(turn, "instruction", str, f"turn {number}", path)
        for name in names:
            if PurePosixPath(name).name != name:
                raise UserError(f"{path}: turn {number} names {name!r}, outside its folder")
        home = root / "images" / names[0].partition("-")[0]
        name = f"magicbrush-{PurePosixPath(names[1]).stem}-{number}"
        if not instruction.strip():
            lost.append(Skipped(name, "has no instruction"))
            continue
        pictures = {"image1": home / names[0], "image2": home / names[1]}
        parts.append(Shown(name, pictures, ({"instruction": instruction},)))
    return Examples("magicbrush", parts, lost)
