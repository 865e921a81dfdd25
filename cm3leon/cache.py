"""The token cache: documents as the tokenizers left them, in shards on disk.

Each shard is finished by a marker file, written last, which also tells what could not be read: a
kill loses at most one shard, and a finished cache is opened at once. With a CLIP the vectors of
pictures and captions lie beside the tokens: what a memory bank and its queries are made of.

Axes: N documents, T tokens, K codes of a picture, D width of a CLIP vector.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.checkpoint import module_digest, read_json
from cm3leon.errors import UserError
from cm3leon.files import write_atomic
from cm3leon.pictures import crop_square
from cm3leon.sequence import Document
from cm3leon.sources import Item, Skipped, Source

if TYPE_CHECKING:
    from cm3leon.clip import Clip
    from cm3leon.text import TextTokenizer
    from cm3leon.vq import VQ

ABOUT = "cache.json"
FORMAT = 2
ARRAYS = ("codes", "texts", "offsets")
VECTORS = ("image_vectors", "text_vectors")
BATCH = 64  # pictures encoded at once


class TokenCache:
    """A finished cache, open for reading: document i has codes, an id and `captions` captions.

    `about` is its identity: the source, the digests of the tokenizers and the CLIP. `skipped` lists
    (id, reason) of what could not be read. Raises UserError when the folder holds no cache, an
    unfinished one or a damaged one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = read_json(self.folder / ABOUT)
        try:
            if self.about["format"] != FORMAT:
                raise UserError(
                    f"{folder} has format {self.about['format']}, this version reads {FORMAT}; "
                    "remove and encode it again"
                )
            shards, self.captions = self.about["shards"], self.about["captions"]
            self.has_vectors = self.about["clip_sha256"] is not None
        except KeyError as error:
            raise UserError(f"{self.folder / ABOUT} lacks {error}; encode it again") from None
        self.shards = [self._open(number) for number in range(shards)]
        self.skipped = [tuple(pair) for shard in self.shards for pair in shard["done"]["skipped"]]
        counts = [len(shard["codes"]) for shard in self.shards]
        self.starts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def codes(self, index: int) -> np.ndarray:
        """Image codes of document `index`, uint16 [K]."""
        shard, row = self._at(index)
        return shard["codes"][row]

    def text(self, index: int, caption: int = 0) -> np.ndarray:
        """Text ids of one caption of document `index`, uint16 [T]."""
        shard, row = self._at(index)
        at = row * self.captions + caption
        return shard["texts"][shard["offsets"][at] : shard["offsets"][at + 1]]

    def document(self, index: int, caption: int = 0) -> Document:
        """Caption and picture as a document."""
        return Document.pair(self.text(index, caption), self.codes(index))

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

    def _open(self, number: int) -> dict:
        files = shard_files(self.folder, number, self.has_vectors)
        if not files["done"].exists():
            raise UserError(f"{self.folder} lacks {files['done'].name}; finish encoding it")
        done = read_json(files["done"])
        try:
            shard = {
                part: np.load(path, mmap_mode=None if part in ("texts", "offsets") else "r")
                for part, path in files.items()
                if part != "done"
            }
            rows = len(done["ids"])
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise UserError(f"{self.folder} is damaged: {error}; encode it again") from None
        whole = len(shard["offsets"]) == rows * self.captions + 1
        whole &= all(len(shard[part]) == rows for part in shard if part not in ("texts", "offsets"))
        if not whole or shard["offsets"][-1] != len(shard["texts"]):
            raise UserError(
                f"{files['codes']} does not fit {files['done'].name}; remove and encode it again"
            )
        return shard | {"done": done}


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

    Continues an unfinished cache of the same content; returns a finished one at once. `workers`
    processes read the shards ahead (0: this one; with more, the calling script must guard its main
    part by `if __name__ == "__main__"`). Raises UserError for a folder that holds another cache,
    for ids beyond uint16, for a full disk and when nothing at all could be read.
    """
    from tqdm import tqdm

    folder = Path(folder)
    _claim(folder, _about(source, vq, tokenizer, clip))
    todo = [
        number
        for number in range(source.shards)
        if not shard_files(folder, number, clip is not None)["done"].exists()
    ]
    total = source.about.get("count")  # unknown of tars
    done = (source.shards - len(todo)) * source.about["shard"] if total else 0
    name = f"encode {source.about['kind']}"
    with tqdm(total=total, initial=done, unit="document", desc=name, disable=None) as bar:
        for number, items in _read(source, todo, workers):
            files = shard_files(folder, number, clip is not None)
            _encode_shard(items, source.captions, vq, tokenizer, clip, files, bar)
    cache = TokenCache(folder)
    if not len(cache):
        name, reason = cache.skipped[0] if cache.skipped else ("source", "it is empty")
        raise UserError(f"no document could be read into {folder}; the first: {name}: {reason}")
    return cache


def shard_files(folder: Path, number: int, with_vectors: bool) -> dict[str, Path]:
    """Paths of one shard's arrays and of the marker that says they are whole."""
    parts = ARRAYS + (VECTORS if with_vectors else ())
    files = {part: folder / f"{part}-{number:05d}.npy" for part in parts}
    return files | {"done": folder / f"shard-{number:05d}.json"}


