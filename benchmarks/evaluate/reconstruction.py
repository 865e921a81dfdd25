"""Pictures through an image tokenizer and back: what is kept of each, and how codes are used.

Shapes: B pictures of a batch, N of all, S pixels of a side, D features, K codes of the codebook.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.core import Interval, Phases
from cm3leon.evaluation.features.network import Features
from cm3leon.progress import progress

PAIRS_METHOD = "Student t over the influence of pairs of pictures (infinitesimal jackknife)"
BYTES = 255.0  # range of the data, for PSNR and SSIM


@dataclass(frozen=True)
class Rebuilt:
    """What one pass over pictures gives; row n belongs to picture n in all arrays."""

    real_ND: np.ndarray
    rebuilt_ND: np.ndarray
    psnr_N: np.ndarray  # dB; infinite where a picture came back exactly
    ssim_N: np.ndarray
    counts_K: np.ndarray  # how often each code was used
    sha256: str  # over the real pictures' bytes, in order

    def __len__(self) -> int:
        return len(self.psnr_N)


def rebuild(
    vq, batches: Iterable[np.ndarray], features: Features, phases: Phases, total: int | None = None
) -> Rebuilt:
    """One pass over uint8 [B,S,S,3]; only features and scores are kept, never the pictures."""
    import hashlib

    sha = hashlib.sha256()
    rows = [(np.zeros((0, features.dim), np.float32),) * 2 + (np.zeros(0),) * 2]
    counts_K = np.zeros(vq.codebook_size, np.int64)
    with progress(total, "pictures through the tokenizer") as bar:
        for images_BSS3 in batches:
            sha.update(images_BSS3.tobytes())
            with phases("encode"):
                codes_BM = vq.encode(images_BSS3).cpu()
            with phases("decode"):
                back_BSS3 = vq.decode(codes_BM)
            with phases("features"):
                pair = features(images_BSS3), features(back_BSS3)
            with phases("likeness"):
                rows.append((*pair, *likeness(images_BSS3, back_BSS3)))
            counts_K += np.bincount(codes_BM.numpy().ravel(), minlength=len(counts_K))
            bar.update(len(images_BSS3))
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Rebuilt(*columns, counts_K, sha.hexdigest())


def likeness(images_BSS3: np.ndarray, back_BSS3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PSNR in dB and SSIM of each pair of uint8 pictures, float64 [B], by torchmetrics.

    SSIM on RGB with its usual constants: Gaussian window of 11 pixels and sigma 1.5, K 0.01, 0.03.
    """
    import torch
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    real, back = (
        torch.from_numpy(one).permute(0, 3, 1, 2).double() for one in (images_BSS3, back_BSS3)
    )
    psnr_B = peak_signal_noise_ratio(back, real, BYTES, reduction="none", dim=(1, 2, 3))
    ssim_B = structural_similarity_index_measure(back, real, data_range=BYTES, reduction="none")
    return psnr_B.numpy(), ssim_B.numpy().reshape(len(images_BSS3))


def code_use(counts_K: np.ndarray) -> dict[str, float]:
    """Share of the codebook that occurs at all, and the perplexity of how often each code does."""
    share = counts_K[counts_K > 0] / counts_K.sum()
    return {
        "codes_used": len(share) / len(counts_K),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }


def paired_interval(
    real_ND: np.ndarray, back_ND: np.ndarray, value: float, level: float = 0.95
) -> Interval:
    """Interval of an rFID over the choice of pictures, N >= 4: what both sides of a pair move.

    As in `intervals.frechet_interval`, which leaves the reference whole: here that would count the
    chance of the sample, which the two sides share.
    """
    from cm3leon.evaluation.statistics.intervals import frechet_influence, mean_interval

    moved_N = frechet_influence(real_ND, back_ND) + frechet_influence(back_ND, real_ND)
    low, high = mean_interval(moved_N, level)
    return Interval(max(0.0, value + low), value + high, level, PAIRS_METHOD)
