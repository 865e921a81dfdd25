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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cm3leon.config import RetrievalConfig, to_dict
from cm3leon.data.layouts.boxes import boxes_as_text
from cm3leon.data.layouts.world import SELECT
from cm3leon.data.records import EncodedRecord, encode_record
from cm3leon.decoding.config import GREEDY, DecodeConfig
from cm3leon.decoding.image_infill import FORWARD, Hole, InfillConfig, fill_holes
from cm3leon.decoding.images import generate_images
from cm3leon.decoding.loop import Decoder, Watcher
from cm3leon.decoding.text import GREEDILY, TextDecode
from cm3leon.decoding.text_infill import MOST, Gaps, fill_gaps, find_gaps
from cm3leon.engine import rule
from cm3leon.engine.int8 import kind
from cm3leon.errors import UserError
from cm3leon.identity import joined
from cm3leon.model.transformer import Transformer
from cm3leon.retrieval.retriever import Found, Retriever
from cm3leon.retrieval.select import Query, select
from cm3leon.seeds import derive, uniforms
from cm3leon.sequence.documents import (
    Document,
    Image,
    Text,
    Vocabulary,
    build_prompt,
    build_unconditional_prompt,
)
from cm3leon.tasks import ANSWER, CHOICE, EDIT, EXPLAINED, GROUNDED, LONG, STRUCTURES
from cm3leon.tasks.ask import draw_answers, settings, write_answers
from cm3leon.tasks.task import Task, find_task
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
    # The tasks it was tuned on, and what was chosen for each: settings beside the paper's.
    tasks: Mapping[str, Mapping] = field(default_factory=dict, hash=False)
    watch: Watcher | None = field(default=None, compare=False, repr=False)  # of codes being drawn

    def __repr__(self) -> str:
        size = sum(weight.numel() for weight in self.model.parameters())
        bank = f", {self.retriever.documents}" if self.retriever else ""
        return f"<System {self.name}: {size:,} parameters{bank}, {self.decode}>"

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int] | None = None,
        condition: np.ndarray | None = None,
        kind: str | None = None,
        boxes: Sequence[Sequence[tuple[str, Sequence[float]]]] | None = None,
        changes: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """One picture a prompt, uint8 [B, H, W, 3]; b depends on what is given for it alone.

            load_system("scenes-s").draw(["a large red star on the sand"])

        Without seeds the k-th of a caption has that of picture k of `cm3leon draw`.

        A tuned model draws after a `condition` too, maps uint8 [B, H, W, 3] of a `kind` of
        `tasks.STRUCTURES` ("segmentation", "edges" ...), or with things in `boxes`: for each prompt
        (name, (x0, y0, x1, y1)), pixels of the picture, x1 and y1 outside; then `changes` are other
        settings than the task's, by the names of DecodeConfig. Raises UserError when
        lengths differ, a caption does not fit the context, the model was not tuned on the task, for
        a condition of another size or kind, and a box that is empty or leaves the picture.
        """
        if seeds is None:
            seeds = () if isinstance(prompts, str) else first_seeds(prompts)
        if condition is not None and boxes is not None:
            raise UserError("draw after a condition or with boxes, not both")
        if (condition is None) != (kind is None):
            raise UserError("a condition needs its kind, and a kind its condition: give both")
        if condition is not None and kind is not None:
            task = find_task(kind, {one.name: one for one in STRUCTURES})
            shown = self._one_each("condition", condition, prompts)
            asked = [{"condition": one, "caption": text} for one, text in shown]
            return self.draw_asked(task, asked, seeds, changes)
        if boxes is not None:
            told = self._one_each("list of boxes", boxes, prompts)
            asked = [{"caption": text} | boxes_as_text(one, self.size) for one, text in told]
            return self.draw_asked(GROUNDED, asked, seeds, changes)
        return self.draw_with_codes(prompts, seeds)[0]

    def edit(
        self,
        images: np.ndarray,
        instructions: Sequence[str],
        seeds: Sequence[int],
        changes: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """The pictures uint8 [B, H, W, 3] after their instructions, drawn under two weights.

        `changes`: other settings than the task's, by the names of DecodeConfig and
        `image_guidance`, `text_guidance` (the paper's 1.5 and 7.5 unless others were chosen).
        Raises UserError for a model never tuned to edit, a blank instruction, pictures of another
        size, counts that do not match.
        """
        shown = self._one_each("picture", images, instructions)
        asked = [{"image1": image, "instruction": text} for image, text in shown]
        return self.draw_asked(EDIT, asked, seeds, changes)

    def answer(
        self,
        images: np.ndarray,
        questions: Sequence[str],
        choices: Sequence[Sequence[str]] | None = None,
        explain: bool = False,
        most: int = MOST,
    ) -> list[str]:
        """An answer to each question about its picture of uint8 [B, H, W, 3], greedily.

        With `choices`, some words a question, its letter "(B)" is answered, as ScienceQA asks;
        `explain` has the way to it written before. Raises UserError as `edit`.
        """
        shown = list(self._one_each("picture", images, questions))
        if choices is None:
            if explain:
                raise UserError("an explained answer is one of some choices; give them")
            asked = [{"image": image, "question": text} for image, text in shown]
            return self.write_asked(ANSWER, asked, most=most)
        told = [options_of(one) for one, _ in self._one_each("choices", choices, questions)]
        asked = [
            {"image": image, "question": text, "context": SELECT, "options": options}
            for (image, text), options in zip(shown, told, strict=True)
        ]
        return self.write_asked(EXPLAINED if explain else CHOICE, asked, most=most)

    def draw_asked(
        self,
        task: Task,
        asked: Sequence[Mapping],
        seeds: Sequence[int],
        changes: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """The pictures that a task of `cm3leon.tasks` asks for, uint8 [B, H, W, 3]: one for the
        fields of each of `asked`, texts and pictures uint8 [H, W, 3].
        """
        self._check_tuned(task)
        if len(seeds) != len(asked):
            raise UserError(f"draw needs one seed a picture, got {len(seeds)} for {len(asked)}")
        decode, edit = settings(task, self.decode, {**self.tasks[task.name], **(changes or {})})
        records = self._encoded(task, asked)

        def draw_part(part: slice) -> np.ndarray:
            decoder = replace(self.decoder(), decode=decode)
            drawn = draw_answers(decoder, task, records[part], seeds[part], self.tokens, edit)
            return self.decode_codes(drawn)

        return self.in_parts(draw_part, len(records))

    def write_asked(
        self,
        task: Task,
        asked: Sequence[Mapping],
        seeds: Sequence[int] | None = None,
        changes: Mapping[str, float] | None = None,
        most: int = MOST,
    ) -> list[str]:
        """The texts that a task asks for, greedily unless `changes` say otherwise; see
        `draw_asked`.
        """
        self._check_tuned(task)
        seeds = [0] * len(asked) if seeds is None else seeds
        decode, _ = settings(task, GREEDY, {**self.tasks[task.name], **(changes or {})})
        decoder = replace(self.decoder(self.batch_size), decode=decode)
        found = write_answers(decoder, task, self._encoded(task, asked), seeds, most)
        return [self.text.decode(ids).strip() for ids in found]

    def _check_tuned(self, task: Task) -> None:
        """Raise UserError unless the model was tuned on a task."""
        if not self.tasks:
            raise UserError(
                f"{self.name} was never tuned on tasks, and cannot do {task.name}; name a model of "
                "`cm3leon tune`"
            )
        if task.name not in self.tasks:
            known = ", ".join(self.tasks)
            raise UserError(
                f"{self.name} was tuned on {known}, not on {task.name}; tune it on that"
            )

    def _one_each(self, what: str, given: Sequence | np.ndarray, texts: Sequence[str]):
        """Pairs of what is given and its text."""
        if isinstance(texts, str):
            raise UserError(f"texts must be a sequence of strings, got one: {texts[:40]!r}")
        if len(given) != len(texts):
            raise UserError(f"one {what} a text is needed, got {len(given)} for {len(texts)}")
        return zip(given, texts, strict=True)

    def _encoded(self, task: Task, asked: Sequence[Mapping]) -> list[EncodedRecord]:
        """Records whose answer is not known, encoded; equal pictures once."""
        known: dict[bytes, np.ndarray] = {}
        records = []
        for fields in asked:
            record = task.ask(**fields)
            codes = []
            for one in record.segments:
                if one.kind == "image" and one.role == "target":
                    codes.append(np.zeros(1, np.int64))  # stands for what is drawn
                elif one.image is not None:
                    key = one.image.tobytes()
                    if key not in known:
                        known[key] = self.encode(one.image[None])[0].cpu().numpy()
                    codes.append(known[key])
            records.append(encode_record(record, self.text, codes))
        return records

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

    def retrieve(self, caption: str, k: int = 2) -> list[Found]:
        """The k documents (1 to 4) that would stand before a caption, the best first: their text,
        picture and score. Raises UserError for a system without retrieval, and for another k.
        """
        if self.retriever is None:
            raise UserError(f"{self.name} was trained without retrieval; name one that knows it")
        if not 1 <= k <= 4:
            raise UserError(f"k must lie in 1..4, got {k}")
        config = replace(self.retriever.config, documents=k, modality="both")
        retriever = self.retriever.with_config(config)
        (rows_S,) = retriever.rows([caption])
        scores_S = retriever.scores(caption, rows_S)
        best = np.argsort(-scores_S, kind="stable")
        return [self._found(retriever, int(rows_S[at]), float(scores_S[at])) for at in best]

    def _found(self, retriever: Retriever, row: int, score: float) -> Found:
        """A document of the bank as text and picture."""
        segments = retriever.documents.document(row).segments
        text = next(one for one in segments if isinstance(one, Text))
        codes = next(one for one in segments if isinstance(one, Image))
        image = self.decode_codes(torch.as_tensor(np.asarray(codes.codes, np.int64)[None]))[0]
        return Found(retriever.bank.ids[row], self.text.decode(list(text.ids)), image, score)

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
        how: TextDecode = GREEDILY,
        documents: int = 0,
        most: int = MOST,
        long: bool = False,
    ) -> list[str]:
        """A caption for each picture of uint8 [B, H, W, 3]: its hidden text filled in (2.2).

        `long` has a model that was tuned on it say everything that is there, greedily. Else greedy
        by default; else as `how` says, drawn from each picture's own seed or by beam search.
        `documents`: how many of the memory bank, found by the picture, stand before it. `most`:
        tokens of a caption.
        """
        if long:
            return self.write_asked(LONG, [{"image": image} for image in images], seeds, most=most)
        hidden = [((), ())] * len(images)
        return self._write(hidden, images, seeds, how, documents, most)

    def infill_text(
        self,
        captions: Sequence[str],
        images: np.ndarray | None = None,
        seeds: Sequence[int] | None = None,
        how: TextDecode = GREEDILY,
        documents: int = 0,
        most: int = MOST,
    ) -> list[str]:
        """The captions with every `<mask>` filled in, seeing their pictures uint8 [B, H, W, 3].

        Without pictures those are hidden too. The rest as in `caption`.
        """
        if isinstance(captions, str):
            raise UserError(f"captions must be a sequence of strings, got one: {captions[:40]!r}")
        if images is not None and len(images) != len(captions):
            raise UserError(f"{len(captions)} captions need as many pictures, got {len(images)}")
        pieces = [find_gaps(caption, self.text) for caption in captions]
        return self._write(pieces, images, seeds, how, documents, most)

    def _write(self, pieces, images, seeds, how, documents, most) -> list[str]:
        """Captions of pieces, their gaps filled by `batch_size` rows at once."""
        seeds = [0] * len(pieces) if seeds is None else seeds
        before = self.documents_like(images, documents) if documents else [()] * len(pieces)
        codes = [None] * len(pieces) if images is None else self.encode(images).tolist()
        rows = [
            Gaps(gaps, None if picture is None else tuple(picture), tuple(found))
            for gaps, picture, found in zip(pieces, codes, before, strict=True)
        ]
        decoder = replace(self.decoder(self.batch_size), decode=how.decode)
        found = fill_gaps(decoder, rows, seeds, how.beam, most)
        filled = zip(rows, found, strict=True)
        return [self.text.decode(gaps.filled(spans)) for gaps, spans in filled]

    def infill_image(
        self,
        images: np.ndarray,
        hidden: np.ndarray,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        how: InfillConfig = FORWARD,
    ) -> torch.Tensor:
        """The pictures' codes int64 [B, N] with the hidden ones, bool [B, N], drawn anew.

        Under `self.decode`, or the two weights of `how`; a caption may be None. Retrieved documents
        stand before a caption as in `draw`.
        """
        found = iter(self.documents([caption for caption in captions if caption is not None]))
        rows = zip(self.encode(images).tolist(), hidden, captions, strict=True)
        holes = []
        for codes, gone, caption in rows:
            text_ids = None if caption is None else tuple(self.text.encode(caption))
            before = () if caption is None else tuple(next(found))
            holes.append(Hole(tuple(codes), tuple(np.asarray(gone).tolist()), text_ids, before))
        decoder = self.decoder(self.batch_size)
        drawn = fill_holes(decoder, holes, seeds, how.method, how.edit, how.tries)
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
        return Decoder(
            self.model, self.vocabulary, self.decode, slots, engine=self.engine, watch=self.watch
        )

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


def options_of(words: Sequence[str]) -> str:
    """`(A) circle (B) star`: choices as ScienceQA writes them; UserError unless 2 to 26 texts."""
    if isinstance(words, str) or not 2 <= len(words) <= 26 or not all(map(str.strip, words)):
        raise UserError(f"choices are 2 to 26 texts that are not blank, got {words!r}")
    return " ".join(f"({chr(ord('A') + k)}) {word.strip()}" for k, word in enumerate(words))


def first_seeds(prompts: Sequence[str], seed: int = 0) -> list[int]:
    """A seed a prompt: of the caption and of how many of it came before."""
    before: dict[str, int] = {}
    found = []
    for prompt in prompts:
        found.append(derive(seed, prompt, before.get(prompt, 0)))
        before[prompt] = before.get(prompt, 0) + 1
    return found
