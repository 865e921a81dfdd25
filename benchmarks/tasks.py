"""How well does a tuned model do every task? Beside the model before tuning, and specialists.

    nox -s tasks                                      scenes-s-tuned on all tasks of the world
    nox -s tasks -- --system models/mine --task edit  one model, one task
    nox -s tasks -- --beside scenes-s scenes-xs-edit  other models on the same examples
    nox -s tasks -- --quick                           a look: 48 examples a task

Examples are scenes of `stock`, `test`, one record of each; `stock` is the dialect that models are
tuned on, `--dialect coco` another. Beside every number stand its floor (the picture as it was, the
most common answer, another's caption or picture) and its ceiling (the truth, a picture through the
image tokenizer), intervals are over examples, and another model's numbers come with the paired
difference. A model beside is asked the tasks that it was tuned on; one that never was, all of them
(zero-shot: the same prompts, by infilling). `--curve` edits under image weights from 1 to 2.2.
`--choose` tries settings of decoding on `val` and, with `--write`, names the best in the model's
config.json. Cost: about ten minutes on 2 cores for one model at 300 examples a task.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.evaluation.measures import Missing
from cm3leon.options import Batch, Count, Pixels, Whole

QUICK = 48  # examples a task
SHOWN = 4  # examples of each task in the grid of pictures
CURVE = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)  # image weights (InstructPix2Pix)
TRIED = {  # settings of decoding that are compared on `val`, by the number of a task's streams
    2: {"guidance": (1.0, 1.5, 2.0, 3.0), "temperature": (0.5,)},
    3: {"image_guidance": (1.0, 1.5), "text_guidance": (1.0, 1.5, 2.0, 3.0),
        "temperature": (0.0,)},
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Every task of the embedded world, scored."""

    system: str = "scenes-s-tuned"
    """the tuned model: a shipped one, or a folder"""
    task: tuple[str, ...] = ()
    """of the tasks; left out: all that the model was tuned on, and drawing captions"""
    beside: tuple[str, ...] = ()
    """other models on the same examples: the one before tuning, specialists"""
    n: Count = 300
    """examples a task"""
    quick: bool = False
    """48 examples a task: a look, and another protocol"""
    dialect: Literal["stock", "coco"] = "stock"
    """of captions and long captions"""
    split: Literal["test", "val"] = "test"
    """of the scenes"""
    seed: Whole = 0
    """of what is drawn"""
    curve: bool = False
    """edits under image weights from 1 to 2.2"""
    choose: bool = False
    """try settings of decoding on val, and name the best; no record"""
    write: bool = False
    """with --choose: put them into the model's config.json"""
    batch_size: Batch = 64
    """examples at once; moves speed, not answers"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where the table and the pictures go"""
    width: Pixels = 1600
    """of the grid of pictures, at most"""

    def __post_init__(self):
        from benchmarks.evaluate.world_tasks import SCORES

        if strange := [name for name in self.task if name not in SCORES]:
            raise UserError(f"no task {strange[0]!r} to score; there are {', '.join(SCORES)}")
        if self.count < 2:
            raise UserError(f"n must be at least 2 (an interval needs two), got {self.n}")
        if self.write and not self.choose:
            raise UserError("--write needs --choose, which finds what to write")

    @property
    def count(self) -> int:
        """Examples a task."""
        return min(self.n, QUICK) if self.quick else self.n


def find(name: str, options: Options):
    """A model; one that was never tuned is asked all tasks."""
    from cm3leon.loading import load_system
    from cm3leon.tasks import TASKS

    system = load_system(name, device=options.device, batch_size=options.batch_size)
    if system.tasks:
        return system, tuple(system.tasks)
    return replace(system, tasks={name: {} for name in TASKS}), tuple(TASKS)


