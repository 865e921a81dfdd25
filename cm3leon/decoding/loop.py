"""Several streams of the same samples in one cache, which leave when they are done.

While samples wait, the next ones take the places of those that are done (continuous refill); after
that the cache shrinks. What a sample is given does not depend on when it comes.

Axes: S streams, B samples in all, R samples in the cache, W rows of each in a stream (beams),
X = S * R * W rows of the cache, stream by stream; V ids of the range whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cm3leon.config import check
from cm3leon.decoding.images import pad, unique
from cm3leon.errors import UserError
from cm3leon.model.kv_cache import Cache
from cm3leon.model.transformer import Transformer
from cm3leon.sequence.documents import Vocabulary

AHEAD = 4  # waiting prompts are read by this part of the slots: few calls, little memory


class Streams:
    """The read prompts of S streams, and `logits`: what follows each row, S tensors [R * W, V].

    `prompts_SB` are int64 [T], ragged; `places_SB`, of T + 1 or more, say where a prompt's tokens
    stand and the one that follows (`positions.place_prompt`). No sample gets more than `most`
    tokens. V are the ids [start, end). At most `slots` samples (None: all) are in the cache at
    once; `sample_R` says which. The loop that draws sets `ended_R`. Prompts that are equal, places
    too, are read once.

    `counters`, if given, is increased by the work done: "prefill_tokens" and "step_tokens" (places
    of the batch, padding included), "idle_tokens" (those of steps whose sample had ended) and
    "forward_calls".
    """

    def __init__(
        self,
        model: Transformer,
        prompts_SB: Sequence[Sequence[np.ndarray]],
        places_SB: Sequence[Sequence[np.ndarray]],
        most: int,
        start: int,
        end: int,
        slots: int | None = None,
        width: int = 1,
        counters: dict[str, int] | None = None,
    ):
        check(slots is None or slots >= 1, "slots", "be at least 1", slots)
        self.model, self.range, self.width = model, (start, end), width
        self.device = model.token_embedding.weight.device
        self.prompts_SB, self.places_SB, self.count = prompts_SB, places_SB, len(prompts_SB)
        self.samples = len(prompts_SB[0])
        self.counters = {} if counters is None else counters
        longest = max(len(row) for stream in prompts_SB for row in stream)
        self.capacity = min(longest + most, model.config.context)
        self.sample_R = np.arange(min(self.samples, slots or self.samples))
        self.ended_R = np.zeros(len(self.sample_R), bool)
        self.slots = len(self.sample_R)
        self.next = self.read = self.slots  # the first sample that waits, that is not yet read
        self._begin()

    @property
    def full(self) -> bool:
        """Whether the cache has no place for another token: only samples that go on may stay."""
        return self.cache.longest == self.cache.capacity

    @torch.inference_mode()
    def refill(self) -> np.ndarray:
        """Samples that wait take places of those that ended; these places, int64, maybe none.

        Call it until there are none: it gives no more than have been read at once.
        """
        places = np.flatnonzero(self.ended_R)[: self.samples - self.next]
        if not len(places):
            return places
        if self.next == self.read:
            self._read_ahead()
        places = places[: self.read - self.next]
        which_SA = self.which_SA[:, self.next - self.read :][:, : len(places)]
        rows_X = self._tensor(self._rows(places))
        few_X = self._tensor(which_SA.repeat(self.width, 1).ravel())
        self.cache.put(rows_X, self.ahead, few_X)
        logits_XV = torch.cat(self.logits).index_copy(0, rows_X, self.ahead_PV[few_X])
        self.logits = list(logits_XV.chunk(self.count))
        self.sample_R[places] = np.arange(self.next, self.next + len(places))
        self.ended_R[places] = False
        self.next += len(places)
        return places

    def shrink(self) -> np.ndarray:
        """Let ended samples leave once they are half of all, or the cache is full; the places
        int64 [R] of those that stay.
        """
        left_R = np.flatnonzero(~self.ended_R)
        if 2 * len(left_R) > len(self.ended_R) and not (self.full and self.ended_R.any()):
            return np.arange(len(self.ended_R))
        self.take(left_R)
        return left_R

    @torch.inference_mode()
    def take(self, places: np.ndarray) -> None:
        """Go on with the samples in these places, in this order; one may be taken twice."""
        self._copy(self._rows(places), self.cache)
        rows_R = self._tensor(self._rows(places)[: len(places) * self.width])
        self.logits = [logits_RV[rows_R] for logits_RV in self.logits]
        self.sample_R, self.ended_R = self.sample_R[places], self.ended_R[places]

    @torch.inference_mode()
    def reorder(self, parents_RW: np.ndarray, newest: int) -> None:
        """Row w of each sample goes on from its row `parents_RW[r, w]`; call `step` next.

        The rows of a sample differ in at most their `newest` last tokens.
        """
        own_RW = np.arange(len(parents_RW))[:, None] * self.width + parents_RW
        rows_SRW = own_RW + np.arange(self.count)[:, None, None] * own_RW.size
        self.cache.reorder(self._tensor(rows_SRW.ravel()), newest)

    @torch.inference_mode()
    def step(self, ids_X: Tensor, places_X: Tensor | None = None) -> None:
        """Append one id to every row, at these places; left out: behind the one before it."""
        if self.full:
            self.cache.settle()
        if places_X is not None:
            self.cache.go_on(places_X)
        logits_XV = self.model.step(ids_X.to(self.device), self.cache, *self.range)
        self.logits = list(logits_XV.chunk(self.count))
        self._count("step_tokens", len(ids_X))
        self._count("idle_tokens", int(self.ended_R.sum()) * self.count * self.width)
        self._count("forward_calls", 1)

    def _begin(self) -> None:
        """Read the first samples into the cache they stay in."""
        few, logits_PV, which_SA = self._read(self.sample_R, self.capacity)
        places_X = which_SA.repeat(self.width, 1).ravel()
        self._copy(places_X, few)
        self.logits = list(logits_PV[self._tensor(places_X)].chunk(self.count))

    def _read_ahead(self) -> None:
        """Read the next of the samples that wait into a cache of their own."""
        stop = min(self.samples, self.read + max(1, self.slots // AHEAD))
        samples_A, self.read = np.arange(self.read, stop), stop
        self.ahead, self.ahead_PV, self.which_SA = self._read(samples_A, None)

    def _read(
        self, samples_A: np.ndarray, capacity: int | None
    ) -> tuple[Cache, Tensor, np.ndarray]:
        """Read the different prompts P of these samples: a cache, the logits [P, V] after each, and
        which of them the samples have, int64 [S, A].
        """
        rows = []
        for prompts_B, places_B in zip(self.prompts_SB, self.places_SB, strict=True):
            for sample in samples_A:
                prompt = prompts_B[sample]
                # Where what follows stands is the last column; its id is not known yet.
                places = places_B[sample][: len(prompt) + 1]
                rows.append(np.stack([np.append(prompt, 0), places]))
        few, which = unique(rows)
        ids_PT, lengths_P = pad([row[0, :-1] for row in few], 0)
        positions_PT, _ = pad([row[1, :-1] for row in few], 0)
        cache = self.model.cache(len(few), capacity or ids_PT.shape[1])
        asked = (lengths_P, cache, *self.range, positions_PT)
        logits_PV = self.model.prefill(ids_PT.to(self.device), *asked)
        cache.go_on(torch.tensor([row[1, -1] for row in few]))
        self._count("prefill_tokens", ids_PT.numel())
        self._count("forward_calls", 1)
        return cache, logits_PV, np.array(which).reshape(self.count, -1)

    def _rows(self, places: np.ndarray) -> np.ndarray:
        """The rows of the cache, int64 [X], of the samples in these places."""
        rows_RW = places[:, None] * self.width + np.arange(self.width)
        starts_S = np.arange(self.count) * len(self.sample_R) * self.width
        return (starts_S[:, None, None] + rows_RW).ravel()

    def _copy(self, places_X: np.ndarray, old: Cache) -> None:
        """These rows of a cache as the cache to go on with."""
        self.cache = old
        if not np.array_equal(places_X, np.arange(old.batch)):
            self.cache = self.model.cache(len(places_X), self.capacity)
            self.cache.copy(old, self._tensor(places_X))

    def _tensor(self, places: np.ndarray) -> Tensor:
        return torch.as_tensor(places, device=self.device)

    def _count(self, name: str, more: int) -> None:
        self.counters[name] = self.counters.get(name, 0) + more


def limits(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts_SB: Sequence[Sequence[np.ndarray]],
    samples: int,
    most: int,
) -> np.ndarray:
    """Tokens each sample may get, int64 [B]: `most`, or what its longest prompt leaves of the
    context. Raises UserError for counts that do not match and for a prompt that leaves nothing.
    """
    check(most >= 1, "most", "be at least 1", most)
    context = model.config.context
    if vocabulary.size != model.vocabulary_size:
        raise UserError(
            f"the vocabulary has {vocabulary.size} ids but the model {model.vocabulary_size}; "
            "use the one it was trained with"
        )
    for stream in prompts_SB:
        if len(stream) != samples:
            raise UserError(f"{samples} samples need {samples} prompts, got {len(stream)}")
        for index, prompt in enumerate(stream):
            if not 1 <= len(prompt) < context:
                raise UserError(
                    f"prompt {index} has {len(prompt)} tokens and must have 1 to {context - 1} "
                    f"(model.context {context}) for something to follow; shorten the text or use "
                    "fewer documents"
                )
    lengths_SB = np.array([[len(row) for row in stream] for stream in prompts_SB], np.int64)
    return np.minimum(context - lengths_SB.max(0), most)
