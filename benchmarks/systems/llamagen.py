"""LlamaGen's text-to-image checkpoints, by a folder that holds what they need.

    nox -s fid_coco -- --system "llamagen:models/llamagen?cfg_scale=7.5&top_k=1000"

    models/llamagen/t2i_XL_stage1_256.pt   the transformer as published (or stage2_512)
    models/llamagen/t5/                    flan-t5-xl in transformers' form, safetensors
    models/llamagen/vq/                    cm3leon convert-tokenizer vq_ds16_t2i.pt --out .../vq

`t5=` and `vq=` name other folders. What is not given is as in LlamaGen's own script: cfg_scale 7.5,
temperature 1, top_k 1000 (0: all), top_p 1. `image_size` is the number at the end of the file's
name; `heads` follow from the width of the published sizes. `clean=false` leaves captions as they
are. `batch` (1) draws so many captions at once, which is faster and moves last digits. LlamaGen's
script computes in bfloat16 (`dtype=bfloat16`); here, as everywhere, float32 unless told. Of its
cleaning of captions the rules for web addresses, HTML, file names and Chinese are left out.

Shapes: B pictures, C caption places, W width of T5, N image tokens, H x W pixels.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.systems.adapter import Place, folder_digest, loaded, needed, one_line
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes, sha256_file

OPTIONS = {  # LlamaGen's own
    "cfg_scale": 7.5, "temperature": 1.0, "top_k": 1000, "top_p": 1.0, "clean": True, "batch": 1,
}  # fmt: skip
SIZES = ("image_size", "heads")  # whole numbers that the file does not hold
FOLDERS = ("t5", "vq")
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
SYMBOLS = "#®•©™&@·º½¾¿¡§~()[]{}|\\/*"  # not in its captions
DASHES = r"[-\u058a\u05be\u2010-\u2015\u2e3a\u2e3b\ufe58\ufe63\uff0d]+"
QUOTES = str.maketrans("`\u00b4«»“”¨\u2018\u2019", '"' * 7 + "'" * 2)


@dataclass(frozen=True)
class LlamaGenSystem:
    """The transformer with T5 and an image tokenizer; picture b is of prompts[b] and seeds[b]."""

    name: str
    config: dict
    weights_sha256: str
    network: object
    text: Text
    vq: object
    decode: DecodeConfig
    batch: int
    device: str

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Uint8 [B, H, W, 3]."""
        if len(prompts) != len(seeds):
            raise UserError(f"draw needs one seed a prompt, got {len(prompts)} and {len(seeds)}")
        parts = [
            self._draw(prompts[start : start + self.batch], seeds[start : start + self.batch])
            for start in range(0, len(prompts), self.batch)
        ]
        side = self.network.config.grid * self.vq.config.stride
        return np.concatenate([np.zeros((0, side, side, 3), np.uint8), *parts])

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        import torch

        from benchmarks.systems.llamagen_model import draw_codes
        from cm3leon.seeds import uniforms

        captions_BCW, words_BC = self.text(prompts)
        uniforms_BN = torch.from_numpy(uniforms(seeds, self.network.config.grid**2))
        return self.vq.decode(
            draw_codes(self.network, captions_BCW, words_BC, uniforms_BN, self.decode)
        )


@dataclass(frozen=True)
class Text:
    """flan-t5's vectors of captions, at the right end of their places."""

    tokenizer: object
    model: object
    places: int
    clean: bool

    def __call__(self, prompts: Sequence[str]):
        """(float [B, C, W], zeros before the caption; bool [B, C], true at its tokens)."""
        import torch

        weight = self.model.get_input_embeddings().weight
        captions_BCW = weight.new_zeros((len(prompts), self.places, weight.shape[1]))
        words_BC = torch.zeros(captions_BCW.shape[:2], dtype=torch.bool, device=weight.device)
        for row, prompt in enumerate(prompts):
            text = cleaned(prompt) if self.clean else prompt
            with torch.inference_mode():
                vectors_LW = one_line(partial(self._read, text), f"T5 cannot read {text!r}")
            captions_BCW[row, -len(vectors_LW) :] = vectors_LW
            words_BC[row, -len(vectors_LW) :] = True
        return captions_BCW, words_BC

    def _read(self, text: str):
        """T5's vectors of a caption's tokens, float [L, W] with L >= 1."""
        import torch

        ids = self.tokenizer(text, max_length=self.places, truncation=True)["input_ids"]
        device = self.model.get_input_embeddings().weight.device
        return self.model(input_ids=torch.tensor([ids], device=device)).last_hidden_state[0]


