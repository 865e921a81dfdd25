"""Keys and values of what a transformer has read, and attention over them.

Axes: B batch rows, T tokens, H heads, K head size, L filled cache slots.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3leon.config import ModelConfig
from cm3leon.errors import UserError
from cm3leon.model.attention import causal

SLACK = 4  # idle slots before the longest row are given up above this part of its length: 1/4


def attend_newest(q_BHK: Tensor, kv_2BHLK: Tensor, mask_B1L: Tensor | None) -> Tensor:
    """Attention of one token a row over L slots, [B, D]; the mask is added to the scores."""
    rows, heads, size = q_BHK.shape
    keys, values = kv_2BHLK.flatten(1, 2)  # of rows and heads, [B H, L, K]
    query = (q_BHK * size**-0.5).view(rows * heads, 1, size)
    # Two matrix products: with one query the CPU's fused attention is several times slower.
    scores_BHL = torch.bmm(query, keys.mT).view(rows, heads, -1)
    if mask_B1L is not None:
        scores_BHL += mask_B1L
    weights_BHL = scores_BHL.softmax(-1, dtype=torch.float32).to(values.dtype)
    seen = torch.bmm(weights_BHL.view(rows * heads, 1, -1), values)
    return seen.view(rows, heads * size)


class Cache:
    """Keys and values of B rows, each filled to its own length.

    `kv` [layers, 2, B, H, capacity, K] is allocated once. Prompts fill rows from slot 0 on; before
    the first step the rows are moved so that all end at the same slot, and a step writes one slot
    of all rows; a row that comes later (`put`) is written so that it ends there too. What a row
    does not hold is masked, never read.

    `lengths_B` counts a row's tokens; `next_B` is the place of its next one (`positions.py`), which
    goes on by one with every step. `go_on` sets it where what follows does not stand behind the
    last token.
    """

    def __init__(self, config: ModelConfig, batch: int, capacity: int, device=None, dtype=None):
        if not 1 <= capacity <= config.context:
            raise UserError(
                f"a cache holds 1 to {config.context} tokens a row (model.context), got {capacity}"
            )
        shape = (config.layers, 2, batch, config.heads, capacity, config.width // config.heads)
        # Zeros, not empty: a masked slot has weight 0, and 0 times a stray NaN would be NaN.
        self.kv = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.next_B = torch.zeros_like(self.lengths_B)
        self.last_place = config.places - 1  # where rows that have ended may wait
        self.table: tuple | None = None  # of places, and the weights it was made from
        self.longest = 0  # max of lengths_B, kept here so that no step waits for the device
        self.even = True  # all rows are equally long: nothing to mask
        self.mask_B1L: Tensor | None = None  # of rows that end together: 0, or -inf before a row

    @property
    def batch(self) -> int:
        """Rows."""
        return self.kv.shape[2]

    @property
    def capacity(self) -> int:
        """Tokens a row can hold."""
        return self.kv.shape[4]

    def parts(self) -> Iterator[Tensor]:
        """The keys and the values of each layer, [B, H, capacity, K]. What is moved is moved part
        by part: the copy in between stays small, and its memory is used again.
        """
        for layer in self.kv:
            yield from layer

    def fill(self, layer: int, rows: slice, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Store the prompts of some rows from slot 0 on and attend causally inside them; queries,
        keys and values are [B, H, T, K] each.
        """
        q_BHTK, k_BHTK, v_BHTK = qkv
        tokens = k_BHTK.shape[2]
        self.kv[layer, 0, rows, :, :tokens] = k_BHTK
        self.kv[layer, 1, rows, :, :tokens] = v_BHTK
        # Padding stands on the right, where causal attention of a real token never looks.
        return causal(q_BHTK, k_BHTK, v_BHTK)

    def extend(self, layer: int, qkv_BM: Tensor) -> Tensor:
        """Store one token a row and attend to the row's filled part: [B, 3 D] -> [B, D]."""
        kv_2BHLK = self.kv[layer]
        _, rows, heads, _, size = kv_2BHLK.shape
        qkv_B3HK = qkv_BM.view(rows, 3, heads, size)
        kv_2BHLK[:, :, :, self.longest] = qkv_B3HK[:, 1:].transpose(0, 1)
        filled = self.longest + 1
        mask_B1L = None if self.mask_B1L is None else self.mask_B1L[:, :, :filled]
        return attend_newest(qkv_B3HK[:, 0], kv_2BHLK[:, :, :, :filled], mask_B1L)

    def append(
        self,
        layer: int,
        rows: slice,
        starts_B: Tensor,
        lengths_B: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Store T tokens of some rows behind what they hold, the first `lengths_B` of them real;
        queries, keys and values are [B, H, T, K] each.

        Token t of row b sees the row's first `starts_B` slots and the tokens 0..t that follow.
        Raises UserError after a step: prompts come first.
        """
        if self.mask_B1L is not None:
            raise UserError("a cache that has taken steps takes no further prompts; make a new one")
        q_BHTK, k_BHTK, v_BHTK = qkv
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
        for own, others in zip(self.parts(), other.parts(), strict=True):
            own[:, :, :filled] = others[rows_B, :, :filled]
        lengths_B = other.lengths_B[rows_B]
        self.next_B.copy_(other.next_B[rows_B])
        shortest, longest = torch.stack(lengths_B.aminmax()).tolist()
        if other.mask_B1L is None:
            self.start(lengths_B, longest, even=shortest == longest)
            return
        self._end_at(filled, lengths_B, even=shortest == filled)

    def put(self, rows_R: Tensor, other: Cache, others_R: Tensor) -> None:
        """Prompts of a cache that has taken no step, in place of some of these rows.

        The others keep what they hold. All rows end at one slot, which moves to the right for a
        prompt that is longer, and to the left when much before the longest row lies idle.
        """
        if self.mask_B1L is None and not self.even:
            self._align()
        lengths_R = other.lengths_B[others_R]
        self.next_B.index_copy_(0, rows_R, other.next_B[others_R])
        lengths_B = self.lengths_B.index_copy(0, rows_R, lengths_R)
        shortest, longest = torch.stack(lengths_B.aminmax()).tolist()
        if longest > self.capacity:
            raise UserError(
                f"a prompt of {longest} tokens does not fit a cache of {self.capacity}; "
                "ask for a larger capacity"
            )
        filled = self.longest
        if longest > filled or filled - longest > longest // SLACK:
            filled = longest
            self._move(filled)
        self._end_at(filled, lengths_B, even=shortest == filled)
        for length in lengths_R.unique().tolist():
            same = lengths_R == length
            held = other.kv[:, :, others_R[same], :, :length]
            self.kv[:, :, rows_R[same], :, filled - length : filled] = held

    def settle(self) -> None:
        """Move all rows to the left until the longest begins at slot 0: room for more steps."""
        shortest, longest = torch.stack(self.lengths_B.aminmax()).tolist()
        if longest < self.longest:
            self._move(longest)
            self._end_at(longest, self.lengths_B, even=shortest == longest)

    def reorder(self, rows_B: Tensor, newest: int) -> None:
        """Row b takes the newest tokens of row `rows_B[b]`, which before these holds the same."""
        self.next_B.copy_(self.next_B[rows_B])
        moved_R = (rows_B != torch.arange(len(rows_B), device=rows_B.device)).nonzero()[:, 0]
        if newest and len(moved_R):
            part = self.kv[:, :, :, :, self.longest - newest : self.longest]
            part[:, :, moved_R] = part[:, :, rows_B[moved_R]]

    def start(self, lengths_B: Tensor, longest: int, even: bool) -> None:
        """Set the lengths after a prompt."""
        self.lengths_B.copy_(lengths_B)
        self.longest, self.even, self.mask_B1L = longest, even, None

    def go_on(self, next_B: Tensor) -> None:
        """Set the places of the next tokens, int64 [B]."""
        self.next_B.copy_(next_B).clamp_(max=self.last_place)

    def open(self) -> None:
        """Make room for one token a row: check the capacity, and let all rows end together."""
        if self.longest == self.capacity:
            raise UserError(
                f"the cache is full at {self.capacity} tokens; ask for a larger capacity"
            )
        if not self.even and self.mask_B1L is None:
            self._align()
            self._mask()

    def close(self) -> None:
        """Count the token that every layer has stored."""
        self.lengths_B += 1
        self.next_B.add_(1).clamp_(max=self.last_place)
        self.longest += 1

    def _move(self, end: int) -> None:
        """Move what all rows hold, so that they end at another slot."""
        by = end - self.longest
        low, high = max(by, 0), end
        for part in self.parts():
            part[:, :, low:high] = part[:, :, low - by : high - by].clone()

    def _end_at(self, filled: int, lengths_B: Tensor, even: bool) -> None:
        """Set the lengths of rows that end together."""
        self.start(lengths_B, filled, even)
        if not even:
            self._mask()

    def _align(self) -> None:
        """Move what shorter rows hold to the right, up to the end of the longest."""
        missing_B = self.longest - self.lengths_B
        for missing in missing_B.unique().tolist():
            if not missing:
                continue
            rows = (missing_B == missing).nonzero()[:, 0]
            for part in self.parts():
                held = part[rows, :, : self.longest - missing]  # a copy
                part[rows, :, missing : self.longest] = held

    def _mask(self) -> None:
        """The mask of rows that end together, for all steps to come."""
        slots_L = torch.arange(self.capacity, device=self.kv.device)
        before_BL = slots_L < (self.longest - self.lengths_B)[:, None]
        mask_BL = torch.zeros(before_BL.shape, dtype=self.kv.dtype, device=self.kv.device)
        self.mask_B1L = mask_BL.masked_fill_(before_BL, -torch.inf)[:, None]
