"""Image-generating models of transformers, by the folder of `save_pretrained`.

    nox -s fid_coco -- --system "transformers:models/janus-pro-1b?guidance_scale=5"
    nox -s fid_coco -- --system "transformers:models/emu3-gen?image_area=262144&top_k=2048"
    nox -s fid_coco -- --system "transformers:models/anole?vq=models/chameleon/vq"

Which model it is stands in its `config.json`; MODELS says how each draws, and with what where the
options do not say. Janus and Emu3 take the options of the library's `generate`. Chameleon has no
decoder in transformers: `vq` is the folder that `cm3leon convert-tokenizer` made of its VQGAN.

Shapes: B pictures, H x W pixels, T prompt tokens, N image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from benchmarks.systems.adapter import Place, folder_digest, loaded, needed, one_by_one
from benchmarks.systems.chameleon import chameleon
from cm3leon.checkpoint import digest, read_json
from cm3leon.errors import UserError
from cm3leon.seeds import torch_default

ROW_END = "<|extra_200|>"  # Emu3's token behind every row of image tokens
AFTER = 3  # tokens that Emu3's decoder drops from the end: of frame, of image, of sequence


@dataclass(frozen=True)
class Model:
    """How one kind of model draws."""

    class_name: str  # in transformers
    prepare: Callable  # (model, processor, call) -> (prompt -> the picture as its decoder gives it)
    defaults: Mapping = field(default_factory=dict)  # options, where none are given
    options: tuple[str, ...] | None = None  # all there are; None: those of `generate` and defaults


@dataclass(frozen=True)
class TransformersSystem:
    """A model with its processor and options, drawing one picture at a time."""

    name: str
    config: dict
    weights_sha256: str
    model: object
    processor: object
    decoded: Callable  # prompt -> [H, W, 3]: normalised floats, or uint8
    device: str

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Uint8 [B, H, W, 3]; UserError for NaN and for pictures of different sizes."""
        return one_by_one(self.draw_one, self.name, prompts, seeds)

    def draw_one(self, prompt: str, seed: int) -> np.ndarray:
        """Uint8 [H, W, 3]."""
        import torch

        # `generate` draws from torch's own generator, so that one is seeded, sample by sample
        with torch_default(seed, "transformers"), torch.inference_mode():
            decoded_HW3 = self.decoded(prompt)
        return restored(decoded_HW3, self.processor.image_processor, self.name)


def restored(decoded_HW3, image_processor, name: str) -> np.ndarray:
    """Uint8 [H, W, 3]: what pictures were normalised by undone, clipped, cut off; bytes stay.

    Cut off and not rounded, as both models' own code does it.
    """
    if isinstance(decoded_HW3, np.ndarray):
        return decoded_HW3
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
    known = MODELS[kind]
    transformers = needed("transformers")
    from cm3leon.loading import checked_device

    device = checked_device(place.device)
    model, processor = parts(transformers, known.class_name, place)
    check_options(model, known, place)
    call = {**known.defaults, **place.call}
    told = {key: value for key, value in call.items() if key != "vq"}  # a path moves no picture
    config = {"model": known.class_name, "call": told, "dtype": place.dtype}
    if "vq" in call:
        config |= {"vq_sha256": digest(call["vq"])}
        place = replace(place, call={k: v for k, v in place.call.items() if k != "vq"})
    model = model.eval().to(device)
    return TransformersSystem(
        name=place.name,
        config=config | {"transformers": transformers.__version__},
        weights_sha256=folder_digest(place.folder),
        model=model,
        processor=processor,
        decoded=known.prepare(model, processor, call),
        device=device,
    )


