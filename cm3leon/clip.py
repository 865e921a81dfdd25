"""CLIP over open_clip: texts and pictures -> unit vectors of one space (section 2.1).

A memory bank is made with it. Models: our own for the embedded world, trained by our recipe; any
open_clip model whose weights are on this machine. Nothing is ever downloaded. OpenAI published each
CLIP as a compiled program: of that only the tensors are taken, the network is open_clip's. Its
activation is QuickGELU, for which open_clip's architectures are called NAME-quickgelu.

Axes: N texts or pictures, L text tokens, D width of the shared space.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cm3leon import seeds
from cm3leon.checkpoint import load, load_into, module_digest
from cm3leon.config import check, from_dict
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.images import crop_resized, crop_square
from cm3leon.safe_load import (
    check_weights_file,
    is_program,
    program_tensors,
    program_text,
)
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import to_unit

BATCH = 256
LOCAL = "local-dir:"
PREPROCESSING = {  # open_clip's options -> its registry's words
    "image_mean": "mean",
    "image_std": "std",
    "image_interpolation": "interpolation",
    "image_resize_mode": "resize_mode",
}
FACTS = ("input_resolution", "context_length", "vocab_size")  # numbers among OpenAI's tensors


@dataclass(frozen=True)
class ClipConfig:
    """A two-tower CLIP for the embedded world: captions and pictures -> `width` numbers."""

    width: int = 128  # of the shared space and of both towers
    heads: int = 4
    image_layers: int = 4
    text_layers: int = 3
    image_size: int = 64  # pixels a side
    patch: int = 8
    text_size: int = 512  # ids of the text tokenizer; start and end of text are added
    context: int = 48  # text tokens, start and end included

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            check(value >= 1, f"clip.{field.name}", "be at least 1", value)
        check(self.context >= 2, "clip.context", "have room for start and end", self.context)
        check(
            self.width % self.heads == 0,
            "clip.width",
            f"be a multiple of clip.heads ({self.heads})",
            self.width,
        )
        check(
            self.image_size % self.patch == 0,
            "clip.image_size",
            f"be a multiple of clip.patch ({self.patch})",
            self.image_size,
        )


def make_clip(config: ClipConfig) -> nn.Module:
    """open_clip's two-tower network of this configuration, with torch's own first weights."""
    from open_clip.model import CLIP

    vision = {
        "layers": config.image_layers,
        "width": config.width,
        "head_width": config.width // config.heads,
        "patch_size": config.patch,
        "image_size": config.image_size,
    }
    text = {
        "context_length": config.context,
        "vocab_size": config.text_size + 2,
        "width": config.width,
        "heads": config.heads,
        "layers": config.text_layers,
    }
    return CLIP(config.width, vision, text)


class Words:
    """Tokens of our own CLIP: start, the ids of our text tokenizer, end; cut keeping the end."""

    def __init__(self, tokenizer: TextTokenizer, context: int):
        self.tokenizer, self.context = tokenizer, context
        # The end has the highest id: CLIP reads a text's vector at the arg-max of its ids.
        self.start, self.end = tokenizer.size, tokenizer.size + 1

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """int64 [N, L], padded with 0 behind the end."""
        ids_NL = torch.zeros(len(texts), self.context, dtype=torch.int64)
        for row, ids in enumerate(self.tokenizer.encode_batch(list(texts))):
            kept = [self.start, *ids[: self.context - 2], self.end]
            ids_NL[row, : len(kept)] = torch.tensor(kept)
        return ids_NL


class Clip:
    """A frozen CLIP: `texts` and `images` give float32 [N, D] of length 1.

    `sha256` names the weights in memory; a memory bank remembers it. `crop` makes of a picture the
    small one that `pixels` sees: `pixels(crop(image))` is `pixels(image)`. None: there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        words: Callable[[list[str]], Tensor],
        pixels: Callable[[np.ndarray], Tensor],
        name: str,
        crop: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.crop = crop
        self.model, self.words, self.pixels, self.name = model.eval(), words, pixels, name
        self.sha256 = module_digest(model)
        with torch.inference_mode():
            self.width = model.encode_text(words(["a"]).to(self.device)).shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def texts(
        self,
        texts: Sequence[str],
        *,
        dropout: float = 0.0,
        generator: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Vectors of texts; longer ones are cut, their end token kept.

        `dropout`: share of the tokens between start and end that is left out, by draws of
        `generator` (query dropout, A26). Raises UserError for dropout without a generator.
        """
        if isinstance(texts, str):
            raise UserError(f"texts must be a sequence of strings, got one string: {texts[:40]!r}")
        if dropout and generator is None:
            raise UserError("query dropout needs a generator")
        parts = []
        for start in range(0, len(texts), BATCH):
            ids_NL = self.words(list(texts[start : start + BATCH]))
            if dropout:
                ids_NL = drop_tokens(ids_NL, dropout, generator)
            parts.append(self._unit(self.model.encode_text(ids_NL.to(self.device))))
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    @torch.inference_mode()
    def images(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Vectors of pictures uint8 [H,W,3], of one size or of many."""
        parts = []
        for start in range(0, len(images), BATCH):
            pixels = [self.pixels(image) for image in images[start : start + BATCH]]
            parts.append(self._unit(self.model.encode_image(torch.stack(pixels).to(self.device))))
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    @staticmethod
    def _unit(vectors_ND: Tensor) -> np.ndarray:
        return nn.functional.normalize(vectors_ND.float(), dim=-1).cpu().numpy()


def drop_tokens(ids_NL: Tensor, share: float, generator: np.random.Generator) -> Tensor:
    """Leave out each token between start and end with probability `share`, closing the gaps.

    The end is a row's arg-max, as in CLIP; what follows it is padding and becomes 0.
    """
    check(0 <= share < 1, "query dropout", "lie in [0, 1)", share)
    ids = ids_NL.numpy()
    end_N1 = ids.argmax(1)[:, None]
    position_L = np.arange(ids.shape[1])
    inner_NL = (position_L > 0) & (position_L < end_N1)
    drawn_NL = generator.random(ids.shape)  # a row's draws hang on its place alone
    kept_NL = (position_L <= end_N1) & ~(inner_NL & (drawn_NL < share))
    order_NL = np.argsort(~kept_NL, axis=1, kind="stable")
    moved_NL = np.take_along_axis(np.where(kept_NL, ids, 0), order_NL, 1)
    return torch.from_numpy(moved_NL)


def load_clip(name: str | Path = "scenes") -> Clip:
    """A CLIP by name.

    "scenes": the shipped one of the embedded world; a folder of ours: that one, with its own text
    tokenizer (`tokenizer.json`) or else the one of the `text` folder beside; "local-dir:FOLDER":
    open_clip's own form, with configuration, preprocessing and weights in a folder;
    "ARCHITECTURE:FILE": an architecture of open_clip with its published preprocessing and a file of
    weights, OpenAI's own archives among them. Raises UserError when the weights are not here, do
    not fit, would need another activation, or when it is not clear which preprocessing is theirs.
    """
    text = str(name)
    if text == "scenes":
        return _ours(baselines_folder() / "scenes" / "clip", text)
    if text.startswith(LOCAL):
        return _local(text)
    if Path(text).is_dir():
        return _ours(Path(text), text)
    architecture, _, file = text.partition(":")
    return _architecture(architecture, file)


def _ours(folder: Path, name: str) -> Clip:
    values, tensors, extra = load(folder, "clip")
    config = from_dict(ClipConfig, values)
    own = folder / "tokenizer.json"
    where = own if own.is_file() else folder.parent / "text"
    tokenizer = TextTokenizer.load(where)
    wanted = extra.get("text_sha256")
    if tokenizer.digest != wanted or tokenizer.size != config.text_size:
        raise UserError(
            f"{folder} was trained with text tokenizer {str(wanted)[:12]}, {where} is "
            f"{tokenizer.digest[:12]}; put those of one training together"
        )
    model = make_clip(config)
    load_into(model, tensors)

    def pixels(image: np.ndarray) -> Tensor:
        return to_unit(crop_square(image, config.image_size)[None])[0]

    crop = partial(crop_square, size=config.image_size)
    return Clip(model, Words(tokenizer, config.context), pixels, name, crop)


def _local(name: str) -> Clip:
    import open_clip

    with _one_line(name):
        model, transform = open_clip.create_model_from_pretrained(name)
        words, crop = open_clip.get_tokenizer(name), _crop_of(transform)
        return Clip(model, words, _of_array(transform), name, crop)


def _architecture(architecture: str, file: str) -> Clip:
    import open_clip

    if architecture not in open_clip.list_models():
        raise UserError(
            f"no CLIP {architecture!r}: name 'scenes', a folder, {LOCAL}FOLDER or "
            "ARCHITECTURE:FILE with an architecture of open_clip.list_models()"
        )
    if not file or not Path(file).is_file():
        raise UserError(
            f"no weights for {architecture} at {file or 'any path'}; nothing is downloaded: fetch "
            f"them yourself and give {architecture}:FILE"
        )
    check_weights_file(file)
    if is_program(file):
        check_activation(architecture, file)
    with _one_line(f"{architecture}:{file}"):
        model, transform = _with_weights(architecture, file)
        words = open_clip.get_tokenizer(architecture)
        name, crop = f"{architecture}:{file}", _crop_of(transform)
        return Clip(model, words, _of_array(transform), name, crop)


def _with_weights(architecture: str, file: str) -> tuple[nn.Module, Callable]:
    """(network, preprocessing) of an architecture with the weights of a file, all of them."""
    import open_clip

    program = is_program(file)
    given = published_preprocessing(architecture, program)
    if not program:
        return open_clip.create_model_from_pretrained(architecture, pretrained=file, **given)
    tensors = program_tensors(file)
    with quiet():  # it warns that nothing was loaded
        model, _, transform = open_clip.create_model_and_transforms(
            architecture, load_weights=False, **given
        )
    model.load_state_dict(
        {name: value.float() for name, value in tensors.items() if name not in FACTS}
    )
    return model, transform


def published_preprocessing(architecture: str, program: bool = False) -> dict:
    """What open_clip's registry says of the pictures of an architecture, as its options: mean, std,
    interpolation and resize mode; none of an architecture without published weights, for which its
    defaults hold. `program`: of OpenAI's archive, where there is one.

    Raises UserError where the values differ between weights: wrong ones would give other vectors
    without a word.
    """
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(architecture)
    if program and "openai" in tags:
        tags = ["openai"]
    told = [get_pretrained_cfg(architecture, tag) for tag in tags]
    found = {tuple(one.get(key) for key in PREPROCESSING.values()) for one in told}
    if len(found) > 1:
        raise UserError(
            f"open_clip publishes several preprocessings for {architecture}; give {LOCAL}FOLDER, a "
            "folder with the open_clip_config.json of these weights"
        )
    return dict(zip(PREPROCESSING, found.pop(), strict=True)) if found else {}


def check_activation(architecture: str, file: str | Path) -> None:
    """UserError where an archive's program has another activation than the architecture.

    The tensors are the same for both, so nothing else would tell; the features would be others.
    """
    import open_clip

    quick = bool(open_clip.get_model_config(architecture).get("quick_gelu"))
    text = program_text(file)
    if quick and "sigmoid" not in text and "gelu(" in text:
        plain = architecture.removesuffix("-quickgelu")
        raise UserError(f"{file} computes with plain GELU, not {architecture}; name {plain}")
    if not quick and "sigmoid" in text and "gelu(" not in text:
        other = f"{architecture}-quickgelu"
        raise UserError(f"{file} computes with QuickGELU, unlike {architecture}; name {other}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A `with` block without the log lines of libraries below errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _of_array(transform: Callable) -> Callable[[np.ndarray], Tensor]:
    """open_clip's transform of PIL pictures for arrays."""
    from PIL import Image

    return lambda image: transform(Image.fromarray(image))


def _crop_of(transform: Callable) -> Callable[[np.ndarray], np.ndarray] | None:
    """The crop in open_clip's transform as a function for other processes; None for an odd one.

    It is tried on a picture: what does not give the same pixels is not taken.
    """
    from PIL import Image

    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    if not {"Resize", "CenterCrop"} <= steps.keys():
        return None
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    size, resample = steps["Resize"].size, filters.get(steps["Resize"].interpolation.value)
    if resample is None or not isinstance(size, int):
        return None
    crop, pixels = partial(crop_resized, size=size, resample=int(resample)), _of_array(transform)
    tried = seeds.generator(0, "crop").integers(0, 256, (size + 37, 2 * size + 5, 3), np.uint8)
    return crop if torch.equal(pixels(crop(tried)), pixels(tried)) else None


@contextlib.contextmanager
def _one_line(name: str):
    """The errors of a library that loads files, as one line each."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # open_clip raises many kinds for files that do not fit
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot load CLIP {name}: {reason[:200]}; name other weights") from None
