"""Documents loaded and cropped, by this process or by others beside it.

What a process hands over is small: the square for the image tokenizer, and what CLIP looks at. No
more than a few parts a process are on their way, so memory does not grow with a shard. Processes
end with the one that started them, however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import NamedTuple

import numpy as np

from cm3leon.data.sources import Item, Part, Skipped
from cm3leon.errors import UserError
from cm3leon.images import crop_square

AT_ONCE = 8  # parts handed to a process in one piece


class Ready(NamedTuple):
    """A document to encode: uint8 `square` [S,S,3] and `picture` for CLIP."""

    id: str
    captions: tuple[str, ...]
    square: np.ndarray
    picture: np.ndarray | None


class Form(NamedTuple):
    """What is wanted of a document's picture: the square of so many pixels, and what `crop` makes
    for CLIP.

    `crop` goes to other processes, so it is a function of a module or a `partial` of one. None: no
    CLIP looks at it.
    """

    size: int
    crop: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, item: Item) -> Ready:
        """A document in this form."""
        picture = None if self.crop is None else self.crop(item.image)
        return Ready(item.id, item.captions, crop_square(item.image, self.size), picture)


def whole(image_HW3: np.ndarray) -> np.ndarray:
    """A picture as it is, for a CLIP that says nothing of its crop."""
    return image_HW3


def load(part: Part, form: Callable) -> tuple:
    """(digest, what `form` makes of the loaded part, or Skipped)."""
    digest, item = part.load()
    return digest, item if isinstance(item, Skipped) else form(item)


class Readers:
    """`workers` processes that load parts; 0: this one does. To be used in a `with` block."""

    def __init__(self, workers: int = 0):
        self.workers, self._pool = workers, None

    def __enter__(self) -> Readers:
        if self.workers:
            # spawned, not forked: a fork would copy the locks of torch's threads as they are
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, spawn, initializer=_follow_parent)
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def load(self, parts: Iterable[Part], form: Callable) -> Iterator[tuple]:
        """As the function `load`, of each part, in order; `form` goes to the processes.

        Raises UserError when a process died.
        """
        if self._pool is None:
            yield from (load(part, form) for part in parts)
            return
        waiting, parts = deque(), iter(parts)
        try:
            while True:
                while len(waiting) < 2 * self.workers and (some := list(islice(parts, AT_ONCE))):
                    with _no_interrupts():  # the first one starts the processes
                        waiting.append((some[0].id, self._pool.submit(_load_all, some, form)))
                if not waiting:
                    return
                first, result = waiting.popleft()
                yield from result.result()
        except BrokenProcessPool:
            raise UserError(
                f"a process that reads pictures died, at {first} or soon after it (out of memory, "
                "or killed); start again with fewer --workers: what is done is kept"
            ) from None


def _load_all(parts: list[Part], form: Callable) -> list:
    return [load(part, form) for part in parts]


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """A block whose new processes never see Ctrl-C, from their first instant on: it is for the one
    that started them, which sees it when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """End when the parent does, even when it is killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
