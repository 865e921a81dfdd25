"""LlamaGen's text-to-image transformer under its published names, and the loop that draws codes.

The layout of the checkpoints (FoundationVision/LlamaGen, `t2i_XL_stage1_256.pt` and its kin): a
pre-norm decoder with RMSNorm, SwiGLU and no biases. A caption is 120 vectors of flan-t5-xl, padded
at the left, through an MLP (`cls_embedding.cap_proj`); guidance replaces them by the learned
`uncond_embedding`, under the mask of the caption. Positions are two-dimensional rotations: the
first half of the pairs of a head turns by the row, the second by the column, base 10,000. At the
places of the caption sine and cosine are both 0: queries and keys vanish there, so that whatever
attends to the caption weighs its words by nothing but the values.

Nothing but functions on a dictionary of tensors, so that the published names stay.

Axes: B samples, S streams (caption, unconditional), X = S * B rows, C caption places, N image
tokens, T tokens fed, K all places C + N, D width, H heads, E size of a head, V codes, W width
of T5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cm3leon.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cm3leon.decoding.config import DecodeConfig

BASE, EPSILON = 10_000.0, 1e-5
HEADS = {  # width -> heads of the published sizes: B, L, XL, XXL, 1B, XXXL, 3B, 7B
    768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32, 4096: 32,
}  # fmt: skip
PARTS = ("model", "module", "state_dict")  # of a checkpoint, first found; LlamaGen's own order
CLASSES = "cls_embedding.embedding_table.weight"
TABLE = "freqs_cis"  # rotations that some files carry; they are computed


@dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes of a network, as its tensors tell them; heads and grid they do not."""

    width: int
    layers: int
    heads: int
    hidden: int
    codes: int
    caption_width: int
    captions: int
    grid: int

    def __post_init__(self):
        if self.width % self.heads or self.width // self.heads % 4:
            raise UserError(
                f"heads must cut a width of {self.width} into multiples of 4, got {self.heads}"
            )

    @property
    def places(self) -> int:
        """C + N."""
        return self.captions + self.grid**2


def find_tensors(content: object) -> dict[str, Tensor]:
    """The network's tensors in what a file held; UserError where it has none, or is a c2i."""
    held = content if isinstance(content, Mapping) else {}
    for part in PARTS:
        if isinstance(held.get(part), Mapping):
            held = held[part]
            break
    found = {name: value for name, value in held.items() if hasattr(value, "is_floating_point")}
    if CLASSES in found:
        raise UserError(
            "a class-conditional LlamaGen (c2i), which draws classes of ImageNet and no text; "
            "name a t2i checkpoint"
        )
    if "tok_embeddings.weight" not in found or "cls_embedding.uncond_embedding" not in found:
        raise UserError(
            "no text-to-image LlamaGen: it lacks tok_embeddings.weight or "
            "cls_embedding.uncond_embedding; name a t2i checkpoint"
        )
    return {name: value for name, value in found.items() if name != TABLE}


