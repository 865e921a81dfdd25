"""Pictures with captions and a condition beside them: segmentation, depth, pose ... maps.

Pictures and captions are any source of pairs (`data.sources`: a folder, a split of MS-COCO). A
condition lies in a folder of its own under its picture's name, whatever its ending, PNG first:
`conditions/<kind>/<split>/` of an export of the embedded world, or the folder one names. Edges are
made on the spot where no folder holds them: Canny's, by OpenCV.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cm3leon.data.examples import Example, readable
from cm3leon.data.sources import PICTURES, Coco, Files, Pair, Skipped, bytes_of, stamp_of
from cm3leon.errors import UserError
from cm3leon.identity import joined
from cm3leon.images import decode_picture

THRESHOLDS = (100, 200)  # of Canny's edges, as ControlNet's
ENDINGS = (".png", *sorted(PICTURES - {".png"}))


class Conditioned(NamedTuple):
    """A captioned picture and its condition: a file, or None for edges found in the picture."""

    pair: Pair
    condition: Path | None

    @property
    def id(self) -> str:
        """As of the picture."""
        return self.pair.id

    def digest(self) -> str:
        """As `ExamplePart.digest`."""
        return self._digest(self.pair.digest(), self._bytes())

    def load(self) -> tuple[str, Example | Skipped]:
        """As `ExamplePart.load`."""
        own, item = self.pair.load()
        data = self._bytes()
        digest = self._digest(own, data)
        if isinstance(item, Skipped):
            return digest, item
        try:
            if self.condition is None:
                made = canny(item.image)
            else:
                made = decode_picture(readable(data, self.condition), self.condition)
        except UserError as error:
            return digest, Skipped(self.id, str(error))
        pictures = {"image": item.image, "condition": made}
        return digest, Example.of(self.id, pictures, ({"caption": one} for one in item.captions))

    def _bytes(self) -> bytes | OSError:
        return b"" if self.condition is None else bytes_of(self.condition)

    def _digest(self, own: str, data: bytes | OSError) -> str:
        how = f"canny {THRESHOLDS}" if self.condition is None else "file"
        return joined([own, how, f"error {data.errno}" if isinstance(data, OSError) else data])


class Conditions:
    """A source of pairs with the conditions of one kind, in `folder` or made on the spot.

    Raises UserError for a folder without such conditions, and for edges without OpenCV.
    """

    def __init__(self, base: Files | Coco, kind: str, folder: Path | None):
        self.base, self.kind, self.folder = base, kind, folder
        if folder is None and importlib.util.find_spec("cv2") is None:
            raise UserError(
                "edges are found by OpenCV, which is not installed: "
                "pip install opencv-python-headless, or name a folder of edges with --conditions"
            )
        self.about = base.about | {"kind": f"{base.about['kind']}-{kind}"}
        self.shards = base.shards

    def parts(self, shard: int) -> Iterator[Conditioned | Skipped]:
        """The examples of a shard; those without a condition are skipped."""
        for part in self.base.parts(shard):
            if isinstance(part, Skipped):
                yield part
            elif self.folder is None:
                yield Conditioned(part, None)
            elif (path := self._find(part)) is not None:
                yield Conditioned(part, path)
            else:
                yield Skipped(part.id, f"has no condition in {self.folder}")

    def stamp(self, shard: int) -> str:
        """Of the pictures' files and of the conditions'."""
        parts = [part for part in self.parts(shard) if isinstance(part, Conditioned)]
        base = self.base.stamp(shard)
        paths = [part.condition for part in parts if part.condition is not None]
        return base and stamp_of(paths, [[base, *(str(path) for path in paths)]])

    def _find(self, pair: Pair) -> Path | None:
        inner = PurePosixPath(pair.id if isinstance(self.base, Files) else pair.picture.name)
        paths = (self.folder / inner.with_suffix(ending) for ending in ENDINGS)
        return next((path for path in paths if path.is_file()), None)


def condition_folder(root: Path, kind: str, split: str | None) -> Path | None:
    """Where the conditions of a kind lie below a root, if they do."""
    places = [root / "conditions" / kind, root / "conditions"]
    if split:
        places.insert(0, root / "conditions" / kind / split)
    return next((place for place in places if place.is_dir()), None)


def canny(image_HW3: np.ndarray) -> np.ndarray:
    """Canny's edges by OpenCV, white on black, uint8 [H,W,3]."""
    import cv2

    grey = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    return cv2.Canny(grey, *THRESHOLDS)[..., None].repeat(3, -1)
