"""DINOv2 by its file: an independent reading on the same weights, positions by hand, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.evaluation.features.dino import (
    DEVIATION,
    MEAN,
    interpolated,
    load_dino,
    pixels,
    random_weights,
    shapes,
)

NAME, WIDTH, HEADS = "dinov2-s14", 384, 6
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def weights():
    return random_weights(NAME)


def cubic(distance: float, a: float = -0.75) -> float:
    """The cubic convolution kernel with torch's slope."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def spread(size: int, side: int, scale: float) -> torch.Tensor:
    """Matrix [size, side] that reads places (i + 1/2) / scale - 1/2 of a row, its ends repeated."""
    matrix = torch.zeros(size, side, dtype=torch.float64)
    for i in range(size):
        place = (i + 0.5) / scale - 0.5
        for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            matrix[i, min(max(k, 0), side - 1)] += cubic(place - k)
    return matrix


def by_hand(weights, x_BCHW: torch.Tensor) -> torch.Tensor:
    """The network written down: float32 [B, D] of normalised pictures of 224 pixels."""
    w = weights

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    patches = x_BCHW.unfold(2, 14, 14).unfold(3, 14, 14)  # B, 3, 16, 16, 14, 14
    kernel = w["patch_embed.proj.weight"]
    x = torch.einsum("bchwij,dcij->bhwd", patches, kernel) + w["patch_embed.proj.bias"]
    matrix = spread(16, 37, 16.1 / 37).float()
    grid = w["pos_embed"][0, 1:].unflatten(0, (37, 37))
    x = x + torch.einsum("hi,wj,ijd->hwd", matrix, matrix, grid)
    first = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), 1, WIDTH)
    x = torch.cat([first, x.flatten(1, 2)], 1)
    for block in (f"blocks.{k}" for k in range(12)):
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        q, k, v = qkv.unflatten(2, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        mixed = linear(f"{block}.attn.proj", mixed.transpose(1, 2).flatten(2))
        x = x + w[f"{block}.ls1.gamma"] * mixed
        inner = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + w[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.fc2", inner)
    return norm("norm", x)[:, 0]


def test_an_independent_reading(weights):
    pytest.importorskip("timm")
    x = pixels(PICTURES)
    with torch.inference_mode():
        found = load_dino(NAME, weights, "x")(x)
        wanted = by_hand(weights, x)
    assert found.shape == (2, WIDTH) and found.dtype == torch.float32
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_pixels_are_pillows_bicubic_on_bytes():
    x = pixels(PICTURES)
    assert x.shape == (2, 3, 224, 224) and x.dtype == torch.float32
    resized = Image.fromarray(PICTURES[1]).resize((224, 224), Image.Resampling.BICUBIC)
    wanted = (np.asarray(resized) / 255 - np.array(MEAN)) / np.array(DEVIATION)
    assert np.abs(x[1].permute(1, 2, 0).numpy() - wanted).max() < 1e-6


def test_positions_of_the_trained_size_stay():
    positions = torch.randn(1, 1 + 37**2, 8, generator=seeds.torch_generator(0, "positions"))
    assert torch.equal(interpolated(positions, 37), positions)
    fewer = interpolated(positions, 16)
    assert fewer.shape == (1, 257, 8) and torch.equal(fewer[:, 0], positions[:, 0])
    even = torch.ones(1, 1 + 37**2, 2)
    assert (interpolated(even, 16) - 1).abs().max() < 1e-6


def test_sizes_are_the_published_ones():
    assert sum(np.prod(shape) for shape in shapes("dinov2").values()) == 304_368_640
    assert len(shapes("dinov2")) == 5 + 24 * 14 + 2 and len(shapes(NAME)) == 5 + 12 * 14 + 2


def test_other_weights_are_refused(weights):
    registers = weights | {"register_tokens": torch.ones(1, 4, WIDTH)}
    short = {key: value for key, value in weights.items() if "blocks.11" not in key}
    small = weights | {"pos_embed": torch.ones(1, 257, WIDTH)}
    broken = weights | {"norm.bias": torch.full((WIDTH,), torch.nan)}
    for changed, message in (
        (registers, "'register_tokens' is too much (1 are)"),
        (short, "it has no 'blocks.11.norm1.weight' (14 are missing)"),
        (small, "pos_embed is [1, 257, 384], not [1, 1370, 384]"),
        (broken, "damaged: norm.bias is not finite"),
        ({}, "(174 are missing)"),
    ):
        with pytest.raises(UserError) as error:
            load_dino(NAME, changed, "file.pth")
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="not the file of dinov2-b14"):
        load_dino("dinov2-b14", weights, "file.pth")


def test_without_timm_it_says_so(weights, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="features dinov2-s14 need timm; pip install timm"):
        load_dino(NAME, weights, "x")
