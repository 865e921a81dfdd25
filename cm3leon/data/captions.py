"""The captions of a source without its pictures: what a text tokenizer is trained on."""

from __future__ import annotations

from collections.abc import Iterator

from cm3leon.data.sources import Source
from cm3leon.errors import UserError


def read_captions(source: Source, skipped: list[tuple[str, str]] | None = None) -> Iterator[str]:
    """Every caption of a source in its order; no picture is decoded.

    Those of pictures that cannot be read are among them. What `cm3leon encode` names as skipped for
    its captions is left out here too, and (id, reason) put into `skipped`: what is no UTF-8, what
    follows the tear of a torn tar.
    """
    for shard in range(source.shards):
        for part in source.parts(shard):
            try:
                yield from part.texts()
            except UserError as error:
                if skipped is not None:
                    skipped.append((part.id, str(error)))
