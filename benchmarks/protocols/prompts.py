"""Which captions are asked for: one a picture, distinct pictures, fixed by a seed and a digest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm3leon.data.coco import Entry
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.seeds import generator

if TYPE_CHECKING:
    from cm3leon.world.language import Meaning


@dataclass(frozen=True)
class Prompt:
    """One caption to draw. `image_id` names the picture it was written for.

    `meaning` is what it claims, where that is known (the embedded world).
    """

    id: str
    caption: str
    image_id: str
    meaning: Meaning | None = None


def scenes_prompts(
    n: int | None = None, split: str = "test", dialect: str = "coco", seed: int = 0
) -> list[Prompt]:
    """The first n pictures of a split, one caption each (of five, the first after a shuffle).

    None asks for the whole split. Raises UserError for n < 1 or beyond the split.
    """
    from cm3leon.world.scenes import SPLITS, scene

    sizes = {name: size for name, size in SPLITS.items() if size is not None}
    if split not in sizes:
        raise UserError(f"split must be one of {', '.join(sizes)}, got {split!r}")
    prompts = []
    for index in range(checked_count(n, sizes[split], f"scenes {split}")):
        picture = scene(dialect, split, index)
        captions, meanings = picture.language
        k = pick(len(captions), seed, picture.id)
        prompts.append(Prompt(f"{picture.id}-{k}", captions[k], picture.id, meanings[k]))
    return prompts


def entry_prompt(entry: Entry, seed: int = 0) -> Prompt:
    """One caption of an MS-COCO picture: `id` is the caption's own, `image_id` the picture's."""
    chosen = entry.captions[pick(len(entry.captions), seed, entry.image_id)]
    return Prompt(str(chosen.id), chosen.text, str(entry.image_id))


def shuffled(entries: Sequence[Entry], seed: int = 0) -> list[Entry]:
    """The pictures of a split in the order in which prompts take them."""
    order = generator(seed, "coco", "images").permutation(len(entries))
    return [entries[index] for index in order]


def pick(count: int, seed: int, image_id) -> int:
    """Index of a picture's caption: the first of a shuffle that depends on the picture alone."""
    return int(generator(seed, "caption", image_id).permutation(count)[0])


def checked_count(n: int | None, available: int, name: str) -> int:
    """n itself, or all there are for None; UserError when it is below 1 or beyond `available`,
    and when there are none.
    """
    if available < 1:
        raise UserError(f"{name} has no picture with a caption; copy its annotations again")
    if n is None:
        n = available
    if n < 1:
        raise UserError(f"n must be at least 1, got {n}")
    if n > available:
        raise UserError(f"n must be at most {available}, the pictures of {name}, got {n}")
    return n


def digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over ids, picture ids and captions in order: equal iff the same was asked for."""
    return sha256_bytes("".join(map(_row, prompts)).encode())


def _row(prompt: Prompt) -> str:
    """A line of three fields; as JSON where a field itself holds what parts fields or lines."""
    fields = prompt.id, prompt.image_id, prompt.caption
    if any(mark in field for field in fields for mark in "\t\n"):
        return json.dumps(fields) + "\n"
    return "\t".join(fields) + "\n"
