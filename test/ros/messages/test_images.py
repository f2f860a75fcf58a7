"""Every encoding of sensor_msgs, padding, byte order, compression and the refusals."""

import struct
import subprocess
import sys
import zlib
from array import array
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
from made_messages import compressed

from segrgbx_core.base.errors import EncodingError
from segrgbx_ros.messages import images as messages


def image(pixels, encoding, *, padding=0, big=False, kind="array", size=None):
    """A message as rclpy ("array") or rosbags ("ndarray") would hand it out."""
    height, width = size or pixels.shape[:2]
    if big:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    data = {"array": lambda: array("B", rows.tobytes()), "ndarray": rows.ravel}[kind]()
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=data,
    )


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def pixels_of(rng, dtype, channels, height=4, width=6):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return (rng.random(shape) * 200).astype(dtype)


PLAIN = {
    "mono8": ("u1", 1),
    "mono16": ("u2", 1),
    "rgb8": ("u1", 3),
    "rgb16": ("u2", 3),
    "8UC1": ("u1", 1),
    "8SC1": ("i1", 1),
    "8UC": ("u1", 1),
    "16UC1": ("u2", 1),
    "16SC1": ("i2", 1),
    "32SC1": ("i4", 1),
    "32FC1": ("f4", 1),
    "64FC1": ("f8", 1),
    "8UC3": ("u1", 3),
    "8UC4": ("u1", 4),
    "16UC4": ("u2", 4),
    "32FC2": ("f4", 2),
    "8UC13": ("u1", 13),
}


@pytest.mark.parametrize("kind", ["array", "ndarray"])
@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize(("encoding", "layout"), PLAIN.items())
def test_plain_layouts_are_views_whatever_the_padding(rng, encoding, layout, padding, kind):
    pixels = pixels_of(rng, *layout)
    message = image(pixels, encoding, padding=padding, kind=kind)
    read = messages.image_array(message)
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype == pixels.dtype
    message.data[0] ^= 1
    assert not np.array_equal(read, pixels), "a copy was made"


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", [name for name, (kind, _) in PLAIN.items() if kind[1] > "1"])
def test_big_endian_data_comes_out_native(rng, encoding, padding):
    pixels = pixels_of(rng, *PLAIN[encoding])
    read = messages.image_array(image(pixels, encoding, big=True, padding=padding))
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype.isnative


@pytest.mark.parametrize("padding", [0, 2, 3])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("name", "order"), [("bgr", [2, 1, 0]), ("rgba", [0, 1, 2, 3]), ("bgra", [2, 1, 0, 3])]
)
def test_colours_come_out_as_rgb_without_alpha(rng, name, order, bits, padding):
    rgb = pixels_of(rng, f"u{bits // 8}", 3)
    with_alpha = np.dstack([rgb, np.full_like(rgb[..., :1], 77)])
    for big in (False, True):
        message = image(with_alpha[..., order], f"{name}{bits}", padding=padding, big=big)
        np.testing.assert_array_equal(messages.image_array(message), rgb)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_is_demosaiced_by_its_own_pattern(pattern, bits):
    colour = {"r": 200, "g": 120, "b": 10}
    mosaic = np.empty((8, 10), f"u{bits // 8}")
    for place, letter in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = colour[letter]
    message = image(mosaic, f"bayer_{pattern}{bits}", padding=4)
    read = messages.image_array(message)
    assert read.shape == (8, 10, 3)
    assert (read == [200, 120, 10]).all()
    np.testing.assert_array_equal(messages.image_array(message, mosaic=True), mosaic)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    "encoding", ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21", "nv24"]
)
def test_yuv_gives_the_colour_back(encoding, padding):
    rgb = np.full((4, 6, 3), (200, 60, 30), np.uint8)
    planar = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    luma, u, v = planar[:4], int(planar[4, 0]), int(planar[5, 0])
    if encoding in ("nv12", "nv21"):
        chroma = [u, v] if encoding == "nv12" else [v, u]
        packed = np.vstack([luma, np.tile(np.uint8(chroma), (2, 3))])
    elif encoding == "nv24":
        packed = np.vstack([luma, np.tile(np.uint8([u, v]), (8, 3))])
    else:
        packed = np.empty((4, 6, 2), np.uint8)
        first = 1 if encoding in ("uyvy", "yuv422") else 0
        packed[..., first] = luma
        packed[:, ::2, 1 - first], packed[:, 1::2, 1 - first] = u, v
    read = messages.image_array(image(packed, encoding, padding=padding, size=(4, 6)))
    assert read.shape == rgb.shape
    assert np.abs(read.astype(int) - rgb).max() <= 2


