"""edit, answer, and draw after maps, with boxes and letters: by the real command line."""

import re
from pathlib import Path

import numpy as np
import pytest

from cm3leon.cli import main as cli
from cm3leon.cli.ask import read_box
from cm3leon.config import replace
from cm3leon.decoding.config import EditGuidance
from cm3leon.decoding.loop import Decoder
from cm3leon.errors import UserError
from cm3leon.images import read_picture, write_png
from cm3leon.loading import load_system
from cm3leon.seeds import derive
from cm3leon.tasks import EDIT, TASKS
from cm3leon.tasks.ask import draw_answers, settings
from cm3leon.tasks.rows import prompt_of
from cm3leon.world.conditions import segmentation
from cm3leon.world.scenes import scene
from tests.world_model import write_world_model

SCENES = [scene("stock", "val", index, 64) for index in range(3)]
PICTURES = np.stack([one.image for one in SCENES])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_world_model(folder, "plain")
    names = [name for name in TASKS if name != "hed"]
    write_world_model(folder, "tuned", tasks=dict.fromkeys(names, 1))
    return folder


@pytest.fixture(scope="module")
def system(home):
    return load_system(home / "tuned")


@pytest.fixture
def run(home, monkeypatch, tmp_path, capsys):
    """Run a command of the tuned model in a folder with a picture and a map."""
    monkeypatch.chdir(tmp_path)
    write_png("a.png", PICTURES[0])
    write_png("map.png", segmentation(SCENES[0]))
    write_png("small.png", PICTURES[0][:32, :32])

    def call(*arguments, system="tuned"):
        code = cli.main([*map(str, arguments), "--system", str(home / system)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_edit_is_that_of_the_system(run, system):
    words = "make the star blue"
    seeds = [derive(3, "edit", words, k) for k in range(2)]
    wanted = system.edit(PICTURES[[0, 0]], [words] * 2, seeds, {"image_guidance": 1.2})
    assert run("edit", "a.png", words, "--seed", 3, "--count", 2, "--image-guidance", 1.2) == (
        0, "edited.png\n", "",
    )  # fmt: skip
    drawn = read_picture("edited.png")
    assert np.array_equal(drawn[:64, :64], wanted[0]) and np.array_equal(drawn[:64, 66:], wanted[1])
    assert not np.array_equal(wanted[0], wanted[1])


def test_three_streams_by_hand_draw_the_same_codes(system):
    """The loop against one without a cache: full prompt, without text, without anything."""
    records = system._encoded(EDIT, [{"image1": PICTURES[0], "instruction": "make it blue"}])
    decode, edit = settings(EDIT, replace(system.decode, temperature=0.0))
    assert (edit.image, edit.text) == (1.5, 7.5)
    decoder = Decoder(system.model, system.vocabulary, decode)
    (drawn,) = draw_answers(decoder, EDIT, records, [0], 5, edit).tolist()
    rows = [prompt_of(records[0], system.vocabulary, drop) for drop in (None, "text", "both")]
    first, end = system.vocabulary.image_start, system.vocabulary.image_end
    for code in drawn:
        full, image, none = (last_logits(system, row)[first:end] for row in rows)
        mixed = none + 1.5 * (image - none) + 7.5 * (full - image)
        assert int(mixed.argmax()) == code
        rows = [np.append(row, code + first) for row in rows]


def last_logits(system, row):
    import torch

    from cm3leon.sequence.positions import place_prompt

    code = system.vocabulary.image_start
    places = place_prompt(row, code, system.vocabulary, system.model.config)[:-1]
    ids_1T = torch.as_tensor(row)[None]
    with torch.no_grad():
        logits = system.model(ids_1T, torch.as_tensor(places)[None])
    return logits[0, -1].double()


def test_rows_do_not_depend_on_their_batch(system):
    words = ["make it blue", "remove the star", "put the scene in the snow"]
    whole = system.edit(PICTURES, words, [4, 5, 6])
    alone = [system.edit(PICTURES[k : k + 1], words[k : k + 1], [4 + k])[0] for k in range(3)]
    assert np.array_equal(whole, np.stack(alone))
    small = replace(system, batch_size=2)
    asked = ["how many stars are there?", "what colour is it?", "is there a cross?"]
    assert small.answer(PICTURES, asked) == system.answer(PICTURES, asked)
    assert [system.answer(PICTURES[k : k + 1], [asked[k]])[0] for k in range(3)] == system.answer(
        PICTURES, asked
    )


def test_answers(run, system):
    (short,) = system.answer(PICTURES[:1], ["how many?"], most=4)
    assert run("answer", "a.png", "how many?", "--tokens", 4) == (0, f"{one(short)}\n", "")
    choices = ["one", "two"]
    (long,) = system.answer(PICTURES[:1], ["how many?"], [choices], explain=True, most=4)
    options = ("--choices", *choices, "--explain", "--tokens", 4)
    assert run("answer", "a.png", "how many?", *options)[1] == f"{one(long)}\n"
    (caption,) = system.caption(PICTURES[:1], long=True, most=5)
    assert run("caption", "a.png", "--long", "--tokens", 5)[1] == f"{one(caption)}\n"


def one(text: str) -> str:
    from cm3leon.cli.infill import one_line

    return one_line(text)


def test_draw_after_a_map_with_boxes_and_letters(run, system):
    seed = derive(0, "a star", 0)
    shown = segmentation(SCENES[0])[None]
    wanted = system.draw(["a star"], [seed], condition=shown, kind="segmentation")
    assert run("draw", "a star", "--condition", "map.png", "--kind", "segmentation")[0] == 0
    assert np.array_equal(read_picture("drawing.png"), wanted[0])
    other = system.draw(["a star"], [seed], condition=PICTURES[:1], kind="segmentation")
    assert not np.array_equal(wanted, other)

    boxes = [("a star", (10, 20, 60, 64)), ("a cross", (0, 0, 8, 8))]
    seed = derive(0, "a star and a cross", 0)
    wanted = system.draw(["a star and a cross"], [seed], boxes=[boxes], changes={"top_k": 3})
    told = ("--box", "a star: 10 20 60 64", "a cross: 0 0 8 8", "--top-k", 3)
    assert run("draw", *told)[0] == 0
    assert np.array_equal(read_picture("drawing.png"), wanted[0])
    assert run("draw", "--letters", "AB")[0] == 0


BAD = {
    "a model never tuned": (("edit", "a.png", "paint it"), "plain was never tuned on tasks"),
    "another task": (
        ("draw", "a", "--condition", "map.png", "--kind", "hed"), "not on hed; tune it on that",
    ),
    "no question": (("answer", "a.png", " "), "the question is empty"),
    "no instruction": (("edit", "a.png", ""), "the instruction is empty"),
    "explained without choices": (("answer", "a.png", "why?", "--explain"), "one of some choices"),
    "one choice": (("answer", "a.png", "why?", "--choices", "a"), "choices are 2 to 26 texts"),
    "a map of another size": (
        ("draw", "a", "--condition", "small.png", "--kind", "depth"),
        "small.png is 32 x 32 pixels; a condition of tuned must have 64 x 64",
    ),
    "a map without its kind": (("draw", "a", "--condition", "map.png"), "needs its --kind"),
    "an unknown kind": (("draw", "a", "--condition", "map.png", "--kind", "x"), "invalid choice"),
    "a box outside": (("draw", "--box", "a: 0 0 65 8"), "0 <= x0 < x1 <= 64"),
    "a box reversed": (("draw", "--box", "a: 8 0 8 8"), "0 <= x0 < x1 <= 64"),
    "a box without a name": (("draw", "--box", ": 0 0 8 8"), "a box reads"),
    "a box of three": (("draw", "--box", "a: 0 0 8"), "a box reads"),
    "no caption": (("draw",), "no caption: say what to draw"),
    "a map and a box": (
        ("draw", "a", "--condition", "map.png", "--kind", "depth", "--box", "a: 0 0 8 8"),
        "give --condition or --box, not both",
    ),
    "no such picture": (("edit", "none.png", "x"), "none.png"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run, tmp_path, case):
    arguments, told = BAD[case]
    code, out, err = run(*arguments, system="plain" if case == "a model never tuned" else "tuned")
    assert (code, out) == (2, "") and err.count("\n") == 1 and told in err, err
    assert not (tmp_path / "drawing.png").exists() and not (tmp_path / "edited.png").exists()


def test_a_box_is_read():
    assert read_box(" a red: star : 1 -2 3 4 ") == ("a red: star", (1, -2, 3, 4))


def test_what_was_chosen_stands_above_the_papers():
    base = replace(load_defaults(), guidance=9.0)
    assert settings(TASKS["segmentation"], base)[0].guidance == 3.0
    assert settings(TASKS["segmentation"], base, {"guidance": 2.0})[0].guidance == 2.0
    decode, edit = settings(EDIT, base, {"text_guidance": 2.0, "temperature": 0.1})
    assert edit == EditGuidance(1.5, 2.0) and decode.temperature == 0.1


def load_defaults():
    from cm3leon.decoding.config import DecodeConfig

    return DecodeConfig()


def test_counts_that_do_not_match(system):
    with pytest.raises(UserError, match="one picture a text is needed, got 3 for 1"):
        system.edit(PICTURES, ["x"], [0])
    with pytest.raises(UserError, match="one seed a picture, got 2 for 1"):
        system.edit(PICTURES[:1], ["x"], [0, 1])
    with pytest.raises(UserError, match="a sequence of strings"):
        system.answer(PICTURES[:1], "x")
    with pytest.raises(UserError, match="a condition needs its kind"):
        system.draw(["x"], [0], condition=PICTURES[:1])


def test_the_page_of_tasks_runs_as_it_is_written(home, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text("utf-8")
    (code,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(home)
    given = {"images": PICTURES[:1], "maps": segmentation(SCENES[0])[None]}
    exec(compile(code.replace("models/tuned", "./tuned"), "tasks.md", "exec"), given)
    assert given["edited"].shape == given["drawn"].shape == (1, 64, 64, 3)