def cleaned(caption: str) -> str:
    """A caption as LlamaGen's training read it: small letters, few symbols, one dash, one quote.

    Twice, as published: the second time sees what the first has made.
    """
    return _cleaned(_cleaned(caption))


def _cleaned(caption: str) -> str:
    text = urllib.parse.unquote_plus(caption).strip().lower()
    text = re.sub(DASHES, "-", text).translate(QUOTES)
    text = re.sub(r"[\"']{2,}", '"', text)
    text = re.sub(r"\.{2,}", " ", text)
    text = re.sub(f"[{re.escape(SYMBOLS)}]+", " ", text)
    text = re.sub(r"\s+\.\s+", " ", text)
    if len(re.findall("[-_]", text)) > 3:  # words-joined-like-this
        text = re.sub("[-_]", " ", text)
    text = re.sub(r"(\D[,./])\b", r"\1 ", text.strip())
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"^[\"'](.+)[\"']$", r"\1", text)
    return re.sub(r"^['_,\-:;]|['_,\-:+]$", "", text).strip()


def load(text: str) -> LlamaGenSystem:
    """The system at `FOLDER?options`.

    Raises UserError, one line, without transformers, for unknown options, for a folder without one
    transformer, T5 or image tokenizer, and for files that do not belong together.
    """
    place = Place.parse(text)
    call = checked_call(place.call)
    file = weight_file(place.folder)
    folders = {key: Path(call.get(key) or place.folder / key) for key in FOLDERS}
    check_folders(folders)
    transformers = needed("transformers")
    from cm3leon.loading import checked_device

    device = checked_device(place.device)
    vq = read_vq(folders["vq"], device)
    network = read_network(file, call, vq, place.dtype)
    text_model = read_text(transformers, folders["t5"], network.config, place.dtype, call["clean"])
    text_model.model.to(device)
    sizes = {"image_size": network.config.grid * vq.config.stride, "heads": network.config.heads}
    told = {key: value for key, value in call.items() if key not in FOLDERS} | sizes
    digests = [sha256_file(file), folder_digest(folders["t5"]), vq.sha256]
    return LlamaGenSystem(
        name=without_folders(place).name,
        config={
            "model": "LlamaGen",
            "file": file.name,
            "call": told,
            "dtype": place.dtype,
            "sha256": dict(zip(("transformer", *FOLDERS), digests, strict=True)),
            "transformers": transformers.__version__,
        },
        weights_sha256=sha256_bytes("\n".join(digests).encode()),
        network=network.to(device),
        text=text_model,
        vq=vq,
        decode=decoding(call, network.config.codes),
        batch=call["batch"],
        device=device,
    )


def without_folders(place: Place) -> Place:
    """The same without paths, which move no picture and are no part of a name."""
    call = {key: value for key, value in place.call.items() if key not in FOLDERS}
    return Place(place.folder, call, place.dtype, place.device)


