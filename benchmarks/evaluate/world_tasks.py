"""Tasks of the embedded world: what is asked of each scene, and how an answer is scored.

A `WorldTask` knows its examples (one of each scene), floor and ceiling, and the scores of answers;
answers are texts, or pictures uint8 [N, S, S, 3]. A score is parts, one an example, and what sums
them up: a mean, an mIoU over all, an AP. So any resample of the examples has its number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from cm3leon import seeds
from cm3leon.data.examples import Example
from cm3leon.data.layouts.world import MAKE, SIGNS, scene_at
from cm3leon.evaluation.metrics.composition import judge
from cm3leon.evaluation.statistics.intervals import percentile_interval, resamples_of
from cm3leon.evaluation.tasks.average_precision import (
    Detection,
    average_precision,
    iou_recall,
    matches,
)
from cm3leon.evaluation.tasks.clip_edit import clip_direction, clip_similarity
from cm3leon.evaluation.tasks.depth_rmse import depth_rmse
from cm3leon.evaluation.tasks.edge_f1 import edge_f1
from cm3leon.evaluation.tasks.edit_pixels import l1, psnr, squared_error
from cm3leon.evaluation.tasks.letters import edit_distance, letters_right
from cm3leon.evaluation.tasks.mean_iou import confusion, mean_iou, pixel_accuracy
from cm3leon.evaluation.tasks.scienceqa_accuracy import scienceqa_accuracy
from cm3leon.evaluation.text.caption_truth import judge_caption, true_reading
from cm3leon.evaluation.text.captions import bleu, cider_d, rouge_l, tokens
from cm3leon.tasks import TASKS
from cm3leon.tasks.task import Task
from cm3leon.world.conditions import CLASSES, MAPS, READERS, SHADES
from cm3leon.world.descriptions import block
from cm3leon.world.edits import captions_around, changes, edit, groups
from cm3leon.world.reader import Reading, read_picture, read_sign
from cm3leon.world.scenes import Plan, Scene
from cm3leon.world.sprites import CELLS, SIZES

DRAW = "draw"  # pretraining's own task, beside those of `cm3leon.tasks`
RESAMPLES = 500


@dataclass(frozen=True)
class Score:
    """A number: `parts`, one an example, and what makes a number of some of them."""

    parts: Sequence
    of: Callable[[Sequence], float] = lambda parts: float(np.mean(parts))

    @property
    def value(self) -> float:
        """Of all examples."""
        return self.of(self.parts)

    def draws(self, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
        """Of resamples of the examples, float64 [R]: the same examples for every score."""
        drawn = resamples_of(len(self.parts), resamples, seed, "tasks")
        return np.array([self.of([self.parts[row] for row in rows]) for rows in drawn])


def triple(score: Score, less: Score | None = None) -> tuple[float, float, float]:
    """(value, low, high) of a score, or of its difference from another on the same examples."""
    draws, value = score.draws(), score.value
    if less is not None:
        draws, value = draws - less.draws(), value - less.value
    finite = draws[np.isfinite(draws)]
    low, high = percentile_interval(finite) if len(finite) else (value, value)
    return value, low, high


@dataclass(frozen=True)
class WorldTask:
    """One task about the scenes of a split: `fields` ask, one of each scene."""

    name: str
    scenes: Sequence[Scene]
    fields: Sequence[dict]
    score: Callable[[WorldTask, Sequence], dict[str, Score]]
    main: str  # the score that speaks for the task; higher is better
    more: dict = field(default_factory=dict)  # what the scores need beside

    @property
    def task(self) -> Task | None:
        """Of `cm3leon.tasks`; None of drawing captions."""
        return TASKS.get(self.name)

    @property
    def draws(self) -> bool:
        """Whether its answers are pictures."""
        return self.task is None or self.task.draws

    @property
    def truth(self) -> Sequence:
        """What is right: pictures, or texts."""
        if not self.draws:
            return [one[self.task.targets[-1]] for one in self.fields]
        name = "image2" if self.name == "edit" else "image"
        return np.stack([one[name] for one in self.fields])

    def asked(self) -> list[dict]:
        """The fields without the answer."""
        hidden = set(self.task.targets)
        return [
            {key: one for key, one in each.items() if key not in hidden} for each in self.fields
        ]

    def floor(self) -> Sequence:
        """What no model is needed for: the picture as it was, the most common answer, another's
        caption or picture.
        """
        if self.name == "edit":
            return np.stack([one["image1"] for one in self.fields])
        if self.draws:
            return np.roll(self.truth, 1, axis=0)
        if self.name.startswith("caption"):
            return [*self.truth[1:], self.truth[0]]
        return [Counter(self.truth).most_common(1)[0][0]] * len(self.fields)

    def ceiling(self, system) -> Sequence:
        """The truth, a picture through the image tokenizer: all that a model can reach."""
        return system.decode_codes(system.encode(self.truth)) if self.draws else self.truth

    def answers(self, system, seed: int = 0, settings: dict | None = None) -> Sequence:
        """A system's answers, each from a seed of its example."""
        own = [seeds.derive(seed, self.name, one.id) for one in self.scenes]
        if self.task is None:
            return system.draw([one["caption"] for one in self.fields], own)
        if self.draws:
            return system.draw_asked(self.task, self.asked(), own, settings)
        return system.write_asked(self.task, self.asked(), own, settings)

    def scores(self, answers: Sequence) -> dict[str, Score]:
        """Every score of the task, by the name of its measure."""
        return self.score(self, answers)


