"""From features to numbers: what every measure looks at, and the one loop over all measures.

    sides = Sides(reference, fakes, network, real=real)
    found, missing = numbers(sides)      number -> value, or (value, low, high)

A measure is a row of `measures.py` that names its module; `metrics/<module>.py` has

    NETWORK = None                       the feature network it needs; None: that of FID
    def measured(sides) -> dict          its numbers by name; raises Lacking with what it needs

Shapes: N pictures, K sets (one a sampling seed), D features, T tasks of composition.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cm3leon.evaluation.measures import MEASURES, NONE, Missing
from cm3leon.seeds import generator

LEAST = 4  # pictures a side, below which there is neither an interval nor a KID
MORE = "more pictures"


class Lacking(Exception):
    """A measure cannot be taken of these sides; the text says what it needs."""


class Side:
    """Features of `count` pictures in order, those of the `unreadable` excepted.

    In memory (`Held`) or on disk (`features.cache.Kept`); both give `shards()`.
    """

    count: int
    dim: int
    unreadable: dict[int, str]

    def shards(self) -> Iterator:
        """Parts in order, each with `features_BD` and the `places` of its rows."""
        raise NotImplementedError

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """Float32 [K, D] of the places that `wanted` (bool [N]) marks, those left out excepted."""
        parts = [np.zeros((0, self.dim), np.float32)]
        parts += [one.features_BD[wanted[one.places]] for one in self.shards()]
        return np.concatenate(parts)

    def moments(self, wanted: np.ndarray | None = None):
        """`Moments` of all features, or of those at the places that `wanted` (bool [N]) marks."""
        return self._whole if wanted is None else self._seen(wanted)

    @cached_property
    def _whole(self):
        return self._seen(np.ones(self.count, bool))

    def _seen(self, wanted: np.ndarray):
        from cm3leon.evaluation.statistics.frechet import Moments

        seen = Moments(self.dim)
        for one in self.shards():
            seen.add(one.features_BD[wanted[one.places]])
        return seen

    @property
    def readable(self) -> np.ndarray:
        """Bool [N]: which pictures have features."""
        found = np.ones(self.count, bool)
        found[list(self.unreadable)] = False
        return found

    def chosen(self, limit: int, among: np.ndarray | None = None) -> np.ndarray:
        """Bool [N]: at most so many readable places, of those that `among` marks."""
        places = np.flatnonzero(self.readable if among is None else self.readable & among)
        mixed = generator(0, "kid", "places", len(places)).permutation(len(places))[:limit]
        marked = np.zeros(self.count, bool)
        marked[places[mixed]] = True
        return marked


@dataclass(frozen=True, eq=False)
class Held(Side):
    """Features in memory: float32 [N, D]. Also a reference that distances are to."""

    features_ND: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """N."""
        return len(self.features_ND)

    @property
    def dim(self) -> int:
        """D."""
        return self.features_ND.shape[1]

    @property
    def features_BD(self) -> np.ndarray:
        """All rows: a side in memory is one part."""
        return self.features_ND

    @cached_property
    def places(self) -> np.ndarray:
        """0 .. N - 1."""
        return np.arange(self.count)

    def shards(self) -> Iterator[Held]:
        """Itself."""
        yield self

    def distance(self, fake: Held) -> float:
        """Squared Fréchet distance to other features in memory."""
        from cm3leon.evaluation.statistics.frechet import frechet_from_features

        return frechet_from_features(self.features_ND, fake.features_ND)

    def influence(self, fake: Held) -> np.ndarray:
        """How much each row of `fake` moves that distance: float64 [N], mean 0."""
        from cm3leon.evaluation.statistics.intervals import frechet_influence

        return frechet_influence(self.features_ND, fake.features_ND)


@dataclass(frozen=True)
class Truth:
    """What drawn pictures hold of what their captions claim, summed over the seeds."""

    right_NT: np.ndarray
    asked_NT: np.ndarray
    images: Sequence[str]  # the picture each caption was written for
    unseen_N: np.ndarray  # bool: whether it asks for an entity that training never shows
    impossible_N: np.ndarray | None = None  # share of the seeds; None for pictures without codes


@dataclass(frozen=True)
class Sides:
    """A reference and K sets of drawings of the same prompts, as features of one network.

    `reference` has `distance(side)` and `influence(side)`: `Held`, or `Statistics` for sides on
    disk. `real` are its pictures, None where it came as statistics; `among` marks those that belong
    to it. `clip` is the CLIP whose image tower the network is.
    """

    reference: object
    fakes: Sequence[Side]
    network: object  # evaluation.features.network.Features
    real: Side | None = None
    among: np.ndarray | None = None
    captions: Sequence[str] = ()
    clip: object | None = None
    truth: Truth | None = None
    resamples: int = 200

    def real_rows(self, limit: int) -> np.ndarray:
        """Features of at most so many pictures of the reference, float32 [M, D]."""
        if self.real is None:
            raise Lacking("the real pictures, not --reference alone")
        return self.real.rows(self.real.chosen(limit, self.among))

    def fake_rows(self, limit: int) -> list[np.ndarray]:
        """Features of at most so many drawn pictures of each set, float32 [N, D]."""
        return [fake.rows(fake.chosen(limit)) for fake in self.fakes]


def numbers(sides: Sides, skip: Collection[str] = ()) -> tuple[dict, list[Missing]]:
    """Every number that the sides' network can tell, and what the others need.

    Modules in `skip` are passed over, as are those that need another network.
    """
    found, missing = {}, []
    for name, module in modules():
        if name in skip or not serves(module.NETWORK, sides.network.name):
            continue
        try:
            found |= module.measured(sides)
        except Lacking as lack:
            missing += lacking(name, str(lack))
    return found, missing


def modules() -> Iterator[tuple[str, object]]:
    """(name, module) of everything in `metrics/` that the table of measures names."""
    for name in dict.fromkeys(one.module for one in MEASURES if one.module):
        yield name, importlib.import_module(f"cm3leon.evaluation.metrics.{name}")


def serves(needed: str | None, network: str) -> bool:
    """Whether a network is what a module needs: any, that very one, or any form of Inception."""
    return needed in (None, network) or (needed == "inception" and network.startswith(needed))


def lacking(module: str, needs: str) -> list[Missing]:
    """The numbers of a module as missing."""
    mine = [one for one in MEASURES if one.module == module and one.better != NONE]
    return [Missing(one.title, needs) for one in mine if not one.name.endswith("_*")]
