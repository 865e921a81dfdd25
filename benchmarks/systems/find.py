"""The systems a benchmark can be run on: name -> loader, a dict you can grep.

    --system scenes-s                       one of SYSTEMS
    --system diffusers:FOLDER?key=value     a model of another library, one of KINDS
    --system my_file:MY_SYSTEM              your own, by its place

A system is any object with `name`, `config`, `weights_sha256` and `draw(prompts, seeds)`: one
picture a prompt, uint8 [B, H, W, 3], the b-th of prompts[b] and seeds[b] alone.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.seeds import generator

NEEDS = ("name", "config", "weights_sha256", "draw")


class Noise:
    """Uniform noise: the ceiling of every distance, a control for every score."""

    name = "noise"
    weights_sha256 = sha256_bytes(b"")  # no weights

    def __init__(self, size: int = 64):
        self.config = {"size": size}

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Uint8 [B, size, size, 3], each value uniform in 0..255; prompts are ignored."""
        size = self.config["size"]
        pictures = np.zeros((len(seeds), size, size, 3), np.uint8)
        for picture, seed in zip(pictures, seeds, strict=True):
            picture[:] = generator(seed, "noise").integers(0, 256, (size, size, 3), np.uint8)
        return pictures


def ours(name: str) -> Callable:
    """Loader of a shipped CM3Leon; torch is imported when it is called."""

    def load():
        from cm3leon.loading import load_system

        return load_system(name, device="auto")

    return load


def trained(folder: str):
    """A model that `cm3leon train` wrote, with what it names beside it."""
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}; name one that `cm3leon train` wrote")
    return ours(folder)()


SYSTEMS: dict[str, Callable] = {
    "scenes-xs": ours("scenes-xs"),
    "scenes-s": ours("scenes-s"),
    "scenes-s-tuned": ours("scenes-s-tuned"),
    "scenes-s-plain": ours("scenes-s-plain"),
    "scenes-s-2250": ours("scenes-s-2250"),  # of `equal_compute`; not shipped
    "scenes-m": ours("scenes-m"),
    "noise": Noise,
}


def foreign(module: str) -> Callable[[str], object]:
    """Loader `place -> system` of one of the files beside this one, imported when it is called."""

    def load(place: str):
        from benchmarks.systems.adapter import loaded

        found = importlib.import_module(f"benchmarks.systems.{module}")
        return loaded(lambda: found.load(place), place)

    return load


KINDS: dict[str, Callable[[str], object]] = {  # of `KIND:FOLDER?key=value&key=value`
    "cm3leon": trained,
    "diffusers": foreign("diffusers"),
    "llamagen": foreign("llamagen"),
    "transformers": foreign("transformers"),
}


def find_system(name: str):
    """A loaded system: a key of SYSTEMS, `KIND:FOLDER`, or `module:object` (a system, or what
    makes one).

    Raises UserError for an unknown name (with the nearest ones) or an object that is no system.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in KINDS:
        return KINDS[kind](place)
    if colon:
        return imported_system(name)
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, n=2) or sorted(SYSTEMS)
        raise UserError(f"unknown system {name!r}; did you mean {' or '.join(near)}?")
    return SYSTEMS[name]()


def imported_system(path: str):
    """The system at `module:object`; modules of the current folder can be named too."""
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as error:
        raise UserError(f"cannot import {module_name!r} of --system {path}: {error}") from None
    except (Exception, SystemExit) as error:  # the user's own file may raise anything
        raise UserError(f"cannot import {module_name!r} ({path}): {raised(error)}") from None
    if not hasattr(module, attribute):
        raise UserError(
            f"module {module_name!r} has no {attribute!r}; --system takes module:object"
        )
    found = getattr(module, attribute)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "draw")):
        found = made(found, path)
    return checked_system(found, path)


def raised(error: BaseException) -> str:
    """An error of the user's own file as one line, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())[:200]
    return f"{type(error).__name__} at {place.filename}:{place.lineno}: {reason}"


def made(maker: Callable, path: str):
    """What a class or function without arguments makes; UserError for whatever it raises."""
    try:
        inspect.signature(maker).bind()
    except TypeError as error:
        raise UserError(f"{path} cannot be called without arguments: {error}") from None
    try:
        return maker()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--system {path} cannot be made: {raised(error)}") from None


def checked_system(system, path: str):
    """The system itself, if it has the four things a system has."""
    for need in NEEDS:
        if not hasattr(system, need):
            raise UserError(
                f"{path} is no system: it has no {need!r}; needed are {', '.join(NEEDS)}"
            )
    return system