def checked_call(given: Mapping) -> dict:
    """The options with LlamaGen's own defaults; UserError for unknown ones and strange values."""
    known = (*OPTIONS, *SIZES, *FOLDERS)
    if strange := [key for key in given if key not in known]:
        raise UserError(f"LlamaGen has no option {strange[0]!r}; it has {', '.join(known)}")
    call = {**OPTIONS, **given}
    for key, least in (("top_k", 0), ("batch", 1), ("image_size", 1), ("heads", 1)):
        value = call.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{key} must be a whole number of at least {least}, got {value!r}")
    for key in ("cfg_scale", "temperature", "top_p"):
        if isinstance(call[key], bool) or not isinstance(call[key], (int, float)):
            raise UserError(f"{key} must be a number, got {call[key]!r}")
    if call["cfg_scale"] < 1:
        raise UserError(f"cfg_scale must be at least 1 (no guidance), got {call['cfg_scale']}")
    if not isinstance(call["clean"], bool):
        raise UserError(f"clean must be true or false, got {call['clean']!r}")
    return call


def decoding(call: Mapping, codes: int) -> DecodeConfig:
    """The options as ours: guidance, temperature, top-k, top-p, in this order."""
    return DecodeConfig(
        guidance=float(call["cfg_scale"]),
        temperature=call["temperature"],
        top_p=call["top_p"],
        top_k=min(call["top_k"], codes) or None,
    )


def weight_file(folder: Path) -> Path:
    """The one weight file that lies directly in the folder."""
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        named = ", ".join(path.name for path in found[:3]) or "none"
        raise UserError(
            f"{folder} must hold one weight file, e.g. t2i_XL_stage1_256.pt, got {named}"
        )
    return found[0]


def check_folders(folders: Mapping[str, Path]) -> None:
    """UserError for T5 or an image tokenizer that is not there, with the way to it."""
    ways = {
        "t5": "put flan-t5-xl there (config.json, tokenizer, safetensors), or name it by t5=FOLDER",
        "vq": "cm3leon convert-tokenizer vq_ds16_t2i.pt --out FOLDER/vq, or name it by vq=FOLDER",
    }
    for key, folder in folders.items():
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: {ways[key]}")


def read_vq(folder: Path, device: str):
    """The image tokenizer; UserError for one that only encodes."""
    from cm3leon.tokenizers.folder import load_tokenizer

    vq = load_tokenizer(folder, device)
    if not vq.config.decodes:
        raise UserError(f"{folder} has no decoder and cannot draw; convert a whole tokenizer")
    return vq


def read_network(file: Path, call: Mapping, vq, dtype: str):
    """The transformer of a checkpoint; UserError naming the file and the fault."""
    import torch

    from benchmarks.systems import llamagen_model as llamagen
    from cm3leon.safe_load import read_weights

    content = read_weights(file)
    named = re.search(r"_(\d{2,4})$", file.stem)
    size = call.get("image_size") or (int(named[1]) if named else vq.image_size)
    stride = vq.config.stride
    if size % stride:
        raise UserError(f"image_size must be a multiple of the tokenizer's {stride}, got {size}")
    try:
        tensors = llamagen.find_tensors(content)
        config = llamagen.infer_config(tensors, size // stride, call.get("heads"))
        if config.codes != vq.codebook_size:
            raise UserError(
                f"it draws {config.codes} codes, the image tokenizer has {vq.codebook_size}; "
                "convert the tokenizer of this model"
            )
        return llamagen.load_network(tensors, config, getattr(torch, dtype))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def read_text(transformers, folder: Path, config, dtype: str, clean: bool) -> Text:
    """T5's encoder of a folder; UserError where its width is not the one the transformer reads."""
    import torch

    options = {"local_files_only": True}
    width = loaded(
        lambda: transformers.AutoConfig.from_pretrained(str(folder), **options).d_model, folder
    )
    if width != config.caption_width:
        raise UserError(
            f"{folder} is a T5 of width {width}, the transformer reads {config.caption_width}; "
            "LlamaGen's is flan-t5-xl"
        )
    model = loaded(
        lambda: transformers.T5EncoderModel.from_pretrained(
            str(folder), dtype=getattr(torch, dtype), use_safetensors=True, **options
        ),
        folder,
    )
    tokenizer = loaded(
        lambda: transformers.AutoTokenizer.from_pretrained(str(folder), **options), folder
    )
    return Text(tokenizer, model.eval(), config.captions, clean)
