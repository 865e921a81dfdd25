"""Hugging Face's `OPTForCausalLM.generate` on a subject's shape: what ours is compared with.

Guidance, top-p and number of tokens are the same; weights are random. It draws from the whole
vocabulary, its second stream begins with one token, and it runs the streams one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.speed.subjects import COMPUTE, PROMPT, Subject, fill
from cm3leon.errors import UserError

NAME = "hf"


def check_installed() -> None:
    """UserError of one line where transformers cannot be imported."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise UserError("--peers needs transformers; pip install transformers") from None


def make_opt(subject: Subject, dtype: str, device: str):
    """OPT with the paper's omissions, of the subject's shape and type, on the device."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    width = subject.config.width
    config = OPTConfig(
        vocab_size=subject.config.vocabulary.size, hidden_size=width,
        num_hidden_layers=subject.config.layers, ffn_dim=4 * width,
        num_attention_heads=subject.config.heads, word_embed_proj_dim=width,
        max_position_embeddings=PROMPT + subject.tokens + 8, enable_bias=False,
        layer_norm_elementwise_affine=False, activation_function="relu",
        do_layer_norm_before=True, dropout=0.0, attention_dropout=0.0, pad_token_id=1,
        bos_token_id=2, eos_token_id=None,
    )  # fmt: skip
    with torch.device("meta"):
        model = OPTForCausalLM(config)
    model = model.to(getattr(torch, COMPUTE[dtype])).to_empty(device=device)
    model.tie_weights()
    fill(model, subject.name)
    return model.eval().requires_grad_(False)


def opt_drawing(model, batch: int, guidance: float, top_p: float) -> Callable:
    """A function that draws so many tokens: int64 [batch, tokens] on the host."""
    import torch

    from cm3leon.seeds import torch_generator

    size = model.config.vocab_size
    ids_BT = torch.randint(4, size, (batch, PROMPT), generator=torch_generator(0, "latency", "opt"))
    ids_BT = ids_BT.to(model.device)
    settings = {
        "do_sample": True, "top_p": top_p, "top_k": 0, "use_cache": True, "pad_token_id": 1,
        "attention_mask": torch.ones_like(ids_BT),
    }  # fmt: skip
    if guidance != 1:
        free_B1 = torch.full((batch, 1), 2, device=model.device)
        settings |= {
            "guidance_scale": guidance, "negative_prompt_ids": free_B1,
            "negative_prompt_attention_mask": torch.ones_like(free_B1),
        }  # fmt: skip

    def draw(tokens: int):
        drawn = model.generate(ids_BT, max_new_tokens=tokens, min_new_tokens=tokens, **settings)
        assert drawn.shape == (batch, PROMPT + tokens), drawn.shape
        return drawn[:, PROMPT:].cpu()

    return draw
