"""Whatever bytes come, decoders answer or raise EncodingError, and never read what is not theirs.

The suite runs a few thousand cases; `make fuzz CASES=100000 SEED=1` runs more and other ones.
"""

import copy
import os
import struct
import warnings
from array import array
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Events
from segrgbx_core.sensors import EncodingConfig
from segrgbx_core.sensors.event import TimeSource
from segrgbx_core.sensors.event_words import encode_evt3, encode_libcaer_cmp
from segrgbx_ros.config.node import Stream, node_config
from segrgbx_ros.messages import images as messages
from segrgbx_ros.messages.events import arrays as event_arrays
from segrgbx_ros.messages.events.packets import ENCODINGS, EventPacketDecoder
from segrgbx_ros.messages.events.stream import EventStream
from segrgbx_ros.pairing.pipeline import Pipeline

CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "2600"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "0"))
EXAMPLES = max(60, CASES // 100)

IMAGE_NAMES = [
    *messages.RGB_ENCODINGS,
    *("16UC1", "16SC1", "32FC1", "64FC1", "8UC13", "32FC", "8UC0", "99UC1", "mono", "", "\0"),
]
FORMS = [
    "rgb8; jpeg compressed bgr8",
    "16UC1; png compressed ",
    "png",
    "",
    "16UC1; compressedDepth png",
    "16UC1; compressedDepth rvl",
    "32FC1; compressedDepth png",
    "32FC1; compressedDepth rvl",
]
EVENT_NAMES = [*ENCODINGS, "evt2", ""]
SIZES = [0, 1, 2, 7, 8, 64, 255, 346, 640, 2**11, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
LONG = [*SIZES, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 1_700_000_000_000_000_000]


# ---- valid messages to begin with


def stamped(**fields):
    stamp = SimpleNamespace(sec=1_700_000_000, nanosec=5)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id="camera"), **fields)


def image(rng):
    name = str(rng.choice(["mono8", "rgb8", "bgra16", "32FC1", "bayer_rggb8", "uyvy", "nv21"]))
    height, width = 2 * int(rng.integers(1, 5)), 2 * int(rng.integers(1, 5))
    step = width * 8
    data = array("B", rng.bytes(3 * height * step))
    return stamped(height=height, width=width, encoding=name, is_bigendian=0, step=step, data=data)


def compressed(rng):
    form = str(rng.choice(FORMS))
    shape = rng.integers(1, 9, 2)
    if "rgb8" in form:
        pixels, suffix = rng.integers(0, 255, (*shape, 3)).astype(np.uint8), ".jpg"
    else:
        pixels, suffix = rng.integers(0, 65536, shape).astype(np.uint16), ".png"
    payload = cv2.imencode(suffix, pixels)[1].tobytes()
    if "rvl" in form:
        payload = struct.pack("<2I", *shape[::-1]) + rng.bytes(8 * pixels.size)
    if "compressedDepth" in form:
        payload = struct.pack("<iff", 0, 10100.0, -1009.0) + payload
    return stamped(format=form, data=array("B", payload))


def some_events(rng):
    count = int(rng.integers(0, 40))
    return Events(
        x=rng.integers(0, 64, count).astype(np.uint16),
        y=rng.integers(0, 48, count).astype(np.uint16),
        t_ns=np.sort(rng.integers(0, 10**9, count)) + 1_700_000_000_000_000_000,
        p=rng.integers(0, 2, count).astype(np.uint8),
        width=64,
        height=48,
    )


def packet(rng):
    encoding = str(rng.choice(EVENT_NAMES[:4]))
    base, payload = 1_700_000_000_000_000_000, rng.bytes(8 * int(rng.integers(0, 40)))
    if encoding == "evt3":
        payload = encode_evt3(some_events(rng))
    elif encoding == "libcaer_cmp":
        base, payload = encode_libcaer_cmp(some_events(rng))
    return stamped(
        height=48,
        width=64,
        seq=int(rng.integers(0, 9)),
        time_base=base,
        encoding=encoding,
        is_bigendian=False,
        events=array("B", payload),
    )