def names_of(options: Options, tuned: Sequence[str]) -> list[str]:
    """The tasks to score, in the order of the table."""
    from benchmarks.evaluate.world_tasks import DRAW, SCORES

    known = {*tuned, DRAW}
    if lost := [name for name in options.task if name not in known]:
        raise UserError(f"{options.system} was not tuned on {lost[0]}; it knows {', '.join(tuned)}")
    return [name for name in SCORES if name in (options.task or known)]


def tasks_of(options: Options, names: Sequence[str], size: int, clip, split: str) -> Iterator:
    """The tasks with their examples."""
    from benchmarks.evaluate.world_tasks import world_task

    for name in names:
        yield world_task(name, options.dialect, split, options.count, size, clip)


def find_clip(name: str):
    """The CLIP beside a model; None where there is none."""
    from cm3leon.clip import load_clip
    from cm3leon.loading import find_model, home_of

    folder = home_of(find_model(name)) / "clip"
    return load_clip(folder) if (folder / "config.json").is_file() else None


def measure(options: Options, pictures: list, system, protocol: dict, phases) -> core.Measurement:
    """All numbers of all tasks; `pictures` is filled with what the grid shows."""
    import numpy as np

    from benchmarks.evaluate.world_tasks import triple
    from cm3leon.evaluation.statistics.intervals import percentile_interval

    _, tuned = find(options.system, options)
    others = [find(name, options) for name in options.beside]
    clip = find_clip(options.system)
    names, extra, mains, counters = names_of(options, tuned), {}, [], {}
    for task in tasks_of(options, names, system.size, clip, options.split):
        with phases(f"answer {task.name}"):
            answers = task.answers(system, options.seed)
        with phases(f"score {task.name}"):
            own = task.scores(answers)
            ends = {"floor": task.floor(), "ceiling": task.ceiling(system)}
            beside = {name: task.scores(found) for name, found in ends.items()}
        for name, score in own.items():
            extra[f"{task.name}.{name}"] = triple(score)
            for end in ends:
                extra[f"{task.name}.{end}.{name}"] = beside[end][name].value
        for other, known in others:
            if task.task is None or task.name in known:
                with phases(f"answer {task.name} by {other.name}"):
                    found = task.scores(task.answers(other, options.seed))
                for name, score in found.items():
                    extra[f"{task.name}.{other.name}.{name}"] = triple(score)
                    extra[f"{task.name}.{name}_minus_{other.name}"] = triple(own[name], score)
        mains.append(own[task.main])
        counters[task.name] = len(task.scenes)
        pictures.append((task, answers, ends))
        if options.curve and task.name == "edit":
            extra |= curve(task, system, options.seed)
    draws = np.mean([score.draws() for score in mains], axis=0)
    low, high = percentile_interval(draws[np.isfinite(draws)])
    missing = (
        ()
        if clip or "edit" not in names
        else (Missing("CLIP direction similarity", "clip/ beside the model"),)
    )
    return core.Measurement(
        value=float(np.mean([score.value for score in mains])),
        n=sum(counters.values()),
        interval=core.Interval(low, high, 0.95, "bootstrap of each task's examples"),
        extra=finite(extra),
        missing=missing,
        counters=counters,
        device=system.device,
        protocol={"tasks": names, "beside": [other.name for other, _ in others]},
        warnings=[f"{options.dialect} is not the dialect of the tuning"] * (
            options.dialect != "stock"
        ),
    )  # fmt: skip


def finite(extra: dict) -> dict:
    """The numbers that are some: a PSNR of equal pictures is infinite, a floor may have none."""
    import math

    found = {}
    for name, value in extra.items():
        ends = value if isinstance(value, tuple) else (value,)
        if all(math.isfinite(one) for one in ends):
            found[name] = value
    return found


def curve(task, system, seed: int) -> dict:
    """Scores of edits by image weight."""
    from benchmarks.evaluate.world_tasks import triple

    found = {}
    for weight in CURVE:
        scores = task.scores(task.answers(system, seed, {"image_guidance": weight}))
        for name in ("edit_exact", "clip_direction", "clip_image"):
            if name in scores:
                found[f"edit.image-{weight:g}.{name}"] = triple(scores[name])
    return found


