"""FID with its interval, at few and at endless pictures (Heusel et al. 2017, arXiv 1706.08500).

The distance itself is in `statistics/frechet.py`, its interval in `statistics/intervals.py`.

Shapes: N pictures, K sets (one a sampling seed), D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cm3leon.evaluation.sides import LEAST, MORE, Held, Lacking, Side, Sides
from cm3leon.evaluation.statistics.frechet import Reference
from cm3leon.evaluation.statistics.intervals import (
    FRECHET_METHOD,
    SEEDS_METHOD,
    extrapolated_frechet,
    frechet_at,
    spread_of,
)

NETWORK = None
LEVEL = 0.95
SIZES = (5_000, 10_000, 20_000)  # first prompts, of which the distance is told too


@dataclass(frozen=True)
class Fid:
    """The distance of each set, and the intervals of their mean: of images, of seeds, of both."""

    per_seed: Sequence[float]
    spread: Mapping[str, tuple[float, float] | None]

    @property
    def value(self) -> float:
        """Mean over the sets."""
        return float(np.mean(self.per_seed))

    @property
    def number(self) -> float | tuple[float, float, float]:
        """The value with the ends of its interval, where it has one."""
        ends = self.spread["both"]
        return self.value if ends is None else (self.value, *ends)

    @property
    def methods(self) -> dict[str, str]:
        """How each interval was made."""
        wider = self.spread["both"] != self.spread["images"]
        both = f"{FRECHET_METHOD}, widened by the spread over seeds" if wider else FRECHET_METHOD
        return {"images": FRECHET_METHOD, "seeds": SEEDS_METHOD, "both": both}


def fid(reference, fakes: Sequence[Side]) -> Fid:
    """FID of K sets to a reference (`Sides.reference`); below 4 pictures a side no interval."""
    per_seed = [reference.distance(fake) for fake in fakes]
    if min(fake.count for fake in (*fakes, reference) if hasattr(fake, "count")) < LEAST:
        return Fid(per_seed, {"images": None, "seeds": None, "both": None})
    moved_KN = np.stack([reference.influence(fake) for fake in fakes])
    return Fid(per_seed, spread_of(per_seed, moved_KN, LEVEL))


def measured(sides: Sides) -> dict[str, float | tuple]:
    """FID of fewer pictures of the first set, and followed to endless ones."""
    if isinstance(sides.reference, Held):
        return by_parts(sides.reference, sides.fakes[0], sides.resamples)
    return by_first(sides.reference, sides.fakes[0])


def by_parts(real: Held, fake: Held, resamples: int) -> dict[str, float | tuple]:
    """Of random halves and quarters, averaged; the limit with its interval."""
    limit = extrapolated_frechet(real.features_ND, fake.features_ND, resamples, level=LEVEL)
    if limit is None:
        raise Lacking(MORE)
    sizes = [fake.count // 2, fake.count // 4]
    values = frechet_at(Reference(real.features_ND), fake.features_ND, sizes)
    found = {f"fid_at_{size}": value for size, value in zip(sizes, values, strict=True)}
    return found | {"fid_infinity": limit}


def by_first(reference, fake: Side) -> dict[str, float]:
    """Of the first prompts, as memory may not hold all; the limit by the line over 1/N."""
    count = fake.count
    sizes = [size for size in SIZES if size < count] or [count // 4, count // 2]
    sizes = [size for size in sizes if size > fake.dim]
    if not sizes:
        raise Lacking(MORE)  # below the dimension there is no line
    first = np.arange(count)
    values = [reference.distance(fake, first < size) for size in sizes]
    found = {f"fid_at_{size}": one for size, one in zip(sizes, values, strict=True)}
    line = np.polyfit(1 / np.array([*sizes, count]), [*values, reference.distance(fake)], 1)
    return found | {"fid_infinity": float(line[1])}
