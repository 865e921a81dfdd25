"""What a pinned protocol asks for on this machine's copy of MS-COCO: prompts, real pictures.

Shapes: N pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.protocols.coco import IMAGES, QUICK, Protocol
from benchmarks.protocols.lists import list_digest, read_list
from benchmarks.protocols.prompts import Prompt, checked_count, entry_prompt, shuffled
from cm3leon.data.coco import Entry, find_splits, read_captions
from cm3leon.errors import UserError


@dataclass(frozen=True)
class PinnedTask:
    """Prompts and, in order of their ids, the real pictures; `own_N` marks those of the prompts."""

    prompts: list[Prompt]
    list_sha256: str
    list_name: str
    entries: Sequence[Entry] = ()
    own_N: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    warnings: Sequence[str] = ()


def read_task(
    protocol: Protocol,
    root: Path | None,
    n: int | None = None,
    prompts_file: Path | None = None,
    prompts_sha256: str | None = None,
    statistics: bool = False,
) -> PinnedTask:
    """The prompts of a protocol (or of `prompts_file`), n of them, and the reference pictures.

    With `statistics` the reference comes as numbers, and no picture is looked for. Raises UserError
    for another year's copy, a split that is not whole (unless n is given), captions without
    pictures, too few of them, and a list that does not fit.
    """
    if root is None and (prompts_file is None or not statistics):
        raise UserError(
            f"--protocol {protocol.name} needs --coco-root, the root of an MS-COCO copy "
            "(or --prompts and --reference)"
        )
    entries = [] if root is None else split_entries(protocol, root)
    said = [] if root is None else check_split(protocol, root, entries, n)
    if prompts_file is None:
        wanted = wanted_count(protocol, n, len(entries))
        chosen = shuffled(entries, protocol.seed)
        count = checked_count(wanted, len(entries), f"{root} {protocol.split}")
        prompts = [entry_prompt(entry, protocol.seed) for entry in chosen[:count]]
        name, pictured = f"{protocol.split}, one caption a picture, seed {protocol.seed}", True
    else:
        found = read_list(prompts_file, prompts_sha256)
        wanted = wanted_count(protocol, n, len(found.prompts))
        prompts = found.prompts[: checked_count(wanted, len(found.prompts), str(prompts_file))]
        name, pictured = found.name, found.pictured
        said += found.warnings
    if len(prompts) != protocol.n:
        said.append(f"a trial, not {protocol.name}: n={len(prompts)} of {protocol.n}")
    entries, own_N = reference_pictures(protocol, entries, prompts, pictured, statistics)
    said += check_pictures(protocol, root, entries, n)
    return PinnedTask(prompts, list_digest(prompts), name, entries, own_N, said)


def check_pictures(protocol: Protocol, root: Path | None, entries: Sequence[Entry], n) -> list[str]:
    """A warning of reference pictures that are not there; UserError where no n was asked for.

    Of none at all, always.
    """
    missing = [entry for entry in entries if not entry.path.is_file()]
    if entries and len(missing) == len(entries):
        raise UserError(
            f"{root} has captions but no pictures of {protocol.split}, e.g. {entries[0].path}; "
            "unpack them there, or give --reference FILE.npz"
        )
    if not missing:
        return []
    there = f"{len(entries) - len(missing)} of {len(entries)} reference pictures"
    if n is None and not protocol.name.endswith("/quick"):
        raise UserError(
            f"{root} has {there} of {protocol.split}, lacking {missing[0].path.name}; unpack the "
            "rest, or name a trial's number with --n"
        )
    return [f"a trial, not {protocol.name}: {there} are there"]


def wanted_count(protocol: Protocol, n: int | None, available: int) -> int:
    """The prompts asked for: n, the protocol's number, at most what there is for a quick look."""
    if n is None and protocol.name.endswith("/quick"):
        return min(QUICK, available)
    return protocol.n if n is None else n


def split_entries(protocol: Protocol, root: Path) -> list[Entry]:
    """Captioned pictures of the protocol's split; UserError for a copy of another year."""
    splits = find_splits(root)
    if protocol.split not in splits:
        year = protocol.split[-4:]
        raise UserError(
            f"{root} has {', '.join(splits)}, {protocol.name} needs {protocol.split}: "
            f"name a copy of MS-COCO {year}"
        )
    return read_captions(root, protocol.split)


def check_split(protocol: Protocol, root: Path, entries: Sequence[Entry], n) -> list[str]:
    """Warnings about a split that is not whole; UserError for one where no n was asked for."""
    whole = IMAGES.get(protocol.split)
    if whole is None or len(entries) == whole:
        return []
    said = f"{protocol.split} has {len(entries)} captioned pictures, the published one {whole}"
    if n is None and not protocol.name.endswith("/quick"):
        raise UserError(f"{root}: {said}; name the whole set, or a trial's number with --n")
    return [said]


def reference_pictures(
    protocol: Protocol,
    entries: Sequence[Entry],
    prompts: Sequence[Prompt],
    pictured: bool,
    statistics: bool,
) -> tuple[list[Entry], np.ndarray]:
    """Real pictures in order of ids, and which of them belong to prompts (bool [N])."""
    if statistics:
        return [], np.zeros(0, bool)
    if not pictured:
        if "all" not in protocol.references:
            raise UserError(
                f"{protocol.name} is measured against the pictures of its prompts; "
                "a list without image ids has none: name a protocol without --quick or --dev"
            )
        return list(entries), np.zeros(len(entries), bool)
    wanted = {prompt.image_id for prompt in prompts}
    if strange := wanted - {str(entry.image_id) for entry in entries}:
        raise UserError(
            f"image {min(strange)} of the prompts is not in {protocol.split}; "
            "the list was made for another split or year"
        )
    if "all" not in protocol.references:
        entries = [entry for entry in entries if str(entry.image_id) in wanted]
    own = [str(entry.image_id) in wanted for entry in entries]
    return list(entries), np.array(own, bool)
