"""Features of many pictures, in shards on disk: computed once, in any number of processes.

    <home>/<key>/about.json        what the key stands for
    <home>/<key>/00000.npz         features of SHARD pictures in a row; there whole, or not at all
    <home>/<key>/00000.part.npz    those of its first pictures, kept every SAVE_S seconds meanwhile

The key is made of the network's digest, of what is done to a picture before, and of every
picture's name and content. Cut into shards and batches by place alone, the features do not depend
on the number of processes. Nothing here holds more than a shard, so memory does not grow with N.

Shapes: N pictures, B pictures of a shard, D features, S pixels of a side.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import Features
from cm3leon.evaluation.sides import Side
from cm3leon.files import check_unpacked, open_file, sha256_bytes, write_atomic
from cm3leon.progress import progress

FORMAT = 1  # raise it when the same key would stand for other features
SHARD = 512  # pictures
BATCH = 32
SAVE_S = 60.0  # between parts of a shard, for networks that need longer for the whole
READERS = 4  # threads that decode the next pictures meanwhile


@dataclass(frozen=True)
class Listing:
    """Pictures in order: JSON values that tell each apart, and how picture k is read.

    `read(k)` gives uint8 [H, W, 3] and a remark ("" for none). What it cannot read is a UserError:
    left out and named where `lenient`.
    """

    label: str
    stamps: Sequence
    read: Callable[[int], tuple[np.ndarray, str]]
    about: dict  # what is done to a picture before the network sees it
    lenient: bool = False

    def __len__(self) -> int:
        return len(self.stamps)

    def key(self, features: Features) -> str:
        """16 hex digits that change with whatever moves a feature."""
        said = [FORMAT, features.name, features.digest, self.about, list(self.stamps)]
        return sha256_bytes(json.dumps(said, sort_keys=True).encode())[:16]


@dataclass(frozen=True)
class Shard:
    """Features [B, D] of the pictures at `places`; others were left out, some came with remarks."""

    features_BD: np.ndarray
    places: np.ndarray
    unreadable: dict[int, str]
    remarks: dict[int, str]


@dataclass
class Kept(Side):
    """The features of a listing on disk."""

    folder: Path
    count: int  # pictures listed
    dim: int
    made: int = 0  # shards computed by this process
    unreadable: dict[int, str] = field(default_factory=dict)  # place -> reason
    remarks: dict[int, str] = field(default_factory=dict)

    def shards(self) -> Iterator[Shard]:
        """One after the other, in order."""
        for place in range(shard_count(self.count)):
            yield read_shard(self.path(place), self.dim)

    def path(self, place: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{place:05}.npz"

    def missing(self, place: int) -> bool:
        """Whether a shard must be made: not there, or, said on stderr, damaged."""
        if not self.path(place).exists():
            return True
        try:
            read_shard(self.path(place), self.dim)
        except UserError as error:
            print(f"computed anew: {str(error).split(';')[0]}", file=sys.stderr)
            return True
        return False


class Alone:
    """The only rank of a job; one of several has the same four."""

    first = True  # whether this rank writes what is written once

    def share(self, count: int) -> range:
        """The shards that are this rank's."""
        return range(count)

    def check(self) -> None:
        """Raise UserError when another rank is no more."""

    def wait(self, name: str) -> None:
        """Until every rank came here."""


