"""Image tokenizer: a convolutional VQGAN, uint8 pictures <-> codes of a codebook.

Modules carry the names of taming-transformers' checkpoints (encoder.down.0.block.0.conv1 ...), so
that the public `vqgan_gumbel_f8` weights (256 px -> 32 x 32 = 1024 codes of 8192) load by name;
`convert_tokenizer` brings other layouts to them. Stride 8 needs four levels of
`config.multipliers`.

Axes: B batch, C channels, H height, W width, N codes of a picture (row by row), D width of a code.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3leon.config import VQConfig
from cm3leon.errors import UserError
from cm3leon.tokenizers.pixels import check_codes, check_images, to_bytes, to_unit

WORK = 2**26  # numbers of the widest map at once (256 MiB of float32): the batch is cut to fit


def normalise(channels: int, groups: int = 0) -> nn.GroupNorm:
    """GroupNorm of `groups`; 0: 32 from 128 channels on, below groups of 8 channels, else one."""
    if not groups and channels >= 128 and channels % 32 == 0:
        groups = 32
    elif not groups:
        groups = channels // 8 if channels % 8 == 0 else 1
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut; [B,C,H,W] -> [B,C',H,W]."""

    def __init__(self, inner: int, outer: int, groups: int = 0):
        super().__init__()
        self.norm1, self.conv1 = normalise(inner, groups), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = normalise(outer, groups), nn.Conv2d(outer, outer, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class AttnBlock(nn.Module):
    """Single-head self-attention over the positions of a map; [B,C,H,W] -> [B,C,H,W]."""

    def __init__(self, channels: int, groups: int = 0):
        super().__init__()
        self.norm = normalise(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve the sides by a strided convolution, padded at the right and the bottom."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the sides by nearest neighbour and a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(channels: int, config: VQConfig) -> nn.Module:
    mid, groups = nn.Module(), config.groups
    mid.block_1 = ResnetBlock(channels, channels, groups)
    mid.attn_1 = AttnBlock(channels, groups) if config.attention else nn.Identity()
    mid.block_2 = ResnetBlock(channels, channels, groups)
    return mid


def _level(inner: int, outer: int, blocks: int, attend: bool, groups: int) -> nn.Module:
    level = nn.Module()
    level.block = nn.ModuleList(
        ResnetBlock(inner if k == 0 else outer, outer, groups) for k in range(blocks)
    )
    level.attn = nn.ModuleList(AttnBlock(outer, groups) for _ in range(blocks if attend else 0))
    return level


def _run_level(level: nn.Module, x: Tensor) -> Tensor:
    for k, block in enumerate(level.block):
        x = block(x)
        if len(level.attn):
            x = level.attn[k](x)
    return x


class Encoder(nn.Module):
    """Pictures [B,3,H,W] in [-1,1] -> [B,z,H/stride,W/stride]."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        inner, side = config.channels, config.resolution
        for k, outer in enumerate(widths):
            level = _level(inner, outer, config.blocks, side in config.attention, config.groups)
            if k < len(widths) - 1:
                level.downsample = Downsample(outer)
                side //= 2
            self.down.append(level)
            inner = outer
        self.mid = _middle(inner, config)
        self.norm_out = normalise(inner, config.groups)
        self.conv_out = nn.Conv2d(inner, config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = _run_level(level, x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class CellNorm(nn.Module):
    """LayerNorm over the channels of each position alone; [B,C,H,W] -> [B,C,H,W]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-6).movedim(-1, 1)


class CellBlock(nn.Module):
    """A normalised two-layer perceptron at each position, beside a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = CellNorm()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


class CellEncoder(nn.Module):
    """Pictures [B,3,H,W] in [-1,1] -> [B,z,H/stride,W/stride], each cell of stride x stride pixels
    read alone: the same pixels have the same code wherever and beside whatever they stand.
    """

    def __init__(self, config: VQConfig):
        super().__init__()
        width = config.channels * config.multipliers[-1] * 4
        self.conv_in = nn.Conv2d(3, width, config.stride, stride=config.stride)
        self.blocks = nn.Sequential(*(CellBlock(width) for _ in range(2 * config.blocks)))
        self.norm_out = CellNorm()
        self.conv_out = nn.Conv2d(width, config.z_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.norm_out(self.blocks(self.conv_in(x)))))


class Decoder(nn.Module):
    """Maps [B,z,h,w] -> pictures [B,3,h*stride,w*stride], about in [-1,1]."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        inner, side = widths[-1], config.grid
        self.conv_in = nn.Conv2d(config.z_channels, inner, 3, padding=1)
        self.mid = _middle(inner, config)
        levels = []
        for k in reversed(range(len(widths))):
            attend = side in config.attention
            level = _level(inner, widths[k], config.blocks + 1, attend, config.groups)
            if k > 0:
                level.upsample = Upsample(widths[k])
                side *= 2
            levels.insert(0, level)  # numbered from the finest, as the encoder's are
            inner = widths[k]
        self.up = nn.ModuleList(levels)
        self.norm_out = normalise(inner, config.groups)
        self.conv_out = nn.Conv2d(inner, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        for level in reversed(self.up):
            x = _run_level(level, x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def lowest_equal(table_KD: Tensor) -> Tensor:
    """For each row the lowest index of a row equal to it, [K] int64: merged codes are one code."""
    _, group_K = torch.unique(table_KD, dim=0, return_inverse=True)
    index_K = torch.arange(len(table_KD), device=table_KD.device)
    lowest = torch.full_like(index_K, len(table_KD)).scatter_reduce_(0, group_K, index_K, "amin")
    return lowest[group_K]


class NearestCodes(nn.Module):
    """The codebook of VQModel: a vector's code is the nearest row.

    With the quantiser "unit" vectors and rows are brought to length 1 first, the rows that the
    decoder gets too (ViT-VQGAN's codebook, in LlamaGen).
    """

    def __init__(self, config: VQConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        self.unit = config.quantiser == "unit"

    @property
    def table(self) -> Tensor:
        """The rows that are compared and decoded, [K,D]."""
        weight = self.embedding.weight
        return F.normalize(weight, dim=1) if self.unit else weight

    def codes(self, z_MD: Tensor) -> Tensor:
        """Index of the nearest row for each vector, [M] int64; of equal rows the lowest index."""
        table = self.table
        z_MD = F.normalize(z_MD, dim=1) if self.unit else z_MD
        scores = z_MD @ table.T * 2 - table.pow(2).sum(1)
        return lowest_equal(table)[scores.argmax(1)]

    def vectors(self, codes: Tensor) -> Tensor:
        """Rows of the codebook, [..., D]."""
        return F.embedding(codes, self.table)


class GumbelCodes(nn.Module):
    """The codebook of GumbelVQ at inference: a 1x1 convolution scores codes, the best is taken."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.proj = nn.Conv2d(config.code_dim, config.codebook_size, 1)
        self.embed = nn.Embedding(config.codebook_size, config.code_dim)

    def codes(self, z_MD: Tensor) -> Tensor:
        """Index of the best-scored code for each vector, [M] int64."""
        return F.linear(z_MD, self.proj.weight[:, :, 0, 0], self.proj.bias).argmax(1)

    def vectors(self, codes: Tensor) -> Tensor:
        """Rows of the codebook, [..., D]."""
        return self.embed(codes)


class VQ(nn.Module):
    """The tokenizer: `encode` pictures to codes, `decode` codes to pictures.

    In evaluation mode or not: there is no dropout and no batch statistic. Large batches are worked
    off in pieces, so memory is that of `WORK` and the input.
    """

    licence: str | None = None  # of the weights; set by `image_tokenizer.load_tokenizer`
    sha256: str | None = None  # of the file of weights, likewise

    def __init__(self, config: VQConfig):
        super().__init__()
        codebooks = {"nearest": NearestCodes, "unit": NearestCodes, "gumbel": GumbelCodes}
        self.config = config
        reader = {"picture": Encoder, "cell": CellEncoder}[config.reach]
        self.encoder = reader(config)
        if config.decodes:
            self.decoder = Decoder(config)
        self.quantize = codebooks[config.quantiser](config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.z_channels, 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.post_quant_conv.weight.device

    @property
    def codebook_size(self) -> int:
        """Codes there are."""
        return self.config.codebook_size

    @property
    def grid(self) -> int:
        """Codes a side at `image_size`."""
        return self.config.grid

    @property
    def image_size(self) -> int:
        """Pixels a side that it was trained on."""
        return self.config.resolution

    def latents(self, pictures: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> vectors before quantisation [B,D,h,w]."""
        return self.quant_conv(self.encoder(pictures))

    def pictures(self, z_BDhw: Tensor) -> Tensor:
        """Quantised vectors [B,D,h,w] -> pictures [B,3,H,W]; UserError where nothing decodes."""
        if not self.config.decodes:
            raise UserError("this tokenizer has no decoder, it only encodes; convert a whole one")
        return self.decoder(self.post_quant_conv(z_BDhw))

    def pieces(self, count: int, pixels: int) -> list[slice]:
        """The parts in which `count` pictures of `pixels` are worked off: as `WORK` allows."""
        scores = pixels // self.config.stride**2 * self.config.codebook_size
        size = max(1, WORK // max(pixels * self.config.channels, scores))
        return [slice(start, start + size) for start in range(0, count, size)]

    @torch.inference_mode()
    def encode(self, images: np.ndarray | Tensor) -> Tensor:
        """uint8 [B,S,S,3], S a multiple of the stride -> codes int64 [B,N], row by row.

        Raises UserError for other input.
        """
        check_images(images)
        stride, (height, width) = self.config.stride, images.shape[1:3]
        if height != width or not height or height % stride:
            raise UserError(
                f"pictures must be square with sides a multiple of {stride}, "
                f"got {height} x {width}; crop and resize them"
            )
        if not len(images):
            return torch.empty((0, (height // stride) ** 2), dtype=torch.int64, device=self.device)
        if self.config.reach == "cell" and isinstance(images, np.ndarray):
            return self._codes_of_cells(images)
        parts = [self._codes(images[part]) for part in self.pieces(len(images), height * width)]
        return torch.cat(parts)

    def _codes_of_cells(self, images: np.ndarray) -> Tensor:
        """Of an encoder that reads each cell alone: different cells are read once."""
        stride, count = self.config.stride, len(images)
        side = images.shape[1] // stride
        cells = images.reshape(count, side, stride, side, stride, 3).swapaxes(2, 3)
        rows = np.ascontiguousarray(cells).reshape(count * side**2, -1)
        whole = rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]
        _, first, which = np.unique(whole, return_index=True, return_inverse=True)
        different = rows[first].reshape(-1, stride, stride, 3)
        pieces = self.pieces(len(different), stride**2)
        codes = torch.cat([self._codes(different[piece]) for piece in pieces])[:, 0]
        return codes[torch.as_tensor(which.reshape(count, -1), device=codes.device)]

    def _codes(self, images: np.ndarray | Tensor) -> Tensor:
        z = self.latents(to_unit(images).to(self.device))
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        return self.quantize.codes(flat).view(len(images), -1)

    @torch.inference_mode()
    def decode(self, codes: np.ndarray | Tensor) -> np.ndarray:
        """Codes [B,N] of any integer type, N a square -> uint8 [B,H,W,3].

        Raises UserError for another type or shape and for codes out of range.
        """
        codes = check_codes(codes, self.config.codebook_size).to(self.device)
        pixels = math.isqrt(codes.shape[1]) * self.config.stride
        parts = [self._bytes(codes[part]) for part in self.pieces(len(codes), pixels**2)]
        return np.concatenate([np.zeros((0, pixels, pixels, 3), np.uint8), *parts])

    def _bytes(self, codes: Tensor) -> np.ndarray:
        side = math.isqrt(codes.shape[1])
        z = self.quantize.vectors(codes).view(len(codes), side, side, -1).permute(0, 3, 1, 2)
        return to_bytes(self.pictures(z))