def event_array(rng):
    """CDR written field by field; big-endian at times."""
    order = str(rng.choice(["<", ">"]))
    name = b"camera"[: rng.integers(0, 7)] + b"\0"
    data = struct.pack(f"{order}iII", 1_700_000_000, 5, len(name)) + name
    data += bytes(-len(data) % 4)
    events = some_events(rng)
    data += struct.pack(f"{order}3I", events.height, events.width, len(events))
    for x, y, t, p in zip(events.x, events.y, events.t_ns, events.p, strict=True):
        data += bytes(-len(data) % 2) + struct.pack(f"{order}2H", x, y)
        data += bytes(-len(data) % 4)
        data += struct.pack(f"{order}iI", t // 10**9, t % 10**9) + bytes([p])
    return bytes([0, order == "<", 0, 0]) + data


# ---- what happens to them


def mangled(rng, data):
    """Bytes flipped, replaced, cut, doubled, lengthened; a few times over."""
    data = bytearray(data)
    for _ in range(rng.integers(0, 4)):
        kind, place = rng.integers(0, 6), int(rng.integers(0, len(data) + 1))
        length = int(rng.integers(1, 17))
        if kind == 0 and place < len(data):
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[place : place + length] = rng.bytes(length)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        else:
            data += rng.choice([b"\0", b"\xff", rng.bytes(1)]) * length
    return bytes(data)


def mutated(rng, message):
    if isinstance(message, bytes):
        return mangled(rng, message)
    message = copy.deepcopy(message)
    fields = {
        "height": SIZES,
        "width": SIZES,
        "step": SIZES,
        "seq": LONG,
        "time_base": LONG,
        "is_bigendian": [0, 1],
        "format": FORMS,
        "encoding": EVENT_NAMES if hasattr(message, "events") else IMAGE_NAMES,
    }
    for name in fields.keys() & vars(message).keys():
        if rng.random() < 0.12:
            choice = fields[name]
            setattr(message, name, choice[int(rng.integers(0, len(choice)))])
    if rng.random() < 0.1:
        message.header.stamp.sec = int(rng.choice([-(2**31), -1, 0, 1, 2**31 - 1]))
        message.header.stamp.nanosec = int(rng.choice([0, 2**32 - 1]))
    name = "events" if hasattr(message, "events") else "data"
    setattr(message, name, array("B", mangled(rng, getattr(message, name))))
    return message


# ---- what must hold


def check_pixels(pixels, message):
    assert isinstance(pixels, np.ndarray)
    assert pixels.ndim in (2, 3)
    assert min(pixels.shape) > 0
    pixels.max()  # touches all of it
    data = np.frombuffer(message.data, np.uint8)
    if np.may_share_memory(pixels, data):
        first = pixels.__array_interface__["data"][0]
        end = first + sum(
            (count - 1) * step for count, step in zip(pixels.shape, pixels.strides, strict=True)
        )
        begin = data.__array_interface__["data"][0]
        assert begin <= first
        assert end + pixels.itemsize <= begin + data.size


def check_events(events):
    assert (events.x < events.width).all()
    assert (events.y < events.height).all()
    assert (events.p <= 1).all()
    assert (np.diff(events.t_ns) >= 0).all()
    kinds = [column.dtype.name for column in (events.x, events.y, events.t_ns, events.p)]
    assert kinds == ["uint16", "uint16", "int64", "uint8"]


def check_slice(found):
    if found is not None:
        check_events(found.events)
        assert 0 <= found.begin_ns <= found.end_ns
        if len(found.events):
            assert found.begin_ns <= found.events.t_ns[0]
            assert found.events.t_ns[-1] <= found.end_ns


class Decoders:
    """One of each that has a state, so that damage must not outlive its message."""

    def __init__(self):
        self.packets = EventPacketDecoder()
        self.streams = [EventStream(source) for source in TimeSource]
        self.pipeline = Pipeline(node_config({"pairs": ["event"]}), EncodingConfig())

    def image(self, message):
        check_pixels(messages.image_array(message), message)

    def mosaic(self, message):
        check_pixels(messages.image_array(message, mosaic=True), message)

    def rgb(self, message):
        pixels = messages.rgb_array(message)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)

    def compressed(self, message):
        check_pixels(messages.compressed_array(message), message)

    def packet(self, message):
        check_slice(self.packets.decode(message))

    def array(self, raw):
        check_slice(event_arrays.read_event_array(raw).events)

    def stream(self, message):
        for stream in self.streams:
            found = stream.read_message(message)
            if found is not None:
                check_events(found.events)
                assert len(found.events) == 0 or found.events.t_ns[-1] <= found.reached_ns

    def pair(self, message):
        is_rgb = hasattr(message, "step")
        kind = Stream.RGB if is_rgb else Stream.EVENTS
        for paired in self.pipeline.push_message("event", kind, message, 0):
            paired.sample()


