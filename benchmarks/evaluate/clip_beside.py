"""CLIP score of pictures that another CLIP has picked.

A CLIP that picks the best of several samples would measure its own judgement, so the score is given
where the two have other weights, and named as missing where they have the same. Shapes: P
prompts, K seeds, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.images.generated import Pictures
from benchmarks.protocols.prompts import Prompt
from cm3leon.errors import UserError
from cm3leon.evaluation.measures import Missing

if TYPE_CHECKING:
    from cm3leon.clip import Clip
    from cm3leon.evaluation.statistics import paired

MEASURES = "scenes"  # the CLIP that scores
SAME = (
    "the CLIP that picks the samples is the one that would measure them; "
    "pick with another, --rerank-clip local-dir:FOLDER or ARCHITECTURE:FILE"
)


def judge_beside(picker_sha256: str) -> tuple[Clip | None, list[Missing]]:
    """The CLIP that measures, or None and why there is no score: it is the picker, or absent."""
    from cm3leon.clip import load_clip

    try:
        clip = load_clip(MEASURES)
    except UserError as error:
        return None, [Missing("CLIP score", str(error))]
    same = clip.sha256 == picker_sha256
    return (None, [Missing("CLIP score", SAME)]) if same else (clip, [])


def cosines(clip: Clip, prompts: Sequence[Prompt], images_PHW3: np.ndarray) -> np.ndarray:
    """Cosine of each caption and its picture, float [P]."""
    texts_PD = clip.texts([prompt.caption for prompt in prompts])
    return (clip.images(images_PHW3) * texts_PD).sum(1)


def score_picked(
    system, prompts: Sequence[Prompt], drawn: Sequence[Pictures]
) -> tuple[dict[str, paired.Triple], list[Missing]]:
    """`clip` -> (mean cosine over prompts and seeds, low, high) of what a re-ranked system drew,
    or what is missing. Nothing of a system that picks by no CLIP, or of photographs' captions.
    """
    picker = (getattr(system, "config", None) or {}).get("rerank_clip_sha256")
    if picker is None or any(prompt.meaning is None for prompt in prompts):
        return {}, []
    clip, missing = judge_beside(picker)
    if clip is None:
        return {}, missing
    from cm3leon.evaluation.statistics import paired

    near_KP = [cosines(clip, prompts, np.concatenate([*one.batches()])) for one in drawn]
    return {"clip": paired.mean(np.mean(near_KP, axis=0))}, missing
