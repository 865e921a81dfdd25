"""Trained systems from disk: a shipped one by name, or a folder, with what lies beside it.

A name is that of a folder in `scenes/` of the shipped weights: below `$CM3LEON_BASELINES` where it
is set, else inside the package where a wheel put them (`cm3leon/shipped`), else in `baselines/` of
the checkout (`files.baselines_folder`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cm3leon import checkpoint
from cm3leon.config import ModelConfig, RetrievalConfig, VQConfig, from_dict
from cm3leon.data import shards
from cm3leon.decoding.config import DecodeConfig
from cm3leon.engine.int8 import with_weights
from cm3leon.errors import UserError, did_you_mean
from cm3leon.files import baselines_folder, sha256_bytes
from cm3leon.model.transformer import Transformer
from cm3leon.pipeline import System
from cm3leon.retrieval import bank as banks
from cm3leon.retrieval.retriever import load_retriever
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ


def load_system(
    name: str | Path,
    batch_size: int = 64,
    device: str = "cpu",
    documents: int | None = None,
    bank: Path | None = None,
    weights: str = "float32",
) -> System:
    """Load a shipped system by name ("scenes-s") or any model folder by path.

    The tokenizers lie in the folder or beside it, in `text/` and `vq/`, and so do CLIP and memory
    bank of a shipped model that was trained with retrieval, in `clip/` and `bank/`; a model of
    `cm3leon train` names them in its config.json. It draws as the checkpoint says, else by the
    defaults of DecodeConfig (`System.with_decode` changes that). `documents` is how many to
    retrieve (default: as the model's recipe says; 0 needs neither CLIP nor bank), `bank` what
    `cm3leon encode` or `cm3leon index` made, to retrieve from instead. `weights`: the
    transformer's, in float32, bfloat16 or int8 (engine/int8.py); the pictures of two types differ.
    Raises UserError for an unknown name, a broken checkpoint, other tokenizers than the model was
    trained with, a bank that has no use, or int8 without torchao.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    device = checked_device(device)
    folder = find_model(name)
    home = home_of(folder)
    text, vq = load_tokenizers(home)
    model, extra = load_module(folder, "transformer", ModelConfig, Transformer)
    beside = Beside(home, text, vq.config, checkpoint.digest(home / "vq"))
    check_fit(folder, model.config, extra, beside)
    together = " ".join([checkpoint.digest(folder), beside.vq_sha256, text.digest])
    if bank is not None and "retrieval" not in extra:
        raise UserError(f"{folder.name} was trained without retrieval; leave --bank {bank} out")
    if bank is not None and documents == 0:
        raise UserError(
            f"0 documents need no memory bank; leave --bank {bank} out, or ask for some"
        )
    retriever = None
    if "retrieval" in extra and documents != 0:
        tokens = {"text": text.digest, "vq": checkpoint.module_digest(vq)}
        config = from_dict(RetrievalConfig, extra["retrieval"])
        retriever = load_retriever(home, config, tokens, **named_bank(folder, extra, bank))
    system = System(
        name=folder.name,
        weights_sha256=sha256_bytes(together.encode()),
        text=text,
        model=with_weights(model.to(device), weights),
        vq=vq.to(device),
        decode=from_dict(DecodeConfig, extra.get("decode", {})),
        retriever=retriever,
        batch_size=batch_size,
        tasks=tuned_on(extra),
    )
    if documents is None:
        return system
    strategy = retriever.config if retriever else RetrievalConfig(by="text")
    return system.with_retrieval(replace(strategy, documents=documents))


def tuned_on(extra: dict) -> dict[str, dict]:
    """The tasks of a config.json, each with the settings of decoding that were chosen for it."""
    chosen = extra.get("task_decode", {})
    return {name: chosen.get(name, {}) for name in extra.get("tasks", {})}


def load_tokenizers(home: Path) -> tuple[TextTokenizer, VQ]:
    """The tokenizers in `text/` and `vq/` of a folder."""
    text = TextTokenizer.load(home / "text")
    return text, load_module(home / "vq", "vq", VQConfig, VQ)[0]


def home_of(folder: Path) -> Path:
    """Where a model's tokenizers lie: in its own folder, else in the one above."""
    return folder if (folder / "vq").is_dir() else folder.parent


def named_bank(folder: Path, extra: dict, bank: Path | None) -> dict:
    """Options of `load_retriever`: `bank` if given, else what a trained model's config.json names.

    Raises UserError when CLIP or bank do not lie where they did in training, and for an index that
    does not say where its documents are.
    """
    named = {"clip": extra["clip"]["name"]} if "bank" in extra else {}
    if bank is not None:
        return named | placed(bank, extra.get("bank", {}).get("cache"))
    if "bank" not in extra:
        return {"tokens": None}
    named["tokens"] = Path(extra["bank"]["cache"])
    if extra["bank"]["index"] is not None:
        named["index"] = Path(extra["bank"]["index"])
    for path in (named["tokens"], named.get("index", folder)):
        if not path.is_dir():
            raise UserError(
                f"{folder} was trained with the memory bank {path}, which is not there; name "
                "another with --bank, or ask for --documents 0"
            )
    return named


def placed(bank: Path, trained: str | None) -> dict[str, Path]:
    """Where documents ("tokens") and, for what `cm3leon index` made, their "index" are; `trained`:
    the cache of the training.
    """
    if (bank / shards.ABOUT).is_file() or not (bank / banks.ABOUT).is_file():
        return {"tokens": bank}
    cache = banks.read_about(bank).get("cache") or trained
    if not isinstance(cache, str) or not Path(cache).is_dir():
        raise UserError(
            f"{bank} is an index, and its documents are not at {cache}; give the cache it was made "
            "of as --bank"
        )
    return {"tokens": Path(cache), "index": bank}


def find_model(name: str | Path) -> Path:
    """The folder of a model: a path to one, or the name of a shipped one."""
    folder = Path(name)
    if (folder / checkpoint.CONFIG).is_file():
        return folder.resolve()
    if folder.name != str(name):  # a path, not a name
        raise UserError(f"no model at {folder}: {checkpoint.CONFIG} is missing; name a checkpoint")
    shipped = model_names()
    if str(name) not in shipped:
        raise UserError(
            f"unknown model {str(name)!r}; shipped are: {', '.join(shipped) or 'none'}"
            f"{did_you_mean(str(name), shipped)}"
        )
    return baselines_folder() / "scenes" / str(name)


def find_retrieving(name: str | Path | None = None) -> str | Path:
    """The name itself; of None that of the first shipped system that was trained with retrieval."""
    if name is not None:
        return name
    home = baselines_folder() / "scenes"
    for own in model_names():
        if "retrieval" in checkpoint.read_about(home / own)["extra"]:
            return own
    raise UserError("no shipped model was trained with retrieval; name a model that was")


def model_names() -> list[str]:
    """Names of the shipped transformers that can be drawn with."""
    home = baselines_folder() / "scenes"
    folders = sorted(path.parent for path in home.glob(f"*/{checkpoint.CONFIG}"))
    return [
        folder.name for folder in folders if checkpoint.read_about(folder)["kind"] == "transformer"
    ]


def load_module(folder: Path, kind: str, config_kind, module_kind):
    """A module in float32 and evaluation mode from a checkpoint of `kind`, and its extra."""
    values, tensors, extra = checkpoint.load(folder, kind)
    try:
        module = module_kind(from_dict(config_kind, values))
        checkpoint.load_into(module, tensors)
    except UserError as error:
        raise UserError(f"{folder}: {error}; its config.json and weights must fit") from None
    return module.float().eval().requires_grad_(False), extra


@dataclass(frozen=True)
class Beside:
    """The tokenizers that lie in `text/` and `vq/` of a folder."""

    home: Path
    text: TextTokenizer
    vq: VQConfig
    vq_sha256: str


def check_fit(folder: Path, model: ModelConfig, extra: dict, beside: Beside) -> None:
    """Raise UserError unless the tokenizers beside a model are those it was trained with."""
    text, vq = beside.text, beside.vq
    trained = {
        "text": (model.vocabulary.text_size, extra.get("text_sha256")),
        "vq": (model.vocabulary.image_size, extra.get("vq_sha256")),
    }
    found = {"text": (text.size, text.digest), "vq": (vq.codebook_size, beside.vq_sha256)}
    for part in trained:
        if trained[part] != found[part]:
            (wanted, named), (size, digest) = trained[part], found[part]
            raise UserError(
                f"{folder} was trained with {wanted} {part} tokens of {str(named)[:12]}, "
                f"{beside.home / part} has {size} of {digest[:12]}; put the right one there"
            )
    if model.positions != "row" and vq.grid != model.position_grid:
        raise UserError(
            f"{folder} has places for pictures of {model.position_grid} x {model.position_grid} "
            f"codes, {home_of(folder) / 'vq'} makes {vq.grid} x {vq.grid}; put its own beside it"
        )
    if vq.grid**2 >= model.context:
        raise UserError(f"{folder} has a context of {model.context}, a picture takes {vq.grid**2}")


def checked_device(device: str) -> str:
    """`cpu`, `cuda` or `cuda:1`, or another kind torch knows, if it is there; `auto` is CUDA where
    there is one.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise UserError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}") from None
    module = getattr(torch, kind.type, None)  # torch.cuda, torch.mps
    there = getattr(module, "is_available", lambda: hasattr(module, "device_count"))()
    count = module.device_count() if module is not None and there else 0  # torch.cpu counts one
    if (kind.index or 0) >= count:
        raise UserError(f"device {device!r} is not there; use 'cpu'")
    return device
