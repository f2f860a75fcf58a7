import numpy as np
import pytest

from segrgbx_core.sync.aligner import AlignConfig, AlignPolicy, OnMissingX, PairAligner

MS = 1_000_000
START = 1_700_000_000_000 * MS  # a wall clock of today: no number here fits into a float exactly


def aligner(offset_ms=0, **options):
    return PairAligner(AlignConfig(**options), offset_ms * MS)


class Driver:
    """Pushes stamps in ms with the arrival at the stamp unless told otherwise."""

    def __init__(self, offset_ms=0, **options):
        self.aligner = aligner(offset_ms, **options)
        self.matches = []

    def rgb(self, ms, at=None):
        return self._take(self.aligner.push_rgb, ms, at)

    def x(self, ms, at=None):
        return self._take(self.aligner.push_x, ms, at)

    def poll(self, at):
        return self._seen(self.aligner.poll(START + round(at * MS)))

    def flush(self):
        return self._seen(self.aligner.flush())

    def _take(self, push, ms, at):
        stamp = START + round(ms * MS)
        now = START + round((ms if at is None else at) * MS)
        return self._seen(push(stamp, f"{push.__name__[5:]}{ms}", now))

    def _seen(self, matches):
        self.matches += matches
        return [(m.rgb, m.x) for m in matches]

    @property
    def dropped(self):
        return dict(self.aligner.counts.dropped)

    @property
    def dropped_x(self):
        return dict(self.aligner.counts.dropped_x)


# ---- when and with what an image is paired


def test_equal_stamps_pair_at_once_in_either_order():
    d = Driver()
    assert d.rgb(10) == []
    assert d.x(10) == [("rgb10", "x10")]
    assert d.x(43) == []
    assert d.rgb(43) == [("rgb43", "x43")]
    assert d.matches[0].dt_ns == 0
    assert d.matches[0].held is False


def test_a_newer_x_decides_at_once_and_the_nearest_wins():
    d = Driver()
    d.x(0)
    assert d.rgb(10) == []
    assert d.x(30) == [("rgb10", "x0")]
    d.rgb(40)
    assert d.x(45) == [("rgb40", "x45")]
    assert [m.dt_ns for m in d.matches] == [-10 * MS, 5 * MS]


def test_of_two_equally_near_the_earlier_wins():
    d = Driver()
    d.x(0)
    d.rgb(10)
    assert d.x(20) == [("rgb10", "x0")]


def test_an_older_x_waits_for_a_nearer_one_until_the_time_is_over():
    d = Driver(wait_ms=40)
    d.x(0)
    d.rgb(10)
    assert d.aligner.next_deadline_ns() == START + 50 * MS + 1
    assert d.poll(50) == []
    assert d.poll(50.001) == [("rgb10", "x0")]
    assert d.aligner.next_deadline_ns() is None


def test_waiting_is_counted_from_arrival_not_from_the_stamp():
    d = Driver(wait_ms=40)
    d.x(0, at=200)
    d.rgb(10, at=210)
    assert d.poll(250) == []
    assert d.poll(251) == [("rgb10", "x0")]


def test_a_push_settles_first_what_was_due_before_it():
    d = Driver(wait_ms=40)
    d.x(0)
    d.rgb(10)
    assert d.x(12, at=60) == [("rgb10", "x0")]  # x12 is nearer but came too late


def test_one_slow_x_serves_several_images():
    d = Driver(max_dt_ms=60, wait_ms=60)
    times = sorted(
        [(t, "rgb") for t in range(0, 1000, 33)] + [(t, "x") for t in range(0, 1000, 111)]
    )
    for t, stream in times:
        getattr(d, stream)(t)
    d.flush()
    assert d.aligner.counts.matched == 31
    assert d.aligner.counts.used_x == 10
    assert d.aligner.counts.max_abs_dt_ms <= 56
    for match in d.matches:
        wanted = match.rgb_stamp_ns
        nearest = min(range(0, 1000, 111), key=lambda t: abs(START + t * MS - wanted))
        assert match.x_stamp_ns == START + nearest * MS


