"""Text out of the model: what follows a prompt that ends with a sentinel, until its <eom>.

Only text ids and <eom> can be chosen. Greedy, sampled (guidance or contrast, as `sampling.py`
has them), and beam search, which the paper does not describe for captions (A47). A row is decided
by its own prompts and uniforms: in float32 the rest of the batch moves its logits by rounding only.

Axes: B samples, S streams, R samples in the cache, W beams of a sample, X = R * W rows of a stream,
M tokens, V choices: the text ids, then <eom> at index `text_size`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cm3leon.config import check
from cm3leon.decoding.config import GREEDY, DecodeConfig
from cm3leon.decoding.loop import Decoder, Rows, Written, generate
from cm3leon.decoding.sampling import mix
from cm3leon.errors import UserError
from cm3leon.sequence.positions import place_prompt, text_room


@dataclass(frozen=True)
class Continuation:
    """Text ids without their <eom>; `score` is the sum of log p in nats, <eom> included.

    p is what the streams say together (`sampling.mix`), before temperature, top-k and top-p.
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


@dataclass(frozen=True)
class TextDecode:
    """How text is chosen: greedily, drawn under other settings, or by a beam search, whose streams
    `decode` combines.
    """

    decode: DecodeConfig = GREEDY
    beam: BeamConfig | None = None


GREEDILY = TextDecode()


def continue_text(
    decoder: Decoder,
    prompts: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray] | None,
    uniforms_BM: np.ndarray,
) -> list[Continuation]:
    """Draw text after each prompt, with one uniform in [0, 1) a token; at most M tokens.

    Prompts int64 [T], ragged; `unconditional` are those of guidance's second stream or of
    contrast's amateur, not used when `decode.streams` is 1. A row ends with its <eom>, after M
    tokens, or where its longer prompt and what was drawn, <eom> included, fill the context or the
    model's places for a text. Temperature 0 is greedy. Raises UserError for counts that do not
    match, a prompt without room for a token, and weights that give NaN.
    """
    uniforms_BM = torch.as_tensor(uniforms_BM, dtype=torch.float64)
    streams = decoder.streams(prompts, unconditional)
    limits_B, places_SB = _limits(decoder, streams, *uniforms_BM.shape)
    if not len(limits_B):
        return []
    write = _Texts(decoder, limits_B, uniforms_BM)
    generate(_rows(decoder, streams, places_SB, limits_B), write)
    return [_end(text.tokens, text.score, text.stop) for text in write.texts_B]


def beam_text(
    decoder: Decoder,
    prompts: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray] | None,
    beam: BeamConfig,
    most: int,
) -> list[list[Continuation]]:
    """Up to `beam.width` continuations of each prompt of at most `most` tokens, best first.

    Every step keeps the likeliest `width` of all extensions; those that took <eom> keep their place
    and grow no further. Width 1 is greedy; a width of all sequences is exhaustive search. Streams
    are combined as `decode` says; its temperature, top-k and top-p have no part. Memory grows with
    the samples at once, `slots`, times W. The rest as in `continue_text`.
    """
    streams = decoder.streams(prompts, unconditional)
    limits_B, places_SB = _limits(decoder, streams, len(prompts), most)
    if not len(limits_B):
        return []
    write = _Searches(decoder, limits_B, beam)
    generate(_rows(decoder, streams, places_SB, limits_B, beam.width), write)
    return [one.ranked() for one in write.beams_B]


def _limits(decoder: Decoder, streams, samples: int, most: int) -> tuple[np.ndarray, list]:
    """Tokens each sample may get, int64 [B], and where its prompts and the text behind them stand,
    stream by stream.
    """
    limits_B, config = decoder.limits(streams, samples, most), decoder.model.config
    any_text = 0
    places_SB = [
        [place_prompt(prompt, any_text, decoder.vocabulary, config) for prompt in stream]
        for stream in streams
    ]
    rooms_SB = np.array([[text_room(at[-1], config) for at in row] for row in places_SB], np.int64)
    if (rooms_SB < 1).any():
        index = int((rooms_SB < 1).any(0).argmax())
        raise UserError(
            f"prompt {index} asks for a text where this model has places for a picture; hide a text"
        )
    return np.minimum(limits_B, rooms_SB.min(0)), places_SB


