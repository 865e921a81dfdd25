"""Cross-entropy of the output embedding, a piece of rows at a time: no float32 logits are kept.

torch's own way holds logits in the type of the products, again in float32, their softmax and their
gradient. Here a piece's logits live as long as the piece; what stays for the backward pass are the
probabilities in the type of the products and, in float32, what the target lacks of 1: near 1 a
bfloat16 probability would lose just the gradient of what is nearly learned.

Axes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 2**20  # logits at once: they stay in the processor's caches


def head_loss(hidden_ND: Tensor, table_VD: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    """Losses in nats, float32 [N], of predicting the targets from states; 0 where `ignored`."""
    if torch.is_autocast_enabled(hidden_ND.device.type):
        cast = torch.get_autocast_dtype(hidden_ND.device.type)
        hidden_ND, table_VD = hidden_ND.to(cast), table_VD.to(cast)
    return _HeadLoss.apply(hidden_ND, table_VD, targets_N, ignored)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND: Tensor, table_VD: Tensor, targets_N: Tensor, ignored: int):
        kept_N = targets_N != ignored
        safe_N1 = targets_N.where(kept_N, 0)[:, None]
        losses_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        missing_N = torch.empty_like(losses_N)
        p_NV = hidden_ND.new_empty(len(hidden_ND), len(table_VD))
        for part in _parts(p_NV):
            logits_PV = (hidden_ND[part] @ table_VD.T).float()
            log_p_PV = logits_PV.log_softmax(-1)
            losses_N[part] = -log_p_PV.gather(1, safe_N1[part])[:, 0]
            missing_N[part] = -torch.expm1(-losses_N[part])
            p_NV[part] = log_p_PV.exp_()
        ctx.save_for_backward(hidden_ND, table_VD, safe_N1, kept_N, missing_N, p_NV)
        return losses_N.where(kept_N, 0)

    @staticmethod
    def backward(ctx, grad_N: Tensor):
        hidden_ND, table_VD, safe_N1, kept_N, missing_N, p_NV = ctx.saved_tensors
        grad_N1 = grad_N.where(kept_N, 0)[:, None]
        of_hidden_ND = torch.empty_like(hidden_ND)
        of_table_VD = torch.zeros_like(table_VD, dtype=torch.float32)
        for part in _parts(p_NV):
            of_logits_PV = p_NV[part] * grad_N1[part].to(p_NV.dtype)
            of_target = -missing_N[part][:, None] * grad_N1[part]
            of_logits_PV.scatter_(1, safe_N1[part], of_target.to(p_NV.dtype))
            of_hidden_ND[part] = of_logits_PV @ table_VD
            of_table_VD += of_logits_PV.T @ hidden_ND[part]
        return of_hidden_ND, of_table_VD.to(table_VD.dtype), None, None


def _parts(p_NV: Tensor) -> list[slice]:
    """Slices of rows, a piece each."""
    rows = max(1, PIECE // p_NV.shape[1])
    return [slice(start, start + rows) for start in range(0, len(p_NV), rows)]
