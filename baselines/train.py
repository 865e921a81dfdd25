"""Retrain everything shipped under `baselines/scenes/`: nox -s train_baselines

Order: text tokenizer, image tokenizer, feature network, CLIP, token caches, then each transformer.
Every part is skipped when its folder is finished and continues where it stopped when it was killed.
The cards under `scenes/` name each part's cost.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from baselines.recipes import RECIPES, Recipe
from cm3leon.config import VQConfig, from_dict, to_dict
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder

HELD_OUT = 256  # pictures of `stock`, `val` behind the held-out loss
PARTS = ("text", "vq", "features", "clip", "scenes-xs", "scenes-s", "scenes-m")
ENCODERS = PARTS[:4]


@dataclass
class Options:
    """What to retrain, and how."""

    parts: tuple[str, ...] = PARTS[:-1]  # any of text vq features clip scenes-xs scenes-s scenes-m
    form: Literal["cpu", "gpu"] = "cpu"  # the recipe's form
    out: Path | None = None  # folder of the weights; default: the shipped ones
    runs: Path = Path(".runs")  # states, logs and token caches
    fresh: bool = False  # retrain finished parts as well
    threads: int = 0  # of the processor; 0: all


def main(options: Options) -> int:
    """Train the parts asked for, in the order of dependence; returns the exit code."""
    if strange := [part for part in options.parts if part not in PARTS]:
        raise UserError(f"no part {strange[0]!r} to train; there are {', '.join(PARTS)}")
    if not options.parts:
        raise UserError(f"no part named to train; there are {', '.join(PARTS)}")
    import torch

    from baselines.tokenizers import device_name

    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out or baselines_folder() / "scenes"
    device = "cuda" if options.form == "gpu" and torch.cuda.is_available() else "cpu"
    for part in PARTS:
        if part not in options.parts:
            continue
        if finished(out / part) and not options.fresh:
            print(f"{part}: finished in {out / part}, kept (--fresh retrains it)", file=sys.stderr)
            continue
        print(f"{part}: training on {device_name(device)}", file=sys.stderr)
        train_part(part, out, options, device)
    return 0


def train_part(part: str, out: Path, options: Options, device: str) -> None:
    """Train one part into its folder."""
    from baselines.clip import train_clip
    from baselines.features import train_features
    from baselines.tokenizers import train_text, train_vq

    run = options.runs / (part if part in ENCODERS else f"{part}-{options.form}")
    if part == "text":
        train_text(out / part)
    elif part == "vq":
        train_vq(run, out / part, device)
    elif part == "features":
        train_features(run, out / part, device)
    elif part == "clip":
        train_clip(run, out, device)
    else:
        train_transformer(RECIPES[options.form](part), out, options.runs, run, device)


def finished(folder: Path) -> bool:
    """A part's folder holds its last-written file."""
    return (folder / "config.json").exists() or (folder / "tokenizer.json").exists()


def load_tokenizers(out: Path):
    """The finished text and image tokenizers of a weights folder."""
    import torch

    from cm3leon.checkpoint import load, load_into
    from cm3leon.text import TextTokenizer
    from cm3leon.vq import VQ

    text = TextTokenizer.load(out / "text" / "tokenizer.json")
    config, tensors, _ = load(out / "vq", "vq")
    vq = VQ(from_dict(VQConfig, config))
    load_into(vq, tensors)
    return text, vq.eval().to(memory_format=torch.channels_last)


def train_transformer(recipe: Recipe, out: Path, runs: Path, run: Path, device: str) -> None:
    """Encode the pictures, train in `run`, save to `out/<name>` in bfloat16 with the run's log."""
    import torch

    from baselines.tokenizers import device_name
    from cm3leon import seeds
    from cm3leon.cache import encode
    from cm3leon.checkpoint import digest, save
    from cm3leon.data import pair_batches, pair_held_out, pair_loss
    from cm3leon.files import write_atomic
    from cm3leon.sequence import Vocabulary
    from cm3leon.sources import Scenes
    from cm3leon.train import train
    from cm3leon.transformer import Transformer

    text, vq = load_tokenizers(out)
    vocabulary = Vocabulary.from_config(recipe.model.vocabulary)
    source = Scenes("stock", "train", 0, recipe.pictures, vq.config.resolution)
    seen = encode(source, vq, text, runs / f"tokens-{recipe.pictures}")
    source = Scenes("stock", "val", 0, HELD_OUT, vq.config.resolution)
    held = encode(source, vq, text, runs / "tokens-val")
    config, context = recipe.train, recipe.model.context
    model = Transformer(recipe.model, seeds.torch_generator(config.seed, "init", recipe.name))
    digests = {"text_sha256": text.digest, "vq_sha256": digest(out / "vq")}
    about = {"model": to_dict(recipe.model), "objective": to_dict(recipe.objective), **digests}
    done = train(
        model.to(device),
        pair_loss(vocabulary),
        pair_batches(
            seen, vocabulary, recipe.objective, config.batch, config.seed, context=context
        ),
        config,
        run,
        evaluate=pair_held_out(held, vocabulary, HELD_OUT, context=context),
        about=about,
    )
    extra = digests | {
        "objective": to_dict(recipe.objective),
        "train": to_dict(config),
        "pictures": recipe.pictures,
        "seconds": round(done["seconds"]),
        "device": device_name(device),
    }
    tensors = {name: value.cpu() for name, value in model.state_dict().items()}
    write_atomic(out / recipe.name / "log.jsonl", (run / "log.jsonl").read_bytes())
    save(out / recipe.name, "transformer", recipe.model, tensors, extra, dtype=torch.bfloat16)


if __name__ == "__main__":
    from cm3leon.cli import guarded, parse

    sys.exit(guarded(lambda: main(parse(Options, None, "python -m baselines.train"))))
