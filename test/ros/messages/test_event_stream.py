"""Event streams: arrays from their bytes, the clock of the stamps, pairs with RGB, replay."""

from dataclasses import replace

import made_messages
import numpy as np
import pytest
from made_messages import event_array, event_packet, image

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.bags.message_types import EVENT_PACKET
from segrgbx_core.base.errors import DataError, EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.sensors import EncodingConfig, encode
from segrgbx_core.sensors.event import TimeSource
from segrgbx_ros.config.node import Stream, node_config
from segrgbx_ros.messages.events.arrays import TYPES, read_event_array
from segrgbx_ros.messages.events.stream import EventStream
from segrgbx_ros.messages.images import stamp_ns
from segrgbx_ros.pairing.pipeline import Pipeline
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.topic_routes import find_routes

MS = 1_000_000
START = 1_700_000_000_000 * MS
WIDTH, HEIGHT = 64, 48
STORE = made_messages.STORE


def events(times_ns, size=(WIDTH, HEIGHT)):
    return made_messages.events(times_ns, size)


def assert_equal(found, wanted, moved_ns=0):
    for name in ("x", "y", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_array_equal(found.t_ns, wanted.t_ns + moved_ns)
    assert (found.width, found.height) == (wanted.width, wanted.height)


# ---- arrays


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "abcd"])
@pytest.mark.parametrize("count", [1, 2, 3, 500])
def test_arrays_read_as_a_typed_reader_would(rng, count, frame_id, order):
    stream = events(START + np.sort(rng.integers(0, 10**9, count)))
    for kind in TYPES:
        raw = event_array(stream, START + 5, kind, frame_id, order)
        found = read_event_array(raw)
        assert_equal(found.events.events, stream)
        assert found.stamp_ns == stamp_ns(raw) == START + 5


def test_an_array_without_events_has_a_stamp():
    found = read_event_array(event_array(events([]), START))
    assert (found.stamp_ns, found.size, found.events) == (START, (WIDTH, HEIGHT), None)


def test_array_events_outside_the_sensor_are_dropped():
    stream = replace(events(START + np.arange(3)), x=np.array([0, WIDTH, 1], np.uint16))
    assert read_event_array(event_array(stream, START)).events.events.x.tolist() == [0, 1]


def test_every_shortened_array_is_refused():
    raw = event_array(events(START + np.arange(4)), START)
    for length in range(len(raw)):
        with pytest.raises(EncodingError):
            read_event_array(raw[:length])


def test_another_representation_is_refused():
    raw = event_array(events([START]), START)
    with pytest.raises(EncodingError, match="no plain CDR"):
        read_event_array(b"\0\3" + raw[2:])


# ---- the clock of the stamps


def test_packets_come_out_on_the_clock_of_their_stamps():
    stream = EventStream(TimeSource.SENSOR_ALIGNED)
    sensor = np.arange(0, 10 * MS, MS)
    for turn in range(5):
        jitter = 3 * MS * (turn % 2)
        start = START + 10 * MS * turn
        found = stream.read_message(
            event_packet(events(sensor + 10 * MS * turn), start + jitter, seq=turn)
        )
        late_ns = found.events.t_ns[0] - start
        assert 0 <= late_ns < 0.1 * MS, "jitter is smoothed away"
        assert found.reached_ns == found.events.t_ns[-1]


def test_by_header_each_message_begins_at_its_stamp():
    stream = EventStream(TimeSource.HEADER)
    for turn, jitter in enumerate([0, 3 * MS, 0]):
        start = START + 10 * MS * turn + jitter
        sensor = events(np.arange(5) * MS + 10 * MS * turn)
        assert stream.read_message(event_packet(sensor, start, seq=turn)).events.t_ns[0] == start


def test_arrays_keep_ros_time_but_not_another():
    stream = EventStream(TimeSource.SENSOR_ALIGNED)
    late = START + 10 * MS
    wanted = events(START + np.arange(5) * MS)
    assert_equal(stream.read_message(event_array(wanted, late)).events, wanted)
    since_start = events(np.arange(5) * MS)
    found = stream.read_message(event_array(since_start, START))
    assert_equal(found.events, since_start, START)
    by_header = EventStream(TimeSource.HEADER).read_message(event_array(wanted, late))
    assert_equal(by_header.events, wanted, 10 * MS)


