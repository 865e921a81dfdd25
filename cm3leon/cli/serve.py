"""The command that serves the page to draw with."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import Annotated

from cm3leon.files import SHIPPED, TUNED
from cm3leon.options import Range
from cm3leon.progress import alive


@dataclass(frozen=True)
class Serve:
    """Serve a page to draw on, to this machine alone: `cm3leon serve`, then open what it prints.

    Type a caption and see the documents retrieved, the picture and its tokens as they are drawn;
    caption the picture, draw a box of it anew, edit it, ask about it. One thing at a time. Ctrl-C
    ends it.
    """

    system: str | None = None
    """a shipped model, or the folder of one; left out: scenes-s, and scenes-s-tuned for edits and
    answers"""
    port: Annotated[int, Range(0, 65_535)] = 8765
    """of 127.0.0.1; 0: a free one"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""

    def run(self) -> int:
        """Load, serve until interrupted."""
        from cm3leon.serve.server import Server

        with Server(self._models(), self.port) as server, alive(""):
            print(f"open {server.url} in a browser; Ctrl-C ends it", flush=True)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("ended")
        return 0

    def _models(self):
        """The model that draws, and the one that was tuned on tasks."""
        from cm3leon.loading import load_system, model_names
        from cm3leon.serve.request import Models

        draws = load_system(self.system or SHIPPED, device=self.device)
        if draws.tasks:
            return Models(draws, draws)
        if self.system is None and TUNED in model_names():
            return Models(draws, load_system(TUNED, device=self.device, documents=0))
        return Models(draws)
