"""Events: window, colours, voxel grid, and what lies outside."""

import numpy as np
import pytest

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.images import read_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Events, RgbxSample
from segrgbx_core.sensors import EncodingConfig, encode
from segrgbx_core.sensors.event import EventEncoding, EventSensor, from_raw

MS = 1_000_000
PICTURE = EventEncoding(window_ms=50)
VOXEL = EventEncoding(window_ms=50, representation="voxel")
SENSOR = EventSensor()
WHITE, BLACK, RED, BLUE = [1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]


def stream(*events, width=6, height=4):
    """Events from (x, y, t_ms, p)."""
    x, y, t_ms, p = zip(*events, strict=True) if events else ((), (), (), ())
    return Events(
        np.array(x, np.uint16),
        np.array(y, np.uint16),
        (np.array(t_ms, float) * MS).astype(np.int64),
        np.array(p, np.uint8),
        width,
        height,
    )


def test_on_is_blue_off_is_red_on_white():
    image = from_raw(stream((1, 2, 10, 1), (3, 0, 20, 0)), PICTURE, SENSOR)
    assert image.shape == (4, 6, 3)
    assert image[2, 1].tolist() == BLUE
    assert image[0, 3].tolist() == RED
    assert (image == 1).all(axis=-1).sum() == 4 * 6 - 2


def test_the_last_event_of_a_pixel_gives_its_colour():
    image = from_raw(
        stream((1, 1, 1, 1), (1, 1, 2, 0), (2, 1, 3, 0), (2, 1, 4, 1)), PICTURE, SENSOR
    )
    assert image[1, 1].tolist() == RED
    assert image[1, 2].tolist() == BLUE


def test_colours_are_options():
    events = stream((0, 0, 1, 1), (1, 0, 2, 0))
    image = from_raw(events, EventEncoding(background="black", on_colour="red"), SENSOR)
    assert image[0, :3].tolist() == [RED, BLUE, BLACK]
    image = from_raw(events, PICTURE, EventSensor(inverted_polarity=True))
    assert image[0, :3].tolist() == [RED, BLUE, WHITE]


def test_saturation_counts_events():
    events = stream(
        (0, 0, 1, 1), (1, 0, 2, 0), (1, 0, 3, 0), *[(2, 0, 4 + i, 1) for i in range(9)]
    )
    image = from_raw(events, EventEncoding(saturation=4), SENSOR)
    expected = [[0.75, 0.75, 1], [1, 0.5, 0.5], BLUE, WHITE]
    np.testing.assert_allclose(image[0, :4], expected, atol=1e-6)


def test_the_window_is_open_at_its_begin_and_closed_at_its_end():
    events = stream((0, 0, 50, 1), (1, 0, 50.001, 1), (2, 0, 100, 1), (3, 0, 100.001, 1))
    image = from_raw(events, PICTURE, SENSOR, stamp_ns=100 * MS)
    assert (image[0, :4, 0] == 0).tolist() == [False, True, True, False]
    image = from_raw(events, PICTURE, SENSOR)  # without a stamp it ends at the newest event
    assert (image[0, :4, 0] == 0).tolist() == [False, False, True, True]


def test_a_sample_is_cut_at_its_stamp():
    events = stream((0, 0, 10, 1), (1, 0, 100, 1))
    rgb = np.zeros((4, 6, 3), np.uint8)
    at = RgbxSample(rgb, events, Modality.EVENT, stamp_ns=50 * MS)
    assert encode(at, EncodingConfig())[0, :2].tolist() == [BLUE, WHITE]
    unset = RgbxSample(rgb, events, Modality.EVENT)
    assert encode(unset, EncodingConfig())[0, :2].tolist() == [WHITE, BLUE]


