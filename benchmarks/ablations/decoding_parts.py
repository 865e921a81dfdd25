"""The parts of the decoding ablation: each draws its cells and adds numbers to the run.

Numbers are named `part.cell.measure`. Shapes: P prompts, K samples of each, D features, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from benchmarks.ablations import caption_settings as caption_cells
from benchmarks.ablations import decoding_scores as scores
from benchmarks.ablations.decoding_settings import (
    Cell,
    guidance_cells,
    nucleus_cells,
    reading_cells,
    strategies,
    surface_cells,
)
from benchmarks.evaluate.clip_beside import cosines, judge_beside
from benchmarks.evaluate.composition import answers
from cm3leon.clip import load_clip
from cm3leon.evaluation.features.network import Features, extract
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.intervals import percentile_interval
from cm3leon.evaluation.statistics.paired import Distance

MIXED = ("top-p", "cd-k")  # half of the samples from each (A41)


def guidance(run, asked, features: Features, phases) -> None:
    """FID against the weight for every size, each size's best weight, and whether they agree."""
    sizes, weights = run.systems[: len(run.options.sizes)], run.plan.weights
    cells = guidance_cells(sizes, run.plan)
    judge = partial(scores.judge_sets, features=features, clip=load_clip("scenes"))
    judged = sweep(run, "guidance", cells, asked, judge, phases)
    best, draws = {}, {}
    with phases("statistics"):
        names = iter(judged.values())
        for size in sizes:
            by_weight = {weight: next(names) for weight in weights}
            found = scores.optimum(by_weight, asked.reference, run.options.resamples)
            best[size.name], draws[size.name] = found
            ends = percentile_interval(found[1], paired.LEVEL)
            run.extra[f"guidance.{size.name}.best_weight"] = (found[0], *around(found[0], ends))
        for one, other in pairwise(sizes):
            run.extra[f"guidance.{one.name}.steps_from_{other.name}"] = scores.apart_in_steps(
                draws[one.name], draws[other.name], weights, (best[one.name], best[other.name])
            )


def around(value: float, ends: tuple[float, float]) -> tuple[float, float]:
    """An interval that holds its value."""
    return min(value, ends[0]), max(value, ends[1])


def surface(run, asked, features: Features, phases) -> None:
    """CD-K over k and alpha, and its greedy limit."""
    judge = partial(scores.judge_sets, features=features)
    sweep(run, "surface", surface_cells(run.system, run.plan), asked, judge, phases)


def nucleus(run, asked, features: Features, phases) -> None:
    """Temperature x top-p."""
    judge = partial(scores.judge_sets, features=features)
    sweep(run, "nucleus", nucleus_cells(run.system, run.plan), asked, judge, phases)


def readings(run, asked, features: Features, phases) -> None:
    """Readings of the unconditional stream with two documents and with none."""
    cells = reading_cells(run.systems[-1], run.plan)
    judge = partial(scores.judge_sets, features=features)
    judged = sweep(run, "readings", cells, asked, judge, phases)
    with phases("statistics"):
        first = next(name for name in judged if "mask" in name)
        for name in judged:
            if name != first:
                drawn = [judged[key].features_PKD for key in (first, name)]
                pair = [paired.distance(asked.reference, one) for one in drawn]
                run.extra[f"readings.{first}.fid_vs_{name}"] = paired.frechet_ratio(*pair)


def sweep(
    run, part: str, cells: Sequence[Cell], asked, judge: Callable, phases
) -> dict[str, scores.Judged]:
    """Draw every cell and `judge(sets, prompts, label=)` it; numbers go to the run, settings to the
    protocol.
    """
    judged = {}
    run.cells[part] = {cell.name: cell.about for cell in cells}
    measure_floor(run, part, cells[0].prompts * len(cells[0].seeds), asked)
    for cell in cells:
        prompts = asked.prompts[: cell.prompts]
        with phases("draw"):
            sets = run.drawn(cell.system, prompts, cell.seeds)
        with phases("judge"):
            judged[cell.name] = judge(sets, prompts, label=cell.name)
        with phases("statistics"):
            name = f"{part}.{cell.name}"
            run.extra |= scores.numbers(
                name, judged[cell.name], asked.reference, run.options.resamples
            )
    return judged


