"""Several data sets as one: how often each is read, and which record stands at which place.

"Up/down sampling strategy with a threshold of 3/0.3" is all that the paper says (E.1; A50). Read
here as: a data set of n records has the weight clip(T / n, 0.3, 3), and one pass over the mixture
reads weight x n of its records. T is the geometric mean of the sizes: of Table 5's 18 data sets
about 260,000, so that those from 870,000 records on are cut to 0.3 of themselves and those below
87,000 are read three times; the paper names no constant, so another T is an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cm3leon import seeds
from cm3leon.config import check

LEAST, MOST = 0.3, 3.0


class Mixture:
    """An endless order of the records of data sets of these sizes, a pure function of the seed.

    In each pass over the mixture a data set has as many places as `counts` says, in an order drawn
    anew; its records come in an order drawn anew each time all of them were read, without
    replacement. `target` is T; None: the geometric mean of the sizes. Raises UserError for an empty
    data set and thresholds that are none.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int,
        *,
        target: float | None = None,
        least: float = LEAST,
        most: float = MOST,
    ):
        check(bool(sizes) and min(sizes, default=0) >= 1, "data sets", "not be empty", sizes)
        check(0 < least <= most, "mixing thresholds", "be positive and in order", (least, most))
        self.sizes, self.seed = tuple(sizes), seed
        self.target = float(np.exp(np.mean(np.log(sizes)))) if target is None else target
        self.weights = tuple(min(most, max(least, self.target / size)) for size in sizes)
        pairs = zip(self.weights, sizes, strict=True)
        self.counts = tuple(max(1, round(weight * size)) for weight, size in pairs)

    def __len__(self) -> int:
        """Records of one pass over the mixture."""
        return sum(self.counts)

    def epochs(self, records: float) -> tuple[float, ...]:
        """How often each data set is read in so many records of the mixture."""
        share = records / len(self)
        return tuple(share * n / size for n, size in zip(self.counts, self.sizes, strict=True))

    def at(self, place: int) -> tuple[int, int]:
        """(data set, record of it) at a place 0, 1, .. of the order."""
        turn, within = divmod(place, len(self))
        which, before = self._turn(turn)
        data_set = int(which[within])
        drawn = turn * self.counts[data_set] + int(before[within])
        epoch, at = divmod(drawn, self.sizes[data_set])
        return data_set, int(self._order(data_set, epoch)[at])

    @lru_cache(maxsize=2)  # noqa: B019 (a mixture lives as long as its training)
    def _turn(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each place of a pass: its data set, and how many of that stand before it."""
        sets = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        which = seeds.generator(self.seed, "mixture", turn).permutation(sets)
        before = np.empty(len(which), np.int64)
        for data_set, count in enumerate(self.counts):
            before[which == data_set] = np.arange(count)
        return which, before

    @lru_cache(maxsize=64)  # noqa: B019
    def _order(self, data_set: int, epoch: int) -> np.ndarray:
        """The records of a data set in the order of its epoch."""
        draws = seeds.generator(self.seed, "order", data_set, epoch)
        return draws.permutation(self.sizes[data_set])
