"""CLIP direction and image similarity of edits (InstructPix2Pix, metrics/clip_similarity.py).

direction = cos(I1 - I0, T1 - T0) of unit features of the pictures before and after and of their
captions; image similarity = cos(I0, I1). Where nothing changed the direction is 0, as torch's
cosine has it.

Shapes: N edits, D width.
"""

from __future__ import annotations

import numpy as np

TINY = 1e-8  # of a norm: below it nothing has a direction


def clip_direction(images0_ND, images1_ND, texts0_ND, texts1_ND) -> np.ndarray:
    """Cosine of the change of the pictures with that of their captions, float64 [N]."""
    pictures_ND = _unit(images1_ND) - _unit(images0_ND)
    words_ND = _unit(texts1_ND) - _unit(texts0_ND)
    return _cosine(pictures_ND, words_ND)


def clip_similarity(images0_ND, images1_ND) -> np.ndarray:
    """Cosine of the pictures before and after, float64 [N]."""
    return _cosine(_unit(images0_ND), _unit(images1_ND))


def _unit(features_ND) -> np.ndarray:
    features_ND = np.asarray(features_ND, float)
    return features_ND / np.linalg.norm(features_ND, axis=-1, keepdims=True)


def _cosine(one_ND: np.ndarray, other_ND: np.ndarray) -> np.ndarray:
    norms_2N = [np.maximum(np.linalg.norm(each, axis=-1), TINY) for each in (one_ND, other_ND)]
    return (one_ND * other_ND).sum(-1) / (norms_2N[0] * norms_2N[1])
