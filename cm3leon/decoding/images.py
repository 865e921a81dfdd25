"""The one KV-cached loop: prompts and one uniform a token -> image codes.

Guidance needs two streams of every sample, with the query's text and without it. Both run in one
batch, conditional rows first, and every drawn token is appended to both.
Axes: B samples, R rows of the batch (B a stream), T tokens of a prompt, N image tokens, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.sampling import combine
from cm3leon.engine.cpu_sample import choose
from cm3leon.errors import UserError
from cm3leon.model.kv_cache import Cache
from cm3leon.model.transformer import Transformer
from cm3leon.sequence.documents import Vocabulary
from cm3leon.sequence.positions import place_prompt


def generate_images(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    free_prompts: Sequence[np.ndarray] | None,
    uniforms_BN: np.ndarray,
    decode: DecodeConfig,
    counters: dict[str, int] | None = None,
) -> Tensor:
    """Draw N image codes after each prompt: int64 [B, N], 0-based, on the model's device.

    `prompts` and their text-free twins `free_prompts` are int64 [T], ragged; `uniforms_BN` is
    float64 in [0, 1). Only image ids can be drawn. With `decode.guidance == 1`, or without
    `free_prompts`, one stream runs and neither guidance nor contrast has a part in the result.
    A row is decided by its prompts and uniforms: in float32 the other rows of the batch move its
    logits by rounding only.

    `counters`, if given, is increased by the work done: "prefill_tokens" and "step_tokens"
    (places of the batch, padding included) and "forward_calls".
    Raises UserError, before any work, for counts or sizes that do not match and for a prompt that
    leaves no room for N tokens in the context or in the model's places.
    """
    uniforms_BN = torch.as_tensor(uniforms_BN, dtype=torch.float64)
    guided = free_prompts is not None and decode.streams == 2
    streams = [prompts, free_prompts] if guided else [prompts]
    _check(model, vocabulary, streams, uniforms_BN)
    if not uniforms_BN.numel():
        return torch.zeros(uniforms_BN.shape, dtype=torch.int64)
    device = model.token_embedding.weight.device
    counters = {} if counters is None else counters
    codes_NB = _loop(model, vocabulary, streams, uniforms_BN.to(device), decode, guided, counters)
    return torch.stack(codes_NB, dim=1)


def pad(prompts: Sequence[np.ndarray], filler: int) -> tuple[Tensor, Tensor]:
    """Ragged prompts -> (ids int64 [R, T] padded on the right, lengths int64 [R])."""
    lengths_R = torch.tensor([len(prompt) for prompt in prompts])
    ids_RT = torch.full((len(prompts), int(lengths_R.max())), filler, dtype=torch.int64)
    for row, prompt in zip(ids_RT, prompts, strict=True):
        row[: len(prompt)] = torch.as_tensor(np.asarray(prompt, dtype=np.int64))
    return ids_RT, lengths_R


def _loop(
    model: Transformer,
    vocabulary: Vocabulary,
    streams: Sequence[Sequence[np.ndarray]],
    uniforms_BN: Tensor,
    decode: DecodeConfig,
    guided: bool,
    counters: dict[str, int],
) -> list[Tensor]:
    # The head is computed for image ids alone, which is `decode.restrict` without its cost.
    images = (vocabulary.image_start, vocabulary.image_end)
    count = uniforms_BN.shape[1]
    cache, logits_RV = _read_prompts(model, vocabulary, streams, count, images, counters)
    codes_NB = []
    for index in range(count):
        if index:
            ids_B = codes_NB[-1] + vocabulary.image_start
            logits_RV = model.step(ids_B.repeat(2 if guided else 1), cache, *images)
            _count(counters, "step_tokens", cache.batch)
        cond_BV, free_BV = logits_RV.chunk(2) if guided else (logits_RV, None)
        logits_BV = combine(cond_BV, free_BV, decode)
        codes_NB.append(choose(logits_BV, uniforms_BN[:, index], decode))
    return codes_NB


def _read_prompts(
    model: Transformer,
    vocabulary: Vocabulary,
    streams: Sequence[Sequence[np.ndarray]],
    count: int,
    images: tuple[int, int],
    counters: dict[str, int],
) -> tuple[Cache, Tensor]:
    """The filled cache of all rows, with room for the codes, and the logits [R, V] after prompts.

    Read once is what the streams of a sample begin with, which is its documents, and whatever
    several samples have in common as a whole: these documents, or the prompt.
    """
    codes_N = np.full(count, vocabulary.image_start)
    prompts = [row for stream in streams for row in stream]
    places = [place_prompt(row, codes_N, vocabulary, model.config) for row in prompts]
    rows = [np.stack([row, at[: len(row)]]) for row, at in zip(prompts, places, strict=True)]
    pairs = [rows[at :: len(streams[0])] for at in range(len(streams[0]))]  # of a sample
    cuts = [common_start(pair) for pair in pairs] * len(streams)
    heads = [row[:, :cut] for row, cut in zip(rows, cuts, strict=True)]
    tails = [row[:, cut:] for row, cut in zip(rows, cuts, strict=True)]
    different, prompt_of_R = unique(rows)
    which_P = [prompt_of_R.index(one) for one in range(len(different))]  # a row of each prompt
    longest = max(map(len, prompts))
    few = model.cache(len(different), longest + (count - 1 if len(different) == len(rows) else 0))
    if all(cuts):
        firsts, first_of_R = unique(heads)
        shared, _ = _read(model, firsts, vocabulary.pad, None, counters, images)
        few.copy(shared, torch.tensor([first_of_R[row] for row in which_P]))
    else:  # a prompt of one token has no beginning to share
        tails = rows
    ends = [tails[row] for row in which_P]
    _, logits_PV = _read(model, ends, vocabulary.pad, few, counters, images)
    few.go_on(torch.tensor([places[row][-count] for row in which_P]))
    if len(different) == len(rows):
        return few, logits_PV
    cache = model.cache(len(rows), longest + count - 1)
    prompt_of_R = torch.tensor(prompt_of_R)
    cache.copy(few, prompt_of_R)
    return cache, logits_PV[prompt_of_R.to(logits_PV.device)]


def _read(model, rows, filler: int, cache: Cache | None, counters, images) -> tuple[Cache, Tensor]:
    """Read ragged rows, ids over places [2, T], behind what a cache holds, or into a new one."""
    ids_BT, lengths_B = pad([ids for ids, _ in rows], filler)
    positions_BT, _ = pad([places for _, places in rows], 0)
    _count(counters, "prefill_tokens", ids_BT.numel())
    ids_BT = ids_BT.to(model.token_embedding.weight.device)
    if cache is not None:
        return cache, model.extend(ids_BT, lengths_B, cache, *images, positions_BT)
    cache = model.cache(len(rows), ids_BT.shape[1])
    return cache, model.prefill(ids_BT, lengths_B, cache, *images, positions_BT)


def common_start(rows: Sequence[np.ndarray]) -> int:
    """Tokens with which all rows [.., T] begin; the last token of none is among them."""
    most = min(row.shape[-1] for row in rows) - 1
    first = np.atleast_2d(rows[0])[:, :most]
    equal = [(first == np.atleast_2d(row)[:, :most]).all(0) for row in rows[1:]]
    differ = np.flatnonzero(~np.logical_and.reduce(equal)) if equal else ()
    return int(differ[0]) if len(differ) else most


def unique(rows: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """The different rows in order of appearance, and which of them each row is."""
    places: dict[bytes, int] = {}
    which = [places.setdefault(np.asarray(row, np.int64).tobytes(), len(places)) for row in rows]
    return [rows[which.index(place)] for place in range(len(places))], which


def _check(model, vocabulary, streams: list, uniforms_BN: Tensor) -> None:
    if uniforms_BN.ndim != 2:
        raise UserError(
            f"uniforms must have shape [samples, tokens], got {list(uniforms_BN.shape)}"
        )
    samples, count = uniforms_BN.shape
    for name, stream in zip(("prompts", "free_prompts"), streams, strict=False):
        if len(stream) != samples:
            raise UserError(
                f"uniforms of {samples} samples need {samples} {name}, got {len(stream)}"
            )
        for index, prompt in enumerate(stream):
            if not 1 <= len(prompt) <= model.config.context - count:
                raise UserError(
                    f"{name}[{index}] has {len(prompt)} tokens; with {count} image tokens it must "
                    f"have 1 to {model.config.context - count} (model.context "
                    f"{model.config.context})"
                )
    if vocabulary.size != model.vocabulary_size:
        raise UserError(
            f"the vocabulary has {vocabulary.size} ids but the model {model.vocabulary_size}; "
            "use the one it was trained with"
        )


def _count(counters: dict[str, int], name: str, places: int) -> None:
    """One forward call over so many places of the batch."""
    for key, value in ((name, places), ("forward_calls", 1)):
        counters[key] = counters.get(key, 0) + value
