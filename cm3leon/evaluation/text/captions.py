"""Captions against reference captions: BLEU, ROUGE-L and CIDEr-D, without Java.

The conventions are coco-caption's (tylin/coco-caption), to which the numbers are equal on given
tokens; `tokens` (ptb.py) stands for its PTB tokeniser. CIDEr-D
(Vedantam et al. 2015): n-grams of 1 to 4 tokens weighted by log(images) - log(document frequency in
the references evaluated), so a subset of a corpus has other weights; the candidate's counts are
clipped to the reference's; a Gaussian of the difference in length; times 10. Papers print it times
100 more.

Shapes: N images; a candidate is a list of tokens, each image has one or more references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.text.ptb import tokens

__all__ = ["bleu", "cider_d", "longest_common", "rouge_l", "tokens"]

Tokens = Sequence[str]
NGRAMS = 4
SIGMA = 6.0  # of CIDEr-D's length penalty, in bigrams
BETA = 1.2  # of ROUGE-L: recall counts BETA^2 times precision
TINY, SMALL = 1e-15, 1e-9  # keep BLEU's quotients finite where nothing matches


def bleu(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[list[float], np.ndarray]:
    """Corpus BLEU-1..4, and each image's, float64 [N, 4]; the nearest reference length counts."""
    _check(candidates, references)
    right_N4, made_N4 = np.zeros((2, len(candidates), NGRAMS))
    lengths_N2 = np.zeros((len(candidates), 2))
    for row, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
        most: Counter = Counter()
        for reference in own:
            most |= _ngrams(reference)
        for gram, count in _ngrams(candidate).items():
            right_N4[row, len(gram) - 1] += min(count, most[gram])
        made_N4[row] = np.maximum(len(candidate) - np.arange(NGRAMS), 0)
        size = len(candidate)
        nearest = min((abs(len(reference) - size), len(reference)) for reference in own)[1]
        lengths_N2[row] = size, nearest
    each_N4 = _bleu(right_N4, made_N4, lengths_N2)
    whole_14 = _bleu(*(part.sum(0, keepdims=True) for part in (right_N4, made_N4, lengths_N2)))
    return whole_14[0].tolist(), each_N4


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """ROUGE-L of each image, float64 [N]: longest common subsequence, best over references."""
    _check(candidates, references)
    found_N = np.zeros(len(candidates))
    for row, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
        if not candidate:
            continue
        common = [longest_common(candidate, reference) for reference in own]
        precision = max(common) / len(candidate)
        recall = max(
            shared / len(reference)
            for shared, reference in zip(common, own, strict=True)
            if reference
        )
        if precision and recall:
            found_N[row] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return found_N


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """CIDEr-D of each image, float64 [N]; the corpus' is the mean. At least two images have sense:
    with one every n-gram of its references has weight 0.
    """
    _check(candidates, references)
    seen: Counter = Counter()
    for own in references:
        seen.update({gram for reference in own for gram in _ngrams(reference)})
    images = math.log(len(references))

    def weighted(sentence: Tokens) -> tuple[list[dict], list[float], int]:
        """tf-idf vectors by n-gram size, their norms, and the number of bigrams."""
        vectors: list[dict] = [{} for _ in range(NGRAMS)]
        for gram, count in _ngrams(sentence).items():
            vectors[len(gram) - 1][gram] = count * (images - math.log(max(1, seen[gram])))
        norms = [math.sqrt(sum(value * value for value in one.values())) for one in vectors]
        return vectors, norms, max(len(sentence) - 1, 0)

    found_N = np.zeros(len(candidates))
    for row, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
        ours = weighted(candidate)
        found_N[row] = np.mean([_likeness(ours, weighted(reference)) for reference in own])
    return 10 * found_N


def longest_common(one: Tokens, other: Tokens) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, against in enumerate(other, 1):
            kept = lengths[place]
            lengths[place] = before + 1 if word == against else max(kept, lengths[place - 1])
            before = kept
    return lengths[-1]


def _likeness(ours: tuple, theirs: tuple) -> float:
    """Mean over n-gram sizes of the clipped cosine, times the penalty for another length."""
    penalty = math.exp(-((ours[2] - theirs[2]) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for mine, other, norm, other_norm in zip(ours[0], theirs[0], ours[1], theirs[1], strict=True):
        shared = sum(min(mine[gram], other[gram]) * other[gram] for gram in mine if gram in other)
        if norm and other_norm:
            shared /= norm * other_norm
        total += shared * penalty
    return total / NGRAMS


def _bleu(right_N4, made_N4, lengths_N2) -> np.ndarray:
    shares_N4 = (right_N4 + TINY) / (made_N4 + SMALL)
    scores_N4 = np.cumprod(shares_N4, axis=1) ** (1 / np.arange(1, NGRAMS + 1))
    ratio_N = (lengths_N2[:, 0] + TINY) / (lengths_N2[:, 1] + SMALL)
    penalty_N = np.where(ratio_N < 1, np.exp(1 - 1 / np.minimum(ratio_N, 1)), 1.0)
    return scores_N4 * penalty_N[:, None]


def _ngrams(sentence: Tokens) -> Counter:
    """All n-grams of 1 to 4 tokens with their counts."""
    sentence = tuple(sentence)
    return Counter(
        sentence[start : start + size]
        for size in range(1, NGRAMS + 1)
        for start in range(len(sentence) - size + 1)
    )


def _check(candidates: Sequence, references: Sequence) -> None:
    if len(candidates) != len(references) or not len(candidates):
        raise UserError(
            f"captions need one candidate and its references an image, got {len(candidates)} "
            f"candidates and {len(references)} images"
        )
    for place, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
        if any(isinstance(one, str) for one in (candidate, own, *own)):
            raise UserError(
                f"image {place}: captions are lists of tokens, got a string, of which letters "
                "would be scored; use captions.tokens"
            )
        if not own or not any(own):
            raise UserError(f"image {place} has no reference caption; leave it out")