def test_another_clock_is_refused_and_silence_is_not():
    events = stream((0, 0, 1, 1))
    with pytest.raises(EncodingError, match="on one clock"):
        from_raw(events, PICTURE, SENSOR, stamp_ns=1_700_000_000_000 * MS)
    assert (from_raw(events, PICTURE, SENSOR, stamp_ns=9_000 * MS) == 1).all()
    assert (from_raw(stream(), PICTURE, SENSOR, stamp_ns=5) == 1).all()
    assert (from_raw(stream(), VOXEL, SENSOR) == 0.5).all()


@pytest.mark.parametrize("encoding", [PICTURE, VOXEL, EventEncoding(saturation=3)])
def test_events_outside_the_sensor_are_dropped(encoding):
    inside = stream((5, 3, 10, 1), (0, 0, 20, 0))
    mixed = stream(
        (5, 3, 10, 1), (6, 0, 12, 1), (0, 4, 14, 1), (65535, 65535, 16, 0), (0, 0, 20, 0)
    )
    np.testing.assert_array_equal(
        from_raw(mixed, encoding, SENSOR), from_raw(inside, encoding, SENSOR)
    )


def test_signed_coordinates_below_zero_are_dropped():
    events = Events(
        np.array([-1, 2], np.int32), np.array([0, -3], np.int32), np.array([1, 2]),
        np.array([1, 1], np.uint8), 6, 4,
    )  # fmt: skip
    assert (from_raw(events, PICTURE, SENSOR) == 1).all()


@pytest.mark.parametrize(
    ("t_ms", "shares"),
    [(50.000001, (1, 0, 0)), (62.5, (0.5, 0.5, 0)), (75, (0, 1, 0)), (90, (0, 0.4, 0.6)),
     (100, (0, 0, 1))],
)  # fmt: skip
@pytest.mark.parametrize("polarity", [0, 1])
def test_voxels_share_an_event_between_the_two_nearest_bins(t_ms, shares, polarity):
    sign = 1 if polarity else -1
    image = from_raw(stream((2, 1, t_ms, polarity)), VOXEL, SENSOR, stamp_ns=100 * MS)
    np.testing.assert_allclose(image[1, 2], 0.5 + sign * 0.5 * np.array(shares), atol=1e-6)
    image[1, 2] = 0.5
    assert (image == 0.5).all()


def test_voxels_equal_a_slow_sum(rng):
    count = 3000
    events = Events(
        rng.integers(0, 9, count).astype(np.uint16),
        rng.integers(0, 7, count).astype(np.uint16),
        np.sort(rng.integers(1, 50 * MS, count)),
        rng.integers(0, 2, count).astype(np.uint8),
        9,
        7,
    )
    total = np.zeros((7, 9, 3))
    for x, y, t, p in zip(events.x, events.y, events.t_ns, events.p, strict=True):
        place = 2 * t / (50 * MS)
        for index in range(3):
            total[y, x, index] += (2 * int(p) - 1) * max(0, 1 - abs(place - index))
    encoding = EventEncoding(representation="voxel", saturation=20)
    want = np.clip(0.5 + total / 40, 0, 1)
    image = from_raw(events, encoding, SENSOR, stamp_ns=50 * MS)
    np.testing.assert_allclose(image, want, atol=1e-6)


def test_published_frames_follow_the_convention(samples_dir):
    """White ground; red where it is dark now (OFF), blue where something dark has left (ON)."""
    for number in ("00", "02", "03"):
        picture = read_image(samples_dir / "deliver_small" / f"{number}_event.png").astype(int)
        rgb = read_image(samples_dir / "deliver_small" / f"{number}_rgb.png").mean(axis=-1)
        is_near = {
            name: np.abs(picture - np.array(colour) * 255).max(axis=-1) < 24
            for name, colour in (("white", WHITE), ("red", RED), ("blue", BLUE), ("black", BLACK))
        }
        assert is_near["white"].mean() > 0.7
        assert not is_near["black"].any()
        assert rgb[is_near["red"]].mean() < rgb[is_near["blue"]].mean() - 20
