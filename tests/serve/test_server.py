"""The page's server over real HTTP on a pair of sockets: what it draws, and whom it refuses."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shlex
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cm3leon.cli.main import main, parse
from cm3leon.cli.serve import Serve
from cm3leon.errors import UserError
from cm3leon.images import decode_picture, png_bytes, read_picture
from cm3leon.loading import load_system
from cm3leon.pipeline import System
from cm3leon.retrieval.retriever import Found
from cm3leon.serve import server as serving
from cm3leon.serve.request import PNG, Models
from cm3leon.serve.server import Server, policy
from tests.world_model import write_world_model

TASKS = {"edit": {"rows": 1}, "answer": {"rows": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_world_model(tmp_path_factory.mktemp("served"), tasks=TASKS)


@pytest.fixture(scope="module")
def server(folder):
    system = load_system(folder)
    with Server(Models(system, system)) as one:
        yield one


@pytest.fixture
def ask(server):
    """Send a request; (status, headers, events of the answer)."""

    def call(path, body=None, method="POST", **headers):
        ours, theirs = socket.socketpair()
        server.process_request(theirs, ("127.0.0.1", 0))
        line = http.client.HTTPConnection("127.0.0.1", server.server_port)
        line.sock = ours
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | headers
        named = {k.replace("_", "-"): v for k, v in headers.items() if v}
        with contextlib.suppress(BrokenPipeError):  # answered before all was sent
            line.request(method, path, data, named)
        answer = line.getresponse()
        text = answer.read().decode()
        line.close()
        if answer.getheader("Content-Type").startswith("text/html"):
            return answer.status, answer, text
        return answer.status, answer, [json.loads(one) for one in text.splitlines()]

    return call


def pixels(uri: str) -> np.ndarray:
    assert uri.startswith(PNG)
    return decode_picture(base64.b64decode(uri.removeprefix(PNG)), "answer")


def uri(image) -> str:
    return PNG + base64.b64encode(png_bytes(image)).decode()


def test_rows_as_they_are_drawn_and_the_picture_of_the_command(server, ask, folder, tmp_path):
    status, _, events = ask("/draw", {"caption": "a red star", "seed": 3, "temperature": 0.5})
    *rows, last = events
    system = server.models.draws
    grid = system.vq.config.grid
    assert status == 200 and [one["row"] for one in rows] == list(range(grid))
    codes = [code for one in rows for code in one["codes"]]
    assert len(codes) == system.tokens
    image = pixels(last["picture"])
    assert np.array_equal(image, system.decode_codes(torch.tensor([codes]))[0])
    words = shlex.split(last["command"])
    assert words[:3] == ["cm3leon", "draw", "a red star"]
    words[words.index("--system") + 1] = str(folder)
    assert main([*words[1:], "--out", str(tmp_path / "same.png")]) == 0
    assert np.array_equal(image, read_picture(tmp_path / "same.png"))
    shown = [pixels(one["picture"]) for one in rows[:-1]]  # the whole picture comes at the end
    assert len({one.tobytes() for one in shown}) == grid - 1
    so_far = codes[:-grid] + codes[-2 * grid : -grid]  # the last row again
    assert np.array_equal(shown[-1], system.decode_codes(torch.tensor([so_far]))[0])


def test_documents_come_first_with_their_scores(server, ask, monkeypatch):
    """Of a model with a bank; the tiny one has none, so the retriever's answer is made up."""
    image = np.zeros((64, 64, 3), np.uint8)
    config = SimpleNamespace(documents=2)
    monkeypatch.setattr(System, "retrieve", lambda self, caption, k: [
        Found(f"{k}", f"{caption} {at}", image, 1 - at / 10) for at in range(k)
    ])  # fmt: skip
    monkeypatch.setattr(System, "documents", lambda self, prompts: [[] for _ in prompts])
    system = server.models.draws
    object.__setattr__(system, "retriever", SimpleNamespace(config=config))
    try:
        _, _, events = ask("/draw", {"caption": "a red star"})
    finally:
        object.__setattr__(system, "retriever", None)
    found = events[0]["documents"]
    assert [one["text"] for one in found] == ["a red star 0", "a red star 1"]
    assert [one["score"] for one in found] == [1, 0.9]
    assert np.array_equal(pixels(found[0]["picture"]), image)


def test_captions_edits_answers_and_boxes(server, ask):
    system = server.models.draws
    image = system.draw(["a red star"], [1])[0]
    given = {"picture": uri(image)}
    _, _, (said,) = ask("/caption", given)
    assert said["text"] == system.caption(image[None])[0]
    _, _, (said,) = ask("/answer", given | {"question": "how many?"})
    assert said["text"] == system.answer(image[None], ["how many?"])[0]
    _, _, events = ask("/edit", given | {"instruction": "make it blue", "seed": 2})
    assert len(events) == system.vq.config.grid + 1 and "picture" in events[-1]
    _, _, (filled,) = ask("/infill", given | {"box": [0, 0, 8, 8], "caption": "a star"})
    before, after = system.encode(image[None])[0].tolist(), filled["codes"]
    assert before[1:] == after[1:] and shlex.split(filled["command"])[1] == "infill"