def test_each_nv24_pixel_keeps_its_own_chroma(rng):
    planes = rng.integers(16, 235, (12, 6)).astype(np.uint8)
    read = messages.image_array(image(planes, "nv24", size=(4, 6)))
    u, v = planes[4:].reshape(4, 6, 2).transpose(2, 0, 1).astype(float) - 128
    y = 1.164 * (planes[:4].astype(float) - 16)
    want = np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], -1)
    assert np.abs(read - np.clip(want, 0, 255)).max() <= 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"encoding": "jpeg2000"}, "encoding 'jpeg2000' is unknown"),
        ({"encoding": "8UC0"}, "encoding '8UC0' is unknown"),
        ({"encoding": ""}, "encoding '' is unknown"),
        ({"encoding": "8UC" + "9" * 5000}, r"encoding '8UC9{74}\.\.\.' is unknown"),
        ({"encoding": "a\nb\x1b[2J"}, r"encoding 'a\\nb\\x1b\[2J' is unknown"),
        ({"height": 0}, "size 6x0 px; taken are sides of 1 to 16384 px"),
        ({"width": 0}, "size 0x4 px; taken"),
        ({"data": array("B")}, "0 bytes of data; 6x4 'mono8' needs 24"),
        ({"data": array("B", range(23))}, "23 bytes of data; 6x4 'mono8' needs 24"),
        ({"step": 5}, r"step 5 is less than a row of 6 px 'mono8' \(6 bytes\)"),
        ({"step": 0}, "step 0 is less"),
        ({"encoding": "nv21", "step": 6}, "24 bytes of data; 6x4 'nv21' needs 36"),
        ({"encoding": "nv21", "height": 3}, "size 6x3 is odd"),
        ({"encoding": "uyvy", "width": 3, "step": 6}, "too small or odd for 'uyvy'"),
    ],
)
def test_broken_images_are_refused_with_the_reason(changes, complaint):
    message = image(np.zeros((4, 6), np.uint8), "mono8")
    message.__dict__.update(changes)
    with pytest.raises(EncodingError, match=complaint):
        messages.image_array(message)


def test_allowed_encodings_are_named():
    message = image(np.zeros((4, 6, 2), np.uint8), "yuv422")
    with pytest.raises(EncodingError, match="'yuv422' is not supported here; use mono8, 16UC1"):
        messages.image_array(message, allowed=("mono8", "16UC1"))
    deep = image(np.zeros((4, 6), np.uint16), "16UC")
    assert messages.image_array(deep, allowed=("16UC1",)).dtype == np.uint16


def test_the_last_row_may_lack_its_padding(rng):
    pixels = pixels_of(rng, "u1", 1)
    message = image(pixels, "mono8", padding=5)
    message.data = message.data[:-5]
    np.testing.assert_array_equal(messages.image_array(message), pixels)


def test_a_wrong_name_can_be_overruled(rng):
    pixels = pixels_of(rng, "u2", 1)
    message = image(pixels, "mono8")
    np.testing.assert_array_equal(messages.image_array(message, "mono16"), pixels)


def test_rgb_array_accepts_what_cameras_send(rng):
    rgb = pixels_of(rng, "u1", 3)
    np.testing.assert_array_equal(messages.rgb_array(image(rgb[..., ::-1], "bgr8")), rgb)
    np.testing.assert_array_equal(messages.rgb_array(image(rgb[..., ::-1], "8UC3")), rgb)
    deep = rgb.astype(np.uint16) << 8
    np.testing.assert_array_equal(messages.rgb_array(image(deep, "rgb16")), rgb)
    grey = messages.rgb_array(image(rgb[..., 0], "mono8"))
    np.testing.assert_array_equal(grey, np.repeat(rgb[..., :1], 3, axis=2))
    with pytest.raises(EncodingError, match="'32FC1' is not supported"):
        messages.rgb_array(image(np.zeros((4, 6), np.float32), "32FC1"))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("encoding", ["rgb16", "mono16", "bayer_rggb16"])
