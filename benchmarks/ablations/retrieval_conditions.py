"""Arms of the retrieval ablation: one system, and what stands before its prompts.

An arm is a system whose documents are chosen beforehand, so pictures are kept and shared like any
system's. Shapes: P prompts, S documents of each, N documents of the bank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from benchmarks.protocols.prompts import Prompt
from cm3leon import seeds
from cm3leon.config import RetrievalConfig
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes
from cm3leon.pipeline import System
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.select import Query, select, with_modality
from cm3leon.sequence.documents import Document

DEEP = 50  # ranks passed over for "far" documents


@dataclass(frozen=True)
class Asked:
    """The prompts of a split and everything that can look for documents for them."""

    split: str
    prompts: Sequence[Prompt]
    query: Query  # texts of the captions; images of the pictures they were written for


@dataclass(frozen=True)
class Arm:
    """A way to choose documents: `rows(asked, bank)` int [P, S], then `edit` what was found."""

    name: str
    rows: Callable[[Asked, MemoryBank], np.ndarray]
    splits: tuple[str, ...] = ("test", "tail")
    modality: str = "both"
    wrong_text: bool = False  # each picture under the caption of another document


@dataclass(frozen=True)
class ArmSystem:
    """`base` with the documents of an arm before the prompts of a split; others are refused."""

    base: System
    arm: Arm
    asked: Asked

    @property
    def name(self) -> str:
        """That of the system."""
        return self.base.name

    @property
    def weights_sha256(self) -> str:
        """That of the system."""
        return self.base.weights_sha256

    @cached_property
    def rows_PS(self) -> np.ndarray:
        """Rows of the bank for each prompt."""
        return self.arm.rows(self.asked, self.base.retriever.bank)

    @property
    def config(self) -> dict:
        """The system's, and which documents stand where."""
        return self.base.config | {
            "arm": self.arm.name,
            "split": self.asked.split,
            "rows_sha256": sha256_bytes(np.ascontiguousarray(self.rows_PS, np.int64).tobytes()),
        }

    def documents(self, index: int) -> list[Document]:
        """What stands before prompt `index`."""
        rows = [int(row) for row in self.rows_PS[index]]
        found = [self.base.retriever.documents.document(row) for row in rows]
        if self.arm.wrong_text:
            generator = seeds.generator(0, "wrong text", self.asked.prompts[index].id)
            others = generator.integers(0, len(self.base.retriever.bank), len(rows)).tolist()
            texts = [self.base.retriever.documents.document(row).segments[0] for row in others]
            pairs = zip(texts, found, strict=True)
            found = [Document((text, one.segments[1])) for text, one in pairs]
        return [with_modality(one, self.arm.modality) for one in found]

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Pictures uint8 [B, H, W, 3] of captions of the split."""
        places = {prompt.caption: index for index, prompt in enumerate(self.asked.prompts)}
        if strange := [caption for caption in prompts if caption not in places]:
            raise UserError(f"arm {self.arm.name} has no documents for {strange[0]!r}")
        documents = [self.documents(places[caption]) for caption in prompts]

        def draw_part(part: slice) -> np.ndarray:
            codes = self.base.draw_with(prompts[part], documents[part], seeds[part])
            return self.base.decode_codes(codes)

        return self.base.in_parts(draw_part, len(prompts))


def ask(split: str, prompts: Sequence[Prompt], clip, images: Sequence[np.ndarray]) -> Asked:
    """The prompts of a split with their vectors; one text at a time, as the system looks it up."""
    texts = np.concatenate([clip.texts([prompt.caption]) for prompt in prompts])
    return Asked(split, prompts, Query(texts, clip.images(images)))


def by_strategy(config: RetrievalConfig, first: int | None = None) -> Callable:
    """What the strategy selects, among the `first` documents of the bank alone if so asked."""

    def rows(asked: Asked, bank: MemoryBank) -> np.ndarray:
        if first is not None:
            bank = MemoryBank(bank.vectors[:first], bank.ids[:first], bank.clip_sha256, bank.source)
        return select(asked.query, bank, config)

    return rows


def far(documents: int) -> Callable:
    """The documents of ranks 51, 52, .. by text."""
    return lambda asked, bank: bank.search(asked.query.texts, DEEP + documents)[1][:, DEEP:]


def at_random(documents: int) -> Callable:
    """Any documents of the bank, other ones for every prompt."""

    def rows(asked: Asked, bank: MemoryBank) -> np.ndarray:
        draws = [seeds.generator(0, "random documents", prompt.id) for prompt in asked.prompts]
        return np.stack([one.choice(len(bank), documents, replace=False) for one in draws])

    return rows


def twice(config: RetrievalConfig) -> Callable:
    """The best document, and the one of the bank most like it."""

    def rows(asked: Asked, bank: MemoryBank) -> np.ndarray:
        best_P = select(asked.query, bank, replace(config, documents=1))[:, 0]
        near_P2 = bank.search(np.asarray(bank.vectors[best_P]), 2)[1]
        like_P = np.where(near_P2[:, 0] == best_P, near_P2[:, 1], near_P2[:, 0])
        return np.stack([best_P, like_P], 1)

    return rows


def arms(config: RetrievalConfig, sizes: Sequence[int] = (1_000, 5_000, 20_000)) -> list[Arm]:
    """All arms; the first ones differ in the number of documents alone. `default` has two."""

    def chosen(**changes) -> Callable:
        return by_strategy(replace(config, **changes))

    both = {"by": "both", "each": 1}
    tail, test = ("tail",), ("test",)
    return [
        *(Arm(f"documents-{count}", chosen(documents=count)) for count in (0, 1, 2, 3)),
        Arm("by-image", chosen(by="image")),
        Arm("by-both", chosen(**both)),
        Arm("text-only", chosen(), modality="text"),
        Arm("image-only", chosen(), modality="image"),
        Arm("threshold-0.8", chosen(threshold=0.8), tail),
        Arm("no-diversity", chosen(threshold=1.01)),
        *(Arm(f"bank-{size}", by_strategy(config, size), test) for size in sizes),
        Arm("bank-without-entities", by_strategy(config, max(sizes)), tail),
        Arm("ranks-51-52", far(config.documents)),
        Arm("random", at_random(config.documents)),
        Arm("wrong-text", chosen(), wrong_text=True),
        Arm("near-duplicates", twice(config), tail),
    ]
