"""The only maker of random generators: every draw has a seed derived from what it is for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive(root: int, *path) -> int:
    """63-bit seed for one purpose, e.g. `derive(0, "decode", prompt_id, k)`.

    Depends on nothing but its arguments: not on order, batch, process count or machine.
    """
    text = "/".join(map(str, (root, *path)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(root: int, *path) -> np.random.Generator:
    """Counter-based numpy generator (Philox) for `derive(root, *path)`."""
    return np.random.Generator(np.random.Philox(key=derive(root, *path)))


def torch_generator(root: int, *path):
    """CPU `torch.Generator` for `derive(root, *path)` (weights are drawn on the CPU, then moved)."""
    import torch

    return torch.Generator().manual_seed(derive(root, *path))


def uniforms(seeds: Sequence[int], count: int) -> np.ndarray:
    """Float64 [B, count] in [0, 1): row b depends on `seeds[b]` alone.

    One uniform a token is all that sampling by the inverse CDF needs.
    """
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(count) for seed in seeds]
    return np.stack(rows) if rows else np.empty((0, count))
