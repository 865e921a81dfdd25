"""Pictures on disk: drawn once and kept as PNG files, so that a killed run draws nothing twice.

    <cache>/<system>/<key>/system.json      what the key stands for, and the size in pixels
    .../<prompt id>_<seed>_<caption>.png    one picture; <caption> is a digest, and the picture
                                            itself names caption, seed and key

The key is made of weights, config and the format below. Benchmarks that ask for the same captions
share their drawings. Also reads a folder of pictures somebody else drew (`--images`; an `.npz` in
npz_images.py).

Shapes: B pictures, H x W pixels.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import core
from benchmarks.protocols.prompts import Prompt, digest
from cm3leon.errors import UserError
from cm3leon.files import read_file, sha256_bytes, sha256_file, write_atomic
from cm3leon.identity import seal, unseal
from cm3leon.images import crop_square, read_picture, write_png
from cm3leon.progress import progress
from cm3leon.seeds import derive
from cm3leon.training.ranks import Group

FORMAT = 2  # raise it when the same key would stand for other pictures
CODES = "codes"  # the text chunk of a kept picture that lists them
PNG = b"\x89PNG\r\n\x1a\n"
KINDS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Pictures:
    """Pictures in the order of their prompts, all of one size, read when they are needed."""

    paths: tuple[Path, ...]
    read: Callable[[Path], np.ndarray]  # uint8 [H, W, 3]
    drawn: int = 0  # by this call
    reused: int = 0  # found on disk
    extra: tuple[str, ...] = ()  # files of the folder that no prompt asked for

    def __len__(self) -> int:
        return len(self.paths)

    def codes(self) -> np.ndarray | None:
        """Image codes int64 [N, K] that the pictures were made of, row by row; None where any of
        them has none.
        """
        kept = [read_codes(path) for path in self.paths]
        return None if any(one is None for one in kept) else np.array(kept, np.int64)

    def batches(self, size: int = 64) -> Iterator[np.ndarray]:
        """Uint8 [B, H, W, 3], B <= size, in order."""
        for start in range(0, len(self.paths), size):
            yield np.stack([self.read(path) for path in self.paths[start : start + size]])


def cache_folder() -> Path:
    """Where drawings are kept: `$CM3LEON_CACHE/images`, else `.cache/images` where we stand."""
    return Path(os.environ.get("CM3LEON_CACHE") or ".cache") / "images"


def key(system) -> str:
    """16 hex digits that change with whatever moves a drawing: weights, config, format."""
    about = [FORMAT, system.weights_sha256, core.plain(system.config, "system.config")]
    return sha256_bytes(json.dumps(about, sort_keys=True).encode())[:16]


def draw(
    system,
    prompts: Sequence[Prompt],
    seed: int = 0,
    folder: str | Path | None = None,
    batch_size: int = 32,
) -> Pictures:
    """One picture a prompt, from the cache or drawn; a batch is on disk before the next begins.

    The sample's own seed is `derive(seed, prompt.id)`. A kept picture that is torn, damaged or
    another's is drawn again, with a line on stderr. Raises UserError for a system that returns
    something else than uint8 [B, H, W, 3].
    """
    return draw_sets(system, prompts, [seed], folder, batch_size)[0]


def draw_sets(
    system,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    folder: str | Path | None = None,
    batch_size: int = 32,
) -> list[Pictures]:
    """What `draw` gives for each seed. The seeds of a prompt are drawn one after the other, so that
    a system may read it, and the documents before it, once for them all.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    home = Path(folder or cache_folder()) / safe(system.name) / key(system)
    wanted = {
        home / file_name(prompt, seed): (prompt, seed) for prompt in prompts for seed in seeds
    }
    size = kept_size(home)
    there = [path for path in wanted if path.exists()]
    torn = [path for path in there if not is_whole(path, size, *wanted[path])]
    if torn:
        print(
            f"{len(torn)} kept pictures of {system.name} are torn or damaged and are drawn again, "
            f"first {torn[0]}",
            file=sys.stderr,
        )
    if size is None and (kept := [path for path in there if path not in torn]):
        size = list(read_picture(kept[0]).shape[:2])
        write_about(home, system, size)
    missing = wanted.keys() - (set(there) - set(torn))
    waiting = [(path, *about) for path, about in wanted.items() if path in missing]
    named = f"seed {', '.join(map(str, seeds))}"
    with progress(len(wanted), f"draw {system.name}, {named}", len(wanted) - len(missing)) as bar:
        for start in range(0, len(waiting), batch_size):
            part = waiting[start : start + batch_size]
            size = draw_batch(system, part, home, size)
            bar.update(len(part))
    sets = [tuple(home / file_name(prompt, seed) for prompt in prompts) for seed in seeds]
    read = partial(read_kept, size=size)
    drawn = [len(missing.intersection(paths)) for paths in sets]
    return [
        Pictures(paths, read, count, len(set(paths)) - count)
        for paths, count in zip(sets, drawn, strict=True)
    ]


