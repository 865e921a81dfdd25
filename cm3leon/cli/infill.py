"""The commands that infill: caption, infill. Heavy imports wait for the command that needs them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cm3leon.decoding.config import GREEDY, DecodeChanges
from cm3leon.errors import UserError, printable
from cm3leon.files import SHIPPED, TUNED
from cm3leon.options import Beam, Documents, Engine, Samples, Tokens

if TYPE_CHECKING:
    from cm3leon.decoding.text import TextDecode

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Caption:
    """Say what pictures show: `cm3leon caption star.png`; of several `path: caption`, line by line.

    Greedy unless --temperature or --beam is given. Pictures of another size are cropped to their
    centre square and resized.
    """

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """picture files"""
    system: str | None = None
    """a shipped model, or the folder of one; left out: scenes-s, or scenes-s-tuned for a task"""
    beam: Beam | None = None
    """width of a beam search; 1 is greedy"""
    beam_penalty: Literal["wu", "mean"] = "wu"
    """how beams of different lengths compare: ((5 + tokens) / 6) ** alpha, or log p a token"""
    beam_alpha: float = 0.6
    """of wu: 0 is the plain sum of log p, larger favours longer captions"""
    samples: Samples = 1
    """captions a picture, one a line; above 1 with --temperature"""
    seed: int = 0
    """sample k of a picture depends on the picture, seed and k alone"""
    documents: Documents = 0
    """retrieved documents before the picture, found by it, 0 to 4; the model must know them"""
    tokens: Tokens = 64
    """most tokens of a caption"""
    long: bool = False
    """name everything that is there; of a model that was tuned on long captions"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """of the transformer; int8 needs torchao"""
    engine: Engine = "auto"
    """what takes the steps; auto: C on a CPU, a CUDA graph on a GPU, torch where they cannot"""
    decode: Annotated[DecodeChanges, tyro.conf.arg(name="")] = field(default_factory=DecodeChanges)

    def run(self) -> int:
        """Load, read, print."""
        import numpy as np

        from cm3leon.images import crop_square, read_picture
        from cm3leon.loading import load_system
        from cm3leon.seeds import derive

        if not self.pictures:
            raise UserError("caption needs at least one picture file")
        how = text_decode(self, self.beam_penalty, self.beam_alpha)
        if self.long and (how.beam or self.documents or self.decode.given):
            raise UserError("--long is greedy and has no documents; leave other settings out")
        pixels = [read_picture(path) for path in self.pictures]
        system = load_system(
            self.system or (TUNED if self.long else SHIPPED), device=self.device,
            documents=self.documents and None, weights=self.weights,
        ).with_engine(self.engine)  # fmt: skip
        images_BHW3 = np.stack([crop_square(one, system.size) for one in pixels])
        seeds = [derive(self.seed, "caption", k) for k in range(self.samples)] * len(pixels)
        captions = system.caption(
            images_BHW3.repeat(self.samples, 0), seeds, how, self.documents, self.tokens,
            long=self.long,
        )  # fmt: skip
        for index, caption in enumerate(captions):
            path = self.pictures[index // self.samples]
            line = one_line(caption)
            print(line if len(pixels) == 1 else f"{printable(path)}: {line}")
        return 0


@dataclass(frozen=True)
class Infill:
    """Fill in what is hidden: a box of a picture, or `<mask>` in its caption.

    `cm3leon infill photo.png --box 8 0 48 40 --caption "a red star on the sand" --out new.png`
    draws the box anew. `cm3leon infill photo.png --text "a large <mask> on the sand"` prints the
    caption with every <mask> filled in; without a picture the text alone decides.
    """

    picture: tyro.conf.Positional[Path | None] = None
    """picture file; of another size it is cropped to its centre square and resized"""
    box: Box | None = None
    """X0 Y0 X1 Y1 in pixels of the file, X1 and Y1 exclusive; widened to whole image tokens"""
    text: str | None = None
    """a caption in which <mask> stands for missing words"""
    caption: str | None = None
    """of --box: what the whole picture shall show; left out: the picture alone decides"""
    out: Path = Path("infilled.png")
    """of --box: PNG file to write; with --samples above 1 a grid, row by row"""
    keep_pixels: bool = False
    """of --box: outside it the pixels of the file, not those of the image tokenizer, whose decoder
    looks a little over the border: tokens outside the box never change, their pixels may"""
    method: Literal["forward", "span", "spans"] = "forward"
    """of --box: go on from the tokens before it; or move it behind the picture as one span, or as
    one a row"""
    tries: Samples = 8
    """of --box, forward: drawn so often, of which the one stays that fits best what follows it"""
    image_guidance: float | None = None
    """of --box, forward: weight of the picture around it, beside --text-guidance"""
    text_guidance: float | None = None
    """of --box, forward: weight of the caption; with one of the two --guidance has no part"""
    beam: Beam | None = None
    """of --text: width of a beam search"""
    samples: Samples = 1
    """fillings: a grid of pictures, or one text a line"""
    seed: int = 0
    """sample k depends on the input, seed and k alone"""
    system: str = "scenes-s"
    """a shipped model, or the folder of one"""
    documents: Documents | None = None
    """retrieved documents, 0 to 4; left out: of --box as many as the model's recipe, of --text 0"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """of the transformer; int8 needs torchao"""
    engine: Engine = "auto"
    """what takes the steps; auto: C on a CPU, a CUDA graph on a GPU, torch where they cannot"""
    decode: Annotated[DecodeChanges, tyro.conf.arg(name="")] = field(default_factory=DecodeChanges)

    def run(self) -> int:
        """Check what was asked for, then fill in."""
        if (self.box is None) == (self.text is None):
            raise UserError("infill needs either --box X0 Y0 X1 Y1 or --text with <mask>")
        return self._text() if self.box is None else self._box()

    def _text(self) -> int:
        import numpy as np

        from cm3leon.images import crop_square, read_picture
        from cm3leon.loading import load_system
        from cm3leon.seeds import derive

        how = text_decode(self)
        pixels = None if self.picture is None else read_picture(self.picture)
        documents = self.documents or 0
        system = load_system(
            self.system, device=self.device, documents=documents and None, weights=self.weights
        ).with_engine(self.engine)
        images_BHW3 = None
        if pixels is not None:
            images_BHW3 = np.stack([crop_square(pixels, system.size)] * self.samples)
        seeds = [derive(self.seed, "infill", k) for k in range(self.samples)]
        texts = [self.text] * self.samples
        options = (seeds, how, documents)
        print("\n".join(map(one_line, system.infill_text(texts, images_BHW3, *options))))
        return 0

    def _box(self) -> int:
        import numpy as np

        from cm3leon.cli.data import check_sheet, tile
        from cm3leon.decoding.image_infill import InfillConfig, hidden_by_box
        from cm3leon.images import check_name, crop_square, read_picture, write_png
        from cm3leon.loading import load_system
        from cm3leon.seeds import derive

        if self.picture is None:
            raise UserError("--box needs a picture file: cm3leon infill PICTURE --box X0 Y0 X1 Y1")
        if self.caption is not None and not self.caption.strip():
            raise UserError("--caption is empty; leave it out to let the picture alone decide")
        check_name(self.out)
        edit, pixels = self._edit(), read_picture(self.picture)
        system = load_system(
            self.system, device=self.device, documents=self.documents, weights=self.weights
        ).with_engine(self.engine)
        system = system.with_decode(replace(system.decode, **self.decode.given))
        check_sheet(self.samples, system.size)
        image_HW3 = crop_square(pixels, system.size)
        box = box_in_crop(self.box, pixels.shape[:2], system.size)
        grid = system.vq.config.grid
        hidden_N = hidden_by_box(box, system.size, grid)
        codes_BN = system.infill_image(
            np.stack([image_HW3] * self.samples),
            np.stack([hidden_N] * self.samples),
            [self.caption] * self.samples,
            [derive(self.seed, "infill", k) for k in range(self.samples)],
            InfillConfig(self.method, edit, self.tries if self.method == "forward" else 1),
        )
        images_BHW3 = system.decode_codes(codes_BN)
        if self.keep_pixels:
            inside = hidden_N.reshape(grid, grid).repeat(system.size // grid, 0)
            inside_HW1 = inside.repeat(system.size // grid, 1)[:, :, None]
            images_BHW3 = np.where(inside_HW1, images_BHW3, image_HW3)
        about = {name: str(getattr(self, name)) for name in ("picture", "box", "caption", "seed")}
        about |= {"weights_sha256": system.weights_sha256, "config": str(system.config)}
        print(write_png(self.out, tile(images_BHW3), about))
        return 0

    def _edit(self):
        from cm3leon.decoding.config import EditGuidance

        given = {"image": self.image_guidance, "text": self.text_guidance}
        given = {name: value for name, value in given.items() if value is not None}
        return EditGuidance(**given) if given else None


def one_line(text: str) -> str:
    """A text with every stretch of white space, line breaks among it, as one space, and nothing
    that a terminal would obey.
    """
    return printable(" ".join(text.split()))


def text_decode(asked: Caption | Infill, penalty: str = "wu", alpha: float = 0.6) -> TextDecode:
    """How the text is chosen that was asked for; UserError where samples could not differ."""
    from cm3leon.decoding.text import BeamConfig, TextDecode

    beam = None if asked.beam is None else BeamConfig(asked.beam, penalty, alpha)
    how = TextDecode(replace(GREEDY, **asked.decode.given), beam)
    if asked.samples > 1 and (beam or how.decode.temperature == 0):
        raise UserError(
            f"--samples {asked.samples} would all be the same; give --temperature, no --beam"
        )
    return how


def box_in_crop(box: Box, shape: tuple[int, int], size: int) -> Box:
    """A box of a picture's pixels in its centre square of `size` pixels, widened to whole ones.

    `shape` is the picture's (height, width). Raises UserError for a box that is empty, leaves the
    picture, or has no pixel in the square.
    """
    height, width = shape
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"box {x0} {y0} {x1} {y1} must have 0 <= X0 < X1 <= {width} and 0 <= Y0 < Y1 <= "
            f"{height}, the picture's width and height"
        )
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    low = [max(0, at * size // side) for at in (x0 - left, y0 - top)]
    high = [min(size, -(-at * size // side)) for at in (x1 - left, y1 - top)]
    if low[0] >= high[0] or low[1] >= high[1]:
        raise UserError(
            f"box {x0} {y0} {x1} {y1} lies outside the picture's centre square, x {left} to "
            f"{left + side} and y {top} to {top + side}, which is all the model sees"
        )
    return (*low, *high)
