"""Small files of what a paper-scale training starts from: tars, a public tokenizer, a CLIP."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cm3leon.seeds import generator, torch_default
from tests.public_layouts import Public

CODES, SIDE, GRID = 40, 16, 4  # pixels of a side, codes of a side
COLOURS = {"red": (220, 30, 20), "green": (20, 200, 40), "blue": (30, 40, 230), "grey": (90,) * 3}
PLACES = ("on the sand", "in the water", "under a tree", "at night")
SHAPE = {"name": "mini", "layers": 2, "width": 32, "heads": 2, "context": 128,
         "vocabulary": {"text_size": 300, "image_size": CODES, "sentinels": 4, "multiple": 16},
         "init_std": 0.02, "position_std": 0.02}  # fmt: skip


def caption(index: int) -> str:
    """Of document `index`."""
    colour = list(COLOURS)[index % len(COLOURS)]
    return f"a {colour} thing {PLACES[index // 4 % len(PLACES)]}, number {index}"


def picture(index: int) -> np.ndarray:
    """Its colour under noise, 20 x 24 pixels."""
    noise = generator(0, "paper", index).integers(-20, 20, (20, 24, 3))
    colour = list(COLOURS.values())[index % len(COLOURS)]
    return np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)


def write_tar(path: Path, indices: range) -> Path:
    """One shard in CC12M's layout: key.jpg, key.txt, key.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index in indices:
            jpeg = io.BytesIO()
            Image.fromarray(picture(index)).save(jpeg, "JPEG", quality=95)
            about = json.dumps({"caption": caption(index), "status": "success"}).encode()
            for kind, data in (
                ("jpg", jpeg.getvalue()),
                ("txt", caption(index).encode()),
                ("json", about),
            ):
                member = tarfile.TarInfo(f"{index:09d}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_public(path: Path, **more) -> Path:
    """A checkpoint of taming's GumbelVQ with random weights, as it is published."""
    shape = {"mult": (1, 1, 2), "attn": (2,), "z": 6, "codes": CODES, "gumbel": True} | more
    torch.save({"epoch": 3, "state_dict": Public("taming", **shape).weights}, path)
    return path


def write_clip(folder: Path, seed: int = 0) -> str:
    """A small CLIP in open_clip's own form, random; its name."""
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    text = {"width": 16, "heads": 2, "layers": 1}
    with torch_default(seed, "paper clip"):
        model = CLIP(16, vision, text)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    about = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(about)
    return f"local-dir:{folder}"


def write_start(folder: Path) -> Path:
    """All that the commands begin with, in a folder: cc/*.tar, last.ckpt, clip/, mini.json."""
    write_tar(folder / "cc" / "00000.tar", range(14))
    write_tar(folder / "cc" / "00001.tar", range(14, 24))
    write_public(folder / "last.ckpt")
    write_clip(folder / "clip")
    (folder / "mini.json").write_text(json.dumps(SHAPE))
    return folder


PREPARE = (  # from there to an encoded source and its bank
    ["convert-tokenizer", "last.ckpt", "--out", "home/vq", "--resolution", f"{SIDE}"],
    ["train-text", "cc", "--out", "home/text", "--size", "300"],
    ["encode", "cc", "cache", "--tokenizers", "home", "--clip", "local-dir:clip"],
    ["index", "cache", "bank"],
)
TRAIN = [
    "train", "cache", "--model", "mini.json", "--tokenizers", "home",
    "--steps", "8", "--batch", "4", "--rate", "3e-3", "--hold-out", "3",
    "--save-every", "3", "--eval-every", "4", "--log-every", "1", "--precision", "float32",
]  # fmt: skip
NEAR = ["--bank", "bank", "--clip", "local-dir:clip", "--retrieval.threshold", "2"]
