"""Logits -> logits -> token: the pure functions of decoding, in the order they are applied (A34).

guide (Eq. 2) -> restrict -> temperature -> top_p -> draw. None changes its input. Logits may be of
any float type; results are float32 or wider. Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cm3leon.errors import UserError


def widen(logits: Tensor) -> Tensor:
    """The same numbers in at least float32: half precision is for storage, not for sums."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def guide(cond_BV: Tensor, free_BV: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance, free + weight * (cond - free) (Eq. 2); 1 is cond, 0 is free.

    Both streams must be finite (restrict afterwards). Raises UserError for a weight that is not.
    """
    if not math.isfinite(weight):
        raise UserError(f"decode.guidance must be finite, got {weight}")
    if cond_BV.shape != free_BV.shape:
        raise UserError(
            f"the two streams must have one shape, got {list(cond_BV.shape)} and "
            f"{list(free_BV.shape)}"
        )
    cond_BV, free_BV = widen(cond_BV), widen(free_BV)
    if weight == 1:
        return cond_BV
    if weight == 0:
        return free_BV
    return free_BV + weight * (cond_BV - free_BV)


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
    sorted_BV = logits_BV.sort(dim=-1, descending=True).values
    summed_BV = sorted_BV.softmax(-1, dtype=torch.float64).cumsum(-1)
    # Index of the first token at which the sum reaches the mass; rounding may leave none.
    last_B1 = (summed_BV < mass).sum(-1, keepdim=True).clamp(max=logits_BV.shape[-1] - 1)
    # The comparison is between logits, not probabilities: equal logits are equal exactly.
    return logits_BV.masked_fill(logits_BV < sorted_BV.gather(-1, last_B1), -torch.inf)


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
