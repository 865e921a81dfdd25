"""Files as data URIs for a page that stands alone, and a picture of such a page."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.files import write_atomic

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDEST = 1000  # pixels a picture keeps
AS_IT_IS = 150_000  # bytes; a larger PNG becomes a JPEG
SHOT = (1280, 860)  # pixels of the page's picture


def svg_uri(text: str) -> str:
    """An SVG as an image that runs no script and shares no ids with the page."""
    return _uri("image/svg+xml", text.encode())


def picture_uri(path: Path) -> str | None:
    """A PNG, made smaller where it is large; None for what cannot be read."""
    from PIL import Image

    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            if len(data) <= AS_IT_IS:
                image.verify()
                return _uri(f"image/{image.format.lower()}", data)
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((WIDEST, 20 * WIDEST), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, format="JPEG", quality=80, optimize=True)
    return _uri("image/jpeg", out.getvalue())


def browser() -> str | None:
    """A Chromium of this machine, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def screenshot(page: Path, path: Path) -> Path:
    """The top of a page as a PNG of 256 colours; UserError where there is no browser."""
    from PIL import Image

    binary = browser()
    if binary is None:
        raise UserError("--picture needs chromium; install it or leave --picture out")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [
            binary, "--headless", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}",
            f"--window-size={SHOT[0]},{SHOT[1]}", f"--user-data-dir={folder}/profile",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), page.resolve().as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if not shot.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{binary} took no picture of {page}: {last}")
        out = io.BytesIO()
        with Image.open(shot) as image:
            image.convert("RGB").quantize(256).save(out, format="PNG", optimize=True)
    return write_atomic(path, out.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