def test_cameras_of_fewer_bits_are_stretched_to_their_full_scale(rng, bits, encoding):
    eight = rng.integers(0, 256, (4, 6, 3) if encoding == "rgb16" else (4, 6)).astype(np.uint16)
    if encoding == "bayer_rggb16":
        eight = np.full((4, 6), 100, np.uint16)
    stored = np.rint(eight / 255 * ((1 << bits) - 1)).astype(np.uint16)
    read = messages.rgb_array(image(stored, encoding), full_scale=(1 << bits) - 1)
    expected = eight if eight.ndim == 3 else np.repeat(eight[..., None], 3, axis=2)
    assert np.abs(read.astype(int) - expected).max() <= 1
    assert read.dtype == np.uint8
    white = image(np.full((2, 2), 1 << bits, np.uint16), "mono16")
    assert (messages.rgb_array(white, full_scale=(1 << bits) - 1) == 255).all()


@pytest.mark.parametrize("named", ["", "foo", "mono8"])
def test_a_wrong_or_empty_name_of_rgb_can_be_overruled(rng, named):
    rgb = pixels_of(rng, "u1", 3)
    with_name = image(rgb[..., ::-1], "bgr8")
    with_name.encoding = named
    np.testing.assert_array_equal(messages.rgb_array(with_name, "8UC3"), rgb)
    semi_planar = image(np.full((6, 4), 128, np.uint8), named, size=(4, 4))
    assert messages.rgb_array(semi_planar, "nv12").shape == (4, 4, 3)


def test_pictures_may_be_grey_or_coloured_at_either_depth(rng):
    bgr = pixels_of(rng, "u1", 3)
    for name, order in (("8UC3", -1), ("bgr8", -1), ("rgb8", 1)):
        picture = messages.picture_array(image(bgr, name))
        np.testing.assert_array_equal(picture, bgr[..., ::order])
    with_alpha = np.dstack([bgr, bgr[..., 0]])
    np.testing.assert_array_equal(
        messages.picture_array(image(with_alpha, "8UC4")), bgr[..., ::-1]
    )
    grey = pixels_of(rng, "u2", 1)
    np.testing.assert_array_equal(messages.picture_array(image(grey, "16UC1")), grey)
    depth = np.full((4, 4), 2.0, np.float32)
    coded = struct.pack("<iff", 0, 10100.0, -1009.0) + png(np.full((4, 4), 700, np.uint16))
    with pytest.raises(EncodingError, match="1 channels of float32 are no picture"):
        messages.picture_array(compressed(coded, "32FC1; compressedDepth png"))
    with pytest.raises(EncodingError, match="'32FC1' is not supported here"):
        messages.picture_array(image(depth, "32FC1"))


@pytest.mark.parametrize("size", [(1, 4_000_000), (20_000, 2), (5000, 5000)])
@pytest.mark.parametrize("encoding", ["mono8", "rgb8", "bayer_rggb8", "nv12", "nv24", "32FC1"])
def test_one_limit_of_size_holds_for_every_encoding(encoding, size):
    height, width = size
    message = image(np.zeros((1, 1), np.uint8), encoding)
    message.__dict__.update(height=height, width=width, step=0, data=b"")
    with pytest.raises(EncodingError, match=f"size {width}x{height} px; taken are sides of 1 to"):
        messages.image_array(message)


def test_compressed_images_keep_depth_and_order(rng):
    rgb = np.full((8, 8, 3), (200, 60, 30), np.uint8)
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()
    read = messages.rgb_array(compressed(jpeg, "rgb8; jpeg compressed bgr8"))
    assert np.abs(read.astype(int) - rgb).max() <= 3
    deep = pixels_of(rng, "u2", 1) * 300
    read = messages.compressed_array(compressed(png(deep), "16UC1; png compressed "))
    np.testing.assert_array_equal(read, deep)
    assert read.dtype == np.uint16
    with_alpha = np.dstack([rgb[..., ::-1], np.full((8, 8), 9, np.uint8)])
    np.testing.assert_array_equal(messages.rgb_array(compressed(png(with_alpha), "png")), rgb)


