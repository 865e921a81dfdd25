"""Pictures somebody else drew, in one `.npz`: `--images FILE.npz`.

Either `arr_0`, uint8 [N, H, W, 3] in the order of the prompts (ADM's form; `arr_1` and on are
ignored), or one array uint8 [H, W, 3] an image id. Uncompressed arrays are mapped, not read.

Shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.images.generated import Pictures, by_image_id
from benchmarks.protocols.prompts import Prompt
from cm3leon.data.npz import ALL, array, checked, members
from cm3leon.errors import UserError
from cm3leon.images import crop_square


def from_npz(path: str | Path, prompts: Sequence[Prompt], size: int) -> Pictures:
    """The pictures in the order of `prompts`, cropped to a square of `size` pixels.

    Raises UserError for a torn file, floats, another shape, and fewer pictures than prompts; more
    of them are reported as extra.
    """
    path = Path(path)
    keys = members(path)
    if ALL in keys:
        images_NHW3 = checked(array(path, ALL), path, ALL, 4)
        if len(images_NHW3) < len(prompts):
            raise UserError(
                f"{path} has {len(images_NHW3)} pictures for {len(prompts)} prompts; draw the rest"
            )
        names = tuple(path / str(row) for row in range(len(prompts)))
        extra = tuple(f"{path.name}[{row}]" for row in range(len(prompts), len(images_NHW3)))
        return Pictures(
            names,
            lambda name: crop_square(np.array(images_NHW3[int(name.name)]), size),
            reused=len(names),
            extra=extra,
        )
    chosen, extra = by_image_id(keys, prompts, path)

    def read(name: Path) -> np.ndarray:
        return crop_square(checked(array(path, name.name), path, name.name, 3), size)

    names = tuple(path / keys[place] for place in chosen)
    return Pictures(names, read, reused=len(names), extra=tuple(keys[place] for place in extra))
