"""Text <-> ids: byte-level byte-pair encoding, newly trained on the captions (section 2.1).

Every text is encoded with one space put before it, which decoding takes away again: a word has the
same tokens at the start of a caption and inside it, and any text comes back unchanged. There are no
special tokens, the id space of `sequence.Vocabulary` owns them; nothing is lower-cased.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.files import read_file, sha256_bytes, write_atomic

BYTES = 256  # the alphabet; no tokenizer can be smaller


class TextTokenizer:
    """Byte-level BPE of the Hugging Face `tokenizers` library, kept as the bytes of its JSON file.

    Made by `TextTokenizer.load` or `TextTokenizer.train`. `size` is the number of ids, `digest` the
    SHA-256 of the file. Raises UserError when the bytes are not such a tokenizer.
    """

    def __init__(self, payload: bytes, source: str = "tokenizer"):
        from tokenizers import Tokenizer

        try:
            self._bpe = Tokenizer.from_str(payload.decode())
        except Exception as error:  # the library raises bare Exception for any fault in the JSON
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{source} is torn or no tokenizer: {reason}; train it again") from None
        _check(json.loads(payload), source)
        self._payload = payload
        self.size = self._bpe.get_vocab_size()
        self.digest = sha256_bytes(payload)

    @classmethod
    def train(cls, captions: Iterable[str], size: int) -> TextTokenizer:
        """Train on captions: 256 bytes, then the most frequent merges until there are `size` ids.

        The same captions give the same bytes, in whatever order they come. With few captions merges
        run out and the result is smaller than `size`: a pair seen once is never merged.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        _refuse_string(captions, "captions")
        if size < BYTES:
            raise UserError(f"text size must be at least {BYTES} (one id a byte), got {size}")
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[],
            show_progress=False,
        )
        bpe.train_from_iterator((_spaced(caption) for caption in captions), trainer)
        return cls(bpe.to_str().encode())

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Read a tokenizer.json, or the folder that holds one; UserError when missing or torn."""
        file = _file(path)
        try:
            payload = read_file(file)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot read tokenizer {file}: {reason}; train one or name another path"
            ) from None
        check_beside(file, payload)
        return cls(payload, str(file))

    def save(self, path: str | Path) -> Path:
        """Write the JSON file (a path ending in .json, or a folder) atomically, and its digest
        beside it; give its path.
        """
        file = write_atomic(_file(path), self._payload)
        write_atomic(beside(file), f"{self.digest}  {file.name}\n")
        return file

    def encode(self, text: str) -> list[int]:
        """Ids of one text; the empty text has none. UserError for a lone surrogate (no UTF-8)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts at once; equal to encoding each."""
        _refuse_string(texts, "texts")
        spaced = [_spaced(text) for text in texts]
        encodings = self._bpe.encode_batch_fast(spaced, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. UserError for an unknown id."""
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < self.size:
                raise UserError(f"text id must lie in [0, {self.size}), got {index}")
        return self._bpe.decode(ids).removeprefix(" ")


def _spaced(text: str) -> str:
    """The text with its leading space, ready for the library; the empty text stays empty."""
    if not isinstance(text, str):
        raise UserError(f"caption must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"caption must be Unicode, got a lone surrogate at character {error.start}: {text!r}"
        ) from None
    return f" {text}" if text else ""


def beside(file: Path) -> Path:
    """Where the digest of a tokenizer's file lies, as `sha256sum` writes it."""
    return file.with_name(f"{file.name}.sha256")


def check_beside(file: Path, payload: bytes) -> None:
    """Raise UserError unless a tokenizer is what the digest beside it names, where there is one."""
    path = beside(file)
    if not path.is_file():
        return
    named = read_file(path).split()
    if not named or named[0] != sha256_bytes(payload).encode():
        raise UserError(
            f"{file} is not what {path.name} names; copy both again (or remove {path.name}, if it "
            "was changed on purpose)"
        )


def _file(path: str | Path) -> Path:
    """The JSON file meant by a path: itself, or tokenizer.json in the folder."""
    path = Path(path)
    return path if path.suffix == ".json" else path / "tokenizer.json"


def _refuse_string(texts: Iterable[str], name: str) -> None:
    """A string is a sequence of strings too, but it is never meant as a list of characters."""
    if isinstance(texts, str):
        raise UserError(f"{name} must be a sequence of strings, got one string: {texts[:40]!r}")


def _check(content: dict, source: str) -> None:
    """Refuse what is not a byte-level BPE of ours: other models, special tokens, missing bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    model, *around = [content.get(key) or {} for key in ("model", "pre_tokenizer", "decoder")]
    kinds = [part.get("type") for part in (model, *around)]
    if kinds != ["BPE", "ByteLevel", "ByteLevel"] or content.get("normalizer"):
        raise UserError(f"{source} must be a plain byte-level BPE, got {kinds}; train one")
    if content.get("added_tokens"):
        raise UserError(f"{source} has special tokens, which the vocabulary owns; train it without")
    vocabulary = model["vocab"]
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise UserError(f"{source} must have ids 0..{len(vocabulary) - 1}, each once; train again")
    if missing := sorted(set(ByteLevel.alphabet()) - set(vocabulary)):
        raise UserError(f"{source} lacks {len(missing)} of 256 bytes ({missing[0]!r}); train again")
