"""LlamaGen's own loop on a subject's shape, from a checkout of FoundationVision/LlamaGen.

Its `generate` runs as published, beside ours with the same guidance, top-p and number of tokens.
It differs in this: the prompt is one class token; both streams are rows of one batch; it draws from
the image vocabulary alone and sorts it for top-p; layers have SwiGLU, rounded up to 256: 1.08 times
the weights of ours at widths 256 and 512, 1.02 at 1024; the head is not tied. Each call lays out
its caches anew, as long as what it draws, and attends to all of them: in a drawing cut by the
budget its steps are shorter than in a whole one. Weights are random, as ours are.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.subjects import COMPUTE, Subject, fill
from benchmarks.systems.adapter import loaded, one_line
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes

NAME = "llamagen"
ROOTS = ("autoregressive", "utils")  # folders of the checkout that its code imports from
FILES = ("autoregressive/models/gpt.py", "autoregressive/models/generate.py", "utils/drop_path.py")
CLASSES = 1000
ROTATED = 4  # a head's width is a multiple of it: two axes, in pairs


@dataclass(frozen=True)
class Checkout:
    """Published code: the modules of its network and of its loop, and the SHA-256 of both."""

    folder: Path
    gpt: types.ModuleType
    loop: types.ModuleType
    sha256: str

    def make(self, subject: Subject, dtype: str, device: str):
        """Its network of the subject's layers, width, heads and image ids, on the device.

        Raises UserError for heads that its rotary angles cannot turn.
        """
        import torch

        config = subject.config
        if config.width // config.heads % ROTATED:
            raise UserError(
                f"LlamaGen's heads have a multiple of {ROTATED} numbers, those of {subject.name} "
                f"have {config.width // config.heads}; leave out --llamagen or the size"
            )
        shape = {
            "dim": config.width, "n_layer": config.layers, "n_head": config.heads,
            "num_classes": CLASSES, "vocab_size": config.vocabulary.image_size,
            "block_size": square(subject.tokens), "cls_token_num": 1, "model_type": "c2i",
        }  # fmt: skip
        arguments = one_line(lambda: self.gpt.ModelArgs(**shape), self.fault("ModelArgs"))
        # Not on "meta", as ours: its constructor reads numbers back.
        with torch.device(device), default_type(getattr(torch, COMPUTE[dtype])):
            model = one_line(lambda: self.gpt.Transformer(arguments), self.fault("Transformer"))
        fill(model, subject.name)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:  # a norm's: by noise nothing would be left to add
                    weight.fill_(1)
        return model.eval().requires_grad_(False)

    def drawing(self, model, batch: int, guidance: float, top_p: float) -> Callable:
        """A function that draws so many tokens: int64 [batch, tokens] on the host."""
        import torch

        from cm3leon.seeds import torch_generator

        draws = torch_generator(0, "latency", NAME)
        labels_B = torch.randint(CLASSES, (batch,), generator=draws)
        labels_B = labels_B.to(next(model.parameters()).device)
        settings = {
            "cfg_scale": guidance, "temperature": 1.0, "top_k": 0, "top_p": top_p,
            "sample_logits": True,
        }  # fmt: skip

        def draw(tokens: int):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it calls torch by an older name
                drawn_BT = one_line(
                    lambda: self.loop.generate(model, labels_B, tokens, **settings),
                    self.fault("generate"),
                )
            shape = tuple(getattr(drawn_BT, "shape", ()))
            if shape != (batch, tokens):
                raise UserError(
                    f"{self.folder}: its generate gave {list(shape)}, not {[batch, tokens]} codes; "
                    "take another commit of it"
                )
            return drawn_BT.long().cpu()

        return draw

    def fault(self, name: str) -> str:
        """What stands before a fault of one of its functions."""
        import torch

        return f"{self.folder}: its {name} does not run with torch {torch.__version__}"


def read_checkout(folder: Path | str) -> Checkout:
    """The code in a checkout; UserError that names the folder, and the file it lacks."""
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}; --llamagen takes a checkout of FoundationVision/LlamaGen"
            )
    with own_names(folder):
        gpt, loop = (
            loaded(lambda name=name: importlib.import_module(module_name(name)), folder)
            for name in FILES[:2]
        )
    content = b"\n".join((folder / name).read_bytes() for name in FILES)
    return Checkout(folder, gpt, loop, sha256_bytes(content))


def module_name(file: str) -> str:
    """`a/b.py` as it is imported: `a.b`."""
    return file.removesuffix(".py").replace("/", ".")


@contextmanager
def own_names(folder: Path) -> Iterator[None]:
    """The checkout's packages under their names, also where others bear them; then as before."""
    kept = taken_names()
    try:
        for root in ROOTS:  # by hand: on sys.path another's `utils` could come first
            package = types.ModuleType(root)
            package.__path__ = [str(folder / root)]
            sys.modules[root] = package
        yield
    finally:
        taken_names()
        sys.modules.update(kept)


def taken_names() -> dict[str, types.ModuleType]:
    """Modules under the checkout's names, taken out of those that are imported."""
    names = [name for name in sys.modules if name.split(".")[0] in ROOTS]
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def default_type(dtype) -> Iterator[None]:
    """New tensors have this type: the largest networks are never there in another."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def square(tokens: int) -> int:
    """The smallest square of at least so many tokens: its pictures are square."""
    return (math.isqrt(tokens - 1) + 1) ** 2