@pytest.mark.parametrize("source", list(TimeSource))
def test_an_array_without_events_says_how_far_the_stream_has_come(source):
    found = EventStream(source).read_message(event_array(events([]), START))
    assert_equal(found.events, events([]))
    assert found.reached_ns == START


# ---- pairs


def rgb(stamp):
    return image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "rgb8", stamp)


def pipeline_of(**values):
    return Pipeline(node_config({"pairs": ["event"], **values}), EncodingConfig())


ALL = events(START + np.arange(0, 400) * MS)


def feed(pipeline, until_ms, message=event_packet, step_ms=10, move_ms=0):
    """Packets of 10 ms each, as the driver would send them; stamps at their first event."""
    for seq, first in enumerate(range(0, until_ms, step_ms)):
        part = slice(first, first + step_ms)
        chunk = replace(
            ALL,
            **{name: getattr(ALL, name)[part] for name in ("x", "y", "p")},
            t_ns=ALL.t_ns[part] + move_ms * MS,
        )
        extra = {"seq": seq} if message is event_packet else {}
        made = message(chunk, int(chunk.t_ns[0]), **extra)
        yield from pipeline.push_message("event", Stream.EVENTS, made, START)


@pytest.mark.parametrize("message", [event_packet, event_array])
def test_rgb_gets_the_window_that_ends_at_its_stamp(message):
    pipeline = pipeline_of()
    assert pipeline.push_message("event", Stream.RGB, rgb(START + 200 * MS), START) == []
    (paired,) = feed(pipeline, 250, message)
    assert paired.dt_ns == 0
    sample = paired.sample()
    assert (sample.modality, sample.x_form) == (Modality.EVENT, XForm.RAW)
    assert (sample.x.t_ns - START).tolist() == [t * MS for t in range(151, 201)]
    image = encode(sample)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert (image.min(axis=2) < 1).sum() == 50, "each event colours one pixel"


def test_images_of_a_still_scene_are_not_dropped():
    pipeline = pipeline_of()
    list(feed(pipeline, 50, event_array))
    pipeline.push_message("event", Stream.RGB, rgb(START + 3000 * MS), START + 3000 * MS)
    still = event_array(events([]), START + 3010 * MS)
    (paired,) = pipeline.push_message("event", Stream.EVENTS, still, START + 3010 * MS)
    assert (paired.dt_ns, len(paired.sample().x)) == (0, 0)
    assert pipeline["event"].counts.dropped == {}


@pytest.mark.parametrize("offset_ms", [0, 80])
def test_a_model_sees_the_held_events_of_a_stream_that_has_died(offset_ms):
    pipeline = pipeline_of(
        **{"sync.on_missing_x": "hold_last", "event.x_offset_ms": float(offset_ms)}
    )
    assert list(feed(pipeline, 200, move_ms=offset_ms)) == []
    pipeline.push_message("event", Stream.RGB, rgb(START + 400 * MS), START + 400 * MS)
    (paired,) = pipeline.poll(START + 500 * MS)
    assert paired.held
    image = encode(paired.sample(), EncodingConfig())
    pipeline = pipeline_of(**{"event.x_offset_ms": float(offset_ms)})
    list(feed(pipeline, 200, move_ms=offset_ms))
    (alive,) = pipeline.push_message("event", Stream.RGB, rgb(START + 199 * MS), START)
    np.testing.assert_array_equal(image, encode(alive.sample(), EncodingConfig()))
    assert (image.min(axis=2) < 1).sum() == 50


def test_the_pairs_offset_moves_the_events():
    pipeline = pipeline_of(**{"event.x_offset_ms": 80})
    pipeline.push_message("event", Stream.RGB, rgb(START + 200 * MS), START)
    (paired,) = feed(pipeline, 250, move_ms=80)
    assert paired.dt_ns == 0
    assert (paired.sample().x.t_ns - START).tolist() == [t * MS for t in range(151, 201)]


def test_sensor_time_may_have_any_origin():
    pipeline = pipeline_of()
    pipeline.push_message("event", Stream.RGB, rgb(START + 100 * MS), START)
    found = []
    for seq in range(15):
        chunk = events(7_000_000_000 + (10 * seq + np.arange(10)) * MS)
        found += pipeline.push_message(
            "event",
            Stream.EVENTS,
            event_packet(chunk, START + 10 * seq * MS, "libcaer_cmp", seq),
            START,
        )
    (paired,) = found
    assert (paired.sample().x.t_ns - START).tolist() == [t * MS for t in range(51, 101)]


