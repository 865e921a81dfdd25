"""The captions of a source without its pictures: what a text tokenizer is trained on."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.sources import Coco, Files, Source, Tars, caption_of, key_and_kind


def read_captions(source: Source) -> Iterator[str]:
    """Every caption of a source in its order; no picture is decoded.

    Those of pictures that cannot be read are among them; a caption that is no UTF-8 is left out, as
    `cm3leon encode` leaves out its picture, and so is what follows the tear of a torn tar.
    """
    if isinstance(source, Tars):
        for path in source.paths:
            yield from _of_tar(path)
    elif isinstance(source, Coco):
        for entry in source.entries:
            yield from (caption.text for caption in entry.captions)
    elif isinstance(source, Files):
        for name in source.names:
            path = (source.folder / name).with_suffix(".txt")
            if path.is_file():
                yield from _text(path.read_bytes(), name)
    else:
        for shard in range(source.shards):
            for item in source.read(shard):
                yield from item.captions


def _of_tar(path: Path) -> Iterator[str]:
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if member.isfile() and key_and_kind(member.name)[1] == "txt":
                    yield from _text(tar.extractfile(member).read(), member.name)
    except (tarfile.TarError, EOFError, OSError):
        return  # `cm3leon encode` names the torn tar


def _text(data: bytes, name: str) -> Iterator[str]:
    try:
        yield caption_of(data, name)
    except UserError:
        return
