"""What the image tokenizer's codes are worth to a language model that has to predict them.

Run: python -m benchmarks.codes      about a minute; also nox -s codes
A code is easy to predict when it follows from what it shows. Measured on `stock`, `train`, as the
mean conditional entropy in nats: of the ground's codes given place and cell; of an object's codes
given everything drawn there (noise: what no model can learn), and given everything but the place or
but the colour (what the code repeats about them). Beside that, what is lost: objects read back
right in all attributes from reconstructions, for objects of plain words and tail entities apart.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cm3leon.cli import guarded, parse
from cm3leon.errors import UserError

BATCH = 100
LEAST = 8  # codes seen under one condition before its entropy counts


@dataclass
class Options:
    """Measure the codes of an image tokenizer."""

    weights: Path | None = None  # folder with text/ and vq/; default: the shipped ones
    n: int = 6000  # pictures behind the entropies
    read: int = 400  # pictures a split that are read back


def run(options: Options) -> int:
    """Print the table; returns the exit code."""
    if options.n < BATCH or options.read < 1:
        raise UserError(
            f"codes needs n >= {BATCH} and read >= 1, got {options.n} and {options.read}"
        )
    from baselines.transformers import load_tokenizers
    from cm3leon.files import baselines_folder

    _, vq = load_tokenizers(options.weights or baselines_folder() / "scenes")
    for name, value in (entropies(vq, options.n) | readings(vq, options.read)).items():
        print(f"{name:44} {value:.3f}")
    return 0


def entropies(vq, count: int) -> dict[str, float]:
    """Conditional entropies in nats over `count` pictures of `stock`, `train`."""
    import numpy as np

    from cm3leon.scenes import scene

    ground, objects, used = defaultdict(list), defaultdict(list), Counter()
    for start in range(0, count - BATCH + 1, BATCH):
        scenes = [scene("stock", "train", start + k) for k in range(BATCH)]
        maps = vq.encode(np.stack([one.image for one in scenes])).numpy()
        used.update(maps.flatten().tolist())
        for one, codes in zip(scenes, maps.reshape(BATCH, 8, 8), strict=True):
            for kind, condition, code in conditions(one, codes):
                (objects if kind == "object" else ground)[condition].append(code)
    blind = {"place": 0, "colour": 2}
    found = {
        "codes used": float(len(used)),
        "ground, given place and cell": conditional_entropy(ground),
        "objects, given all (noise)": conditional_entropy(objects),
    }
    for name, position in blind.items():
        merged = defaultdict(list)
        for condition, codes in objects.items():
            merged[condition[:position] + condition[position + 1 :]] += codes
        found[f"objects, given all but the {name}"] = conditional_entropy(merged)
    return found


def conditions(one, codes) -> Iterable[tuple[str, tuple, int]]:
    """(ground or object, what is drawn in a cell, its code) for the cells with at most one object.

    What is drawn: (place, column, row), or (place, shape, colour, size, pattern, column and row
    from the object's centre). Cells of tail entities are left out.
    """
    from cm3leon.sprites import SIZES

    owners = defaultdict(list)
    for thing in one.plan.things:
        reach, (column, row) = SIZES[thing[2]] // 2, thing[5]
        for y in range(max(0, row - reach), min(8, row + reach + 1)):
            for x in range(max(0, column - reach), min(8, column + reach + 1)):
                owners[x, y].append((thing, x - column, y - row))
    for y in range(8):
        for x in range(8):
            code, here = int(codes[y, x]), owners[x, y]
            if not here:
                yield "ground", (one.place, x, y), code
            elif len(here) == 1 and not here[0][0][4]:
                thing, dx, dy = here[0]
                yield "object", (one.place, *thing[:4], dx, dy), code


def conditional_entropy(codes_of: Mapping[Hashable, list[int]]) -> float:
    """Mean entropy in nats over conditions seen at least `LEAST` times, weighted by how often;
    each with Miller and Madow's correction (K - 1) / 2n. NaN when there is none.
    """
    import numpy as np

    total, weight = 0.0, 0
    for codes in codes_of.values():
        if len(codes) >= LEAST:
            shares = np.array(list(Counter(codes).values())) / len(codes)
            entropy = -(shares * np.log(shares)).sum() + (len(shares) - 1) / (2 * len(codes))
            total, weight = total + entropy * len(codes), weight + len(codes)
    return total / weight if weight else float("nan")


def readings(vq, count: int) -> dict[str, float]:
    """Share of objects read back right in all attributes, and PSNR, from reconstructions."""
    import numpy as np

    from baselines.tokenizers import reconstruct
    from benchmarks.metrics.composition import objects_right
    from benchmarks.metrics.picture_reader import read_picture
    from cm3leon.scenes import scene

    found = {}
    for dialect, split in (("coco", "test"), ("coco", "tail")):
        scenes = [scene(dialect, split, index) for index in range(count)]
        images = np.stack([one.image for one in scenes])
        rebuilt = reconstruct(vq, images)
        pairs = [
            objects_right(read_picture(picture), one.objects)
            for picture, one in zip(rebuilt, scenes, strict=True)
        ]
        right, objects = np.sum(pairs, axis=0)
        error = ((rebuilt.astype(float) - images) ** 2).mean()
        found[f"objects right, {dialect} {split} (of {objects})"] = right / objects
        found[f"PSNR, {dialect} {split}, dB"] = float(10 * np.log10(255**2 / error))
    return found


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(parse(Options, None, "codes"))))
