"""Training data: scenes -> token cache on disk -> batches of masked samples, and the loss on them.

The cache holds what the tokenizers made of the pictures, in shards; each shard is finished by a
marker file, so a kill loses at most one. A batch is a pure function of (seed, step): documents
come in a fresh order every epoch, without replacement, each with one of its captions.

Axes: B samples of a batch, T tokens, N codes of a picture, C captions of a picture.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cm3leon import seeds
from cm3leon.config import ObjectiveConfig
from cm3leon.errors import UserError
from cm3leon.files import write_atomic
from cm3leon.objective import mask_samples, rotate
from cm3leon.sequence import Document, Vocabulary, build_sample

if TYPE_CHECKING:
    from torch import nn

    from cm3leon.text import TextTokenizer
    from cm3leon.vq import VQ

Neighbours = Callable[[int, np.random.Generator], list[Document]]
ABOUT = "cache.json"
FORMAT = 1
PARTS = ("codes", "texts", "offsets")
ROUND = 8  # batches are padded to a multiple of this many tokens


class TokenCache:
    """A finished cache, open for reading: picture i has codes and `captions` captions.

    `about` is its identity: dialect, split, start, count, size, digests of both tokenizers.
    Raises UserError when the folder holds no cache, an unfinished one or a damaged one.
    """

    def __init__(self, folder: str | Path):
        from cm3leon.checkpoint import read_json

        self.folder = Path(folder)
        self.about = read_json(self.folder / ABOUT)
        try:
            if self.about["format"] != FORMAT:
                raise UserError(f"{folder} has format {self.about['format']}, we read {FORMAT}")
            self.count, self.shard = self.about["count"], self.about["shard"]
            self.captions = self.about["captions"]
        except KeyError as error:
            raise UserError(f"{self.folder / ABOUT} lacks {error}; encode it again") from None
        self.shards = [self._open(start) for start in range(0, self.count, self.shard)]

    def __len__(self) -> int:
        return self.count

    def codes(self, index: int) -> np.ndarray:
        """Image codes of picture `index`, uint16 [N]."""
        return self.shards[index // self.shard][0][index % self.shard]

    def text(self, index: int, caption: int) -> np.ndarray:
        """Text ids of one caption of picture `index`, uint16 [T]."""
        _, texts, offsets = self.shards[index // self.shard]
        at = index % self.shard * self.captions + caption
        return texts[offsets[at] : offsets[at + 1]]

    def document(self, index: int, caption: int = 0) -> Document:
        """Caption and picture as a document."""
        return Document.pair(self.text(index, caption), self.codes(index))

    def _open(self, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        files = _shard_files(self.folder, start // self.shard)
        if not files["done"].exists():
            raise UserError(f"{self.folder} lacks {files['done'].name}; finish encoding it")
        try:
            codes = np.load(files["codes"], mmap_mode="r")
            texts, offsets = np.load(files["texts"]), np.load(files["offsets"])
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{self.folder} is damaged: {error}; encode it again") from None
        rows = min(self.shard, self.count - start)
        whole = len(codes) == rows and len(offsets) == rows * self.captions + 1
        if not whole or offsets[-1] != len(texts):
            raise UserError(f"{files['codes']} does not fit {ABOUT}; remove and encode it again")
        return codes, texts, offsets


def encode_scenes(
    vq: VQ,
    tokenizer: TextTokenizer,
    dialect: str,
    split: str,
    start: int,
    count: int,
    folder: str | Path,
    *,
    shard: int = 4096,
    batch: int = 64,
    workers: int = 0,
) -> TokenCache:
    """Draw scenes start .. start + count, encode pictures and all captions, and open the cache.

    Continues an unfinished cache of the same content; returns a finished one at once. `workers`
    processes draw the pictures (0: this one; with more, the calling script must guard its main
    part by `if __name__ == "__main__"`). Raises UserError for a folder that holds another
    cache, for ids beyond uint16 and for a full disk.
    """
    from tqdm import tqdm

    folder = Path(folder)
    if count < 1:
        raise UserError(f"count of scenes to encode must be at least 1, got {count}")
    _claim(folder, _about(vq, tokenizer, dialect, split, start, count, shard))
    todo = [
        first
        for first in range(0, count, shard)
        if not _shard_files(folder, first // shard)["done"].exists()
    ]
    left = sum(min(shard, count - first) for first in todo)
    with tqdm(total=left, unit="picture", desc=f"encode {split}", disable=None) as bar:
        for first in todo:
            stop = min(first + shard, count)
            pictures = _drawn(dialect, split, start + first, start + stop, vq, batch, workers)
            _encode_shard(vq, tokenizer, pictures, _shard_files(folder, first // shard), bar)
    return TokenCache(folder)


def pair_batches(
    cache: TokenCache,
    vocabulary: Vocabulary,
    objective: ObjectiveConfig,
    batch: int,
    seed: int,
    *,
    context: int | None = None,
    neighbours: Neighbours | None = None,
) -> Callable[[int], dict]:
    """The batch source of a transformer: step (from 1) -> {"ids_BT", "weights_BT", "counts"}.

    ids int64 and weights float32 are torch tensors padded to the longest sample, rounded up to 8
    tokens; rows longer than `context` are cut there and counted. `neighbours(index, generator)`
    gives retrieved documents to put before document `index` of the cache.
    """
    size = len(cache)

    @lru_cache(maxsize=2)
    def epoch_of(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = seeds.generator(seed, "order", epoch).permutation(size)
        return order, seeds.generator(seed, "caption", epoch).integers(cache.captions, size=size)

    def sample(position: int) -> np.ndarray:
        epoch, place = divmod(position, size)
        order, captions = epoch_of(epoch)
        index = int(order[place])
        found = neighbours(index, seeds.generator(seed, "near", epoch, index)) if neighbours else []
        return build_sample(cache.document(index, int(captions[index])), found, vocabulary)

    def at(step: int) -> dict:
        start = (step - 1) * batch
        samples = [sample(position) for position in range(start, start + batch)]
        generator = seeds.generator(seed, "mask", step)
        rows, counts = mask_samples(samples, vocabulary, objective, generator)
        return collate(rows, counts, vocabulary, context)

    return at


def collate(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    counts: dict[str, int],
    vocabulary: Vocabulary,
    context: int | None = None,
) -> dict:
    """Pad (ids, weights) rows to a batch; `counts` gains "seen" (tokens kept), "cut" (rows)."""
    import torch

    lengths = [len(ids) for ids, _ in rows]
    longest = -(-max(lengths) // ROUND) * ROUND
    if context is not None:
        longest = min(longest, context)
    ids_BT = np.full((len(rows), longest), vocabulary.pad, dtype=np.int64)
    weights_BT = np.zeros((len(rows), longest), dtype=np.float32)
    for row, (ids, weights) in enumerate(rows):
        kept = min(len(ids), longest)
        ids_BT[row, :kept], weights_BT[row, :kept] = ids[:kept], weights[:kept]
    more = {
        "seen": sum(min(length, longest) for length in lengths),
        "cut": sum(length > longest for length in lengths),
    }
    return {
        "ids_BT": torch.from_numpy(ids_BT),
        "weights_BT": torch.from_numpy(weights_BT),
        "counts": counts | more,
    }


def pair_loss(vocabulary: Vocabulary) -> Callable:
    """The loss of a transformer for `train`: the weighted mean of nats per token over the batch.

    Logs text and image tokens apart (unweighted means over tokens with a weight) and what the
    objective masked: text segments touched, captions whole, pictures touched (FACTS 1.4).
    """

    def loss(module: nn.Module, batch: dict, step: int):
        ids_BT, weights_BT, counts = batch["ids_BT"], batch["weights_BT"], batch["counts"]
        losses = module.loss_per_token(ids_BT, weights_BT)
        weights = weights_BT[:, 1:]
        value = (losses * weights).sum() / weights.sum().clamp(min=1e-9)
        parts = _parts(losses.detach(), ids_BT[:, 1:], weights > 0, vocabulary)
        scalars = {
            f"{kind}_loss": total / number.clamp(min=1) for kind, (total, number) in parts.items()
        }
        for name in ("text_masked", "text_full", "image_masked"):
            segments = counts[f"{name.split('_')[0]}_segments"]
            scalars[f"{name}_rate"] = counts[name] / max(1, segments)
        if counts["cut"]:
            scalars["cut_rate"] = counts["cut"] / counts["rows"]
        return value, scalars | {"tokens": counts["seen"]}

    return loss


def pair_held_out(
    cache: TokenCache,
    vocabulary: Vocabulary,
    count: int,
    *,
    batch: int = 64,
    context: int | None = None,
    neighbours: Neighbours | None = None,
) -> Callable[[nn.Module], dict]:
    """The held-out losses for `train`, nats per token over the first `count` pictures of a cache.

    "text" and "image" are losses of unmasked samples, with the first caption; "image_free" is that
    of the same pictures when the caption is masked (the unconditional stream of guidance), so
    image_free - image says how much the text tells; "loss" is the mean over unmasked tokens.
    """
    plain, masked = [], []
    for index in range(min(count, len(cache))):
        document = cache.document(index)
        found = neighbours(index, seeds.generator(0, "held-out", index)) if neighbours else []
        ids = build_sample(document, found, vocabulary)
        text, image = document.segments
        start = len(ids) - len(image.codes) - len(text.ids) - 2  # before <break> and <eos>
        caption = [(start, start + len(text.ids))] if text.ids else []
        plain.append(rotate(ids, [], vocabulary))
        masked.append(rotate(ids, caption, vocabulary))

    def evaluate(module: nn.Module) -> dict:
        found = _sums(module, plain, vocabulary, batch, context)
        free = _sums(module, masked, vocabulary, batch, context)
        total, number = (sum(values) for values in zip(*found.values(), strict=True))
        return {
            "loss": total / number,
            "text": found["text"][0] / max(1, found["text"][1]),
            "image": found["image"][0] / max(1, found["image"][1]),
            "image_free": free["image"][0] / max(1, free["image"][1]),
        }

    return evaluate


def _sums(module, rows, vocabulary: Vocabulary, batch: int, context: int | None) -> dict:
    """Per kind of token: (sum of nats, number of tokens) over all rows."""
    import torch

    device = next(module.parameters()).device
    sums = {"text": (0.0, 0), "image": (0.0, 0)}
    for start in range(0, len(rows), batch):
        inputs = collate(rows[start : start + batch], {}, vocabulary, context)
        ids_BT, weights_BT = inputs["ids_BT"].to(device), inputs["weights_BT"].to(device)
        with torch.no_grad():
            losses = module.loss_per_token(ids_BT, weights_BT)
            parts = _parts(losses, ids_BT[:, 1:], weights_BT[:, 1:] > 0, vocabulary)
        for kind, (total, number) in parts.items():
            sums[kind] = (sums[kind][0] + float(total), sums[kind][1] + int(number))
    return sums


def _parts(losses, targets, counted, vocabulary: Vocabulary) -> dict:
    """Sum of nats and number of tokens, of text and of image targets, as 0-d tensors."""
    image = (targets >= vocabulary.image_start) & (targets < vocabulary.image_end) & counted
    text = (targets < vocabulary.image_start) & counted
    return {
        kind: ((losses * chosen).sum(), chosen.sum())
        for kind, chosen in (("text", text), ("image", image))
    }


def _about(vq, tokenizer, dialect, split, start, count, shard) -> dict:
    """The identity of a cache: everything its bytes depend on."""
    from cm3leon.checkpoint import module_digest
    from cm3leon.scenes import check_address, scene

    check_address(dialect, split, start + count - 1)
    limit = 2**16
    for name, size in (("codebook", vq.config.codebook_size), ("tokenizer", tokenizer.size)):
        if size > limit:
            raise UserError(f"{name} must have at most {limit} ids to be cached, got {size}")
    return {
        "format": FORMAT,
        "dialect": dialect,
        "split": split,
        "start": start,
        "count": count,
        "shard": shard,
        "size": vq.config.resolution,
        "captions": len(scene(dialect, split, start, vq.config.resolution).captions),
        "vq_sha256": module_digest(vq),
        "text_sha256": tokenizer.digest,
    }


def _claim(folder: Path, about: dict) -> None:
    """Write the identity into a new folder, or compare it with the one that is there."""
    from cm3leon.checkpoint import read_json

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


def _shard_files(folder: Path, number: int) -> dict[str, Path]:
    """Paths of one shard's arrays and of the marker that says they are whole."""
    files = {part: folder / f"{part}-{number:05d}.npy" for part in PARTS}
    return files | {"done": folder / f"shard-{number:05d}.done"}


