"""Shards on disk: arrays and a marker each, which a long job makes one by one.

Each shard is finished by a marker file, written last, which also tells what could not be read: a
kill loses at most one shard, and a finished folder is opened at once. The marker names the digests
of the shard's arrays and of all that it was read from: a shard that is damaged, or whose source
changed, is made anew.

Any number of processes, on one machine or on many that see the folder, make the shards of one job
together: each takes the next that nobody makes, under a lock (`locks`), and that of one who died is
made by another. The bytes do not depend on who made them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cm3leon.checkpoint import module_digest
from cm3leon.data import locks
from cm3leon.data.sources import Skipped, Source, content
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes, write_atomic, write_new
from cm3leon.identity import check_file, joined, read_sealed, same_stamp, seal, unseal
from cm3leon.progress import alive, progress

if TYPE_CHECKING:
    from cm3leon.tokenizers.text import TextTokenizer
    from cm3leon.tokenizers.vq import VQ

ABOUT = "cache.json"
LAG_S = 90.0  # for which a file of another machine may show late


class Made(NamedTuple):
    """A shard that is to be written: names of what it holds, what was skipped, digests of what it
    was read from, and its arrays by name; `more` goes into its marker beside them.
    """

    ids: list[str]
    skipped: list[Skipped]
    digests: list[str]
    arrays: dict[str, np.ndarray]
    more: dict | None = None


def build(
    source: Source,
    folder: Path,
    about: dict,
    make: Callable[[int, Callable[[int], object]], Made],
    unit: str = "document",
) -> None:
    """Make all shards of a source in a folder, and its identity `about`.

    `make(number, advance)` makes one and calls `advance(n)` for n parts read. Continues an
    unfinished folder, makes anew, and says so on stderr, the shards that are damaged or whose
    source changed. Other processes may do the same meanwhile: all return when all shards are made.
    Raises UserError for a folder of another identity, for ids that repeat, for a full disk and when
    nothing at all could be read; the folder is free again then, unless a shard of it is whole or
    somebody else works in it.
    """
    with _entered(folder) as alone:
        claimed = _claim(folder, about)
        with _freed(folder, about, alone):
            numbers = range(source.shards)
            todo = {n: _said(folder, n) for n in numbers if _wanted(folder, source, n)}
            if todo and claimed["source"]["sha256"]:
                write_atomic(folder / ABOUT, seal(about))  # unfinished again
            total = source.about.get("count")  # unknown of tars
            done = (source.shards - len(todo)) * source.about["shard"] if total else 0
            name = f"encode {source.about['kind']}"
            with progress(total, name, done, unit) as bar, alive(name):
                others = _share(source, folder, todo, make, bar.update)
                _finish_once(folder, about, others)
        locks.tidy(folder / locks.FOLDER)


def _share(
    source: Source,
    folder: Path,
    todo: dict[int, bytes | None],
    make: Callable[[int, Callable[[int], object]], Made],
    advance: Callable[[int], object],
) -> set[int]:
    """Make shards beside other processes, and return which of them those made.

    `todo` says of each what its marker is now; where that is another, somebody made it.
    """

    def made(number: int) -> bool:
        return _said(folder, number) != todo[number]

    def one(number: int) -> Callable[[], None]:
        stamp = source.stamp(number)
        return partial(_write_shard, folder, number, make(number, advance), stamp)

    others = locks.share(todo, partial(_lock, folder), made, one)
    if source.about.get("count"):
        advance(len(others) * source.about["shard"])
    return others


def about(source: Source, vq: VQ, tokenizer: TextTokenizer, format: int | str) -> dict:
    """The identity of what the tokenizers make of a source: all that its bytes depend on.

    What the source holds comes last, as its "sha256". Raises UserError for ids beyond uint16.
    """
    limit = 2**16
    for name, size in (("codebook", vq.config.codebook_size), ("tokenizer", tokenizer.size)):
        if size > limit:
            raise UserError(f"{name} must have at most {limit} ids to be cached, got {size}")
    return {
        "format": format,
        "source": source.about | {"sha256": None},
        "shards": source.shards,
        "size": vq.config.resolution,
        "vq_sha256": module_digest(vq),
        "text_sha256": tokenizer.digest,
    }


def open_shards(folder: Path, about: dict, small: Collection[str]) -> list[dict]:
    """The shards of a finished folder: arrays by name, those that are not `small` memory-mapped,
    and the marker as "done".

    Raises UserError when a file is missing or damaged, or shards are of two jobs.
    """
    shards = [_open(folder, number, small) for number in range(about["shards"])]
    if about["source"]["sha256"] != _made([shard["done"] for shard in shards]):
        raise UserError(f"{folder} holds shards of two encodings; {way_out(folder)}")
    return shards


def skipped_of(markers: Iterable[dict]) -> list[tuple[str, str]]:
    """(id, reason) of all that could not be read."""
    return [tuple(pair) for done in markers for pair in done["skipped"]]


def read_about(folder: Path, format: int | str) -> dict:
    """The identity of a finished folder; no shard is read.

    Raises UserError for a folder without one, of another format, unfinished or damaged.
    """
    about = _stored(folder, format)
    if about["source"]["sha256"] is None:
        raise UserError(f"{folder} was not encoded to its end; {way_out(folder)}")
    return about


def _stored(folder: Path, format: int | str) -> dict:
    """The identity of a folder, finished or not."""
    return read_sealed(folder / ABOUT, format, f"remove {folder} and encode its source again")


def way_out(folder: Path) -> str:
    """What to do about a folder that is damaged or unfinished."""
    return f"run `cm3leon encode` of its source into {folder} again, which makes what is amiss anew"


def _open(folder: Path, number: int, small: Collection[str]) -> dict:
    """The arrays of a shard, those that are not `small` memory-mapped, and its marker as "done"."""
    done = _checked(folder, number)
    shard = {"done": done}
    for part in done["arrays"]:
        mode = None if part in small else "r"
        shard[part] = np.load(_array(folder, part, number), mmap_mode=mode)
    return shard


def _checked(folder: Path, number: int) -> dict:
    """A shard's marker; UserError when a file is missing or its digest is another."""
    marker = _marker(folder, number)
    if not marker.exists():
        raise UserError(f"{folder} lacks {marker.name}; {way_out(folder)}")
    done = unseal(marker, way_out(folder))
    if done["shard"] != number:
        raise UserError(f"{marker} is that of shard {done['shard']}; {way_out(folder)}")
    for part, digest in done["arrays"].items():
        check_file(_array(folder, part, number), digest, way_out(folder))
    return done