def shard_count(count: int) -> int:
    """Shards of so many pictures."""
    return -(-count // SHARD)


def features_of(listing: Listing, features: Features, home: Path, group=None) -> Kept:
    """The features of a listing: found on disk, or computed by all ranks together.

    `group` tells a rank what to do as `Alone` does; left out, one process does it all.

    Raises UserError for an unreadable picture (unless `lenient`), features that are not finite, a
    torn shard, a full disk, and a rank that died meanwhile.
    """
    group = group or Alone()
    key = listing.key(features)
    kept = Kept(home / key, len(listing), features.dim)
    own = group.share(shard_count(len(listing)))
    missing = [place for place in own if kept.missing(place)]
    if missing and group.first:
        about = {"label": listing.label, "features": features.name, "sha256": features.digest}
        text = json.dumps(about | listing.about | {"pictures": len(listing)}, indent=2)
        write_atomic(kept.folder / "about.json", text + "\n")
    parts = [range(len(listing))[place * SHARD : (place + 1) * SHARD] for place in missing]
    with progress(sum(map(len, parts)), f"features of {listing.label}") as bar:
        for place, part in zip(missing, parts, strict=True):
            path = kept.path(place)
            shard = compute(
                listing,
                features,
                part,
                lambda count: (bar.update(count), group.check()),
                path.with_suffix(".part.npz"),
            )
            write_shard(path, shard)
            path.with_suffix(".part.npz").unlink(missing_ok=True)
            kept.made += 1
    group.wait(f"features {key}")
    for shard in kept.shards():
        kept.unreadable |= shard.unreadable
        kept.remarks |= shard.remarks
    return kept


def compute(
    listing: Listing,
    features: Features,
    part: range,
    after: Callable[[int], object] = int,
    partly: Path | None = None,
) -> Shard:
    """The features of the pictures at the places `part`; `after` is told of each batch's size.

    What is done is written to `partly` now and then, and taken from there at the next start.
    """
    done = Shard(np.zeros((0, features.dim), np.float32), np.zeros(0, np.int64), {}, {})
    if partly is not None and partly.exists():
        with contextlib.suppress(UserError):  # a torn one is made again
            done = read_shard(partly, features.dim)
    rows, places = [done.features_BD], list(done.places)
    unreadable, remarks = done.unreadable, done.remarks
    seen = len(places) + len(unreadable)  # whole batches: the same ones follow
    after(seen)
    saved = time.monotonic()

    def shard() -> Shard:
        return Shard(np.concatenate(rows), np.array(places, np.int64), unreadable, remarks)

    for batch in read_ahead(listing, part[seen:]):
        readable = [(place, one) for place, one in batch if not isinstance(one, UserError)]
        unreadable |= {place: str(one) for place, one in batch if isinstance(one, UserError)}
        remarks |= {place: one[1] for place, one in readable if one[1]}
        if unreadable and not listing.lenient:
            raise UserError(next(iter(unreadable.values())))
        if readable:
            own = [place for place, _ in readable]
            found = features.rows([image for _, (image, _) in readable])
            check_finite(found, own, listing, features)
            rows.append(found)
            places += own
        after(len(batch))
        if partly is not None and time.monotonic() - saved >= SAVE_S:
            write_shard(partly, shard())
            saved = time.monotonic()
    return shard()


def check_finite(
    features_BD: np.ndarray, places: Sequence[int], listing: Listing, features: Features
) -> None:
    """Raise UserError naming the first picture whose features are NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(features_BD).all(axis=1))
    if bad.size:
        raise UserError(
            f"{features.name} features of picture {places[bad[0]]} of {listing.label} are not "
            f"finite; the weights {features.digest[:12]} are broken"
        )


def read_ahead(listing: Listing, places: range) -> Iterator[list[tuple[int, object]]]:
    """Batches of (place, (picture, remark) or the UserError), the next one decoded meanwhile."""

    def one(place: int):
        try:
            return place, listing.read(place)
        except UserError as error:
            return place, error

    parts = [places[start : start + BATCH] for start in range(0, len(places), BATCH)]
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        coming = [pool.submit(one, place) for place in parts[0]] if parts else []
        for part in [*parts[1:], range(0)]:
            now, coming = coming, [pool.submit(one, place) for place in part]
            yield [task.result() for task in now]


def write_shard(path: Path, shard: Shard) -> None:
    """One file, whole or not at all; it says which folder and shard it is of."""
    out = io.BytesIO()
    notes = json.dumps([sorted(shard.unreadable.items()), sorted(shard.remarks.items())])
    rows = {"features": shard.features_BD, "places": shard.places}
    np.savez(out, **rows, notes=np.array(notes), own=np.array(own_name(path)))
    write_atomic(path, out.getvalue())


def own_name(path: Path) -> str:
    """What tells a shard from all others: its key and place."""
    return f"{path.parent.name}/{path.name.partition('.')[0]}"


def read_shard(path: Path, dim: int) -> Shard:
    """A shard as it was written; UserError for one that is damaged, or another's."""
    check_unpacked(path)
    try:
        with open_file(path) as raw, np.load(raw, allow_pickle=False) as file:
            features_BD, places = file["features"], file["places"]
            unreadable, remarks = json.loads(str(file["notes"]))
            own = str(file["own"])
    except Exception:  # zip, zlib and numpy each have their own
        raise UserError(f"{path} is torn; delete it and run again") from None
    if features_BD.shape != (len(places), dim) or own != own_name(path):
        raise UserError(f"{path} is not what was written there; delete it and run again")
    return Shard(features_BD, places, dict(unreadable), dict(remarks))
