"""What holds for every sequence of messages, whatever their stamps and times."""

import numpy as np
import pytest

from segrgbx_core.base.samples import Events
from segrgbx_core.sync.aligner import AlignConfig, AlignPolicy, OnMissingX, PairAligner
from segrgbx_core.sync.x_queue import EventWindow

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

MS = 1_000_000

POLICIES = st.builds(
    AlignConfig,
    policy=st.sampled_from(AlignPolicy),
    max_dt_ms=st.sampled_from([0.0, 5.0, 50.0]),
    wait_ms=st.sampled_from([0.0, 10.0, 60.0]),
    on_missing_x=st.sampled_from(OnMissingX),
    max_hold_ms=st.sampled_from([0.0, 30.0, 300.0]),
    queue_size=st.integers(2, 6),
    jump_back_ms=st.sampled_from([0.0, 40.0, 500.0]),
)
STAMPS = st.one_of(st.just(0), st.integers(1, 300), st.integers(1, 3000))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["rgb", "rgb", "x", "x", "poll", "flush", "clear"]),
        STAMPS,
        st.integers(0, 30),
    ),
    max_size=60,
)


def run(config, steps, offset_ms=0):
    a = PairAligner(config, offset_ms * MS)
    now, matches = 0, []
    for kind, stamp, pause in steps:
        now += pause * MS
        if kind == "rgb":
            matches += a.push_rgb(stamp * MS, stamp, now)
        elif kind == "x":
            matches += a.push_x(stamp * MS, stamp, now)
        elif kind == "poll":
            matches += a.poll(now)
        elif kind == "flush":
            matches += a.flush()
        else:
            a.clear()
        yield a, matches


@settings(max_examples=300)
@given(POLICIES, STEPS, st.sampled_from([-20, 0, 20]))
def test_every_message_is_accounted_for_exactly_once(config, steps, offset_ms):
    for a, matches in run(config, steps, offset_ms):
        c = a.counts
        assert c.pushed_rgb == (
            c.matched + c.held + c.rgb_only + sum(c.dropped.values()) + a.num_waiting
        )
        assert c.pushed_x == c.used_x + sum(c.dropped_x.values()) + a.num_unused_x
        assert len(matches) == c.matched + c.held + c.rgb_only
        assert a.num_waiting <= config.queue_size
        assert a.num_unused_x <= config.queue_size
        assert (a.next_deadline_ns() is None) == (a.num_waiting == 0)


@settings(max_examples=200)
@given(POLICIES, STEPS, st.sampled_from([-20, 0, 20]))
def test_matches_keep_their_promises(config, steps, offset_ms):
    matches = []
    for _, matches in run(config, steps, offset_ms):  # noqa: B007 - the last one is wanted
        pass
    reach = 0 if config.policy is AlignPolicy.EXACT else config.max_dt_ms * MS
    for m in matches:
        assert m.rgb * MS == m.rgb_stamp_ns
        if m.x is None:
            assert config.on_missing_x is OnMissingX.RGB_ONLY
            continue
        assert m.dt_ns == m.x_stamp_ns - offset_ms * MS - m.rgb_stamp_ns
        if m.held:
            assert config.on_missing_x is OnMissingX.HOLD_LAST
            assert 0 <= -m.dt_ns <= config.max_hold_ms * MS
        else:
            assert abs(m.dt_ns) <= reach


@settings(max_examples=200)
@given(POLICIES, STEPS, st.lists(st.integers(0, 30), max_size=20))
def test_pairs_do_not_depend_on_polling(config, steps, pauses):
    pushes = [step for step in steps if step[0] in ("rgb", "x")]
    quiet, polled, now = PairAligner(config), PairAligner(config), 0
    plain, watched = [], []
    pauses = iter(pauses)
    for kind, stamp, pause in pushes:
        between = next(pauses, 0)
        for at in range(now, now + pause + 1, between or pause + 1):
            watched += polled.poll(at * MS)
        now += pause
        for a, out in ((quiet, plain), (polled, watched)):
            push = a.push_rgb if kind == "rgb" else a.push_x
            out += push(stamp * MS, stamp, now * MS)
    plain += quiet.flush()
    watched += polled.flush()
    assert [(m.rgb, m.x, m.held) for m in plain] == [(m.rgb, m.x, m.held) for m in watched]
    assert quiet.counts == polled.counts


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 1000), unique=True, max_size=25),
    st.lists(st.integers(1, 1000), unique=True, max_size=25),
    st.sampled_from([0, 20, 60]),
)
def test_pairs_against_a_search_through_everything(rgb_stamps, x_stamps, wait):
    """Streams in order, arriving at their stamps: the nearest of all X that came in time."""
    config = AlignConfig(max_dt_ms=50, wait_ms=wait, queue_size=100)
    a, found = PairAligner(config), {}
    for t, stream in sorted([(t, "x") for t in x_stamps] + [(t, "rgb") for t in rgb_stamps]):
        push = a.push_rgb if stream == "rgb" else a.push_x
        found.update({m.rgb: m.x for m in push(t * MS, t, t * MS)})
    found.update({m.rgb: m.x for m in a.flush()})
    for t in rgb_stamps:
        later = [x for x in x_stamps if x >= t]
        known = [x for x in x_stamps if x < t] + ([min(later)] if later else [])
        in_time = [x for x in known if x <= t + wait]
        distances = [abs(x - t) for x in in_time if abs(x - t) <= 50]
        assert (abs(found[t] - t) if t in found else None) == min(distances, default=None)


CHUNKS = st.lists(
    st.lists(st.integers(0, 400), min_size=0, max_size=12).map(sorted), min_size=1, max_size=15
)


@settings(max_examples=200)
@given(CHUNKS, st.integers(0, 450))
def test_windows_against_a_search_through_everything(chunks, stamp):
    window = EventWindow(50 * MS, jump_back_ns=500 * MS)
    everything = []
    for chunk in chunks:
        ids = np.zeros(len(chunk), np.uint16)
        times = np.array(chunk, np.int64) * MS
        window.push(Events(ids, ids, times, ids.astype(np.uint8), 640, 480))
        everything += chunk
    cut = window.cut(stamp * MS)
    expected = sorted(t for t in everything if stamp - 50 < t <= stamp)
    assert ([] if cut is None else (cut.t_ns // MS).tolist()) == expected
