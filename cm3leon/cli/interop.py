"""The commands that carry weights to other libraries and back: export, import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cm3leon.config import VocabularyConfig
from cm3leon.errors import UserError
from cm3leon.options import Ids


@dataclass(frozen=True)
class Export:
    """Write a model for another library: `cm3leon export --format hf scenes-s FOLDER`.

    transformers loads the folder as OPT: AutoModelForCausalLM.from_pretrained(FOLDER).
    """

    system: tyro.conf.Positional[str]
    """a shipped model, or the folder of one"""
    out: tyro.conf.Positional[Path]
    """folder to make; one that exists is refused"""
    format: Literal["hf"] = "hf"
    """hf: Hugging Face's layout"""

    def run(self) -> int:
        """Write, then print the folder."""
        from cm3leon.interop.hf_folder import export_hf

        print(export_hf(self.system, self.out))
        return 0


@dataclass(frozen=True)
class Import:
    """Read such a folder back, or a plain OPT without biases and affine norms.

    What lies in it besides (tokenizers, CLIP, memory bank) is put into OUT: `cm3leon import FOLDER
    models/mine`, then `cm3leon draw "a star" --system models/mine`.
    """

    folder: tyro.conf.Positional[Path]
    """what `cm3leon export` or save_pretrained wrote"""
    out: tyro.conf.Positional[Path]
    """model folder to make; one that exists is refused"""
    tokenizers: Path | None = None
    """folder with text/ and vq/ of a plain OPT; left out: those of FOLDER, else those beside OUT"""
    text_size: Ids | None = None
    """of a plain OPT: how many ids, from 0 on, are text"""
    image_size: Ids | None = None
    """of a plain OPT: how many ids, behind them, are image codes"""
    sentinels: Ids | None = None
    """of a plain OPT: how many ids, behind those, are mask sentinels; four specials follow"""

    def run(self) -> int:
        """Read, write, then print the folder."""
        from cm3leon.interop.hf_folder import import_hf

        print(import_hf(self.folder, self.out, self.vocabulary(), self.tokenizers))
        return 0

    def vocabulary(self) -> VocabularyConfig | None:
        """The id space the options say: all three of them, or none; filled up to the OPT's ids."""
        given = {
            name: getattr(self, name)
            for name in ("text_size", "image_size", "sentinels")
            if getattr(self, name) is not None
        }
        if not given:
            return None
        if len(given) < 3:
            raise UserError(
                "an id space needs --text-size, --image-size and --sentinels together, got "
                f"{', '.join(given)}"
            )
        from cm3leon.checkpoint import read_json

        size = read_json(self.folder / "config.json").get("vocab_size")
        return VocabularyConfig(**given, multiple=size if isinstance(size, int) else 1)
