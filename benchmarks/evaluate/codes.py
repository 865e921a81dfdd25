"""What the image tokenizer's codes are worth to a language model that has to predict them.

Run: python -m benchmarks.evaluate.codes --weights OLD NEW   a minute each; also nox -s codes
A code is easy to predict when it follows from what it shows. Measured on `stock`, `train`, as the
mean conditional entropy in nats: of the ground's codes given place and cell; of an object's codes
given everything drawn there (noise: what no model can learn), and given everything but the place or
but the colour (what the code repeats about them). Beside that, what is lost between a picture and
its reconstruction, on `coco`, `test`, and `tail`: objects read back right in all attributes, plain
words and tail entities apart; letters and whole signs; segmentation and depth maps as the mean of
classes' intersection over union, each over all blocks of all pictures; edges and scribbles as F1
over all pixels and strokes.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cm3leon.cli.main import guarded, parse
from cm3leon.errors import UserError
from cm3leon.options import Count

BATCH = 100
LEAST = 8  # codes seen under one condition before its entropy counts
SIGNED = 4  # of so many scenes behind the conditions one has a sign


@dataclass
class Options:
    """Measure the codes of image tokenizers, side by side."""

    weights: tuple[Path, ...] = ()  # folders with vq/; default: the shipped one
    n: Count = 6000  # pictures behind the entropies
    read: Count = 400  # pictures of each kind that are read back


def run(options: Options) -> int:
    """Print the table, one column a tokenizer; returns the exit code."""
    if options.n < BATCH or options.read < 1:
        raise UserError(
            f"codes needs n >= {BATCH} and read >= 1, got {options.n} and {options.read}"
        )
    from cm3leon.files import baselines_folder
    from cm3leon.tokenizers.folder import load_tokenizer

    folders = options.weights or (baselines_folder() / "scenes",)
    tokenizers = [load_tokenizer(folder / "vq") for folder in folders]
    columns = [measured(vq, options.n, options.read) for vq in tokenizers]
    print(" " * 44, *(f"{_short(folder.parts):>12}" for folder in folders))
    for name in columns[0]:
        print(f"{name:44}", *(f"{column[name]:12.3f}" for column in columns))
    return 0


def _short(parts: tuple[str, ...]) -> str:
    return parts[-1][-12:] if parts else "."


def measured(vq, count: int, read: int) -> dict[str, float]:
    """Everything about one tokenizer: entropies over `count` pictures, `read` of each kind read."""
    found = {"codebook": float(vq.codebook_size)} | entropies(vq, count)
    return found | readings(vq, read) | sign_readings(vq, read) | condition_readings(vq, read)


def entropies(vq, count: int) -> dict[str, float]:
    """Conditional entropies in nats over `count` pictures of `stock`, `train`."""
    import numpy as np

    from cm3leon.world.scenes import scene

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
    from cm3leon.world.sprites import SIZES

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


def psnr(images, rebuilt) -> float:
    """Peak signal-to-noise ratio over all pictures together, dB; uint8 [B,S,S,3]."""
    import numpy as np

    error = ((rebuilt.astype(float) - images) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def readings(vq, count: int) -> dict[str, float]:
    """Share of objects read back right in all attributes, and PSNR, from reconstructions."""
    import numpy as np

    from cm3leon.evaluation.metrics.composition import objects_right
    from cm3leon.training.image_tokenizer import reconstruct
    from cm3leon.world.reader import read_picture
    from cm3leon.world.scenes import scene

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
        found[f"objects right, {dialect} {split} (of {objects})"] = right / objects
        found[f"PSNR, {dialect} {split}, dB"] = psnr(images, rebuilt)
    return found


def sign_readings(vq, count: int) -> dict[str, float]:
    """Share of letters and of whole signs read back right from reconstructions of `coco`, `test`.

    A letter is right where it stands in the text as it should; a sign, where text and place are.
    """
    import numpy as np

    from cm3leon.training.image_tokenizer import reconstruct
    from cm3leon.world.reader import read_sign
    from cm3leon.world.signs import sign_scene

    scenes = [sign_scene("coco", "test", index) for index in range(count)]
    images = np.stack([one.image for one in scenes])
    rebuilt = reconstruct(vq, images)
    right = letters = whole = 0
    for picture, one in zip(rebuilt, scenes, strict=True):
        sign, found = one.plan.sign, read_sign(picture)
        letters += len(sign.text)
        right += letters_right(sign.text, found.text if found else "")
        whole += found == sign
    return {
        f"letters right, signs (of {letters})": right / letters,
        f"signs right (of {count})": whole / count,
        "PSNR, signs, dB": psnr(images, rebuilt),
    }


def letters_right(text: str, read: str) -> int:
    """Letters of `text` that stand at their place in `read`; none where the lengths differ."""
    return sum(a == b for a, b in zip(text, read, strict=True)) if len(text) == len(read) else 0


def condition_readings(vq, count: int) -> dict[str, float]:
    """How much of each condition's map is read back from reconstructions; `coco`, `test`."""
    import numpy as np

    from cm3leon.training.image_tokenizer import reconstruct
    from cm3leon.world.conditions import CONDITIONS, READERS
    from cm3leon.world.scenes import scene
    from cm3leon.world.signs import sign_scene

    scenes = [
        sign_scene("coco", "test", index) if index % SIGNED == 0 else scene("coco", "test", index)
        for index in range(count)
    ]
    measures = {
        "segmentation": ("mIoU", mean_iou),
        "depth": ("mIoU", mean_iou),
        "edges": ("F1", f1),
        "scribble": ("F1", f1),
    }
    found = {}
    for kind, (name, measure) in measures.items():
        images = np.stack([CONDITIONS[kind](one) for one in scenes])
        rebuilt = reconstruct(vq, images)
        truth, read = (
            np.stack([READERS[kind](picture) for picture in pictures])
            for pictures in (images, rebuilt)
        )
        found[f"{kind}: {name}"] = measure(truth, read)
        found[f"PSNR, {kind}, dB"] = psnr(images, rebuilt)
    return found


def mean_iou(truth, read) -> float:
    """Mean over the classes of `truth` (the ground is one) of intersection over union."""
    import numpy as np

    shares = [
        ((truth == name) & (read == name)).sum() / ((truth == name) | (read == name)).sum()
        for name in np.unique(truth)
    ]
    return float(np.mean(shares))


def f1(truth, read) -> float:
    """Harmonic mean of precision and recall of two maps of truth values; 1 where both are empty."""
    both = 2 * (truth & read).sum()
    return float(both / (truth.sum() + read.sum())) if truth.any() or read.any() else 1.0


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(parse(Options, None, "codes"))))