def test_a_broken_packet_is_named_and_the_next_ones_go_on():
    pipeline = pipeline_of()
    pipeline.push_message("event", Stream.RGB, rgb(START + 100 * MS), START)
    bad = event_packet(ALL, START, "evt2")
    with pytest.raises(EncodingError, match=r"topic 'event/x/events' \(event\): .*evt2"):
        pipeline.push_message("event", Stream.EVENTS, bad, START)
    assert len(list(feed(pipeline, 150))) == 1
    assert pipeline["event"].num_lost == 0


def test_lost_packets_and_unset_stamps_are_counted():
    pipeline = pipeline_of()
    list(feed(pipeline, 50))
    pipeline.push_message("event", Stream.EVENTS, event_packet(ALL, START, seq=9), START)
    assert pipeline["event"].num_lost == 4
    pipeline.push_message("event", Stream.EVENTS, event_packet(ALL, 0, seq=10), START)
    assert pipeline["event"].counts.dropped_x["zero_stamp"] == 1


def test_memory_for_events_is_bounded():
    pipeline = pipeline_of(**{"sensor.event.max_buffer_mb": 1})
    many = events(START + np.arange(200_000) * 1000, (1280, 720))
    pipeline.push_message("event", Stream.EVENTS, event_packet(many, START), START)
    (paired,) = pipeline.push_message("event", Stream.RGB, rgb(START + 190 * MS), START)
    assert 30_000 < len(paired.x) < 80_000
    assert 110_000 < pipeline["event"].counts.lost_events < 170_000


def test_events_beyond_what_a_message_may_hold_are_counted():
    pipeline = pipeline_of()
    for kind in ("packet", "array"):
        stream = EventStream(TimeSource.SENSOR_ALIGNED, max_events=30)
        many = events(START + np.arange(50) * 1000)
        message = event_packet(many, START) if kind == "packet" else event_array(many, START)
        assert len(stream.read_message(message).events) == 30
        assert stream.num_cut == 20
    pipeline["event"]._events._packets.num_cut = 7
    pipeline.push_message("event", Stream.EVENTS, event_packet(ALL, START), START)
    assert pipeline["event"].counts.cut_events == 7


def test_clear_forgets_the_stream():
    pipeline = pipeline_of()
    list(feed(pipeline, 50))
    pipeline.clear()
    pipeline.push_message("event", Stream.RGB, rgb(START + 45 * MS), START)
    assert pipeline.flush() == []


# ---- recordings


def record(path, kind):
    with BagWriter(path) as bag:
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for first in range(0, 400, 10):
            chunk = events(ALL.t_ns[first : first + 10])
            at = START + (first + 12) * MS
            if kind == EVENT_PACKET:
                message = event_packet(chunk, START + first * MS, seq=first // 10)
            else:
                raw = event_array(chunk, START + first * MS, kind)
                message = STORE.deserialize_cdr(raw, kind)
            bag.write("/event/x/events", message, at)
            if first % 100 == 50:
                stamp = START + first * MS
                bag.write("/event/rgb/image", bag.image(image, "rgb8", stamp), at + 1)
    return path


@pytest.mark.parametrize("kind", [EVENT_PACKET, *TYPES])
def test_recorded_streams_are_found_and_paired(tmp_path, kind):
    from segrgbx_ros.replay.evaluation import complete_pairs

    path = record(tmp_path / "bag", kind)
    config = node_config({"pairs": ["event"]})
    with Bag(path) as bag:
        routes = find_routes(bag, config, ["event"])
        pipeline, refused = Pipeline(config, EncodingConfig()), []
        complete = complete_pairs(
            bag, routes, pipeline.push_message, pipeline.flush, lambda *one: refused.append(one)
        )
        found = [paired for _, paired in complete]
    assert refused == []
    assert [(paired.rgb_stamp_ns - START) // MS for paired in found] == [50, 150, 250, 350]
    assert [len(paired.sample().x) for paired in found] == [50] * 4


def test_a_recording_without_events_says_what_to_do(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        bag.write("/event/rgb/image", bag.image(image, "rgb8", START), START)
        bag.write("/event/x/image", bag.image(image, "rgb8", START), START)
    config = node_config({"pairs": ["event"]})
    with Bag(tmp_path / "bag") as bag, pytest.raises(DataError, match=r"set event\.x_form=image"):
        find_routes(bag, config, ["event"])
