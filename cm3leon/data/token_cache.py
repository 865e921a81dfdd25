"""The token cache: documents as the tokenizers left them, in shards on disk.

Each shard is finished by a marker file, written last, which also tells what could not be read: a
kill loses at most one shard, and a finished cache is opened at once. The marker names the digests
of the shard's arrays and of all that it was read from: a shard that is damaged, or whose source
changed, is encoded anew. With a CLIP the vectors of pictures and captions lie beside the tokens:
what a memory bank and its queries are made of.

Axes: N documents, T tokens, K codes of a picture, D width of a CLIP vector.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.checkpoint import module_digest
from cm3leon.data.readers import Form, Readers, Ready, whole
from cm3leon.data.sources import Skipped, Source, content
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.identity import check_file, joined, read_sealed, same_stamp, seal, unseal
from cm3leon.sequence.documents import Document

if TYPE_CHECKING:
    from cm3leon.clip import Clip
    from cm3leon.tokenizers.text import TextTokenizer
    from cm3leon.tokenizers.vq import VQ

ABOUT = "cache.json"
FORMAT = 3
ARRAYS = ("codes", "texts", "offsets", "captions")
SMALL = ("texts", "offsets", "captions")  # read into memory
VECTORS = ("image_vectors", "text_vectors")
BATCH = 32  # pictures encoded at once


class TokenCache:
    """A finished cache, open for reading: document i has codes, an id and one or more captions.

    `about` is its identity: the source and, as its "sha256", what was made of it; the digests of
    the tokenizers and the CLIP. `captions` is the most that a document has. `skipped` lists
    (id, reason) of what could not be read. Raises UserError when the folder holds no cache, an
    unfinished one or a damaged one: every digest is checked.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = read_about(self.folder)
        self.has_vectors = self.about["clip_sha256"] is not None
        numbers = range(self.about["shards"])
        self.shards = [open_shard(self.folder, number, self.has_vectors) for number in numbers]
        if self.about["source"]["sha256"] != _made(self.shards):
            raise UserError(f"{folder} holds shards of two encodings; {way_out(self.folder)}")
        self.skipped = [tuple(pair) for shard in self.shards for pair in shard["done"]["skipped"]]
        counts = [len(shard["codes"]) for shard in self.shards]
        self.starts = np.cumsum([0, *counts])
        most = [np.diff(shard["captions"]).max(initial=0) for shard in self.shards]
        self.captions = int(max(most, default=0))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def codes(self, index: int) -> np.ndarray:
        """Image codes of document `index`, uint16 [K]."""
        shard, row = self._at(index)
        return shard["codes"][row]

    def text(self, index: int, caption: int = 0) -> np.ndarray:
        """Text ids of one caption of document `index`, uint16 [T]; those of a document with fewer
        than `captions` come again in turn.
        """
        shard, row = self._at(index)
        first, last = shard["captions"][row : row + 2]
        at = first + caption % (last - first)
        return shard["texts"][shard["offsets"][at] : shard["offsets"][at + 1]]

    def document(self, index: int, caption: int = 0) -> Document:
        """Caption and picture as a document."""
        return Document.pair(self.text(index, caption), self.codes(index))

    def address(self, index: int) -> tuple[str, str, int] | None:
        """Dialect, split and index of a document of the embedded world (`scenes.scene`)."""
        source = self.about["source"]
        if source["kind"] != "scenes":
            return None
        return source["dialect"], source["split"], source["start"] + index

    @property
    def mean_text(self) -> float:
        """Text ids of a caption, on average over all."""
        captions = sum(len(shard["offsets"]) - 1 for shard in self.shards)
        return sum(len(shard["texts"]) for shard in self.shards) / captions

    @property
    def ids(self) -> list[str]:
        """Ids of all documents, in order."""
        return [name for shard in self.shards for name in shard["done"]["ids"]]

    def vectors(self, part: str) -> np.ndarray:
        """The "image_vectors" or "text_vectors" (of first captions) of all documents, [N, D].

        Raises UserError when the cache was encoded without a CLIP.
        """
        self._check_vectors()
        return np.concatenate([shard[part] for shard in self.shards])

    def vector_pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image vectors, text vectors) of one shard after the other, for what is too large at
        once; UserError as in `vectors`.
        """
        self._check_vectors()
        yield from ((shard["image_vectors"], shard["text_vectors"]) for shard in self.shards)

    def _check_vectors(self) -> None:
        if not self.has_vectors:
            raise UserError(f"{self.folder} was encoded without a CLIP; encode it again with one")

    def _at(self, index: int) -> tuple[dict, int]:
        if not 0 <= index < len(self):
            raise UserError(f"document must lie in 0..{len(self) - 1}, got {index}")
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.shards[number], index - int(self.starts[number])


def read_about(folder: Path) -> dict:
    """The identity of the finished cache in a folder; no shard is read.

    Raises UserError for a folder without one, of another format, unfinished or damaged.
    """
    about = _stored(folder)
    if about["source"]["sha256"] is None:
        raise UserError(f"{folder} was not encoded to its end; {way_out(folder)}")
    return about


def _stored(folder: Path) -> dict:
    """The identity of a cache, finished or not."""
    return read_sealed(folder / ABOUT, FORMAT, f"remove {folder} and encode its source again")


def way_out(folder: Path) -> str:
    """What to do about a cache that is damaged or unfinished."""
    return f"run `cm3leon encode` of its source into {folder} again, which makes what is amiss anew"


def open_shard(folder: Path, number: int, with_vectors: bool) -> dict:
    """The arrays of a shard, large ones memory-mapped, and its marker as "done".

    Raises UserError when a file is missing or its digest is another.
    """
    files = shard_files(folder, number, with_vectors)
    if not files["done"].exists():
        raise UserError(f"{folder} lacks {files['done'].name}; {way_out(folder)}")
    done = unseal(files["done"], way_out(folder))
    if done["shard"] != number:
        raise UserError(f"{files['done']} is that of shard {done['shard']}; {way_out(folder)}")
    shard = {"done": done}
    for part, digest in done["arrays"].items():
        check_file(files[part], digest, way_out(folder))
        shard[part] = np.load(files[part], mmap_mode=None if part in SMALL else "r")
    return shard


def _made(shards: list[dict]) -> str:
    """Names what the shards of a cache hold, wherever they were read from."""
    made = [shard["done"] for shard in shards]
    return joined(joined([*one["ids"], *one["arrays"].values()]) for one in made)


def encode(
    source: Source,
    vq: VQ,
    tokenizer: TextTokenizer,
    folder: str | Path,
    *,
    clip: Clip | None = None,
    workers: int = 0,
) -> TokenCache:
    """Encode all pictures and captions of a source, and vectors with a `clip`; open the cache.

    Continues an unfinished cache, makes anew, and says so on stderr, the shards that are damaged or
    whose source changed; returns a finished one at once. `workers` processes read and crop ahead
    (0: this one; with more, the calling script must guard its main part by
    `if __name__ == "__main__"`). Waits while another process encodes into the folder. Raises
    UserError for a folder that holds another cache, for ids beyond uint16 or that repeat, for a
    full disk, when a reading process dies and when nothing at all could be read.
    """
    from tqdm import tqdm

    folder, about = Path(folder), _about(source, vq, tokenizer, clip)
    with _alone(folder), Readers(workers) as readers:
        claimed = _claim(folder, about)
        work = Work(folder, vq, tokenizer, clip)
        todo = [number for number in range(source.shards) if work.wanted(source, number)]
        if todo and claimed["source"]["sha256"]:
            write_atomic(folder / ABOUT, seal(about))  # unfinished again
        total = source.about.get("count")  # unknown of tars
        done = (source.shards - len(todo)) * source.about["shard"] if total else 0
        name = f"encode {source.about['kind']}"
        with tqdm(total=total, initial=done, unit="document", desc=name, disable=None) as bar:
            for number in todo:
                work.encode(source, number, readers, bar)
        _finish(folder, about)
        return TokenCache(folder)


class Work:
    """Shards of a source made one by one, by these tokenizers, in a folder."""

    def __init__(self, folder: Path, vq: VQ, tokenizer: TextTokenizer, clip: Clip | None):
        self.folder, self.vq, self.tokenizer, self.clip = folder, vq, tokenizer, clip
        crop = None if clip is None else getattr(clip, "crop", None) or whole
        self.form = Form(vq.config.resolution, crop)

    def files(self, number: int) -> dict[str, Path]:
        """As `shard_files`."""
        return shard_files(self.folder, number, self.clip is not None)

    def wanted(self, source: Source, number: int) -> bool:
        """Whether a shard must be made: not there, damaged, or of a source that changed since."""
        marker = self.files(number)["done"]
        if not marker.exists():
            return True
        try:
            done = open_shard(self.folder, number, self.clip is not None)["done"]
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

    def encode(self, source: Source, number: int, readers: Readers, bar) -> None:
        """Write one shard: arrays first, the marker last."""
        files, clip, stamp = self.files(number), self.clip, source.stamp(number)
        ids, skipped, digests, codes, texts, counts = [], [], [], [], [], []
        vectors = {part: [np.empty((0, clip.width), np.float32)] for part in VECTORS if clip}
        parts = readers.load(source.parts(number), self.form)
        while batch := list(islice(parts, BATCH)):
            digests += [digest for digest, _ in batch]
            skipped += [list(item) for _, item in batch if isinstance(item, Skipped)]
            read: list[Ready] = [item for _, item in batch if not isinstance(item, Skipped)]
            bar.update(len(batch))
            if not read:
                continue
            ids += [item.id for item in read]
            counts += [len(item.captions) for item in read]
            squares = np.stack([item.square for item in read])
            codes.append(self.vq.encode(squares).cpu().numpy().astype(np.uint16))
            captions = [text for item in read for text in item.captions]
            texts += self.tokenizer.encode_batch(captions)
            if clip:
                vectors["image_vectors"].append(clip.images([item.picture for item in read]))
                firsts = [item.captions[0] for item in read]
                vectors["text_vectors"].append(clip.texts(firsts))
        grid = self.vq.config.grid
        arrays = {
            "codes": np.concatenate(codes) if codes else np.empty((0, grid**2), np.uint16),
            "texts": np.array([token for text in texts for token in text], dtype=np.uint16),
            "offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
            "captions": np.cumsum([0, *counts], dtype=np.int64),
        } | {part: np.concatenate(found) for part, found in vectors.items()}
        written = {part: _write(files[part], array) for part, array in arrays.items()}
        done = {"shard": number, "ids": ids, "skipped": skipped, "arrays": written}
        done["source_sha256"] = joined(digests)
        write_atomic(files["done"], seal(done, stamp=stamp))


def _write(path: Path, array: np.ndarray) -> str:
    """Write an array; the digest of its file."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())
    return sha256_bytes(buffer.getbuffer())


