"""The only maker of random generators: every draw has a seed derived from what it is for."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from cm3leon.errors import UserError


def derive(root: int, *path) -> int:
    """63-bit seed for one purpose, e.g. `derive(0, "decode", prompt_id, k)`.

    Depends on nothing but its arguments: not on order, batch, process count or machine.
    """
    text = "/".join(map(str, (root, *path))).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(root: int, *path) -> np.random.Generator:
    """Counter-based numpy generator (Philox) for `derive(root, *path)`."""
    return np.random.Generator(np.random.Philox(key=derive(root, *path)))


def torch_generator(root: int, *path):
    """CPU `torch.Generator` for `derive(root, *path)` (weights are drawn there, then moved)."""
    import torch

    return torch.Generator().manual_seed(derive(root, *path))


@contextlib.contextmanager
def torch_default(root: int, *path) -> Iterator[None]:
    """Seed torch's own CPU generator inside a `with` block, for layers that draw their first
    weights.

    The state it had before comes back at the end.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(root, *path))
        yield


def uniforms(seeds: Sequence[int], count: int) -> np.ndarray:
    """Float64 [B, count] in [0, 1): row b depends on `seeds[b]` alone.

    One uniform a token is all that sampling by the inverse CDF needs. Raises UserError for a
    negative seed.
    """
    if strange := [seed for seed in seeds if seed < 0]:
        raise UserError(f"a seed must not be negative, got {strange[0]}; derive() makes good ones")
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(count) for seed in seeds]
    return np.stack(rows) if rows else np.empty((0, count))
