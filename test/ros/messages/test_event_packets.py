"""Event packets against decoders written here word by word, in whatever portions they come."""

import struct
import tracemalloc
from array import array
from types import SimpleNamespace

import numpy as np
import pytest

from segrgbx_core.base.errors import DataError, EncodingError
from segrgbx_core.base.images import MAX_PIXELS
from segrgbx_core.base.samples import Events
from segrgbx_core.sensors.event_words import (
    BLOCK_WORDS,
    EVT3,
    WordDecoder,
    encode_evt3,
    encode_libcaer_cmp,
)
from segrgbx_ros.messages.events.packets import MAX_BYTES, MAX_EVENTS, EventPacketDecoder

WIDTH, HEIGHT = 640, 480
BASE_NS = 1_700_000_000_000_000_000


def packet(payload, encoding="evt3", seq=0, **changes):
    data = array("B", bytes(payload))
    fields = {"width": WIDTH, "height": HEIGHT, "seq": seq, "time_base": 0, "is_bigendian": False}
    return SimpleNamespace(**{**fields, "encoding": encoding, "events": data, **changes})


def words(*pairs):
    return b"".join(struct.pack("<H", code << 12 | value) for code, value in pairs)


def rows(found):
    if found is None:
        return []
    events = found.events
    return list(
        zip(*(a.tolist() for a in (events.x, events.y, events.t_ns, events.p)), strict=True)
    )


class Evt3:
    """EVT3, one word after the other."""

    def __init__(self):
        self.y = self.base = None
        self.polarity = self.high = self.low = self.turns = 0
        self.has_high = self.has_time = False

    def decode(self, payload):
        found = []
        for (word,) in struct.iter_unpack("<H", payload):
            code, value = word >> 12, word & 0xFFF
            if code == 0x8:
                if value < self.high - 10:
                    self.turns += 1
                self.high, self.has_high = value, True
            elif code == 0x6:
                self.low = value
                self.has_time = self.has_time or self.has_high
            elif code == 0x0:
                self.y = value & 0x7FF
            elif code == 0x2:
                self.emit(found, value & 0x7FF, value >> 11)
            elif code == 0x3:
                self.base, self.polarity = value & 0x7FF, value >> 11
            elif code in (0x4, 0x5):
                count = 12 if code == 0x4 else 8
                for bit in range(count):
                    if value >> bit & 1 and self.base is not None:
                        self.emit(found, self.base + bit, self.polarity)
                if self.base is not None:
                    self.base += count
        return sorted(found, key=lambda event: event[2])

    def emit(self, found, x, polarity):
        if self.has_time and self.y is not None and x < WIDTH and self.y < HEIGHT:
            t_us = self.turns << 24 | self.high << 12 | self.low
            found.append((x, self.y, t_us * 1000, polarity))


def libcaer_cmp(payload, base_ns):
    found, high, low, x, base, polarity = [], 0, 0, None, None, 0
    for (word,) in struct.iter_unpack("<H", payload):
        code, value = word >> 12, word & 0xFFF
        hits = []
        if code == 0:
            high = value
        elif code == 1:
            low = value
        elif code == 2:
            x = value & 0x7FF
        elif code == 3:
            hits = [(value & 0x7FF, value >> 11)]
        elif code == 4:
            base, polarity = value & 0x7FF, value >> 11
        elif code == 5 and base is not None:
            hits = [(base + bit, polarity) for bit in range(8) if value >> bit & 1]
            base += 8
        t_ns = base_ns + 1000 * (high << 12 | low)
        found += [(x, y, t_ns, p) for y, p in hits if x is not None and x < WIDTH and y < HEIGHT]
    return sorted(found, key=lambda event: event[2])


def random_words(rng, count, share):
    """Words of which codes occur as often as `share` says; places fit the sensor mostly."""
    codes = rng.choice(np.arange(16), count, p=np.asarray(share) / np.sum(share))
    values = rng.integers(0, 4096, count)
    is_place = np.isin(codes, (0x0, 0x2, 0x3, 0x4)) & (rng.random(count) < 0.8)
    values[is_place] = rng.integers(0, HEIGHT, is_place.sum()) | rng.choice(
        [0, 1 << 11], is_place.sum()
    )
    return codes, values


MIXES = {
    "singles": {0x0: 5, 0x2: 9, 0x6: 4, 0x8: 1},
    "vectors": {0x0: 2, 0x3: 3, 0x4: 9, 0x5: 6, 0x6: 2, 0x8: 1},
    "both": {0x0: 3, 0x2: 5, 0x3: 3, 0x4: 5, 0x5: 5, 0x6: 3, 0x8: 1, 0xA: 1},
    "anything": dict.fromkeys(range(16), 1),
    "no time": {0x0: 3, 0x2: 5, 0x3: 3, 0x4: 5, 0x5: 5},
    "time is rare": {0x0: 30, 0x2: 50, 0x3: 30, 0x4: 50, 0x5: 50, 0x6: 1, 0x8: 1},
}


