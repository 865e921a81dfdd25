"""A tiny trained model in a folder, and caches of records for it: what a tuning starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cm3leon import checkpoint, seeds
from cm3leon.config import ModelConfig, VocabularyConfig, VQConfig
from cm3leon.data.record_cache import Bundle, encode_records
from cm3leon.data.records import Record, Segment
from cm3leon.identity import joined
from cm3leon.loading import load_tokenizers
from cm3leon.model.transformer import Transformer
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ

SIDE, GRID, CODES = 16, 4, 32
COLOURS = {"red": (220, 30, 20), "green": (20, 200, 40), "blue": (30, 40, 230)}
SHAPE = VQConfig(
    resolution=SIDE, channels=8, multipliers=(1, 1, 1), attention=(), z_channels=4,
    codebook_size=CODES, code_dim=4, reach="cell",
)  # fmt: skip
TUNE = [
    "--steps", "8", "--batch", "4", "--rate", "3e-3", "--warmup", "1", "--save-every", "3",
    "--eval-every", "4", "--log-every", "1", "--precision", "float32", "--device", "cpu",
]  # fmt: skip


def picture(index: int) -> np.ndarray:
    """One of three colours under noise, uint8 [16, 16, 3]."""
    noise = seeds.generator(0, "tuning", index).integers(-20, 20, (SIDE, SIDE, 3))
    colour = list(COLOURS.values())[index % 3]
    return np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)


def question(index: int) -> Record:
    """What colour picture `index` has."""
    pieces = ("prompt", "Question: what colour? Answer:"), ("target", f" {name(index)}")
    texts = [Segment(role, text) for role, text in (*pieces, ("prompt", "."))]
    return Record("answer", (*texts, Segment("prompt", image=picture(index))), f"answer-{index}")


def edit(index: int) -> Record:
    """Picture `index` as its neighbour."""
    instruction = Segment("prompt", f"make it {name(index + 1)}")
    shown, drawn = picture(index), picture(index + 1)
    parts = (instruction, Segment("prompt", image=shown), Segment("target", image=drawn))
    return Record("edit", parts, f"edit-{index}")


def long_question(index: int) -> Record:
    """With more text than the model has room for."""
    found = question(index)
    first = Segment("prompt", "what colour? " * 40)
    return Record("answer", (first, *found.segments[1:]), f"long-{index}")


def name(index: int) -> str:
    """Of the colour of picture `index`."""
    return list(COLOURS)[index % 3]


@dataclass(frozen=True)
class Part:
    """A record as part of a source."""

    record: Record = field(repr=False)

    @property
    def id(self) -> str:
        return self.record.source

    def digest(self) -> str:
        return joined([self.id])

    def load(self):
        return self.digest(), Bundle((self.record,))


class Listed:
    """A source of some records, in one shard."""

    shards = 1

    def __init__(self, name: str, records: list[Record]):
        self.records = records
        self.about = {"kind": name, "count": len(records), "shard": max(1, len(records))}

    def parts(self, shard: int):
        yield from map(Part, self.records)

    def stamp(self, shard: int) -> str:
        return joined([self.about["kind"], str(len(self.records))])


def write_tokenizers(home: Path, seed: int = 0) -> None:
    """Tokenizers in `text/` and `vq/`; those of two seeds differ."""
    texts = [" ".join(["Question: what colour? Answer: make it", *COLOURS, "." * seed])] * 3
    TextTokenizer.train(texts, 280).save(home / "text")
    with seeds.torch_default(seed, "tuning vq"):
        vq = VQ(SHAPE)
    checkpoint.save(home / "vq", "vq", SHAPE, vq.state_dict())


def write_base(folder: Path, **changes) -> Path:
    """A model with random weights and its tokenizers, as `cm3leon train` leaves them."""
    write_tokenizers(folder)
    text = TextTokenizer.load(folder / "text")
    sizes = VocabularyConfig(text.size, CODES, 4, 16)
    shape = {"layers": 1, "width": 32, "heads": 2, "context": 96, "vocabulary": sizes}
    shape |= {"init_std": 0.05, "position_std": 0.05}
    config = ModelConfig("tiny", **shape | changes)
    model = Transformer(config, seeds.torch_generator(0, "tuning"))
    extra = {"text_sha256": text.digest, "vq_sha256": checkpoint.digest(folder / "vq")}
    extra |= {"decode": {"guidance": 1.5}, "train": {"steps": 1}}
    checkpoint.save(folder, "transformer", config, model.state_dict(), extra)
    return folder


def write_records(cache: Path, home: Path, records: list[Record]) -> Path:
    """A record cache made with the tokenizers of a folder."""
    text, vq = load_tokenizers(home)
    encode_records(Listed(cache.name, records), vq, text, cache)
    return cache


def write_start(folder: Path) -> Path:
    """A model `base`, caches `answers` (30), `edits` (6) and `val` in a folder."""
    home = write_base(folder / "base")
    write_records(folder / "answers", home, [question(k) for k in range(30)])
    write_records(folder / "edits", home, [edit(k) for k in range(6)])
    write_records(folder / "val", home, [question(100), edit(101), question(102)])
    return folder
