import argparse
import contextlib
import io
import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import (
    MAX_SIDE,
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


def png_header(width, height, kind=0, bits=8):
    """A PNG that claims a size, and holds no pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if kind == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + palette
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("kind", [0, 2, 3, 6])
@pytest.mark.parametrize(
    ("width", "height"),
    [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (1, MAX_SIDE + 1), (MAX_SIDE, 4097), (0, 5)],
)
def test_what_a_header_claims_is_bounded(tmp_path, read, kind, width, height):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(width, height, kind))
    with pytest.raises(DataError, match=rf"large\.png: size {width}x{height} px; taken are sides"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 24, *[0] * 6),
        b"P6\n90000 90000\n255\n" + bytes(100),
        b"P5 20 16385 255 " + bytes(100),
    ],
)
def test_every_format_is_bounded(content):
    with pytest.raises(DataError, match="taken are sides of 1 to"):
        decode_image(content)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PPM", "WEBP"])
def test_other_formats_are_read(kind):
    assert decode_image(saved(format=kind)).shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("TIFF", {}), ("BMP", {})),
        ("JPEG", {"exif": exif_with(saved((4, 2), format="JPEG"))}),
        *(("TIFF", {"compression": "tiff_lzw"}), ("GIF", {}), ("PPM", {}), ("WEBP", {})),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_truncated_file_is_refused(tmp_path, kind, options, mode):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 9, (64, 64, 3), np.uint8)).convert(mode)
    if mode == "P" and kind in ("JPEG", "PPM", "WEBP"):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, kind, **options)
    data = file.getvalue()
    for end in (1, 20, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        path = tmp_path / "half"
        path.write_bytes(data[:end])
        for read in (read_image, read_labels):
            with pytest.raises(DataError, match=r"half: \d+ bytes are no image|half: size"):
                read(path)


def test_bytes_behind_a_jpeg_do_no_harm():
    """Phones append films, whose bytes may look like marks."""
    data = saved(format="JPEG").tobytes()
    assert decode_image(data + b"\xff\xda" * 100).shape == (10, 20, 3)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ids_of_few_bits_are_the_stored_numbers(tmp_path, bits):
    ids = np.arange(16, dtype=np.uint8).reshape(2, 8) % (1 << bits)
    packed = [
        bytes([0, *np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel())])
        for row in ids
    ]
    data = png_header(8, 2, 0, bits)
    pixels = zlib.compress(b"".join(packed))
    old = zlib.compress(bytes(100))
    start = data.index(old) - 8
    chunk = b"IDAT" + pixels
    data = (
        data[:start]
        + struct.pack(">I", len(pixels))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + data[start + 12 + len(old) :]
    )
    (tmp_path / "ids.png").write_bytes(data)
    np.testing.assert_array_equal(read_labels(tmp_path / "ids.png"), ids)
    assert read_image(tmp_path / "ids.png").max() == 255


CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "300"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "1"))


def originals():
    """Small files of every format that is read, with their readers."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 30, (12, 17, 3), np.uint8))
    grey = picture.convert("L")
    for image, kind, options in (
        *((picture, kind, {}) for kind in ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF")),
        (picture, "JPEG", {"progressive": True}),
        (picture, "TIFF", {"compression": "tiff_lzw"}),
        (picture, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (grey, "PNG", {}),
        (grey.convert("I;16"), "PNG", {}),
        (grey.convert("1"), "PNG", {}),
        (grey.convert("F"), "TIFF", {}),
        *((picture.convert("P"), kind, {}) for kind in ("PNG", "TIFF", "BMP", "GIF")),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        yield from ((file.getvalue(), read) for read in (read_image, read_labels))


def test_any_mutation_gives_an_image_or_one_sentence(tmp_path):
    path = tmp_path / "mutated"
    rng = random.Random(SEED)
    files = list(originals())
    for number in range(CASES):
        content, read = files[number % len(files)]
        path.write_bytes(mutated(content, rng))
        with contextlib.suppress(DataError):
            array = read(path)
            assert array.ndim in (0, 1, 2, 3)
            assert array.nbytes < 1 << 30


def mutated(content, rng):
    """A file with a few bytes changed, mostly in its header."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(min(len(data), rng.choice((40, 200, 10**6))))
        kind = rng.randrange(5)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[place : place + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
        elif kind == 3 and len(data) > 8:
            del data[place : place + rng.randrange(1, 9)]
        else:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        if not data:
            return b""
    return bytes(data)