TARGETS = [
    ("image", image),
    ("mosaic", image),
    ("rgb", image),
    ("rgb", compressed),
    ("compressed", compressed),
    ("packet", packet),
    ("packet", packet),
    ("array", event_array),
    ("stream", packet),
    ("stream", event_array),
    ("pair", packet),
    ("pair", event_array),
    ("pair", image),
]


def run(decode, message):
    """True where it was decoded, False where it was refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            decode(message)
        except EncodingError:
            return False
    return True


def test_mutated_messages():
    decoders, tally = Decoders(), Counter()
    for case in range(CASES):
        rng = np.random.default_rng([SEED, case])
        name, make = TARGETS[case % len(TARGETS)]
        message = mutated(rng, make(rng))
        try:
            tally[name, make.__name__, run(getattr(decoders, name), message)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {SEED}, case {case}: {name}, {message!r}") from error
    for name, make in TARGETS:
        good, bad = (tally[name, make.__name__, done] for done in (True, False))
        assert min(good, bad) > CASES // len(TARGETS) // 50, f"{name}: {good} good, {bad} refused"


BYTES = st.binary(max_size=200)
NUMBER = st.one_of(st.sampled_from(SIZES), st.integers(0, 2**32 - 1), st.integers(0, 20))
LONG_NUMBER = st.one_of(st.sampled_from(LONG), st.integers(0, 2**64 - 1), st.integers(0, 20))


@settings(max_examples=EXAMPLES)
@given(
    st.sampled_from(IMAGE_NAMES), NUMBER, NUMBER, NUMBER, st.integers(0, 1), BYTES, st.booleans()
)
def test_images_of_any_fields(encoding, height, width, step, big, data, is_mosaic):
    message = stamped(
        encoding=encoding,
        height=height,
        width=width,
        step=step,
        is_bigendian=big,
        data=array("B", data),
    )
    decoders = Decoders()
    run(decoders.mosaic if is_mosaic else decoders.image, message)
    run(decoders.rgb, message)


@settings(max_examples=EXAMPLES)
@given(st.sampled_from(FORMS), BYTES)
def test_compressed_images_of_any_bytes(form, data):
    run(Decoders().compressed, stamped(format=form, data=array("B", data)))


@settings(max_examples=EXAMPLES)
@given(st.integers(1, 40), st.integers(1, 40), st.binary(max_size=400))
def test_rvl_of_any_chain(height, width, data):
    payload = bytes(12) + struct.pack("<2I", width, height) + data
    run(Decoders().compressed, stamped(format=FORMS[5], data=array("B", payload)))


PACKETS = st.builds(
    lambda **fields: stamped(**{**fields, "events": array("B", fields["events"])}),
    encoding=st.sampled_from(EVENT_NAMES),
    height=NUMBER,
    width=NUMBER,
    seq=LONG_NUMBER,
    time_base=LONG_NUMBER,
    is_bigendian=st.booleans(),
    events=BYTES,
)


@settings(max_examples=EXAMPLES)
@given(st.lists(PACKETS, max_size=5))
def test_packets_of_any_fields(packets):
    decoders = Decoders()
    for message in packets:
        for decode in (decoders.packet, decoders.stream, decoders.pair):
            assert run(decode, message) in (True, False)  # nothing but a refusal is raised


@settings(max_examples=EXAMPLES)
@given(BYTES, st.sampled_from([0, 1]))
def test_event_arrays_of_any_bytes(data, kind):
    for raw in (data, bytes([0, kind, 0, 0]) + data):
        for decode in (Decoders().array, Decoders().stream, Decoders().pair):
            assert run(decode, raw) in (True, False)  # nothing but a refusal is raised