def draw_together(group: Group, system, prompts: Sequence, seed: int, folder, batch_size: int):
    """`draw` with the prompts shared among the ranks, batch by batch."""
    if group.size == 1:
        found = draw(system, prompts, seed, folder, batch_size)
        tell_reused(system, found)
        return found
    name = f"drawn {key(system)} {digest(prompts)} {seed}"
    own = [prompts[place] for place in group.share(len(prompts), max(1, batch_size))]
    mine = draw(Watched(system, group), own, seed, folder, batch_size)
    group.total(name, mine.drawn)
    group.wait(name)
    drawn = group.total(name, 0)
    everything = draw(system, prompts, seed, folder, batch_size)
    found = replace(everything, drawn=drawn, reused=len(everything) - drawn)
    if group.first:
        tell_reused(system, found)
    return found


class Watched:
    """A system that looks at the other ranks before each batch."""

    def __init__(self, system, group: Group):
        self._system, self._group = system, group

    def __getattr__(self, name: str):
        if name == "draw_with_codes":
            self._group.check()
        return getattr(self._system, name)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]):
        """What the system draws; UserError naming a rank that died meanwhile."""
        self._group.check()
        return self._system.draw(prompts, seeds)


def tell_reused(system, pictures: Pictures) -> None:
    """A line on pictures of an earlier run: name, config and weights_sha256 say they are the same,
    but a placeholder for a digest may stand for another checkpoint by now.
    """
    if pictures.reused:
        print(
            f"{pictures.reused} of {len(pictures)} pictures of {system.name} reused from "
            f"{pictures.paths[0].parent}: same config, same weights_sha256 "
            f"{str(system.weights_sha256)[:12]}",
            flush=True,
        )


def draw_batch(
    system, part: Sequence[tuple[Path, Prompt, int]], home: Path, size: list[int] | None
) -> list[int]:
    """Draw one batch of (path, prompt, seed) and write its pictures; returns their size [H, W]."""
    captions = [prompt.caption for _, prompt, _ in part]
    seeds = [derive(seed, prompt.id) for _, prompt, seed in part]
    codes = [None] * len(part)  # of a system whose pictures are made of codes
    if hasattr(system, "draw_with_codes"):
        images_BHW3, codes = system.draw_with_codes(captions, seeds)
    else:
        images_BHW3 = system.draw(captions, seeds)
    check_drawing(system, images_BHW3, len(part), size)
    if size is None:
        size = list(images_BHW3.shape[1:3])
        write_about(home, system, size)
    for (path, prompt, seed), image, drawn in zip(part, images_BHW3, codes, strict=True):
        about = own_texts(path, prompt, seed)
        if drawn is not None:
            about[CODES] = " ".join(map(str, drawn))
        write_png(path, image, about, durable=False)  # a torn one is found out by check_png
    return size


