"""Prompt -> image, from one end to the other: the page to read first.

    "a large red star on the sand"
      -> retriever.py  documents                captions and pictures that CLIP finds near it
      -> text.py       text ids                 [9, 41, 7, ...]
      -> sequence.py   prompt                   <eos> documents <break> text <break>
      -> generate.py   image codes [B, N]       one per token, drawn under guidance (decode.py)
      -> vq.py         pictures [B, H, W, 3]    uint8

Shapes: B samples, N image tokens of a picture, H = W pixels of a side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cm3leon.config import RetrievalConfig, to_dict
from cm3leon.decoding.config import DecodeConfig, EditGuidance
from cm3leon.decoding.image_infill import Hole, fill_holes
from cm3leon.decoding.images import generate_images
from cm3leon.decoding.loop import Decoder
from cm3leon.decoding.text import BeamConfig
from cm3leon.decoding.text_infill import GREEDY, MOST, Gaps, fill_gaps, find_gaps
from cm3leon.engine import rule
from cm3leon.engine.int8 import kind
from cm3leon.errors import UserError
from cm3leon.identity import joined
from cm3leon.model.transformer import Transformer
from cm3leon.retrieval.retriever import Retriever
from cm3leon.retrieval.select import Query, select
from cm3leon.seeds import uniforms
from cm3leon.sequence.documents import (
    Document,
    Vocabulary,
    build_prompt,
    build_unconditional_prompt,
)
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.workers import portions, side_by_side


@dataclass(frozen=True)
class System:
    """A trained CM3Leon: everything between a caption and its picture.

    `weights_sha256` names text tokenizer, transformer and image tokenizer together; the retriever,
    if any, is named in `config`. `batch_size` and the device change speed, not pictures (float32 on
    a CPU; other devices differ by rounding).
    """

    name: str
    weights_sha256: str
    text: TextTokenizer
    model: Transformer
    vq: VQ
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    retriever: Retriever | None = None  # without one every prompt stands alone
    batch_size: int = 64
    engine: str = "auto"  # what takes the steps (engine/rule.py)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """One picture a prompt, uint8 [B, H, W, 3]; b depends on prompts[b] and seeds[b] alone.

        Raises UserError when the two lengths differ or a caption does not fit the context.
        """
        return self.draw_with_codes(prompts, seeds)[0]

    def draw_with_codes(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `draw` gives, and the image codes int64 [B, N] that were drawn."""
        if isinstance(prompts, str):
            raise UserError(f"prompts must be a sequence of strings, got one: {prompts[:40]!r}")
        if len(prompts) != len(seeds):
            raise UserError(f"draw needs one seed a prompt, got {len(prompts)} and {len(seeds)}")
        codes_BN = np.zeros((len(prompts), self.tokens), np.int64)

        def draw_part(part: slice) -> np.ndarray:
            drawn = self.draw_codes(prompts[part], seeds[part])
            codes_BN[part] = drawn.cpu().numpy()
            return self.decode_codes(drawn)

        return self.in_parts(draw_part, len(prompts)), codes_BN

    def in_parts(self, draw_part: Callable[[slice], np.ndarray], count: int) -> np.ndarray:
        """Pictures of `count` samples, uint8 [B, H, W, 3], drawn slice by slice; on a CPU the
        slices are drawn side by side.
        """
        workers = torch.get_num_threads() if self.vq.device.type == "cpu" else 1
        parts = portions(count, self.batch_size, workers)
        none = np.zeros((0, self.size, self.size, 3), np.uint8)
        return np.concatenate([none, *side_by_side(draw_part, parts, workers)])

    def draw_codes(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Image codes int64 [B, N] of one batch of prompts (section 2.3: decoding)."""
        return self.draw_with(prompts, self.documents(prompts), seeds)

    def documents(self, prompts: Sequence[str]) -> list[list[Document]]:
        """What is retrieved for each prompt (section 2.1), in the order of the context."""
        if self.retriever is None:
            return [[] for _ in prompts]
        return self.retriever.find(prompts)

    def draw_with(
        self,
        prompts: Sequence[str],
        documents: Sequence[Sequence[Document]],
        seeds: Sequence[int],
    ) -> torch.Tensor:
        """Image codes int64 [B, N] with these documents before each prompt."""
        pairs = list(zip(prompts, documents, strict=True))
        conditional = [self.prompt(caption, before) for caption, before in pairs]
        unconditional = None
        if self.decode.streams == 2:  # else the conditional stream stands alone (Eq. 2)
            asked = self.vocabulary, self.decode.unconditional
            unconditional = [build_unconditional_prompt(before, *asked) for before in documents]
        noise = uniforms(seeds, self.tokens)  # one uniform a token, from the sample's own seed
        return generate_images(self.decoder(), conditional, unconditional, noise)

    def prompt(self, caption: str, documents: Sequence) -> np.ndarray:
        """Ids int64 [T]: `<eos> documents <break> caption <break>`, with room left for N codes."""
        ids = build_prompt(self.text.encode(caption), documents, self.vocabulary)
        room = self.model.config.context - self.tokens
        if len(ids) > room:
            raise UserError(
                f"caption {caption[:40]!r}... makes a prompt of {len(ids)} tokens with "
                f"{len(documents)} documents, {self.name} takes at most {room}; shorten it or "
                "retrieve fewer"
            )
        return ids

    def caption(
        self,
        images: np.ndarray,
        seeds: Sequence[int] | None = None,
        decode: DecodeConfig = GREEDY,
        beam: BeamConfig | None = None,
        documents: int = 0,
        most: int = MOST,
        refill: bool = True,
    ) -> list[str]:
        """A caption for each picture of uint8 [B, H, W, 3]: its hidden text filled in (2.2).

        Greedy by default; else drawn by `decode` from each picture's own seed, or by beam search.
        `documents`: how many of the memory bank, found by the picture, stand before it. `refill`: a
        caption that ends makes room for the next of more than `batch_size` rows; else they are
        written batch by batch. The captions are the same.
        """
        hidden = [((), ())] * len(images)
        return self._write(hidden, images, seeds, decode, beam, documents, most, refill)

    def infill_text(
        self,
        captions: Sequence[str],
        images: np.ndarray | None = None,
        seeds: Sequence[int] | None = None,
        decode: DecodeConfig = GREEDY,
        beam: BeamConfig | None = None,
        documents: int = 0,
        most: int = MOST,
        refill: bool = True,
    ) -> list[str]:
        """The captions with every `<mask>` filled in, seeing their pictures uint8 [B, H, W, 3].

        Without pictures those are hidden too. The rest as in `caption`.
        """
        if isinstance(captions, str):
            raise UserError(f"captions must be a sequence of strings, got one: {captions[:40]!r}")
        if images is not None and len(images) != len(captions):
            raise UserError(f"{len(captions)} captions need as many pictures, got {len(images)}")
        pieces = [find_gaps(caption, self.text) for caption in captions]
        return self._write(pieces, images, seeds, decode, beam, documents, most, refill)

    def _write(self, pieces, images, seeds, decode, beam, documents, most, refill) -> list[str]:
        """Captions of pieces, their gaps filled by `batch_size` rows at once."""
        seeds = [0] * len(pieces) if seeds is None else seeds
        before = self.documents_like(images, documents) if documents else [()] * len(pieces)
        codes = [None] * len(pieces) if images is None else self.encode(images).tolist()
        rows = [
            Gaps(gaps, None if picture is None else tuple(picture), tuple(found))
            for gaps, picture, found in zip(pieces, codes, before, strict=True)
        ]
        size = max(1, self.batch_size // (beam.width if beam else 1))
        decoder = replace(self.decoder(self.batch_size), decode=decode)
        texts: list[str] = []
        for at in slices(len(rows), size, refill):
            part = rows[at]
            found = fill_gaps(decoder, part, seeds[at], beam, most)
            filled = zip(part, found, strict=True)
            texts += [self.text.decode(gaps.filled(spans)) for gaps, spans in filled]
        return texts

    def infill_image(
        self,
        images: np.ndarray,
        hidden: np.ndarray,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        method: str = "forward",
        edit: EditGuidance | None = None,
        tries: int = 1,
        refill: bool = True,
    ) -> torch.Tensor:
        """The pictures' codes int64 [B, N] with the hidden ones, bool [B, N], drawn anew.

        Under `self.decode`, or two weights of `edit`; a caption may be None. Retrieved documents
        stand before a caption as in `draw`. Methods, tries: `image_infill.fill_holes`; `refill` as
        in `caption`.
        """
        found = iter(self.documents([caption for caption in captions if caption is not None]))
        rows = zip(self.encode(images).tolist(), hidden, captions, strict=True)
        holes = []
        for codes, gone, caption in rows:
            text_ids = None if caption is None else tuple(self.text.encode(caption))
            before = () if caption is None else tuple(next(found))
            holes.append(Hole(tuple(codes), tuple(np.asarray(gone).tolist()), text_ids, before))
        options = (method, edit, tries)
        drawn = []
        for at in slices(len(holes), max(1, self.batch_size // max(1, tries)), refill):
            drawn += fill_holes(self.decoder(self.batch_size), holes[at], seeds[at], *options)
        return torch.as_tensor(np.array(drawn, np.int64).reshape(-1, self.tokens))

    def documents_like(self, images: np.ndarray, count: int) -> list[list[Document]]:
        """`count` documents for each picture, found by the picture itself (section 2.1)."""
        if self.retriever is None:
            raise UserError(f"{self.name} was trained without retrieval; ask for no documents")
        if images is None:
            raise UserError("documents are found by the picture; give one, or ask for none")
        config = replace(self.retriever.config, documents=count, by="image")
        clip = self.retriever.clip  # one picture at a time: its rounding hangs on the batch
        vectors_BD = np.concatenate([clip.images([image]) for image in images])
        rows_BS = select(Query(images=vectors_BD), self.retriever.bank, config)
        return [self.retriever.take(rows_S) for rows_S in rows_BS]

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """Codes int64 [B, N] of pictures uint8 [B, H, W, 3], one at a time like `decode_codes`."""
        if len(images) == 0:
            return torch.zeros((0, self.tokens), dtype=torch.int64)
        if tuple(images.shape[1:]) != (self.size, self.size, 3):
            raise UserError(
                f"pictures must be uint8 [B, {self.size}, {self.size}, 3], got "
                f"{images.dtype} {list(images.shape)}; crop and resize them (pictures.crop_square)"
            )
        return torch.cat([self.vq.encode(images[at : at + 1]) for at in range(len(images))])

    def decode_codes(self, codes_BN: torch.Tensor) -> np.ndarray:
        """Pictures uint8 [B, H, W, 3], one at a time: so none depends on the rest of its batch."""
        return np.concatenate([self.vq.decode(codes_1N) for codes_1N in codes_BN.split(1)])

    def with_decode(self, decode: DecodeConfig) -> System:
        """The same weights under other decoding settings."""
        return replace(self, decode=decode)

    def with_engine(self, name: str) -> System:
        """The same, its steps taken by "c", "graph" or "torch", or as the rule says, "auto".

        Raises UserError for an engine that cannot take this model's steps.
        """
        rule.find(self.model, name)
        return replace(self, engine=name)

    @property
    def steps_by(self) -> str:
        """The engine that takes the steps: "c", "graph", "torch"."""
        return rule.find(self.model, self.engine)

    def with_retrieval(self, config: RetrievalConfig) -> System:
        """The same weights and bank under another strategy; UserError where there is no bank."""
        if self.retriever is None:
            if not config.documents:
                return self
            raise UserError(f"{self.name} was trained without retrieval; draw without documents")
        return replace(self, retriever=self.retriever.with_config(config))

    def decoder(self, slots: int | None = None) -> Decoder:
        """The model and how it is drawn from, `slots` samples at once (None: all)."""
        return Decoder(self.model, self.vocabulary, self.decode, slots, engine=self.engine)

    @property
    def config(self) -> dict:
        """Everything but the weights that moves the drawing, as plain JSON values."""
        return {
            "model": self.model.config.name,
            "shape_sha256": joined(  # the same weights compute otherwise under another shape
                json.dumps(to_dict(one.config), sort_keys=True) for one in (self.model, self.vq)
            ),
            "decode": to_dict(self.decode),
            "documents": self.retriever.config.documents if self.retriever else 0,
            "retrieval": self.retriever.about if self.retriever else None,
            "size": self.size,
            "dtype": kind(self.model),
        } | ({} if self.engine == "auto" else {"engine": self.engine})

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda:0"."""
        return str(self.vq.device)

    @property
    def vocabulary(self) -> Vocabulary:
        """The id space the transformer was trained in."""
        return Vocabulary.from_config(self.model.config.vocabulary)

    @property
    def tokens(self) -> int:
        """N, image tokens of a picture."""
        return self.vq.config.grid**2

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.vq.config.resolution


def slices(count: int, size: int, refill: bool) -> list[slice]:
    """range(count) in batches of at most `size`; with refill as one, whose rows come and go."""
    size = max(1, count) if refill else size
    return [slice(start, start + size) for start in range(0, count, size)]
