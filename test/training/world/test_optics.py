"""Closed-form checks of the rendered world's physics: no scene, no rays."""

import dataclasses

import numpy as np
import pytest

from training.world.rays.optics import diffuse_dolp, fresnel, fresnel_amplitudes, specular_dolp
from training.world.rays.vectors import cross
from training.world.sensors import depth, event, polarization, thermal
from training.world.shapes import geometry
from training.world.shapes.people import Crowd, draw_figure
from training.world.surfaces.climate import draw_climate
from training.world.surfaces.materials import PartTable


def as_cosines(degrees):
    return np.cos(np.radians(np.asarray(degrees, np.float32))).astype(np.float32)


def index(value, count=1):
    return np.full(count, value, np.float32)


@pytest.mark.parametrize("refractive", [1.33, 1.5])
def test_brewster_angle_extinguishes_parallel_light(refractive):
    brewster = np.degrees(np.arctan(refractive))
    s, p = fresnel(as_cosines([brewster]), index(refractive))
    assert p[0] < 1e-7
    assert s[0] > 0.05
    assert specular_dolp(as_cosines([brewster]), index(refractive))[0] == pytest.approx(
        1, abs=1e-4
    )


def test_normal_incidence_reflects_both_alike():
    s, p = fresnel(as_cosines([0]), index(1.5))
    assert s[0] == pytest.approx(0.04, abs=1e-5)
    assert p[0] == pytest.approx(0.04, abs=1e-5)
    r_s, r_p = fresnel_amplitudes(as_cosines([0]), index(1.5))
    assert r_s[0] == pytest.approx(-r_p[0])


def test_dolp_equals_a_polarized_path_tracer():
    """Values of Mitsuba 3's `pplastic`, n = 1.5, sphere under a uniform sky."""
    angles = [20, 35, 45, 56.3, 65, 75]
    specular = [0.170, 0.534, 0.831, 0.997, 0.891, 0.577]
    diffuse = [0.007, 0.024, 0.044, 0.079, 0.122, 0.195]
    cosines, glass = as_cosines(angles), index(1.5, len(angles))
    np.testing.assert_allclose(specular_dolp(cosines, glass), specular, atol=0.004)
    np.testing.assert_allclose(diffuse_dolp(cosines, glass), diffuse, atol=0.002)


def test_band_radiance_and_its_inverse():
    kelvin = np.array([250.0, 288.15, 306.5], np.float32)
    np.testing.assert_allclose(
        thermal.band_kelvin(thermal.band_radiance(kelvin)), kelvin, atol=0.02
    )
    # Exitance of a 300 K black body between 8 and 14 um is 172.7 W/m2; radiance is that over pi.
    assert thermal.band_radiance(300.0) == pytest.approx(172.7 / np.pi, rel=0.01)


def test_stereo_noise_grows_with_the_square_of_depth(rng):
    rig = depth.StereoRig(step_px=1 / 256)
    spreads = []
    for metres in (4.0, 8.0, 16.0):
        truth = np.full((80, 200), metres, np.float32)
        measured = depth.stereo(truth, 250.0, rng, rig)
        spreads.append(measured[measured > 0].std())
    predicted = np.array([16, 64, 256]) * rig.noise_px / (250.0 * rig.base_m)
    np.testing.assert_allclose(spreads, predicted, rtol=0.1)


def test_stereo_loses_what_a_near_edge_hides(rng):
    truth = np.full((20, 200), 10.0, np.float32)
    truth[:, 90:110] = 2.0
    measured = depth.stereo(truth, 200.0, rng)
    near, far = 200.0 * depth.RIG.base_m / 2.0, 200.0 * depth.RIG.base_m / 10.0
    lost = np.flatnonzero((measured[:, 40:180] == 0).all(axis=0)) + 40
    assert len(lost) == pytest.approx(near - far, abs=3)
    assert lost.min() >= 110 or lost.max() < 90
    assert (measured[:, 92:108] > 0).mean() > 0.95


def test_sky_and_out_of_range_have_no_depth(rng):
    truth = np.array([[np.inf, 500.0, 5.0, 0.1]], np.float32).repeat(4, axis=0)
    measured = depth.stereo(truth, 200.0, rng)
    assert (measured[:, [0, 1, 3]] == 0).all()