def stream(rng, mix, count):
    codes, values = random_words(rng, count, [mix.get(code, 0) for code in range(16)])
    is_high = codes == 0x8  # time that walks on, with noise and roll-overs
    steps = rng.choice([-12, -10, -3, 0, 1, 2, 40, 900], is_high.sum())
    values[is_high] = np.cumsum(steps) % 4096
    return (codes << 12 | values).astype("<u2").tobytes()


@pytest.mark.parametrize("parts", [1, 17, 400])
@pytest.mark.parametrize("mix", MIXES)
def test_evt3_equals_the_scalar_decoder_in_any_portions(rng, mix, parts):
    payload = stream(rng, MIXES[mix], 6000)
    cuts = np.sort(rng.integers(0, len(payload) // 2, parts - 1)) * 2
    decoder, slow = EventPacketDecoder(), Evt3()
    count = 0
    for seq, (first, end) in enumerate(zip([0, *cuts], [*cuts, len(payload)], strict=True)):
        part = payload[first:end]
        found, expected = decoder.decode(packet(part, seq=seq)), slow.decode(part)
        assert rows(found) == expected
        assert (found is not None) == slow.has_time
        count += len(expected)
    assert (count > 1000) == (mix != "no time")


def test_blocks_do_not_show(rng):
    payload = np.frombuffer(stream(rng, MIXES["both"], 5000), np.uint16)
    whole, parts = WordDecoder(EVT3), WordDecoder(EVT3, block_words=97)
    extent, bound = (HEIGHT, WIDTH), 10**6
    for one, other in zip(
        whole.decode(payload, extent, bound), parts.decode(payload, extent, bound), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert (whole.now_us, whole.first_us) == (parts.now_us, parts.first_us)


def test_long_payloads_are_decoded_in_blocks(rng):
    payload = stream(rng, MIXES["singles"], 3 * BLOCK_WORDS + 5)
    assert rows(EventPacketDecoder().decode(packet(payload))) == Evt3().decode(payload)


START = ((0x8, 5), (0x6, 7), (0x0, 100))
START_NS = (5 << 12 | 7) * 1000


def test_evt3_closed_case():
    payload = words(
        *START, (0x2, 300), (0x3, 1 << 11 | 20), (0x4, 0b100000000001), (0x5, 0b11), (0xA, 1)
    )
    assert rows(EventPacketDecoder().decode(packet(payload))) == [
        (300, 100, START_NS, 0),
        (20, 100, START_NS, 1),
        (31, 100, START_NS, 1),
        (32, 100, START_NS, 1),
        (33, 100, START_NS, 1),
    ]


def test_nothing_is_emitted_before_the_time_is_known():
    decoder = EventPacketDecoder()
    assert decoder.decode(packet(words((0x6, 7), (0x0, 1), (0x2, 2)))) is None
    assert decoder.decode(packet(words((0x8, 5), (0x2, 3)), seq=1)) is None
    assert rows(decoder.decode(packet(words((0x2, 4), (0x6, 7), (0x2, 5)), seq=2))) == [
        (5, 1, START_NS, 0)
    ]


def test_the_clock_rolls_over_but_not_by_noise():
    decoder = EventPacketDecoder()
    times = []
    for seq, high in enumerate([4090, 4095, 4085, 4084, 3, 4095, 0]):
        found = decoder.decode(packet(words((0x8, high), (0x6, 0), (0x0, 1), (0x2, 2)), seq=seq))
        times.append(rows(found)[0][2] // 1000 >> 12)
    assert times == [4090, 4095, 4085, 4084, 4096 + 3, 4096 + 4095, 8192]


def test_a_message_tells_how_far_the_stream_has_come():
    found = EventPacketDecoder().decode(packet(words(*START, (0x2, 1), (0x8, 6), (0x6, 0))))
    assert (found.begin_ns, found.end_ns) == (START_NS, (6 << 12) * 1000)
    quiet = EventPacketDecoder().decode(packet(words((0x8, 5), (0x6, 7), (0x6, 9))))
    assert len(quiet.events) == 0
    assert (quiet.begin_ns, quiet.end_ns) == (START_NS, START_NS + 2000)


def test_after_lost_packets_nothing_is_guessed():
    decoder = EventPacketDecoder()
    decoder.decode(packet(words(*START, (0x3, 9), (0x2, 1)), seq=10))
    late = words((0x2, 2), (0x4, 1), (0x6, 1), (0x8, 9), (0x6, 3), (0x2, 4), (0x0, 6), (0x2, 5))
    assert rows(decoder.decode(packet(late, seq=13))) == [(5, 6, (9 << 12 | 3) * 1000, 0)]
    assert decoder.num_lost == 2
    again = decoder.decode(packet(words(*START, (0x2, 1)), seq=0))
    assert rows(again) == [(1, 100, START_NS, 0)], "the driver was started anew"
    assert decoder.num_lost == 2


@pytest.mark.parametrize("share", [[9, 9, 9, 9, 9, 9, 1], [1, 4, 9, 9, 0, 0], [1, 4, 9, 0, 9, 9]])
def test_libcaer_cmp_equals_the_scalar_decoder(rng, share):
    decoder = EventPacketDecoder()
    for seq in range(20):
        mix = [*share, *[0] * (16 - len(share))]
        codes, values = random_words(rng, 700, mix)
        payload = (codes << 12 | values).astype("<u2").tobytes()
        found = decoder.decode(packet(payload, "libcaer_cmp", seq, time_base=BASE_NS))
        assert rows(found) == libcaer_cmp(payload, BASE_NS)
        assert found.begin_ns == BASE_NS


def test_libcaer_closed_case():
    def item(x, y, p, t_us):
        return struct.pack("<Ii", x << 17 | y << 2 | p << 1 | 1, t_us)

    payload = item(639, 479, 1, 2**31 - 2) + item(3, 4, 0, 1) + item(640, 4, 0, 1)
    found = EventPacketDecoder().decode(packet(payload, "libcaer", time_base=BASE_NS))
    assert rows(found) == [
        (639, 479, BASE_NS + (2**31 - 2) * 1000, 1),
        (3, 4, BASE_NS + (2**31 + 1) * 1000, 0),
    ]


def test_mono_closed_case():
    items = [50 | 7 << 32 | 8 << 48 | 1 << 63, 60 | 639 << 32 | 479 << 48]
    found = EventPacketDecoder().decode(
        packet(struct.pack("<2Q", *items), "mono", time_base=BASE_NS)
    )
    assert rows(found) == [(7, 8, BASE_NS + 50, 1), (639, 479, BASE_NS + 60, 0)]
    assert (found.begin_ns, found.end_ns) == (BASE_NS + 50, BASE_NS + 60)


def test_triggers_and_empty_packets_tell_nothing():
    for encoding in ("trigger", "evt3", "libcaer_cmp", "libcaer", "mono"):
        assert EventPacketDecoder().decode(packet(b"", encoding)) is None
    assert EventPacketDecoder().decode(packet(bytes(8), "trigger")) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"encoding": "evt2"}, "'evt2' is not supported; set the driver to evt3"),
        ({"encoding": "evt21"}, "set the driver to evt3"),
        ({"encoding": "raw"}, "known are evt3, libcaer_cmp, libcaer, mono, trigger"),
        ({"is_bigendian": True}, "big-endian"),
        ({"width": 0}, "event sensor: size 0x480 px; taken are"),
        ({"width": MAX_PIXELS}, "is the message whole"),
        ({"width": 8000, "height": 8000}, "is the message whole"),
        ({"events": array("B", b"abc")}, "3 bytes of 'evt3' events; expected a multiple of 2"),
        ({"encoding": "libcaer", "events": array("B", b"abcd")}, "expected a multiple of 8"),
        ({"encoding": "libcaer", "time_base": 2**64 - 1}, "event times"),
        (
            {"encoding": "libcaer", "events": array("B", struct.pack("<6i", 0, 3, 0, 2, 0, 1))},
            "run back 2 times",
        ),
        ({"encoding": "libcaer", "events": array("B", struct.pack("<2i", 0, -1))}, "event times"),
    ],
)
def test_broken_packets_are_refused_with_the_reason(changes, complaint):
    with pytest.raises(EncodingError, match=complaint):
        EventPacketDecoder().decode(packet(b"", **changes))


