"""Public image tokenizers' weights under our names, and the configuration their shapes tell.

A key map is a pure function: names and tensors in, names and tensors out. Four layouts are known:

    taming     taming-transformers' VQModel and GumbelVQ (vqgan_gumbel_f8, f16), latent-diffusion's
               VQ, Chameleon's own vqgan.ckpt: our names
    chameleon  transformers' ChameleonVQVAE: taming's names, an encoder without a decoder
    llamagen   LlamaGen's vq_ds16_t2i, vq_ds8_c2i, also inside Janus: `conv_blocks`, numbered in the
               order of computation, and a codebook of vectors of length 1
    janus      transformers' JanusVQVAE: LlamaGen's network, taming's names, LlamaGen's numbers

All have GroupNorms of 32 groups, swish, padding at the right and the bottom before halving, and
attention in the middle; what differs is in the weights' shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cm3leon.config import VQConfig
from cm3leon.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("ema", "model", "state_dict")  # of a checkpoint file, first found; LlamaGen's order
PREFIXES = (  # of an image tokenizer inside something larger; only what is below one is taken
    "model.vqmodel.",  # transformers' Chameleon and Janus
    "vqmodel.",
    "gen_vision_model.",  # DeepSeek's Janus
    "first_stage_model.",  # taming's and latent diffusion's second stages
    "module.",  # DistributedDataParallel
    "_orig_mod.",  # torch.compile
)
UNUSED = {"quantize.codebook_used": "quantize.codebook_used"}  # LlamaGen's count of recent use
GROUPS = 32
MIDDLE = {"0": "block_1", "1": "attn_1", "2": "block_2"}
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Converted:
    """Tensors under our names, where they came from, and how many were left out, by reason."""

    layout: str
    tensors: dict[str, Tensor]
    left_out: dict[str, int] = field(default_factory=dict)


def find_weights(content: object) -> tuple[dict[str, Tensor], str]:
    """The named tensors in what a file held, and the part they stood under ("" for the whole).

    A training's checkpoint has them in `ema`, `model` or `state_dict`; moving averages come first,
    as in LlamaGen's own evaluation, and a part without a codebook (`ema` of counters) last. Raises
    UserError where there are none.
    """
    if isinstance(content, Mapping):
        parts = {part: content[part] for part in PARTS if isinstance(content.get(part), Mapping)}
        found = {part: _tensors(held) for part, held in (parts | {"": content}).items()}
        found = {part: tensors for part, tensors in found.items() if tensors}
        for part, tensors in found.items():
            if any("quantize." in name for name in tensors):
                return tensors, part
        if found:
            part = next(iter(found))
            return found[part], part
    raise UserError(f"no named tensors in it; looked for {', '.join(PARTS)} and for bare ones")


def _tensors(mapping: Mapping) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in mapping.items()
        if isinstance(key, str) and hasattr(value, "is_floating_point")
    }


def convert(weights: Mapping[str, Tensor]) -> Converted:
    """Weights of any known layout under our names; losses and counters are left out, counted.

    Raises UserError, naming a few of the tensors, for what is no image tokenizer.
    """
    weights, left_out = _inner(dict(weights), {})
    for name in list(weights):
        reason = "loss.*" if name.startswith("loss.") else UNUSED.get(name)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            del weights[name]
    layout = find_layout(weights)
    maps = {"llamagen": llamagen_names, "janus": janus_names}
    names = maps[layout](weights) if layout in maps else {name: name for name in weights}
    return Converted(layout, {names[name]: value for name, value in weights.items()}, left_out)


def _inner(weights: dict[str, Tensor], left_out: dict[str, int]) -> tuple[dict, dict]:
    """The weights below the prefixes of what contains them."""
    names = tokenizer_names(list(weights))
    if prefix := _prefix(names):
        outside = len(weights) - len(names)
        counted = {f"outside {prefix}*": outside} if outside else {}
        below = {name.removeprefix(prefix): weights[name] for name in names}
        return _inner(below, left_out | counted)
    return weights, left_out


def tokenizer_names(names: list[str]) -> list[str]:
    """Those names that are below a prefix of `PREFIXES`, the first that occurs; else all."""
    prefix = _prefix(names) or ""
    return [name for name in names if name.startswith(prefix)]


def _prefix(names: list[str]) -> str | None:
    found = (prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in names))
    return next(found, None)


def find_layout(names: Mapping[str, Tensor]) -> str:
    """Whose names these are; UserError with the first few where we know no such tokenizer."""
    if "encoder.conv_blocks.0.res.0.conv1.weight" in names:
        layout = "llamagen"
    elif "encoder.down.0.block.0.conv1.weight" in names:
        layout = "taming" if "decoder.conv_in.weight" in names else "chameleon"
        if "decoder.up.0.upsample.conv.weight" in names:
            layout = "janus"  # the first block of computation, the coarsest; taming's is the last
    else:
        raise UserError(
            f"no image tokenizer we know: it has {_some(sorted(names))}; "
            "known are the layouts of taming-transformers, LlamaGen, Chameleon and Janus"
        )
    if not {"quantize.embedding.weight", "quantize.embed.weight"} & names.keys():
        raise UserError("an autoencoder without a codebook (no quantize.embed*); take a VQ model")
    return layout


def llamagen_names(names: Mapping[str, object]) -> dict[str, str]:
    """LlamaGen's name -> ours."""
    deepest = _highest(names, r"decoder\.conv_blocks\.(\d+)\.")

    def ours(name: str) -> str:
        if found := re.match(r"(encoder|decoder)\.mid\.([012])\.(.+)", name):
            side, place, rest = found.groups()
            return f"{side}.mid.{MIDDLE[place]}.{rest}"
        if found := re.match(r"(encoder|decoder)\.conv_blocks\.(\d+)\.(.+)", name):
            side, number, rest = found.groups()
            level = f"down.{number}" if side == "encoder" else f"up.{deepest - int(number)}"
            return f"{side}.{level}.{re.sub(r'^res[.]', 'block.', rest)}"
        return name

    return {name: ours(name) for name in names}


