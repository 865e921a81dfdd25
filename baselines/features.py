"""The feature network of `fid_scenes`: trained to tell what a scene holds, on real pictures only.

Its 128 pooled features play the part Inception's pool3 plays for MS-COCO. It never sees a generated
picture and takes no part in training the models that are measured.

Axes: B batch, D features, K answers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.tokenizers import device_name
from cm3leon import seeds
from cm3leon.checkpoint import load, load_into, save
from cm3leon.config import TrainConfig, to_dict
from cm3leon.errors import UserError
from cm3leon.files import write_atomic
from cm3leon.tokenizers.vq import to_unit
from cm3leon.training.loop import train
from cm3leon.world.scenes import scene
from cm3leon.world.sprites import CELLS, COLOURS, PATTERNS, PLACES, SHAPES, SIZES

SIDE = 64  # pixels a side
DIM = 128  # features
WIDTHS = (16, 32, 64, DIM)
ARCHITECTURE = {"side": SIDE, "dim": DIM, "widths": list(WIDTHS)}
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


ANSWERS = 6 + 64 + 24 + 16 + 3 + 1 + 16


class FeatureNetwork(nn.Module):
    """Four strided stages, each normalised, then the mean over positions."""

    def __init__(self):
        super().__init__()
        stages, inner = [], 3
        for width in WIDTHS:
            stages += [
                nn.Conv2d(inner, width, 4 if inner == 3 else 3, stride=2, padding=1),
                nn.GroupNorm(width // 8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(width // 8, width),
                nn.SiLU(),
            ]
            inner = width
        self.stages = nn.Sequential(*stages)
        self.mix = nn.Linear(inner, DIM)
        self.head = nn.Linear(DIM, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B,3,64,64] in [-1,1] -> features [B,D]."""
        return self.mix(self.stages(x).mean((2, 3)))

    def answer(self, x: Tensor) -> Tensor:
        """Pictures -> logits of the answers [B,K]."""
        return self.head(F.silu(self(x)))

    @torch.inference_mode()
    def embed(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B,64,64,3] -> float32 [B,D]. Raises UserError for another type or size."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIDE, SIDE, 3):
            raise UserError(
                f"scenes features take uint8 [B,{SIDE},{SIDE},3], got {images.dtype} "
                f"{list(images.shape)}; resize first"
            )
        x = to_unit(images)
        return self(x.to(self.mix.weight.device)).float().cpu().numpy()


def load_network(folder: str | Path) -> FeatureNetwork:
    """The trained network of a checkpoint folder, ready to embed."""
    config, tensors, _ = load(folder, "features")
    if config != ARCHITECTURE:
        raise UserError(f"{folder} holds features of another shape ({config}); retrain them")
    network = FeatureNetwork()
    load_into(network, tensors)
    return network.eval()


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
    done = train(
        network,
        _loss,
        lambda step: batch_of("train", (step - 1) * config.batch, config.batch),
        config,
        run,
        evaluate=_evaluate,
        about={"features": ARCHITECTURE},
    )
    extra = {
        "recipe": to_dict(config),
        "seconds": round(done["seconds"]),
        "device": device_name(device),
    }
    write_atomic(folder / "log.jsonl", (run / "log.jsonl").read_bytes())
    save(folder, "features", ARCHITECTURE, network.state_dict(), extra)
