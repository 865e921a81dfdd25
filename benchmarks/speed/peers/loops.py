"""The loops of others that are timed in turn with ours: name -> peer.

The name ends the names of a peer's numbers in the record: `decode_ms_hf`, `gain_over_hf`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.peers import hf as opt_peer
from benchmarks.speed.peers import llamagen as llamagen_peer


@dataclass(frozen=True)
class Peer:
    """Another's network of a subject's shape, and how it draws."""

    make: Callable  # (subject, dtype, device) -> network
    drawing: Callable  # (network, batch, guidance, top_p) -> draw(tokens), int64 [batch, tokens]
    sha256: str | None = None  # of its code, where no package's version tells it


def find_peers(hf: bool, llamagen: Path | None) -> dict[str, Peer]:
    """Those that are asked for; UserError where transformers or a file of LlamaGen's is missing."""
    peers = {}
    if hf:
        opt_peer.check_installed()
        peers[opt_peer.NAME] = Peer(opt_peer.make_opt, opt_peer.opt_drawing)
    if llamagen is not None:
        code = llamagen_peer.read_checkout(llamagen)
        peers[llamagen_peer.NAME] = Peer(code.make, code.drawing, code.sha256)
    return peers