def _about(source: Source, vq, tokenizer, clip) -> dict:
    """The identity of a cache: everything its bytes depend on."""
    limit = 2**16
    for name, size in (("codebook", vq.config.codebook_size), ("tokenizer", tokenizer.size)):
        if size > limit:
            raise UserError(f"{name} must have at most {limit} ids to be cached, got {size}")
    return {
        "format": FORMAT,
        "source": source.about,
        "shards": source.shards,
        "captions": source.captions,
        "size": vq.config.resolution,
        "vq_sha256": module_digest(vq),
        "text_sha256": tokenizer.digest,
        "clip_sha256": clip.sha256 if clip else None,
    }


def _claim(folder: Path, about: dict) -> None:
    """Write the identity into a new folder, or compare it with the one that is there."""
    if not (folder / ABOUT).exists():
        write_atomic(folder / ABOUT, json.dumps(about, indent=2) + "\n")
        return
    stored = read_json(folder / ABOUT)
    for key, value in about.items():
        if stored.get(key) != value:
            raise UserError(
                f"{folder} holds a cache with {key} = {stored.get(key)!r}, asked for {value!r}; "
                "name another folder"
            )


def _read(source: Source, shards: list[int], workers: int) -> Iterator[tuple[int, Iterator]]:
    """(number, documents) of the shards in order, read by this process or by others."""
    if not workers:
        yield from ((number, source.read(number)) for number in shards)
        return
    # spawned, not forked: a fork would copy the locks of torch's threads in whatever state they are
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for start in range(0, len(shards), 2 * workers):  # no further ahead: memory
            group = shards[start : start + 2 * workers]
            yield from zip(group, pool.map(partial(_listed, source), group), strict=True)


def _listed(source: Source, number: int) -> list:
    return list(source.read(number))


def _encode_shard(items, captions: int, vq, tokenizer, clip, files: dict[str, Path], bar) -> None:
    """Write one shard: arrays first, the marker last."""
    ids, skipped, codes, texts = [], [], [], []
    vectors = {part: [np.empty((0, clip.width), np.float32)] for part in VECTORS} if clip else {}
    items, size = iter(items), vq.config.resolution
    while batch := list(islice(items, BATCH)):
        skipped += [list(item) for item in batch if isinstance(item, Skipped)]
        read: list[Item] = [item for item in batch if not isinstance(item, Skipped)]
        bar.update(len(batch))
        if not read:
            continue
        ids += [item.id for item in read]
        squares = np.stack([crop_square(item.image, size) for item in read])
        codes.append(vq.encode(squares).cpu().numpy().astype(np.uint16))
        texts += tokenizer.encode_batch([text for item in read for text in item.captions])
        if clip:
            vectors["image_vectors"].append(clip.images([item.image for item in read]))
            vectors["text_vectors"].append(clip.texts([item.captions[0] for item in read]))
    arrays = {
        "codes": np.concatenate(codes) if codes else np.empty((0, vq.config.grid**2), np.uint16),
        "texts": np.array([token for text in texts for token in text], dtype=np.uint16),
        "offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
    } | {part: np.concatenate(found) for part, found in vectors.items()}
    for part, array in arrays.items():
        buffer = BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_atomic(files[part], buffer.getvalue())
    write_atomic(files["done"], json.dumps({"ids": ids, "skipped": skipped}) + "\n")
