"""Training of the image tokenizer: reconstruction and commitment losses, and the moving codebook.

Stages by step: a plain auto-encoder first; then k-means of its vectors becomes the codebook and the
straight-through quantiser is trained, the codebook following by exponential moving averages with
unused codes put back to work; last the encoder and the codebook rest and the decoder alone learns
on, so that codes drawn once stay valid. Everything a stage needs is a buffer, so a resumed run
continues exactly.

Axes: B batch, C channels, H height, W width, M vectors, K codes, D width of a code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3leon import seeds
from cm3leon.config import check
from cm3leon.tokenizers.vq import VQ


@dataclass(frozen=True)
class VQLossConfig:
    """Weights and stages of the tokenizer's training."""

    l1: float = 1.0
    l2: float = 1.0
    perceptual: float = 0.0  # weight of an optional perceptual distance
    commitment: float = 0.25
    decay: float = 0.98  # of the codebook's moving averages
    plain_steps: int = 400  # the codebook starts in this step, from the vectors of those before
    freeze_step: int = 10**9  # from here only the decoder learns
    revive_every: int = 50  # steps between searches for unused codes
    revive_below: float = 0.02  # a code's moving count under which it is put back to work
    seed: int = 0

    def __post_init__(self):
        for name in ("l1", "l2", "perceptual", "commitment", "revive_below"):
            value = getattr(self, name)
            check(0 <= value < math.inf, f"vq_loss.{name}", "be finite, not negative", value)
        check(0 <= self.decay < 1, "vq_loss.decay", "lie in [0, 1)", self.decay)
        for name, least in (("plain_steps", 2), ("revive_every", 1)):  # k-means needs vectors
            value = getattr(self, name)
            check(value >= least, f"vq_loss.{name}", f"be at least {least}", value)
        check(
            self.freeze_step > self.plain_steps,
            "vq_loss.freeze_step",
            f"come after vq_loss.plain_steps ({self.plain_steps})",
            self.freeze_step,
        )


def kmeans(vectors_MD: Tensor, count: int, generator: torch.Generator, rounds: int = 12) -> Tensor:
    """Lloyd's algorithm from a k-means++ start; [K,D]. Deterministic for a generator."""
    chosen = [int(torch.randint(len(vectors_MD), (1,), generator=generator))]
    nearest = (vectors_MD - vectors_MD[chosen[0]]).pow(2).sum(1)
    for _ in range(count - 1):
        weights = nearest.clamp_min(1e-12).cpu()
        pick = int(torch.multinomial(weights, 1, generator=generator))
        chosen.append(pick)
        nearest = torch.minimum(nearest, (vectors_MD - vectors_MD[pick]).pow(2).sum(1))
    centres = vectors_MD[chosen].clone()
    for _ in range(rounds):
        owner = torch.cdist(vectors_MD, centres).argmin(1)
        counts = torch.bincount(owner, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, owner, vectors_MD)
        used = counts > 0
        centres[used] = sums[used] / counts[used, None]
    return centres


@torch.no_grad()
def merge_codes(vq: VQ, counts_K: Tensor, radius: float) -> int:
    """Give codes nearer than `radius` to a commoner one that one's vector; returns how many are
    left.

    A common ground wins several codes a hair apart, and which of them a cell gets hangs on the
    whole picture: noise to a language model. Merged rows are equal, and `encode` names the lowest
    of them.
    """
    table = vq.quantize.embedding.weight
    distance_KK = torch.cdist(table, table)
    kept: list[int] = []
    for code in counts_K.argsort(descending=True, stable=True).tolist():
        near = distance_KK[code, kept] if kept else torch.full((1,), torch.inf)
        if near.min() >= radius:
            kept.append(code)
        else:
            table[code] = table[kept[int(near.argmin())]]
    return len(kept)


@torch.no_grad()
def compact_codes(vq: VQ, counts_K: Tensor, multiple: int) -> VQ:
    """A copy of the tokenizer with the used codes alone, the commonest first.

    The codebook's size is a multiple of `multiple`; the rows that fill it up equal the first, whose
    code is the lowest of theirs, so that `encode` never names them and `decode` knows them all.
    """
    order = counts_K.argsort(descending=True, stable=True)
    used = order[: max(1, int((counts_K > 0).sum()))]
    size = math.ceil(len(used) / multiple) * multiple
    rows = torch.cat([used, used[:1].expand(size - len(used))])
    smaller = VQ(replace(vq.config, codebook_size=size))
    tensors = dict(vq.state_dict())
    tensors["quantize.embedding.weight"] = tensors["quantize.embedding.weight"][rows]
    smaller.load_state_dict(tensors)
    return smaller.to(vq.device)


