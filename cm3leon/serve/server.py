"""The page's server: this machine alone, one drawing at a time, answers as lines of JSON.

It binds 127.0.0.1 and answers no other name in `Host` (a page of somebody else's that renames
itself to this machine, DNS rebinding, gets nothing), no other page's `Origin`, and JSON alone (so
that no form of another page can ask). A body, a text and every number have bounds
(`request.py`); while a picture is drawn, another request gets 429. A page that is closed ends its
drawing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cm3leon.errors import UserError, printable
from cm3leon.serve.request import REQUESTS, Models, read_request

HOST = "127.0.0.1"
MOST_BYTES = 12 << 20  # of a body: a picture of a camera, in base64
PATIENCE_S = 60  # for a body to come, and for a line to be taken
TEMPLATE = Path(__file__).with_name("page.html")
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class Refused(Exception):
    """A request that is not answered: the status, and why in one line."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Server(ThreadingHTTPServer):
    """Models behind a port of this machine; 0 is a free one. Use it in a `with`."""

    daemon_threads = True

    def __init__(self, models: Models, port: int = 0):
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST} cannot be had ({error.strerror}); name another with "
                "--port, or 0 for a free one"
            ) from None
        self.models, self.drawing = models, threading.Lock()
        self.page = page(models)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def names(self) -> set[str]:
        """What `Host` may say."""
        ports = [f":{self.server_port}"] + [""] * (self.server_port == 80)
        return {f"{host}{port}" for host in (HOST, "localhost") for port in ports}


def page(models: Models) -> str:
    """The page, with what it must know of the models."""
    about = json.dumps(models.about).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{{about}}", about)


def policy(text: str) -> str:
    """What a browser lets the page do: run its own script, ask this server, show its pictures."""
    (script,) = SCRIPT.findall(text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection ends with its answer."""

    server: Server
    server_version, sys_version = "cm3leon", ""
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        self._guarded(self._show)

    def do_POST(self) -> None:
        self._guarded(self._answer)

    def _guarded(self, work) -> None:
        """Do it; a refusal is its status and one line, a page that went away is nothing."""
        try:
            self._check_origin()
            work()
        except Refused as refused:
            self._head(refused.status, "application/json")
            self._line({"error": str(refused)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _check_origin(self) -> None:
        """Refuse every page but our own."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host not in self.server.names:
            raise Refused(403, f"this server answers at {self.server.url} alone")
        if origin is not None and origin != f"http://{host}":
            raise Refused(403, "another page may not ask this server")

    def _show(self) -> None:
        if self.path != "/":
            raise Refused(404, "there is one page, /")
        self._head(200, "text/html; charset=utf-8", {
            "Content-Security-Policy": policy(self.server.page),
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
        })  # fmt: skip
        self.wfile.write(self.server.page.encode())

    def _answer(self) -> None:
        """Events of a request, one a line; a mistake of the person is the last of them."""
        asked = self._asked()
        if not self.server.drawing.acquire(blocking=False):
            raise Refused(429, "a picture is being drawn; ask again when it is done")
        try:
            self._head(200, "application/x-ndjson")
            asked.answer(self.server.models, self._line)
        except UserError as error:
            self._line({"error": printable(error)})
        except (ConnectionError, TimeoutError):
            raise
        except Exception:  # the page stays alive, whatever went wrong
            traceback.print_exc(file=sys.stderr)
            self._line({"error": "this went wrong here; the terminal of cm3leon serve says more"})
        finally:
            self.server.drawing.release()

    def _asked(self):
        """The request in the body."""
        if self.path not in REQUESTS:
            raise Refused(404, f"there is no {self.path[:40]!r}")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "a request is JSON")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refused(411, "a request says its length")
        if int(length) > MOST_BYTES:
            raise Refused(413, f"a request has at most {MOST_BYTES >> 20} MiB")
        try:
            return read_request(REQUESTS[self.path], json.loads(self.rfile.read(int(length))))
        except UserError as error:
            raise Refused(400, printable(error)) from None
        except (ValueError, RecursionError):
            raise Refused(400, "this is no JSON") from None

    def _head(self, status: int, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "X-Content-Type-Options": "nosniff"}
        headers |= {"Cache-Control": "no-store"} | (more or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _line(self, event: dict) -> None:
        self.wfile.write(json.dumps(event).encode() + b"\n")
        self.wfile.flush()

    def log_message(self, *_) -> None:
        """Nothing: the page says it."""
