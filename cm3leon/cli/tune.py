"""The command that tunes a trained model on tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cm3leon.cli.train import TrainChanges
from cm3leon.config import RowsConfig
from cm3leon.errors import UserError
from cm3leon.options import Batch, Count, Positive, Threads, Whole

if TYPE_CHECKING:
    from cm3leon.data.mixture import Mixture
    from cm3leon.training.estimate import Estimate
    from cm3leon.training.parallel import Alone
    from cm3leon.training.tuning import DataSet, Records, TuneRecipe


@dataclass(frozen=True)
class TuneChanges(TrainChanges):
    """Settings of the training; what is left out is the paper's (section 4): a linear schedule."""

    batch: Batch | None = None
    """rows a step; left out: as many as 2M tokens are, of models that are not the paper's 32"""
    rate: Positive | None = None
    """peak learning rate; left out: 5e-5; the paper searched 1e-5, 3e-5, 5e-5, 1e-4"""
    warmup: Whole | None = None
    """steps up to the peak; left out: 150, of linear a tenth of all at most"""


@dataclass(frozen=True)
class Tune:
    """Tune a trained model on records of tasks; the same command goes on where it was killed.

    `cm3leon tune MODEL CACHE... --out FOLDER`: MODEL is a shipped model or a folder, a CACHE what
    `cm3leon encode --task` made with its tokenizers. `--dry-run` checks and counts.
    """

    model: tyro.conf.Positional[str]
    """model to begin with; its tokenizers, CLIP and memory bank stay with it"""
    caches: tyro.conf.Positional[tuple[Path, ...]]
    """record caches, each a data set of the mixture; one of pretraining is the task of drawing"""
    out: Path | None = None
    """folder of the tuned model; made if it is not there"""
    held_out: tuple[Path, ...] = ()
    """other record caches to hold out instead (the first --hold-out records of each, or 256)"""
    hold_out: Count | None = None
    """last records of each data set that are held out; left out: a sixteenth, 256 at most"""
    tokens: Positive | None = None
    """tokens to read in all; left out: of the paper's sizes 30B, of others two passes over all"""
    target: Positive | None = None
    """T: data sets of n records are read clip(T / n) times; left out: the sizes' geometric mean"""
    least: Positive = 0.3
    """lower threshold of the mixture"""
    most: Positive = 3.0
    """upper threshold of the mixture"""
    accumulate: Batch | None = None
    """pieces of a batch, one after the other; left out: of about 32,768 tokens each"""
    recompute: bool = False
    """make activations again in the backward pass: a fraction of the memory, a third more time"""
    replicas: Count | None = None
    """of torchrun: whole models on all ranks together, each in parts; left out: one a machine"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    threads: Threads | None = None
    """of the processor; the bytes of a CPU training hang on it"""
    tensorboard: bool = False
    """the log as TensorBoard's scalars too, in run/tensorboard of the model's folder"""
    dry_run: bool = False
    """check, print the estimate, train nothing"""
    training: Annotated[TuneChanges, tyro.conf.arg(name="")] = field(default_factory=TuneChanges)
    rows: RowsConfig = field(default_factory=RowsConfig)

    def __post_init__(self):
        if not self.caches:
            raise UserError("no record cache: give what `cm3leon encode --task` made")
        if self.out is None and not self.dry_run:
            raise UserError("no --out: name the folder of the model, or give --dry-run")
        places = [path.resolve() for path in (*self.caches, *self.held_out)]
        for path in places:
            if places.count(path) > 1:
                raise UserError(f"{path} is given twice; name each record cache once")

    def run(self) -> int:
        """Check, count, train, write, print the folder; of torchrun one of its processes."""
        import torch

        from cm3leon.loading import checked_device
        from cm3leon.training.parallel import together

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = checked_device(self.device)
        return together(device, self.replicas, lambda ranks: self.trained(device, ranks))

    def trained(self, device: str, ranks: Alone) -> int:
        """The work of one of the processes."""
        from cm3leon.cli.tensorboard import followed
        from cm3leon.training.pretraining import RUN
        from cm3leon.training.tuning import tune

        records = self.opened()
        recipe, estimate, mixture = self.planned(records)
        lines = [*estimate.lines(), *told(records, recipe, mixture)]
        if self.dry_run:
            lines.append("dry run: nothing was trained")
        for line in lines if ranks.first else ():
            print(line)
        if self.dry_run:
            return 0
        with followed(self.out / RUN, self.tensorboard and ranks.first):
            done = tune(recipe, records, self.out, device, ranks=ranks)
        if ranks.first:
            took = f"{done['step']} steps in {done['seconds']:.0f} s"
            print(f"{self.out}: {took}, training loss {done['loss']:.4f}")
        return 0

    def opened(self) -> Records:
        """The model and its data, checked."""
        from cm3leon.training.tuning import Base, Records, find_held, find_set

        base = Base.open(self.model)
        if self.out is not None and self.out.resolve() == base.folder.resolve():
            raise UserError(f"--out {self.out} is the model itself; name another folder")
        hold_out = 0 if self.held_out else self.hold_out
        sets = [find_set(folder, base, hold_out) for folder in self.caches]
        held = [find_held(folder, base, self.hold_out) for folder in self.held_out]
        return Records(base, sets, held)

    def planned(self, records: Records) -> tuple[TuneRecipe, Estimate, Mixture]:
        """What to train and what it costs; UserError for settings that do not go together."""
        from cm3leon.config import PaperRecipe, TrainConfig, paper_recipe
        from cm3leon.training.estimate import Estimate, pieces_of, schedule
        from cm3leon.training.tuning import PAPER, PASSES, ROWS, TuneRecipe

        model, given = records.base.config, self.training.given
        seed = given.get("seed", TrainConfig().seed)
        mixing = {"target": self.target, "least": self.least, "most": self.most}
        recipe = TuneRecipe(TrainConfig(seed=seed), self.rows, **mixing)
        mixture = records.mixture(recipe)
        row = records.row_tokens(recipe, mixture)
        paper = PAPER
        if paper_recipe(model.name) is None:
            paper = PaperRecipe(PAPER.rate, PASSES * len(mixture) * row, ROWS * row, PAPER.warmup)
        train = schedule(paper, row, self.tokens, given)
        pieces = pieces_of(train.batch, row) if self.accumulate is None else self.accumulate
        if not 1 <= pieces <= train.batch:
            raise UserError(f"accumulate must lie in 1..{train.batch} (the batch), got {pieces}")
        recipe = TuneRecipe(train, self.rows, **mixing, accumulate=pieces, recompute=self.recompute)
        return recipe, Estimate(model, train, row, pieces, len(mixture)), mixture


def told(records: Records, recipe: TuneRecipe, mixture: Mixture) -> list[str]:
    """The data of a tuning as lines."""
    epochs = mixture.epochs(recipe.train.steps * recipe.train.batch)
    lines = []
    for one, weight, times in zip(records.sets, mixture.weights, epochs, strict=True):
        lines.append(
            f"data: {len(one.trained):,} records of {one.cache.folder} "
            f"({', '.join(one.cache.tasks)}), weight {weight:.3g}, {times:,.2f} epochs; "
            f"{len(one.held):,} held out{left_out(one)}"
        )
    for one in records.held:
        lines.append(f"held out: {len(one.held):,} records of {one.cache.folder}{left_out(one)}")
    rows = recipe.rows
    lines.append(
        f"loss: {rows.loss}; prompts without text {rows.drop_text:.0%}, without pictures "
        f"{rows.drop_image:.0%}, without both {rows.drop_both:.0%}"
    )
    return lines


def left_out(one: DataSet) -> str:
    """What of a cache is not used, and why."""
    fits = f"; {one.left_out:,} do not fit ({one.reason})" if one.left_out else ""
    unread = f"; {len(one.cache.skipped):,} not readable" if one.cache.skipped else ""
    return fits + unread