def world_task(name: str, dialect: str, split: str, count: int, size: int, clip=None) -> WorldTask:
    """A task about the first `count` scenes of a split; `clip`, where given, for CLIP's scores."""
    score, main = SCORES[name]
    where = SIGNS + split if name == "write" else split
    scenes, found, more, index = [], [], {}, 0
    while len(scenes) < count:
        one = scene_at(dialect, where, index, size)
        example = _drawing(one) if name == DRAW else MAKE[name](one)
        if example.texts:
            pick = index % len(example.texts)
            scenes.append(one)
            found.append({**example.pictures, **example.texts[pick]})
            more.setdefault("picks", []).append(pick)
        index += 1
    return WorldTask(name, scenes, found, score, main, more | {"clip": clip})


def _drawing(one: Scene) -> Example:
    return Example.of(one.id, {"image": one.image}, ({"caption": said} for said in one.captions))


# ---- scores of texts
def _texts(measure: Callable[[str, str], float], name: str, task: WorldTask, answers) -> dict:
    pairs = zip(answers, task.truth, strict=True)
    return {name: Score([float(measure(said, true)) for said, true in pairs])}


def _exact(said: str, true: str) -> float:
    return float(said.strip().lower() == true.strip().lower())


def _captions(task: WorldTask, answers) -> dict[str, Score]:
    verdicts = [judge_caption(said, one) for said, one in zip(answers, task.scenes, strict=True)]
    long = task.name == "caption-long"
    references = [
        [tokens(said) for said in ([one["caption"]] if long else scene.captions)]
        for one, scene in zip(task.fields, task.scenes, strict=True)
    ]
    candidates = [tokens(said) for said in answers]
    ciders = cider_d(candidates, references)
    return {
        "true": Score([float(one["all"]) for one in verdicts]),
        "exact": Score([float(one["all"] and one["named"]) for one in verdicts]),
        "cider": Score(ciders.tolist()),
        "bleu4": Score(list(zip(candidates, references, strict=True)), _bleu4),
        "rouge_l": Score(rouge_l(candidates, references).tolist()),
    }


def _bleu4(parts) -> float:
    candidates, references = zip(*parts, strict=True)
    return float(bleu(candidates, references)[0][3])


# ---- scores of pictures
def shown(reading: Reading) -> tuple:
    """What a picture shows, whatever the order: place and things with their cells."""
    things = [
        (one.shape, one.colour, one.size, one.pattern, one.entity, one.cell)
        for one in reading.objects
    ]
    return reading.place, tuple(sorted(things, key=repr))


def _edits(task: WorldTask, answers) -> dict[str, Score]:
    rows = list(zip(answers, task.fields, task.scenes, task.more["picks"], strict=True))
    after = [edit(one, changes(one)[pick]) for _, _, one, pick in rows]
    read = [read_picture(drawn) for drawn, *_ in rows]
    right = [shown(r) == shown(true_reading(one)) for r, one in zip(read, after, strict=True)]
    same = [(one["image1"] == one["image2"]).all(-1) for one in task.fields]
    errors = [
        squared_error(drawn, one["image2"], where)
        for (drawn, one, *_), where in zip(rows, same, strict=True)
    ]
    found = {
        "edit_exact": Score(np.array(right, float)),
        "background_psnr": Score(errors, lambda parts: psnr(*np.sum(parts, axis=0))),
        "l1": Score([l1(drawn, one["image2"]) for drawn, one, *_ in rows]),
    }
    clip = task.more["clip"]
    if clip is not None:
        around = [captions_around(one, changes(one)[pick]) for _, _, one, pick in rows]
        before_ND = clip.images([one["image1"] for one in task.fields])
        drawn_ND = clip.images(list(answers))
        texts = [clip.texts([pair[k] for pair in around]) for k in (0, 1)]
        direction_N = clip_direction(before_ND, drawn_ND, *texts)
        found["clip_direction"] = Score(direction_N.tolist())
        found["clip_image"] = Score(clip_similarity(before_ND, drawn_ND).tolist())
    return found


