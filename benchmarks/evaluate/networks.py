"""Measures that need a network of their own, where its weights are named.

    FD-DINOv2, CMMD, CLIP score     --dino-weights, --cmmd-weights, --clip-weights
    Inception score                 --inception-weights, where FID's own network has no classes

Each takes FILE, or NETWORK:FILE for another network than the published one, which gives the number
another name; CMMD and CLIP score also `scenes`, the shipped CLIP of the embedded world. By a pinned
protocol the variables that `cm3leon doctor` names will do.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.images.generated import safe
from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import Features, load_features
from cm3leon.evaluation.measures import Missing
from cm3leon.evaluation.sides import Lacking, Sides, lacking, serves
from cm3leon.interop.known_weights import KNOWN, find

TOWER = "open_clip:"
SHIPPED = "scenes"  # the CLIP of the embedded world


@dataclass(frozen=True)
class Beside:
    """The network of a module of `metrics/`, and how its weights are named."""

    module: str
    option: str  # of the command: FILE, or NETWORK:FILE
    file: str  # as it is published
    known: str  # key of `known_weights.KNOWN`

    @property
    def network(self) -> str:
        """The published network, a name of `features.load_features`."""
        return self.metric.NETWORK

    @property
    def metric(self):
        """The module itself."""
        return importlib.import_module(f"cm3leon.evaluation.metrics.{self.module}")

    @property
    def flag(self) -> str:
        """`--dino-weights` and its kin."""
        return f"--{self.option.replace('_', '-')}"


BESIDE = (
    Beside("fd_dinov2", "dino_weights", "dinov2_vitl14_pretrain.pth", "dinov2"),
    Beside("cmmd", "cmmd_weights", "ViT-L-14-336px.pt", "clip-openai-l14-336"),
    Beside("clip_score", "clip_weights", "ViT-B-32.pt", "clip-openai"),
    Beside(
        "inception_score", "inception_weights", "pt_inception-2015-12-05-6726825d.pth", "inception"
    ),
)
OPTIONS = tuple(one.option for one in BESIDE)


@dataclass(frozen=True)
class Named:
    """Such a network with the weights that were named for it; no path: the shipped CLIP."""

    beside: Beside
    network: str
    path: Path | None

    def name_of(self, number: str) -> str:
        """A number's name: another network, another name."""
        if self.network == self.beside.network:
            return number
        return f"{number}_{safe(self.network.removeprefix(TOWER))}"

    def load(self, device: str, sha256: str | None = None) -> tuple[Features, object | None]:
        """The network, and the CLIP whose tower it is; UserError names the option of a file that
        is not it.
        """
        try:
            if self.path is None:
                features, clip = shipped_clip()
                return features, clip if self.beside.module == "clip_score" else None
            given = {"sha256": sha256} if sha256 else {}
            features = load_features(self.network, device, self.path, **given)
        except UserError as error:
            raise UserError(f"{self.beside.flag}: {error}") from None
        if self.beside.module != "clip_score":
            return features, None
        from cm3leon.evaluation.features.towers import load_tower

        return features, load_tower(self.network.removeprefix(TOWER), self.path)


def shipped_clip() -> tuple[Features, object]:
    """The image tower of the embedded world's CLIP, and the CLIP."""
    from cm3leon.clip import load_clip

    clip = load_clip(SHIPPED)
    return Features(SHIPPED, clip.sha256, clip.width, 64, clip.images, any_size=True), clip


def find_named(beside: Beside, given: str | None, variables: bool = True) -> Named | None:
    """The weights that an option, or an environment variable, names; None for neither."""
    if given is None:
        if not variables or not os.environ.get(KNOWN[beside.known].variable):
            return None
        return Named(beside, beside.network, find(beside.known))
    if given == SHIPPED and beside.network.startswith(TOWER):
        return Named(beside, SHIPPED, None)
    head, colon, file = given.partition(":")
    if not colon or Path(given).exists():
        return Named(beside, beside.network, Path(given))
    tower = beside.network.startswith(TOWER)
    return Named(beside, f"{TOWER}{head}" if tower else head, Path(file))


def find_all(
    options, network: str, pictures: bool = True, variables: bool = True
) -> tuple[list[Named], list[Missing]]:
    """The networks whose weights `options` name, each once; and what the others' numbers need.

    `network` is FID's own, which may serve a module by itself. Without `pictures` of the reference
    those that need them are left out. Raises UserError for a file that is not there.
    """
    found, missing = [], []
    for beside in BESIDE:
        given = getattr(options, beside.option)
        if serves(beside.network, network):
            continue
        if not pictures and beside.module in ("fd_dinov2", "cmmd"):
            if given is not None:
                raise UserError(
                    f"{beside.flag} needs the real pictures; leave out --reference or it"
                )
            missing += lacking(beside.module, needs(beside, variables))
            continue
        named = find_named(beside, given, variables)
        if named is None:
            missing += lacking(beside.module, needs(beside, variables))
        elif named.path is not None and not named.path.exists():  # before hours of drawing
            raise UserError(f"{beside.flag}: no file {named.path}; name the weights, {beside.file}")
        else:
            found.append(named)
    return found, missing


def needs(beside: Beside, variables: bool = True) -> str:
    """What would have to be there."""
    variable = f" or {KNOWN[beside.known].variable}" if variables else ""
    return f"{beside.file} by {beside.flag}{variable}"


@dataclass
class Taken:
    """Numbers of networks of their own, by which network, what is missing, and remarks."""

    extra: dict
    by: dict[str, str]
    missing: list[Missing]
    remarks: list[str]


def sides_by(
    named: Sequence[Named],
    sides_of: Callable[[Features], Sides],
    device: str = "cpu",
    sha256: str | None = None,
) -> list[tuple[Named, Sides]]:
    """The sides by each network named, made by `sides_of` its features."""
    found = []
    for one in named:
        features, clip = one.load(device, sha256)
        found.append((one, replace(sides_of(features), clip=clip)))
    return found


def take(taken: Sequence[tuple[Named, Sides]]) -> Taken:
    """The numbers of such sides."""
    found = Taken({}, {}, [], [])
    for one, sides in taken:
        try:
            extra = one.beside.metric.measured(sides)
        except Lacking as lack:
            found.missing += lacking(one.beside.module, str(lack))
            continue
        extra = {one.name_of(number): value for number, value in extra.items()}
        file = one.path.name if one.path else "shipped"
        told = f"{sides.network.name} ({file}, SHA-256 {sides.network.digest[:12]})"
        found.extra |= extra
        found.by |= dict.fromkeys(extra, told)
        if sides.clip is not None:
            found.remarks += one.beside.metric.remarks(sides)
    return found
