"""The decoder-only network of Table 3.

Pre-norm, no biases, LayerNorm without parameters (also at the end), ReLU, FFN 4d, learned absolute
positions (`positions.py` says where a token stands), no dropout: OPT's network with the paper's
omissions. On the same weights and positions the logits equal Hugging Face's
`OPTForCausalLM(enable_bias=False, layer_norm_elementwise_affine=False)`.
OPT's position table has two more rows in front, which an export prepends.

Axes: B batch rows, T tokens, D width, H heads, K head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cm3leon.config import ModelConfig
from cm3leon.errors import UserError
from cm3leon.model.attention import Rows, join_heads, split_heads
from cm3leon.model.cross_entropy import head_loss
from cm3leon.model.kv_cache import Cache
from cm3leon.seeds import torch_generator

IGNORE = -100  # a target that carries no loss
LOGITS_AT_ONCE = 2**26  # float32 logits held by the loss: 256 MiB
PROMPT_TOKENS_AT_ONCE = 2**12  # prompts are read in pieces of whole rows: less memory, warm caches
Attend = Callable[[Tensor, int], Tensor]  # queries, keys, values [.., 3 D], heads -> [.., D]
Advance = Callable[[Tensor, Cache], Tensor]  # embedded tokens [B, D], used up -> logits [B, V]


class Linear(nn.Linear):
    """A matrix without bias whose values `Transformer.initialise` draws, not the constructor."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Embedding(nn.Embedding):
    """A table whose values `Transformer.initialise` draws, not the constructor."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


def norm(x_BTD: Tensor) -> Tensor:
    """LayerNorm without learnable parameters, eps 1e-5."""
    return F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=1e-5)


class Block(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)  # rows: all queries, all keys, all values
        self.out = Linear(width, width)
        self.up = Linear(width, 4 * width)
        self.down = Linear(4 * width, width)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """One layer on states [.., D]; `attend` decides what a token sees."""
        x = x + self.out(attend(self.qkv(norm(x)), self.heads))
        return x + self.down(F.relu(self.up(norm(x))))


class Transformer(nn.Module):
    """Token ids -> logits of the next token.

    Weights come from `generator` (default: a fixed seed), drawn on the CPU in float32. Inside
    `torch.device("meta")` nothing is drawn: load weights with `load_state_dict(..., assign=True)`.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.recompute = False  # True: training keeps no activations inside blocks, makes them anew
        self.vocabulary_size = config.vocabulary.size
        self.token_embedding = Embedding(self.vocabulary_size, config.width)
        self.position_embedding = Embedding(config.position_vectors, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.head = None if config.tied else Linear(config.width, self.vocabulary_size)
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Truncated normal, cut at 3 standard deviations; residual outputs exactly zero (Table 3).

        The paper's "output layers are initialized as 0" is read as the attention out-projection
        and the second FFN matrix (A1), so every block starts as the identity.
        """
        if self.token_embedding.weight.is_meta:
            return
        for weight, values in self.first_values(generator):
            weight.copy_(values)

    @torch.no_grad()
    def first_values(
        self, generator: torch.Generator | None = None
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Every weight and the values that `initialise` gives it, float32 on the CPU, one after the
        other: no more than one is held.
        """
        generator = generator or torch_generator(0, "weights", self.config.name)
        for name, weight in self.named_parameters():
            positions = name.startswith("position_embedding")
            std = self.config.position_std if positions else self.config.init_std
            if name.endswith(("out.weight", "down.weight")):
                std = 0
            drawn = torch.zeros(weight.shape, dtype=torch.float32, device="cpu")
            if std > 0:
                nn.init.trunc_normal_(drawn, 0.0, std, -3 * std, 3 * std, generator=generator)
            yield weight, drawn

    def forward(
        self, ids_BT: Tensor, positions_BT: Tensor | None = None, targets_BT: Tensor | None = None
    ) -> Tensor:
        """Logits [B, T, V]; with `targets_BT` instead the losses [B, T] in nats, float32.

        `positions_BT` are the places of the tokens (`positions.place`); left out they are the
        indices in the row, which only a model of positions "row" can mean. A target of `IGNORE` has
        loss 0. Raises UserError for ids outside the vocabulary, for rows longer than the context,
        for missing positions and for shapes that do not match.
        """
        if targets_BT is None:
            return self.logits(self.hidden(ids_BT, positions_BT))
        if targets_BT.shape != ids_BT.shape:
            raise UserError(
                f"targets of shape {list(targets_BT.shape)} do not match ids of shape "
                f"{list(ids_BT.shape)}"
            )
        known_BT = targets_BT != IGNORE
        check_range("targets", targets_BT.where(known_BT, 0), self.vocabulary_size)
        # Behind a row's last target nothing is wanted: it is not computed.
        real_BT = known_BT.flip(1).cummax(1).values.flip(1)
        real_BT[:1, :1] = True  # something is computed where nothing is wanted at all
        hidden_ND = self._packed(ids_BT, positions_BT, real_BT)
        losses_BT = torch.zeros(targets_BT.shape, device=targets_BT.device)
        losses_BT[real_BT] = self._losses(hidden_ND, targets_BT[real_BT])
        return losses_BT

    def loss_per_token(
        self, ids_BT: Tensor, weights_BT: Tensor | None = None, positions_BT: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy in nats of predicting `ids_BT[:, 1:]`: float32 [B, T-1], not weighted.

        Where `weights_BT` (one weight an id, as `objective.rotate` gives) is 0 the loss is 0.
        `positions_BT` are the places of the ids, as in `forward`.
        Logits are never held for more than `LOGITS_AT_ONCE` numbers.
        """
        targets_BT = ids_BT[:, 1:]
        if weights_BT is not None:
            if weights_BT.shape != ids_BT.shape:
                raise UserError(
                    f"weights of shape {list(weights_BT.shape)} do not match ids of shape "
                    f"{list(ids_BT.shape)}"
                )
            targets_BT = targets_BT.masked_fill(weights_BT[:, 1:] == 0, IGNORE)
        if positions_BT is not None:
            positions_BT = positions_BT[:, :-1]
        return self(ids_BT[:, :-1], positions_BT, targets_BT)

    def hidden(self, ids_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """States after the final LayerNorm, [B, T, D]; arguments and errors as in `forward`."""
        real_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        return self._packed(ids_BT, positions_BT, real_BT).view(*ids_BT.shape, -1)

    def _packed(self, ids_BT: Tensor, positions_BT: Tensor | None, real_BT: Tensor) -> Tensor:
        """States of the real tokens, bool [B, T], each row's first ones: [N, D]."""
        self._check(ids_BT)
        self._check_positions(positions_BT, ids_BT)
        if positions_BT is None:
            positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device).expand_as(ids_BT)
        rows = Rows.of(real_BT)
        x_ND = self.token_embedding(ids_BT[real_BT])
        x_ND = x_ND + F.embedding(positions_BT[real_BT], self.position_table())
        anew = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            if anew:
                x_ND = checkpoint(block, x_ND, rows.attend, use_reentrant=False)
            else:
                x_ND = block(x_ND, rows.attend)
        return norm(x_ND)

    def logits(self, hidden: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        """Logits of the ids [start, end): [..., D] -> [..., end - start]."""
        return F.linear(hidden, self.table(start, end))

    def table(self, start: int, end: int | None) -> Tensor:
        """Rows [start, end) of the output embedding."""
        table_VD = (self.token_embedding if self.head is None else self.head).weight
        end = self.vocabulary_size if end is None else end
        if not 0 <= start < end <= self.vocabulary_size:
            raise UserError(
                f"ids [{start}, {end}) must be a range inside [0, {self.vocabulary_size})"
            )
        return table_VD[start:end]

    def position_table(self) -> Tensor:
        """The vectors of all places, [P, D] (`ModelConfig.places`)."""
        vectors, config = self.position_embedding.weight, self.config
        if config.positions != "grid":
            return vectors
        sizes = [
            config.position_text,
            *[config.position_grid] * 2,
            *[config.position_pairs + 1] * 2,
        ]
        text_TD, row_GD, column_GD, of_text_SD, of_picture_SD = vectors.split(sizes)
        cell_ND = (row_GD[:, None] + column_GD).flatten(0, 1)
        parts = [of_text_SD[:, None] + text_TD, of_picture_SD[:, None] + cell_ND]
        return torch.cat(parts, dim=1).flatten(0, 1)[: config.places]

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` rows of up to `capacity` tokens, on this model's device."""
        weight = self.token_embedding.weight
        return Cache(self.config, batch, capacity, weight.device, weight.dtype)

    @torch.inference_mode()
    def prefill(
        self,
        ids_BT: Tensor,
        lengths_B: Tensor,
        cache: Cache,
        start: int = 0,
        end: int | None = None,
        positions_BT: Tensor | None = None,
    ) -> Tensor:
        """Read the prompts and return the logits [B, end - start] after each row's last token, at
        least float32.

        `ids_BT` is padded on the right with any valid id; row b counts to `lengths_B[b]`.
        `positions_BT` are the places of the ids (`positions.place`), any where there is padding;
        left out they are the indices in the row, which only a model of positions "row" can mean.
        `cache` is filled from its beginning, whatever it held; its next tokens stand behind the
        last ones.
        """
        self._check(ids_BT)
        self._check_positions(positions_BT, ids_BT)
        shortest, longest = check_lengths(lengths_B, ids_BT)
        if ids_BT.shape[0] != cache.batch or longest > cache.capacity:
            raise UserError(
                f"prompts of {ids_BT.shape[0]} rows and {longest} tokens do not fit a cache of "
                f"{cache.batch} rows and {cache.capacity} tokens"
            )
        parts = pieces(lengths_B.tolist(), PROMPT_TOKENS_AT_ONCE)
        lengths_B = lengths_B.to(ids_BT.device)
        places_BT = self._places(positions_BT, torch.zeros_like(lengths_B), longest)
        states = [
            self._read(
                ids_BT[rows, :most],
                lengths_B[rows],
                places_BT[rows, :most],
                cache,
                partial(cache.fill, rows=rows),
            )
            for rows, most in parts
        ]
        cache.start(lengths_B, longest, even=shortest == longest)
        cache.go_on(behind(places_BT, lengths_B))
        return widen(self.logits(torch.cat(states), start, end))

    @torch.inference_mode()
    def extend(
        self,
        ids_BT: Tensor,
        lengths_B: Tensor,
        cache: Cache,
        start: int = 0,
        end: int | None = None,
        positions_BT: Tensor | None = None,
    ) -> Tensor:
        """Read on behind what every row of the cache holds; arguments and result as in `prefill`.

        The same logits as `prefill` of the whole rows gives, up to rounding.
        """
        self._check(ids_BT)
        self._check_positions(positions_BT, ids_BT)
        _, longest = check_lengths(lengths_B, ids_BT)
        parts = pieces(lengths_B.tolist(), PROMPT_TOKENS_AT_ONCE)
        lengths_B = lengths_B.to(ids_BT.device)
        after_B = cache.lengths_B + lengths_B
        least, most = torch.stack(after_B.aminmax()).tolist()
        if ids_BT.shape[0] != cache.batch or most > cache.capacity:
            raise UserError(
                f"{ids_BT.shape[0]} rows of up to {most} tokens do not fit a cache of "
                f"{cache.batch} rows and {cache.capacity} tokens"
            )
        places_BT, states = self._places(positions_BT, cache.lengths_B, longest), []
        for rows, longest in parts:
            starts_B = cache.lengths_B[rows]
            put = partial(cache.append, rows=rows, starts_B=starts_B, lengths_B=lengths_B[rows])
            read = (ids_BT[rows, :longest], lengths_B[rows], places_BT[rows, :longest], cache, put)
            states.append(self._read(*read))
        cache.start(after_B, most, even=least == most)
        cache.go_on(behind(places_BT, lengths_B))
        return widen(self.logits(torch.cat(states), start, end))

    @torch.inference_mode()
    def step(
        self,
        ids_B: Tensor,
        cache: Cache,
        start: int = 0,
        end: int | None = None,
        by: Advance | None = None,
    ) -> Tensor:
        """Append one token to every row and return the logits [B, end - start] after it, at least
        float32.

        The tokens stand at `cache.next_B`, which goes on by one. The same logits as `forward` over
        the whole row gives at its last token. The ids are not checked again: they come from a draw
        over a range of this vocabulary. `by` takes the step through the layers for these ids in
        another way (`engine.rule.step_of`); left out, torch does.
        """
        cache.open()
        x_BD = self.token_embedding(ids_B) + F.embedding(cache.next_B, self._table(cache))
        if by is not None:
            logits_BV = by(x_BD, cache)
        else:
            for layer, block in enumerate(self.blocks):
                x_BD = block(x_BD, partial(_newest, cache, layer))
            logits_BV = widen(self.logits(norm(x_BD), start, end))
        cache.close()
        return logits_BV

    def _read(
        self, ids_BT: Tensor, lengths_B: Tensor, places_BT: Tensor, cache: Cache, put: Callable
    ) -> Tensor:
        """Run tokens through the blocks; the states [B, D] at each row's last token.
        `put(layer, qkv=)` stores keys and values and attends.
        """
        x_BTD = self.token_embedding(ids_BT) + F.embedding(places_BT, self._table(cache))
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, partial(_cached, put, layer))
        return norm(x_BTD[torch.arange(len(ids_BT), device=ids_BT.device), lengths_B - 1])

    def _places(self, positions_BT: Tensor | None, starts_B: Tensor, longest: int) -> Tensor:
        """The places of rows that begin behind so many tokens, [B, T]."""
        if positions_BT is not None:
            return positions_BT[:, :longest].to(starts_B.device)
        positions_BT = starts_B[:, None] + torch.arange(longest, device=starts_B.device)
        return positions_BT.clamp(max=self.config.context - 1)  # of padding

    def _table(self, cache: Cache) -> Tensor:
        """`position_table` as the weights are; a sum is not made again for every token."""
        weight = self.position_embedding.weight
        if self.config.positions != "grid":
            return weight
        stamp = (weight.data_ptr(), version(weight))
        if cache.table is None or cache.table[0] != stamp:
            cache.table = (stamp, self.position_table())
        return cache.table[1]

    def _check_positions(self, positions_BT: Tensor | None, ids_BT: Tensor) -> None:
        if positions_BT is None:
            if self.config.positions != "row":
                raise UserError(
                    f"a model of positions {self.config.positions!r} must be told where the tokens "
                    "stand; give positions_BT (positions.place)"
                )
            return
        if positions_BT.shape != ids_BT.shape:
            raise UserError(
                f"positions of shape {list(positions_BT.shape)} do not match ids of shape "
                f"{list(ids_BT.shape)}"
            )
        check_range("positions", positions_BT, self.config.places)

    def _check(self, ids_BT: Tensor) -> None:
        if ids_BT.ndim != 2 or ids_BT.dtype.is_floating_point or not ids_BT.shape[1]:
            raise UserError(
                "ids must be whole numbers of shape [rows, tokens] with at least one token, got "
                f"{ids_BT.dtype} of shape {list(ids_BT.shape)}"
            )
        if ids_BT.shape[1] > self.config.context:
            raise UserError(
                f"a sequence of {ids_BT.shape[1]} tokens exceeds model.context "
                f"{self.config.context}; shorten it"
            )
        check_range("ids", ids_BT, self.vocabulary_size)

    def _losses(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        """Cross-entropy [M]; above the limit in pieces whose logits are made again in backward."""
        piece = max(1, LOGITS_AT_ONCE // self.vocabulary_size)
        if len(hidden_MD) <= piece:
            return self._cross_entropy(hidden_MD, targets_M)
        pairs = zip(hidden_MD.split(piece), targets_M.split(piece), strict=True)
        return torch.cat(
            [checkpoint(self._cross_entropy, *pair, use_reentrant=False) for pair in pairs]
        )

    def _cross_entropy(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        return head_loss(hidden_MD, self.table(0, None), targets_M, IGNORE)


def widen(logits: Tensor) -> Tensor:
    """The same numbers in at least float32: half precision is for storage, not for sums."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def version(weight: Tensor) -> int:
    """How often a tensor was changed in place; made under inference mode it does not count."""
    return -1 if weight.is_inference() else weight._version


def behind(places_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The place behind each row's last token, [B]."""
    return places_BT.gather(1, lengths_B[:, None] - 1)[:, 0] + 1


def _cached(put: Callable, layer: int, qkv_BTM: Tensor, heads: int) -> Tensor:
    """Attention by a cache: [B, T, 3 D] -> [B, T, D]."""
    return join_heads(put(layer, qkv=split_heads(qkv_BTM, heads)))


def _newest(cache: Cache, layer: int, qkv_BM: Tensor, heads: int) -> Tensor:
    """Attention of one token a row by a cache: [B, 3 D] -> [B, D]."""
    return cache.extend(layer, qkv_BM)


def pieces(lengths: Sequence[int], most: int) -> list[tuple[slice, int]]:
    """Rows of these lengths in order as slices, and the longest of each: with its padding a slice
    has at most `most` tokens, or is one row.
    """
    found: list[tuple[slice, int]] = []
    for row, length in enumerate(lengths):
        if found:
            last, longest = found[-1]
            longest = max(longest, length)
            if longest * (row + 1 - last.start) <= most:
                found[-1] = slice(last.start, row + 1), longest
                continue
        found.append((slice(row, row + 1), length))
    return found


def places_read(lengths_B: Tensor) -> int:
    """Tokens that reading prompts of these lengths takes, padding included."""
    parts = pieces(lengths_B.tolist(), PROMPT_TOKENS_AT_ONCE)
    return sum((rows.stop - rows.start) * longest for rows, longest in parts)


def check_range(name: str, values: Tensor, size: int) -> None:
    """Raise UserError unless all values lie in [0, size); one small read from the device."""
    if values.is_meta or torch.compiler.is_compiling() or not values.numel():
        return
    low, high = (int(bound) for bound in torch.stack(values.aminmax()).tolist())
    if low < 0 or high >= size:
        raise UserError(f"{name} must lie in [0, {size}), got {low if low < 0 else high}")


def check_lengths(lengths_B: Tensor, ids_BT: Tensor) -> tuple[int, int]:
    """(shortest, longest) prompt; UserError unless one length a row, each in [1, T]."""
    rows, tokens = ids_BT.shape
    if lengths_B.shape != (rows,) or not rows:
        raise UserError(f"{rows} prompts need {rows} lengths, got shape {list(lengths_B.shape)}")
    shortest, longest = torch.stack(lengths_B.aminmax()).tolist()
    if shortest < 1 or longest > tokens:
        bad = shortest if shortest < 1 else longest
        raise UserError(f"prompt lengths must lie in [1, {tokens}], got {bad}")
    return shortest, longest
