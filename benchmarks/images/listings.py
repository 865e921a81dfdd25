"""Real, drawn and rebuilt pictures of a pinned protocol as listings, whose features are kept.

Shapes: N pictures, S pixels of a side, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np

from benchmarks.images.generated import Pictures
from benchmarks.protocols.coco import ROUNDED, Protocol
from cm3leon.data.coco import Entry
from cm3leon.errors import UserError
from cm3leon.evaluation.features.cache import Kept, Listing
from cm3leon.files import read_file
from cm3leon.identity import contents
from cm3leon.images import crop_square, decode_picture, other_mode, read_picture

NAMED = 5  # pictures named in a warning


def cropper(protocol: Protocol) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [H, W, 3] -> [S, S, 3] by the protocol's crop, the same for both sides."""
    if protocol.crop == ROUNDED:
        return lambda image: crop_square(rounded_square(image), protocol.size)
    return lambda image: crop_square(image, protocol.size)


def rounded_square(image_HW3: np.ndarray) -> np.ndarray:
    """The centre square of a picture; half a pixel is rounded to the even one, as torchvision does
    (`crop_square` rounds down)."""
    height, width = image_HW3.shape[:2]
    side = min(height, width)
    top, left = (round((length - side) / 2) for length in (height, width))
    return image_HW3[top : top + side, left : left + side]


def real_listing(protocol: Protocol, entries: Sequence[Entry]) -> Listing:
    """The reference pictures as a listing; a remark names a file that is not RGB."""
    crop = cropper(protocol)

    def read(place: int) -> tuple[np.ndarray, str]:
        path = entries[place].path
        try:
            data = read_file(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        return crop(decode_picture(data, path)), other_mode(data)

    found = contents([entry.path for entry in entries])
    stamps = [
        [entry.image_id, entry.path.name, sha256]
        for entry, sha256 in zip(entries, found, strict=True)
    ]
    about = {"crop": protocol.crop, "size": protocol.size}
    return Listing(f"{protocol.split} pictures", stamps, read, about, lenient=True)


def rebuilt_listing(protocol: Protocol, entries: Sequence[Entry], vq) -> Listing:
    """The reference pictures as an image tokenizer gives them back, at its own size."""
    crop, real = cropper(protocol), real_listing(protocol, entries)

    def read(place: int) -> tuple[np.ndarray, str]:
        image, _ = real.read(place)
        codes = vq.encode(crop_square(image, vq.image_size)[None])
        return crop(vq.decode(codes)[0]), ""

    about = real.about | {"tokenizer": tokenizer_digest(vq), "tokenizer_size": vq.image_size}
    return Listing("rebuilt pictures", real.stamps, read, about, lenient=True)


def tokenizer_digest(vq) -> str:
    """SHA-256 of a tokenizer: its file's where it has one, else of what is in memory."""
    from cm3leon.checkpoint import module_digest

    return getattr(vq, "sha256", None) or module_digest(vq)


def drawn_listing(protocol: Protocol, label: str, pictures: Pictures) -> Listing:
    """The drawn pictures as a listing, through one JPEG where the protocol says so."""
    crop = cropper(protocol)

    def read(place: int) -> tuple[np.ndarray, str]:
        path = pictures.paths[place]
        image = read_picture(path) if path.is_file() else pictures.read(path)
        if protocol.format == "jpeg":
            image = through_jpeg(image, protocol.quality)
        return crop(image), ""

    inside = {path.parent for path in pictures.paths if path.parent.is_file()}  # of an .npz
    whole = dict(zip(inside, contents(inside), strict=True))
    own = contents([path for path in pictures.paths if path.parent not in whole])
    stamps = [[path.name, whole.get(path.parent) or next(own)] for path in pictures.paths]
    about = {"crop": protocol.crop, "size": protocol.size, "format": protocol.format}
    return Listing(label, stamps, read, about | {"quality": protocol.quality})


def through_jpeg(image_HW3: np.ndarray, quality: int) -> np.ndarray:
    """The picture as a JPEG of that quality gives it back (Pillow, chroma at half the size)."""
    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW3)).save(out, "JPEG", quality=quality)
    return decode_picture(out.getvalue(), "JPEG")


def remarks_on(kept: Kept, entries: Sequence[Entry]) -> list[str]:
    """Warnings: pictures left out, pictures that were not RGB."""
    said = []
    for noun, found in (
        ("unreadable pictures left out of the reference", kept.unreadable),
        ("pictures of the reference were not RGB and were converted", kept.remarks),
    ):
        if found:
            first = sorted(found)[:NAMED]
            shown = ", ".join(f"{entries[k].path.name} ({shorter(found[k])})" for k in first)
            said.append(f"{len(found)} {noun}: {shown}")
    return said


def shorter(reason: str) -> str:
    """A reason without the path that it repeats."""
    return reason.rsplit(": ", 1)[-1].split(";")[0][:60]
