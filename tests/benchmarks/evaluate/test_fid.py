"""FID's scale: what each distance is of, by stubs whose effect is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.evaluate import fid
from benchmarks.protocols.scenes import Task
from cm3leon.evaluation.sides import Held
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.seeds import generator

N, SIZE = 12, 8


class Means:
    """Features: the mean colour of each half of a picture, and how it scatters."""

    name, dim, size = "means", 7, SIZE

    def __call__(self, images_BHW3):
        images = images_BHW3.astype(np.float64)
        halves = [images[:, : SIZE // 2].mean((1, 2)), images[:, SIZE // 2 :].mean((1, 2))]
        return np.concatenate([*halves, images.std((1, 2, 3))[:, None]], 1)


class Darker:
    """An image tokenizer that loses half of the light."""

    def __init__(self):
        self.seen = 0

    def encode(self, images):
        self.seen += len(images)
        return images

    def decode(self, codes):
        return codes // 2


def pictures(seed: int) -> np.ndarray:
    rng = generator(seed, "fid")
    return rng.integers(0, 200, (N, SIZE, SIZE, 3)).astype(np.uint8) + rng.integers(
        0, 55, (N, 1, 1, 3), np.uint8
    )


def test_every_distance_is_of_what_it_says():
    real, others, features, tokenizer = pictures(0), pictures(1), Means(), Darker()
    task = Task([], list(enumerate(real)), list(enumerate(others)))
    found = fid.scale(task, real, Held(features(real)), features, tokenizer)
    assert tokenizer.seen == N  # rFID goes through the tokenizer, once each
    wanted = {
        "floor": features(others),
        "rfid": features(real // 2),
        "ceiling": features(np.concatenate(list(fid.noise(N, SIZE)))),
    }
    assert found == pytest.approx(
        {name: frechet_from_features(features(real), one) for name, one in wanted.items()}
    )
    assert found["floor"] < found["rfid"]
    alone = fid.scale(Task([], [], None), real, Held(features(real)), features, Darker())
    assert set(alone) == {"rfid", "ceiling"}
