"""Causal attention of whole rows: by torch's fused kernel, and in training on a CPU by matrix
products.

torch's fused attention on a CPU spends a third of a training step at this project's head sizes,
most of it in its backward pass (LOG.md). Here scores, sums and their gradients are batched
products, cut into stretches of queries so that little of what causality forbids is computed.

Rows of different lengths are *packed*: everything but attention runs on their N tokens without
padding, and attention alone sees them as rows. Padding stands on the right, where a real token
never looks, so samples are kept apart without a mask.

Axes: B rows, T tokens, N tokens of all rows without padding, H heads, K head size, D = H K width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRETCH = 96  # queries at once
ROUND = 16  # rows are padded to a multiple of so many tokens: products of odd lengths are slow


def causal(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Softmax attention, scale K ** -0.5; token t sees tokens 0..t."""
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)


def split_heads(qkv_BTM: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, T, K] of [B, T, 3 D]."""
    batch, tokens, width = qkv_BTM.shape
    qkv = qkv_BTM.view(batch, tokens, 3, heads, width // (3 * heads))
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(seen_BHTK: Tensor) -> Tensor:
    """[B, H, T, K] -> [B, T, D]."""
    return seen_BHTK.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Rows:
    """Where the N packed tokens of B rows stand: `packed` int64 [N] among B x T places, `padded`
    int64 [B T] the token of each place, any for padding, whose places are `filler` int64 [..].
    """

    batch: int
    tokens: int
    packed: Tensor
    padded: Tensor
    filler: Tensor

    @classmethod
    def of(cls, real_BT: Tensor) -> Rows:
        """Of rows whose real tokens are these, bool [B, T], each row's first ones."""
        batch, tokens = real_BT.shape
        longest = -(-tokens // ROUND) * ROUND
        real_BT = F.pad(real_BT, (0, longest - tokens)).flatten()
        padded = (real_BT.cumsum(0) - 1).clamp_min(0)
        return cls(batch, longest, real_BT.nonzero()[:, 0], padded, (~real_BT).nonzero()[:, 0])

    def attend(self, qkv_NM: Tensor, heads: int) -> Tensor:
        """Causal attention inside each row: [N, 3 D] -> [N, D]."""
        if qkv_NM.is_cpu and torch.is_grad_enabled():
            return _Attention.apply(qkv_NM, heads, self)
        q_BHTK, k_BHTK, v_BHTK = self.pad(qkv_NM, 3 * heads).chunk(3, dim=1)
        return self.unpad(causal(q_BHTK, k_BHTK, v_BHTK))

    def pad(self, x_NM: Tensor, heads: int, zeros: bool = False) -> Tensor:
        """[N, H K] -> [B, H, T, K]; padding holds some token's values, with `zeros` nothing."""
        x_XM = x_NM.index_select(0, self.padded)
        if zeros:
            x_XM.index_fill_(0, self.filler, 0)
        return x_XM.view(self.batch, self.tokens, heads, -1).transpose(1, 2)

    def unpad(self, x_BHTK: Tensor) -> Tensor:
        """[B, H, T, K] -> [N, H K]."""
        return join_heads(x_BHTK).flatten(0, 1).index_select(0, self.packed)


class _Attention(torch.autograd.Function):
    """`Rows.attend` by products, its backward pass by hand; P are the weights of a query."""

    @staticmethod
    def forward(ctx, qkv_NM: Tensor, heads: int, rows: Rows) -> Tensor:
        qkv_3XTK = _heads_first(rows.pad(qkv_NM, 3 * heads), heads)
        q_XTK, k_XTK, v_XTK = qkv_3XTK
        scale, seen, kept = q_XTK.shape[-1] ** -0.5, [], []
        for start, stop in _stretches(rows.tokens):
            mask = _mask(start, stop, q_XTK)
            scores = torch.baddbmm(mask, q_XTK[:, start:stop], k_XTK[:, :stop].mT, alpha=scale)
            p_XSL = scores.softmax(-1, dtype=torch.float32).to(q_XTK.dtype)
            seen.append(torch.bmm(p_XSL, v_XTK[:, :stop]))
            kept.append(p_XSL)
        ctx.save_for_backward(qkv_3XTK, *kept)
        ctx.heads, ctx.rows = heads, rows
        return rows.unpad(torch.cat(seen, 1).view(rows.batch, heads, rows.tokens, -1))

    @staticmethod
    def backward(ctx, grad_ND: Tensor):
        (qkv_3XTK, *kept), rows = ctx.saved_tensors, ctx.rows
        q_XTK, k_XTK, v_XTK = qkv_3XTK
        scale = q_XTK.shape[-1] ** -0.5
        grad_XTK = rows.pad(grad_ND, ctx.heads, zeros=True).flatten(0, 1)  # a copy
        found_3XTK = torch.zeros_like(qkv_3XTK)
        of_q, of_k, of_v = found_3XTK
        for (start, stop), p_XSL in zip(_stretches(rows.tokens), kept, strict=True):
            grad_XSK = grad_XTK[:, start:stop]
            of_v[:, :stop].baddbmm_(p_XSL.mT, grad_XSK)
            of_p_XSL = torch.bmm(grad_XSK, v_XTK[:, :stop].mT)
            of_scores = torch._softmax_backward_data(of_p_XSL, p_XSL, -1, p_XSL.dtype)
            of_q[:, start:stop].baddbmm_(of_scores, k_XTK[:, :stop], alpha=scale)
            of_k[:, :stop].baddbmm_(of_scores.mT, q_XTK[:, start:stop], alpha=scale)
        found = found_3XTK.view(3, rows.batch, ctx.heads, rows.tokens, -1).transpose(0, 1)
        return rows.unpad(found.flatten(1, 2)), None, None


def _heads_first(x_BHTK: Tensor, heads: int) -> Tensor:
    """Queries, keys and values apart, contiguous [3, B H, T, K], of [B, 3 H, T, K]."""
    batch, _, tokens, size = x_BHTK.shape
    parts = x_BHTK.view(batch, 3, heads, tokens, size).transpose(0, 1)
    return parts.reshape(3, batch * heads, tokens, size)


def _stretches(tokens: int) -> list[tuple[int, int]]:
    """Half-open stretches of queries."""
    return [(start, min(start + STRETCH, tokens)) for start in range(0, tokens, STRETCH)]


def _mask(start: int, stop: int, like: Tensor) -> Tensor:
    """0 where query start + s may see key l, else -inf: [1, S, L]."""
    mask = torch.full((stop - start, stop), -torch.inf, dtype=like.dtype, device=like.device)
    return mask.triu_(start + 1)[None]
