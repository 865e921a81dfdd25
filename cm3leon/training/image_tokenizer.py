"""Training of an image tokenizer: codes, those that are left, then the decoder alone on them.

Three stages: an auto-encoder without codes, then with a codebook that k-means starts (its loss and
stages: `tokenizers/vq_loss.py`), at last the decoder, when codes no longer change. In between codes
that are nearly one are merged and unused ones dropped. What the pictures are is `Pictures`.

Shapes: B pictures, S pixels of a side, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cm3leon import seeds
from cm3leon.checkpoint import save
from cm3leon.config import TrainConfig, VQConfig, to_dict
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.reports.curves import write_curves
from cm3leon.tokenizers.pixels import to_unit
from cm3leon.tokenizers.vq import VQ
from cm3leon.tokenizers.vq_loss import VQLossConfig, VQTraining, compact_codes, merge_codes
from cm3leon.training.loop import LOG, Problem, train
from cm3leon.training.trainer import device_name

DECODER_FOLDER = "decoder"  # of a run: its last stage
ROUND_TO = 64  # the codebook's size after merging is a multiple of it
AT_ONCE = 64  # pictures put through the tokenizer


@dataclass(frozen=True)
class VQRecipe:
    """Everything that decides a tokenizer, given the pictures; `decoder` is its last stage."""

    shape: VQConfig
    loss: VQLossConfig
    train: TrainConfig
    decoder: TrainConfig
    merge_radius: float = 0.0  # codes nearer than this become one

    @classmethod
    def of_steps(cls, shape: VQConfig, train: TrainConfig) -> VQRecipe:
        """The proportions of the shipped recipe: of its steps a thirteenth without codes, from two
        thirds on the decoder alone, which then has four ninths more on the codes that are left.
        Every stage has a step where there are three.
        """
        plain = max(2, round(train.steps * 7 / 90))
        freeze = max(plain + 1, round(train.steps * 2 / 3))
        loss = VQLossConfig(plain_steps=plain, freeze_step=freeze, decay=0.99, revive_below=0.004)
        more = max(1, round(train.steps * 4 / 9))
        warmup = min(100, more)
        decoder = replace(train, steps=more, rate=0.6 * train.rate, warmup=warmup, final=0.03)
        return cls(shape, loss, train, decoder)


@dataclass(frozen=True)
class Pictures:
    """What a tokenizer learns from: uint8 [B, S, S, 3], each a function of its arguments alone.

    `batch(step, B)` and `last(step, B)` are those of a step, from 1, of the first stages and of the
    decoder's; `counted()` those over which the codes' use is counted, `held_out()` the rest.
    """

    batch: Callable[[int, int], np.ndarray]
    last: Callable[[int, int], np.ndarray]
    counted: Callable[[], Iterator[np.ndarray]]
    held_out: Callable[[], np.ndarray]
    about: dict


def train_image_tokenizer(
    recipe: VQRecipe, pictures: Pictures, run: Path, out: Path, device: str, extra: dict | None
) -> dict:
    """Train in `run`, or go on where it stopped, and write the tokenizer to `out`.

    `extra` goes into its config.json. Returns the last stage's {"step", "seconds", "loss", ...}
    with its held-out "psnr" and "codes", how many are left. Raises as `loop.train`.
    """
    config = recipe.train
    training = VQTraining(make_vq(recipe.shape, config.seed), recipe.loss).to(device)
    problem = Problem(
        lambda module, images, step: module(images, step),
        lambda step: as_tensor(pictures.batch(step, config.batch)),
        evaluate=lambda module: evaluate(module.vq, pictures.held_out()),
        about={"vq": to_dict(recipe.shape), "loss": to_dict(recipe.loss), **pictures.about},
    )
    done = train(training, problem, config, run)
    vq = merge(training.vq, pictures, recipe.merge_radius)
    last = train_decoder(vq, recipe, pictures, run / DECODER_FOLDER, device)
    write_curves(run)
    write_curves(run / DECODER_FOLDER)
    left = len(vq.quantize.embedding.weight.unique(dim=0))
    made = {
        "recipe": to_dict(config),
        "loss": to_dict(recipe.loss),
        "merge_radius": recipe.merge_radius,
        "codes_left": left,
        "decoder": to_dict(recipe.decoder),
        "seconds": round(done["seconds"] + last["seconds"]),
        "device": device_name(device),
    }
    write_atomic(out / LOG, (run / LOG).read_bytes())
    save(out, "vq", vq.config, vq.state_dict(), made | (extra or {}))
    return last | evaluate(vq, pictures.held_out()) | {"codes": left}


def train_decoder(vq: VQ, recipe: VQRecipe, pictures: Pictures, run: Path, device: str) -> dict:
    """Train the decoder on the codes of a finished encoder, in place, on the pictures of steps
    behind those of the first stages; "step", "seconds" and "loss".
    """
    codes = digest_of(vq.quantize.embedding.weight)
    problem = Problem(
        lambda module, images, _: module(images, recipe.loss.freeze_step),
        lambda step: as_tensor(pictures.last(recipe.train.steps + step, recipe.decoder.batch)),
        evaluate=lambda module: evaluate(module.vq, pictures.held_out()),
        about={"vq": to_dict(vq.config), "codes_sha256": codes},
    )
    return train(VQTraining(vq, recipe.loss).to(device), problem, recipe.decoder, run)


def make_vq(config: VQConfig, seed: int = 0) -> VQ:
    """A VQ with seeded initial weights."""
    with seeds.torch_default(seed, "vq"):
        return VQ(config).to(memory_format=torch.channels_last)


def as_tensor(images_BSS3: np.ndarray) -> torch.Tensor:
    """Pictures [B,3,S,S] in [-1,1] of uint8 ones."""
    return to_unit(images_BSS3).contiguous(memory_format=torch.channels_last)


def evaluate(vq: VQ, images_BSS3: np.ndarray) -> dict[str, float]:
    """PSNR of held-out reconstructions and the number of codes they use."""
    error = (reconstruct(vq, images_BSS3).astype(np.float64) - images_BSS3) ** 2
    starts = range(0, len(images_BSS3), AT_ONCE)
    codes = torch.cat([vq.encode(images_BSS3[k : k + AT_ONCE]) for k in starts])
    return {
        "psnr": float(10 * np.log10(255**2 / max(error.mean(), 1e-9))),
        "codes_used": len(torch.unique(codes)),
    }


def reconstruct(vq: VQ, images: np.ndarray, batch: int = AT_ONCE) -> np.ndarray:
    """Pictures after encoding and decoding, uint8 of the same shape."""
    parts = [vq.decode(vq.encode(images[k : k + batch])) for k in range(0, len(images), batch)]
    return np.concatenate(parts) if parts else images


def merge(vq: VQ, pictures: Pictures, radius: float) -> VQ:
    """The tokenizer with codes that are nearly one merged and unused ones dropped."""
    merge_codes(vq, count_codes(vq, pictures), radius)
    return compact_codes(vq, count_codes(vq, pictures), ROUND_TO)


def count_codes(vq: VQ, pictures: Pictures) -> torch.Tensor:
    """How often each code is used in the pictures that are counted, int64 [K]."""
    counts_K = torch.zeros(vq.config.codebook_size, dtype=torch.int64)
    for images in pictures.counted():
        codes = vq.encode(images).flatten().cpu()
        counts_K += torch.bincount(codes, minlength=len(counts_K))
    return counts_K


def digest_of(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return sha256_bytes(tensor.detach().cpu().contiguous().numpy().tobytes())


class Crops:
    """Pictures of a list as squares of S pixels, in an order of their own each time through.

    `read(place)` gives uint8 [H, W, 3] of place 0..count-1; the last `held_out` are not trained on.
    Squares stay in memory up to `MEMORY` bytes.
    """

    MEMORY = 2**30

    def __init__(
        self, read: Callable[[int], np.ndarray], count: int, size: int, held_out: int, seed: int
    ):
        self.read, self.size, self.seed = read, size, seed
        self.trained, self.held = range(count - held_out), range(count - held_out, count)
        self._kept: dict[int, np.ndarray] = {}

    def square(self, place: int) -> np.ndarray:
        """One picture, uint8 [S, S, 3]."""
        from cm3leon.images import crop_square

        found = self._kept.get(place)
        if found is None:
            found = crop_square(self.read(place), self.size)
            if len(self._kept) * found.nbytes < self.MEMORY:
                self._kept[place] = found
        return found

    def batch(self, step: int, count: int) -> np.ndarray:
        """Those of a step, from 1."""
        return np.stack([self.square(self.place((step - 1) * count + k)) for k in range(count)])

    def place(self, number: int) -> int:
        """The place of the number-th picture that is shown."""
        time, at = divmod(number, len(self.trained))
        if getattr(self, "_time", None) != time:
            mixed = seeds.generator(self.seed, "vq", "order", time)
            self._time, self._order = time, mixed.permutation(len(self.trained))
        return int(self._order[at])

    def counted(self, most: int = 4_000) -> Iterator[np.ndarray]:
        """The first pictures, in batches."""
        places = self.trained[:most]
        for start in range(0, len(places), AT_ONCE):
            yield np.stack([self.square(place) for place in places[start : start + AT_ONCE]])

    def held_out(self) -> np.ndarray:
        """Those that are not trained on."""
        return np.stack([self.square(place) for place in self.held])

    def pictures(self, about: dict) -> Pictures:
        """As a training takes them; `about` names them."""
        return Pictures(self.batch, self.batch, self.counted, self.held_out, about)
