"""Image codes out of the model: whole pictures, and the open places of plans.

Axes: S streams, B samples, R of them in the cache, N image tokens of a picture, M planned places,
V image codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cm3leon.config import ModelConfig
from cm3leon.decoding.config import EditGuidance
from cm3leon.decoding.loop import ALL, Decoder, Rows, Written, generate
from cm3leon.decoding.sampling import mix
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary
from cm3leon.sequence.positions import place_prompt

DRAW = -1  # in a plan: a code to be drawn


@dataclass(frozen=True)
class Plan:
    """`prompt` int64 [T]; what follows it, `planned` int64 [M]: an id or DRAW. `hidden` says how
    many codes <mask:i> hides where neither these nor a whole picture tell.
    """

    prompt: np.ndarray
    planned: np.ndarray
    hidden: dict[int, int] = field(default_factory=dict)

    def places(self, vocabulary: Vocabulary, config: ModelConfig) -> np.ndarray:
        """Where prompt and planned ids stand, int64 [T + M]; errors as in `positions.place`."""
        ids_M = np.where(self.planned == DRAW, vocabulary.image_start, self.planned)
        return place_prompt(self.prompt, ids_M, vocabulary, config, self.hidden)


def generate_images(
    decoder: Decoder,
    prompts: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray] | None,
    uniforms_BN: np.ndarray,
) -> Tensor:
    """Draw N image codes after each prompt: int64 [B, N], 0-based, on the model's device.

    `prompts` and their text-free twins `unconditional` are int64 [T], ragged; `uniforms_BN` is
    float64 in [0, 1). Only image ids can be drawn. With `decode.guidance == 1`, or without
    `unconditional`, one stream runs and neither guidance nor contrast has a part in the result.
    A row is decided by its prompts and uniforms: in float32 the other rows of the batch move its
    logits by rounding only.

    Raises UserError, before any work, for counts or sizes that do not match and for a prompt that
    leaves no room for N tokens in the context or in the model's places.
    """
    uniforms_BN = np.asarray(uniforms_BN)
    if uniforms_BN.ndim != 2:
        raise UserError(
            f"uniforms must have shape [samples, tokens], got {list(uniforms_BN.shape)}"
        )
    open_N = np.full(uniforms_BN.shape[1], DRAW)
    streams = decoder.streams(prompts, unconditional)
    plans_SB = [[Plan(prompt, open_N) for prompt in stream] for stream in streams]
    return draw_plans(decoder, plans_SB, uniforms_BN)[0]


def draw_plans(
    decoder: Decoder,
    plans_SB: Sequence[Sequence[Plan]],
    uniforms_BM: np.ndarray,
    edit: EditGuidance | None = None,
    scored: bool = False,
) -> tuple[Tensor, Tensor]:
    """Codes int64 [B, M], 0-based, right wherever a plan says DRAW; and, if `scored`, log p in nats
    of each sample's planned codes in its first stream, float64 [B].

    The plans of a sample's streams, conditional first, draw at the same places. `uniforms_BM` are
    one a place, drawn or not. Streams are mixed by `decoder.decode`, three by `edit`. Errors as in
    `generate_images`.
    """
    vocabulary, config = decoder.vocabulary, decoder.model.config
    samples, most = uniforms_BM.shape
    prompts_SB = [[plan.prompt for plan in plans] for plans in plans_SB]
    limits_B = decoder.limits(prompts_SB, samples, most)
    if not samples:
        return torch.zeros((0, most), dtype=torch.int64), torch.zeros(0)
    counts_B = np.array([len(plan.planned) for plan in plans_SB[0]])
    if (limits_B < counts_B).any():
        at = int((limits_B < counts_B).argmax())
        raise UserError(
            f"prompt {at} has {max(len(row[at]) for row in prompts_SB)} tokens; with "
            f"{counts_B[at]} image tokens behind it this does not fit the context of "
            f"{config.context} tokens; shorten the caption or use fewer documents"
        )
    places_SB = [[plan.places(vocabulary, config) for plan in plans] for plans in plans_SB]
    images = (vocabulary.image_start, vocabulary.image_end)
    rows = Rows(decoder, prompts_SB, places_SB, most, images)
    codes = _Codes(decoder, rows.device, counts_B, uniforms_BM, edit)
    if scored or any((plan.planned != DRAW).any() for plan in plans_SB[0]):
        planned_SB = [[plan.planned for plan in plans] for plans in plans_SB]
        behind_SB = [[at[-n:] for at, n in zip(row, counts_B, strict=True)] for row in places_SB]
        codes.follow(planned_SB, behind_SB, scored)
    generate(rows, codes)
    return codes.drawn(), codes.scores_BM.sum(1)


class _Codes:
    """Draws the open places of plans; ids planned for the others are put in by force."""

    def __init__(self, decoder, device, counts_B, uniforms_BM, edit):
        self.decoder, self.edit = decoder, edit
        self.images = decoder.vocabulary.image_start, decoder.vocabulary.image_size
        self.counts_B, self.fewest, self.most = counts_B, counts_B.min(), uniforms_BM.shape[1]
        # One place more than any plan has, for those that have ended and wait for the others.
        noise_BM = torch.as_tensor(uniforms_BM, dtype=torch.float64)
        self.noise_BM = F.pad(noise_BM, (0, 1)).to(device)
        self.written: list[tuple] = []  # (samples, place, codes)
        self.scores_BM = torch.zeros_like(self.noise_BM)
        self.planned_SBM, self.scored = None, False

    def follow(self, planned_SB, places_SB, scored: bool) -> None:
        """Let the streams have these ids and places, ragged [M]."""
        device, shape = self.noise_BM.device, (len(planned_SB), *self.noise_BM.shape)
        self.scored = scored
        self.planned_SBM = torch.as_tensor(_padded(planned_SB, shape), device=device)
        self.places_SBM = torch.as_tensor(_padded(places_SB, shape), device=device)

    def __call__(self, samples, given, logits: Sequence[Tensor]) -> Written:
        """The next place of these samples."""
        at = given if samples is ALL else np.minimum(given, self.most)
        mixed_RV = mix(logits, self.decoder.decode, self.edit)
        codes_R = self.decoder.choose(mixed_RV, self.noise_BM[samples, at])
        self.written.append((samples, at, codes_R))
        if self.decoder.watch is not None:
            self.decoder.watch(samples, at, codes_R)
        ids_R = codes_R + self.images[0]
        soon = samples is ALL and at + 1 < self.fewest
        ended_R = None if soon else self.counts_B[samples] <= at + 1
        if self.planned_SBM is None:
            return Written(ids_R, ended_R)
        planned_SR = self.planned_SBM[:, samples, at]
        if self.scored:
            self.scores_BM[samples, at] = self._score(logits[0], planned_SR[0])
        ids_SR = planned_SR.where(planned_SR != DRAW, ids_R)
        return Written(ids_SR, ended_R, self.places_SBM[:, samples, at])

    def drawn(self) -> Tensor:
        """What was drawn at each place, int64 [B, M]."""
        together = [codes_B for samples, _, codes_B in self.written if samples is ALL]
        drawn_BM = torch.zeros(self.noise_BM.shape, dtype=torch.int64, device=self.noise_BM.device)
        if together:
            drawn_BM[:, : len(together)] = torch.stack(together, 1)
        for samples, at, codes_R in self.written[len(together) :]:
            drawn_BM[samples, at] = codes_R
        return drawn_BM[:, : self.most]

    def _score(self, logits_RV: Tensor, planned_R: Tensor) -> Tensor:
        """Log p of a planned image code, [R]; 0 where there is none."""
        start, size = self.images
        codes_R = planned_R - start
        known_R = (codes_R >= 0) & (codes_R < size)
        places_R1 = codes_R.where(known_R, 0)[:, None]
        return logits_RV.double().log_softmax(-1).gather(-1, places_R1)[:, 0].where(known_R, 0)


def _padded(rows_SB: Sequence[Sequence[np.ndarray]], shape: tuple[int, ...]) -> np.ndarray:
    """Ragged rows as one array, int64 [S, B, M], with 0, which is no image code, behind them."""
    padded_SBM = np.zeros(shape, np.int64)
    for stream, rows in enumerate(rows_SB):
        for at, row in enumerate(rows):
            padded_SBM[stream, at, : len(row)] = row
    return padded_SBM