REFUSED = {
    "another host": (("/",), {"method": "GET", "Host": "evil.example"}, 403, "answers at"),
    "a rebound name": (("/draw", {"caption": "x"}), {"Host": "evil.example:80"}, 403, "answers at"),
    "another page": (("/draw", {}), {"Origin": "http://evil.example"}, 403, "another page"),
    "a form": (("/draw", b"caption=x"), {"Content_Type": "text/plain"}, 415, "JSON"),
    "no page": (("/etc/passwd",), {"method": "GET"}, 404, "one page"),
    "no such request": (("/train", {}), {}, 404, "no '/train'"),
    "too large": (("/draw", b"{}"), {"Content_Length": str(1 << 40)}, 413, "at most"),
    "no length": (("/draw", b"{}"), {"Content_Length": "-1"}, 411, "length"),
    "no JSON": (("/draw", b"{"), {}, 400, "no JSON"),
    "deep JSON": (("/draw", b"[" * 100_000), {}, 400, "no JSON"),
    "no object": (("/draw", []), {}, 400, "JSON object"),
    "no caption": (("/draw", {}), {}, 400, "caption is missing"),
    "a blank caption": (("/draw", {"caption": " "}), {}, 400, "caption is empty"),
    "a long caption": (("/draw", {"caption": "x" * 401}), {}, 400, "at most 400"),
    "a caption of another type": (("/draw", {"caption": 3}), {}, 400, "caption must be a text"),
    "an unknown option": (("/draw", {"caption": "x", "steps": 3}), {}, 400, "no 'steps'"),
    "a seed of a bool": (("/draw", {"caption": "x", "seed": True}), {}, 400, "whole number"),
    "a negative seed": (("/draw", {"caption": "x", "seed": -1}), {}, 400, "seed must lie in"),
    "many documents": (("/draw", {"caption": "x", "documents": 5}), {}, 400, "documents must"),
    "hot": (("/draw", {"caption": "x", "temperature": 1e9}), {}, 400, "temperature must lie"),
    "nan": (("/draw", b'{"caption": "x", "guidance": NaN}'), {}, 400, "guidance must be finite"),
    "half a pair": (("/draw", b'{"caption": "\\ud83d"}'), {}, 400, "must be UTF-8"),
    "a box of words": (("/infill", {"picture": "", "box": ["a"]}), {}, 400, "whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_one_line(ask, case):
    words, options, status, reason = REFUSED[case]
    found, _, (event,) = ask(*words, **options)
    assert found == status and reason in event["error"] and "\n" not in event["error"]


MISTAKES = {
    "no documents": ("/draw", {"caption": "x", "documents": 1}, "trained without retrieval"),
    "no data URI": ("/caption", {"picture": "http://x/y.png"}, "data URI"),
    "no base64": ("/caption", {"picture": PNG + "!"}, "no base64"),
    "no picture": ("/caption", {"picture": PNG + "aGk="}, "no picture Pillow can read"),
    "an empty box": ("/infill", {"picture": PNG, "box": [4, 4, 4, 9]}, "0 <= x0 < x1 <= 64"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_the_last_line_and_the_next_request_works(ask, case):
    path, body, reason = MISTAKES[case]
    status, _, (event,) = ask(path, body)
    assert status == 200 and reason in event["error"] and "\n" not in event["error"]
    assert ask("/nothing", {})[0] == 404


def test_a_fault_of_ours_is_told_and_the_server_lives(server, ask, monkeypatch, capsys):
    monkeypatch.setattr(serving.REQUESTS["/caption"], "answer", lambda *_: 1 / 0)
    _, _, (event,) = ask("/caption", {"picture": PNG})
    assert "the terminal" in event["error"] and "ZeroDivisionError" in capsys.readouterr().err
    assert not server.drawing.locked()


def test_one_drawing_at_a_time(server, ask):
    with server.drawing:
        status, _, (event,) = ask("/draw", {"caption": "x"})
    assert status == 429 and "being drawn" in event["error"]
    assert ask("/draw", {"caption": "x"})[0] == 200


def test_a_page_that_is_closed_ends_its_drawing(server, monkeypatch):
    lines = []

    def broken(self, event):
        lines.append(event)
        raise BrokenPipeError

    monkeypatch.setattr(serving._Handler, "_line", broken)
    ours, theirs = socket.socketpair()
    body = b'{"caption": "x"}'
    head = f"POST /draw HTTP/1.0\r\nHost: localhost:{server.server_port}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ours.sendall(head.encode() + body)
    server.finish_request(theirs, ("127.0.0.1", 0))  # in this thread
    assert len(lines) == 1 and lines[0]["row"] == 0 and not server.drawing.locked()
    ours.close()
    theirs.close()


def test_the_page_may_run_its_own_script_alone(server, ask):
    status, answer, text = ask("/", method="GET", Content_Type=None)
    rules = answer.getheader("Content-Security-Policy")
    assert status == 200 and rules == policy(text) and "default-src 'none'" in rules
    assert "unsafe-inline" not in rules.split("script-src")[1].split(";")[0]
    facts = json.loads(text.split('id="facts">')[1].split("</script>")[0])
    assert facts["grid"] == 8 and facts["edits"] and facts["documents"] is None
    assert "http://" not in text and "https://" not in text


def test_it_binds_this_machine_alone_and_says_when_it_cannot(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(UserError, match=rf"port {server.server_port} .* --port"):
        Server(server.models, server.server_port)


def test_the_command_says_where_and_ends_by_ctrl_c(folder, capsys, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    command = parse(Serve, ["--system", str(folder), "--port", "0"], "x")
    assert command.run() == 0
    said = capsys.readouterr().out
    assert said.startswith("open http://127.0.0.1:") and said.endswith("ended\n")
    assert command._models().tuned is not None
