import argparse
import io
import struct

import numpy as np
import pytest
from PIL import Image

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import (
    decode_image,
    encode_image,
    encoded_size,
    image_size,
    read_image,
    read_labels,
    write_image,
)

RED = (255, 0, 0)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp"])
def test_pure_red_file_reads_red(tmp_path, suffix):
    path = tmp_path / f"red{suffix}"
    Image.new("RGB", (20, 10), RED).save(path)
    image = read_image(path)
    assert image.shape == (10, 20, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - RED).max() <= (2 if suffix == ".jpg" else 0)


def test_pure_red_array_is_written_red(tmp_path):
    path = tmp_path / "red.png"
    write_image(path, np.full((10, 20, 3), RED, np.uint8))
    assert Image.open(path).getpixel((0, 0)) == RED


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (7, 9, 4)])
def test_png_round_trip_keeps_dtype_and_values(tmp_path, rng, dtype, shape):
    image = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    path = tmp_path / "image.png"
    write_image(path, image)
    back = read_image(path)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, image)


def test_float_round_trip_in_tiff(tmp_path, rng):
    image = rng.normal(size=(7, 9)).astype(np.float32)
    write_image(tmp_path / "depth.tiff", image)
    np.testing.assert_array_equal(read_image(tmp_path / "depth.tiff"), image)


def test_unicode_path(tmp_path, rng):
    path = tmp_path / "Straße 東京" / "bild.png"
    path.parent.mkdir()
    image = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path), image)


def test_indexed_png_keeps_ids(tmp_path, rng):
    ids = rng.integers(0, 9, (6, 8), dtype=np.uint8)
    indexed = Image.fromarray(ids, mode="P")
    indexed.putpalette([(37 * i) % 256 for i in range(27)])
    indexed.save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png"), ids)
    assert read_image(tmp_path / "labels.png").shape == (6, 8, 3)


def test_grey_labels_keep_ids_and_dtype(tmp_path, rng):
    for dtype in (np.uint8, np.uint16):
        ids = rng.integers(0, 256, (6, 8)).astype(dtype)
        write_image(tmp_path / "labels.png", ids)
        back = read_labels(tmp_path / "labels.png")
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, ids)


def test_labels_of_several_channels_lie_in_the_first(tmp_path, rng):
    image = rng.integers(0, 26, (6, 8, 4), dtype=np.uint8)
    write_image(tmp_path / "labels.png", image)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png"), image[..., 0])


def test_float_labels_are_refused(tmp_path):
    write_image(tmp_path / "labels.tiff", np.zeros((4, 4), np.float32))
    with pytest.raises(DataError, match="float32; expected uint8 or uint16"):
        read_labels(tmp_path / "labels.tiff")


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_missing_file_is_named(tmp_path, read):
    with pytest.raises(DataError, match=r"nothing\.png: cannot be read \(No such file"):
        read(tmp_path / "nothing.png")


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_no_image_is_refused(tmp_path, read, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png"):
        read(path)


def test_rotation_tag_does_not_turn_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), RED).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (10, 20, 3)


@pytest.mark.parametrize(
    "wrap", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)]
)
def test_decode_takes_every_buffer(wrap, rng):
    image = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(wrap(encode_image(image))), image)


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        (np.zeros((4, 4), np.float32), "a.png", "cannot hold float32"),
        (np.zeros((4, 4), np.uint16), "a.jpg", "cannot hold uint16"),
        (np.zeros((4, 4, 2), np.uint8), "a.png", "is no image"),
        (np.zeros((4, 4), np.int64), "a.png", "is no image"),
        (np.zeros((4, 4), np.uint8), "a.xyz", r"'\.xyz'"),
        (np.zeros((4, 4), np.uint8), "missing/a.png", "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, array, name, message):
    with pytest.raises(DataError, match=message):
        write_image(tmp_path / name, array)


def saved(size=(20, 10), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def exif_with(thumbnail):
    """EXIF data as cameras write them, with a JPEG of its own in them."""
    return b"Exif\0\0" + thumbnail.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"format": "JPEG"},
        {"format": "JPEG", "progressive": True},
        {"format": "JPEG", "exif": exif_with(saved((4, 2), format="JPEG"))},
        {"format": "JPEG", "comment": b"\xff\xc0" * 20},
        {"format": "PNG"},
        {"format": "PNG", "mode": "I;16"},
        {"format": "TIFF"},
        {"format": "TIFF", "mode": "F"},
    ],
)
def test_the_size_stands_in_the_header(options):
    data = saved(**options)
    assert encoded_size(data) == decode_image(data).shape[:2] == (10, 20)
    assert encoded_size(data[:20]) is None
    for end in range(len(data)):
        assert encoded_size(data[:end]) in (None, (10, 20))


def tiff(order, is_big, kinds=(3, 4), sides=(20, 10)):
    """The beginning of a TIFF: its header and a directory that ends with the size."""
    codes = {1: "B", 3: "H", 4: "I", 16: "Q"}
    pointer, entry, count = ("Q", "HHQ", "Q") if is_big else ("I", "HHI", "H")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if is_big else 42)
    if is_big:
        head += struct.pack(f"{order}HH", 8, 0)
    data = head + struct.pack(order + pointer, len(head) + struct.calcsize(order + pointer))
    data += struct.pack(order + count, 3)
    for tag, kind, value in [(254, 4, 0), (256, kinds[0], sides[0]), (257, kinds[1], sides[1])]:
        field = struct.pack(order + codes[kind], value)
        data += struct.pack(order + entry, tag, kind, 1)
        data += field.ljust(struct.calcsize(order + pointer), b"\0")
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("is_big", "kinds"), [(False, (3, 4)), (False, (1, 3)), (True, (16, 4)), (True, (3, 16))]
)
def test_every_kind_of_tiff_states_its_size(order, is_big, kinds):
    data = tiff(order, is_big, kinds)
    assert encoded_size(data) == (10, 20)
    assert encoded_size(data[:-12]) is None


def test_fill_bytes_of_a_jpeg_are_passed_over():
    data = saved(format="JPEG")
    noisy = np.concatenate([data[:2], np.uint8([0xFF, 0xFF, 0xFF]), data[2:]])
    assert decode_image(noisy).shape == (10, 20, 3)
    assert encoded_size(noisy) == (10, 20)
    assert encoded_size(np.uint8([0xFF, 0xD8, 0xFF, 0xDA, *[0] * 20])) is None


@pytest.mark.parametrize("content", [b"", b"P6 9 9 255 ", b"BM" + bytes(60), b"\xff\xd8\xff"])
def test_other_bytes_state_no_size(content):
    assert encoded_size(np.frombuffer(content, np.uint8)) is None


@pytest.mark.parametrize("text", ["640", "640x", "x480", "0x480", "640x480x3", "-1x4", ""])
def test_a_size_on_a_command_line_needs_both_sides(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write WIDTHxHEIGHT, as 640x480"):
        image_size(text)


def test_a_size_comes_as_arrays_have_it():
    assert image_size("640x480") == (480, 640)


def test_real_frame(samples_dir):
    assert read_image(samples_dir / "kinect2_sample" / "depth.png").dtype == np.uint16
    assert read_image(samples_dir / "kinect2_sample" / "rgb.png").shape == (424, 512, 3)
