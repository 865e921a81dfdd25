"""What the page may ask of the models, with its bounds; an answer is a few events.

An event is a dict of plain values: {"documents": [{"text", "score", "picture"}]}; {"row", "codes",
"picture"} of each row of tokens as it is drawn; at last {"picture", "command"} or {"text",
"command"}. Pictures are PNG as data URIs, those of a drawing under way show what is drawn so far.
"""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from types import NoneType, UnionType
from typing import Annotated, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from cm3leon.config import RetrievalConfig
from cm3leon.decoding.image_infill import InfillConfig, hidden_by_box
from cm3leon.errors import UserError
from cm3leon.images import crop_square, decode_picture, png_bytes
from cm3leon.options import Documents, Range, check_options
from cm3leon.pipeline import System
from cm3leon.seeds import derive

MOST_LETTERS = 400  # of a text
PARTS = 8  # pictures of a drawing under way
TRIES = 8  # of a box, as `cm3leon infill` has it
PNG = "data:image/png;base64,"
Seed = Annotated[int, Range(0, 2**53)]  # what JavaScript counts exactly
Weight = Annotated[float, Range(-100, 100)]
Temperature = Annotated[float, Range(0, 100)]
TopP = Annotated[float, Range(0, 1, above=True)]
Tell = Callable[[dict], None]


@dataclass(frozen=True)
class Models:
    """`draws` draws, captions and infills; `tuned`, if there is one, edits and answers."""

    draws: System
    tuned: System | None = None

    @property
    def about(self) -> dict:
        """What the page must know of them."""
        one, tasks = self.draws, () if self.tuned is None else self.tuned.tasks
        return {
            "system": one.name,
            "tuned": self.tuned.name if self.tuned else None,
            "parameters": sum(values.numel() for values in one.model.parameters()),
            "size": one.size,
            "grid": one.vq.config.grid,
            "documents": one.retriever.config.documents if one.retriever else None,
            "guidance": one.decode.guidance,
            "temperature": one.decode.temperature,
            "top_p": one.decode.top_p,
            "letters": MOST_LETTERS,
            "edits": "edit" in tasks,
            "answers": "answer" in tasks,
        }


@dataclass(frozen=True)
class DrawRequest:
    """A picture of a caption, and the documents that stand before it."""

    caption: str
    seed: Seed = 0
    documents: Documents | None = None
    guidance: Weight | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None

    def answer(self, models: Models, tell: Tell) -> None:
        """Documents, rows of tokens, the picture: that of `cm3leon draw` with the same options."""
        system = self._system(models.draws)
        count = system.retriever.config.documents if system.retriever else 0
        if count:
            found = system.retrieve(self.caption, count)
            tell({"documents": [
                {"text": one.text, "score": one.score, "picture": png_uri(one.image)}
                for one in found
            ]})  # fmt: skip
        watched = replace(system, watch=_Rows(system, tell))
        (image,) = watched.draw([self.caption], [derive(self.seed, self.caption, 0)])
        tell({"picture": png_uri(image), "command": self._command(system)})

    def _system(self, system: System) -> System:
        """The model with what the page changes."""
        names = ("guidance", "temperature", "top_p")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        system = system.with_decode(replace(system.decode, **changes))
        if self.documents is None:
            return system
        strategy = system.retriever.config if system.retriever else RetrievalConfig(by="text")
        return system.with_retrieval(replace(strategy, documents=self.documents))

    def _command(self, system: System) -> str:
        options = {
            name: getattr(self, name)
            for name in ("documents", "guidance", "temperature", "top_p")
            if getattr(self, name) is not None
        }
        return command("draw", [self.caption], {"seed": self.seed} | options, system)


@dataclass(frozen=True)
class CaptionRequest:
    """What a picture shows."""

    picture: str

    def answer(self, models: Models, tell: Tell) -> None:
        """A caption, written greedily."""
        system = models.draws
        (text,) = system.caption(read_picture(self.picture, system.size)[None])
        tell({"text": text, "command": command("caption", [KEPT], {}, system)})


@dataclass(frozen=True)
class InfillRequest:
    """A box of a picture drawn anew: x0 y0 x1 y1, pixels of the model's picture, the last two
    outside; `caption`, if not blank, says what the whole picture shall show.
    """

    picture: str
    box: list[int]
    caption: str = ""
    seed: Seed = 0

    def answer(self, models: Models, tell: Tell) -> None:
        """The picture, of some fillings the one that fits best what follows it."""
        system, size = models.draws, models.draws.size
        x0, y0, x1, y1 = box_of(self.box, size)
        image = read_picture(self.picture, size)
        hidden = hidden_by_box((x0, y0, x1, y1), size, system.vq.config.grid)
        seeds = [derive(self.seed, "infill", 0)]
        codes = system.infill_image(
            image[None], hidden[None], [self.caption or None], seeds, InfillConfig(tries=TRIES)
        )
        options = {"box": self.box} | ({"caption": self.caption} if self.caption else {})
        tell({
            "picture": png_uri(system.decode_codes(codes)[0]),
            "codes": codes[0].tolist(),
            "command": command("infill", [KEPT], options | {"seed": self.seed}, system),
        })  # fmt: skip