def janus_names(names: Mapping[str, object]) -> dict[str, str]:
    """Transformers' name of JanusVQVAE -> ours: the decoder's levels counted from the finest."""
    deepest = _highest(names, r"decoder\.up\.(\d+)\.")

    def ours(found: re.Match) -> str:
        return f"decoder.up.{deepest - int(found[1])}."

    return {name: re.sub(r"^decoder\.up\.(\d+)\.", ours, name) for name in names}


def infer_config(
    converted: Converted, resolution: int | None = None, quantiser: str | None = None
) -> VQConfig:
    """The configuration that the shapes tell.

    They do not tell two things. `resolution`, pixels a side of training: 256 if None, 512 for
    transformers' Chameleon. `quantiser`: "unit" if None for LlamaGen's and Janus' layouts, whose
    published codebooks all are, else as the names say. Raises UserError for weights of another
    build.
    """
    shapes = {name: tuple(value.shape) for name, value in converted.tensors.items()}
    shape = _reader(shapes)
    channels, colours = shape("encoder.conv_in.weight", 4)[:2]
    if colours != 3:
        raise UserError(f"encoder.conv_in reads {colours} channels, not the 3 of RGB pictures")
    levels = 1 + _highest(shapes, r"encoder\.down\.(\d+)\.")
    widths = [shape(f"encoder.down.{k}.block.0.conv1.weight", 4)[0] for k in range(levels)]
    if any(width % channels for width in widths):
        raise UserError(f"widths {widths} are no multiples of the first one, {channels}")
    gumbel = "quantize.proj.weight" in shapes
    size, code_dim = shape(f"quantize.{'embed' if gumbel else 'embedding'}.weight", 2)
    default = {"llamagen": "unit", "janus": "unit"}.get(converted.layout, "nearest")
    if resolution is None:
        resolution = 512 if converted.layout == "chameleon" else 256
    return VQConfig(
        resolution=resolution,
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=1 + _highest(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        attention=attention_of(shapes, levels, resolution),
        z_channels=shape("encoder.conv_out.weight", 4)[0],
        codebook_size=size,
        code_dim=code_dim,
        quantiser=quantiser or ("gumbel" if gumbel else default),
        groups=GROUPS,
        decodes=converted.layout != "chameleon",
    )


def attention_of(names: Mapping[str, object], levels: int, resolution: int) -> tuple[int, ...]:
    """Side lengths at which the encoder attends; (0,) for the middle alone, () for none."""
    found = [
        resolution >> level
        for level in range(levels)
        if f"encoder.down.{level}.attn.0.q.weight" in names
    ]
    middle = "encoder.mid.attn_1.q.weight" in names
    return tuple(found) or ((0,) if middle else ())


def check_whole(expected: Mapping[str, tuple], found: Mapping[str, Tensor]) -> None:
    """Raise UserError naming the first few tensors that lack, are strange or are mis-shaped."""
    if lacking := [name for name in expected if name not in found]:
        raise UserError(f"{len(lacking)} tensors are missing: {_some(lacking)}")
    if strange := [name for name in found if name not in expected]:
        raise UserError(f"{len(strange)} tensors have no place here: {_some(strange)}")
    for name, shape in expected.items():
        if tuple(found[name].shape) != tuple(shape):
            raise UserError(f"{name} has shape {tuple(found[name].shape)}, expected {tuple(shape)}")
        if not bool(found[name].isfinite().all()):
            raise UserError(f"{name} holds NaN or infinity; the file is damaged")


def _reader(shapes: Mapping[str, tuple]):
    def shape(name: str, dims: int) -> tuple:
        if len(shapes.get(name, ())) != dims:
            found = shapes.get(name)
            raise UserError(f"{name} is missing" if found is None else f"{name} has shape {found}")
        return shapes[name]

    return shape


def _highest(names: Mapping[str, object], pattern: str) -> int:
    """The highest number that a pattern finds at the start of names, -1 for none."""
    return max((int(found[1]) for found in _matches(names, pattern)), default=-1)


def _matches(names: Mapping[str, object], pattern: str) -> Iterator[re.Match]:
    return (found for name in names if (found := re.match(pattern, name)))


def _some(names: list[str]) -> str:
    """The first few names for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
