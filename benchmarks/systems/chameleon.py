"""Pictures of a model of Chameleon's layout, which transformers loads but does not let draw.

Its forward masks all image tokens; here they are what is drawn, under guidance over two streams
(the prompt, and the beginning of a picture alone), by our own `decode.choose`. The pictures come
from our own tokenizer, as transformers keeps the encoder only.

Shapes: T prompt tokens, N image tokens, K image ids, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError


def chameleon(model, processor, call: dict) -> Callable:
    """prompt -> uint8 [H, W, 3]; UserError without a `vq` that decodes this model's codes."""
    import torch

    from cm3leon.tokenizers.folder import load_tokenizer

    if "vq" not in call:
        raise UserError(
            "a Chameleon needs vq=FOLDER, its VQGAN made by cm3leon convert-tokenizer: "
            "transformers keeps no decoder"
        )
    vq = load_tokenizer(call["vq"], str(model.device))
    ids_of_codes = model.model.vocabulary_mapping.img2bpe
    if not vq.config.decodes or vq.codebook_size != len(ids_of_codes):
        raise UserError(
            f"{call['vq']} has {vq.codebook_size} codes"
            f"{'' if vq.config.decodes else ' and no decoder'}, the model draws "
            f"{len(ids_of_codes)}; convert the VQGAN of this model, with its decoder"
        )
    ids_K = torch.tensor([ids_of_codes[code] for code in sorted(ids_of_codes)])
    decode = DecodeConfig(
        guidance=call["guidance_scale"],
        temperature=call["temperature"],
        top_p=call["top_p"],
        top_k=call.get("top_k"),
    )

    def decoded(prompt: str) -> np.ndarray:
        streams = [prompt_ids(processor, prompt)]
        if decode.streams == 2:
            streams.append([processor.tokenizer.bos_token_id, processor.image_start_token_id])
        codes_1N = draw_codes(model, streams, ids_K.to(model.device), vq.grid**2, decode)
        return vq.decode(codes_1N)[0]

    return decoded


def prompt_ids(processor, prompt: str) -> list[int]:
    """Ids of the prompt in chat form (begin, text, separator), then the beginning of a picture."""
    ids = processor(text=[prompt], return_tensors="pt")["input_ids"][0].tolist()
    begin = processor.tokenizer.bos_token_id
    return [*([] if ids[:1] == [begin] else [begin]), *ids, processor.image_start_token_id]


def draw_codes(model, streams: list[list[int]], ids_K, count: int, decode: DecodeConfig):
    """Codes int64 [1, N] drawn from torch's own generator: one uniform a token."""
    import torch

    from cm3leon.decoding.sampling import choose, combine

    uniforms_N = torch.rand(count, dtype=torch.float64)
    fed = [torch.tensor([ids], device=model.device) for ids in streams]
    caches, codes = [None] * len(streams), []
    for uniform in uniforms_N:
        logits = []
        for row, ids_1T in enumerate(fed):
            out = model.model(input_ids=ids_1T, past_key_values=caches[row], use_cache=True)
            caches[row] = out.past_key_values
            logits.append(out.last_hidden_state[:, -1] @ model.lm_head.weight[ids_K].T)
        combined_1K = combine(logits[0], logits[1] if len(logits) == 2 else None, decode)
        codes.append(choose(combined_1K, uniform[None].to(model.device), decode))
        fed = [ids_K[codes[-1]][None]] * len(streams)
    return torch.stack(codes, dim=1)
