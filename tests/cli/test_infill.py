"""caption and infill as a user meets them: what they print and write, and one-line errors."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cm3leon.cli import main as cli
from cm3leon.cli.infill import box_in_crop, one_line
from cm3leon.decoding.config import GREEDY
from cm3leon.decoding.image_infill import InfillConfig, hidden_by_box
from cm3leon.decoding.text import BeamConfig, TextDecode
from cm3leon.errors import UserError
from cm3leon.images import crop_square, write_png
from cm3leon.loading import load_system
from cm3leon.seeds import derive
from cm3leon.world.scenes import scene
from tests.test_pipeline import write_tiny_baselines

IMAGES = np.stack([scene("coco", "val", index, 32).image for index in range(2)])
WIDE = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    write_tiny_baselines(folder)
    return folder


@pytest.fixture(scope="module")
def system(home):
    return load_system(home / "scenes" / "scenes-s")


@pytest.fixture
def run(home, monkeypatch, tmp_path, capsys):
    """Run a command in a folder of three pictures; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    monkeypatch.chdir(tmp_path)
    for name, image in zip("abw", [*IMAGES, WIDE], strict=True):
        write_png(f"{name}.png", image)
    (tmp_path / "no.png").write_text("not a picture")

    def call(*arguments):
        code = cli.main(list(map(str, arguments)))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_captions(run, system):
    one, two = map(one_line, system.caption(IMAGES))
    assert run("caption", "a.png") == (0, f"{one}\n", "")
    assert run("caption", "a.png", "b.png")[1] == f"a.png: {one}\nb.png: {two}\n"
    wide = one_line(system.caption(crop_square(WIDE, 32)[None])[0])
    assert run("caption", "w.png")[1] == f"{wide}\n"
    how = TextDecode(beam=BeamConfig(3, "mean"))
    (beam,) = map(one_line, system.caption(IMAGES[:1], how=how, most=9))
    options = ("--beam", 3, "--beam-penalty", "mean", "--tokens", 9)
    assert run("caption", "a.png", *options)[1] == f"{beam}\n"


def test_the_type_of_the_weights(run, home):
    half = load_system(home / "scenes" / "scenes-s", weights="bfloat16")
    caption = one_line(half.caption(IMAGES[:1])[0])
    assert run("caption", "a.png", "--weights", "bfloat16") == (0, f"{caption}\n", "")


def test_sampled_captions(run, system):
    how = TextDecode(replace(GREEDY, temperature=0.8, guidance=1.5))
    seeds = [derive(7, "caption", k) for k in range(2)]
    wanted = list(map(one_line, system.caption(IMAGES[[1, 1]], seeds, how)))
    options = ("--temperature", 0.8, "--guidance", 1.5, "--seed", 7, "--samples", 2)
    assert run("caption", "b.png", *options)[1].split("\n") == [*wanted, ""]
    lines = run("caption", "a.png", "b.png", *options)[1].split("\n")
    assert lines[2:-1] == [f"b.png: {caption}" for caption in wanted]


def test_a_box_is_drawn_anew(run, system, tmp_path):
    options = ("--box", 3, 8, 20, 17, "--caption", "a star", "--seed", 4, "--tries", 2)
    assert run("infill", "a.png", *options, "--out", "new.png") == (0, "new.png\n", "")
    hidden = hidden_by_box((3, 8, 20, 17), 32, 4)[None]
    seeds = [derive(4, "infill", 0)]
    codes = system.infill_image(IMAGES[:1], hidden, ["a star"], seeds, InfillConfig(tries=2))
    wanted = system.decode_codes(codes)[0]
    with Image.open(tmp_path / "new.png") as image:
        assert np.array_equal(np.asarray(image), wanted)
        assert image.text["box"] == "(3, 8, 20, 17)" and image.text["caption"] == "a star"
    run("infill", "a.png", *options, "--keep-pixels", "--samples", 2)
    with Image.open("infilled.png") as image:
        pixels = np.asarray(image)
    inside = hidden.reshape(4, 4).repeat(8, 0).repeat(8, 1)
    assert pixels.shape == (32, 66, 3)  # a grid of two
    assert np.array_equal(pixels[:32, :32][inside], wanted[inside])
    assert np.array_equal(pixels[:32, :32][~inside], IMAGES[0][~inside])
    assert np.array_equal(pixels[:32, 34:][~inside], IMAGES[0][~inside])


def test_ways_of_filling_a_box(run, tmp_path):
    seen = set()
    for options in (
        (), ("--caption", "a star"), ("--method", "span"), ("--method", "spans"),
        ("--image-guidance", 1.5, "--text-guidance", 2, "--caption", "a star"),
    ):  # fmt: skip
        assert run("infill", "w.png", "--box", 30, 10, 60, 40, *options)[0] == 0
        seen.add((tmp_path / "infilled.png").read_bytes())
    assert len(seen) == 5


