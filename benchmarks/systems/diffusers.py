"""Any text-to-image pipeline of diffusers, by the folder of `save_pretrained`.

    nox -s fid_coco -- --system "diffusers:models/sd?num_inference_steps=20&guidance_scale=5"

Options are the pipeline's own; what is not given has its defaults, which the library's version
names in the record. A safety checker is taken out: it would paint pictures black. The noise comes
from a generator on the CPU, so that it is the same on every device.

Shapes: B pictures, H x W pixels.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.systems.adapter import Place, folder_digest, loaded, needed, one_by_one
from cm3leon.errors import UserError
from cm3leon.seeds import torch_generator

OURS = ("prompt", "generator", "output_type", "return_dict", "num_images_per_prompt")


@dataclass(frozen=True)
class DiffusersSystem:
    """A pipeline with its options, drawing one picture at a time."""

    name: str
    config: dict
    weights_sha256: str
    pipeline: object
    call: dict
    device: str

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Uint8 [B, H, W, 3]; UserError for NaN and for pictures of different sizes."""
        return one_by_one(self.draw_one, self.name, prompts, seeds)

    def draw_one(self, prompt: str, seed: int) -> np.ndarray:
        """Floats [H, W, 3] in 0..1."""
        drawn = self.pipeline(
            prompt=prompt,
            generator=torch_generator(seed, "diffusers"),
            output_type="np",
            **self.call,
        ).images
        if len(drawn) != 1:
            raise UserError(f"{self.name} drew {len(drawn)} pictures of one prompt, expected 1")
        return np.asarray(drawn[0])


def load(text: str) -> DiffusersSystem:
    """The system at `FOLDER?options`.

    Raises UserError where diffusers is missing, for a folder that is no pipeline or has pickled
    weights only, for a pipeline that does not take a prompt alone, and for options it has not.
    """
    place = Place.parse(text)
    diffusers = needed("diffusers")
    import torch

    from cm3leon.loading import checked_device

    device = checked_device(place.device)
    pipeline = loaded(
        lambda: diffusers.DiffusionPipeline.from_pretrained(
            str(place.folder),
            use_safetensors=True,
            local_files_only=True,
            dtype=getattr(torch, place.dtype),
            low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
        ),
        place.folder,
    )
    check_call(pipeline, place)
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersSystem(
        name=place.name,
        config={
            "pipeline": type(pipeline).__name__,
            "call": dict(place.call),
            "dtype": place.dtype,
            "diffusers": diffusers.__version__,
        },
        weights_sha256=folder_digest(place.folder),
        pipeline=pipeline.to(device),
        call=dict(place.call),
        device=device,
    )


def check_call(pipeline, place: Place) -> None:
    """Raise UserError unless the pipeline draws from a prompt alone and has all options given."""
    known = inspect.signature(type(pipeline).__call__).parameters
    kind = type(pipeline).__name__
    required = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "prompt")
    ]
    if "prompt" not in known or "generator" not in known or required:
        lacks = f"it needs {required[0]}" if required else "it takes no prompt or no generator"
        raise UserError(f"{place.folder} holds a {kind}, which draws no text: {lacks}")
    for name in place.call:
        if name in OURS:
            raise UserError(f"option {name} of {kind} is the benchmark's own; leave it out")
        if name not in known:
            options = ", ".join(sorted(set(known) - {"self", *OURS}))
            raise UserError(f"{kind} has no option {name!r}; it has {options}")
