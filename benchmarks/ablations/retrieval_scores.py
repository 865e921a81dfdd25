"""Arms of an ablation as numbers: FID, composition, CLIP score and copying, beside the default.

Shapes: P prompts, K sampling seeds, D features, T composition tasks, S documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.ablations.retrieval_conditions import ArmSystem, Asked
from benchmarks.evaluate.composition import answers
from benchmarks.images.generated import Pictures
from cm3leon.evaluation.features.network import Features, extract
from cm3leon.evaluation.metrics.composition import ALL, TASKS, asks_for_unseen
from cm3leon.evaluation.metrics.copying import copies, nearest_distance, shared_block
from cm3leon.evaluation.statistics import paired
from cm3leon.evaluation.statistics.frechet import Reference
from cm3leon.evaluation.statistics.paired import METHOD
from cm3leon.images import crop_square
from cm3leon.progress import progress

__all__ = ["METHOD", "judge_arms", "numbers"]


@dataclass(frozen=True)
class Judged:
    """One arm on one split; yes/no scores are means over the seeds, NaN where not asked."""

    seeds: int
    features_PKD: np.ndarray
    scores: Mapping[str, np.ndarray]  # measure -> [P]: entity, entity_unseen, right, clip, ..


def judge_arms(
    drawn: Mapping[str, tuple[ArmSystem, Sequence[Pictures]]],
    asked: Asked,
    real_ND: np.ndarray,
    real_images: np.ndarray,
    features: Features,
) -> dict[str, Judged]:
    """Every arm's drawings, judged; `real_images` uint8 [P, H, W, 3] are the captions' own."""
    return {
        name: judge_arm(system, sets, asked, real_images, features)
        for name, (system, sets) in drawn.items()
    }


def judge_arm(
    system: ArmSystem,
    sets: Sequence[Pictures],
    asked: Asked,
    real_images: np.ndarray,
    features: Features,
) -> Judged:
    """One arm's drawings."""
    prompts, arm = asked.prompts, system.arm.name
    by_seed = [sized(np.concatenate(list(one.batches())), features.size) for one in sets]
    features_KPD = [
        extract(features, np.array_split(one, 4), len(one), f"features of {arm}") for one in by_seed
    ]
    right_PT, asked_PT = answers(prompts, sets, features.size)
    shares_PT = np.where(asked_PT > 0, right_PT / np.maximum(asked_PT, 1), np.nan)
    entity_P = shares_PT[:, ALL.index("entity")]
    unseen_P = np.array([asks_for_unseen(prompt.meaning) for prompt in prompts])
    scores = {"entity": entity_P, "entity_unseen": np.where(unseen_P, entity_P, np.nan)}
    with np.errstate(invalid="ignore"):
        six_PT = shares_PT[:, : len(TASKS)]
        asked_any = np.isfinite(six_PT).any(1)
        scores["right"] = np.where(
            asked_any, np.nansum(six_PT, 1) / np.maximum(np.isfinite(six_PT).sum(1), 1), np.nan
        )
    clip = system.base.retriever.clip
    scores["clip"] = np.mean(
        [(clip.images(one) * asked.query.texts).sum(1) for one in by_seed], axis=0
    )
    if system.rows_PS.shape[1]:
        scores |= copying(system, by_seed, features_KPD, real_images, features)
    return Judged(len(sets), np.stack(features_KPD, 1), scores)


def copying(system: ArmSystem, by_seed, features_KPD, real_images, features: Features) -> dict:
    """Share of an arm's drawings that are copies of their documents: by pixels, by features, and by
    the largest block of image codes in common."""
    retriever, rows_PS = system.base.retriever, system.rows_PS
    codes = np.array(
        [
            [retriever.documents.document(int(row)).segments[-1].codes for row in rows]
            for rows in rows_PS
        ]
    )
    import torch

    count, each = rows_PS.shape
    shown = system.base.decode_codes(torch.from_numpy(codes.reshape(count * each, -1)))
    shown = sized(shown, features.size)
    shown_ND = extract(features, np.array_split(shown, 4), len(shown), "features of documents")
    real_ND = extract(features, np.array_split(real_images, 4), count, "features of the control")
    sides = {
        "copy_pixels": (_flat(shown), _flat(real_images), [_flat(one) for one in by_seed]),
        "copy_features": (shown_ND, real_ND, features_KPD),
    }
    found = {}
    for name, (documents, control, drawn) in sides.items():
        documents_PSD = documents.reshape(count, each, -1)
        real_P = nearest_distance(control, documents_PSD)
        found[name] = np.mean(
            [copies(nearest_distance(one, documents_PSD), real_P) for one in drawn], axis=0
        )
    codes = [coded(system.base.vq, one) for one in (shown, real_images, *by_seed)]
    documents_PSGG = codes[0].reshape(count, each, *codes[0].shape[1:])
    real_P, *drawn = (shared_block(one, documents_PSGG) for one in codes[1:])
    found["copy_blocks"] = np.mean([copies(-one, -real_P) for one in drawn], axis=0)
    return found


def coded(vq, images: np.ndarray) -> np.ndarray:
    """The image codes of pictures uint8 [B, S, S, 3], int64 [B, G, G]."""
    pieces = np.array_split(images, max(1, len(images) // 64))
    codes = np.concatenate([vq.encode(one).cpu().numpy() for one in pieces])
    side = round(codes.shape[1] ** 0.5)
    return codes.reshape(len(images), side, side)


def numbers(
    split: str, judged: Mapping[str, Judged], real_ND: np.ndarray, default: str, resamples: int
) -> dict[str, tuple]:
    """`split.arm.measure` -> (value, low, high); `.._vs_X`: the default's lead over arm X.

    Of FID the lead is a ratio, FID of X / FID of the default over the seeds that both have; of the
    others a difference of means over an arm's own seeds.
    """
    found, reference = {}, Reference(real_ND)

    @cache
    def distance(name: str, seeds: int) -> paired.Distance:
        return paired.distance(reference, judged[name].features_PKD[:, :seeds], resamples)

    with progress(len(judged), f"intervals of {split}") as bar:
        for name, one in judged.items():
            key = f"{split}.{name}"
            found[f"{key}.fid"] = paired.frechet(distance(name, one.seeds))
            for measure, values in one.scores.items():
                if np.isfinite(values).sum() >= 2:
                    found[f"{key}.{measure}"] = paired.mean(values)
            if name != default:
                seeds, lead = min(judged[default].seeds, one.seeds), f"{split}.{default}"
                ratio = paired.frechet_ratio(distance(default, seeds), distance(name, seeds))
                found[f"{lead}.fid_vs_{name}"] = ratio
                found |= leads(judged[default], one, lead, name)
            bar.update()
    return found


def leads(best: Judged, other: Judged, key: str, name: str) -> dict[str, tuple]:
    """What the default is ahead of another arm, by scores of single pictures."""
    found = {}
    for measure in ("entity", "entity_unseen", "right", "clip"):
        pair = best.scores[measure], other.scores[measure]
        if np.isfinite(pair[0] - pair[1]).sum() >= 2:
            found[f"{key}.{measure}_vs_{name}"] = paired.mean_difference(*pair)
    return found


def sized(images: np.ndarray, size: int) -> np.ndarray:
    """Uint8 [N, size, size, 3] of pictures of any size: pixels compare at one size only."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([crop_square(image, size) for image in images])


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)
