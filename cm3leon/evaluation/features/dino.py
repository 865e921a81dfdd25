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
ARCHITECTURES = {  # name -> timm's name, blocks, features
    "dinov2": ("vit_large_patch14_dinov2", 24, 1024),
    "dinov2-b14": ("vit_base_patch14_dinov2", 12, 768),
    "dinov2-s14": ("vit_small_patch14_dinov2", 12, 384),
}
TRAINED = 37  # patches of a side in training: 518 pixels
UNUSED = "mask_token"  # of the training
NORMS, PARTS = ("norm1", "norm2"), ("weight", "bias")


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Key name -> shape of every tensor of the published file."""
    _, depth, width = ARCHITECTURES[name]
    found = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + TRAINED**2, width),
        UNUSED: (1, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
    }
    layers = (("attn.qkv", 3 * width, width), ("attn.proj", width, width))
    layers += (("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width))
    for block in (f"blocks.{index}" for index in range(depth)):
        found |= {f"{block}.{norm}.{part}": (width,) for norm in NORMS for part in PARTS}
        found |= {f"{block}.{scale}.gamma": (width,) for scale in ("ls1", "ls2")}
        for layer, outer, inner in layers:
            found |= {f"{block}.{layer}.weight": (outer, inner), f"{block}.{layer}.bias": (outer,)}
    return found | {"norm.weight": (width,), "norm.bias": (width,)}


def random_weights(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Weights of the published names and shapes, drawn so that every part of it counts."""
    import torch

    from cm3leon import seeds

    generator = seeds.torch_generator(seed, name)
    weights = {}
    for key, shape in shapes(name).items():
        noise = torch.randn(shape, generator=generator)
        matrix = len(shape) > 1 and key.endswith("weight")
        gain = 1.0 if "norm" in key and key.endswith("weight") else 0.0
        weights[key] = noise / shape[1] ** 0.5 if matrix else gain + 0.2 * noise
    return weights


def load_dino(name: str, weights: Mapping[str, Tensor], file: str, device: str = "cpu"):
    """timm's network with those weights, for pictures of 224 pixels; gives [B, D].

    Raises UserError (one line) without timm and for the weights of another network.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f"features {name} need timm; pip install timm") from None
    check_weights(name, weights, file)
    given = {key: value.float() for key, value in weights.items() if key != UNUSED}
    given["pos_embed"] = interpolated(given["pos_embed"], SIDE // PATCH)
    network = timm.create_model(
        ARCHITECTURES[name][0], pretrained=False, img_size=SIDE, num_classes=0
    )
    network.load_state_dict(given)
    return network.eval().requires_grad_(False).to(device)


def check_weights(name: str, given: Mapping[str, Tensor], file: str) -> None:
    """UserError unless names and shapes are the published ones and every number is finite."""
    wanted, other = shapes(name), f"{file} is not the file of {name}"
    if missing := [key for key in wanted if key not in given and key != UNUSED]:
        raise UserError(f"{other}: it has no {missing[0]!r} ({len(missing)} are missing)")
    if further := [key for key in given if key not in wanted]:
        raise UserError(f"{other}: {further[0]!r} is too much ({len(further)} are)")
    for key, value in given.items():
        if tuple(value.shape) != wanted[key]:
            raise UserError(f"{other}: {key} is {list(value.shape)}, not {list(wanted[key])}")
        if not bool(value.isfinite().all()):
            raise UserError(f"{file} is damaged: {key} is not finite; get the file again")


def interpolated(positions_1ND: Tensor, patches: int) -> Tensor:
    """Positions of a square of `patches` a side; the first, of the class token, stays."""
    import torch
    import torch.nn.functional as F

    first, grid = positions_1ND[:, :1], positions_1ND[:, 1:]
    side = round(grid.shape[1] ** 0.5)
    if side == patches:
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
