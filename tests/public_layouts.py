"""Public image tokenizers as their papers' code names and computes them, on random weights.

Written from the published names, orders and constants, apart from `tokenizers.vq`: plain functions
on a dictionary of tensors. Tests convert the dictionary and compare codes and pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from cm3leon import seeds


@dataclass
class Public:
    """A network of a layout: "taming" or "llamagen". `attn` are the levels with attention."""

    layout: str
    ch: int = 32
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attn: tuple[int, ...] = (1,)
    z: int = 12
    codes: int = 40
    dim: int = 6
    gumbel: bool = False
    weights: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self):
        generator = seeds.torch_generator(0, "public", self.layout, self.mult)
        self.weights = {}
        for name, shape in self.shapes().items():
            noise = torch.randn(shape, generator=generator)
            if "norm" in name:
                value = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
            elif len(shape) == 4:
                value = noise / (shape[1] * shape[2] * shape[3]) ** 0.5
            else:
                value = noise * (0.1 if name.endswith("bias") else 1.0)
            self.weights[name] = value

    # names

    def level(self, side: str, order: int) -> str:
        """The level that is computed as number `order` (0 first)."""
        if self.layout == "llamagen":
            return f"{side}.conv_blocks.{order}"
        return f"encoder.down.{order}" if side == "encoder" else f"decoder.up.{self.last - order}"

    def middle(self, side: str) -> tuple[str, str, str]:
        llamagen = self.layout == "llamagen"
        names = ("0", "1", "2") if llamagen else ("block_1", "attn_1", "block_2")
        return tuple(f"{side}.mid.{name}" for name in names)

    @property
    def block(self) -> str:
        return "res" if self.layout == "llamagen" else "block"

    @property
    def last(self) -> int:
        return len(self.mult) - 1

    # shapes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        widths = [self.ch * m for m in self.mult]
        out = _conv("encoder.conv_in", 3, self.ch, 3)
        inner = self.ch
        for order, width in enumerate(widths):
            out |= self._level("encoder", order, order, inner, width, self.blocks)
            inner = width
            if order < self.last:
                out |= _conv(f"{self.level('encoder', order)}.downsample.conv", inner, inner, 3)
        out |= self._middle("encoder", inner) | _norm("encoder.norm_out", inner)
        out |= _conv("encoder.conv_out", inner, self.z, 3)
        out |= _conv("decoder.conv_in", self.z, inner, 3) | self._middle("decoder", inner)
        for order, level in enumerate(reversed(range(len(widths)))):
            out |= self._level("decoder", order, level, inner, widths[level], self.blocks + 1)
            inner = widths[level]
            if level > 0:
                out |= _conv(f"{self.level('decoder', order)}.upsample.conv", inner, inner, 3)
        out |= _norm("decoder.norm_out", inner) | _conv("decoder.conv_out", inner, 3, 3)
        out |= _conv("quant_conv", self.z, self.dim, 1)
        out |= _conv("post_quant_conv", self.dim, self.z, 1)
        if self.gumbel:
            proj = _conv("quantize.proj", self.dim, self.codes, 1)
            return out | proj | {"quantize.embed.weight": (self.codes, self.dim)}
        return out | {"quantize.embedding.weight": (self.codes, self.dim)}

    def _level(self, side, order, level, inner, width, blocks) -> dict:
        out, name = {}, self.level(side, order)
        for k in range(blocks):
            out |= _block(f"{name}.{self.block}.{k}", width if k else inner, width)
            if level in self.attn:
                out |= _attention(f"{name}.attn.{k}", width)
        return out

    def _middle(self, side: str, width: int) -> dict:
        first, attn, second = self.middle(side)
        return _block(first, width, width) | _attention(attn, width) | _block(second, width, width)

    # computation

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] in [-1,1] -> codes [B,N]."""
        h = self.conv("encoder.conv_in", x)
        for order in range(len(self.mult)):
            h = self.run_level("encoder", order, h, self.blocks)
            if order < self.last:
                name = f"{self.level('encoder', order)}.downsample.conv"
                padded = torch.zeros(*h.shape[:2], h.shape[2] + 1, h.shape[3] + 1)
                padded[:, :, :-1, :-1] = h
                w, b = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
                h = F.conv2d(padded, w, b, stride=2)
        h = self.run_middle("encoder", h)
        h = self.conv("encoder.conv_out", swish(self.norm("encoder.norm_out", h)))
        z = self.conv("quant_conv", h)
        if self.gumbel:
            return self.conv("quantize.proj", z).argmax(1).flatten(1)
        vectors = z.permute(0, 2, 3, 1).flatten(1, 2).double()
        table = self.table.double()
        if self.layout == "llamagen":
            vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        return torch.cdist(vectors, table.expand(len(vectors), -1, -1)).argmin(-1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes [B,N] -> [B,3,H,W]."""
        side = int(codes.shape[1] ** 0.5)
        z = self.table[codes].transpose(1, 2).unflatten(2, (side, side))
        h = self.conv("decoder.conv_in", self.conv("post_quant_conv", z))
        h = self.run_middle("decoder", h)
        for order in range(len(self.mult)):
            h = self.run_level("decoder", order, h, self.blocks + 1)
            if order < self.last:
                h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                h = self.conv(f"{self.level('decoder', order)}.upsample.conv", h)
        return self.conv("decoder.conv_out", swish(self.norm("decoder.norm_out", h)))

    @property
    def table(self) -> torch.Tensor:
        rows = self.weights[f"quantize.{'embed' if self.gumbel else 'embedding'}.weight"]
        return rows / rows.norm(dim=1, keepdim=True) if self.layout == "llamagen" else rows

    def run_level(self, side, order, h, blocks):
        name = self.level(side, order)
        for k in range(blocks):
            h = self.residual(f"{name}.{self.block}.{k}", h)
            if f"{name}.attn.{k}.q.weight" in self.weights:
                h = self.attend(f"{name}.attn.{k}", h)
        return h

    def run_middle(self, side, h):
        first, attn, second = self.middle(side)
        return self.residual(second, self.attend(attn, self.residual(first, h)))

    def conv(self, name, x):
        w = self.weights[f"{name}.weight"]
        return F.conv2d(x, w, self.weights[f"{name}.bias"], padding=w.shape[-1] // 2)

    def norm(self, name, x):
        w, b = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        grouped = x.unflatten(1, (32, -1))
        mean = grouped.mean((2, 3, 4), keepdim=True)
        variance = grouped.var((2, 3, 4), keepdim=True, unbiased=False)
        flat = ((grouped - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        return flat * w[:, None, None] + b[:, None, None]

    def residual(self, name, x):
        h = self.conv(f"{name}.conv1", swish(self.norm(f"{name}.norm1", x)))
        h = self.conv(f"{name}.conv2", swish(self.norm(f"{name}.norm2", h)))
        if f"{name}.nin_shortcut.weight" in self.weights:
            x = self.conv(f"{name}.nin_shortcut", x)
        return x + h

    def attend(self, name, x):
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = (torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5).softmax(-1)
        mixed = torch.einsum("bij,bcj->bci", weights, v).view_as(x)
        return x + self.conv(f"{name}.proj_out", mixed)


def swish(x):
    return x * torch.sigmoid(x)


def _conv(name, inner, outer, side) -> dict:
    return {f"{name}.weight": (outer, inner, side, side), f"{name}.bias": (outer,)}


def _norm(name, width) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(name, inner, outer) -> dict:
    out = _norm(f"{name}.norm1", inner) | _conv(f"{name}.conv1", inner, outer, 3)
    out |= _norm(f"{name}.norm2", outer) | _conv(f"{name}.conv2", outer, outer, 3)
    return out | (_conv(f"{name}.nin_shortcut", inner, outer, 1) if inner != outer else {})


def _attention(name, width) -> dict:
    out = _norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        out |= _conv(f"{name}.{part}", width, width, 1)
    return out
