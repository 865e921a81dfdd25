"""Picture files <-> uint8 RGB arrays, and the one crop by which real pictures become square.

Orientation marks (EXIF) are ignored: MS-COCO's annotations and every published FID on it refer to
the stored pixels. Reading decides nothing by itself: what cannot be read is a UserError.

Axes: H height, W width, S side of a square, 3 RGB.
"""

from __future__ import annotations

import threading
from io import BytesIO
from pathlib import Path

import numpy as np

from cm3leon.errors import UserError
from cm3leon.files import read_file, write_atomic

CROP = "centre-crop-lanczos"  # part of a protocol's name: the crop moves every FID
MOST_PIXELS = 2**30 // 12  # 89,478,485, Pillow's own; more is refused before it is decoded
WHITE = (255, 255, 255, 255)
_limit = threading.Lock()


def read_picture(path: str | Path) -> np.ndarray:
    """The picture in a file, uint8 [H,W,3], whatever its mode; see `decode_picture`.

    Raises UserError naming file and reason also for a file that is missing.
    """
    path = Path(path)
    try:
        data = read_file(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return decode_picture(data, path)


def decode_picture(data: bytes, name: str | Path) -> np.ndarray:
    """The picture in a file's bytes, uint8 [H,W,3]; `name` is for messages.

    Grey becomes three equal channels; transparency is laid on white; 16-bit grey is scaled by
    1/257; CMYK goes through Pillow's conversion; of an animation the first frame counts; EXIF
    orientation is ignored. Raises UserError naming file and reason for bytes that are truncated,
    no picture, or of more than MOST_PIXELS.
    """
    from PIL import Image

    try:
        return np.array(to_rgb(open_picture(BytesIO(data), name)))
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(f"{name} is no picture Pillow can read; remove or replace it") from None
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} is damaged: {reason}; remove or replace it") from None


def open_picture(file: Path | BytesIO, name: str | Path):
    """Pillow's picture of a file, its pixels not read yet; UserError above MOST_PIXELS."""
    from PIL import Image

    with _limit:  # the library's own limit is a global, and another error
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    width, height = image.size
    if width * height > MOST_PIXELS:
        image.close()
        raise UserError(
            f"{name} has {width} x {height} pixels, more than {MOST_PIXELS:,}; make it smaller"
        )
    return image


def other_mode(data: bytes) -> str:
    """Pillow's mode of a picture's bytes that are not RGB, else ""."""
    with open_picture(BytesIO(data), "picture") as image:
        return "" if image.mode == "RGB" else image.mode


def crop_square(image_HW3: np.ndarray, size: int) -> np.ndarray:
    """The centre square of a uint8 picture [H,W,3], resized to [size,size,3] (protocol `CROP`).

    The square has the short side; an odd rest goes to the right or the bottom. Lanczos of
    Pillow, which widens its filter when it shrinks, so nothing aliases. A picture of that
    size already comes back unchanged. Raises UserError for another dtype or shape.
    """
    from PIL import Image

    check_picture(image_HW3)
    if size < 1:
        raise UserError(f"size of a crop must be at least 1 pixel, got {size}")
    height, width = image_HW3.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image_HW3[top : top + side, left : left + side])
    if side == size:
        return square.copy()
    return np.array(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS))


def crop_resized(image_HW3: np.ndarray, size: int, resample: int) -> np.ndarray:
    """A uint8 picture resized until its short side has `size` pixels, then its centre square.

    torchvision's `Resize(size)` and `CenterCrop(size)` of a Pillow picture, without torchvision;
    `resample` is Pillow's filter. Applied twice it changes nothing more.
    """
    from PIL import Image

    height, width = image_HW3.shape[:2]
    short = min(height, width)
    if short != size:
        longer = int(size * max(height, width) / short)
        shape = (size, longer) if width < height else (longer, size)
        resized = Image.fromarray(image_HW3).resize(shape, Image.Resampling(resample))
        image_HW3 = np.asarray(resized)
    height, width = image_HW3.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image_HW3[top : top + size, left : left + size].copy()


def write_png(
    path: str | Path,
    image_HW3: np.ndarray,
    about: dict[str, str] | None = None,
    durable: bool = True,
) -> Path:
    """Write a uint8 picture [H,W,3] as PNG with `about` as its text chunks, by `write_atomic`."""
    return write_atomic(path, png_bytes(image_HW3, about), durable)


def png_bytes(image_HW3: np.ndarray, about: dict[str, str] | None = None) -> bytes:
    """A uint8 picture [H,W,3] as the bytes of a PNG, with `about` as its text chunks."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    check_picture(image_HW3)
    info = PngInfo()
    for key, value in (about or {}).items():
        info.add_itxt(key, value)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW3)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def check_name(path: str | Path) -> None:
    """Raise UserError for a name that promises another format than PNG."""
    if (suffix := Path(path).suffix.lower()) not in ("", ".png"):
        raise UserError(f"pictures are written as PNG, {path} would be a {suffix}; name a .png")


def check_picture(image_HW3: np.ndarray) -> None:
    """Raise UserError unless the array is a uint8 picture [H,W,3] with at least one pixel."""
    shape = tuple(image_HW3.shape)
    if image_HW3.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise UserError(f"a picture must be uint8 [H,W,3], got {image_HW3.dtype} {list(shape)}")


def to_rgb(image):
    """Any Pillow image as mode RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey; 32-bit integers are read by the same scale
        grey_HW = np.clip(np.array(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((grey_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UserError(f"mode {image.mode} (floating point) has no scale; save it with 8 bits")
    if image.has_transparency_data:
        front = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, WHITE), front).convert("RGB")
    return image.convert("RGB")