def test_event_count_and_times_on_a_ramp(rng):
    camera = event.IDEAL
    start, end = 0.0, 1.05
    logs = np.array([start, end], np.float32).reshape(2, 1, 1)
    pictures = np.exp(logs) * np.ones((2, 3, 4), np.float32)
    # Bright against the floor, so that the logarithm is the brightness' own.
    pictures = pictures * 1.0
    flat = event.EventCamera(**{**camera.__dict__, "floor": 0.0})
    events = event.from_radiance(pictures, np.array([0, 1_000_000_000]), rng, rng, flat)
    assert len(events) == 5 * 12
    assert (events.p == 1).all()
    one = events.t_ns[(events.x == 2) & (events.y == 1)]
    np.testing.assert_allclose(one / 1e9, np.arange(1, 6) * 0.2 / 1.05, atol=1e-4)
    assert (np.diff(events.t_ns) >= 0).all()


def test_windows_that_meet_lose_no_events(rng):
    """Half a threshold per pixel and seam went if a window forgot what came before."""
    ramp = np.exp(np.linspace(0, 1.05, 9, dtype=np.float32)).reshape(9, 1, 1)
    pictures = ramp * np.ones((9, 60, 60), np.float32)
    stamps = np.arange(9) * 10_000_000
    camera = dataclasses.replace(event.CAMERA, floor=0.0, background_hz=0.0, corner_hz=0.0)
    whole = event.from_radiance(pictures, stamps, rng, np.random.default_rng(1), camera)
    parts = [
        # The second window has another white point; a factor is none to a logarithm.
        event.from_radiance(pictures[part], stamps[part], rng, np.random.default_rng(1), camera)
        for part in (slice(0, 5), slice(4, 9))
    ]
    expected = 60 * 60 * 1.05 / camera.threshold
    assert len(whole) == pytest.approx(expected, rel=0.05)
    assert sum(map(len, parts)) == pytest.approx(expected, rel=0.05)


def test_a_pixel_sleeps_after_an_event_that_it_told():
    times = np.array([0, 300_000, 600_000, 900_000, 1_200_000, 50_000])
    pixels = np.array([4, 4, 4, 4, 4, 5])
    kept = event._awake(pixels, times, 500_000)
    assert sorted(kept) == [0, 2, 4, 5]


def test_events_fall_when_it_darkens_and_rest_when_nothing_moves(rng):
    still = np.ones((3, 5, 6), np.float32)
    stamps = np.array([0, 10_000_000, 20_000_000])
    assert len(event.from_radiance(still, stamps, rng, rng, event.IDEAL)) == 0
    darker = still * np.array([1.0, 0.7, 0.4], np.float32)[:, None, None]
    events = event.from_radiance(darker, stamps, rng, rng, event.IDEAL)
    assert len(events) > 0
    assert (events.p == 0).all()


def test_mosaic_takes_each_pixel_from_its_analyser():
    images = np.zeros((4, 6, 4), np.uint16) + np.array(polarization.ANGLES_DEG, np.uint16)
    made = polarization.mosaic(images)
    np.testing.assert_array_equal(made[:2, :2], [[90, 45], [135, 0]])
    np.testing.assert_array_equal(made[2:, 4:], [[90, 45], [135, 0]])


def test_cross_products_and_limbs_equal_the_slow_ones(rng):
    one, other = rng.normal(size=(2, 50, 3)).astype(np.float32)
    np.testing.assert_array_equal(cross(one, other), np.cross(one, other))
    limbs = geometry.capsules(one, other, np.full(50, 0.1), np.full(50, 0.05), 6)
    alone = geometry.capsules(one[7:8], other[7:8], np.full(1, 0.1), np.full(1, 0.05), 6)
    count = len(alone)
    np.testing.assert_array_equal(limbs.corners[7 * count : 8 * count], alone.corners)
    length = np.linalg.norm(other[7] - one[7])
    reach = np.abs(alone.corners.reshape(-1, 3) - one[7]).max()
    assert reach <= length + 0.15


def test_people_are_posed_together_as_they_are_alone(rng):
    climate = draw_climate(rng)
    parts = PartTable(climate.air_kelvin)
    figures = [draw_figure(parts, rng, climate, parts.next_instance()) for _ in range(6)]
    phases, swings = rng.uniform(0, 6, 6), rng.uniform(0, 1, 6)
    ((together, ids),) = Crowd(figures).pieces(phases, swings)
    alone = [
        Crowd([one]).pieces(phases[i : i + 1], swings[i : i + 1])[0]
        for i, one in enumerate(figures)
    ]
    np.testing.assert_array_equal(together.corners, geometry.join([m for m, _ in alone]).corners)
    np.testing.assert_array_equal(ids, np.concatenate([part for _, part in alone]))
    heights = [np.ptp(mesh.corners[..., 2]) for mesh, _ in alone]
    np.testing.assert_allclose(heights, [f.height for f in figures], rtol=0.08)
