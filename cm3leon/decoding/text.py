"""Text out of the model: what follows a prompt that ends with a sentinel, until its <eom>.

Only text ids and <eom> can be chosen. Greedy, sampled (guidance or contrast, as `decode.py` has
them), and beam search, which the paper does not describe for captions (A47). A row is decided by
its own prompts and uniforms: in float32 the rest of the batch moves its logits by rounding only.

Axes: B samples, S streams, R rows of one stream, W beams of a sample, M tokens, V choices: the text
ids, then <eom> at index `text_size`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cm3leon.config import check
from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.loop import Streams, limits
from cm3leon.decoding.sampling import combine
from cm3leon.engine.cpu_sample import choose
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.sequence.documents import Vocabulary
from cm3leon.sequence.positions import place_prompt, text_room


@dataclass(frozen=True)
class Continuation:
    """Text ids without their <eom>; `score` is the sum of log p in nats, <eom> included.

    p is what the streams say together (`decode.combine`), before temperature, top-k and top-p.
    `finished` is False when `most`, the context or the places of a text cut it off before its
    <eom>.
    """

    ids: tuple[int, ...]
    score: float
    finished: bool

    @property
    def tokens(self) -> int:
        """Tokens the score sums over."""
        return len(self.ids) + self.finished

    @property
    def mean(self) -> float:
        """Log p a token; perplexity is exp(-mean)."""
        return self.score / self.tokens


@dataclass(frozen=True)
class BeamConfig:
    """Beam search: `width` hypotheses, ranked at the end by score / penalty(tokens).

    penalty "wu": ((5 + tokens) / 6) ** alpha (Wu et al. 2016), where alpha 0 is the plain sum;
    "mean": the number of tokens. A finished hypothesis keeps its place among the `width`.
    """

    width: int = 5
    penalty: str = "wu"
    alpha: float = 0.6

    def __post_init__(self):
        check(self.width >= 1, "beam.width", "be at least 1", self.width)
        check(self.penalty in ("wu", "mean"), "beam.penalty", "be 'wu' or 'mean'", self.penalty)
        check(math.isfinite(self.alpha), "beam.alpha", "be finite", self.alpha)

    def rank(self, found: Continuation) -> float:
        """What hypotheses are ordered by: higher is better."""
        if self.penalty == "mean":
            return found.mean
        return found.score / ((5 + found.tokens) / 6) ** self.alpha


def continue_text(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    free_prompts: Sequence[np.ndarray] | None,
    uniforms_BM: np.ndarray,
    decode: DecodeConfig,
    slots: int | None = None,
    counters: dict[str, int] | None = None,
) -> list[Continuation]:
    """Draw text after each prompt, with one uniform in [0, 1) a token; at most M tokens.

    Prompts int64 [T], ragged; `free_prompts` are the unconditional stream of guidance or the
    amateur's of contrast, not used when `decode.streams` is 1. A row ends with its <eom>, after M
    tokens, or where its longer prompt and what was drawn, <eom> included, fill the context or the
    model's places for a text.
    Temperature 0 is greedy. At most `slots` samples are in the cache at once (None: all): a sample
    that ends makes room for the next. `counters` as in `Streams`. Raises UserError for counts that
    do not match, a prompt without room for a token, and weights that give NaN.
    """
    uniforms_BM = torch.as_tensor(uniforms_BM, dtype=torch.float64)
    streams = _streams(prompts, free_prompts, decode)
    samples, most = uniforms_BM.shape
    limits_B, places_SB = _limits(model, vocabulary, streams, samples, most)
    if not len(limits_B):
        return []
    reach, end = int(limits_B.max()), vocabulary.eom + 1
    rows = Streams(model, streams, places_SB, reach, 0, end, slots, counters=counters)
    uniforms_BM = uniforms_BM.to(rows.device)
    texts = [_Text(int(limit), vocabulary.text_size) for limit in limits_B]
    chosen_R = torch.zeros(len(rows.sample_R), dtype=torch.int64, device=rows.device)
    new_R = np.arange(len(chosen_R))  # places whose next token is to be drawn
    while True:
        logits_RV = _combined(rows, vocabulary, decode, new_R)
        live = [texts[sample] for sample in rows.sample_R[new_R]]
        drawn_R = [min(len(text.tokens), most - 1) for text in live]
        found_R = choose(logits_RV, uniforms_BM[rows.sample_R[new_R], drawn_R], decode)
        chosen_R[torch.as_tensor(new_R, device=rows.device)] = found_R
        _append(live, logits_RV, found_R)
        rows.ended_R = np.array([texts[sample].ended for sample in rows.sample_R])
        new_R = rows.refill()
        if len(new_R):
            continue
        if rows.ended_R.all():
            return [_end(text.tokens, text.score, text.stop) for text in texts]
        chosen_R = chosen_R[torch.as_tensor(rows.shrink(), device=rows.device)]
        rows.step(_ids(chosen_R, vocabulary).repeat(rows.count))
        new_R = np.arange(len(chosen_R))


def beam_text(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    free_prompts: Sequence[np.ndarray] | None,
    beam: BeamConfig,
    decode: DecodeConfig,
    most: int,
    slots: int | None = None,
    counters: dict[str, int] | None = None,
) -> list[list[Continuation]]:
    """Up to `beam.width` continuations of each prompt of at most `most` tokens, best first.

    Every step keeps the likeliest `width` of all extensions; those that took <eom> keep their place
    and grow no further. Width 1 is greedy; a width of all sequences is exhaustive search. Streams
    are combined as `decode` says; its temperature, top-k and top-p have no part. Memory grows with
    the samples at once, `slots`, times W. The rest as in `continue_text`.
    """
    streams = _streams(prompts, free_prompts, decode)
    limits_B, places_SB = _limits(model, vocabulary, streams, len(prompts), most)
    if not len(limits_B):
        return []
    reach, end = int(limits_B.max()), vocabulary.eom + 1
    rows = Streams(model, streams, places_SB, reach, 0, end, slots, beam.width, counters)
    beams = [_Beams(beam, int(limit), vocabulary.text_size) for limit in limits_B]
    new_R = np.arange(len(rows.sample_R))
    while True:
        own_RW = new_R[:, None] * beam.width + np.arange(beam.width)
        live = [beams[sample] for sample in rows.sample_R[new_R]]
        _grow(live, _combined(rows, vocabulary, decode, own_RW.ravel()))
        rows.ended_R = np.array([not beams[sample].alive for sample in rows.sample_R])
        new_R = rows.refill()
        if len(new_R):
            continue
        if rows.ended_R.all():
            return [one.ranked() for one in beams]
        rows.shrink()
        live = [beams[sample] for sample in rows.sample_R]
        rows.reorder(np.array([one.parents for one in live]), max(one.newest for one in live))
        last_R = torch.tensor([token for one in live for token in one.last])
        rows.step(_ids(last_R, vocabulary).repeat(rows.count))
        new_R = np.arange(len(live))


def _limits(model, vocabulary, streams, samples: int, most: int) -> tuple[np.ndarray, list]:
    """Tokens each sample may get, int64 [B], and where its prompts and the text behind them stand,
    stream by stream.
    """
    limits_B, config = limits(model, vocabulary, streams, samples, most), model.config
    any_text = 0
    places_SB = [
        [place_prompt(prompt, any_text, vocabulary, config) for prompt in stream]
        for stream in streams
    ]
    rooms_SB = np.array([[text_room(at[-1], config) for at in row] for row in places_SB], np.int64)
    if (rooms_SB < 1).any():
        index = int((rooms_SB < 1).any(0).argmax())
        raise UserError(
            f"prompt {index} asks for a text where this model has places for a picture; hide a text"
        )
    return np.minimum(limits_B, rooms_SB.min(0)), places_SB


def _append(live: list[_Text], logits_RV: Tensor, found_R: Tensor) -> None:
    """Every text takes what was drawn for it."""
    gains_R = logits_RV.double().log_softmax(-1).gather(-1, found_R[:, None])[:, 0]
    for text, token, gain in zip(live, found_R.tolist(), gains_R.tolist(), strict=True):
        text.add(token, gain)


def _grow(live: list[_Beams], logits_RV: Tensor) -> None:
    """Every sample takes the best extensions of its rows."""
    gains_RV = logits_RV.double().log_softmax(-1)
    scores_R = torch.tensor([score for one in live for score in one.scores], dtype=torch.float64)
    totals_RV = scores_R.to(gains_RV.device)[:, None] + gains_RV
    if totals_RV.isnan().any():
        raise UserError("logits hold NaN, so no text can be found; check the weights")
    best_BW, at_BW = totals_RV.view(len(live), -1).topk(live[0].beam.width)
    for one, totals, places in zip(live, best_BW.tolist(), at_BW.tolist(), strict=True):
        if one.alive:
            one.grow(totals, places)


class _Text:
    """What one sample has drawn."""

    def __init__(self, limit: int, stop: int):
        self.limit, self.stop = limit, stop
        self.tokens: list[int] = []
        self.score, self.ended = 0.0, False

    def add(self, token: int, gain: float) -> None:
        """Append a token and its log p, unless the text has ended."""
        if not self.ended:
            self.tokens.append(token)
            self.score += gain
            self.ended = token == self.stop or len(self.tokens) == self.limit


class _Beams:
    """The hypotheses of one sample: W rows, of which the first are alive, and those that ended."""

    def __init__(self, beam: BeamConfig, limit: int, stop: int):
        self.beam, self.limit, self.stop = beam, limit, stop
        self.ended: list[Continuation] = []
        self.texts: list[list[int]] = [[] for _ in range(beam.width)]
        self.parents = [0] * beam.width
        self.scores = [0.0] + [-math.inf] * (beam.width - 1)  # the rows begin as copies of one

    def grow(self, totals: list[float], places: list[int]) -> None:
        """Take the best extensions, given best first as (total, row * V + choice)."""
        width, choices = self.beam.width, self.stop + 1
        before, self.texts, self.parents, self.scores = self.texts, [], [], []
        for total, place in list(zip(totals, places, strict=True))[: width - len(self.ended)]:
            if total == -math.inf:
                break
            row, token = divmod(place, choices)
            text = [*before[row], token]
            if token == self.stop or len(text) == self.limit:
                self.ended.append(_end(text, total, self.stop))
                continue
            self.texts.append(text)
            self.parents.append(row)
            self.scores.append(total)
        dead = width - len(self.texts)
        self.texts += [[]] * dead
        self.parents += range(width - dead, width)  # they stay as they are
        self.scores += [-math.inf] * dead

    @property
    def alive(self) -> bool:
        """Whether a hypothesis can grow."""
        return self.scores[0] > -math.inf

    @property
    def newest(self) -> int:
        """Tokens in which the rows of the cache may differ: all drawn but the last."""
        return max(0, len(self.texts[0]) - 1)

    @property
    def last(self) -> list[int]:
        """The newest token of every row; of a dead row any."""
        return [text[-1] if text else 0 for text in self.texts]

    def ranked(self) -> list[Continuation]:
        """All that ended, best first."""
        return sorted(self.ended, key=self.beam.rank, reverse=True)


def _combined(
    rows: Streams, vocabulary: Vocabulary, decode: DecodeConfig, new_R: np.ndarray
) -> Tensor:
    """The streams of these rows as one distribution over text ids and <eom>, [R, V]."""
    places_R = torch.as_tensor(new_R, device=rows.device)
    logits = [
        torch.cat([one[:, : vocabulary.text_size], one[:, vocabulary.eom :]], 1)[places_R]
        for one in rows.logits
    ]
    return combine(logits[0], logits[1] if rows.count == 2 else None, decode)


def _ids(chosen_R: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Choices as ids of the vocabulary."""
    return chosen_R.where(chosen_R != vocabulary.text_size, vocabulary.eom)


def _end(tokens: list[int], score: float, stop: int) -> Continuation:
    finished = tokens[-1] == stop
    return Continuation(tuple(tokens[:-1] if finished else tokens), score, finished)


def _streams(prompts, free_prompts, decode: DecodeConfig) -> list:
    """The streams to run: the free one only where it has a part in the result."""
    if free_prompts is None or decode.streams == 1:
        return [prompts]
    return [prompts, free_prompts]
