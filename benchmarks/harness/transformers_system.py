"""Image-generating models of transformers, by the folder of `save_pretrained`.

    nox -s fid_coco -- --system "transformers:models/janus-pro-1b?guidance_scale=5"
    nox -s fid_coco -- --system "transformers:models/emu3-gen?image_area=262144&top_k=2048"

Which model it is stands in its `config.json`; MODELS says how each draws. Options are those of the
library's `generate` (Emu3: also `image_area`, `negative_prompt`); sampling is on unless
`do_sample=false`. What is not given has the folder's and the library's defaults, and the record
names the library's version.

Shapes: B pictures, H x W pixels, T prompt tokens, N image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.harness.foreign import Place, folder_digest, loaded, needed, one_by_one
from cm3leon.checkpoint import read_json
from cm3leon.errors import UserError
from cm3leon.seeds import torch_default

EMU3_OPTIONS = ("image_area", "negative_prompt")
ROW_END = "<|extra_200|>"  # Emu3's token behind every row of image tokens
AFTER = 3  # tokens that Emu3's decoder drops from the end: of frame, of image, of sequence


@dataclass(frozen=True)
class TransformersSystem:
    """A model with its processor and options, drawing one picture at a time."""

    name: str
    config: dict
    weights_sha256: str
    model: object
    processor: object
    draw_tokens: (
        Callable  # (model, processor, prompt, call) -> [H, W, 3] as its tokenizer decodes them
    )
    call: dict
    device: str

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Uint8 [B, H, W, 3]; UserError for NaN and for pictures of different sizes."""
        return one_by_one(self.draw_one, self.name, prompts, seeds)

    def draw_one(self, prompt: str, seed: int) -> np.ndarray:
        """Uint8 [H, W, 3]."""
        import torch

        # `generate` draws from torch's own generator, so that one is seeded, sample by sample
        with torch_default(seed, "transformers"), torch.inference_mode():
            decoded_HW3 = self.draw_tokens(self.model, self.processor, prompt, self.call)
        return restored(decoded_HW3, self.processor.image_processor, self.name)


def restored(decoded_HW3, image_processor, name: str) -> np.ndarray:
    """Uint8 [H, W, 3]: what the model's pictures were normalised by undone, clipped, cut off.

    Cut off and not rounded, as both models' own code does it.
    """
    image_HW3 = decoded_HW3.float().cpu().numpy().astype(np.float64)
    if not np.isfinite(image_HW3).all():
        raise UserError(f"{name} drew NaN or infinite pixels; try dtype=float32")
    image_HW3 = image_HW3 * np.array(image_processor.image_std) + image_processor.image_mean
    return (image_HW3 * 255).clip(0, 255).astype(np.uint8)


def load(text: str) -> TransformersSystem:
    """The system at `FOLDER?options`.

    Raises UserError where transformers is missing or too old, for a folder that does not load, and
    for a model that draws nothing.
    """
    place = Place.parse(text)
    kind = read_json(place.folder / "config.json").get("model_type")
    if kind not in MODELS:
        raise UserError(
            f"{place.folder} holds a {kind!r}, which is not known to draw; known are "
            f"{', '.join(MODELS)}"
        )
    class_name, draw_tokens = MODELS[kind]
    transformers = needed("transformers")
    if not hasattr(transformers, class_name):
        raise UserError(
            f"transformers {transformers.__version__} has no {class_name}; "
            "pip install --upgrade transformers"
        )
    import torch

    from cm3leon.pipeline import checked_device

    device = checked_device(place.device)
    options = {"local_files_only": True, "trust_remote_code": False}
    model = loaded(
        lambda: getattr(transformers, class_name).from_pretrained(
            str(place.folder), dtype=getattr(torch, place.dtype), use_safetensors=True, **options
        ),
        place.folder,
    )
    processor = loaded(
        lambda: transformers.AutoProcessor.from_pretrained(str(place.folder), **options),
        place.folder,
    )
    check_options(model, kind, place)
    config = {"model": class_name, "call": dict(place.call), "dtype": place.dtype}
    return TransformersSystem(
        name=place.name,
        config=config | {"transformers": transformers.__version__},
        weights_sha256=folder_digest(place.folder),
        model=model.eval().to(device),
        processor=processor,
        draw_tokens=draw_tokens,
        call=dict(place.call),
        device=device,
    )


def check_options(model, kind: str, place: Place) -> None:
    """Raise UserError for an option that `generate` has not."""
    known = set(model.generation_config.to_dict()) - {
        "transformers_version",
        "num_return_sequences",
    }
    known |= set(EMU3_OPTIONS) if kind == "emu3" else set()
    for name in place.call:
        if name not in known:
            raise UserError(
                f"{type(model).__name__}.generate has no option {name!r} that moves one picture; "
                "it has e.g. temperature, top_p, top_k, guidance_scale"
            )


def chat(processor, prompt: str) -> str:
    """The prompt in the model's own conversation, where it has one."""
    if not getattr(processor, "chat_template", None):
        return prompt
    said = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return processor.apply_chat_template(said, add_generation_prompt=True)


def draw_janus(model, processor, prompt: str, call: dict):
    """[H, W, 3], normalised: Janus' own loop, guidance 5 unless the options say else."""
    inputs = processor(
        text=chat(processor, prompt), generation_mode="image", return_tensors="pt"
    ).to(model.device)
    call = {"do_sample": True, "guidance_scale": 5.0} | call
    codes_1N = model.generate(**inputs, generation_mode="image", **call)
    return model.decode_image_tokens(codes_1N)[0]


def draw_emu3(model, processor, prompt: str, call: dict):
    """[H, W, 3], normalised: image tokens row by row, guidance 3 unless the options say else."""
    import torch

    options = {"do_sample": True, "guidance_scale": 3.0} | call
    sizes = {"image_area": options.pop("image_area")} if "image_area" in options else {}
    negative = options.pop("negative_prompt", "")
    asked = partial(processor, return_for_image_generation=True, return_tensors="pt", **sizes)
    inputs = asked(text=[prompt])
    height, width = (int(side) for side in inputs.pop("image_sizes")[0])
    ids_1T = inputs["input_ids"].to(model.device)
    if options["guidance_scale"] not in (None, 1):
        free = asked(text=[negative])
        options["negative_prompt_ids"] = free["input_ids"].to(model.device)
        options["negative_prompt_attention_mask"] = free["attention_mask"].to(model.device)
    row_end = [processor.tokenizer.convert_tokens_to_ids(ROW_END)]
    image_ids, prompt_length = model.vocabulary_mapping.image_tokens, ids_1T.shape[1]

    def allowed(_row: int, ids_T):
        column = (len(ids_T) - prompt_length) % (width + 1)
        return row_end if column == width else image_ids

    count = height * (width + 1)
    tokens_1T = model.generate(
        input_ids=ids_1T,
        attention_mask=inputs["attention_mask"].to(model.device),
        min_new_tokens=count,
        max_new_tokens=count,
        prefix_allowed_tokens_fn=allowed,
        **options,
    )
    codes_1N = torch.nn.functional.pad(tokens_1T[:, prompt_length:], (0, AFTER), value=row_end[0])
    decoded = model.decode_image_tokens(image_tokens=codes_1N, height=height, width=width)
    return decoded[0].movedim(0, -1)


MODELS: dict[str, tuple[str, Callable]] = {  # model_type -> class, how it draws
    "janus": ("JanusForConditionalGeneration", draw_janus),
    "emu3": ("Emu3ForConditionalGeneration", draw_emu3),
}
