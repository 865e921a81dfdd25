"""What systems of other libraries share: where they lie, their digest, options, pixels.

    --system diffusers:models/sd?num_inference_steps=20&guidance_scale=5

What stands behind `?` are options of the library's own call, and `dtype` and `device`. A model is a
folder on disk: nothing is downloaded, no pickle is loaded.

Shapes: H x W pixels.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from benchmarks.images.generated import safe
from cm3leon.cli.main import out_of_memory
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes, sha256_file

DTYPES = ("float32", "bfloat16", "float16")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".md", ".mp4")  # beside weights: a card's


@dataclass(frozen=True)
class Place:
    """A model of another library: its folder, and the options given with it."""

    folder: Path
    call: Mapping  # options of the library's own call
    dtype: str = "float32"
    device: str = "auto"

    @classmethod
    def parse(cls, text: str) -> Place:
        """`FOLDER?key=value&key=value`; values are JSON where they can be, else text.

        Raises UserError for a missing folder and torn options.
        """
        path, _, query = text.partition("?")
        try:
            pairs = parse_qsl(query, strict_parsing=True) if query else []
        except ValueError:
            raise UserError(
                f"options {query!r} must be key=value, joined by &, e.g. {path}?guidance_scale=5"
            ) from None
        call = {key: _value(value) for key, value in pairs}
        own = {key: str(call.pop(key)) for key in ("dtype", "device") if key in call}
        if not path or not Path(path).is_dir():
            raise UserError(
                f"no folder {path or 'named'}; download the model first and name its folder: "
                "nothing is fetched from a hub"
            )
        place = cls(Path(path), call, **own)
        if place.dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {place.dtype!r}")
        return place

    @property
    def name(self) -> str:
        """The folder's name, with the options that were given."""
        given = [f"{key}{value}" for key, value in self.call.items()]
        given += [self.dtype] if self.dtype != "float32" else []
        return safe("+".join([self.folder.resolve().name, *given]))


def _value(text: str):
    """A JSON value (`5`, `true`, `null`), or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def needed(package: str):
    """The imported package; one line that names `pip install` where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = getattr(error, "name", None) or package
        raise UserError(
            f"{missing} is not installed; pip install {missing} "
            f"(or this repository's extra: pip install -e '.[{package}]')"
        ) from None


def loaded(load: Callable, folder: Path | str):
    """What `load()` returns; whatever another library says of a folder becomes one line."""
    return one_line(load, f"{folder} cannot be loaded")


def one_line(call: Callable, what: str):
    """What `call()` returns; whatever another library raises becomes one line behind `what`.

    But for a lack of memory, of which the callers make other things.
    """
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # libraries raise what they like for a file they do not like
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{what}: {reason}") from None


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files that can move a drawing.

    Left out: hidden files, cards and pictures.
    """
    rows = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and path.suffix.lower() not in PICTURES:
            rows.append(f"{name.as_posix()} {sha256_file(path)}")
    if not rows:
        raise UserError(f"{folder} is empty; name the folder of a model")
    return sha256_bytes("\n".join(rows).encode())


def pixels(image, name: str) -> np.ndarray:
    """Uint8 [H, W, 3] of floats in 0..1 [H, W, 3], rounded; uint8 comes back as it is.

    Raises UserError for another shape, NaN or infinity, and values outside 0..1.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not all(image.shape):
        raise UserError(f"{name} drew an array of shape {list(image.shape)}, not [H, W, 3]")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f"{name} drew {image.dtype}; pictures are uint8, or floats in 0..1")
    if not np.isfinite(image).all():
        raise UserError(f"{name} drew NaN or infinite pixels; with dtype=float16 try dtype=float32")
    low, high = float(image.min()), float(image.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise UserError(f"{name} drew pixels of {low:.3g} to {high:.3g}; floats must lie in 0..1")
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def one_by_one(
    draw_one: Callable[[str, int], np.ndarray],
    name: str,
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> np.ndarray:
    """Uint8 [B, H, W, 3], picture b of prompts[b] and seeds[b] alone.

    Each stands in a batch of its own: in a larger one other rows would move its last digits.
    """
    if len(prompts) != len(seeds):
        raise UserError(f"draw needs one seed a prompt, got {len(prompts)} and {len(seeds)}")
    drawn = [
        pixels(one_line(lambda p=prompt, s=seed: draw_one(p, s), f"{name} cannot draw"), name)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    shapes = {image.shape for image in drawn}
    if len(shapes) > 1:
        sizes = " and ".join(f"{width}x{height}" for height, width, _ in sorted(shapes)[:2])
        raise UserError(f"{name} drew pictures of {sizes} pixels; a system draws one size")
    return np.stack(drawn) if drawn else np.zeros((0, 1, 1, 3), np.uint8)