def test_texts(run, system):
    text = "a <mask> star on <mask>"
    for arguments, images in ((("b.png",), IMAGES[1:]), ((), None)):
        (wanted,) = system.infill_text([text], images)
        assert run("infill", *arguments, "--text", text)[1] == f"{one_line(wanted)}\n"
    (beam,) = system.infill_text([text], IMAGES[1:], how=TextDecode(beam=BeamConfig(2)))
    assert run("infill", "b.png", "--text", text, "--beam", 2)[1] == f"{one_line(beam)}\n"
    options = ("--samples", 3, "--temperature", 1)
    assert len(set(run("infill", "b.png", "--text", text, *options)[1].split("\n"))) > 2


BOX = ("infill", "a.png", "--box", 0, 0, 8, 8)
MISTAKES = [
    (("caption", "no.png"), "no.png is no picture"),
    (("caption", "none.png"), "cannot read none.png"),
    (("caption",), "pictures is given nothing; name at least one"),
    (("caption", "a.png", "--beam", 0), "beam must lie in [1, 256], got 0"),
    (("caption", "a.png", "--beam-alpha", "nan", "--beam", 2), "beam_alpha must be finite"),
    (("caption", "a.png", "--guidance", "nan"), "decode.guidance must be finite, got nan"),
    (("caption", "a.png", "--samples", 0), "samples must lie in [1, 4,096], got 0"),
    (("caption", "a.png", "--samples", 2), "would all be the same"),
    (("caption", "a.png", "--samples", 2, "--temperature", 1, "--beam", 2), "all be the same"),
    (("caption", "a.png", "--documents", 1), "trained without retrieval"),
    (("caption", "a.png", "--tokens", 0), "tokens must lie in [1, 65,536], got 0"),
    (("caption", "a.png", "--system", "scenes-z"), "unknown model 'scenes-z'"),
    (("infill", "a.png"), "needs either --box X0 Y0 X1 Y1 or --text"),
    ((*BOX, "--text", "a <mask>"), "needs either --box"),
    (("infill", "--box", 0, 0, 8, 8), "--box needs a picture file"),
    (("infill", "no.png", "--box", 0, 0, 8, 8), "no.png is no picture"),
    (("infill", "a.png", "--box", 0, 0, 33, 8), "must have 0 <= X0 < X1 <= 32"),
    (("infill", "a.png", "--box", 8, 0, 8, 8), "box 8 0 8 8 must have"),
    (("infill", "w.png", "--box", 0, 0, 20, 60), "lies outside the picture's centre square"),
    (("infill", "a.png", "--box", 0, 0, 8), "--box"),
    ((*BOX, "--caption", " "), "--caption is empty"),
    ((*BOX, "--caption", "雪" * 100), "shorten the"),
    ((*BOX, "--guidance", "nan"), "decode.guidance must be finite, got nan"),
    ((*BOX, "--image-guidance", "nan"), "image_guidance must be finite, got nan"),
    ((*BOX, "--method", "span", "--text-guidance", 2), "use 'forward'"),
    ((*BOX, "--tries", 0), "tries must lie in [1, 4,096], got 0"),
    ((*BOX, "--samples", 0), "samples must lie in [1, 4,096], got 0"),
    ((*BOX, "--documents", 1), "trained without retrieval"),
    ((*BOX, "--out", "/proc/nowhere/x.png"), "cannot write /proc/nowhere/x.png"),
    (("infill", "a.png", "--text", "a red star"), "must hold <mask>"),
    (("infill", "a.png", "--text", ""), "must hold <mask>"),
    (("infill", "a.png", "--text", "雪" * 100 + " <mask>"), "shorten the text"),
    (("infill", "a.png", "--text", "a <mask>", "--beam", 0), "beam must lie in [1, 256], got 0"),
    (("infill", "a.png", "--text", "a <mask>", "--samples", 2), "would all be the same"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda one: str(one)[-40:])
def test_mistakes_get_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and message in err
    assert err.startswith("error: ") and err.count("\n") == 1


@given(st.data())
def test_boxes_of_the_file_and_of_the_square(data):
    """The mapped box covers exactly the square's pixels that the file's box touches."""
    height, width, size = (data.draw(st.integers(1, 90)) for _ in range(3))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    side = min(height, width)
    spans = []
    for low, high, length in ((x0, x1, width), (y0, y1, height)):
        first = (length - side) // 2
        edges = [first + side * k / size for k in range(size + 1)]
        touched = [k for k in range(size) if edges[k] < high - 1e-9 and edges[k + 1] > low + 1e-9]
        spans.append(touched)
    if not all(spans):
        with pytest.raises(UserError, match="outside the picture's centre square"):
            box_in_crop((x0, y0, x1, y1), (height, width), size)
        return
    across, down = spans
    wanted = (across[0], down[0], across[-1] + 1, down[-1] + 1)
    assert box_in_crop((x0, y0, x1, y1), (height, width), size) == wanted
