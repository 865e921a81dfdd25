"""The command that brings other people's weights in: convert-tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cm3leon.errors import UserError
from cm3leon.options import Pixels


@dataclass(frozen=True)
class ConvertTokenizer:
    """Convert a public image tokenizer: `cm3leon convert-tokenizer last.ckpt --out FOLDER/vq`.

    Reads taming-transformers' VQGANs (vqgan_gumbel_f8, f16), LlamaGen's, Chameleon's and Janus'.
    The shapes of the weights tell the network; the two options below tell what shapes do not.
    """

    source: tyro.conf.Positional[Path]
    """.ckpt, .pt, .pth, .bin or .safetensors, or a folder of safetensors"""
    out: Path
    """folder to make; called vq beside a text/ it serves `cm3leon encode --tokenizers`"""
    licence: Annotated[str, tyro.conf.arg(metavar="NAME")] = "not stated"
    """of the weights, kept with them: taming and LlamaGen MIT, Chameleon its research licence"""
    resolution: Pixels | None = None
    """pixels a side of training; left out: 256, for transformers' Chameleon 512"""
    quantiser: Literal["nearest", "unit"] | None = None
    """how codes are found; left out: unit (vectors of length 1) for LlamaGen, nearest for taming"""

    def run(self) -> int:
        """Read, convert, check, write, say what it is."""
        from cm3leon.files import check_free
        from cm3leon.safe_load import digests
        from cm3leon.tokenizers.folder import save_tokenizer

        check_free(self.out)
        config, converted, part = self.converted()
        source = {
            "files": digests(self.source),
            "layout": converted.layout,
            "part": part,
            "left_out": converted.left_out,
        }
        extra = {"licence": self.licence, "source": source}
        digest = save_tokenizer(self.out, config, converted.tensors, extra)
        left = ", ".join(f"{count} {why}" for why, count in converted.left_out.items()) or "nothing"
        tokens = f"{config.resolution} px -> {config.grid**2} tokens"
        print(
            f"{self.out}: {converted.layout} layout, {config.codebook_size} codes of width "
            f"{config.code_dim} ({config.quantiser}), stride {config.stride}, {tokens}\n"
            f"left out: {left}; licence: {self.licence}; sha256 {digest[:12]}"
        )
        if not config.decodes:
            print("these weights have no decoder: the tokenizer encodes and cannot draw")
        return 0

    def converted(self):
        """(VQConfig, Converted, part of the file); UserError naming the source and the fault."""
        from cm3leon.interop.image_tokenizers import (
            check_whole,
            convert,
            find_weights,
            infer_config,
            tokenizer_names,
        )
        from cm3leon.safe_load import read_weights
        from cm3leon.tokenizers.folder import expected_shapes

        if not self.source.exists():
            raise UserError(f"no file {self.source}; name the weights to convert")
        content = read_weights(self.source, tokenizer_names)
        try:
            weights, part = find_weights(content)
            converted = convert(weights)
            config = infer_config(converted, self.resolution, self.quantiser)
            check_whole(expected_shapes(config), converted.tensors)
        except UserError as error:
            raise UserError(f"{self.source}: {error}") from None
        return config, converted, part
