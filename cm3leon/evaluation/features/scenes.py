"""The feature network of `fid_scenes`, which knows what a scene of the embedded world holds.

Its 128 pooled features play the part Inception's pool3 plays for MS-COCO; `baselines/features.py`
is its recipe.

Axes: B batch, D features, K answers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3leon.checkpoint import load, load_into
from cm3leon.errors import UserError
from cm3leon.tokenizers.pixels import to_unit

SIDE = 64  # pixels a side
DIM = 128  # features
WIDTHS = (16, 32, 64, DIM)
ARCHITECTURE = {"side": SIDE, "dim": DIM, "widths": list(WIDTHS)}
ANSWERS = 6 + 64 + 24 + 16 + 3 + 1 + 16  # yes/no questions about a scene that it was trained on


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
