"""The one KV-cached loop: prompts in any number of streams -> tokens, of text or of pictures.

Streams are readings of one sample: its prompt, the prompt without its condition (guidance,
contrast), without picture and condition (editing). They stand in one cache, and what is drawn for a
sample is appended to each of them. What streams and samples share is read once. A sample that ends
makes room for the next (continuous refill); when none waits the cache shrinks. What a sample is
given depends neither on when it comes nor on what stands beside it.

Axes: S streams, B samples in all, R samples in the cache, W rows of each in a stream (beams),
X = S * R * W rows of the cache, stream by stream; V ids of the range whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cm3leon.config import check
from cm3leon.decoding import sampling
from cm3leon.decoding.config import DecodeConfig
from cm3leon.engine import cpu_sample
from cm3leon.engine.rule import step_of
from cm3leon.errors import UserError
from cm3leon.model.kv_cache import Cache
from cm3leon.model.transformer import Transformer, places_read
from cm3leon.sequence.documents import Vocabulary

# Told of image codes as they are drawn: whose and at which places, as a `Writer` is told, and the
# codes, int64 [R]. What it raises ends the drawing.
Watcher = Callable[[np.ndarray | slice, np.ndarray | int, Tensor], None]
AHEAD = 4  # waiting prompts are read by this part of the slots: few calls, little memory
SHARED = 0.9  # what prompts begin with is read apart where at most this part of the tokens is left
ALL = slice(None)


@dataclass(frozen=True)
class Decoder:
    """A model and how it is drawn from: what every way of decoding is given.

    At most `slots` samples are in the cache at once (None: all). `engine` names what takes the
    steps, "auto" leaves it to the rule (`engine/rule.py`). `counters`, if given, is increased by
    the work done: "prefill_tokens" and "step_tokens" (places of the batch, padding included),
    "idle_tokens" (those of steps whose sample had ended), "forward_calls" and, of these, the steps
    by engine: "steps_by_c", "steps_by_graph", "steps_by_torch".
    `watch`, if given, is told of image codes as they are drawn.
    """

    model: Transformer
    vocabulary: Vocabulary
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    slots: int | None = None
    counters: dict[str, int] | None = None
    engine: str = "auto"
    watch: Watcher | None = None

    def __post_init__(self):
        check(self.slots is None or self.slots >= 1, "slots", "be at least 1", self.slots)
        if self.vocabulary.size != self.model.vocabulary_size:
            raise UserError(
                f"the vocabulary has {self.vocabulary.size} ids but the model "
                f"{self.model.vocabulary_size}; use the one it was trained with"
            )

    def streams(self, prompts: Sequence, unconditional: Sequence | None) -> list[Sequence]:
        """The streams to run: the unconditional one only where it has a part in the result."""
        if unconditional is None or self.decode.streams == 1:
            return [prompts]
        return [prompts, unconditional]

    def choose(self, logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
        """One id a row, int64 [B], as `sampling.choose` has it: by the engine's sampler where that
        knows all settings, else by torch.
        """
        if self.engine in ("auto", "c"):
            ids_B = cpu_sample.draw(logits_BV, uniforms_B, **self._sampling)
            if ids_B is not None:
                return ids_B
        return sampling.choose(logits_BV, uniforms_B, self.decode)

    @cached_property
    def _sampling(self) -> dict:
        return self.decode.sampling

    def limits(
        self, prompts_SB: Sequence[Sequence[np.ndarray]], samples: int, most: int
    ) -> np.ndarray:
        """Tokens each sample may get, int64 [B]: `most`, or what its longest prompt leaves of the
        context. Raises UserError for counts that do not match and a prompt that leaves nothing.
        """
        check(most >= 1, "most", "be at least 1", most)
        context = self.model.config.context
        for stream in prompts_SB:
            if len(stream) != samples:
                raise UserError(f"{samples} samples need {samples} prompts, got {len(stream)}")
            for index, prompt in enumerate(stream):
                if not 1 <= len(prompt) < context:
                    raise UserError(
                        f"prompt {index} has {len(prompt)} tokens and must have 1 to {context - 1} "
                        f"(model.context {context}) for something to follow; shorten the text or "
                        "use fewer documents"
                    )
        lengths_SB = np.array([[len(row) for row in stream] for stream in prompts_SB], np.int64)
        return np.minimum(context - lengths_SB.max(0), most)


class Written(NamedTuple):
    """What comes next in the rows of R samples: `ids` int64 [R * W], or [S, R * W] where streams
    differ; `ended` bool [R], None: none has. `places` [S, R * W] say where the ids stand, None:
    behind the token before. Row w of a sample goes on from its row `parents[r, w]`, int64 [R, W];
    None: its own.
    """

    ids: Tensor
    ended: np.ndarray | None
    places: Tensor | None = None
    parents: np.ndarray | None = None


# (samples, tokens each has been given, logits of each stream [R * W, V]) -> what comes next.
# The first two are an int64 [R] each, or `ALL` and one int while all samples are in step.
Writer = Callable[[np.ndarray | slice, np.ndarray | int, Sequence[Tensor]], Written]


@torch.inference_mode()
def generate(rows: Rows, write: Writer) -> None:
    """Let `write` choose tokens until all samples have ended; who has ended may be asked again."""
    new = ALL  # places in the cache whose next token is to be chosen
    while True:
        rows.put(new, write(*rows.asked(new)))
        if rows.some_ended:
            new = rows.refill()
            if len(new):
                continue
            if rows.ended_R.all():
                return
            rows.shrink()
        rows.step()
        new = ALL


class Rows:
    """The samples in the cache: their streams' logits, and what is to be appended next.

    `prompts_SB` are int64 [T], ragged; `places_SB`, of T + 1 or more, say where a prompt's tokens
    stand and the one that follows (`positions.place_prompt`). No sample gets more than `most`
    tokens. V are the ids of `ids`, [start, end).
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts_SB: Sequence[Sequence[np.ndarray]],
        places_SB: Sequence[Sequence[np.ndarray]],
        most: int,
        ids: tuple[int, int],
        width: int = 1,
    ):
        self.model, self.ids, self.width, self.named = decoder.model, ids, width, decoder.engine
        self.device = decoder.model.token_embedding.weight.device
        self.prompts_SB, self.places_SB, self.streams = prompts_SB, places_SB, len(prompts_SB)
        self.samples = len(prompts_SB[0])
        self.counters = {} if decoder.counters is None else decoder.counters
        for name in ("prefill_tokens", "step_tokens", "idle_tokens", "forward_calls"):
            self.counters.setdefault(name, 0)
        longest = max(len(row) for stream in prompts_SB for row in stream)
        self.capacity = min(longest + most - 1, decoder.model.config.context)
        self.slots = min(self.samples, decoder.slots or self.samples)
        self.sample_R = np.arange(self.slots)
        self.steps, self.came_R = 0, np.zeros(self.slots, np.int64)  # when each came
        self.some_ended, self.ended_R = False, np.zeros(self.slots, bool)
        self.in_step = self.slots == self.samples  # all are here, in order and equally far
        self.next = self.read = self.slots  # the first sample that waits, that is not yet read
        cache, logits_PV, which_SA = self._read(self.sample_R, self.capacity)
        which_X = which_SA.repeat(width, 1).ravel()
        self._go_on_with(cache, which_X)
        self.logits = logits_PV[self._tensor(which_X)].chunk(self.streams)

    def asked(self, new: np.ndarray | slice) -> tuple:
        """What a writer is told of the samples in these places."""
        if new is not ALL:
            rows_R = self._tensor(self._rows(new, streams=1))
            logits = [logits_RV[rows_R] for logits_RV in self.logits]
            return self.sample_R[new], self.steps - self.came_R[new], logits
        if self.in_step:
            return ALL, self.steps, self.logits
        return self.sample_R.copy(), self.steps - self.came_R, self.logits

    def put(self, new: np.ndarray | slice, written: Written) -> None:
        """Take what was written for the samples in these places."""
        if written.ended is not None:
            self.ended_R[new] = written.ended
            self.some_ended = bool(np.count_nonzero(self.ended_R))
        if new is ALL:
            self.written = written
            return
        rows_R, old = self._tensor(self._rows(new, streams=1)), self.written
        ids = [self._by_stream(one.ids).clone() for one in (old, written)]
        ids[0][:, rows_R] = ids[1]
        places, parents = old.places, old.parents
        if places is not None:
            places = places.clone()
            places[:, rows_R] = written.places
        if parents is not None:
            parents[new] = written.parents
        self.written = Written(ids[0], None, places, parents)

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
        self.logits = logits_XV.chunk(self.streams)
        self.sample_R[places] = np.arange(self.next, self.next + len(places))
        self.ended_R[places], self.came_R[places] = False, self.steps
        self.next += len(places)
        return places

    def shrink(self) -> None:
        """Let ended samples leave once they are half of all, or the cache is full; of others a
        token is wasted.
        """
        left, count = np.flatnonzero(~self.ended_R), len(self.ended_R)
        full = self.cache.longest == self.cache.capacity
        if len(left) == count or (2 * len(left) > count and not full):
            self.counters["idle_tokens"] += (count - len(left)) * self.streams * self.width
            return
        self._go_on_with(self.cache, self._rows(left))
        rows_R = self._tensor(self._rows(left, streams=1))
        ids, _, places, parents = self.written
        self.written = Written(
            self._by_stream(ids)[:, rows_R],
            None,
            None if places is None else places[:, rows_R],
            None if parents is None else parents[left],
        )
        self.sample_R, self.came_R = self.sample_R[left], self.came_R[left]
        self.some_ended, self.ended_R, self.in_step = False, self.ended_R[left], False

    def step(self) -> None:
        """Append to every row what was written for it."""
        if self.cache.longest == self.cache.capacity:
            self.cache.settle()
        ids, _, places, parents = self.written
        if parents is not None:
            self._reorder(parents)
        if places is not None:
            self.cache.go_on(places.flatten())
        ids_X = ids.repeat(self.streams) if ids.ndim == 1 else ids.flatten()
        logits_XV = self.model.step(ids_X, self.cache, *self.ids, self.engine)
        self.logits = logits_XV.chunk(self.streams)
        self.steps += 1
        counters, name = self.counters, f"steps_by_{self.engine.name}"
        counters["step_tokens"] += self.cache.batch
        counters["forward_calls"] += 1
        counters[name] = counters.get(name, 0) + 1

    def _reorder(self, parents_RW: np.ndarray) -> None:
        """Let every row go on from its parent, which holds the same but for what it was given."""
        own_RW = np.arange(len(parents_RW))[:, None] * self.width + parents_RW
        rows_SRW = own_RW + np.arange(self.streams)[:, None, None] * own_RW.size
        self.cache.reorder(self._tensor(rows_SRW.ravel()), self.steps - int(self.came_R.min()))

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

        What all streams of a sample begin with, such as its documents, is read once for them, and
        once for all samples that have it.
        """
        rows = [self._row(stream, sample) for stream in range(self.streams) for sample in samples_A]
        firsts, which_R = unique(rows)
        alone = len(firsts) == len(rows) * self.width
        if not alone:  # they are copied anyway: next to rows as long as they are, less is padding
            firsts, which_R = by_length(rows, firsts, which_R)
        whole = [rows[at][:, :-1] for at in firsts]
        cuts = self._cuts(rows, len(samples_A))
        heads = [row[:, : cuts[at]] for row, at in zip(whole, firsts, strict=True)]
        tails = [row[:, cuts[at] :] for row, at in zip(whole, firsts, strict=True)]
        longest = max(row.shape[1] for row in whole)
        cache = self.model.cache(len(firsts), capacity if capacity and alone else longest)
        few, which_P = unique(heads)
        read = sum(heads[at].shape[1] for at in few) + sum(row.shape[1] for row in tails)
        if cuts.all() and read < SHARED * sum(row.shape[1] for row in whole):
            shared = self.model.cache(len(few), max(heads[at].shape[1] for at in few))
            self._into(shared, self.model.prefill, [heads[at] for at in few])
            cache.copy(shared, self._tensor(np.array(which_P)))
            logits_PV = self._into(cache, self.model.extend, tails)
        else:
            logits_PV = self._into(cache, self.model.prefill, whole)
        cache.go_on(torch.tensor([rows[at][1, -1] for at in firsts]))
        return cache, logits_PV, np.array(which_R).reshape(self.streams, -1)

    def _row(self, stream: int, sample: int) -> np.ndarray:
        """A prompt over its places, int64 [2, T + 1]; the last is what follows, not yet known."""
        prompt, places = self.prompts_SB[stream][sample], self.places_SB[stream][sample]
        return np.stack([np.append(prompt, 0), places[: len(prompt) + 1]])

    def _cuts(self, rows: Sequence[np.ndarray], samples: int) -> np.ndarray:
        """Tokens that each row shares with the other streams of its sample, int64 [S * A]."""
        if self.streams == 1:
            return np.zeros(samples, np.int64)
        prompts = [row[:, :-1] for row in rows]
        shared = [common_start(prompts[sample::samples]) for sample in range(samples)]
        return np.array(shared * self.streams)

    def _into(self, cache: Cache, read: Callable, rows: Sequence[np.ndarray]) -> Tensor:
        """Read ragged rows, ids over places [2, T]; the logits after each."""
        ids_RT, lengths_R = pad([ids for ids, _ in rows], 0)
        places_RT, _ = pad([places for _, places in rows], 0)
        self.counters["prefill_tokens"] += places_read(lengths_R)
        self.counters["forward_calls"] += 1
        return read(ids_RT.to(self.device), lengths_R, cache, *self.ids, places_RT)

    def _rows(self, places: np.ndarray, streams: int | None = None) -> np.ndarray:
        """The rows of the cache, int64 [X], of the samples in these places, stream by stream."""
        rows_RW = places[:, None] * self.width + np.arange(self.width)
        starts_S = np.arange(streams or self.streams) * len(self.sample_R) * self.width
        return (starts_S[:, None, None] + rows_RW).ravel()

    def _go_on_with(self, old: Cache, rows_X: np.ndarray) -> None:
        """Take these rows of a cache as the cache to go on with."""
        self.cache = old
        if not np.array_equal(rows_X, np.arange(old.batch)):
            self.cache = self.model.cache(len(rows_X), self.capacity)
            self.cache.copy(old, self._tensor(rows_X))
        self.engine = step_of(self.model, self.cache.batch, *self.ids, self.named)

    def _by_stream(self, ids: Tensor) -> Tensor:
        """Ids of every stream, [S, R * W]."""
        return ids if ids.ndim == 2 else ids.expand(self.streams, -1)

    def _tensor(self, places: np.ndarray) -> Tensor:
        return torch.as_tensor(places, device=self.device)


def pad(prompts: Sequence[np.ndarray], filler: int) -> tuple[Tensor, Tensor]:
    """Ragged prompts -> (ids int64 [R, T] padded on the right, lengths int64 [R])."""
    lengths_R = torch.tensor([len(prompt) for prompt in prompts])
    ids_RT = torch.full((len(prompts), int(lengths_R.max())), filler, dtype=torch.int64)
    for row, prompt in zip(ids_RT, prompts, strict=True):
        row[: len(prompt)] = torch.as_tensor(np.asarray(prompt, dtype=np.int64))
    return ids_RT, lengths_R


def common_start(rows: Sequence[np.ndarray]) -> int:
    """Tokens with which all rows [.., T] begin; the last token of none is among them."""
    most = min(row.shape[-1] for row in rows) - 1
    first = np.atleast_2d(rows[0])[:, :most]
    equal = [(first == np.atleast_2d(row)[:, :most]).all(0) for row in rows[1:]]
    differ = np.flatnonzero(~np.logical_and.reduce(equal)) if equal else ()
    return int(differ[0]) if len(differ) else most


def by_length(
    rows: Sequence[np.ndarray], firsts: Sequence[int], which: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What `unique` found, the shortest of the different rows first."""
    order = np.argsort([rows[at].shape[-1] for at in firsts], kind="stable")
    return np.array(firsts)[order].tolist(), np.argsort(order)[np.array(which)].tolist()


def unique(rows: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """Where each different row comes first, in this order, and which of them each row is."""
    known: dict[bytes, int] = {}
    same = [
        known.setdefault(np.asarray(row, np.int64).tobytes(), at) for at, row in enumerate(rows)
    ]
    firsts, which = np.unique(same, return_inverse=True)
    return firsts.tolist(), which.tolist()
