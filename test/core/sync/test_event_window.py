import numpy as np
import pytest

from segrgbx_core.base.samples import Events
from segrgbx_core.sync.aligner import AlignConfig, OnMissingX, event_aligner
from segrgbx_core.sync.x_queue import EventWindow, SensorClock

MS = 1_000_000
WINDOW = 50 * MS


def events(times_ms, first=0, width=640, height=480):
    """Events whose column tells them apart."""
    count = len(times_ms)
    return Events(
        x=np.arange(first, first + count).astype(np.uint16),
        y=np.zeros(count, np.uint16),
        t_ns=(np.asarray(times_ms, dtype=float) * MS).astype(np.int64),
        p=np.ones(count, np.uint8),
        width=width,
        height=height,
    )


def test_window_is_half_open():
    window = EventWindow(WINDOW)
    window.push(events([49, 50, 51, 99, 100, 101]))
    cut = window.cut(100 * MS)
    assert (cut.t_ns // MS).tolist() == [51, 99, 100]
    assert (cut.width, cut.height) == (640, 480)
    assert [a.dtype for a in (cut.x, cut.y, cut.t_ns, cut.p)] == ["u2", "u2", "i8", "u1"]


def test_neighbouring_windows_share_no_event_and_lose_none(rng):
    times = np.sort(rng.integers(0, 1000, 5000))
    window = EventWindow(WINDOW)
    for i, chunk in enumerate(np.array_split(times, 100)):
        window.push(events(chunk, first=50 * i))
    seen = [window.cut(stamp * MS).x for stamp in range(50, 1001, 50)]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange((times == 0).sum(), 5000))


def test_before_the_first_event_the_size_is_unknown():
    window = EventWindow(WINDOW)
    window.push(events([]))
    assert window.cut(100 * MS) is None
    assert window.last_ns is None
    window.push(events([500]))
    cut = window.cut(100 * MS)
    assert len(cut) == 0
    assert (cut.width, cut.height) == (640, 480)


def test_pushing_copies_nothing_and_cutting_only_the_window():
    window = EventWindow(WINDOW)
    chunk = events(range(0, 1000))
    window.push(chunk)
    assert window._chunks[-1] is chunk
    assert len(window.cut(500 * MS)) == 50
    assert window._chunks[-1] is chunk


def test_a_cut_does_not_share_memory_with_what_is_kept():
    window = EventWindow(WINDOW)
    chunk = events([10, 20])
    window.push(chunk)
    assert not np.shares_memory(window.cut(20 * MS).t_ns, chunk.t_ns)