def as_scene(reading: Reading, true: Scene) -> Scene:
    """What is read as a scene that conditions can be drawn of: farthest first as in the truth, what
    the truth has not nearest.
    """
    cells = {thing[5]: rank for rank, thing in enumerate(true.plan.things)}
    ordered = sorted(reading.objects, key=lambda one: cells.get(one.cell, len(cells)))
    things = tuple((one.shape, one.colour, one.size, "plain", None, one.cell) for one in ordered)
    scene = Scene(true.dialect, true.split, true.index, true.size, Plan(
        reading.place, things, groups(things), true.plan.sign
    ))  # fmt: skip
    scene.id = true.id
    return scene


def _maps(kind: str, task: WorldTask, answers) -> tuple[list, list]:
    """The condition as it was given, and as it is of what was drawn."""
    given = [READERS[kind](one["condition"]) for one in task.fields]
    drawn = []
    for picture, one in zip(answers, task.scenes, strict=True):
        found = as_scene(read_picture(picture), one)
        if kind == "depth":  # the condition has shades for as many things
            things = found.plan.things[: len(SHADES) - 1]
            found.plan = Plan(found.place, things, groups(things))
        drawn.append(MAPS[kind](found))
    return given, drawn


def _classes(kind: str, classes: int, task: WorldTask, answers) -> dict[str, Score]:
    pairs = list(zip(*_maps(kind, task, answers), strict=True))
    tables = [confusion(one, other, classes) for one, other in pairs]
    found = {"miou": Score(tables, mean_iou), "pixel_accuracy": Score(tables, pixel_accuracy)}
    if kind == "depth":
        found["depth_rmse"] = Score([depth_rmse(SHADES[a], SHADES[b]) for a, b in pairs])
    return found


def _edges(kind: str, task: WorldTask, answers) -> dict[str, Score]:
    pairs = zip(*_maps(kind, task, answers), strict=True)
    return {"edge_f1": Score([edge_f1(one, other) for one, other in pairs])}


def _boxes(task: WorldTask, answers) -> dict[str, Score]:
    pictures, recalls = [], []
    for drawn, one in zip(answers, task.scenes, strict=True):
        true = [(thing[4] or thing[0], block(thing)) for thing in one.plan.things]
        found = [
            Detection(thing.entity or thing.shape, _block(thing), thing.score)
            for thing in read_picture(drawn).objects
        ]
        pictures.append(matches(found, true))
        recalls.append(iou_recall(found, true))
    return {
        "ap50": Score(pictures, lambda parts: average_precision(parts)[1]),
        "ap": Score(pictures, lambda parts: average_precision(parts)[0]),
        "iou_recall": Score(recalls),
    }


def _block(found) -> tuple[int, int, int, int]:
    (column, row), reach = found.cell, SIZES[found.size] // 2
    ends = column - reach, row - reach, column + reach + 1, row + reach + 1
    return tuple(min(max(end, 0), CELLS) for end in ends)


def _signs(task: WorldTask, answers) -> dict[str, Score]:
    signs = [read_sign(drawn) for drawn in answers]
    pairs = [
        (one["letters"], sign.text if sign else "")
        for one, sign in zip(task.fields, signs, strict=True)
    ]
    counts = [(letters_right(text, read), len(text)) for text, read in pairs]
    return {
        "letters_right": Score(counts, lambda parts: float(np.divide(*np.sum(parts, axis=0)))),
        "sign_right": Score([float(text == read) for text, read in pairs]),
        "edit_distance": Score([float(edit_distance(*pair)) for pair in pairs]),
    }


def _composition(task: WorldTask, answers) -> dict[str, Score]:
    rows = zip(answers, task.scenes, task.more["picks"], strict=True)
    verdicts = [judge(read_picture(drawn), one.meanings[pick]) for drawn, one, pick in rows]
    return {"all": Score([float(one["all"]) for one in verdicts])}


SCORES: dict[str, tuple[Callable, str]] = {  # task -> its scores, and that which speaks for it
    DRAW: (_composition, "all"),
    "caption": (_captions, "true"),
    "caption-long": (_captions, "true"),
    "answer": (partial(_texts, _exact, "exact_match"), "exact_match"),
    "answer-choice": (partial(_texts, scienceqa_accuracy, "scienceqa"), "scienceqa"),
    "answer-explained": (partial(_texts, scienceqa_accuracy, "scienceqa"), "scienceqa"),
    "edit": (_edits, "edit_exact"),
    "segmentation": (partial(_classes, "segmentation", len(CLASSES)), "miou"),
    "depth": (partial(_classes, "depth", len(SHADES)), "miou"),
    "edges": (partial(_edges, "edges"), "edge_f1"),
    "scribble": (partial(_edges, "scribble"), "edge_f1"),
    "grounded": (_boxes, "ap50"),
    "write": (_signs, "letters_right"),
}
