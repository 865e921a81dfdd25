"""The page in a real headless Chromium, drawing with a tiny model: desk, phone, light and dark."""

from __future__ import annotations

import threading

import pytest

from cm3leon.loading import load_system
from cm3leon.serve.request import Models, read_picture
from cm3leon.serve.server import Server
from tests.world_model import write_world_model

DONE = "new Promise(d => { const t = setInterval(() => busy || (clearInterval(t), d()), 20); })"
WIDE = """[...document.querySelectorAll("main *")].filter(one => one.offsetParent &&
  one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    tasks = {"edit": {"rows": 1}, "answer": {"rows": 1}}
    system = load_system(write_world_model(tmp_path_factory.mktemp("served"), tasks=tasks))
    with Server(Models(system, system)) as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def act(browser, script: str) -> str:
    """Do something on the page, wait for its end; what the page says then."""
    browser.value(f"({script}, null)")
    browser.value(DONE)
    return browser.value("document.getElementById('says').textContent")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_caption_becomes_tokens_and_a_picture_and_nothing_is_cut(browser, server, width, scheme):
    browser.window(width, scheme=scheme)
    browser.open(server.url)
    assert act(browser, "at('draw').requestSubmit()").endswith(" s")
    assert browser.value("cells.every(one => /^[0-9]+$/.test(one.textContent))")
    assert browser.value("at('picture').naturalWidth") == server.models.draws.size
    assert browser.value("at('command').textContent").startswith("cm3leon draw ")
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(WIDE) == []
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    elsewhere = [one for one in browser.asked if not one.startswith(("data:", server.url))]
    assert (browser.problems, elsewhere) == ([], [])


def test_a_box_is_dragged_and_drawn_anew_and_a_mistake_is_one_line(browser, server):
    browser.window(1280)
    browser.open(server.url)
    act(browser, "at('draw').requestSubmit()")
    corner = browser.value("(r => [r.left, r.top, r.width])(at('frame').getBoundingClientRect())")
    left, top, side = corner
    for kind, share in (("mousePressed", 0.25), ("mouseMoved", 0.75), ("mouseReleased", 0.75)):
        browser.call(
            "Input.dispatchMouseEvent", type=kind, x=left + share * side, y=top + share * side,
            button="left", buttons=1, clickCount=1,
        )  # fmt: skip
    size = server.models.draws.size
    found = browser.value("['x0', 'y0', 'x1', 'y1'].map(name => Number(box[name].value))")
    assert found == [size // 4, size // 4, 3 * size // 4, 3 * size // 4]
    image = read_picture(browser.value("picture"), size)
    before = server.models.draws.encode(image[None])[0].tolist()
    assert act(browser, "at('infill').requestSubmit()").endswith(" s")
    after = browser.value("cells.map(one => Number(one.textContent))")
    grid = server.models.draws.vq.config.grid
    inside = range(grid // 4, 3 * grid // 4)
    moved = [k for k, (one, two) in enumerate(zip(before, after, strict=True)) if one != two]
    assert {divmod(k, grid) for k in moved} <= {(r, c) for r in inside for c in inside}
    said = act(browser, "box.x1.value = 0, at('infill').requestSubmit()")
    assert said.startswith("a box is [x0, y0, x1, y1]")
    assert browser.value("at('says').className") == "error"
    with server.drawing:
        assert act(browser, "at('draw').requestSubmit()").startswith("a picture is being drawn")
    assert act(browser, "at('say').click()").endswith(" s")
    assert not browser.value("at('text').hidden")