def measure_floor(run, part: str, count: int, asked) -> None:
    """FID of `count` real pictures to the reference: what a perfect cell of the part reaches."""
    real_M1D = asked.further_MD[:count, None]
    assert len(real_M1D) == count, (part, count)
    floor = paired.distance(asked.reference, real_M1D, run.options.resamples)
    run.extra[f"{part}.real.floor"] = paired.frechet(floor)


def pool(run, asked, features: Features, phases) -> None:
    """FID and composition against the number of samples a prompt that CLIP chooses from."""
    fids = {
        part: {name: run.extra[f"{part}.{name}.fid"][0] for name in run.cells[part]}
        for part in ("surface", "nucleus")
    }
    ways = strategies(run.system, fids["surface"], fids["nucleus"], run.plan)
    prompts, samples = asked.prompts[: run.plan.pool_prompts], run.plan.pool_samples
    clip = load_clip(run.options.rerank_clip)
    judge, missing = judge_beside(clip.sha256)
    run.missing += missing
    run.facts["rerank_clip_sha256"] = clip.sha256
    cells, drawn = {}, {}
    for name, decode in ways.items():
        cells[name] = Cell(name, run.system.with_decode(decode), len(prompts), (*range(samples),))
        with phases("draw"):
            drawn[name] = run.drawn(cells[name].system, prompts, cells[name].seeds)
    run.cells["pool"] = {name: cell.about for name, cell in cells.items()}
    with phases("judge"):
        pools = {
            name: Pool(sets, prompts, features, (clip, judge), name) for name, sets in drawn.items()
        }
    with phases("statistics"):
        sides = {name: reranked(run, name, one, asked) for name, one in pools.items()}
        sides["mixed"] = mixed(run, [pools[name] for name in MIXED], asked)
        measure_floor(run, "pool", len(prompts), asked)
    compare(run, sides)


class Pool:
    """All samples of one way to draw: features, nearness to the prompt, claims fulfilled.

    `clips`: the one that picks, and the one that measures its picks, if any.
    """

    def __init__(self, sets, prompts, features: Features, clips, label: str):
        rows, near, right = [], [], []
        for one in sets:
            images = np.concatenate(list(one.batches()))
            rows.append(extract(features, np.array_split(images, 2), len(images), label))
            near.append([cosines(clip, prompts, images) for clip in clips if clip is not None])
            right.append(scores.shares_right(*answers(prompts, [one], features.size)))
        self.features_PKD, self.right_PK = np.stack(rows, 1), np.stack(right, 1)
        self.clip_PK, *judged = np.moveaxis(np.array(near), 0, -1)
        self.judged_PK = judged[0] if judged else None

    def chosen(self, picks_GP: np.ndarray) -> Chosen:
        """The samples picked, G of each prompt."""
        rows = np.arange(len(self.features_PKD))
        pick = [self.features_PKD, self.right_PK, self.judged_PK]
        return Chosen(*(None if one is None else one[rows, picks_GP] for one in pick))


@dataclass(frozen=True)
class Chosen:
    """Features [G, P, D], shares right [G, P] and CLIP cosines [G, P] of picked samples."""

    features_GPD: np.ndarray
    right_GP: np.ndarray
    judged_GP: np.ndarray | None


def reranked(run, name: str, one: Pool, asked) -> dict[int, Distance]:
    """Numbers of one way for every number of samples; count -> FID and what moves it."""
    found = {}
    for count in run.plan.counts:
        groups = scores.groups_of(run.plan.pool_samples, count)
        chosen = one.chosen(scores.picks(one.clip_PK, groups))
        found[count] = score(run, f"pool.{name}-n{count}", chosen, asked)
    return found