def test_stamps_a_little_out_of_order_are_served():
    window = EventWindow(WINDOW)
    for t in range(0, 400, 10):
        window.push(events([t]))
    window.cut(300 * MS)
    assert (window.cut(270 * MS).t_ns // MS).tolist() == [230, 240, 250, 260, 270]


def test_old_chunks_are_given_up():
    window = EventWindow(WINDOW)
    for t in range(0, 10_000, 10):
        window.push(events([t]))
        window.cut(t * MS)
    assert len(window._chunks) <= 11
    assert window.num_lost == 0


def test_chunks_that_overlap_are_merged_in_order():
    window = EventWindow(WINDOW)
    window.push(events([10, 20, 30], first=0))
    window.push(events([40, 45], first=3))
    window.push(events([25, 42], first=5))
    cut = window.cut(50 * MS)
    assert (cut.t_ns // MS).tolist() == [10, 20, 25, 30, 40, 42, 45]
    assert cut.x.tolist() == [0, 1, 5, 2, 3, 6, 4]


def test_a_chunk_in_disorder_is_sorted():
    window = EventWindow(WINDOW)
    window.push(events([30, 10, 20]))
    assert window.cut(50 * MS).x.tolist() == [1, 2, 0]


def test_time_that_jumps_back_starts_anew():
    window = EventWindow(WINDOW, jump_back_ns=500 * MS)
    window.push(events([1000, 1010]))
    window.push(events([100, 110]))
    assert window.num_resets == 1
    assert window.last_ns == 110 * MS
    assert len(window.cut(1010 * MS)) == 0


def test_another_sensor_size_starts_anew():
    window = EventWindow(WINDOW)
    window.push(events([10]))
    window.push(events([20], width=1280, height=720))
    cut = window.cut(20 * MS)
    assert len(cut) == 1
    assert cut.width == 1280
    assert window.num_resets == 1


@pytest.mark.parametrize("per_chunk", [1, 10, 1000, 100_000])
def test_memory_is_bounded(per_chunk):
    limit = 200_000
    window = EventWindow(10_000 * MS, max_bytes=limit)
    pushed = 0
    for i in range(200):
        window.push(events(np.linspace(i, i + 1, per_chunk, endpoint=False)))
        pushed += per_chunk
        assert 0 < window.num_bytes <= limit
    held = sum(len(chunk) for chunk in window._chunks)
    assert held + window.num_lost == pushed
    assert window.last_ns >= 199 * MS  # the newest stay
    if per_chunk == 100_000:
        assert window._chunks[0].x.base is None  # the big array is let go


# ---- as the X side of a pair


def push(aligner, times_ms, now_ms):
    chunk = events(times_ms)
    return aligner.push_x(int(chunk.t_ns[-1]), chunk, now_ms * MS)


def test_an_image_gets_the_window_that_ends_at_its_stamp():
    aligner = event_aligner(AlignConfig(), WINDOW)
    assert aligner.push_rgb(100 * MS, "rgb", 100 * MS) == []
    assert push(aligner, [40, 60, 90], 101) == []
    (match,) = push(aligner, [95, 100, 110], 112)
    assert (match.x.t_ns // MS).tolist() == [60, 90, 95, 100]
    assert match.dt_ns == 0
    assert not match.held
    assert aligner.counts.matched == 1


def test_after_the_wait_the_end_of_a_window_may_be_missing_a_little():
    aligner = event_aligner(AlignConfig(max_dt_ms=20), WINDOW)
    push(aligner, [60, 85], 86)
    aligner.push_rgb(100 * MS, "first", 100 * MS)
    aligner.push_rgb(130 * MS, "second", 130 * MS)
    matches = aligner.poll(141 * MS) + aligner.poll(171 * MS)
    assert [(m.rgb, m.dt_ns) for m in matches] == [("first", -15 * MS)]
    assert dict(aligner.counts.dropped) == {"too_far": 1}


def test_events_follow_the_offset():
    aligner = event_aligner(AlignConfig(), WINDOW, x_offset_ns=1000 * MS)
    aligner.push_rgb(100 * MS, "rgb", 100 * MS)
    (match,) = push(aligner, [1040, 1060, 1100, 1101], 101)
    assert (match.x.t_ns // MS).tolist() == [1060, 1100]
    assert match.dt_ns == 0


def test_without_events_the_policy_decides():
    aligner = event_aligner(AlignConfig(on_missing_x=OnMissingX.RGB_ONLY), WINDOW)
    aligner.push_rgb(100 * MS, "rgb", 100 * MS)
    (match,) = aligner.poll(200 * MS)
    assert match.x is None


def test_a_jump_of_either_stream_forgets_the_events():
    aligner = event_aligner(AlignConfig(), WINDOW)
    push(aligner, [5000], 1)
    aligner.push_rgb(5010 * MS, "late", 2 * MS)
    push(aligner, [100], 3)
    assert dict(aligner.counts.dropped) == {"jump_back": 1}
    (match,) = aligner.push_rgb(100 * MS, "rgb", 4 * MS)
    assert (match.x.t_ns // MS).tolist() == [100]
    assert aligner.counts.jumps == 1  # the image before the jump left with it


def held(reached_ms, stamp_ms, offset_ms=0):
    """What `hold_last` gives an image after a stream of an event each 10 ms has ended."""
    config = AlignConfig(on_missing_x=OnMissingX.HOLD_LAST)
    aligner = event_aligner(config, WINDOW, x_offset_ns=offset_ms * MS)
    for end_ms in range(10, reached_ms + 1, 10):
        push(aligner, [end_ms + offset_ms], end_ms)
    aligner.push_rgb(stamp_ms * MS, "rgb", stamp_ms * MS)
    return aligner.poll((stamp_ms + 100) * MS)


@pytest.mark.parametrize("offset_ms", [0, 700])
@pytest.mark.parametrize("late_ms", [60, 140, 300])
def test_a_held_window_is_the_last_full_one_and_ends_at_the_stamp(late_ms, offset_ms):
    (match,) = held(200, 200 + late_ms, offset_ms)
    assert match.held
    assert match.dt_ns == -late_ms * MS
    assert match.x_stamp_ns == (200 + offset_ms) * MS
    ends_ms = 200 + late_ms + offset_ms
    assert (match.x.t_ns // MS).tolist() == [ends_ms - age for age in (40, 30, 20, 10, 0)]


def test_a_window_is_not_held_for_ever():
    assert held(200, 501) == []


def test_every_image_after_the_end_of_a_stream_gets_the_same_events():
    aligner = event_aligner(AlignConfig(on_missing_x=OnMissingX.HOLD_LAST), WINDOW)
    push(aligner, [10, 20], 20)
    push(aligner, [30, 40], 40)
    matches = []
    for stamp_ms in (110, 200, 290):
        aligner.push_rgb(stamp_ms * MS, "rgb", stamp_ms * MS)
        matches += aligner.poll((stamp_ms + 50) * MS)
    assert [match.held for match in matches] == [True] * 3
    assert [(m.x.t_ns - m.rgb_stamp_ns).tolist() for m in matches] == [
        [-30 * MS, -20 * MS, -10 * MS, 0]
    ] * 3


def test_held_events_of_a_still_scene_are_none():
    aligner = event_aligner(AlignConfig(on_missing_x=OnMissingX.HOLD_LAST), WINDOW)
    push(aligner, [10, 20], 20)
    aligner.push_x(100 * MS, events([]), 100 * MS)
    aligner.push_rgb(200 * MS, "rgb", 200 * MS)
    (match,) = aligner.poll(300 * MS)
    assert (match.held, len(match.x), match.dt_ns) == (True, 0, -100 * MS)


def test_events_that_find_no_memory_are_counted():
    aligner = event_aligner(AlignConfig(), WINDOW, max_bytes=20_000)
    push(aligner, np.linspace(0, 1, 1000), 1)
    assert aligner.counts.lost_events == 0
    push(aligner, np.linspace(1, 2, 1000), 2)
    assert aligner.counts.lost_events == 1000, "the older chunk, of 13 kB"
    assert aligner.counts.to_dict()["lost_events"] == aligner.counts.lost_events


# ---- the sensor's clock


def packet(start_ms, count=10):
    return (np.arange(count) + start_ms) * MS


def test_clock_maps_the_first_event_to_the_stamp():
    clock = SensorClock()
    mapped = clock.to_stamp_clock(7_000_000 * MS, packet(20))
    assert mapped.dtype == np.int64
    assert mapped[0] == 7_000_000 * MS
    assert (np.diff(mapped) == MS).all()


def test_clock_smooths_jitter(rng):
    clock, errors = SensorClock(), []
    for i in range(2000):
        jitter = int(rng.normal(0, MS))
        mapped = clock.to_stamp_clock((10_000 + 10 * i) * MS + jitter, packet(10 * i))
        errors.append(int(mapped[0]) - (10_000 + 10 * i) * MS)
    assert np.std(errors[500:]) < 0.15 * MS
    assert abs(np.mean(errors[500:])) < 0.1 * MS


def test_mapped_times_never_go_back(rng):
    clock, last = SensorClock(share=2), 0
    for i in range(200):
        jitter = int(rng.integers(-5 * MS, 5 * MS))
        mapped = clock.to_stamp_clock((10_000 + 10 * i) * MS + jitter, packet(10 * i))
        assert mapped[0] >= last
        assert (np.diff(mapped) >= 0).all()
        last = mapped[-1]


@pytest.mark.parametrize(
    ("stamp_ms", "start_ms"),
    [(50_000, 3000), (13_000, 0), (10_000, 0), (500, 0)],
    ids=["stamps jump", "sensor restarts", "both jump back", "all anew"],
)
def test_clock_starts_anew_after_a_jump(stamp_ms, start_ms):
    clock = SensorClock()
    for i in range(300):
        clock.to_stamp_clock((10_000 + 10 * i) * MS, packet(10 * i))
    mapped = clock.to_stamp_clock(stamp_ms * MS, packet(start_ms))
    assert mapped[0] == stamp_ms * MS


def test_clock_leaves_its_input_alone():
    clock, times = SensorClock(), packet(5)
    before = times.copy()
    clock.to_stamp_clock(100 * MS, times)
    clock.to_stamp_clock(100 * MS, times)
    np.testing.assert_array_equal(times, before)
    assert len(clock.to_stamp_clock(100 * MS, times[:0])) == 0
    clock.reset()
    assert clock.to_stamp_clock(9 * MS, times)[0] == 9 * MS


def test_a_stream_that_reports_time_without_events_makes_empty_windows():
    aligner = event_aligner(AlignConfig(max_dt_ms=5), WINDOW)
    push(aligner, [10], 11)
    aligner.push_rgb(200 * MS, "rgb", 200 * MS)
    (match,) = aligner.push_x(205 * MS, events([]), 206 * MS)
    assert len(match.x) == 0
    assert match.dt_ns == 0
    aligner.clear()
    assert aligner.push_rgb(300 * MS, "rgb", 300 * MS) + aligner.poll(400 * MS) == []
