"""What is asked and what it is measured against.

Prompts, the real pictures they were written for, and as many others of the same kind (real against
real is the floor of every distance).

Shapes: B pictures of a batch, S pixels of a side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.protocols.prompts import (
    Prompt,
    checked_count,
    entry_prompt,
    scenes_prompts,
    shuffled,
)
from cm3leon.data.coco import Entry, choose_split, find_splits, read_captions, read_reference
from cm3leon.errors import UserError
from cm3leon.images import CROP


@dataclass(frozen=True)
class Task:
    """Prompts, and real pictures as (picture id, uint8 [S, S, 3]) that can be read again and again.

    After a pass over coco pictures their `unreadable` names those that were left out.
    """

    prompts: list[Prompt]
    reference: Iterable[tuple]  # the pictures the prompts were written for, in their order
    further: Iterable[tuple] | None  # as many others; None where there are not enough
    about: dict = field(default_factory=dict)  # for the protocol
    warnings: Sequence[str] = ()  # what a reader must know of it


@dataclass(frozen=True)
class Rendered:
    """Pictures of the embedded world, made while they are read."""

    dialect: str
    split: str
    indices: range
    size: int
    unreadable: tuple = ()

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        from cm3leon.world.scenes import scene

        for index in self.indices:
            one = scene(self.dialect, self.split, index, self.size)
            yield one.id, one.image


def scenes_task(n: int, size: int, split: str = "test", others: int | None = None) -> Task:
    """The first n pictures of a split of the `coco` dialect; the next `others` (n for None) are the
    further ones.

    Raises UserError where the split has not so many.
    """
    from cm3leon.world.scenes import SPLITS

    others = n if others is None else others
    if not 1 <= n <= SPLITS[split] - others:
        raise UserError(
            f"n must be at most {SPLITS[split] - others} of split {split} ({SPLITS[split]} "
            f"pictures, {others} of them the reference), got {n}; ask for fewer"
        )
    about = {
        "prompts": f"scenes coco {split}, one caption a picture",
        "reference": f"the next {others} pictures of the split",
    }
    own, further = (
        Rendered("coco", split, indices, size) for indices in (range(n), range(n, n + others))
    )
    return Task(scenes_prompts(n, split), own, further, about)


def coco_task(
    root: Path | None,
    split: str | None,
    n: int | None,
    size: int,
    most: int | None = None,
    partial: bool = False,
) -> Task:
    """n pictures of an MS-COCO split, one caption each; None: all, at most `most` of them.

    The further ones are other pictures of the split, or, when it has not enough, of another split.
    Pictures that are not there are no part of it, which its warnings say; raises UserError for them
    where no n was given and it need not be a part (`partial`).
    """
    if root is None:
        raise UserError("--data coco needs --coco-root, the root of an MS-COCO copy")
    splits = find_splits(root)
    split = split or choose_split(list(splits), root)
    entries = shuffled(read_captions(root, split))
    there, said = pictures_there(root, split, entries, n is not None or partial)
    if n is None:
        n = min(len(there), most or len(there))
    n = checked_count(n, len(there), f"{root} {split}")
    chosen, others, source = there[:n], there[n:], split
    if len(others) < n:
        for source in (name for name in splits if name != split):
            taken = {entry.image_id for entry in chosen}
            others = shuffled(read_captions(root, source))
            others = [one for one in others if one.image_id not in taken and one.path.is_file()]
            if len(others) >= n:
                break
    enough = len(others) >= n
    about = {
        "prompts": f"MS-COCO {split}, one caption a picture",
        "reference": f"the pictures of the prompts, {CROP} to {size}",
        "floor": f"n other pictures of {source}" if enough else "not measured: too few pictures",
    }
    if said:
        about["pictures"] = f"{len(there)} of {len(entries)}"
    further = read_reference(others[:n], size) if enough else None
    prompts = [entry_prompt(entry) for entry in chosen]
    return Task(prompts, read_reference(chosen, size), further, about, said)


def pictures_there(
    root: Path, split: str, entries: Sequence[Entry], partial: bool
) -> tuple[list[Entry], list[str]]:
    """(entries whose pictures are there, a warning of the others).

    Raises UserError where none are, and where some are missing though a part was not asked for.
    """
    there = [entry for entry in entries if entry.path.is_file()]
    if len(there) == len(entries):
        return there, []
    lacking = next(entry for entry in entries if not entry.path.is_file())
    if not there:
        raise UserError(
            f"{root} has captions but no pictures of {split}, e.g. {lacking.path}; unpack them"
        )
    said = f"{len(there)} of {len(entries)} pictures of {split}, lacking {lacking.path.name}"
    if not partial:
        raise UserError(f"{root} has {said}; unpack the rest, or name a trial's number with --n")
    return there, [f"a trial: only {said}, are there"]


def batches(pictures: Iterable[tuple], size: int = 64) -> Iterator[np.ndarray]:
    """Uint8 [B, S, S, 3], B <= size, of (id, picture) pairs in order."""
    pairs = iter(pictures)
    while part := list(islice(pairs, size)):
        yield np.stack([image for _, image in part])
