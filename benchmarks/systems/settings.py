"""A system under other settings of drawing and retrieval, and the ways one benchmark draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.reports import own_documents

DOCUMENTS = (0, 1, 2)  # before each caption, of a system that retrieves
PLAIN = {  # the setting that every system has: what it learned, drawn as it is
    "strategy": "guide", "guidance": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": None,
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way to draw a system: its name in a record, and the system drawn so."""

    name: str  # documents0, documents1, .., plain
    system: object


def arms(system, documents: Sequence[int] = DOCUMENTS) -> list[Arm]:
    """`documentsK` for each number asked for and the system's own, then `plain`: the latter under
    guidance 1, temperature 1 and all tokens.

    A system without a retriever of ours has one, of the number that its config tells, else 0; and
    `plain` where it has settings.
    """
    own = current(system, "retrieval")
    found = [Arm(main_arm(system), system)]
    if own is not None:
        found = [
            Arm(f"documents{count}", system.with_retrieval(replace(own, documents=count)))
            for count in sorted({*documents, own.documents})
        ]
    decode = current(system, "decode")
    if decode is not None:
        found.append(Arm("plain", system.with_decode(replace(decode, **PLAIN))))
    return found


def main_arm(system) -> str:
    """The arm of the headline: the system's own number of documents."""
    return f"documents{own_documents(core.plain(system.config, 'system.config'))}"


def current(system, kind: str):
    """A system's own settings of decoding or retrieval; None where it has none."""
    if kind == "decode":
        return getattr(system, "decode", None)
    return getattr(getattr(system, "retriever", None), "config", None)


def tuned(system, decode: Mapping, documents: int | None = None):
    """The system under these settings, its name saying which differ from its own.

    Raises UserError for a setting of what the system does not have.
    """
    name = system.name
    retrieval = {} if documents is None else {"documents": documents}
    for kind, given in (("decode", decode), ("retrieval", retrieval)):
        if not given:
            continue
        own = current(system, kind)
        if own is None:
            option = next(iter(given)).replace("_", "-")
            raise UserError(f"--{option} does not apply to system {system.name}; leave it out")
        other = {key: value for key, value in given.items() if value != getattr(own, key)}
        name = "+".join([name, *(f"{key}{_short(value)}" for key, value in other.items())])
        system = getattr(system, f"with_{kind}")(replace(own, **given))
    return replace(system, name=name) if name != system.name else system


def by_engine(system, name: str):
    """The system, its steps taken by the engine named; UserError where it has none of ours."""
    if name == "auto":
        return system
    if not hasattr(system, "with_engine"):
        raise UserError(f"--engine does not apply to system {system.name}; leave it out")
    return system.with_engine(name)


def best_of(system, samples: int, clip: str):
    """The system, or, with several samples, what keeps the best of them by the CLIP named."""
    if samples == 1:
        return system
    from cm3leon.clip import load_clip
    from cm3leon.decoding.rerank import Reranked

    if current(system, "decode") is None:
        raise UserError(f"--samples does not apply to system {system.name}; leave it out")
    return Reranked(system, load_clip(clip), samples)


def _short(value) -> str:
    """A setting inside a system's name."""
    return f"{value:g}" if isinstance(value, (int, float)) else f"-{value}"
