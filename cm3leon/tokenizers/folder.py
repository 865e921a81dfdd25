"""An image tokenizer as a folder: written whole or not at all, and loaded with its licence.

The folder is a checkpoint of kind "vq" (`checkpoint.py`) whose `extra` may name the licence of the
weights and the file they were converted from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cm3leon import checkpoint
from cm3leon.config import VQConfig, from_dict
from cm3leon.errors import UserError
from cm3leon.files import new_folder

if TYPE_CHECKING:
    import torch

    from cm3leon.tokenizers.vq import VQ


def load_tokenizer(folder: str | Path, device: str = "cpu") -> VQ:
    """The tokenizer in a folder, in float32, for use alone.

    `encode(uint8 [B,S,S,3]) -> int64 [B,N]`, `decode(codes)`, and the attributes `codebook_size`,
    `grid`, `image_size`, `licence`, `sha256` (of our weights file). Raises UserError for a missing
    or broken checkpoint or one of another kind.
    """
    from cm3leon.tokenizers.vq import VQ

    folder = Path(folder)
    values, tensors, extra = checkpoint.load(folder, "vq")
    try:
        vq = VQ(from_dict(VQConfig, values))
        checkpoint.load_into(vq, tensors)
    except UserError as error:
        raise UserError(f"{folder}: {error}; its config.json and weights must fit") from None
    vq.licence, vq.sha256 = extra.get("licence"), checkpoint.read_about(folder)["sha256"]
    return vq.float().eval().requires_grad_(False).to(device)


def expected_shapes(config: VQConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a tokenizer."""
    from cm3leon.tokenizers.vq import VQ

    return {name: tuple(value.shape) for name, value in VQ(config).state_dict().items()}


def save_tokenizer(
    folder: str | Path, config: VQConfig, tensors: Mapping[str, torch.Tensor], extra: dict
) -> str:
    """Write a new folder and return the SHA-256 of its weights.

    It appears complete, under its name, at the end. Raises UserError where it exists already.
    """
    with new_folder(Path(folder)) as part:
        return checkpoint.save(part, "vq", config, tensors, extra)


def is_empty(folder: Path) -> bool:
    """Whether a folder is there and holds nothing, hidden files of a killed process aside."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(path.name.startswith(".") for path in folder.iterdir())