def decoded_peak(decoder, message):
    """What a message decodes to, and the most memory that took in MB."""
    tracemalloc.start()
    try:
        return decoder.decode(message), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


FULL_VECTOR = (0x4, 0xFFF)


@pytest.mark.parametrize("megabytes", [1, 10])
def test_vectors_beyond_the_sensor_cost_no_memory(megabytes):
    # Nothing sets the base anew: all but the first vectors lie beyond the last column.
    payload = words(*START, (0x3, 0)) + words(FULL_VECTOR) * (megabytes << 19)
    decoder = EventPacketDecoder()
    found, peak_mb = decoded_peak(decoder, packet(payload))
    assert sorted(row[0] for row in rows(found)) == list(range(WIDTH))
    assert decoder.num_cut == 0
    assert peak_mb < 40 + 4 * megabytes


@pytest.mark.parametrize("code", ["vectors", "singles", "lines"])
def test_what_lies_beyond_the_sensor_is_dropped_to_the_pixel(code):
    closed = {
        "vectors": [(0x3, WIDTH - 5), FULL_VECTOR, (0x3, 5), (0x5, 0b10000001)],
        "singles": [(0x2, WIDTH - 1), (0x2, WIDTH), (0x2, 2047)],
        "lines": [(0x0, HEIGHT), (0x2, 1), (0x3, 1), FULL_VECTOR, (0x0, HEIGHT - 1), (0x2, 9)],
    }[code]
    payload = words(*START, *closed)
    assert rows(EventPacketDecoder().decode(packet(payload))) == Evt3().decode(payload)


