"""What thermal, polarization, depth and light-field cameras show of small scenes."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("embreex", reason="rendering needs embreex")

from small_scenes import camera_at, small_scene, view_of

from training.world.config import WorldConfig
from training.world.rays.cameras import camera_axes
from training.world.rays.raytrace import FAR
from training.world.sensors import depth, polarization, thermal
from training.world.shading.shader import view_through
from training.world.shapes.geometry import block, ellipsoid, quad, sheet
from training.world.surfaces.climate import TimeOfDay
from training.world.surfaces.materials import Part, street_id
from training.world.world import World

PERSON = street_id("person")


def test_wall_at_air_temperature_reads_air_temperature():
    air = small_scene([]).climate.air_kelvin
    black = Part(0, (0.5, 0.5, 0.5), kelvin=air, emissivity=1.0, sun_kelvin=0.0)
    shader = small_scene([(block((6, 7), (-20, 20), (-20, 20)), black)])
    seen = view_of(shader, camera_at((0, 0, 1.5))).seen
    kelvin = thermal.apparent_kelvin(shader, seen, np.zeros(len(seen.rays), np.float32))
    rng = np.random.default_rng(0)
    image = thermal.thermograph(kelvin.reshape(48, 64), rng, rng)
    # The middle, where the ray meets the wall steeply enough for full emissivity.
    assert image[16:32, 24:40].mean() / 100 == pytest.approx(air, abs=0.05)


def test_glass_is_clear_to_light_and_opaque_to_heat():
    warm = Part(PERSON, (0.5, 0.5, 0.5), kelvin=306.0)
    glass = Part(street_id("glass"), (0.02, 0.02, 0.02), ior=1.5, kelvin=285.0, emissivity=0.86)
    pane = quad((4, -3, -2), (4, 3, -2), (4, 3, 5), (4, -3, 5))
    body = ellipsoid((6, 0, 1.5), (0.5, 0.8, 0.8))
    camera = camera_at((0, 0, 1.5))
    open_air, behind = (
        small_scene([(body, warm)]),
        small_scene([(body, warm)], panes=[(pane, glass)]),
    )
    bright = [view_of(shader, camera).radiance[24, 32].mean() for shader in (open_air, behind)]
    assert bright[1] > 0.6 * bright[0]
    heat = []
    for shader in (open_air, behind):
        seen = view_of(shader, camera, panes=True).seen
        kelvin = thermal.apparent_kelvin(shader, seen, np.zeros(len(seen.rays), np.float32))
        heat.append(kelvin.reshape(48, 64)[24, 32])
    assert heat[0] > 302
    assert heat[1] < 290


def water_view(light=TimeOfDay.OVERCAST):
    """Water before the camera, seen near Brewster's angle."""
    water = Part(street_id("water"), (0.0, 0.0, 0.0), ior=1.33)
    shader = small_scene([(sheet((-5, 60), (-40, 40), 0.0), water)], light)
    return shader, view_of(shader, camera_at((0, 0, 1.5), pitch=0.6))


def test_water_is_horizontally_polarized_and_most_at_brewster():
    shader, view = water_view()
    s0, s1, s2 = polarization.stokes(shader, view)
    degree = np.hypot(s1, s2) / s0
    cosine = np.zeros(48 * 64)
    cosine[view.seen.rays] = view.seen.cosine
    angle = np.degrees(np.arccos(cosine.reshape(48, 64)))[:, 32]
    assert (s1[20:, 30:34] > 0).all()
    assert np.abs(s2[20:, 31:33] / s0[20:, 31:33]).max() < 0.05
    best = angle[np.argmax(np.where(angle < 85, degree[:, 32], 0))]
    assert best == pytest.approx(53.1, abs=3)
    assert degree[:, 32].max() > 0.97


def test_light_from_below_a_coat_is_polarized_in_the_plane_of_incidence():
    ball = Part(0, (0.9, 0.9, 0.9), ior=1.5)
    dark = Part(1, (0.0, 0.0, 0.0))
    # A black room lets nothing mirror; the ball itself is lit by the sky's ambient share.
    room = [(block((-9, 9), (-9, 9), (lo, hi)), dark) for lo, hi in ((-9, -8), (8, 9))]
    room += [(block((lo, hi), (-9, 9), (-9, 9)), dark) for lo, hi in ((-9, -8), (8, 9))]
    room += [(block((-9, 9), (lo, hi), (-9, 9)), dark) for lo, hi in ((-9, -8), (8, 9))]
    shader = small_scene([(ellipsoid((4, 0, 1.5), (1, 1, 1), 24, 32), ball), *room])
    view = view_of(shader, camera_at((0, 0, 1.5), focal=80))
    s0, s1, s2 = polarization.stokes(shader, view)
    labels = np.zeros(48 * 64, int)
    labels[view.seen.rays] = view.seen.surface.label == 0
    on_ball = np.argwhere(labels.reshape(48, 64) & (s0 > 0.01))
    top, left = on_ball[:, 0].min() + 1, on_ball[:, 1].min() + 1
    assert s1[top, 32] < 0
    assert s1[24, left] > 0
    diagonal = s2[24 - 12, 32 + 12]
    assert abs(s1[24 - 12, 32 + 12]) < abs(diagonal)
    assert diagonal > 0


