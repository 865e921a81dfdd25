"""A real headless Chromium for tests, spoken to through a pair of pipes: no socket, no driver.

    with Browser(binary, folder) as browser:
        browser.open(path)
        assert browser.value("document.title") == "..."

The commands are those of the DevTools protocol; a message ends with a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 90  # for one answer; the machine may be busy
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""  # the browser reads commands from descriptor 3 and answers on 4
FLAGS = (
    "--headless", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--disable-extensions", "--disable-sync", "--hide-scrollbars", "--no-zygote",
)  # fmt: skip


class Browser:
    """One page; `problems` collects what its console complained of, `asked` the addresses read."""

    def __init__(self, binary: str, folder: Path):
        theirs_in, self._out, self._in, theirs_out = self._pipes()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [sys.executable, "-c", HAND_OVER, str(theirs_in), str(theirs_out), binary]
        self._process = subprocess.Popen(
            [*command, *FLAGS, *root, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs_in, theirs_out):
            os.close(end)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.problems: list[str] = []
        self.asked: list[str] = []

    @staticmethod
    def _pipes() -> list[int]:
        """Ends of two pipes (read, write, read, write), clear of the descriptors 3 and 4."""
        low = [*os.pipe(), *os.pipe()]
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in low]
        for end in low:
            os.close(end)
        return ends

    def __enter__(self) -> Browser:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error) -> None:
        self._process.terminate()
        self._process.wait(timeout=PATIENCE_S)
        for end in (self._in, self._out):
            os.close(end)

    def call(self, method: str, **params) -> dict:
        """Send a command and wait for its answer; events that come meanwhile are noted."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path | str) -> None:
        """Load a file, or an address, and wait until its scripts have run."""
        self.problems.clear()
        self.asked.clear()
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self.call("Page.navigate", url=url)
        self.value("new Promise(d => document.readyState === 'complete' ? d() : onload = d)")

    def value(self, script: str):
        """What an expression of JavaScript gives, as JSON."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def window(self, width: int, height: int = 800, scheme: str = "light") -> None:
        """Size in CSS pixels as on a phone, and the colour scheme the person prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def key(self, name: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code)

    def picture(self, path: Path, whole: bool = False) -> Path:
        """A PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def _message(self) -> dict:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("the browser ended" if ready else "the browser does not answer")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
