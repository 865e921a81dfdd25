"""The image towers of CLIPs: of open_clip's architectures from files, or of a folder."""

from __future__ import annotations

from pathlib import Path

from cm3leon.clip import LOCAL, Clip, load_clip, quiet

__all__ = ["load_tower", "quiet"]


def load_tower(architecture: str, path: Path) -> Clip:
    """A CLIP from a file of weights, an archive of OpenAI's, or a folder with open_clip's config.

    Raises UserError, one line, for an unknown architecture and for weights that do not fit.
    """
    return load_clip(f"{LOCAL}{path}" if path.is_dir() else f"{architecture}:{path}")
