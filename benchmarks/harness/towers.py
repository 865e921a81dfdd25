"""CLIPs of open_clip's architectures from files, OpenAI's own TorchScript archives among them.

OpenAI published each CLIP as a compiled program. Of that only the tensors are taken: the network is
open_clip's. Its activation is QuickGELU, so name ARCHITECTURE-quickgelu.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cm3leon.clip import LOCAL, Clip, load_clip
from cm3leon.errors import UserError

FACTS = ("input_resolution", "context_length", "vocab_size")  # numbers kept among the tensors


def load_tower(architecture: str, path: Path) -> Clip:
    """A CLIP from a file of weights, an archive of OpenAI's, or a folder with open_clip's config.

    Raises UserError, one line, for an unknown architecture and for weights that do not fit.
    """
    if path.is_dir():
        return load_clip(f"{LOCAL}{path}")
    if not is_program(path):
        return load_clip(f"{architecture}:{path}")
    import open_clip
    from PIL import Image

    if architecture not in open_clip.list_models():
        raise UserError(f"no CLIP {architecture!r}; open_clip.list_models() names them")
    try:
        tensors = program_tensors(path)
        with quiet():  # it warns that nothing was loaded
            model, _, transform = open_clip.create_model_and_transforms(
                architecture, load_weights=False
            )
        model.load_state_dict(tensors)
    except Exception as error:  # TorchScript and torch raise many kinds for what does not fit
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not {architecture}: {reason[:200]}; name its file") from None

    def pixels(image: np.ndarray):
        return transform(Image.fromarray(image))

    words = open_clip.get_tokenizer(architecture)
    return Clip(model, words, pixels, f"{architecture}:{path}")


def is_program(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def program_tensors(path: Path) -> dict:
    """The parameters of a TorchScript archive by name, float32; nothing of it is run."""
    import torch

    with warnings.catch_warnings():  # torch would rather load another format
        warnings.simplefilter("ignore", FutureWarning)
        held = torch.jit.load(str(path), map_location="cpu").state_dict()
    return {name: value.float() for name, value in held.items() if name not in FACTS}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines of libraries below errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
