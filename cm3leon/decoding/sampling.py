"""Logits -> logits -> token: the pure functions of decoding, in the order they are applied (A34).

restrict -> guide (Eq. 2) or contrast (Eq. 3) -> temperature -> top_k -> top_p -> draw; `combine`
and `choose` apply what a DecodeConfig says. None changes its input. Logits may be of any float
type; results are float32 or wider. Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cm3leon.decoding.config import DecodeConfig, EditGuidance
from cm3leon.errors import UserError
from cm3leon.model.transformer import widen

FEW = 64  # likeliest tokens among which the nucleus is looked for first


def guide(cond_BV: Tensor, uncond_BV: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance, uncond + weight * (cond - uncond) (Eq. 2); 1 is cond, 0 uncond.

    Both streams must be finite (restrict afterwards). Raises UserError for a weight that is not.
    """
    if not math.isfinite(weight):
        raise UserError(f"decode.guidance must be finite, got {weight}")
    _check_shapes(cond_BV, uncond_BV)
    cond_BV, uncond_BV = widen(cond_BV), widen(uncond_BV)
    if weight == 1:
        return cond_BV
    if weight == 0:
        return uncond_BV
    return uncond_BV + weight * (cond_BV - uncond_BV)


def guide_edit(
    full_BV: Tensor, image_BV: Tensor, uncond_BV: Tensor, image_weight: float, text_weight: float
) -> Tensor:
    """Guidance with two weights for editing (InstructPix2Pix, Eq. 3): uncond + image_weight (image
    - uncond) + text_weight (full - image); `image` sees the picture to edit, `full` the instruction
    too. Weights 1, 1 give full.
    """
    return guide(full_BV, image_BV, text_weight) + (
        guide(image_BV, uncond_BV, image_weight) - widen(image_BV)
    )


def contrast(
    expert_BV: Tensor, amateur_BV: Tensor, alpha: float, k: int, amateur_temperature: float = 1.0
) -> Tensor:
    """Contrastive decoding CD-K (Eq. 3): log p_EXP - log p_AMA on V, -inf elsewhere.

    V holds the tokens with p_EXP >= alpha * (the k-th largest p_EXP): at least k of them, ties
    included; k = 1 is contrastive decoding (Li et al. 2022), alpha = 1 keeps the k most likely. The
    amateur's distribution is softmax(amateur / amateur_temperature). A token that the expert holds
    impossible stays so; the amateur must be finite wherever the expert is. Raises UserError for
    alpha outside (0, 1], k outside 1..V, and a temperature that is not positive.
    """
    if not 0 < alpha <= 1:
        raise UserError(f"decode.alpha must lie in (0, 1], got {alpha}")
    _check_shapes(expert_BV, amateur_BV)
    _check_k("decode.k", k, expert_BV.shape[-1])
    expert_BV = widen(expert_BV)
    amateur_BV = temperature(amateur_BV, amateur_temperature)
    score_BV = expert_BV.log_softmax(-1) - amateur_BV.log_softmax(-1)
    # Compared are logits, not probabilities: equal ones are equal exactly.
    limit_B1 = expert_BV.topk(k, dim=-1).values[..., -1:] + math.log(alpha)
    kept_BV = (expert_BV >= limit_B1) & (expert_BV > -torch.inf)
    return score_BV.where(kept_BV, -torch.inf)


def restrict(logits_BV: Tensor, start: int, end: int) -> Tensor:
    """-inf outside the ids [start, end) (A35); UserError unless the range lies inside V."""
    size = logits_BV.shape[-1]
    if not 0 <= start < end <= size:
        raise UserError(f"ids [{start}, {end}) must be a range inside [0, {size})")
    logits_BV = widen(logits_BV)
    kept_BV = torch.full_like(logits_BV, -torch.inf)
    kept_BV[..., start:end] = logits_BV[..., start:end]
    return kept_BV


