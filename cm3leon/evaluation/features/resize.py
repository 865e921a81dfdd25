"""The resizes that belong to Inception features: three conventions, three different FIDs.

"bilinear": pytorch-fid's, torch without antialias, pixels at their centres. "clean": clean-fid's,
Pillow's bicubic filter on each channel in floats, which widens when it shrinks. "tensorflow": the
first FID's and torch-fidelity's, bilinear with pixels at their corners. Each squeezes a picture
that is no square; none rounds. All give what the network takes, in about [-1, 1].

Axes: B batch, H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 299


def bilinear(images_BHW3: np.ndarray, device: str = "cpu") -> Tensor:
    """pytorch-fid: x / 255, bilinear, 2 x - 1; uint8 -> float32 [B, 3, 299, 299]."""
    import torch.nn.functional as F

    x_BCHW = floats(images_BHW3, device) / 255
    return 2 * F.interpolate(x_BCHW, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def clean(images_BHW3: np.ndarray, device: str = "cpu") -> Tensor:
    """clean-fid: bicubic in 0..255, cut to it, (x - 128) / 128; -> float32 [B, 3, 299, 299]."""
    import torch

    made = np.stack([clean_one(image) for image in images_BHW3])
    return (torch.from_numpy(made).permute(0, 3, 1, 2).to(device) - 128) / 128


def clean_one(image_HW3: np.ndarray) -> np.ndarray:
    """One picture, float32 [299, 299, 3] in 0..255."""
    from PIL import Image

    def channel(plane_HW: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(plane_HW, np.float32))
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    planes = [channel(image_HW3[:, :, index]) for index in range(3)]
    return np.stack(planes, -1).clip(0, 255)


def tensorflow(images_BHW3: np.ndarray, device: str = "cpu") -> Tensor:
    """TensorFlow 1: output pixel i is at i H / 299, not centred; (x - 128) / 128."""
    x = floats(images_BHW3, device)
    for axis in (3, 2):
        low, high, share = corners(x.shape[axis], device)
        share = share.view(-1, *[1] * (3 - axis))
        before, after = x.index_select(axis, low), x.index_select(axis, high)
        x = before + (after - before) * share
    return (x - 128) / 128


def corners(size: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Of each of 299 output pixels: the input pixel before it, the one after it, and how far."""
    import torch

    place = torch.arange(SIDE, dtype=torch.float32, device=device) * (size / SIDE)
    low = place.floor().long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), place - low


def floats(images_BHW3: np.ndarray, device: str = "cpu") -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in 0..255."""
    import torch

    copied = torch.from_numpy(np.array(images_BHW3, order="C"))  # it may be read-only
    return copied.to(device).permute(0, 3, 1, 2).float().contiguous()


RESIZES = {"bilinear": bilinear, "clean": clean, "tensorflow": tensorflow}
