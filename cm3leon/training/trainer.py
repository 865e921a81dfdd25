"""The one trainer of transformers: rows in, weights out, for pretraining and tuning.

What is read is a `Source`; the loop (`loop.py`) knows neither captions nor pictures. Row i of step
s is the same for whoever asks, and the loss is a sum over tokens by a count of the whole batch
(`batches.token_loss`): neither hangs on how the rows of a step are dealt out.
"""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from cm3leon import checkpoint
from cm3leon.config import ModelConfig, TrainConfig, from_dict, to_dict
from cm3leon.errors import UserError
from cm3leon.files import atomic_file, sha256_file, write_atomic
from cm3leon.model.transformer import Transformer
from cm3leon.reports.curves import write_curves
from cm3leon.sequence.documents import Vocabulary
from cm3leon.training.batches import split, token_loss
from cm3leon.training.estimate import peak_flops
from cm3leon.training.loop import LOG, Problem, train
from cm3leon.training.parallel import ALONE, Alone
from cm3leon.training.schedule import find_state, keeps_state

TOKENIZERS = (
    "text/tokenizer.json.sha256", "text/tokenizer.json", f"vq/{checkpoint.WEIGHTS}",
    f"vq/{checkpoint.CONFIG}",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What a training reads.

    `rows(step)` is the batch of a step, from 1, in the form of `batches.collate`, and depends on
    nothing else; `rows(step, part)` holds those of its rows that a slice names. `held_out` are
    functions from a model to its numbers, by what stands before their names. `about`, in JSON's
    types, names the data and how rows are made of it, beside the configuration of model and
    training. `accumulate` is the number of pieces that a batch is read in.
    """

    rows: Callable[..., dict]
    held_out: Sequence[tuple[str, Callable[[nn.Module], dict]]] = ()
    about: dict = field(default_factory=dict)
    accumulate: int = 1

    def evaluate(self, model: nn.Module) -> dict:
        """All held-out numbers."""
        return {
            f"{prefix}{name}": value
            for prefix, numbers in self.held_out
            for name, value in numbers(model).items()
        }


def fit(
    model: Transformer,
    source: Source,
    config: TrainConfig,
    run: Path,
    *,
    start: Path | None = None,
    ranks: Alone = ALONE,
) -> dict:
    """Train a model in place, or go on where the folder `run` stopped; as `loop.train`, which see
    for `start` and for what it raises. `ranks` made the model. Returns what the loop does, and
    "log", where the log lies.
    """
    pieces = ranks.pieces(source.accumulate, config.batch)
    device = next(model.parameters()).device
    problem = Problem(
        token_loss(Vocabulary.from_config(model.config.vocabulary)),
        ranks.dealt(source.rows),
        parts=partial(split, count=pieces) if pieces > 1 else None,
        evaluate=ranks.measured(source.evaluate),
        about={"model": to_dict(model.config), **source.about},
        flops_per_token=6.0 * model.config.parameters,
        device_flops=ranks.size * peak_flops(str(device)),
    )
    done = train(model, problem, config, run, start=start, ranks=ranks)
    return done | {"log": run / LOG}


def fit_in_stages(
    model: Transformer, source: Source, config: TrainConfig, run: Path
) -> tuple[Path, dict]:
    """As `fit`, but the stable part of a "wsd" schedule stays in `run`, where longer trainings go
    on and shorter ones branch; the decay has a folder below. That folder, and what `fit` returns.
    """
    start = None
    if config.decay:
        stable = replace(config, steps=config.decay_start, decay=0)
        if not keeps_state(run, stable.steps):
            fit(model, source, stable, run)
        start, _ = find_state(run, stable.steps)
        run = run / f"decay-{stable.steps}-{config.decay}"
    return run, fit(model, source, config, run, start=start)


def begin_with(model: Transformer, folder: Path, ranks: Alone = ALONE) -> None:
    """Take the weights of a trained model; UserError for one of another shape."""
    if from_dict(ModelConfig, checkpoint.read_about(folder)["config"]) != model.config:
        raise UserError(f"{folder} is a model of another shape; train {folder.name} again")
    ranks.load_weights(model, folder)


def write_model(
    model: Transformer,
    config: TrainConfig,
    out: Path,
    done: dict,
    extra: dict,
    ranks: Alone = ALONE,
) -> None:
    """The checkpoint, in bfloat16 like the shipped ones, and the run's log beside it.

    `done` is what `fit` returned; `extra` says what the model was made of and how it draws.
    """
    made = (
        extra
        | chosen_decode(out)
        | {
            "train": to_dict(config),
            "seconds": round(done["seconds"]),
            "device": device_name(next(model.parameters()).device),
        }
    )
    if not math.isnan(done["tokens"]):  # states of older versions do not say
        made["cost"] = {
            "queries": config.steps * config.batch,
            "tokens": done["tokens"],
            "flops": 6 * model.config.parameters * done["tokens"],
        }
    if ranks.size > 1:
        made["ranks"] = ranks.size
    if ranks.first:
        write_atomic(out / LOG, done["log"].read_bytes())
        write_curves(done["log"].parent)
    ranks.save_model(out, model, made)


def chosen_decode(folder: Path) -> dict:
    """The settings of drawing that were chosen for the model before (choose_decoding), if any."""
    if not (folder / checkpoint.CONFIG).exists():
        return {}
    extra = checkpoint.read_about(folder)["extra"]
    return {"decode": extra["decode"]} if "decode" in extra else {}


def place_tokenizers(home: Path, out: Path) -> None:
    """Copies of the tokenizers in `text/` and `vq/` of the model's folder.

    Raises UserError where other ones lie there.
    """
    for name in TOKENIZERS:
        source, target = home / name, out / name
        if name.endswith(".sha256") and not source.exists():
            continue
        if not target.exists():
            with open(source, "rb") as read, atomic_file(target) as write:
                shutil.copyfileobj(read, write)
        elif not same(source, target):
            raise UserError(f"{target} is of another tokenizer than {source}; name another --out")


def same(one: Path, other: Path) -> bool:
    """Whether two files of tokenizers hold the same, an older configuration without its digest."""
    if one.name == checkpoint.CONFIG:
        return checkpoint.read_about(one.parent) == checkpoint.read_about(other.parent)
    return sha256_file(one) == sha256_file(other)


def device_name(device: str | torch.device) -> str:
    """The accelerator, or the processor and how many of its threads are used."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """Name of the processor where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
