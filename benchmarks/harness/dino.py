"""DINOv2 by its published file, computed by timm's vision transformer: the end token's features.

FD-DINOv2 is the Fréchet distance of these features (Stein et al. 2023, arXiv 2306.04675): pictures
are resized to 224 pixels by Pillow's bicubic filter on bytes and normalised as ImageNet's. The
network was trained at 518 pixels; its positions are interpolated as in its own code: bicubic
without antialias, with 0.1 added to the number of patches of a side.

Axes: B batch, H x W pixels, N positions, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SIDE, PATCH = 224, 14
OFFSET = 0.1  # added to the patches of a side where positions are interpolated
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARCHITECTURES = {  # name -> timm's name, features
    "dinov2": ("vit_large_patch14_dinov2", 1024),
    "dinov2-b14": ("vit_base_patch14_dinov2", 768),
    "dinov2-s14": ("vit_small_patch14_dinov2", 384),
}
UNUSED = ("mask_token",)  # of the training


def load_dino(name: str, weights: Mapping[str, Tensor], file: str, device: str = "cpu"):
    """timm's network with those weights, for pictures of 224 pixels; gives [B, D].

    Raises UserError (one line) without timm and for the weights of another network.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f"{name} features need timm; pip install timm") from None
    architecture, _ = ARCHITECTURES[name]
    network = timm.create_model(architecture, pretrained=False, img_size=SIDE, num_classes=0)
    given = {key: value.float() for key, value in weights.items() if key not in UNUSED}
    if "pos_embed" in given and given["pos_embed"].ndim == 3:
        given["pos_embed"] = interpolated(given["pos_embed"], SIDE // PATCH)
    check_weights(network.state_dict(), given, name, file)
    network.load_state_dict(given)
    return network.eval().requires_grad_(False).to(device)


def check_weights(wanted: Mapping, given: Mapping, name: str, file: str) -> None:
    """UserError unless names and shapes are the network's and every number is finite."""
    other = f"{file} is not the file of {name}"
    if missing := [key for key in wanted if key not in given]:
        raise UserError(f"{other}: it has no {missing[0]!r} ({len(missing)} are missing)")
    if further := [key for key in given if key not in wanted]:
        raise UserError(f"{other}: {further[0]!r} is too much ({len(further)} are)")
    for key, value in wanted.items():
        if given[key].shape != value.shape:
            raise UserError(f"{other}: {key} is {list(given[key].shape)}, not {list(value.shape)}")
        if not bool(given[key].isfinite().all()):
            raise UserError(f"{file} is damaged: {key} is not finite; get the file again")


def interpolated(positions_1ND: Tensor, patches: int) -> Tensor:
    """Positions of a square of `patches` a side; the first, of the class token, stays."""
    import torch
    import torch.nn.functional as F

    first, grid = positions_1ND[:, :1], positions_1ND[:, 1:]
    side = round(grid.shape[1] ** 0.5)
    if side == patches or side**2 != grid.shape[1]:
        return positions_1ND
    scale = (patches + OFFSET) / side
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([first, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def pixels(images_BHW3: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] of any size, squeezed to a square -> float32 [B, 3, 224, 224]."""
    import torch
    from PIL import Image

    def resized(image: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    stacked = np.stack([resized(image) for image in images_BHW3])
    x_BCHW = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (MEAN, DEVIATION))
    return (x_BCHW - mean) / deviation