def _drawn(dialect, split, start, stop, vq, batch, workers) -> Iterator[tuple[np.ndarray, list]]:
    """(pictures uint8 [B,H,W,3], captions [B][C]) in order, by this process or by others."""
    firsts = range(start, stop, batch)
    lasts = [min(first + batch, stop) for first in firsts]
    fixed = (repeat(dialect), repeat(split), firsts, lasts, repeat(vq.config.resolution))
    if not workers:
        yield from map(_draw, *fixed)
        return
    # spawned, not forked: a fork would copy the locks of torch's threads in whatever state they are
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_draw, *fixed)


def _draw(dialect: str, split: str, start: int, stop: int, size: int) -> tuple[np.ndarray, list]:
    from cm3leon.scenes import scene

    scenes = [scene(dialect, split, index, size) for index in range(start, stop)]
    return np.stack([one.image for one in scenes]), [one.captions for one in scenes]


def _encode_shard(vq, tokenizer, pictures, files: dict[str, Path], bar) -> None:
    """Write one shard: arrays first, the marker last."""
    codes, ids = [], []
    for images, captions in pictures:
        codes.append(vq.encode(images).cpu().numpy().astype(np.uint16))
        ids += tokenizer.encode_batch([text for texts in captions for text in texts])
        bar.update(len(images))
    arrays = {
        "codes": np.concatenate(codes),
        "texts": np.array([token for text in ids for token in text], dtype=np.uint16),
        "offsets": np.cumsum([0, *map(len, ids)], dtype=np.int64),
    }
    for part, array in arrays.items():
        buffer = BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_atomic(files[part], buffer.getvalue())
    write_atomic(files["done"], b"")