def test_fast_x_leaves_the_others_unused():
    d = Driver(jump_back_ms=100)
    for t in range(0, 1000, 10):
        d.x(t)
        if t % 30 == 0:
            d.rgb(t)
    counts = d.aligner.counts
    assert counts.matched == counts.used_x == 34
    assert counts.dropped_x["unused"] + d.aligner.num_unused_x == 66


@pytest.mark.parametrize("offset", [-30, 30])
def test_offset_is_how_late_x_is_stamped(offset):
    d = Driver(offset_ms=offset, max_dt_ms=5)
    for t in (100, 133, 166):
        d.rgb(t)
        d.x(t + offset + 2, at=t + 2)
    assert [m.x for m in d.matches] == [f"x{t + offset + 2}" for t in (100, 133, 166)]
    assert all(m.dt_ns == 2 * MS for m in d.matches)
    assert d.aligner.counts.mean_dt_ms == 2.0


def test_limit_belongs_to_the_reach():
    d = Driver(max_dt_ms=20)
    d.rgb(10)
    assert d.x(30) == [("rgb10", "x30")]
    d.rgb(60)
    assert d.x(80.000001) == []
    assert d.dropped == {"too_far": 1}


def test_exact_policy():
    d = Driver(policy=AlignPolicy.EXACT)
    d.rgb(10)
    assert d.x(10.000001) == []
    d.rgb(20)
    assert d.x(20) == [("rgb20", "x20")]
    assert d.dropped == {"too_far": 1}


# ---- without an X


def test_drop_tells_a_silent_stream_from_a_wrong_clock():
    d = Driver(wait_ms=40)
    d.rgb(10)
    d.poll(51)
    assert d.dropped == {"no_x": 1}
    d.x(300, at=60)
    assert d.rgb(80) == []  # its X is 220 ms ahead: nothing nearer can come
    assert d.dropped == {"no_x": 1, "too_far": 1}
    assert d.aligner.counts.last_miss_ns == 220 * MS
    d.rgb(2000)
    d.poll(2041)
    assert d.dropped == {"no_x": 2, "too_far": 1}


def test_rgb_only():
    d = Driver(on_missing_x=OnMissingX.RGB_ONLY)
    d.rgb(10)
    assert d.poll(51) == [("rgb10", None)]
    match = d.matches[0]
    assert (match.x_stamp_ns, match.dt_ns, match.held) == (None, None, False)
    assert d.aligner.counts.rgb_only == 1


def test_hold_last_until_it_is_too_old():
    d = Driver(on_missing_x=OnMissingX.HOLD_LAST, max_hold_ms=300)
    d.x(0)
    for t in (40, 100, 300, 301):
        d.rgb(t)
    d.flush()
    assert [(m.rgb, m.held) for m in d.matches] == [
        ("rgb40", False),
        ("rgb100", True),
        ("rgb300", True),
    ]
    assert d.dropped == {"too_far": 1}
    assert d.aligner.counts.held == 2
    assert d.aligner.counts.used_x == 1


def test_hold_last_never_takes_an_x_of_the_future():
    d = Driver(on_missing_x=OnMissingX.HOLD_LAST)
    d.x(200, at=0)
    assert d.rgb(100, at=1) == []
    assert d.dropped == {"too_far": 1}


def test_hold_last_outlives_the_forgetting_of_old_x():
    d = Driver(on_missing_x=OnMissingX.HOLD_LAST, max_hold_ms=5000, jump_back_ms=100)
    d.x(0)
    for t in range(100, 4000, 33):
        d.rgb(t)
    d.flush()
    assert {m.x for m in d.matches} == {"x0"}
    assert d.dropped == {}


# ---- stamps that are not as they should be


def test_zero_stamps_are_counted_and_pair_with_nothing():
    a = aligner()
    assert a.push_rgb(0, "rgb", 5) == []
    assert a.push_x(0, "x", 6) == []
    assert dict(a.counts.dropped) == {"zero_stamp": 1}
    assert dict(a.counts.dropped_x) == {"zero_stamp": 1}
    assert a.num_waiting == 0