@pytest.mark.parametrize("encoding", ["evt3", "libcaer_cmp", "libcaer", "mono"])
@pytest.mark.parametrize("has_vectors", [True, False])
def test_of_too_many_events_the_newest_are_kept_and_the_rest_is_counted(
    rng, encoding, has_vectors
):
    base, payload = 0, b""
    if encoding == "evt3":
        payload = encode_evt3(random_events(rng, 4000))
        if has_vectors:
            groups = ([(0x6, time), (0x3, time % WIDTH), FULL_VECTOR] for time in range(900))
            payload = words(*START) + b"".join(words(*group) for group in groups)
    elif encoding == "libcaer_cmp":
        base, payload = encode_libcaer_cmp(random_events(rng, 4000))
    elif encoding == "libcaer":
        times = np.sort(rng.integers(0, 9000, 4000)).astype("<i4")
        items = np.zeros(4000, [("data", "<u4"), ("t", "<i4")])
        items["data"], items["t"] = rng.integers(0, 600, 4000) << 17 | 400 << 2, times
        payload = items.tobytes()
    else:
        items = np.sort(rng.integers(0, 9000, 4000)).astype("<u8") | (7 << 32) | (8 << 48)
        payload = items.tobytes()
    message = packet(payload, encoding, time_base=base)
    whole = rows(EventPacketDecoder().decode(message))
    for bound in (1, 100, len(whole) - 1, len(whole)):
        decoder = EventPacketDecoder(bound)
        found = rows(decoder.decode(message))
        assert found == whole[len(whole) - len(found) :]
        assert bound - 12 < len(found) <= bound or len(found) == len(whole)
        assert len(found) + decoder.num_cut == len(whole)


def test_a_burst_on_the_sensor_is_bounded():
    # 9 million events in 2 MB, all of them on the sensor: legal, and more than a window holds.
    vectors = words((0x3, 0), FULL_VECTOR, FULL_VECTOR, FULL_VECTOR)
    decoder = EventPacketDecoder()
    found, peak_mb = decoded_peak(decoder, packet(words(*START) + vectors * (1 << 18)))
    assert len(found.events) + decoder.num_cut == 36 << 18
    assert MAX_EVENTS - 12 < len(found.events) <= MAX_EVENTS
    assert peak_mb < 200


def test_payloads_that_no_sensor_sends_are_refused():
    with pytest.raises(EncodingError, match="at most 16777216 are taken; let the driver send sh"):
        EventPacketDecoder().decode(packet(bytes(MAX_BYTES + 2)))


def random_events(rng, count, span_ns=30_000_000):
    return Events(
        x=rng.integers(0, WIDTH, count).astype(np.uint16),
        y=rng.integers(0, HEIGHT, count).astype(np.uint16),
        t_ns=BASE_NS + np.sort(rng.integers(0, span_ns // 1000, count)) * 1000,
        p=rng.integers(0, 2, count).astype(np.uint8),
        width=WIDTH,
        height=HEIGHT,
    )


def listed(events, moved_ns=0):
    times = events.t_ns - moved_ns
    return list(
        zip(events.x.tolist(), events.y.tolist(), times.tolist(), events.p.tolist(), strict=True)
    )


def test_encoded_events_read_back(rng):
    events = random_events(rng, 5000)
    base_ns, payload = encode_libcaer_cmp(events)
    found = EventPacketDecoder().decode(packet(payload, "libcaer_cmp", time_base=base_ns))
    assert rows(found) == listed(events)
    found = EventPacketDecoder().decode(packet(encode_evt3(events)))
    moved_ns = int(events.t_ns[0]) - rows(found)[0][2]
    assert rows(found) == listed(events, moved_ns)
    assert len(encode_evt3(events)) <= 8 * len(events)
    nothing = random_events(rng, 0)
    assert encode_evt3(nothing) == b""
    assert encode_libcaer_cmp(nothing) == (0, b"")


def test_what_does_not_fit_is_not_encoded(rng):
    with pytest.raises(DataError, match=r"20\.0 s in one packet"):
        encode_libcaer_cmp(random_events(rng, 9000, span_ns=20_000_000_000))
    big = Events(*(np.zeros(1, kind) for kind in ("u2", "u2", "i8", "u1")), 4096, 10)
    with pytest.raises(DataError, match="4096x10 px"):
        encode_evt3(big)