@dataclass(frozen=True)
class EditRequest:
    """A picture changed as told."""

    picture: str
    instruction: str
    seed: Seed = 0

    def answer(self, models: Models, tell: Tell) -> None:
        """Rows of tokens, the picture."""
        system = tuned_of(models)
        image = read_picture(self.picture, system.size)
        watched = replace(system, watch=_Rows(system, tell))
        seeds = [derive(self.seed, "edit", self.instruction, 0)]
        (edited,) = watched.edit(image[None], [self.instruction], seeds)
        told = command("edit", [KEPT, self.instruction], {"seed": self.seed}, system)
        tell({"picture": png_uri(edited), "command": told})


@dataclass(frozen=True)
class AnswerRequest:
    """A question about a picture."""

    picture: str
    question: str

    def answer(self, models: Models, tell: Tell) -> None:
        """Its answer, written greedily."""
        system = tuned_of(models)
        (text,) = system.answer(read_picture(self.picture, system.size)[None], [self.question])
        tell({"text": text, "command": command("answer", [KEPT, self.question], {}, system)})


REQUESTS = {
    "/draw": DrawRequest,
    "/caption": CaptionRequest,
    "/infill": InfillRequest,
    "/edit": EditRequest,
    "/answer": AnswerRequest,
}
KEPT = "drawing.png"  # the name under which the page keeps a picture
MAY_BE_BLANK = {(InfillRequest, "caption")}


class _Rows:
    """Tells of each row of tokens once it is drawn, and now and then of the picture so far."""

    def __init__(self, system: System, tell: Tell):
        self.system, self.tell = system, tell
        self.grid = system.vq.config.grid
        self.codes: list[int] = []

    def __call__(self, samples: object, places: object, codes_R: Tensor) -> None:
        self.codes.append(int(codes_R[0]))
        row, column = divmod(len(self.codes), self.grid)
        if column:
            return
        event = {"row": row - 1, "codes": self.codes[-self.grid :]}
        if row % max(1, self.grid // PARTS) == 0 and row < self.grid:
            event["picture"] = png_uri(self._so_far(row))
        self.tell(event)

    def _so_far(self, rows: int) -> np.ndarray:
        """The picture of these rows; below them the last one again."""
        codes = self.codes + self.codes[-self.grid :] * (self.grid - rows)
        codes_1N = torch.tensor([codes], device=self.system.device)
        return self.system.decode_codes(codes_1N)[0]


def read_request(kind: type, values: object):
    """A request out of JSON. Raises UserError for other fields, types and bounds, for a text that
    is blank or too long.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"a request is a JSON object, got {type(values).__name__}")
    hints, known = get_type_hints(kind), {one.name: one for one in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"there is no {name!r}; there are: {', '.join(known)}")
        if not fits(value, hints[name]):
            raise UserError(f"{name} must be {told(hints[name])}, got {str(value)[:40]!r}")
    if missing := [n for n, one in known.items() if one.default is MISSING and n not in values]:
        raise UserError(f"{missing[0]} is missing")
    asked = kind(**values)
    check_options(asked)
    for name in known.keys() - {"picture"}:
        if isinstance(text := getattr(asked, name), str):
            check_letters(name, text, (kind, name) in MAY_BE_BLANK)
    return asked


def check_letters(name: str, text: str, blank: bool) -> None:
    """Raise UserError for a text too long, or without a word where it must have one."""
    if len(text) > MOST_LETTERS:
        raise UserError(f"{name} has {len(text):,} letters, at most {MOST_LETTERS} are taken")
    if not blank and not text.strip():
        raise UserError(f"{name} is empty; write something")


def fits(value: object, hint: object) -> bool:
    """Whether a value of JSON is of a plain type, of one of several, or a list of one."""
    if isinstance(hint, UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(fits(one, get_args(hint)[0]) for one in value)
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float if hint is float else hint)


def told(hint: object) -> str:
    """A type in words."""
    words = {int: "a whole number", float: "a number", str: "a text", NoneType: "null"}
    if isinstance(hint, UnionType):
        return " or ".join(map(told, get_args(hint)))
    return words.get(hint, "a list of whole numbers")


def box_of(box: list[int], size: int) -> tuple[int, int, int, int]:
    """The four of a box; UserError unless they lie in a picture of `size` pixels and hold some."""
    if len(box) != 4 or not (0 <= box[0] < box[2] <= size and 0 <= box[1] < box[3] <= size):
        raise UserError(f"a box is [x0, y0, x1, y1] with 0 <= x0 < x1 <= {size}, y too; got {box}")
    return tuple(box)


def tuned_of(models: Models) -> System:
    """The tuned model; UserError where there is none."""
    if models.tuned is None:
        raise UserError(f"{models.draws.name} was never tuned on tasks; serve one that was")
    return models.tuned


def read_picture(uri: str, size: int) -> np.ndarray:
    """The centre square of a data URI's picture, uint8 [size, size, 3]; UserError if it is none."""
    head, _, body = uri.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise UserError("the picture must be a data URI of an image, in base64")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("the picture is no base64; choose it again") from None
    return crop_square(decode_picture(data, "the picture"), size)


def png_uri(image_HW3: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as a data URI."""
    return PNG + base64.b64encode(png_bytes(image_HW3)).decode()


def command(name: str, words: list[str], options: Mapping[str, object], system: System) -> str:
    """The command line that does the same."""
    said = ["cm3leon", name, *words]
    for option, value in options.items():
        values = value if isinstance(value, list) else [value]
        said += [f"--{option.replace('_', '-')}", *map(str, values)]
    return shlex.join([*said, "--system", system.name])
