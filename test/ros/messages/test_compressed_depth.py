"""RVL against an encoder written here number by number, and what damaged bytes do."""

import struct

import cv2
import numpy as np
import pytest
from made_messages import compressed

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.images import MAX_PIXELS
from segrgbx_ros.messages.images import compressed_array, unpack_rvl

HEADER = struct.pack("<iff", 0, 10100.0, -1009.0)


def number(value):
    nibbles = []
    while True:
        value, low = value >> 3, value & 7
        nibbles.append(low | 8 if value else low)
        if not value:
            return nibbles


def pack(nibbles):
    nibbles = nibbles + [0] * (-len(nibbles) % 8)
    words = [
        sum(nibble << 28 - 4 * place for place, nibble in enumerate(nibbles[first : first + 8]))
        for first in range(0, len(nibbles), 8)
    ]
    return struct.pack(f"<{len(words)}I", *words)


def rvl(counts):
    """The packed image, written one pixel after the other."""
    pixels, nibbles, place, last = counts.ravel().tolist(), [], 0, 0
    while place < len(pixels):
        for is_run in (lambda value: value == 0, lambda value: value != 0):
            first = place
            while place < len(pixels) and is_run(pixels[place]):
                place += 1
            nibbles += number(place - first)
        for value in pixels[first:place]:
            step, last = value - last, value
            nibbles += number(step << 1 if step >= 0 else (-step << 1) - 1)
    height, width = counts.shape
    return struct.pack("<2I", width, height) + pack(nibbles)


def message(payload, form):
    return compressed(HEADER + payload, form)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 61)])
def test_rvl_reads_back(rng, shape, share):
    counts = rng.integers(1, 65536, shape).astype(np.uint16) * (rng.random(shape) < share)
    counts = counts.astype(np.uint16)
    read = unpack_rvl(np.frombuffer(rvl(counts), np.uint8))
    np.testing.assert_array_equal(read, counts)
    assert read.dtype == np.uint16


def test_rvl_of_a_smooth_scene_reads_back():
    rows, columns = np.mgrid[:60, :80]
    counts = (800 + 10 * columns + 3 * rows).astype(np.uint16)
    counts[20:30, 10:50] = 0
    assert len(rvl(counts)) < counts.nbytes / 2
    read = compressed_array(message(rvl(counts), "16UC1; compressedDepth rvl"))
    np.testing.assert_array_equal(read, counts)


def test_closed_case():
    # one zero, two values: 0 -> 3 is step 3, zigzag 6; 3 -> 2 is step -1, zigzag 1; 12 = 0b1_100
    nibbles = [1, 2, 6, 1, 8 | 4, 1, 0]
    counts = unpack_rvl(np.frombuffer(struct.pack("<2I", 5, 3) + pack(nibbles), np.uint8))
    assert counts.ravel().tolist() == [0, 3, 2] + [0] * 12


def test_quantised_inverse_depth_comes_back_as_metres():
    metres = np.array([[0.5, 1.0], [9.5, np.nan]], np.float32)
    scale, offset = 10100.0, -1009.0
    counts = np.where(np.isnan(metres), 0, scale / metres + offset).astype(np.uint16)
    for form, payload in {
        "32FC1; compressedDepth rvl": rvl(counts),
        "32FC1; compressedDepth png": cv2.imencode(".png", counts)[1].tobytes(),
    }.items():
        read = compressed_array(message(payload, form))
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, metres, rtol=2e-2)


SIZE = struct.pack("<2I", 5, 3)


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"1234567", "has no size in it"),
        (struct.pack("<2I", 0, 3), "0x3 px"),
        (struct.pack("<2I", 1 << 16, MAX_PIXELS >> 15), "is the message whole"),
        (SIZE, "ends after 0 of 15 px"),
        (SIZE + pack(number(3) + number(2) + [6, 1]), "ends after 5 of 15 px"),
        (SIZE + pack(number(16) + number(0)), "has a run that leaves it"),
        (SIZE + pack(number(0) + number(16)), "has a run that leaves it"),
        (SIZE + pack(number(0) + number(15) + [1, 1]), "has a run that leaves it"),
        (SIZE + pack([9] * 16), "ends after 0 of 15 px"),
        (SIZE + pack(number(14) + number(1) + [9] * 11 + [1]), "more than 32 bits"),
        (SIZE + pack([9] * 11 + [1] + number(1)), "has a run that leaves it"),
    ],
)
def test_damaged_images_are_refused(payload, complaint):
    with pytest.raises(EncodingError, match=f"compressedDepth rvl': .*{complaint}"):
        compressed_array(message(payload, "16UC1; compressedDepth rvl"))


def test_depth_has_one_channel_of_16_bits():
    grey = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    with pytest.raises(EncodingError, match="holds uint8 of shape"):
        compressed_array(message(grey, "16UC1; compressedDepth png"))