def shard_files(folder: Path, number: int, with_vectors: bool) -> dict[str, Path]:
    """Paths of one shard's arrays and of the marker that says they are whole."""
    parts = ARRAYS + (VECTORS if with_vectors else ())
    files = {part: folder / f"{part}-{number:05d}.npy" for part in parts}
    return files | {"done": folder / f"shard-{number:05d}.json"}


def _about(source: Source, vq, tokenizer, clip) -> dict:
    """The identity of a cache: everything its bytes depend on. What the source holds comes last."""
    limit = 2**16
    for name, size in (("codebook", vq.config.codebook_size), ("tokenizer", tokenizer.size)):
        if size > limit:
            raise UserError(f"{name} must have at most {limit} ids to be cached, got {size}")
    return {
        "format": FORMAT,
        "source": source.about | {"sha256": None},
        "shards": source.shards,
        "size": vq.config.resolution,
        "vq_sha256": module_digest(vq),
        "text_sha256": tokenizer.digest,
        "clip_sha256": clip.sha256 if clip else None,
    }


def _claim(folder: Path, about: dict) -> dict:
    """Write the identity into a new folder, or compare it with the one that is there."""
    path = folder / ABOUT
    if not path.exists():
        write_atomic(path, seal(about))
        return about
    stored = _stored(folder)
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


def _finish(folder: Path, about: dict) -> None:
    """Write what was made into the identity; UserError where nothing was, or ids repeat."""
    with_vectors = about["clip_sha256"] is not None
    shards = [open_shard(folder, number, with_vectors) for number in range(about["shards"])]
    ids = [name for shard in shards for name in shard["done"]["ids"]]
    if not ids:
        skipped = [pair for shard in shards for pair in shard["done"]["skipped"]]
        name, reason = skipped[0] if skipped else ("source", "it is empty")
        for number in range(about["shards"]):  # the folder is free again
            for path in shard_files(folder, number, with_vectors).values():
                path.unlink(missing_ok=True)
        (folder / ABOUT).unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise UserError(f"no document could be read into {folder}; the first: {name}: {reason}")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))
        raise UserError(f"two documents of the source are called {twice!r}; rename one of them")
    whole = about | {"source": about["source"] | {"sha256": _made(shards)}}
    if whole != _stored(folder):
        write_atomic(folder / ABOUT, seal(whole))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A `with` block in which no other process encodes into a folder; made if it is not there."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror
        raise UserError(f"cannot write {folder}: {reason}; choose another folder") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process encodes into {folder}; waiting for it", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
