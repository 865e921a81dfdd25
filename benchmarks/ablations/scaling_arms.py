"""With documents against without, at equal FLOPs and at equal queries; pure.

A point is what `scaling_runs` measured with its size, seed and budget. Pairs share size and seed,
so that both have drawn the same queries in the same order; the interval is Student's over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from cm3leon.evaluation.statistics.intervals import mean_interval

LOSSES = ("held_out_image", "held_out_tail_image", "held_out_text")
FID = "fid"
NEAR = 0.05  # relative difference of queries that count as equal
Pair = tuple[Mapping, Mapping]  # (plain, documents)


def differences(plain: Sequence[Mapping], documents: Sequence[Mapping]) -> dict:
    """Numbers of equal_flops and equal_queries: (mean over seeds, low, high), the mean alone of one
    seed. `EQUAL.SIZE.M_minus_plain` is of a size's largest budget, `EQUAL.all.` the mean of sizes,
    `EQUAL.all.first.` that of their smallest budgets, `EQUAL.slope.` the slope over ln N; losses in
    nats a token, composition and entities as shares, FID as `fid_over_plain`.
    """
    found = {}
    for name, pairs in (
        ("equal_flops", equal(plain, documents, "budget", 1e-9)),
        ("equal_queries", equal(plain, documents, "queries", NEAR)),
    ):
        found |= {f"{name}.{key}": value for key, value in told(pairs).items()}
    return found


def equal(
    plain: Sequence[Mapping], documents: Sequence[Mapping], key: str, near: float
) -> list[Pair]:
    """Pairs of a size and a seed that are nearest in a number, relative differences below `near`"""
    found = []
    for ours in documents:
        same = [one for one in plain if all(one[k] == ours[k] for k in ("size", "seed"))]
        for one in sorted(same, key=lambda one: abs(one[key] - ours[key]))[:1]:
            if abs(one[key] - ours[key]) <= near * ours[key]:
                found.append((one, ours))
    return found


def told(pairs: Sequence[Pair]) -> dict:
    """Means over seeds of what documents change, by size and over sizes."""
    last, first = ends(pairs, -1), ends(pairs, 0)
    found = {}
    for measure in measures(pairs):
        name = measure.replace("fid_minus", "fid_over")
        by_size = {size: by_seed(some, measure) for size, some in last.items()}
        for size, values in by_size.items():
            found[f"{size}.{name}"] = triple(values.values(), measure)
        if len(last) < 2:
            continue
        found[f"all.{name}"] = triple(over_sizes(by_size), measure)
        begun = {size: by_seed(some, measure) for size, some in first.items()}
        found[f"all.first.{name}"] = triple(over_sizes(begun), measure)
        if measure.startswith("held_out"):
            sizes = {size: np.log(some[0][0]["parameters"]) for size, some in last.items()}
            found[f"slope.{name}"] = triple(slopes(by_size, sizes), measure)
    return found


def measures(pairs: Iterable[Pair]) -> list[str]:
    """Names of the differences that all pairs have, as `M_minus_plain`."""
    each = [set(changes(*pair)) for pair in pairs]
    return sorted(set.intersection(*each)) if each else []


def changes(plain: Mapping, documents: Mapping) -> dict[str, float]:
    """What documents change in one pair; of FID the logarithm of the ratio. Drawings are those with
    the documents a model was trained for: 2 against 0.
    """
    found = {f"{key}_minus_plain": documents[key] - plain[key] for key in LOSSES}
    for key in (key for key in plain if key.endswith("_with_0")):
        split, measure = key.removesuffix("_with_0").split(".")
        ours = documents.get(f"{split}.{measure}_with_2")
        if ours is None:
            continue
        change = np.log(ours / plain[key]) if measure == FID else ours - plain[key]
        found[f"{split}.{measure}_minus_plain"] = float(change)
    return found


def ends(pairs: Iterable[Pair], place: int) -> dict[str, list[Pair]]:
    """By size the pairs of its smallest (0) or largest (-1) budget of documents, in order of N."""
    by_size: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair[1]["parameters"], pair[1]["budget"])):
        by_size.setdefault(pair[1]["size"], []).append(pair)
    return {
        size: [one for one in some if one[1]["budget"] == some[place][1]["budget"]]
        for size, some in by_size.items()
    }


def by_seed(pairs: Iterable[Pair], measure: str) -> dict[int, float]:
    """A change of each seed."""
    return {ours["seed"]: changes(plain, ours)[measure] for plain, ours in pairs}


def over_sizes(by_size: Mapping[str, Mapping[int, float]]) -> Iterator[float]:
    """The mean of all sizes, for each seed that all have."""
    for seed in common(by_size):
        yield float(np.mean([values[seed] for values in by_size.values()]))


def slopes(by_size: Mapping[str, Mapping[int, float]], sizes: Mapping) -> Iterator[float]:
    """The slope over ln N, for each seed that all sizes have."""
    for seed in common(by_size):
        values = [values[seed] for values in by_size.values()]
        yield float(np.polyfit([sizes[size] for size in by_size], values, 1)[0])


def common(by_size: Mapping[str, Mapping[int, float]]) -> list[int]:
    """Seeds that all sizes have."""
    return sorted(set.intersection(*(set(values) for values in by_size.values())))


def triple(values: Iterable[float], measure: str) -> tuple[float, float, float] | float:
    """Mean and interval over seeds, of one seed the value; FID back from logarithms."""
    values = list(values)
    found = (float(np.mean(values)), *mean_interval(values)) if len(values) > 1 else values[0]
    if not measure.endswith("fid_minus_plain"):
        return found
    return tuple(np.exp(found).tolist()) if isinstance(found, tuple) else float(np.exp(found))