def parts(transformers, class_name: str, place: Place):
    """Model and processor of a folder; UserError when the library has no such class."""
    import torch

    if not hasattr(transformers, class_name):
        raise UserError(
            f"transformers {transformers.__version__} has no {class_name}; "
            "pip install --upgrade transformers"
        )
    folder, options = str(place.folder), {"local_files_only": True, "trust_remote_code": False}
    dtype = getattr(torch, place.dtype)
    kind = getattr(transformers, class_name)
    model = loaded(
        lambda: kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options),
        place.folder,
    )
    processor = loaded(
        lambda: transformers.AutoProcessor.from_pretrained(folder, **options), place.folder
    )
    return model, processor


def check_options(model, kind: Model, place: Place) -> None:
    """Raise UserError for an option that moves nothing."""
    known = set(kind.options or ())
    if kind.options is None:
        known = set(model.generation_config.to_dict()) | set(kind.defaults)
        known -= {"transformers_version", "num_return_sequences"}
    for name in place.call:
        if name not in known:
            raise UserError(
                f"{type(model).__name__} has no option {name!r} that moves a picture; "
                "it has e.g. temperature, top_p, top_k, guidance_scale"
            )


def chat(processor, prompt: str) -> str:
    """The prompt in the model's own conversation, where it has one."""
    if not getattr(processor, "chat_template", None):
        return prompt
    said = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return processor.apply_chat_template(said, add_generation_prompt=True)


def janus(model, processor, call: dict) -> Callable:
    """Janus' own loop; [H, W, 3], normalised."""

    def decoded(prompt: str):
        inputs = processor(
            text=[chat(processor, prompt)], generation_mode="image", return_tensors="pt"
        ).to(model.device)
        codes_1N = model.generate(**inputs, generation_mode="image", **call)
        return model.decode_image_tokens(codes_1N)[0]

    return decoded


def emu3(model, processor, call: dict) -> Callable:
    """Emu3's image tokens row by row, each closed by a token of its own; [H, W, 3], normalised."""
    import torch

    options = dict(call)
    sizes = {"image_area": options.pop("image_area")} if "image_area" in options else {}
    asked = partial(processor, return_for_image_generation=True, return_tensors="pt", **sizes)
    free = asked(text=[options.pop("negative_prompt")])
    if options["guidance_scale"] not in (None, 1):
        options["negative_prompt_ids"] = free["input_ids"].to(model.device)
        options["negative_prompt_attention_mask"] = free["attention_mask"].to(model.device)
    height, width = (int(side) for side in free["image_sizes"][0])
    row_end = [processor.tokenizer.convert_tokens_to_ids(ROW_END)]
    image_ids, count = model.vocabulary_mapping.image_tokens, height * (width + 1)

    def decoded(prompt: str):
        inputs = asked(text=[prompt])
        ids_1T = inputs["input_ids"].to(model.device)
        length = ids_1T.shape[1]
        tokens_1T = model.generate(
            input_ids=ids_1T,
            attention_mask=inputs["attention_mask"].to(model.device),
            min_new_tokens=count,
            max_new_tokens=count,
            prefix_allowed_tokens_fn=lambda _, ids_T: (
                row_end if (len(ids_T) - length) % (width + 1) == width else image_ids
            ),
            **options,
        )
        codes_1N = torch.nn.functional.pad(tokens_1T[:, length:], (0, AFTER), value=row_end[0])
        pictures = model.decode_image_tokens(image_tokens=codes_1N, height=height, width=width)
        return pictures[0].movedim(0, -1)

    return decoded


MODELS: dict[str, Model] = {  # model_type of config.json
    "janus": Model(
        "JanusForConditionalGeneration", janus, {"do_sample": True, "guidance_scale": 5.0}
    ),
    "emu3": Model(
        "Emu3ForConditionalGeneration",
        emu3,
        {"do_sample": True, "guidance_scale": 3.0, "negative_prompt": "", "image_area": 518400},
    ),
    "chameleon": Model(
        "ChameleonForConditionalGeneration",
        chameleon,
        {"guidance_scale": 3.0, "temperature": 1.0, "top_p": 0.9},
        ("vq", "guidance_scale", "temperature", "top_p", "top_k"),
    ),
}