def _said(folder: Path, number: int) -> bytes | None:
    """What a shard's marker says, None where there is none (or it cannot be read: made anew)."""
    try:
        return _marker(folder, number).read_bytes()
    except OSError:
        return None


def _lock(folder: Path, number: int) -> Path:
    return folder / locks.FOLDER / f"shard-{number:05d}.lock"


def _array(folder: Path, part: str, number: int) -> Path:
    return folder / f"{part}-{number:05d}.npy"


def _marker(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"


def _made(markers: Iterable[dict]) -> str:
    """Names what the shards hold, wherever they were read from."""
    return joined(joined([*one["ids"], *one["arrays"].values()]) for one in markers)


def _wanted(folder: Path, source: Source, number: int) -> bool:
    """Whether a shard must be made: not there, damaged, or of a source that changed since."""
    marker = _marker(folder, number)
    if not marker.exists():
        return True
    try:
        done = _checked(folder, number)
    except UserError as error:
        print(f"encoded anew: {str(error).split(';')[0]}", file=sys.stderr)
        return True
    old, new = json.loads(marker.read_bytes()).get("stamp"), source.stamp(number)
    if same_stamp(old, new):
        return False
    if content(source, number) != done["source_sha256"]:
        print(f"encoded anew: the source of {marker} changed since", file=sys.stderr)
        return True
    if new:
        write_atomic(marker, seal(done, stamp=new))
    return False


def _write_shard(folder: Path, number: int, made: Made, stamp: str) -> None:
    """Write one shard: arrays first, the marker last."""
    arrays = {}
    for part, array in made.arrays.items():
        buffer = BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_atomic(_array(folder, part, number), buffer.getvalue())
        arrays[part] = sha256_bytes(buffer.getbuffer())
    skipped = [list(item) for item in made.skipped]
    done = {"shard": number, "ids": made.ids, "skipped": skipped, "arrays": arrays}
    done |= {"source_sha256": joined(made.digests)} | (made.more or {})
    write_atomic(_marker(folder, number), seal(done, stamp=stamp))


def _claim(folder: Path, about: dict) -> dict:
    """Write the identity into a new folder, or compare it with the one that is there."""
    path = folder / ABOUT
    if not path.exists() and write_new(path, seal(about)):
        return about
    stored = _stored(folder, about["format"])
    for key, value in about.items():
        old = stored.get(key)
        if key == "source" and isinstance(old, dict):
            old = old | {"sha256": None}
        if old != value:
            raise UserError(
                f"{folder} holds a cache with {key} = {old!r}, asked for {value!r}; name another "
                "folder"
            )
    return stored


def _finish_once(folder: Path, about: dict, others: Collection[int]) -> None:
    """`_finish` by one of the processes; who made all by itself looks at all."""

    def done() -> bool:
        return bool(others) and _stored(folder, about["format"])["source"]["sha256"] is not None

    locks.once(folder / locks.FOLDER / "finish.lock", done, partial(_finish, folder, about, others))


def _seen(folder: Path, number: int, patience_s: float) -> dict:
    """As `_checked`; a file of another machine may show late."""
    end = time.monotonic() + patience_s
    while True:
        try:
            return _checked(folder, number)
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(locks.LOOK_S)


def _finish(folder: Path, about: dict, others: Collection[int]) -> None:
    """Write what was made, some by others, into the identity; UserError where nothing was, or ids
    repeat.
    """
    numbers = range(about["shards"])
    shards = [_seen(folder, number, LAG_S if number in others else 0.0) for number in numbers]
    ids = [name for done in shards for name in done["ids"]]
    if not ids:
        skipped = skipped_of(shards)
        name, reason = skipped[0] if skipped else ("source", "it is empty")
        for number in range(len(shards)):  # nothing is worth going on with
            _marker(folder, number).unlink(missing_ok=True)
        raise UserError(f"no document could be read into {folder}; the first: {name}: {reason}")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))
        raise UserError(f"two documents of the source are called {twice!r}; rename one of them")
    whole = about | {"source": about["source"] | {"sha256": _made(shards)}}
    if whole != _stored(folder, about["format"]):
        write_atomic(folder / ABOUT, seal(whole))


@contextlib.contextmanager
def _freed(folder: Path, about: dict, alone: Callable[[], bool]) -> Iterator[None]:
    """A `with` block whose refusal gives the folder back, as long as no shard is whole and nobody
    else works in it.
    """
    try:
        yield
    except UserError:
        numbers = range(about["shards"])
        if alone() and not any(_marker(folder, number).exists() for number in numbers):
            locks.tidy(folder / locks.FOLDER)
            for number in numbers:
                for path in folder.glob(_array(Path(), "*", number).name):
                    path.unlink(missing_ok=True)
            (folder / ABOUT).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: something of others
                folder.rmdir()
        raise


@contextlib.contextmanager
def _entered(folder: Path) -> Iterator[Callable[[], bool]]:
    """A `with` block of a process that encodes into a folder, made if it is not there; yields what
    tells whether it is the only one, and from then on keeps others out.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield lambda: True
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror
        raise UserError(f"cannot write {folder}: {reason}; choose another folder") from None

    def locked(how: int) -> bool:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        return True

    try:
        locked(fcntl.LOCK_SH)
        yield lambda: locked(fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)