def test_analyser_pairs_add_up_to_the_same_light():
    shader, view = water_view(TimeOfDay.DAY)
    images = polarization.analyse(shader, view, np.random.default_rng(2)).astype(float)
    free = (images < polarization.FULL_SCALE - 200).all(axis=2)
    one, other = images[..., 0] + images[..., 2], images[..., 1] + images[..., 3]
    assert abs((one - other)[free].mean()) < 3
    assert np.median(np.abs(one - other)[free] / one[free]) < 0.03


def test_mirrored_sky_keeps_to_the_law_of_light():
    """Water mirrors a polarized sky: more or less than Fresnel's mean, never more than all."""
    shader, view = water_view(TimeOfDay.DAY)
    shader.climate = dataclasses.replace(shader.climate, clouds=0.0)
    s0, s1, s2 = polarization.stokes(shader, view)
    assert (np.hypot(s1, s2) <= s0 * 1.001).all()
    mean = view.radiance.mean(axis=2)
    on_water = (view.seen.distance < FAR).reshape(48, 64)
    assert np.abs(s0 / mean - 1)[on_water].max() > 0.2
    np.testing.assert_array_equal(s0[~on_water], mean[~on_water])


@pytest.mark.parametrize("seed", [20_013, 20_043])
def test_no_view_is_more_than_fully_polarized(seed):
    world = World(seed, WorldConfig(width=128, height=96, light="day"))
    view = world.view(0.0, world.scene.camera(0.0))
    s0, s1, s2 = polarization.stokes(world.shader, view)
    assert (np.hypot(s1, s2) <= s0 * 1.001).all()


def test_fog_dims_polarization_once():
    wall = Part(0, (0.5, 0.5, 0.5), ior=1.0)
    shader = small_scene([(block((20, 21), (-60, -5), (-20, 20)), wall)], TimeOfDay.OVERCAST)
    camera = camera_at((0, 0, 1.5))
    clear = polarization.stokes(shader, view_of(shader, camera))
    shader.climate = dataclasses.replace(shader.climate, fog=0.05)
    view = view_of(shader, camera)
    foggy = polarization.stokes(shader, view)
    hit = (view.seen.distance < FAR).reshape(48, 64)
    share = np.exp(-0.05 * view.seen.distance.reshape(48, 64)[hit])
    for before, after in zip(clear[1:], foggy[1:], strict=True):
        np.testing.assert_allclose(after[hit], before[hit] * share, rtol=2e-3, atol=1e-5)


def test_clear_sky_is_polarized_across_the_sun():
    shader = small_scene([], TimeOfDay.DAY)
    climate = dataclasses.replace(shader.climate, clouds=0.0)
    sun = climate.to_sun
    across = np.cross(sun, [0, 0, 1.0])
    across = (across / np.linalg.norm(across)).astype(np.float32)
    degree, field = polarization.sky_polarization(
        climate, np.stack([across, sun]).astype(np.float32)
    )
    assert degree[0] == pytest.approx(0.75, abs=1e-3)
    assert degree[1] == pytest.approx(0, abs=1e-3)
    assert abs(field[0] @ sun) < 1e-4


def test_light_field_views_shift_by_base_over_depth():
    post = Part(PERSON, (0.5, 0.5, 0.5))
    shader = small_scene([(block((4, 4.2), (-0.5, 0.5), (-5, 9)), post)])
    camera = camera_at((0, 0, 1.5), size=(160, 40), focal=200.0)
    columns = []
    for base in (-0.08, 0.0, 0.08):
        view = view_of(shader, camera.shifted(base))
        hit = np.zeros(160 * 40, bool)
        hit[view.seen.rays] = True
        columns.append(np.flatnonzero(hit.reshape(40, 160)[20]).mean())
    np.testing.assert_allclose(-np.diff(columns), 200.0 * 0.08 / 4, atol=0.75)


def test_true_depth_is_measured_along_the_axis():
    wall = Part(0, (0.5, 0.5, 0.5))
    shader = small_scene([(block((5, 6), (-20, 20), (-20, 20)), wall)])
    truth = depth.true_depth(view_of(shader, camera_at((0, 0, 1.5))))
    np.testing.assert_allclose(truth, 5.0, atol=1e-3)


@pytest.mark.parametrize("heading", [0.0, 0.9, np.pi])
def test_panes_are_found_where_the_camera_searches_for_them(heading):
    """The rectangle about a pane holds every ray that hits it, also at the picture's edge."""
    glass = Part(street_id("glass"), (0.02, 0.02, 0.02), ior=1.5)
    pane = quad((4, -1, 0.5), (4, 2, 0.5), (4, 2, 2.5), (4, -1, 2.5))
    shader = small_scene([], panes=[(pane, glass)])
    base = camera_at((0, 0, 1.5))
    camera = dataclasses.replace(base, axes=camera_axes(heading, 0.1, 0.05))
    found = view_through(shader, camera, 0.0).panes.rays
    every = view_of(shader, camera).panes.rays
    np.testing.assert_array_equal(found, every)
    assert (len(every) > 0) == (heading < 1)
