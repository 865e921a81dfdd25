"""A tiny model of the embedded world, its weights random, in a folder with the world's tokenizers
of today's codes: a home as `baselines.tune_tasks` and the task commands are given.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from cm3leon import checkpoint, seeds
from cm3leon.config import MODELS
from cm3leon.files import baselines_folder
from cm3leon.loading import load_tokenizers
from cm3leon.model.transformer import Transformer
from cm3leon.training.recipe import fitted


def tokenizers() -> Path:
    """The folder of the shipped tokenizers that can say every task's words."""
    second = baselines_folder() / "second"
    return second if second.is_dir() else baselines_folder() / "scenes"


def write_world_model(home: Path, name: str = "scenes-xs", **extra) -> Path:
    """A model folder `name` in a home with text/ and vq/; `extra` goes into its config.json."""
    for part in ("text", "vq"):
        if not (home / part).exists():
            shutil.copytree(tokenizers() / part, home / part)
    text, vq = load_tokenizers(home)
    small = replace(MODELS["scenes-xs"](), layers=1, width=16, heads=2)
    config = fitted(small, text.size, vq.config.codebook_size, vq.config.grid, fit=True)
    generator = seeds.torch_generator(0, "world model")
    model = Transformer(config, generator)
    with torch.no_grad():  # a fresh model sees the last token alone: its blocks write nothing yet
        for values in model.parameters():
            values += 0.3 * torch.randn(values.shape, generator=generator)
    digests = {"text_sha256": text.digest, "vq_sha256": checkpoint.digest(home / "vq")}
    about = digests | {"train": {"steps": 1}} | extra
    checkpoint.save(home / name, "transformer", config, model.state_dict(), about)
    return home / name
