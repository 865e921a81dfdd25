"""Files of the published layouts with random weights, to try every command line without a download.

    python -m benchmarks.verify.made_weights FOLDER            the true architectures, 3.7 GB
    python -m benchmarks.verify.made_weights FOLDER --small    0.3 GB: smaller towers, same layouts

Both have the true Inception and a tiny Stable Diffusion. What is measured with them is no score; a
digest differs from the published one, so name them with `--weights-sha256 any`. The same command
writes the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from cm3leon.cli.main import guarded, parse
from cm3leon.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz "


@dataclass(frozen=True)
class Options:
    """Write weight files of the published layouts with random weights."""

    folder: tyro.conf.Positional[Path]
    """where they go; it is made, and what is there already stays"""
    small: bool = False
    """towers of CLIP and DINOv2 of the smallest architecture"""


def inception(path: Path) -> None:
    """FID's Inception, as pytorch-fid's file."""
    import torch

    from cm3leon.evaluation.features.inception import random_weights

    torch.save(random_weights(), path)


def dino(name: str) -> Callable[[Path], None]:
    """DINOv2 as its published file."""

    def write(path: Path) -> None:
        import torch

        from cm3leon.evaluation.features.dino import random_weights

        torch.save(random_weights(name), path)

    return write


def tower(architecture: str) -> Callable[[Path], None]:
    """A CLIP of open_clip's, as a file of tensors."""

    def write(path: Path) -> None:
        import open_clip
        import torch

        from cm3leon.clip import quiet
        from cm3leon.seeds import torch_default

        with torch_default(0, "tower", architecture), quiet():  # it warns that nothing was loaded
            model = open_clip.create_model(architecture, pretrained=None)
        torch.save(model.state_dict(), path)

    return write


def stable_diffusion(folder: Path) -> None:
    """A StableDiffusionPipeline of 16 x 16 pixels, as `save_pretrained` writes it."""
    from benchmarks.systems.adapter import needed
    from cm3leon.seeds import torch_default

    diffusers, transformers = needed("diffusers"), needed("transformers")
    letters = ["<|startoftext|>", "<|endoftext|>", *LETTERS]
    words = letters + [letter + "</w>" for letter in LETTERS]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: k for k, word in enumerate(words)}, merges=[], model_max_length=16
    )
    with torch_default(0, "diffusers"):
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
                pad_token_id=1,
            )
        )  # fmt: skip
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=4,
            out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
            attention_head_dim=2, norm_num_groups=4,
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8), in_channels=3, out_channels=3, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4, sample_size=16,
        )  # fmt: skip
    diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


ALWAYS = {"inception.pth": inception, "sd": stable_diffusion}
TRUE = {
    "dinov2_vitl14_pretrain.pth": dino("dinov2"),
    "ViT-L-14-336px.pt": tower("ViT-L-14-336-quickgelu"),
    "ViT-B-32.pt": tower("ViT-B-32-quickgelu"),
}
SMALL = {"dinov2-s14.pth": dino("dinov2-s14"), "ViT-S-32-alt.pt": tower("ViT-S-32-alt")}
BESIDE = {  # option -> (network, file) of the small ones
    "dino": ("dinov2-s14:", "dinov2-s14.pth"),
    "cmmd": ("ViT-S-32-alt:", "ViT-S-32-alt.pt"),
    "clip": ("ViT-S-32-alt:", "ViT-S-32-alt.pt"),
}


def made_weights(options: Options) -> int:
    """Write what is not there yet, each whole or not at all; say where, and how to name it."""
    folder = options.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in {**ALWAYS, **(SMALL if options.small else TRUE)}.items():
            path, part = folder / name, folder / f".{name}.part"
            if not path.exists():
                write(part)
                part.rename(path)
            print(path)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    beside = BESIDE
    if not options.small:
        beside = {key: ("", file) for key, file in zip(("dino", "cmmd", "clip"), TRUE, strict=True)}
    named = [
        f"--{option}-weights {network}{folder / file}" for option, (network, file) in beside.items()
    ]
    print(" ".join(["--weights-sha256 any", f"--weights {folder / 'inception.pth'}", *named]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 written, 2 a user's mistake, 130 interrupted."""
    return guarded(lambda: made_weights(parse(Options, argv, "made_weights")))


if __name__ == "__main__":
    sys.exit(main())