class VQTraining(nn.Module):
    """A VQ and the state of its training; `forward` gives the loss of a batch at a step."""

    def __init__(self, vq: VQ, config: VQLossConfig, perceptual=None):
        super().__init__()
        check(
            vq.config.quantiser == "nearest",
            "vq.quantiser",
            "be 'nearest' to train",
            vq.config.quantiser,
        )
        self.vq, self.config, self.perceptual = vq, config, perceptual
        vq.quantize.embedding.weight.requires_grad_(False)
        codes, width = vq.config.codebook_size, vq.config.code_dim
        self.register_buffer("counts_K", torch.ones(codes))
        self.register_buffer("sums_KD", torch.zeros(codes, width))
        self.register_buffer("pool_MD", torch.zeros(16_384, width))  # recent vectors, for k-means
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss for pictures x [B,3,H,W] in [-1,1], and what is logged."""
        config = self.config
        if step >= config.freeze_step:
            with torch.no_grad():
                z = self.vq.latents(x)
                quantised, _ = self._quantise(z)
            return self._distance(self.vq.pictures(quantised), x)
        z = self.vq.latents(x)
        if step < config.plain_steps:
            self._remember(z)
            return self._distance(self.vq.pictures(z), x)
        if step == config.plain_steps:
            self._start_codebook()
        quantised, codes = self._quantise(z)
        commitment = F.mse_loss(z, quantised)
        y = self.vq.pictures(z + (quantised - z).detach())
        if self.training:
            self._follow(z.detach(), codes, step)
        loss, logged = self._distance(y, x)
        logged |= {"commitment": commitment.item(), "perplexity": self._perplexity()}
        return loss + config.commitment * commitment, logged

    def _distance(self, y: Tensor, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        l1, l2 = (y - x).abs().mean(), (y - x).pow(2).mean()
        loss = self.config.l1 * l1 + self.config.l2 * l2
        if self.perceptual is not None and self.config.perceptual:
            loss = loss + self.config.perceptual * self.perceptual(y, x)
        return loss, {"l1": l1.item(), "psnr": -10 * torch.log10(l2.detach() / 4 + 1e-12).item()}

    def _quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        codes = self.vq.quantize.codes(flat)
        rows = self.vq.quantize.vectors(codes).view(z.shape[0], *z.shape[2:], -1)
        return rows.permute(0, 3, 1, 2), codes

    @torch.no_grad()
    def _remember(self, z: Tensor) -> None:
        """Keep the latest vectors in a ring."""
        size = len(self.pool_MD)
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()[-size:]
        at = (int(self.filled) + torch.arange(len(flat), device=flat.device)) % size
        self.pool_MD[at] = flat
        self.filled += len(flat)

    @torch.no_grad()
    def _start_codebook(self) -> None:
        pool = self.pool_MD[: min(int(self.filled), len(self.pool_MD))]
        generator = seeds.torch_generator(self.config.seed, "kmeans")
        centres = kmeans(pool, self.vq.config.codebook_size, generator)
        self.vq.quantize.embedding.weight.copy_(centres)
        self.counts_K.fill_(1.0)
        self.sums_KD.copy_(centres)

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor, step: int) -> None:
        """Move codes towards the means of their vectors, unused ones onto badly served vectors."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
        decay, size = self.config.decay, len(self.counts_K)
        counts = torch.bincount(codes, minlength=size).float()
        sums = torch.zeros_like(self.sums_KD).index_add_(0, codes, flat)
        self.counts_K.mul_(decay).add_(counts, alpha=1 - decay)
        self.sums_KD.mul_(decay).add_(sums, alpha=1 - decay)
        table = self.vq.quantize.embedding.weight
        table.copy_(self.sums_KD / self.counts_K.clamp_min(1e-6)[:, None])
        if step % self.config.revive_every == 0:
            idle = (self.counts_K < self.config.revive_below).nonzero()[:, 0]
            error = (flat - table[codes]).pow(2).sum(1)
            worst = error.topk(min(len(idle), len(flat))).indices
            idle = idle[: len(worst)]
            table[idle] = flat[worst]
            self.sums_KD[idle] = flat[worst]
            self.counts_K[idle] = 1.0

    def _perplexity(self) -> float:
        share = self.counts_K / self.counts_K.sum()
        return float(torch.exp(-(share * (share + 1e-10).log()).sum()))
