"""Several samples a prompt, of which CLIP picks one (section 3.1; Table 1 has the best of eight).

The picking CLIP should not be the one that a CLIP score is measured with: its choice would be
measured by its own judgement. Shapes: B prompts, K samples a prompt, D CLIP width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.clip import Clip
from cm3leon.config import to_dict
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.seeds import derive

if TYPE_CHECKING:
    from cm3leon.pipeline import System


@dataclass(frozen=True)
class Reranked:
    """`base` drawing K samples a prompt; the one that CLIP finds nearest to the caption is kept.

    With several `decodes` sample k is drawn by decodes[k % len]: two make a mixed set, half of each
    (the paper's "TopP + CD-K", A41). One sample without `decodes` is the base itself.
    """

    base: System
    clip: Clip
    samples: int = 8
    decodes: tuple[DecodeConfig, ...] = ()

    def __post_init__(self):
        if self.samples < 1:
            raise UserError(f"samples must be at least 1, got {self.samples}")
        if len(self.decodes) > self.samples:
            raise UserError(
                f"{self.samples} samples cannot hold {len(self.decodes)} ways of drawing"
            )

    @property
    def name(self) -> str:
        """The base's, and how many samples it draws."""
        return f"{self.base.name}+best{self.samples}"

    @property
    def weights_sha256(self) -> str:
        """That of the base."""
        return self.base.weights_sha256

    @property
    def device(self) -> str:
        """That of the base."""
        return self.base.device

    @property
    def steps_by(self) -> str:
        """That of the base."""
        return self.base.steps_by

    @property
    def vq(self):
        """The base's image tokenizer."""
        return self.base.vq

    @property
    def config(self) -> dict:
        """The base's, and everything that decides which sample is kept."""
        return self.base.config | {
            "samples": self.samples,
            "rerank_clip_sha256": self.clip.sha256,
            "decodes": [to_dict(decode) for decode in self.decodes],
        }

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """The best picture of each prompt, uint8 [B, S, S, 3]."""
        images_BKSS3 = self.pool(prompts, seeds)
        best_B = self.scores(prompts, images_BKSS3).argmax(1)
        return images_BKSS3[np.arange(len(prompts)), best_B]

    def pool(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """All samples, uint8 [B, K, S, S, 3]; sample k of a prompt does not depend on K."""
        ways = self.decodes or (self.base.decode,)
        columns: list[np.ndarray] = [np.zeros(0)] * self.samples  # [B, S, S, 3] of each sample
        for way, decode in enumerate(ways):
            system = self.base.with_decode(decode) if self.decodes else self.base
            own = range(way, self.samples, len(ways))
            # Samples of a prompt stand together: what they have in common is read once.
            repeated = [prompt for prompt in prompts for _ in own]
            each = [seed if k == 0 else derive(seed, "sample", k) for seed in seeds for k in own]
            drawn = system.draw(repeated, each)
            for place, k in enumerate(own):
                columns[k] = drawn[place :: len(own)]
        return np.stack(columns, axis=1)

    def scores(self, prompts: Sequence[str], images_BKSS3: np.ndarray) -> np.ndarray:
        """Cosine of each caption and each of its samples, float32 [B, K]."""
        texts_BD = self.clip.texts(prompts)
        images_BKD = self.clip.images(images_BKSS3.reshape(-1, *images_BKSS3.shape[2:])).reshape(
            *images_BKSS3.shape[:2], -1
        )
        return np.einsum("bd,bkd->bk", texts_BD, images_BKD)
