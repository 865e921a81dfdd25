"""Small copies of MS-COCO's layout, and a network and a system that cost nothing."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from cm3leon.evaluation.features.network import Features
from cm3leon.seeds import generator

DIM = 6


def write_coco(root: Path, split: str = "val2014", count: int = 12, size=(40, 30), captions=2):
    """`count` JPEGs of noise over a colour, each with captions; returns the root."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    listed, said = [], []
    for k in range(1, count + 1):
        width, height = (size[0] + k % 3, size[1]) if k % 2 else (size[1], size[0] + k % 3)
        rng = generator(0, "coco maker", split, k)
        pixels = rng.integers(0, 90, (height, width, 3)) + rng.integers(0, 160, 3)
        name = f"COCO_{split}_{k:012d}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        listed.append({"id": k, "file_name": name})
        for n in range(captions):
            words = f"caption {n} of picture {k}"
            said.append({"id": 100 * k + n, "image_id": k, "caption": words})
    path = root / "annotations" / f"captions_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": listed, "annotations": said}))
    return root


def embed(images_BSS3: np.ndarray) -> np.ndarray:
    """Means and deviations of the channels: float32 [B, 6]."""
    pixels = images_BSS3.reshape(len(images_BSS3), -1, 3).astype(np.float64)
    return np.concatenate([pixels.mean(1), pixels.std(1)], 1).astype(np.float32)


def stub_features(name: str = "inception", device: str = "cpu", **given) -> Features:
    """Stands in for `features.load_features`."""
    return Features(name, "6726825d" + "0" * 56, DIM, 16, embed)


class Tinted:
    """A system whose picture is noise over a colour of its seed; it notes what it drew."""

    name, config, weights_sha256 = "tinted", {"size": 24}, "1" * 64

    def __init__(self, log: Path | None = None):
        self.log, self.drawn = log, []

    def draw(self, prompts, seeds):
        self.drawn += prompts
        if self.log is not None:
            with open(self.log, "a") as file:  # one short write: whole among processes
                file.write("".join(f"{prompt}\n" for prompt in prompts))
        return np.stack([self.picture(seed) for seed in seeds])

    def picture(self, seed: int) -> np.ndarray:
        rng = generator(seed, "tinted")
        pixels = rng.integers(0, 120, (24, 24, 3)) + rng.integers(0, 120, 3)
        return pixels.astype(np.uint8)
