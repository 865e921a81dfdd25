"""The cache of drawings: nothing is drawn twice, nothing wrong is read, nothing torn is left."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.images import generated as images
from benchmarks.protocols.prompts import Prompt
from cm3leon.errors import UserError
from cm3leon.files import sha256_file
from cm3leon.identity import unseal
from cm3leon.images import write_png
from cm3leon.seeds import generator
from tests.record_maker import record, saved

PROMPTS = [Prompt(f"p{k}", f"caption {k}", f"{k}") for k in range(10)]


class Stub:
    """Draws noise that depends on prompt and seed, counts, and fails when told to."""

    name, weights_sha256 = "stub", "0" * 64

    def __init__(self, size=16, fail_after=None):
        self.config, self.size, self.fail_after = {"a": 1}, size, fail_after
        self.drawn = []

    def draw(self, prompts, seeds):
        if self.fail_after is not None and len(self.drawn) >= self.fail_after:
            raise KeyboardInterrupt
        self.drawn += prompts
        shape = (self.size, self.size, 3)
        pictures = [
            generator(seed, prompt).integers(0, 256, shape, np.uint8)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return np.stack(pictures)


def pixels(pictures) -> np.ndarray:
    return np.concatenate(list(pictures.batches(3)))


def test_second_time_reads(tmp_path):
    first, second = Stub(), Stub()
    drawn = images.draw(first, PROMPTS, 0, tmp_path, batch_size=4)
    reused = images.draw(second, PROMPTS, 0, tmp_path, batch_size=4)
    assert (drawn.drawn, drawn.reused, reused.drawn, reused.reused) == (10, 0, 0, 10)
    assert second.drawn == []
    assert np.array_equal(pixels(drawn), pixels(reused))


@pytest.mark.parametrize("size", [1, 3, 32])
def test_batch_size_cannot_be_seen(tmp_path, size):
    one = images.draw(Stub(), PROMPTS, 0, tmp_path / "a", batch_size=size)
    all_ = images.draw(Stub(), PROMPTS, 0, tmp_path / "b", batch_size=10)
    assert np.array_equal(pixels(one), pixels(all_))


def test_killed_and_continued(tmp_path):
    killed, second = Stub(fail_after=6), Stub()
    with pytest.raises(KeyboardInterrupt):
        images.draw(killed, PROMPTS, 0, tmp_path, batch_size=3)
    continued = images.draw(second, PROMPTS, 0, tmp_path, batch_size=3)
    assert sorted(killed.drawn + second.drawn) == [prompt.caption for prompt in PROMPTS]
    assert (continued.drawn, continued.reused) == (4, 6)
    whole = images.draw(Stub(), PROMPTS, 0, tmp_path / "b", batch_size=3)
    assert np.array_equal(pixels(continued), pixels(whole))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_seeds_of_a_prompt_are_drawn_one_after_the_other(tmp_path):
    alone = [images.draw(Stub(), PROMPTS, seed, tmp_path / "a") for seed in (0, 5, 2)]
    images.draw(Stub(), PROMPTS[:4], 5, tmp_path / "b")
    stub = Stub()
    sets = images.draw_sets(stub, PROMPTS, (0, 5, 2), tmp_path / "b", batch_size=7)
    for ours, wanted in zip(sets, alone, strict=True):
        assert np.array_equal(pixels(ours), pixels(wanted))
    assert [(one.drawn, one.reused) for one in sets] == [(10, 0), (6, 4), (10, 0)]
    counts = [2] * 4 + [3] * 6
    captions = [prompt.caption for prompt in PROMPTS]
    assert stub.drawn == [text for text, n in zip(captions, counts, strict=True) for _ in range(n)]
    assert images.draw_sets(Stub(), PROMPTS, (), tmp_path / "b") == []


def test_everything_that_moves_a_drawing_has_its_own_file(tmp_path):
    base = Stub()
    images.draw(base, PROMPTS[:1], 0, tmp_path)
    other_caption = [Prompt("p0", "another caption", "0")]
    assert images.draw(Stub(), other_caption, 0, tmp_path).drawn == 1
    assert images.draw(Stub(), PROMPTS[:1], 1, tmp_path).drawn == 1
    retrained, retuned = Stub(), Stub()
    retrained.weights_sha256 = "1" * 64
    retuned.config = {"a": 2}
    assert images.draw(retrained, PROMPTS[:1], 0, tmp_path).drawn == 1
    assert images.draw(retuned, PROMPTS[:1], 0, tmp_path).drawn == 1
    assert images.draw(Stub(), PROMPTS[:1], 0, tmp_path).drawn == 0


def test_a_prompt_asked_for_twice_is_drawn_once(tmp_path):
    stub = Stub()
    pictures = images.draw(stub, PROMPTS[:2] * 2, 0, tmp_path)
    assert len(stub.drawn) == 2
    assert np.array_equal(pixels(pictures)[:2], pixels(pictures)[2:])


def test_names_stay_in_their_folder(tmp_path):
    stub = Stub()
    stub.name = "../../up"
    pictures = images.draw(stub, [Prompt("../x/y", "c", "1")], 0, tmp_path / "cache")
    assert (tmp_path / "cache") in pictures.paths[0].resolve().parents


def test_pictures_say_where_they_come_from(tmp_path):
    pictures = images.draw(Stub(), [Prompt("p", "two 雪 stars", "1")], 7, tmp_path)
    with Image.open(pictures.paths[0]) as image:
        assert (image.text["prompt"], image.text["seed"]) == ("two 雪 stars", "7")
    about = unseal(pictures.paths[0].parent / "system.json", "go")
    assert (about["system"], about["size"]) == ("stub", [16, 16])


OTHERS = {
    "another size": ("prompt", "seed", "key"),
    "another caption": ("seed", "key"),
    "another seed": ("prompt", "key"),
    "another system": ("prompt", "seed"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_whole_picture_that_is_anothers_is_drawn_again(tmp_path, other):
    first = images.draw(Stub(), PROMPTS, 0, tmp_path)
    path, wanted = first.paths[4], pixels(first)
    with Image.open(path) as image:
        right = dict(image.text)
    size = (20, 16) if other == "another size" else (16, 16)
    texts = {name: right[name] if name in OTHERS[other] else f"{right[name]}1" for name in right}
    write_png(path, np.zeros((*size[::-1], 3), np.uint8), texts)
    second = Stub()
    again = images.draw(second, PROMPTS, 0, tmp_path)
    assert second.drawn == ["caption 4"] and np.array_equal(pixels(again), wanted)


def test_a_picture_of_an_older_version_names_no_system(tmp_path):
    path = images.draw(Stub(), PROMPTS, 0, tmp_path).paths[4]
    with Image.open(path) as image:
        texts = {name: text for name, text in image.text.items() if name != "key"}
    write_png(path, images.read_picture(path), texts)
    assert images.draw(Stub(), PROMPTS, 0, tmp_path).drawn == 0


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 0x20
    return bytes(changed)


DAMAGES = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: data[:5],
    "cut": lambda data: data[:40],
    "without its last byte": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    **{
        f"flipped at {place}": lambda data, place=place: flipped(data, place)
        for place in (0, 20, 100, 500, -20, -6)
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_picture_of_the_cache_is_drawn_again(tmp_path, capsys, damage):
    first = images.draw(Stub(), PROMPTS, 0, tmp_path)
    path, wanted = first.paths[4], pixels(first)
    data = path.read_bytes()
    path.write_bytes(DAMAGES[damage](data))
    second = Stub()
    again = images.draw(second, PROMPTS, 0, tmp_path)
    assert second.drawn == ["caption 4"] and (again.drawn, again.reused) == (1, 9)
    assert path.read_bytes() == data and np.array_equal(pixels(again), wanted)
    assert f"1 kept pictures of stub are torn or damaged and are drawn again, first {path}" in (
        capsys.readouterr().err
    )


DESCRIPTIONS = {
    "none": None,
    "torn": lambda text: text[:9],
    "a list": lambda text: "[]",
    "another size": lambda text: text.replace("16", "17"),
}


@pytest.mark.parametrize("change", DESCRIPTIONS)
def test_a_damaged_description_is_written_anew(tmp_path, change):
    path = images.draw(Stub(), PROMPTS, 0, tmp_path).paths[0].parent / "system.json"
    right = path.read_text()
    if DESCRIPTIONS[change] is None:
        path.unlink()
    else:
        path.write_text(DESCRIPTIONS[change](right))
    assert images.draw(Stub(), PROMPTS, 0, tmp_path).drawn == 0
    assert path.read_text() == right


@given(st.lists(st.text(max_size=6), min_size=2, max_size=2, unique=True), st.integers(0, 2))
@example(["a/b", "a-b"], 0)
@example(["a/b", "a:b"], 0)
def test_every_id_has_its_own_file(ids, seed):
    one, other = (images.file_name(Prompt(id_, "c", "1"), seed) for id_ in ids)
    assert one != other and "/" not in one


@pytest.mark.parametrize(
    "change",
    [
        lambda drawn: drawn.astype(np.float32),
        lambda drawn: drawn[:-1],
        lambda drawn: drawn[..., 0],
        lambda drawn: list(drawn),
        lambda drawn: drawn.transpose(0, 3, 1, 2),
    ],
)
def test_system_that_draws_something_else(tmp_path, change):
    stub = Stub()
    draw = stub.draw
    stub.draw = lambda prompts, seeds: change(draw(prompts, seeds))
    with pytest.raises(UserError, match=r"draw must return uint8 \[10, H, W, 3\]"):
        images.draw(stub, PROMPTS, 0, tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_system_that_changes_its_size(tmp_path):
    images.draw(Stub(16), PROMPTS[:4], 0, tmp_path)
    with pytest.raises(UserError, match=r"draw must return uint8 \[6, 16, 16, 3\]"):
        images.draw(Stub(24), PROMPTS, 0, tmp_path)


def test_full_disk_leaves_nothing_torn(tmp_path, monkeypatch):
    import os

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        images.draw(Stub(), PROMPTS, 0, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_batch_size_of_nothing(tmp_path):
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        images.draw(Stub(), PROMPTS, 0, tmp_path, batch_size=0)


def coco_like(folder, names):
    for index, name in enumerate(names):
        Image.new("RGB", (30 + index, 20), (index * 20, 0, 0)).save(folder / name)


def test_pictures_of_somebody_else(tmp_path):
    names = [
        "7.png",
        "000000000008.jpg",
        "COCO_val2014_000000000009.jpg",
        "10_0.png",
        "10_1.png",
        "99.png",
    ]
    coco_like(tmp_path, names)
    (tmp_path / "notes.txt").write_text("not a picture")
    prompts = [Prompt(f"c{k}", "caption", str(k)) for k in (10, 9, 8, 7)]
    pictures = images.from_folder(tmp_path, prompts, 16)
    assert [path.name for path in pictures.paths] == [names[3], names[2], names[1], names[0]]
    assert set(pictures.extra) == {"10_1.png", "99.png"}
    assert pixels(pictures).shape == (4, 16, 16, 3)


def test_pictures_named_by_scene(tmp_path):
    coco_like(tmp_path, ["coco-test-3.png"])
    assert len(images.from_folder(tmp_path, [Prompt("x", "c", "coco-test-3")], 16)) == 1


@pytest.mark.parametrize(
    "names", [("3.png", "000000000003.png"), ("3.png", "3.jpg"), ("COCO_val2014_03.png", "3.png")]
)
def test_two_pictures_of_one_id_are_refused(tmp_path, names):
    coco_like(tmp_path, [*names, "4.png", "04.png"])  # the latter is nobody's
    with pytest.raises(UserError, match="name one image id; leave one of them") as error:
        images.from_folder(tmp_path, [Prompt("c", "caption", "3")], 16)
    assert all(name.rpartition(".")[0] in str(error.value) for name in names)


def test_a_folder_is_told_apart_by_its_pictures(tmp_path):
    for name in ("a/images", "b/images", "基线", "新模型"):
        (tmp_path / name).mkdir(parents=True)
        coco_like(tmp_path / name, ["7.png", "8.png"])
    one, other = images.Folder(tmp_path / "a/images"), images.Folder(tmp_path / "b/images")
    assert one.config == other.config and one.name == other.name == "images"
    Image.new("RGB", (3, 3)).save(tmp_path / "b/images/8.png")
    assert images.Folder(tmp_path / "b/images").config != one.config
    (tmp_path / "b/images/8.png").rename(tmp_path / "b/images/9.png")
    assert (
        len({images.Folder(tmp_path / name).name for name in ("基线", "新模型", "a/images")}) == 3
    )
    assert images.Folder(tmp_path / "基线", "base").name == "base"
    with pytest.raises(UserError, match="no folder"):
        images.Folder(tmp_path / "none")
    np.savez(tmp_path / "a.npz", np.zeros((1, 2, 2, 3), np.uint8))
    assert images.Folder(tmp_path / "a.npz").config["sha256"] == sha256_file(tmp_path / "a.npz")


def test_a_name_stands_for_one_system(tmp_path):
    for name in ("a/images", "b/images"):
        (tmp_path / name).mkdir(parents=True)
        coco_like(tmp_path / name, ["7.png"])
    ours = images.Folder(tmp_path / "a/images")
    saved(tmp_path / "results", record(name="images", system=vars_of(ours)))
    place = tmp_path / "results" / "fid_coco"
    images.Folder(tmp_path / "b/images").check_name(place)  # the same pictures
    Image.new("RGB", (3, 3)).save(tmp_path / "b/images/7.png")
    other = images.Folder(tmp_path / "b/images")
    with pytest.raises(UserError, match=r"is of other pictures, also called images: give these a"):
        other.check_name(place)
    images.Folder(tmp_path / "b/images", "images").check_name(place)  # said so
    images.Folder(tmp_path / "b/images", "b").check_name(place)
    ours.check_name(place)
    other.check_name(tmp_path / "elsewhere")


def vars_of(system) -> dict:
    return {key: getattr(system, key) for key in ("name", "config", "weights_sha256")}


def test_missing_pictures_are_counted_and_named(tmp_path):
    coco_like(tmp_path, ["7.png"])
    prompts = [Prompt(f"c{k}", "caption", str(k)) for k in (5, 6, 7)]
    with pytest.raises(UserError, match="lacks 2 of 3 pictures, first 5, 6"):
        images.from_folder(tmp_path, prompts, 16)
    with pytest.raises(UserError, match="no folder"):
        images.from_folder(tmp_path / "nothing", prompts, 16)


def test_truncated_picture_of_somebody_else(tmp_path):
    coco_like(tmp_path, ["7.jpg"])
    data = (tmp_path / "7.jpg").read_bytes()
    (tmp_path / "7.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"7\.jpg") as error:
        pixels(images.from_folder(tmp_path, [Prompt("c", "caption", "7")], 16))
    assert "\n" not in str(error.value)