def test_duplicates_are_counted():
    d = Driver()
    d.rgb(10)
    d.rgb(10)
    d.x(10)
    d.x(10)
    d.rgb(10)
    assert len(d.matches) == 1
    assert d.dropped == {"duplicate": 2}
    assert d.dropped_x == {"duplicate": 1}


def test_slightly_out_of_order_stamps_find_their_partner():
    d = Driver()
    d.x(0)
    d.x(66)
    d.x(33)
    d.rgb(66)
    d.rgb(34)
    assert [(m.rgb, m.x) for m in d.matches] == [("rgb66", "x66"), ("rgb34", "x33")]
    d.rgb(140)
    d.rgb(100, at=141)
    assert d.x(141) == [("rgb100", "x66"), ("rgb140", "x141")]
    assert d.aligner.counts.jumps == 0


def test_a_looped_recording_pairs_as_well_as_its_first_pass():
    d = Driver(wait_ms=60)
    passes = []
    for loop in range(4):
        before = d.aligner.counts.matched
        now = loop * 3000
        for t in range(0, 2000, 33):
            d.rgb(t, at=now + t)
            if t % 3 == 0:
                d.x(t + 4, at=now + t + 4)
        d.poll(now + 2500)
        passes.append(d.aligner.counts.matched - before)
    assert len(set(passes)) == 1
    assert d.aligner.counts.jumps >= 3


def test_a_jump_back_forgets_both_streams():
    d = Driver(jump_back_ms=500)
    d.x(1000)
    d.rgb(1010)
    d.x(499, at=1020)
    assert d.dropped == {"jump_back": 1}
    assert d.dropped_x == {"jump_back": 1}
    assert d.aligner.counts.jumps == 1
    assert d.rgb(490, at=1021) == [("rgb490", "x499")]


def test_a_step_back_within_the_limit_is_no_jump():
    d = Driver(jump_back_ms=500)
    d.x(1000)
    d.x(500, at=1001)
    assert d.aligner.counts.jumps == 0


def test_overflow_drops_the_oldest():
    d = Driver(queue_size=2, wait_ms=500)
    for t in (10, 20, 30):
        d.rgb(t)
    assert d.dropped == {"overflow": 1}
    assert d.x(31) == [("rgb20", "x31"), ("rgb30", "x31")]
    for t in (40, 50, 60):
        d.x(t)
    assert d.dropped_x == {"overflow": 1}  # x31 had served already


def test_clear_forgets_and_counts():
    d = Driver()
    d.x(0)
    d.rgb(10)
    d.aligner.clear()
    assert d.flush() == []
    assert d.dropped == {"cleared": 1}
    assert d.dropped_x == {"cleared": 1}
    d.rgb(10)
    assert d.x(10) == [("rgb10", "x10")]


def test_a_clock_that_goes_back_does_not_stop_the_waiting():
    d = Driver(wait_ms=40)
    d.rgb(10, at=100_000)
    assert d.poll(0) == []
    assert d.aligner.next_deadline_ns() == START + 40 * MS + 1
    d.poll(41)
    assert d.dropped == {"no_x": 1}


def test_new_rules_hold_for_what_waits():
    d = Driver(max_dt_ms=5)
    d.x(0)
    d.rgb(10)
    d.aligner.configure(AlignConfig(max_dt_ms=20), 0)
    assert d.flush() == [("rgb10", "x0")]


def test_report_is_plain():
    d = Driver()
    d.x(0)
    d.rgb(10)
    d.x(30)
    report = d.aligner.counts.to_dict()
    assert report["matched"] == 1
    assert report["mean_dt_ms"] == -10.0
    assert report["mean_abs_dt_ms"] == report["max_abs_dt_ms"] == 10.0


def test_thousands_of_messages_are_quick_and_leave_little(rng):
    a = aligner(queue_size=30)
    for i in range(20_000):
        now = START + i * 5 * MS
        if i % 6 == 0:
            a.push_rgb(now - int(rng.integers(0, 3 * MS)), i, now)
        if i % 7 == 0:
            a.push_x(now - int(rng.integers(0, 3 * MS)), i, now)
    assert a.num_waiting <= 30
    assert a.num_unused_x <= 30
    assert a.counts.matched > 3000
    assert np.isfinite(a.counts.mean_dt_ms)
