"""CLIP score: the cosine between a picture and its caption, in both published forms.

Plain: the mean cosine, neither cut nor scaled (GigaGAN, LlamaGen: ViT-B/32). CLIPScore: the mean of
2.5 max(0, cosine) (Hessel et al. 2021, arXiv 2104.08718); torchmetrics prints 100 max(0, cosine).
All put "A photo depicts " before the caption. A longer text is cut to CLIP's 77 tokens with its end
token kept: the text's vector is read there.

Shapes: N pictures with one caption each, D width of CLIP's space, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.sides import Lacking, Sides
from cm3leon.evaluation.statistics.frechet import check_features
from cm3leon.evaluation.statistics.intervals import mean_interval

NETWORK = "open_clip:ViT-B-32-quickgelu"
PREFIX = "A photo depicts "
WEIGHT = 2.5


@dataclass(frozen=True)
class ClipScores:
    """Cosines float64 [N] of pictures and captions, and the share of texts that filled CLIP."""

    cosine_N: np.ndarray
    full: float

    @property
    def plain(self) -> float:
        """Mean cosine."""
        return float(self.cosine_N.mean())

    @property
    def clip_s(self) -> float:
        """Mean of 2.5 max(0, cosine)."""
        return float(clip_s(self.cosine_N).mean())


def cosines(images_ND, texts_ND) -> np.ndarray:
    """Float64 [N]: the cosine of each picture's vector and its caption's, of any length.

    Raises UserError for unlike shapes, NaN and vectors of length zero.
    """
    images, texts = check_features(images_ND, "picture vectors"), check_features(texts_ND, "texts")
    if images.shape != texts.shape:
        raise UserError(
            f"every picture needs one caption, got vectors {list(images.shape)} of pictures "
            f"and {list(texts.shape)} of captions"
        )
    sizes = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    if not sizes.all():
        raise UserError(f"vectors of pair {int(np.argmin(sizes))} have length zero")
    return (images * texts).sum(1) / sizes


def clip_s(cosine_N) -> np.ndarray:
    """2.5 max(0, cosine), float64 [N]."""
    return WEIGHT * np.maximum(np.asarray(cosine_N, np.float64), 0.0)


def full_share(ids_NL) -> float:
    """Share of rows whose end (the highest id) is in the last place: cut, or just fitting."""
    ids = np.asarray(ids_NL)
    return float((ids.argmax(1) == ids.shape[1] - 1).mean())


def score_captions(clip, images: Sequence[np.ndarray], captions: Sequence[str]) -> ClipScores:
    """Scores of uint8 pictures [H, W, 3] with their captions by a `cm3leon.clip.Clip`.

    Raises UserError for other numbers of pictures than of captions, and for none.
    """
    if len(images) != len(captions) or not len(captions):
        raise UserError(
            f"every picture needs one caption, got {len(images)} pictures, {len(captions)} captions"
        )
    texts = [PREFIX + caption for caption in captions]
    found = cosines(clip.images(images), clip.texts(texts))
    return ClipScores(found, full_share(clip.words(texts)))


def measured(sides: Sides) -> dict[str, tuple]:
    """CLIP score in both forms, mean over seeds; intervals are Student's t over the prompts."""
    if sides.clip is None:
        raise Lacking(f"a CLIP's tower, not {sides.network.name}")
    texts_ND = sides.clip.texts(prefixed(sides))
    rows = [fake.rows(np.ones(fake.count, bool)) for fake in sides.fakes]
    cosine_KN = np.array([cosines(one_ND, texts_ND) for one_ND in rows])
    found = {}
    for name, scores_KN in (("clip_score", cosine_KN), ("clip_score_s", clip_s(cosine_KN))):
        scores_N = scores_KN.mean(0)
        ends = mean_interval(scores_N) if len(scores_N) > 1 else (None, None)
        found[name] = (float(scores_N.mean()), *ends)
    return found


def remarks(sides: Sides) -> list[str]:
    """A line on the captions that filled CLIP's tokens: they may have been cut."""
    ids_NL = sides.clip.words(prefixed(sides))
    share, tokens = full_share(ids_NL), ids_NL.shape[1]
    return [f"{share:.1%} of the captions filled CLIP's {tokens} tokens"] if share else []


def prefixed(sides: Sides) -> list[str]:
    """The captions as CLIP reads them; that of the embedded world never saw the usual words."""
    start = "" if sides.clip.name == "scenes" else PREFIX
    return [start + caption for caption in sides.captions]
