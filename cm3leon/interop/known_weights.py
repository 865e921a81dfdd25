"""Public weights that benchmarks use: where each is looked for, its digest, how to get it.

Nothing here downloads. A file is taken from the environment variable that names it, else from where
the libraries that download it keep it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cm3leon.errors import UserError

HASHED = 2 * 2**30  # bytes up to which a digest is made without being asked


@dataclass(frozen=True)
class Known:
    """One file of public weights, or a folder of them."""

    what: str
    variable: str  # environment variable that names the file
    places: tuple[str, ...]  # below the caches of `roots`, with wildcards
    url: str
    licence: str
    sha256: str = ""  # as its publisher names it, whole or its beginning; "" where nobody does


KNOWN: dict[str, Known] = {
    "inception": Known(
        "Inception of FID, pytorch-fid's file",
        "CM3LEON_INCEPTION",
        ("{torch}/pt_inception-2015-12-05-6726825d.pth",),
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "Apache-2.0",
        "6726825d",  # in its name, where torch.hub looks for it
    ),
    "inception-jit": Known(
        "Inception of FID, clean-fid's TorchScript",
        "CM3LEON_INCEPTION_JIT",
        ("{temporary}/inception-2015-12-05.pt",),
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
        "inception-2015-12-05.pt",
        "NVIDIA Source Code License",
        # as k-diffusion and others who fetched it pin it; its publisher names none
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    ),
    "clip": Known(
        "open_clip ViT-B-32, laion2b_s34b_b79k: retrieval and re-ranking",
        "CM3LEON_CLIP",
        (
            "{hub}/models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K/snapshots/*/"
            "open_clip_model.safetensors",
        ),
        "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "MIT",
    ),
    "clip-openai": Known(
        "OpenAI's ViT-B-32: CLIP score",
        "CM3LEON_CLIP_OPENAI",
        (
            "{clip}/ViT-B-32.pt",
            "{hub}/models--timm--vit_base_patch32_clip_224.openai/snapshots/*/*",
        ),
        "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "MIT",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",  # in its address
    ),
    "clip-openai-l14-336": Known(
        "OpenAI's ViT-L-14 at 336 pixels: CMMD",
        "CM3LEON_CLIP_OPENAI_L14_336",
        ("{clip}/ViT-L-14-336px.pt",),
        "https://openaipublic.azureedge.net/clip/models/"
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
        "MIT",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",  # in its address
    ),
    "dinov2": Known(
        "DINOv2 ViT-L/14: FD-DINOv2",
        "CM3LEON_DINOV2",
        ("{torch}/dinov2_vitl14_pretrain.pth",),
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "Apache-2.0",
    ),
}


def roots() -> dict[str, Path]:
    """Where torch.hub, the Hugging Face hub, open_clip and clean-fid keep what they fetched."""
    environment = os.environ.get
    home = Path(environment("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch = Path(environment("TORCH_HOME") or home / "torch")
    hugging = Path(environment("HF_HOME") or home / "huggingface")
    return {
        "torch": torch / "hub" / "checkpoints",
        "hub": Path(environment("HF_HUB_CACHE") or hugging / "hub"),
        "clip": Path.home() / ".cache" / "clip",
        "temporary": Path(tempfile.gettempdir()),
    }


def candidates(known: Known) -> Iterator[Path]:
    """Files in the caches, in the order of preference."""
    for place in known.places:
        root, _, pattern = place.partition("/")
        yield from sorted(roots()[root.strip("{}")].glob(pattern))


def find(key: str) -> Path | None:
    """The file of these weights on this machine, None where there is none.

    Raises UserError for an unknown key, and when the environment variable names what is not there.
    """
    if key not in KNOWN:
        raise UserError(f"unknown weights {key!r}; known are: {', '.join(KNOWN)}")
    known = KNOWN[key]
    if named := os.environ.get(known.variable):
        if not Path(named).exists():
            raise UserError(f"{known.variable} names {named}, which is not there; see {known.url}")
        return Path(named)
    return next((path for path in candidates(known) if path.is_file()), None)


def how_to_get(key: str) -> str:
    """The commands that bring the weights here: for a shell on a machine with a network."""
    known = KNOWN[key]
    name = known.url.rsplit("/", 1)[1]
    if "huggingface.co" in known.url:
        repository = known.url.split("huggingface.co/")[1]
        return f"hf download {repository} --local-dir {name} && export {known.variable}=$PWD/{name}"
    return f"curl -LO {known.url} && export {known.variable}=$PWD/{name}"