def choose(options: Options) -> int:
    """Settings of decoding for each drawn task, by its main score on `val`; the exit code."""
    system, tuned = find(options.system, options)
    names, chosen = names_of(options, tuned), {}
    for task in tasks_of(options, names, system.size, None, "val"):
        if task.task is None or not task.draws:
            continue
        grid = TRIED[len(task.task.streams)]
        best = None
        for values in product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            score = task.scores(task.answers(system, options.seed, settings))[task.main].value
            told = ", ".join(f"{name} {value:g}" for name, value in settings.items())
            print(f"{task.name}: {task.main} {score:.3f} at {told}", flush=True)
            if best is None or score > best[0]:
                best = score, settings
        chosen[task.name] = best[1]
        print(f"{task.name}: chosen {best[1]}", flush=True)
    if not chosen:
        raise UserError("nothing to choose: no task that is drawn was asked for")
    if options.write:
        print(write_chosen(options.system, chosen))
    return 0


def write_chosen(name: str, chosen: dict[str, dict]) -> Path:
    """Put settings of decoding beside the tasks of a model's config.json."""
    from cm3leon import checkpoint
    from cm3leon.loading import find_model

    folder = find_model(name)
    about = checkpoint.read_about(folder)
    about["extra"]["task_decode"] = about["extra"].get("task_decode", {}) | chosen
    path = folder / checkpoint.CONFIG
    checkpoint.write_about(path, about)
    return path


BENCH = core.Bench("tasks", 1, "task_score", "higher", protocol={}, measure=measure)


def tasks(options: Options) -> tuple[dict, Path]:
    """Measure and save: (record, its path)."""
    system, _ = find(options.system, options)
    protocol = {
        "dialect": options.dialect, "split": options.split, "n": options.count,
        "seed": options.seed, "curve": options.curve, "decode": plain_settings(system),
    }  # fmt: skip
    pictures: list = []
    bench = replace(BENCH, measure=partial(measure, options, pictures))
    found = core.run(bench, system, protocol, options.results)
    if any(task.draws for task, *_ in pictures):
        print(write_pictures(pictures, options))
    return found


def plain_settings(system) -> dict:
    """What was chosen for each task."""
    return {name: dict(settings) for name, settings in system.tasks.items() if settings}


def write_pictures(pictures: list, options: Options) -> Path:
    """A grid, a row an example: what was given, what was drawn, the truth through the tokenizer."""
    import numpy as np

    from cm3leon.images import write_png

    rows = []
    for task, answers, ends in pictures:
        if not task.draws:
            continue
        for at in range(min(SHOWN, len(task.scenes))):
            fields = task.fields[at]
            given = fields.get("image1", fields.get("condition"))
            blank = np.full_like(answers[at], 255) if given is None else given
            rows.append(np.concatenate([blank, answers[at], ends["ceiling"][at]], axis=1))
    columns = max(1, options.width // rows[0].shape[1])
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % columns)
    bands = [np.concatenate(rows[k : k + columns], axis=1) for k in range(0, len(rows), columns)]
    folder = core.report_folder(options.reports, "tasks")
    return write_png(folder / "tasks.png", np.concatenate(bands))


def report(options: Options, record: dict) -> None:
    """The table."""
    from cm3leon.reports.benches.tasks import tasks_table
    from cm3leon.reports.tables import write_all

    table = tasks_table(record)
    print(f"\n{table.to_text()}")
    write_all(table, core.report_folder(options.reports, "tasks"), "tasks")


measured = core.command(Options, "tasks", tasks, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; `--choose` makes no record."""
    from cm3leon.cli.main import parse

    def work() -> int:
        options = parse(Options, argv, "tasks")
        if options.choose:
            return choose(options)
        return measured(argv)

    return core.exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
