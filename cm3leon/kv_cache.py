"""Keys and values of what a transformer has read, and attention over them.

Axes: B batch rows, T tokens, H heads, K head size, L filled cache slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3leon.config import ModelConfig
from cm3leon.errors import UserError


def causal(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Softmax attention, scale K ** -0.5; token t sees tokens 0..t."""
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)


class Cache:
    """Keys and values of B rows, each filled to its own length.

    `kv` [layers, 2, B, H, capacity, K] is allocated once. Slots past a row's length are masked and
    overwritten later, never read.
    """

    def __init__(self, config: ModelConfig, batch: int, capacity: int, device=None, dtype=None):
        if not 1 <= capacity <= config.context:
            raise UserError(
                f"a cache holds 1 to {config.context} tokens a row (model.context), got {capacity}"
            )
        shape = (config.layers, 2, batch, config.heads, capacity, config.width // config.heads)
        # Zeros, not empty: a masked slot has weight 0, and 0 times a stray NaN would be NaN.
        self.kv = torch.zeros(shape, device=device, dtype=dtype)
        self.rows_B = torch.arange(batch, device=device)
        self.lengths_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.longest = 0  # max of lengths_B, kept here so that no step waits for the device
        self.even = True  # all rows are equally long: nothing to mask
        self.mask_B11L: Tensor | None = None

    @property
    def batch(self) -> int:
        """Rows."""
        return self.kv.shape[2]

    @property
    def capacity(self) -> int:
        """Tokens a row can hold."""
        return self.kv.shape[4]

    def fill(
        self, layer: int, rows: slice, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor
    ) -> Tensor:
        """Store the prompts of some rows from slot 0 on and attend causally inside them."""
        tokens = k_BHTK.shape[2]
        self.kv[layer, 0, rows, :, :tokens] = k_BHTK
        self.kv[layer, 1, rows, :, :tokens] = v_BHTK
        # Padding stands on the right, where causal attention of a real token never looks.
        return causal(q_BHTK, k_BHTK, v_BHTK)

    def extend(self, layer: int, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        """Store one token (T = 1) at each row's length and attend to the row's filled part."""
        keys_BHCK, values_BHCK = self.kv[layer]
        if self.even:
            keys_BHCK[:, :, self.longest] = k_BHTK[:, :, 0]
            values_BHCK[:, :, self.longest] = v_BHTK[:, :, 0]
        else:
            keys_BHCK[self.rows_B, :, self.lengths_B] = k_BHTK[:, :, 0].to(keys_BHCK.dtype)
            values_BHCK[self.rows_B, :, self.lengths_B] = v_BHTK[:, :, 0].to(values_BHCK.dtype)
        filled = self.longest + 1
        # Two matrix products: with one query the CPU's fused attention is several times slower.
        scores_BHTL = (q_BHTK * q_BHTK.shape[-1] ** -0.5) @ keys_BHCK[:, :, :filled].mT
        if self.mask_B11L is not None:
            scores_BHTL = scores_BHTL + self.mask_B11L
        weights_BHTL = scores_BHTL.softmax(-1, dtype=torch.float32).to(values_BHCK.dtype)
        return weights_BHTL @ values_BHCK[:, :, :filled]

    def append(
        self,
        layer: int,
        rows: slice,
        starts_B: Tensor,
        lengths_B: Tensor,
        q_BHTK: Tensor,
        k_BHTK: Tensor,
        v_BHTK: Tensor,
    ) -> Tensor:
        """Store T tokens of some rows behind what they hold, the first `lengths_B` of them real.

        Token t of row b sees the row's first `starts_B` slots and the tokens 0..t that follow.
        """
        tokens_T = torch.arange(k_BHTK.shape[2], device=k_BHTK.device)
        slots_BT = starts_B[:, None] + tokens_T
        at_M, place_M = (tokens_T < lengths_B[:, None]).nonzero(as_tuple=True)
        keys_BHCK, values_BHCK = self.kv[layer, 0, rows], self.kv[layer, 1, rows]
        for store, new in ((keys_BHCK, k_BHTK), (values_BHCK, v_BHTK)):
            store[at_M, :, slots_BT[at_M, place_M]] = new[at_M, :, place_M].to(store.dtype)
        filled = int((starts_B + lengths_B).max())
        seen_BTL = torch.arange(filled, device=slots_BT.device) <= slots_BT[:, :, None]
        keys, values = keys_BHCK[:, :, :filled], values_BHCK[:, :, :filled]
        mask_B1TL = seen_BTL[:, None]
        return F.scaled_dot_product_attention(q_BHTK, keys, values, attn_mask=mask_B1TL)

    def copy(self, other: Cache, rows_B: Tensor) -> None:
        """Take over rows of another cache, row b from its row `rows_B[b]`."""
        filled = other.longest
        self.kv[:, :, :, :, :filled] = other.kv[:, :, rows_B, :, :filled]
        lengths_B = other.lengths_B[rows_B]
        shortest, longest = torch.stack(lengths_B.aminmax()).tolist()
        self.start(lengths_B, longest, even=shortest == longest)

    def start(self, lengths_B: Tensor, longest: int, even: bool) -> None:
        """Set the lengths after a prompt."""
        self.lengths_B.copy_(lengths_B)
        self.longest, self.even = longest, even

    def open(self) -> None:
        """Make room for one token a row: check the capacity and build the mask of this step."""
        if self.longest == self.capacity:
            raise UserError(
                f"the cache is full at {self.capacity} tokens; ask for a larger capacity"
            )
        self.mask_B11L = None
        if not self.even:
            slots_L = torch.arange(self.longest + 1, device=self.kv.device)
            beyond_BL = slots_L > self.lengths_B[:, None]
            mask_BL = torch.zeros(beyond_BL.shape, dtype=self.kv.dtype, device=self.kv.device)
            self.mask_B11L = mask_BL.masked_fill_(beyond_BL, -torch.inf)[:, None, None]

    def close(self) -> None:
        """Count the token that every layer has stored."""
        self.lengths_B += 1
        self.longest += 1