def temperature(logits_BV: Tensor, value: float) -> Tensor:
    """Logits / value: below 1 sharper, above 1 flatter; UserError unless finite and positive."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"decode.temperature must be finite and positive, got {value}")
    logits_BV = widen(logits_BV)
    return logits_BV if value == 1 else logits_BV / value


def top_p(logits_BV: Tensor, mass: float) -> Tensor:
    """-inf outside the most likely tokens that together have probability >= `mass` (nucleus).

    The smallest such set, plus every token exactly as likely as its last one: ties stay together,
    so the result does not depend on the order of the vocabulary. At least one token stays; 1 keeps
    all. Raises UserError unless 0 < mass <= 1.
    """
    if not 0 < mass <= 1:
        raise UserError(f"decode.top_p must lie in (0, 1], got {mass}")
    logits_BV = widen(logits_BV)
    if mass == 1:
        return logits_BV
    probabilities_BV = logits_BV.softmax(-1, dtype=torch.float64)
    size = logits_BV.shape[-1]
    for count in (min(FEW, size), size):  # sorting all of them is seldom needed
        best_BN, place_BN = logits_BV.topk(count, dim=-1)
        summed_BN = probabilities_BV.gather(-1, place_BN).cumsum(-1)
        if count == size or not (summed_BN[..., -1] < mass).any():
            break
    # Index of the first token at which the sum reaches the mass; rounding may leave none.
    last_B1 = (summed_BN < mass).sum(-1, keepdim=True).clamp(max=count - 1)
    # The comparison is between logits, not probabilities: equal logits are equal exactly.
    return logits_BV.masked_fill(logits_BV < best_BN.gather(-1, last_B1), -torch.inf)


def top_k(logits_BV: Tensor, k: int) -> Tensor:
    """-inf outside the k most likely tokens; those as likely as the last one stay with it.

    Raises UserError for k outside 1..V.
    """
    _check_k("decode.top_k", k, logits_BV.shape[-1])
    logits_BV = widen(logits_BV)
    limit_B1 = logits_BV.topk(k, dim=-1).values[..., -1:]
    return logits_BV.masked_fill(logits_BV < limit_B1, -torch.inf)


def combine(cond_BV: Tensor, uncond_BV: Tensor | None, decode: DecodeConfig) -> Tensor:
    """The streams of one step as one distribution, by `decode.strategy`; one stream is itself.

    "guide": classifier-free guidance. "contrast": CD-K, the conditional stream as expert and the
    unconditional one as amateur (A42); with `decode.guided_expert` the expert is the guided
    distribution (A40).
    """
    if uncond_BV is None:
        return widen(cond_BV)
    if decode.strategy == "guide":
        return guide(cond_BV, uncond_BV, decode.guidance)
    expert_BV = guide(cond_BV, uncond_BV, decode.guidance) if decode.guided_expert else cond_BV
    return contrast(expert_BV, uncond_BV, decode.alpha, decode.k, decode.amateur_temperature)


def mix(
    streams: Sequence[Tensor], decode: DecodeConfig, edit: EditGuidance | None = None
) -> Tensor:
    """One, two or, of `edit`, three streams [B, V] of one step as one distribution, conditional
    first: `combine`, or `guide_edit`.
    """
    if edit is not None:
        return guide_edit(*streams, edit.image, edit.text)
    return combine(streams[0], streams[1] if len(streams) == 2 else None, decode)


def choose(logits_BV: Tensor, uniforms_B: Tensor, decode: DecodeConfig) -> Tensor:
    """One id a row, int64 [B]: temperature, top-k, top-p, draw; temperature 0 is the most likely.

    Of tokens equally likely the first is taken at temperature 0.
    """
    if decode.temperature == 0:
        logits_BV = widen(logits_BV)
        _check_draw(logits_BV, logits_BV.softmax(-1, dtype=torch.float64), uniforms_B)
        return logits_BV.argmax(-1)
    logits_BV = temperature(logits_BV, decode.temperature)
    if decode.top_k is not None:
        logits_BV = top_k(logits_BV, decode.top_k)
    return draw(top_p(logits_BV, decode.top_p), uniforms_B)


def draw(logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """One id a row, int64 [B], by the inverse CDF in float64: the uniform in [0, 1) decides.

    A token of probability 0 is never drawn. Raises UserError for uniforms outside [0, 1) and for
    rows with NaN, with +inf, or with no finite logit.
    """
    if uniforms_B.shape != logits_BV.shape[:-1]:
        raise UserError(
            f"logits of shape {list(logits_BV.shape)} need one uniform a row, got shape "
            f"{list(uniforms_B.shape)}"
        )
    uniforms_B = uniforms_B.to(logits_BV.device, torch.float64)
    probabilities_BV = logits_BV.softmax(-1, dtype=torch.float64)
    _check_draw(logits_BV, probabilities_BV, uniforms_B)
    possible_BV = probabilities_BV > 0
    cdf_BV = probabilities_BV.cumsum(-1)
    # Parallel sums need not be monotone in the last bit, so impossible tokens are masked by name
    # and the target stays below the largest sum of a possible one: some token always passes.
    total_B = cdf_BV.where(possible_BV, 0).amax(-1)
    target_B = (uniforms_B * total_B).minimum(total_B.nextafter(torch.zeros_like(total_B)))
    passed_BV = (cdf_BV > target_B[..., None]) & possible_BV
    return passed_BV.to(torch.uint8).argmax(-1)  # the first of equal maxima


def _check_shapes(one_BV: Tensor, other_BV: Tensor) -> None:
    if one_BV.shape != other_BV.shape:
        raise UserError(
            f"the two streams must have one shape, got {list(one_BV.shape)} and "
            f"{list(other_BV.shape)}"
        )


def _check_k(name: str, k: int, size: int) -> None:
    if not (isinstance(k, int) and 1 <= k <= size):
        raise UserError(f"{name} must be an integer from 1 to {size}, the vocabulary, got {k}")


def _check_draw(logits_BV: Tensor, probabilities_BV: Tensor, uniforms_B: Tensor) -> None:
    # A row's softmax is NaN if it holds NaN or +inf, or only -inf: one test for all three.
    broken_B = probabilities_BV.sum(-1).isnan()
    outside_B = ~((uniforms_B >= 0) & (uniforms_B < 1))
    if not (broken_B | outside_B).any():  # one read from the device in the usual case
        return
    if outside_B.any():
        value = uniforms_B[outside_B].flatten()[0].item()
        raise UserError(f"uniforms must lie in [0, 1), got {value}")
    row = int(broken_B.flatten().to(torch.uint8).argmax())
    held = logits_BV.reshape(-1, logits_BV.shape[-1])[row]
    kind = "NaN" if held.isnan().any() else "+inf" if (held == torch.inf).any() else "only -inf"
    raise UserError(
        f"logits of row {row} hold {kind}, so no token can be drawn; "
        "check the weights, decode.guidance and decode.temperature"
    )