def shapes(config: LlamaGenConfig) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor."""
    width, hidden, inner = config.width, config.hidden, config.caption_width
    found = {
        "cls_embedding.uncond_embedding": (config.captions, inner),
        "cls_embedding.cap_proj.fc1.weight": (width, inner),
        "cls_embedding.cap_proj.fc2.weight": (width, width),
        "tok_embeddings.weight": (config.codes, width),
    }
    for index in range(config.layers):
        found |= {
            f"layers.{index}.attention.wqkv.weight": (3 * width, width),
            f"layers.{index}.attention.wo.weight": (width, width),
            f"layers.{index}.feed_forward.w1.weight": (hidden, width),
            f"layers.{index}.feed_forward.w2.weight": (width, hidden),
            f"layers.{index}.feed_forward.w3.weight": (hidden, width),
            f"layers.{index}.attention_norm.weight": (width,),
            f"layers.{index}.ffn_norm.weight": (width,),
        }
    return found | {"norm.weight": (width,), "output.weight": (config.codes, width)}


def infer_config(
    tensors: Mapping[str, Tensor], grid: int, heads: int | None = None
) -> LlamaGenConfig:
    """The sizes that shapes tell; heads by the width where none are given."""
    codes, width = tensors["tok_embeddings.weight"].shape
    captions, caption_width = tensors["cls_embedding.uncond_embedding"].shape
    numbers = [re.match(r"layers\.(\d+)\.", name) for name in tensors]
    layers = 1 + max((int(found[1]) for found in numbers if found), default=-1)
    first = tensors.get("layers.0.feed_forward.w1.weight")
    if first is None:
        raise UserError("the weights have no 'layers.0.feed_forward.w1.weight'")
    heads = heads or HEADS.get(width)
    if heads is None:
        raise UserError(f"a width of {width} is none of the published; say heads=NUMBER")
    return LlamaGenConfig(width, layers, heads, len(first), codes, caption_width, captions, grid)


@dataclass(frozen=True)
class LlamaGen:
    """A network: its sizes, and its tensors by their published names."""

    config: LlamaGenConfig
    tensors: Mapping[str, Tensor]

    def to(self, device: str) -> LlamaGen:
        """The same on a device."""
        return replace(self, tensors={key: one.to(device) for key, one in self.tensors.items()})

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Product with the weight of that name."""
        return x @ self.tensors[f"{name}.weight"].T

    def norm(self, x: Tensor, name: str) -> Tensor:
        """x / sqrt(mean x^2 + 1e-5), scaled; the root in float32."""
        wide = x.float()
        scaled = wide * (wide.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
        return scaled.to(x.dtype) * self.tensors[f"{name}.weight"]


def load_network(
    tensors: Mapping[str, Tensor], config: LlamaGenConfig, dtype: torch.dtype
) -> LlamaGen:
    """The network of these tensors; UserError naming the first that lacks, is too much or does not
    fit."""
    wanted = shapes(config)
    if lacking := [name for name in wanted if name not in tensors]:
        raise UserError(f"the weights have no {lacking[0]!r} ({len(lacking)} are missing)")
    if strange := [name for name in tensors if name not in wanted]:
        raise UserError(f"the weights have {strange[0]!r}, which has no place ({len(strange)})")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(f"{name} is {list(tensors[name].shape)}, expected {list(shape)}")
        if not bool(tensors[name].isfinite().all()):
            raise UserError(f"{name} is not finite; the file is damaged")
    return LlamaGen(config, {name: tensors[name].to(dtype) for name in wanted})


def embed_captions(network: LlamaGen, captions_XCW: Tensor) -> Tensor:
    """T5's vectors -> [X, C, D]: two products with GELU (by tanh) between."""
    import torch.nn.functional as F

    hidden = F.gelu(network.linear(captions_XCW, "cls_embedding.cap_proj.fc1"), approximate="tanh")
    return network.linear(hidden, "cls_embedding.cap_proj.fc2")


def forward(
    network: LlamaGen,
    x_XTD: Tensor,
    turns_KE2: Tensor,
    mask_X1KK: Tensor,
    caches: list[Tensor],
    start: int,
) -> Tensor:
    """Logits float32 [X, V] that follow T embedded tokens fed at `start`; the caches keep them."""
    end = start + x_XTD.shape[1]
    context = turns_KE2[start:end], mask_X1KK[:, :, start:end, :end]
    for index, cache in enumerate(caches):
        x_XTD = block(network, f"layers.{index}", x_XTD, context, cache)
    return network.linear(network.norm(x_XTD[:, -1], "norm"), "output").float()


def block(network: LlamaGen, name: str, x_XTD: Tensor, *held) -> Tensor:
    """Pre-norm attention, then SwiGLU: w2(silu(w1 x) * w3 x)."""
    import torch.nn.functional as F

    normed = network.norm(x_XTD, f"{name}.attention_norm")
    x_XTD = x_XTD + attention(network, f"{name}.attention", normed, *held)
    normed = network.norm(x_XTD, f"{name}.ffn_norm")
    gate, value = (network.linear(normed, f"{name}.feed_forward.w{k}") for k in (1, 3))
    return x_XTD + network.linear(F.silu(gate) * value, f"{name}.feed_forward.w2")


def attention(
    network: LlamaGen,
    name: str,
    x_XTD: Tensor,
    context: tuple[Tensor, Tensor],
    cache_2XHKE: Tensor,
) -> Tensor:
    """Keys and values of T tokens go into the cache, turned as the context says, [T, E, 2]; all up
    to them is attended to where its mask [X, 1, T, K] is true.
    """
    import torch.nn.functional as F

    turns_TE2, mask_X1TK = context
    end = mask_X1TK.shape[-1]
    start = end - x_XTD.shape[1]
    heads = network.config.heads
    q, k, v = network.linear(x_XTD, f"{name}.wqkv").unflatten(-1, (3, heads, -1)).unbind(2)
    q_XHTE, k_XHTE = (rotate(one, turns_TE2).transpose(1, 2) for one in (q, k))
    cache_2XHKE[0, :, :, start:end] = k_XHTE
    cache_2XHKE[1, :, :, start:end] = v.transpose(1, 2)
    keys, values = cache_2XHKE[:, :, :, :end]
    out_XHTE = F.scaled_dot_product_attention(q_XHTE, keys, values, attn_mask=mask_X1TK)
    return network.linear(out_XHTE.transpose(1, 2).flatten(2), f"{name}.wo")


def empty_caches(network: LlamaGen, rows: int) -> list[Tensor]:
    """Keys and values of every layer, [2, X, H, K, E]."""
    config, weight = network.config, network.tensors["output.weight"]
    shape = 2, rows, config.heads, config.places, config.width // config.heads
    return [weight.new_zeros(shape) for _ in range(config.layers)]


def turns(config: LlamaGenConfig) -> Tensor:
    """Cosine and sine of each place and pair, float32 [K, E/2, 2]; zeros for the caption."""
    import torch

    quarter = config.width // config.heads // 4
    speed_Q = BASE ** -(torch.arange(quarter, dtype=torch.float32) / quarter)
    angle_GQ = torch.arange(config.grid)[:, None] * speed_Q
    rows_NQ = angle_GQ.repeat_interleave(config.grid, 0)
    columns_NQ = angle_GQ.repeat(config.grid, 1)
    angle_NE = torch.cat([rows_NQ, columns_NQ], 1)
    image_NE2 = torch.stack([angle_NE.cos(), angle_NE.sin()], -1)
    return torch.cat([torch.zeros(config.captions, 2 * quarter, 2), image_NE2])


def rotate(x_XTHE: Tensor, turns_TE2: Tensor) -> Tensor:
    """Each pair of neighbouring numbers of a head turned; computed in float32."""
    import torch

    even, odd = x_XTHE.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turns_TE2[:, None].unbind(-1)
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1)
    return turned.flatten(-2).to(x_XTHE.dtype)