def check_drawing(system, images, count: int, size: list[int] | None) -> None:
    """Raise UserError unless a system returned uint8 [count, H, W, 3] of its usual size."""
    found = (
        f"{getattr(images, 'dtype', type(images).__name__)} {list(getattr(images, 'shape', []))}"
    )
    wanted = [count, *(size or ["H", "W"]), 3]
    fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not fits or any(
        w != f for w, f in zip(wanted, images.shape, strict=True) if w not in ("H", "W")
    ):
        shown = ", ".join(map(str, wanted))
        raise UserError(f"system {system.name} drew {found}; draw must return uint8 [{shown}]")


def file_name(prompt: Prompt, seed: int) -> str:
    """Readable, and another one for another id, or another caption under the same id."""
    return f"{readable(prompt.id)}_{seed}_{sha256_bytes(prompt.caption.encode())[:8]}.png"


def readable(name: str) -> str:
    """The name as one path component; a name that had to be changed ends with its own digest."""
    found = safe(name)
    if found == name:
        return name
    return f"{found}-{sha256_bytes(name.encode('utf-8', 'surrogatepass'))[:8]}"


def safe(name: str) -> str:
    """The name as one path component: what could leave the folder becomes `-`."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip(".-+_") or "unnamed"


def write_about(home: Path, system, size: list[int]) -> None:
    """Say what the key of a cache folder stands for."""
    about = {
        "format": FORMAT,
        "system": system.name,
        "weights_sha256": system.weights_sha256,
        "config": core.plain(system.config, "system.config"),
        "size": size,
    }
    write_atomic(home / "system.json", seal(about))


def kept_size(home: Path) -> list[int] | None:
    """Size [H, W] of the pictures in a cache folder, None where nothing whole tells it."""
    path = home / "system.json"
    if not path.exists():
        return None
    try:
        height, width = unseal(path, "it is written anew")["size"]
        return [int(height), int(width)]
    except (ValueError, KeyError, TypeError):
        return None


def own_texts(path: Path, prompt: Prompt, seed: int) -> dict[str, str]:
    """What a kept picture says of itself: of which caption, seed and key it is."""
    return {"prompt": prompt.caption, "seed": str(seed), "key": path.parent.name}


def is_whole(path: Path, size: list[int] | None, prompt: Prompt, seed: int) -> bool:
    """Whether a kept picture is a whole PNG, each part with its own checksum, of this caption and
    seed, and of its system's size, where that is known; pixels stay unread.
    """
    try:
        data = read_file(path)
    except OSError:
        return False
    if data[:8] != PNG:
        return False
    place, kind, first, texts = 8, b"", data[16:24], {}
    while kind != b"IEND":
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        end = place + 8 + length
        if int.from_bytes(data[end : end + 4]) != zlib.crc32(data[place + 4 : end]):
            return False
        if kind == b"iTXt":
            name, _, said = data[place + 8 : end].partition(b"\0")
            texts[name.decode("latin-1")] = said.split(b"\0", 4)[-1].decode("utf-8", "replace")
        place = end + 4
        if place > len(data):
            return False
    own = own_texts(path, prompt, seed)
    if {"key": own["key"]} | texts | own != {"key": own["key"]} | texts:  # older: without a key
        return False
    width, height = int.from_bytes(first[:4]), int.from_bytes(first[4:])
    return size is None or [height, width] == size


def read_kept(path: Path, size: list[int]) -> np.ndarray:
    """Uint8 [H, W, 3] of a kept picture."""
    pixels = read_picture(path)
    if list(pixels.shape[:2]) != size:
        raise UserError(
            f"{path} is {list(pixels.shape[:2])}, expected {size}; delete it and run again"
        )
    return pixels


def read_codes(path: Path) -> list[int] | None:
    """The image codes that a kept picture was made of, None where it does not tell."""
    from PIL import Image

    with Image.open(path) as image:
        text = image.info.get(CODES)
    return None if text is None else [int(code) for code in text.split()]


class Folder:
    """Stands for the system that drew a folder of pictures, which we do not have.

    Called by the folder's last name unless it is given one; told apart by the pictures themselves.
    """

    weights_sha256 = None

    def __init__(self, folder: str | Path, name: str | None = None):
        own = Path(folder).resolve().name
        self.named = name is not None
        self.name = readable(own) if name is None else name
        self.config = {"images": own, "sha256": content_digest(Path(folder))}

    def check_name(self, place: Path) -> None:
        """Raise UserError where records below `place` give the folder's name to other pictures."""
        if self.named:
            return
        for path in sorted((place / self.name).glob("*.json")):
            try:
                other = json.loads(path.read_text(encoding="utf-8"))["system"]["config"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue  # the store says what is wrong with it
            if other != self.config:
                raise UserError(
                    f"{path} is of other pictures, also called {self.name}: give these a --name, "
                    f"or say --name {self.name} if they are the same system's"
                )


def content_digest(source: Path) -> str:
    """SHA-256 of an `.npz`, or over names and contents of a folder's pictures."""
    if source.is_file():
        return sha256_file(source)
    rows = [
        f"{sha256_file(path)} ".encode() + os.fsencode(path.name) for path in picture_files(source)
    ]
    return sha256_bytes(b"\0".join(rows))


def picture_files(folder: Path) -> list[Path]:
    """A folder's pictures by name; UserError for something that is no folder."""
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}; --images takes a folder of pictures named by image id, or an .npz"
        )
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in KINDS]