def _rows(decoder: Decoder, streams, places_SB, limits_B, width: int = 1) -> Rows:
    """The rows of these prompts, with logits of all ids up to <eom>."""
    ids = 0, decoder.vocabulary.eom + 1
    return Rows(decoder, streams, places_SB, int(limits_B.max()), ids, width)


class _Choices:
    """The text ids and <eom>, between the vocabulary and V choices."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.text_size, self.eom = decoder.vocabulary.text_size, decoder.vocabulary.eom

    def mixed(self, logits: Sequence[Tensor]) -> Tensor:
        """The streams as one distribution over text ids and <eom>, [R, V]."""
        few = [torch.cat([one[:, : self.text_size], one[:, self.eom :]], 1) for one in logits]
        return mix(few, self.decoder.decode)

    def ids(self, chosen_R: Tensor) -> Tensor:
        """Choices as ids of the vocabulary."""
        return chosen_R.where(chosen_R != self.text_size, self.eom)


class _Texts(_Choices):
    """Draws the next token of each text."""

    def __init__(self, decoder: Decoder, limits_B: np.ndarray, uniforms_BM: Tensor):
        super().__init__(decoder)
        self.uniforms_BM = uniforms_BM.to(decoder.model.token_embedding.weight.device)
        texts = [_Text(int(limit), self.text_size) for limit in limits_B]
        self.texts_B = np.array(texts, dtype=object)

    def __call__(self, samples, given, logits: Sequence[Tensor]) -> Written:
        """The next token of these samples."""
        logits_RV = self.mixed(logits)
        at = np.minimum(given, self.uniforms_BM.shape[1] - 1)  # of those that have ended any
        found_R = self.decoder.choose(logits_RV, self.uniforms_BM[samples, at])
        gains_R = logits_RV.double().log_softmax(-1).gather(-1, found_R[:, None])[:, 0]
        texts = self.texts_B[samples]
        for text, token, gain in zip(texts, found_R.tolist(), gains_R.tolist(), strict=True):
            text.add(token, gain)
        return Written(self.ids(found_R), np.array([text.ended for text in texts]))


class _Searches(_Choices):
    """Lets the beams of each sample grow by a token."""

    def __init__(self, decoder: Decoder, limits_B: np.ndarray, beam: BeamConfig):
        super().__init__(decoder)
        beams = [_Beams(beam, int(limit), self.text_size) for limit in limits_B]
        self.width, self.beams_B = beam.width, np.array(beams, dtype=object)

    def __call__(self, samples, given, logits: Sequence[Tensor]) -> Written:
        """The best extensions of the rows of these samples."""
        live = self.beams_B[samples]
        gains_XV = self.mixed(logits).double().log_softmax(-1)
        scores_X = torch.tensor([s for one in live for s in one.scores], dtype=torch.float64)
        totals_XV = scores_X.to(gains_XV.device)[:, None] + gains_XV
        if totals_XV.isnan().any():
            raise UserError("logits hold NaN, so no text can be found; check the weights")
        best_RW, at_RW = totals_XV.view(len(live), -1).topk(self.width)
        for one, totals, places in zip(live, best_RW.tolist(), at_RW.tolist(), strict=True):
            if one.alive:
                one.grow(totals, places)
        last_X = torch.tensor([token for one in live for token in one.last], device=at_RW.device)
        ended_R = np.array([not one.alive for one in live])
        return Written(self.ids(last_X), ended_R, parents=np.array([one.parents for one in live]))


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
    def last(self) -> list[int]:
        """The newest token of every row; of a dead row any."""
        return [text[-1] if text else 0 for text in self.texts]

    def ranked(self) -> list[Continuation]:
        """All that ended, best first."""
        return sorted(self.ended, key=self.beam.rank, reverse=True)


def _end(tokens: list[int], score: float, stop: int) -> Continuation:
    finished = tokens[-1] == stop
    return Continuation(tuple(tokens[:-1] if finished else tokens), score, finished)
