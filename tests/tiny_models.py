"""Tiny models of transformers' own classes with random weights, saved as their users find them."""

from __future__ import annotations

from pathlib import Path

from cm3leon.seeds import torch_default

LETTERS = 256  # ids of the bytes, in front of the special tokens
CODES = 32
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # as both models are published


def write_tokenizer(specials, **named):
    """A byte-level tokenizer; `specials` get the ids from LETTERS on."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({letter: k for k, letter in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(list(specials))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, **named)


def text_config(ids: int) -> dict:
    return {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": ids,
        "max_position_embeddings": 128, "bos_token_id": LETTERS, "eos_token_id": LETTERS + 1,
        "pad_token_id": LETTERS + 2,
    }  # fmt: skip


def write_janus(folder: Path) -> Path:
    """A Janus of 32 x 32 pixels, 16 image tokens."""
    import transformers

    specials = ["<s>", "</s>", "<pad>", "<image>", "<boi>", "<eoi>"]
    tokenizer = write_tokenizer(
        specials, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    )  # fmt: skip
    config = transformers.JanusConfig(
        text_config={"model_type": "llama", **text_config(LETTERS + len(specials))},
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
            "patch_size": 8, "projection_dim": 16, "num_image_tokens": 16, "depth": 1,
        },
        vq_config={
            "embed_dim": 8, "num_embeddings": CODES, "latent_channels": 32, "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "projection_dim": 16,
            "image_token_embed_dim": 16, "num_hidden_layers": 1,
        },
        image_token_id=LETTERS + 3,
    )  # fmt: skip
    with torch_default(0, "janus"):
        model = transformers.JanusForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=LETTERS, eos_token_id=LETTERS + 1, pad_token_id=LETTERS + 2, max_length=128,
        generation_kwargs={"boi_token_id": LETTERS + 4},
    )  # fmt: skip
    model.save_pretrained(folder)
    pictures = transformers.JanusImageProcessor(size={"height": 32, "width": 32}, **HALVES)
    transformers.JanusProcessor(pictures, tokenizer, num_image_tokens=16).save_pretrained(folder)
    return folder


def write_emu3(folder: Path) -> Path:
    """An Emu3 of stride 8: image_area 1024 is 32 x 32 pixels, 4 rows of 4 tokens."""
    import transformers

    names = {
        "image_token": "<image>", "boi_token": "<|image start|>", "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>", "eof_token": "<|extra_201|>",
    }  # fmt: skip
    ends = ["<|extra_203|>", "<|extra_204|>", "<|endoftext|>"]
    visual = [f"<|visual token {code:06d}|>" for code in range(CODES)]
    specials = [*ends, *names.values(), "<|extra_200|>", *visual]
    tokenizer = write_tokenizer(
        specials, bos_token=ends[0], eos_token=ends[1], pad_token=ends[2],
        extra_special_tokens=names,
    )  # fmt: skip
    ids = {name: LETTERS + k for k, name in enumerate(specials)}
    config = transformers.Emu3Config(
        text_config=text_config(LETTERS + len(specials)) | {"rope_parameters": ROPE},
        vq_config={
            "codebook_size": CODES, "embed_dim": 4, "latent_channels": 4, "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [3],
            "hidden_size": 32, "temporal_downsample_factor": 1,
        },
        vocabulary_map=ids,
    )  # fmt: skip
    with torch_default(0, "emu3"):
        model = transformers.Emu3ForConditionalGeneration(config)
    model.save_pretrained(folder)
    pictures = transformers.Emu3ImageProcessor(min_pixels=64, max_pixels=4096, **HALVES)
    transformers.Emu3Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


def write_chameleon(folder: Path) -> Path:
    """A Chameleon of 32 codes, and in `vq` of the same folder our tokenizer of 4 x 4 of them."""
    import torch
    import transformers

    from cm3leon.config import VQConfig
    from cm3leon.tokenizers.folder import save_tokenizer
    from cm3leon.tokenizers.vq import VQ

    names = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    digits = [f"{code:d}" for code in range(CODES)]
    visual = ["IMGIMG" + "".join(chr(ord("A") + int(d)) for d in code) + "Z" for code in digits]
    specials = ["<s>", "</s>", "<pad>", "<reserved08706>", *names.values(), *reversed(visual)]
    tokenizer = write_tokenizer(
        specials, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        sep_token="<reserved08706>", extra_special_tokens=names,
    )  # fmt: skip
    ids = {name: LETTERS + k for k, name in enumerate(specials)}
    config = transformers.ChameleonConfig(
        **text_config(LETTERS + len(specials)), vocabulary_map=ids,
        vq_config={
            "embed_dim": 8, "num_embeddings": CODES, "latent_channels": 8, "resolution": 32,
            "base_channels": 32, "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1,
        },
    )  # fmt: skip
    vq_config = VQConfig(
        resolution=32, channels=8, multipliers=(1, 1, 1, 1), attention=(), z_channels=8,
        codebook_size=CODES, code_dim=8,
    )  # fmt: skip
    with torch_default(0, "chameleon"):
        model = transformers.ChameleonForConditionalGeneration(config)
        tensors = {
            name: torch.randn_like(v) * 0.3 for name, v in VQ(vq_config).state_dict().items()
        }
    model.save_pretrained(folder)
    pictures = transformers.ChameleonImageProcessor(size={"shortest_edge": 32})
    transformers.ChameleonProcessor(pictures, tokenizer, 16).save_pretrained(folder)
    save_tokenizer(folder / "vq", vq_config, tensors, {})
    return folder
