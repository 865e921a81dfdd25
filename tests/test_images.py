"""Picture files of every kind become uint8 RGB; what cannot be read says why."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cm3leon import images
from cm3leon.errors import UserError
from cm3leon.images import crop_square, open_picture, read_picture, write_png


def gradient(height=20, width=30) -> np.ndarray:
    """A picture in which every pixel differs."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 7, columns * 5, (rows + columns) * 3], axis=2).astype(np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_colours_are_untouched(tmp_path):
    image = gradient()
    path = saved(tmp_path / "a.png", Image.fromarray(image))
    assert np.array_equal(read_picture(path), image)
    assert read_picture(str(path)).dtype == np.uint8


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_grey(tmp_path, kind):
    grey = np.full((8, 9), 77, np.uint8)
    read = read_picture(saved(tmp_path / f"a.{kind}", Image.fromarray(grey)))
    assert read.shape == (8, 9, 3) and (read == 77).all()


def test_black_and_white(tmp_path):
    read = read_picture(saved(tmp_path / "a.png", Image.fromarray(np.eye(8, dtype=bool))))
    assert np.array_equal(read[..., 0], np.eye(8, dtype=np.uint8) * 255)


def test_sixteen_bits_are_scaled(tmp_path):
    levels = np.array([[0, 128, 129, 257 * 100, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        read = read_picture(saved(tmp_path / name, Image.fromarray(levels)))
        assert read[0, :, 0].tolist() == [0, 0, 1, 100, 255]
        assert (read == read[..., :1]).all()


def test_cmyk_jpeg(tmp_path):
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow make red
    read = read_picture(saved(tmp_path / "a.jpg", ink, quality=100))
    assert np.abs(read.astype(int) - [255, 0, 0]).max() <= 4


def test_palette(tmp_path):
    image = Image.fromarray(gradient() // 64 * 64).quantize(64)
    read = read_picture(saved(tmp_path / "a.png", image))
    assert np.array_equal(read, np.array(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_lies_on_white(tmp_path, mode):
    front = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    front.putpixel((0, 0), (0, 0, 0, 0))
    options = {}
    if mode == "RGB":  # one colour is declared transparent
        front = Image.new("RGB", (4, 2), (0, 0, 0))
        front.putpixel((0, 0), (9, 9, 9))
        options = {"transparency": (9, 9, 9)}
    elif mode == "P":
        front = front.quantize(4)
    else:
        front = front.convert(mode)
    read = read_picture(saved(tmp_path / "a.png", front, **options))
    assert (read[0, 0] == 255).all() and (read[1:] == 0).all() and (read[0, 1:] == 0).all()


def test_half_transparent_is_half_white(tmp_path):
    read = read_picture(saved(tmp_path / "a.png", Image.new("RGBA", (2, 2), (0, 0, 200, 128))))
    assert np.abs(read.astype(int) - [127, 127, 227]).max() <= 1


def test_exif_orientation_is_ignored(tmp_path):
    image = Image.fromarray(gradient(20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    path = saved(tmp_path / "a.jpg", image, exif=exif, quality=95)
    assert read_picture(path).shape == (20, 30, 3)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_picture(path)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel(tmp_path):
    read = read_picture(saved(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3))))
    assert read.tolist() == [[[1, 2, 3]]]
    assert crop_square(read, 8).reshape(-1, 3).tolist() == [[1, 2, 3]] * 64


def test_huge_pictures_are_read_up_to_a_limit(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("1", (300, 200)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the library's limit, made small
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert read_picture(path).shape == (200, 300, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with open_picture(path, "a") as header:
        assert header.size == (300, 200)
    monkeypatch.setattr(images, "MOST_PIXELS", 59_999)
    with pytest.raises(UserError, match="300 x 200 pixels, more than 59,999"):
        read_picture(path)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(gradient(64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg()[: len(jpeg()) // 2], "truncated"),
        (jpeg()[:3], "no picture Pillow can read"),
        (b"", "no picture Pillow can read"),
        (b"<html>not found</html>", "no picture Pillow can read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "."),
    ],
)
def test_damaged_files_say_why(tmp_path, data, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason) as error:
        read_picture(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_never_escapes(place, value):
    data = bytearray(jpeg())
    data[place % len(data)] = value
    path = images.Path(_folder) / "a.jpg"
    path.write_bytes(bytes(data))
    try:
        assert read_picture(path).shape[2] == 3
    except UserError as error:
        assert "\n" not in str(error)


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of the property above."""
    global _folder
    _folder = tmp_path_factory.mktemp("pictures")


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_picture(path)


def test_floating_point_is_refused(tmp_path):
    image = Image.fromarray(np.ones((4, 4), np.float32))
    with pytest.raises(UserError, match="floating point"):
        read_picture(saved(tmp_path / "a.tiff", image))


@pytest.mark.parametrize(("height", "width"), [(10, 17), (17, 10), (10, 10), (11, 12), (1, 9)])
def test_crop_takes_the_centre(height, width):
    image = gradient(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = crop_square(image, side)
    assert np.array_equal(square, image[top : top + side, left : left + side])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 48), st.integers(0, 255))
def test_a_flat_picture_stays_flat(height, width, size, level):
    square = crop_square(np.full((height, width, 3), level, np.uint8), size)
    assert square.shape == (size, size, 3) and (square == level).all()


def test_shrinking_does_not_alias():
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    middle = crop_square(board, 32)[4:-4, 4:-4].astype(int)
    assert np.abs(middle - 127.5).max() < 3
    assert np.ptp(board[4::8, 4::8]) == 0  # picking pixels would give one colour
    assert set(np.unique(board[::8, ::8])) == {0}


def test_crop_is_pillows_lanczos():
    image = gradient(40, 60)
    expected = Image.fromarray(image).crop((10, 0, 50, 40)).resize((16, 16), Image.LANCZOS)
    assert np.array_equal(crop_square(image, 16), np.array(expected))
    assert images.CROP == "centre-crop-lanczos"


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(image, tmp_path):
    with pytest.raises(UserError, match=r"must be uint8 \[H,W,3\], got"):
        crop_square(image, 8)
    with pytest.raises(UserError, match=r"must be uint8 \[H,W,3\], got"):
        write_png(tmp_path / "a.png", image)
    with pytest.raises(UserError, match="at least 1 pixel, got 0"):
        crop_square(gradient(), 0)


def test_written_and_read(tmp_path):
    about = {"prompt": "a röd star", "seed": "7"}
    path = write_png(tmp_path / "new" / "a.png", gradient(), about)
    assert np.array_equal(read_picture(path), gradient())
    with Image.open(path) as image:
        assert {key: str(value) for key, value in image.text.items()} == about
    first = path.read_bytes()
    assert write_png(path, gradient(), about).read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