def test_compressed_depth_becomes_counts_or_metres():
    counts = np.array([[0, 1000], [2000, 65535]], np.uint16)
    header = struct.pack("<iff", 0, 10100.0, -1009.0)
    raw = compressed(header + png(counts), "16UC1; compressedDepth png")
    np.testing.assert_array_equal(messages.compressed_array(raw), counts)
    metres = messages.compressed_array(compressed(header + png(counts), "32FC1; compressedDepth"))
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres, [[np.nan, 10100 / 2009], [10100 / 3009, 10100 / 66544]])


@pytest.mark.parametrize(
    ("data", "form", "complaint"),
    [
        (b"", "jpeg", "without data"),
        (b"not an image at all", "jpeg", "compressed image 'jpeg'"),
        (b"0123456789", "16UC1; compressedDepth png", "has no image in it"),
        (b"0" * 16, "16UC1; compressedDepth rvl", "has no size in it"),
    ],
)
def test_broken_compressed_images_are_refused(data, form, complaint):
    with pytest.raises(EncodingError, match=complaint):
        messages.compressed_array(compressed(data, form))


def claiming(pixels, suffix, height, width):
    """A small image whose header claims another size."""
    data = bytearray(cv2.imencode(suffix, pixels)[1].tobytes())
    if suffix == ".jpg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    else:
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("suffix", "form", "before"),
    [
        (".jpg", "rgb8; jpeg compressed bgr8", b""),
        (".png", "16UC1; png compressed ", b""),
        (".png", "16UC1; compressedDepth png", bytes(12)),
    ],
)
def test_sizes_that_would_fill_the_memory_are_not_decoded(monkeypatch, suffix, form, before):
    pixels = np.zeros((8, 8), np.uint16 if suffix == ".png" else np.uint8)
    fits = claiming(pixels, suffix, 8, 8)
    assert messages.compressed_array(compressed(before + fits, form)).shape == (8, 8)
    monkeypatch.setattr(messages, "decode_image", lambda *_: pytest.fail("was decoded"))
    large = claiming(pixels, suffix, 30_000, 40_000)
    with pytest.raises(EncodingError, match=f"'{form}': size 40000x30000 px; taken are"):
        messages.compressed_array(compressed(before + large, form))


def test_filled_messages_read_back(rng):
    for encoding, (dtype, channels) in {"mono8": ("u1", 1), "rgb8": ("u1", 3)}.items():
        pixels = pixels_of(rng, dtype, channels, height=5, width=7)
        message = messages.fill_image(SimpleNamespace(), pixels[:, ::-1], encoding)
        assert isinstance(message.data, array)
        assert message.step == 7 * channels
        np.testing.assert_array_equal(messages.image_array(message), pixels[:, ::-1])


def test_stamps_are_integer_nanoseconds():
    stamp = SimpleNamespace(sec=1_700_000_000, nanosec=123_456_789)
    message = SimpleNamespace(header=SimpleNamespace(stamp=stamp))
    assert messages.stamp_ns(message) == 1_700_000_000_123_456_789


def test_cv_bridge_is_used_for_bayer_where_it_is_installed(monkeypatch):
    asked = []

    class Bridge:
        def imgmsg_to_cv2(self, message, encoding):
            asked.append(encoding)
            mosaic = np.frombuffer(message.data, np.uint8).reshape(message.height, -1)
            return cv2.cvtColor(mosaic, cv2.COLOR_BayerBG2RGB)

    mosaic = np.arange(80, dtype=np.uint8).reshape(8, 10)
    without = messages.image_array(image(mosaic, "bayer_rggb8"))
    boost = ModuleType("cv_bridge.boost")
    boost.cv_bridge_boost = object()
    module = ModuleType("cv_bridge")
    module.CvBridge, module.boost = Bridge, boost
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    monkeypatch.setitem(sys.modules, "cv_bridge.boost", boost)
    messages._bridge.cache_clear()
    np.testing.assert_array_equal(messages.image_array(image(mosaic, "bayer_rggb8")), without)
    assert asked == ["rgb8"]
    messages.image_array(image(mosaic, "bayer_rggb8", padding=2))  # which cv_bridge would skew
    assert asked == ["rgb8"]
    messages._bridge.cache_clear()


def test_messages_config_and_pipeline_import_neither_ros_nor_torch():
    code = (
        "import sys, segrgbx_ros.config.node, segrgbx_ros.messages.images;"
        "import segrgbx_ros.pairing.pipeline;"
        "print([n for n in ('rclpy', 'torch', 'rosbags', 'sensor_msgs') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
