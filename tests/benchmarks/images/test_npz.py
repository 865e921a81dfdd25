"""Pictures in an `.npz`: in order or by id, mapped or read, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.images.generated import from_folder
from benchmarks.protocols.prompts import Prompt
from cm3leon.data.npz import array
from cm3leon.errors import UserError
from cm3leon.seeds import generator

PROMPTS = [Prompt(f"{name}-0", f"caption {name}", name) for name in ("42", "7", "3")]


def random_images(count: int, height: int = 20, width: int = 16) -> np.ndarray:
    return generator(0, "npz").integers(0, 256, (count, height, width, 3), np.uint8)


def all_of(pictures) -> np.ndarray:
    return np.concatenate(list(pictures.batches(2)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_same_as_a_folder_of_files(tmp_path, save):
    images = random_images(4)
    for prompt, image in zip(PROMPTS, images, strict=False):
        Image.fromarray(image).save(tmp_path / f"{prompt.image_id}.png")
    wanted = all_of(from_folder(tmp_path, PROMPTS, 8))
    save(tmp_path / "order.npz", images, np.arange(4))  # arr_0, arr_1
    in_order = from_folder(tmp_path / "order.npz", PROMPTS, 8)
    assert np.array_equal(all_of(in_order), wanted)
    assert (len(in_order), in_order.reused, in_order.extra) == (3, 3, ("order.npz[3]",))
    keys = ("COCO_val2014_000000000042", "000000000007", "3_1", "3_0", "99")
    named = dict(zip(keys, [images[0], images[1], images[3], images[2], images[3]], strict=True))
    save(tmp_path / "named.npz", **named)
    by_id = from_folder(tmp_path / "named.npz", PROMPTS, 8)
    assert np.array_equal(all_of(by_id), wanted) and by_id.extra == ("3_1", "99")


@given(st.integers(0, 5), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_what_is_mapped_is_what_numpy_reads(tmp_path_factory, count, height, width, fortran):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    images = random_images(max(count, 1), height, width)
    images = np.asfortranarray(images) if fortran else images
    np.savez(path, images, other=np.arange(count))
    found = array(path, "arr_0")
    assert isinstance(found, np.memmap) and np.array_equal(found, images)


def object_array(path):
    np.savez(path, np.array([{}], dtype=object))


def torn(path):
    np.savez(path, random_images(3))
    path.write_bytes(path.read_bytes()[:-200])


def bad_member(path):
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", b"no array")


BAD_FILES = {
    "has 2 pictures for 3 prompts; draw the rest": lambda path: np.savez(path, random_images(2)),
    "arr_0 must be uint8 [N, H, W, 3], got float32 [3, 20, 16, 3]; scale": lambda path: np.savez(
        path, random_images(3).astype(np.float32)
    ),
    "got float64 [3, 4, 4, 3]": lambda path: np.savez(path, np.full((3, 4, 4, 3), np.nan)),
    "got uint8 [3, 3, 20, 16]": lambda path: np.savez(path, random_images(3).transpose(0, 3, 1, 2)),
    "got uint8 [3, 20]": lambda path: np.savez(path, np.zeros((3, 20), np.uint8)),
    "lacks 3 of 3 pictures, first 42, 7, 3; name each by": lambda path: np.savez(
        path, x=random_images(3)
    ),
    "is torn at 'arr_0'": object_array,
    "cannot read": torn,
    "is torn at 'arr_0': ": bad_member,
    "cannot read ": lambda path: path.write_bytes(b"PK\3\4 and no more"),
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_bad_files_get_one_line(tmp_path, message):
    path = tmp_path / "bad.npz"
    BAD_FILES[message](path)
    with pytest.raises(UserError) as caught:
        from_folder(path, PROMPTS, 8)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot read .*none.npz: No such file"):
        from_folder(tmp_path / "none.npz", PROMPTS, 8)


def test_a_named_array_of_another_kind(tmp_path):
    arrays = {name: random_images(1)[0] for name in ("42", "7")} | {"3": np.zeros((4, 4, 4))}
    np.savez(tmp_path / "a.npz", **arrays)
    pictures = from_folder(tmp_path / "a.npz", PROMPTS, 8)
    with pytest.raises(UserError, match=r"3 must be uint8 \[H, W, 3\], got float64 \[4, 4, 4\]"):
        all_of(pictures)
