"""The recipe of `fid_scenes`' features: trained to tell what a scene holds, on real pictures only.

The network never sees a generated picture and takes no part in training the models measured.

Axes: B batch, K answers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cm3leon import seeds
from cm3leon.checkpoint import save
from cm3leon.config import TrainConfig, to_dict
from cm3leon.evaluation.features.scenes import ARCHITECTURE, FeatureNetwork
from cm3leon.files import write_atomic
from cm3leon.training.loop import Problem, train
from cm3leon.training.trainer import device_name
from cm3leon.world.scenes import scene
from cm3leon.world.sprites import CELLS, COLOURS, PATTERNS, PLACES, SHAPES, SIZES

TRAIN = TrainConfig(
    steps=2500,
    batch=64,
    rate=2e-3,
    warmup=100,
    final=0.02,
    weight_decay=0.01,
    save_every=250,
    eval_every=500,
    log_every=50,
)
_COLOURS = tuple(COLOURS)


def answers(one) -> np.ndarray:
    """What the network is asked about a scene: float32 [K] of zeros and ones.

    Pairs (shape, colour), (shape, pattern), (shape, size), the place, the count, an entity, and the
    rows and columns that hold a centre.
    """
    place = np.zeros(len(PLACES), np.float32)
    place[PLACES.index(one.place)] = 1
    colour = np.zeros((len(SHAPES), len(_COLOURS)), np.float32)
    pattern = np.zeros((len(SHAPES), len(PATTERNS)), np.float32)
    size = np.zeros((len(SHAPES), len(SIZES)), np.float32)
    count, entity = np.zeros(3, np.float32), np.zeros(1, np.float32)
    spots = np.zeros((2, CELLS), np.float32)
    count[len(one.plan.things) - 1] = 1
    for shape, hue, extent, fill, noun, (column, row) in one.plan.things:
        kind = SHAPES.index(shape)
        colour[kind, _COLOURS.index(hue)] = 1
        size[kind, list(SIZES).index(extent)] = 1
        if fill:
            pattern[kind, PATTERNS.index(fill)] = 1
        entity[0] = max(entity[0], float(noun is not None))
        spots[0, column] = spots[1, row] = 1
    return np.concatenate(
        [part.ravel() for part in (place, colour, pattern, size, count, entity, spots)]
    )


def batch_of(split: str, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures and answers of consecutive scenes of both dialects in turn."""
    scenes = [scene(("stock", "coco")[k % 2], split, k) for k in range(first, first + count)]
    images = np.stack([one.image for one in scenes])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x, torch.from_numpy(np.stack([answers(one) for one in scenes]))


def _loss(network: FeatureNetwork, batch, step: int):
    x, wanted = batch
    loss = F.binary_cross_entropy_with_logits(network.answer(x), wanted)
    return loss, {}


def _evaluate(network: FeatureNetwork) -> dict[str, float]:
    x, wanted = batch_of("val", 0, 512)
    device = network.mix.weight.device
    logits = network.answer(x.to(device)).cpu()
    right = (logits > 0) == (wanted > 0.5)
    return {
        "loss": F.binary_cross_entropy_with_logits(logits, wanted).item(),
        "answers_right": right.float().mean().item(),
        "scenes_right": right[:, :110].all(1).float().mean().item(),
    }


def train_features(run: Path, folder: Path, device: str, config: TrainConfig = TRAIN) -> None:
    """Train the feature network in `run` and save it to `folder`."""
    with seeds.torch_default(config.seed, "features"):
        network = FeatureNetwork().to(device)
    problem = Problem(
        _loss,
        lambda step: batch_of("train", (step - 1) * config.batch, config.batch),
        evaluate=_evaluate,
        about={"features": ARCHITECTURE},
    )
    done = train(network, problem, config, run)
    extra = {
        "recipe": to_dict(config),
        "seconds": round(done["seconds"]),
        "device": device_name(device),
    }
    write_atomic(folder / "log.jsonl", (run / "log.jsonl").read_bytes())
    save(folder, "features", ARCHITECTURE, network.state_dict(), extra)