def mixed(run, two: Sequence[Pool], asked) -> dict[int, Distance]:
    """The same of samples half from each of two ways."""
    found = {}
    for count in run.plan.counts:
        parts = []
        for ours, others in scores.mixed_groups(run.plan.pool_samples, count):
            clip_PK = np.concatenate([two[0].clip_PK[:, ours], two[1].clip_PK[:, others]], 1)
            best_P = clip_PK.argmax(1)
            places = np.concatenate([ours, others])[best_P]
            parts.append(either(best_P < len(ours), *(one.chosen(places[None]) for one in two)))
        found[count] = score(run, f"pool.mixed-n{count}", together(parts), asked)
    return found


def either(first_P: np.ndarray, one: Chosen, other: Chosen) -> Chosen:
    """The first's samples where `first_P`, elsewhere the other's."""
    judged = one.judged_GP
    return Chosen(
        np.where(first_P[:, None], one.features_GPD, other.features_GPD),
        np.where(first_P, one.right_GP, other.right_GP),
        None if judged is None else np.where(first_P, judged, other.judged_GP),
    )


def together(parts: Sequence[Chosen]) -> Chosen:
    """Groups one after the other."""
    judged = None if parts[0].judged_GP is None else [one.judged_GP for one in parts]
    return Chosen(
        np.concatenate([one.features_GPD for one in parts]),
        np.concatenate([one.right_GP for one in parts]),
        None if judged is None else np.concatenate(judged),
    )


def score(run, name: str, chosen: Chosen, asked) -> Distance:
    """FID, composition and, where it is measured, CLIP score of picked samples into the run."""
    one = paired.mean_distance(asked.reference, chosen.features_GPD, run.options.resamples)
    run.extra[f"{name}.fid"] = paired.frechet(one)
    run.extra[f"{name}.right"] = paired.mean(chosen.right_GP.mean(0))
    if chosen.judged_GP is not None:
        run.extra[f"{name}.clip"] = paired.mean(chosen.judged_GP.mean(0))
    return one


def compare(run, sides: Mapping[str, Mapping[int, Distance]]) -> None:
    """H4: FID of top-p over that of CD-K. H5: what all samples gain over the middle count."""
    last = run.plan.counts[-1]
    middle = run.plan.counts[len(run.plan.counts) // 2]
    run.facts["gain_from"], run.facts["gain_to"] = middle, last
    for count in (1, middle, last):
        pair = sides["cd-k"][count], sides["top-p"][count]
        run.extra[f"pool.cd-k-n{count}.fid_vs_top-p"] = paired.frechet_ratio(*pair)
    for name, one in sides.items():
        gain = paired.frechet_ratio(one[last], one[middle])
        run.extra[f"pool.{name}.gain"] = gain
    for name in MIXED:
        run.extra[f"pool.mixed.gain_vs_{name}"] = scores.ratio_of_gains(
            (sides["mixed"][middle], sides["mixed"][last]), (sides[name][middle], sides[name][last])
        )
        pair = sides["mixed"][last], sides[name][last]
        run.extra[f"pool.mixed-n{last}.fid_vs_{name}"] = paired.frechet_ratio(*pair)


def captions(run, phases) -> None:
    """Every way on `val`; the best of each family again on `test`, against the best plain one."""
    ways = {way.name: way for way in caption_cells.ways()}
    with phases("captions"):
        asked = caption_cells.shown("val", run.plan.captions)
        for name, way in ways.items():
            for measure, values in both(run.system, asked, way).items():
                run.extra[f"captions.{name}.{measure}"] = paired.mean(values)
        best = caption_cells.best_of_each(
            {name: run.extra[f"captions.{name}.cider"][0] for name in ways}
        )
        asked = caption_cells.shown("test", run.plan.captions)
        found = {family: both(run.system, asked, ways[name]) for family, name in best.items()}
    run.facts["captions_chosen"] = best
    for family, measures in found.items():
        for measure, values in measures.items():
            run.extra[f"captions_test.{family}.{measure}"] = paired.mean(values)
            if family != "plain":
                apart = paired.mean_difference(values, found["plain"][measure])
                run.extra[f"captions_test.{family}.{measure}_vs_plain"] = apart


def both(system, asked, way) -> dict[str, np.ndarray]:
    """Captioning and infilling by one way."""
    made = caption_cells.captioned(system, asked, way)
    return made | caption_cells.infilled(system, asked, way)