def masks(words_BC: Tensor, places: int) -> Tensor:
    """Bool [B, 1, K, K], true where a place (row) sees another: itself and what is before it, of
    the caption only its words."""
    import torch
    import torch.nn.functional as F

    seen_KK = torch.ones(places, places, dtype=torch.bool, device=words_BC.device).tril()
    real_BK = F.pad(words_BC, (0, places - words_BC.shape[1]), value=True)
    itself_KK = torch.eye(places, dtype=torch.bool, device=words_BC.device)
    return ((seen_KK & real_BK[:, None]) | itself_KK)[:, None]


def draw_codes(
    network: LlamaGen,
    captions_BCW: Tensor,
    words_BC: Tensor,
    uniforms_BN: Tensor,
    decode: DecodeConfig,
) -> Tensor:
    """Codes int64 [B, N], row by row of the picture; one uniform a token decides.

    `words_BC` is true at the caption's words, at the right end of its places.
    """
    import torch

    from cm3leon.decoding.sampling import choose, combine

    config, device, streams = network.config, captions_BCW.device, decode.streams
    captions_XCW, codes = captions_BCW, []
    if streams == 2:
        uncond_CW = network.tensors["cls_embedding.uncond_embedding"]
        captions_XCW = torch.cat([captions_BCW, uncond_CW.expand_as(captions_BCW)])
    with torch.inference_mode():
        fixed = turns(config).to(device), masks(words_BC, config.places).repeat(streams, 1, 1, 1)
        caches = empty_caches(network, len(captions_XCW))
        fed_XTD, start = embed_captions(network, captions_XCW), 0
        for place in range(config.grid**2):
            logits = forward(network, fed_XTD, *fixed, caches, start).chunk(streams)
            combined_BV = combine(logits[0], logits[1] if streams == 2 else None, decode)
            codes.append(choose(combined_BV, uniforms_BN[:, place].to(device), decode))
            ids_X1 = codes[-1].repeat(streams)[:, None]
            fed_XTD, start = (
                network.tensors["tok_embeddings.weight"][ids_X1],
                config.captions + place,
            )
    return torch.stack(codes, 1)
