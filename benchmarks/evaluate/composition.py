"""Whether drawn pictures hold what their captions claim (`metrics/composition.py`).

Shapes: N prompts, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.images.generated import Pictures
from benchmarks.protocols.prompts import Prompt
from cm3leon.evaluation.metrics.composition import ALL, judge
from cm3leon.evaluation.statistics.intervals import one_thread
from cm3leon.images import crop_square
from cm3leon.progress import progress
from cm3leon.workers import portions, side_by_side
from cm3leon.world.reader import read_picture

AT_ONCE = 16  # pictures that a worker reads before it takes others


def answers(
    prompts: Sequence[Prompt], drawn: Sequence[Pictures], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often each task was right, and how often it was asked: int64 [N, K], summed over sets.

    `drawn` holds one set of pictures a sampling seed; they are read at `size` pixels.
    """
    right_NK = np.zeros((len(prompts), len(ALL)), np.int64)
    asked_NK = np.zeros_like(right_NK)
    with progress(len(prompts) * len(drawn), "read pictures back") as bar, one_thread():
        for one in drawn:
            images = [image for batch in one.batches() for image in batch]

            def verdicts(part: slice, images=images) -> list[dict[str, bool]]:
                pairs = list(zip(prompts[part], images[part], strict=True))
                bar.update(len(pairs))
                return [
                    judge(read_picture(crop_square(image, size)), prompt.meaning)
                    for prompt, image in pairs
                ]

            parts = portions(len(prompts), AT_ONCE, 1)
            for part, found in zip(parts, side_by_side(verdicts, parts), strict=True):
                right_NK[part] += [[one.get(task, False) for task in ALL] for one in found]
                asked_NK[part] += [[task in one for task in ALL] for one in found]
    return right_NK, asked_NK