def from_folder(folder: str | Path, prompts: Sequence[Prompt], size: int) -> Pictures:
    """Pictures somebody else drew, named by image id; cropped to a square of `size` pixels.

    Accepted for id 42: `42.png`, `000000000042.png`, `COCO_val2014_000000000042.jpg`, `42_0.png`
    where there are several (the lowest number counts, the rest is reported as extra). Raises
    UserError for a missing folder, missing pictures, and two files of one id.
    """
    folder = Path(folder)
    if folder.suffix == ".npz" and not folder.is_dir():
        from benchmarks.images.npz import from_npz

        return from_npz(folder, prompts, size)
    files = picture_files(folder)
    chosen, extra = by_image_id([path.stem for path in files], prompts, folder)
    paths = tuple(files[place] for place in chosen)

    def read(path: Path) -> np.ndarray:
        return crop_square(read_picture(path), size)

    return Pictures(paths, read, reused=len(paths), extra=tuple(files[k].name for k in extra))


def by_image_id(
    stems: Sequence[str], prompts: Sequence[Prompt], source: Path
) -> tuple[list[int], list[int]]:
    """(place of each prompt's picture among `stems`, places that no prompt asked for).

    Raises UserError for prompts without a picture, and for two that are called the same.
    """
    found: dict[str, dict[int, int]] = {}
    twice: dict[str, tuple[str, str]] = {}
    for place, stem in enumerate(stems):
        image_id, number = parse_name(stem)
        first = found.setdefault(image_id, {}).setdefault(number, place)
        if first != place:
            twice[image_id] = stems[first], stem
    wanted = [plain(prompt.image_id) for prompt in prompts]
    missing = [one for one in wanted if one not in found]
    if missing:
        raise UserError(
            f"{source} lacks {len(missing)} of {len(prompts)} pictures, first "
            f"{', '.join(missing[:3])}; name each by its image id (--only-prompts lists them)"
        )
    if both := next((twice[one] for one in wanted if one in twice), None):
        raise UserError(
            f"{source} has {both[0]} and {both[1]}, which name one image id; leave one of them"
        )
    chosen = [found[one][min(found[one])] for one in wanted]
    used = set(chosen)
    return chosen, [place for place in range(len(stems)) if place not in used]


def parse_name(stem: str) -> tuple[str, int]:
    """Image id and sample number of a file name without its ending; -1 when it has no number."""
    stem = re.sub(r"^COCO_[a-z]+\d{4}_", "", stem)
    numbered = re.fullmatch(r"(.+)_(\d+)", stem)
    image_id, number = (numbered[1], int(numbered[2])) if numbered else (stem, -1)
    return plain(image_id), number


def plain(image_id: str) -> str:
    """An image id without COCO's leading zeros."""
    return str(int(image_id)) if image_id.isdecimal() else image_id
