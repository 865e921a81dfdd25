"""The commands that ask a tuned model about a picture: edit, answer; and boxes as options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cm3leon.cli.infill import one_line
from cm3leon.errors import UserError
from cm3leon.files import TUNED
from cm3leon.options import Engine, NotNegative, Pictures, Tokens

_BOX = re.compile(r"\s*(.*\S)\s*:\s*(-?\d+)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)\s*")


@dataclass(frozen=True)
class Edit:
    """Change a picture as told: `cm3leon edit star.png "make the star blue" --out blue.png`."""

    picture: tyro.conf.Positional[Path]
    """picture file; of another size it is cropped to its centre square and resized"""
    instruction: tyro.conf.Positional[str]
    """what to change"""
    out: Path = Path("edited.png")
    """PNG file to write; with --count above 1 a grid, row by row"""
    image_guidance: float | None = None
    """weight of the picture; left out: what was chosen for the model, else the paper's 1.5"""
    text_guidance: float | None = None
    """weight of the instruction; left out: as chosen, else the paper's 7.5"""
    temperature: NotNegative | None = None
    """below 1 sharper, 0 the most likely token"""
    count: Pictures = 1
    """how many pictures"""
    seed: int = 0
    """picture k depends on the picture, the instruction, seed and k alone"""
    system: str = TUNED
    """a model that was tuned to edit: a shipped one, or a folder"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """of the transformer; int8 needs torchao"""
    engine: Engine = "auto"
    """what takes the steps; auto: C on a CPU, a CUDA graph on a GPU, torch where they cannot"""

    def run(self) -> int:
        """Load, draw, write, print the path."""
        import numpy as np

        from cm3leon.cli.data import check_sheet, tile
        from cm3leon.images import check_name, crop_square, read_picture, write_png
        from cm3leon.loading import load_system
        from cm3leon.seeds import derive

        if not self.instruction.strip():
            raise UserError("the instruction is empty; say what to change")
        check_name(self.out)
        pixels = read_picture(self.picture)
        system = load_system(self.system, device=self.device, documents=0, weights=self.weights)
        system = system.with_engine(self.engine)
        check_sheet(self.count, system.size)
        image_HW3 = crop_square(pixels, system.size)
        names = ("image_guidance", "text_guidance", "temperature")
        changes = {name: getattr(self, name) for name in names}
        images_BHW3 = system.edit(
            np.stack([image_HW3] * self.count),
            [self.instruction] * self.count,
            [derive(self.seed, "edit", self.instruction, k) for k in range(self.count)],
            {name: value for name, value in changes.items() if value is not None},
        )
        about = {name: str(getattr(self, name)) for name in ("picture", "instruction", "seed")}
        about |= {"weights_sha256": system.weights_sha256, "config": str(system.config)}
        print(write_png(self.out, tile(images_BHW3), about))
        return 0


@dataclass(frozen=True)
class Answer:
    """Answer a question about a picture: `cm3leon answer star.png "how many stars are there?"`.

    With --choices its letter, as ScienceQA asks; --explain has the way to it written first.
    """

    picture: tyro.conf.Positional[Path]
    """picture file; of another size it is cropped to its centre square and resized"""
    question: tyro.conf.Positional[str]
    """what to ask"""
    choices: tuple[str, ...] = ()
    """words of which one is the answer"""
    explain: bool = False
    """of --choices: think step by step"""
    tokens: Tokens = 64
    """most tokens of an answer"""
    system: str = TUNED
    """a model that was tuned to answer: a shipped one, or a folder"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """of the transformer; int8 needs torchao"""
    engine: Engine = "auto"
    """what takes the steps; auto: C on a CPU, a CUDA graph on a GPU, torch where they cannot"""

    def run(self) -> int:
        """Load, read, print."""
        from cm3leon.images import crop_square, read_picture
        from cm3leon.loading import load_system

        if not self.question.strip():
            raise UserError("the question is empty; say what to answer")
        pixels = read_picture(self.picture)
        system = load_system(self.system, device=self.device, documents=0, weights=self.weights)
        system = system.with_engine(self.engine)
        choices = [self.choices] if self.choices else None
        image_BHW3 = crop_square(pixels, system.size)[None]
        (said,) = system.answer(image_BHW3, [self.question], choices, self.explain, self.tokens)
        print(one_line(said))
        return 0


def read_box(text: str) -> tuple[str, tuple[int, int, int, int]]:
    """`a red star: 10 20 60 70` as a name and x1 y1 x2 y2; UserError for anything else."""
    match = _BOX.fullmatch(text)
    if match is None:
        raise UserError(
            f'a box reads "NAME: X1 Y1 X2 Y2", as "a red star: 10 20 60 70"; got {text!r}'
        )
    return match[1], tuple(int(match[k]) for k in range(2, 6))
