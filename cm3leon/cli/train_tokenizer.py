"""`cm3leon train-tokenizer`: an image tokenizer of one's own pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cm3leon.config import TrainConfig, VQConfig
from cm3leon.errors import UserError
from cm3leon.options import Batch, Count, Ids, NotNegative, Pixels, Positive, Range, Threads

MULTIPLIERS = (1, 2, 4, 8, 8)  # of the channels, a level; the stride doubles behind each but one
HOLD_OUT = 128  # pictures, an eighth at most
SHOWN = 3  # pictures named that cannot be read


@dataclass(frozen=True)
class TrainTokenizer:
    """Train an image tokenizer on a folder of pictures: `cm3leon train-tokenizer PICTURES HOME/vq`.

    Three stages: without codes, with a codebook, the decoder alone on the codes that are left.
    Beside a text/ of `cm3leon train-text` it serves `cm3leon encode --tokenizers HOME`. Pictures
    are cropped to their centre square; captions are not asked for. The same command goes on where
    it was killed.
    """

    pictures: tyro.conf.Positional[str]
    """a folder of pictures, a .zip or .tar of them, an .npz or .npy of uint8 [N, H, W, 3]"""
    out: tyro.conf.Positional[Path]
    """folder of the tokenizer; its log, loss.png and state go to run/ in it"""
    resolution: Pixels = 64
    """pixels of a side"""
    stride: Annotated[int, Range(2, 16)] = 8
    """pixels a code is wide: 2, 4, 8 or 16"""
    codes: Ids = 2048
    """of the codebook before unused ones are dropped"""
    channels: Annotated[int, Range(1, 1024)] = 8
    """of the first level; 1, 2, 4, 8 times as many in the next ones"""
    reach: Literal["cell", "picture"] = "cell"
    """what a code depends on: its own square of pixels, or all of the picture (taming's encoder)"""
    steps: Annotated[int, Range(3, 10**9)] = 9000
    """of the first two stages; the decoder's are four ninths of them"""
    batch: Batch = 8
    """pictures a step"""
    rate: Positive = 2.5e-3
    """peak learning rate"""
    merge_radius: NotNegative = 0.0
    """codes nearer than this become one; the shipped tokenizer's: 2"""
    hold_out: Count | None = None
    """pictures that are not trained on; left out: 128, an eighth at most"""
    licence: str | None = None
    """of the pictures; goes into the tokenizer's config.json"""
    seed: int = 0
    """of weights and order"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    threads: Threads | None = None
    """of the processor; the bytes of a CPU training hang on it"""

    def __post_init__(self):
        if self.stride & (self.stride - 1):
            raise UserError(f"stride must be 2, 4, 8 or 16, got {self.stride}")

    @property
    def shape(self) -> VQConfig:
        """The network."""
        return VQConfig(
            resolution=self.resolution, channels=self.channels, attention=(), reach=self.reach,
            multipliers=MULTIPLIERS[: self.stride.bit_length()], codebook_size=self.codes,
        )  # fmt: skip

    @property
    def training(self) -> TrainConfig:
        """The first two stages' settings."""
        return TrainConfig(
            steps=self.steps, batch=self.batch, rate=self.rate, warmup=min(200, self.steps),
            final=0.05, weight_decay=0.0, precision="float32", seed=self.seed,
            save_every=500, eval_every=min(1000, self.steps), log_every=min(50, self.steps),
        )  # fmt: skip

    def run(self) -> int:
        """Read every picture once, train, write, say what the tokenizer loses."""
        import torch

        from cm3leon.loading import checked_device
        from cm3leon.training.image_tokenizer import VQRecipe, train_image_tokenizer

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device, recipe = checked_device(self.device), VQRecipe.of_steps(self.shape, self.training)
        extra = {"licence": self.licence} if self.licence else {}
        done = train_image_tokenizer(
            recipe, self.read(), self.out / "run", self.out, device, extra | {"of": self.pictures}
        )
        print(
            f"{self.out}: {done['codes']} codes for {self.shape.grid} x {self.shape.grid} places, "
            f"held-out pictures come back with a PSNR of {done['psnr']:.1f} dB "
            f"({done['codes_used']} codes used)"
        )
        return 0

    def read(self):
        """The pictures as a training takes them; UserError for too few, a note on unreadable ones.

        Each is read once, so that none stops the training on its way.
        """
        from cm3leon.evaluation.pictures import find_side
        from cm3leon.identity import joined
        from cm3leon.progress import progress
        from cm3leon.training.image_tokenizer import Crops

        found = find_side(self.pictures)
        if isinstance(found, Path):
            raise UserError(f"{found} holds statistics, not pictures; name a folder of them")
        places, lost = [], []
        with progress(len(found.stamps), "pictures") as bar:
            for place in range(len(found.stamps)):
                try:
                    found.read(place)
                    places.append(place)
                except UserError as error:
                    lost.append(str(error))
                bar.update()
        self.tell(lost)
        held = self.hold_out or min(HOLD_OUT, len(places) // 8)
        if held < 1 or len(places) - held < 1:
            raise UserError(
                f"{self.pictures} has {len(places)} readable pictures, {held} of them held out; "
                "add pictures"
            )
        crops = Crops(
            lambda place: found.read(places[place])[0], len(places), self.resolution, held,
            self.seed,
        )  # fmt: skip
        named = joined(str(found.stamps[place]) for place in places)
        return crops.pictures({"pictures_sha256": named, "held_out": held})

    @staticmethod
    def tell(lost: list[str]) -> None:
        """Name pictures that cannot be read."""
        import sys

        from cm3leon.errors import printable

        for reason in lost[:SHOWN]:
            print(f"not readable: {printable(reason)}", file=sys.stderr)
        if more := len(lost[SHOWN:]):
            print(f"not readable: {more:,} more", file=sys.stderr)
