"""Several streams of the same samples in one cache, of which samples leave when they are done.

Axes: S streams, R samples that are still in the cache, X = S * R rows of the cache, stream by
stream; B samples at the start, V ids of the range whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cm3leon.config import check
from cm3leon.errors import UserError
from cm3leon.generate import pad, unique
from cm3leon.sequence import Vocabulary
from cm3leon.transformer import Transformer


class Streams:
    """The read prompts of S streams, and `logits`: what follows each row, S tensors [R, V].

    `prompts_SB` are int64 [T], ragged; no sample gets more than `most` tokens. V are the ids
    [start, end). Equal prompts are read once.
    """

    def __init__(
        self,
        model: Transformer,
        prompts_SB: Sequence[Sequence[np.ndarray]],
        most: int,
        start: int,
        end: int,
    ):
        self.model, self.left, self.range = model, most, (start, end)
        self.device = model.token_embedding.weight.device
        self.count = len(prompts_SB)
        self.rows_X = [np.asarray(row).tolist() for stream in prompts_SB for row in stream]
        self._read()

    @property
    def full(self) -> bool:
        """Whether the cache has no place for another token: only samples that go on may stay."""
        return self.used == self.cache.capacity

    def take(self, samples_R: np.ndarray) -> None:
        """Go on with these samples, in this order; one may be taken twice."""
        samples = len(self.rows_X) // self.count
        places_X = np.concatenate([samples_R + stream * samples for stream in range(self.count)])
        self.rows_X = [list(self.rows_X[place]) for place in places_X]
        places_R = torch.as_tensor(samples_R, device=self.device)
        self.logits = [logits_RV[places_R] for logits_RV in self.logits]
        if not self.full:
            self._copy(places_X)

    def step(self, ids_X: Tensor) -> None:
        """Append one id to every row."""
        for row, token in zip(self.rows_X, ids_X.tolist(), strict=True):
            row.append(token)
        self.left -= 1
        if self.full:  # near the end of the context, when longer rows have left
            self._read()
            return
        self.used += 1
        logits_XV = self.model.step(ids_X.to(self.device), self.cache, *self.range)
        self.logits = list(logits_XV.chunk(self.count))

    def _read(self) -> None:
        """Read all rows into a new cache with room for what may follow."""
        few, places_X = unique(self.rows_X)
        ids_PT, lengths_P = pad(few, 0)
        self.used = ids_PT.shape[1]
        capacity = min(self.used + self.left, self.model.config.context)
        self.cache, self.spare = self.model.cache(len(few), capacity), None
        logits_PV = self.model.prefill(ids_PT.to(self.device), lengths_P, self.cache, *self.range)
        self._copy(np.array(places_X))
        logits_XV = logits_PV[torch.tensor(places_X, device=self.device)]
        self.logits = list(logits_XV.chunk(self.count))

    def _copy(self, places_X: np.ndarray) -> None:
        if np.array_equal(places_X, np.arange(self.cache.batch)):
            return
        fits = self.spare is not None and self.spare.batch == len(places_X)
        capacity = self.cache.capacity
        new = self.spare if fits else self.model.cache(len(places_X), capacity)
        new.copy(self.cache, torch.as_tensor(places_X))
        self.cache, self.spare = new, self.cache


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
