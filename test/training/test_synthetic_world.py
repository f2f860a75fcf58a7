"""The rendered world: determinism, records, what each sensor shows of one scene, recordings."""

import dataclasses
import sys

import cv2
import numpy as np
import pytest

from segrgbx_core.errors import DataError
from segrgbx_core.label_tables import NYU, SYNTHETIC_STREET
from segrgbx_core.labels import synthetic_label_space
from segrgbx_core.modality import MODALITIES, Modality
from training.synthetic import records
from training.synthetic.raytrace import FAR, Tracer
from training.synthetic.records import Corruption, Light, WorldConfig

pytest.importorskip("embreex", reason="rendering needs embreex")

from training.synthetic import gallery, render
from training.synthetic.cameras import Camera, look
from training.synthetic.climate import TimeOfDay, draw_climate
from training.synthetic.geometry import block, ellipsoid, quad, sheet
from training.synthetic.materials import Part, PartTable, street_id
from training.synthetic.plan import draw_plan
from training.synthetic.scene import Scene, Stage
from training.synthetic.sensors import depth, polarization, thermal
from training.synthetic.shading import Shader
from training.synthetic.view import View
from training.synthetic.world import World, render_record, render_sequence

SMALL = WorldConfig(width=64, height=48)
ROAD, PERSON = street_id("road"), street_id("person")


@pytest.fixture(scope="module")
def street():
    return World(8, WorldConfig(width=80, height=60, light=Light.NIGHT, speed_mps=3))


@pytest.fixture(scope="module")
def everything(street):
    return street.record(0.5, MODALITIES)


def camera_at(position, pitch=0.0, size=(64, 48), focal=60.0):
    place = np.asarray(position, np.float32)
    return Camera(*size, focal, place, look(place, 0.0, pitch, 0.0))


def small_scene(pieces, light=TimeOfDay.OVERCAST, panes=()):
    """A scene of given (mesh, part) pairs under a plain sky."""
    rng = np.random.default_rng(1)
    parts = PartTable()
    ids = [parts.add(part) for _, part in [*pieces, *panes]]
    climate = dataclasses.replace(draw_climate(rng, light), fog=0.0)
    scene = Scene(
        seed=0,
        climate=climate,
        plan=dataclasses.replace(draw_plan(rng), bend=0.0),
        parts=parts,
        sky_label=street_id("sky"),
        pane_label=street_id("glass"),
        label_space="synthetic_street",
        camera=lambda _: camera_at((0, 0, 1.5)),
    )
    scene.statics = [(mesh, part) for (mesh, _), part in zip(pieces, ids, strict=False)]
    scene.panes = [(mesh, part) for (mesh, _), part in zip(panes, ids[len(pieces) :], strict=True)]
    stage = Stage(scene)
    stage.set_time(0.0)
    return Shader(stage)


def view_of(shader, camera, panes=False):
    ways = camera.rays()
    origins = np.ascontiguousarray(np.broadcast_to(camera.position, ways.shape))
    seen = shader.see(origins, ways, camera.focal, camera.width, panes)
    return View(camera, 0.0, seen, shader.light(seen), shader.panes(seen))


def test_seed_ranges_do_not_meet():
    sets = [set(records.TRAIN_SEEDS), set(records.VALIDATION_SEEDS), set(records.TEST_SEEDS)]
    assert len(set.union(*sets)) == sum(len(one) for one in sets)


def test_a_seed_gives_the_same_bytes_twice(everything):
    again = World(8, WorldConfig(width=80, height=60, light=Light.NIGHT, speed_mps=3))
    other = again.record(0.5, MODALITIES)
    for name in render.ARRAYS:
        np.testing.assert_array_equal(
            getattr(other, name), getattr(everything, name), err_msg=name
        )
    for name in render.EVENT_ARRAYS:
        np.testing.assert_array_equal(
            getattr(other.events, name), getattr(everything.events, name)
        )


def test_a_record_does_not_depend_on_what_was_rendered_before(street, everything):
    street.record(2.0, [Modality.EVENT])
    np.testing.assert_array_equal(street.record(0.5, []).rgb, everything.rgb)
    lone = street.record(0.5, ["thermal"])
    np.testing.assert_array_equal(lone.thermal, everything.thermal)


def test_record_types(everything):
    size = (60, 80)
    assert everything.rgb.dtype == np.uint8
    assert everything.rgb.shape == (*size, 3)
    assert everything.labels.dtype == np.uint8
    assert everything.labels.shape == size
    assert everything.labels.max() < SYNTHETIC_STREET.num_classes
    assert everything.thermal.dtype == np.uint16
    assert everything.depth.dtype == np.float32
    assert (everything.depth >= 0).all()
    assert everything.polarization.shape == (*size, 4)
    assert everything.polarization.max() <= polarization.FULL_SCALE
    assert everything.light_field.shape == (1, *size, 3)
    assert everything.events.t_ns.min() > everything.x_stamp_ns - 50_000_000
    assert everything.events.t_ns.max() <= everything.x_stamp_ns
    assert everything.meta["time_of_day"] == "night"


def test_many_scenes_hold_the_classes():
    present = np.zeros(SYNTHETIC_STREET.num_classes)
    for seed in range(4):
        labels = render_record(seed, 0.0, [], WorldConfig(width=96, height=72)).labels
        present += np.bincount(labels.ravel(), minlength=len(present)) > 0
    always = ["road", "road line", "sidewalk", "building", "vegetation", "sky", "person", "car"]
    assert all(present[street_id(name)] >= 3 for name in always)
    assert (present > 0).sum() >= 13


def test_people_glow_in_the_thermal_picture_at_night(everything):
    is_person = cv2.erode((everything.labels == PERSON).astype(np.uint8), np.ones((2, 2))) > 0
    if is_person.sum() < 20:
        pytest.skip("no person is large enough in this view")
    kelvin = everything.thermal / thermal.COUNTS_PER_KELVIN
    assert np.median(kelvin[is_person]) > np.median(kelvin[everything.labels == ROAD]) + 2


def test_light_decides_time_of_day():
    for light in (Light.DAY, Light.NIGHT):
        record = render_record(3, 0.0, [], WorldConfig(width=48, height=36, light=light))
        assert record.meta["time_of_day"] == light.value


def test_sequence_equals_single_records():
    times = [0.0, 0.4]
    frames = list(render_sequence(5, times, ["thermal"], SMALL))
    single = render_record(5, times[1], ["thermal"], SMALL)
    np.testing.assert_array_equal(frames[1].rgb, single.rgb)
    np.testing.assert_array_equal(frames[1].thermal, single.thermal)
    assert frames[1].stamp_ns == 400_000_000


def test_x_cameras_have_their_own_grid_place_and_clock():
    config = WorldConfig(width=64, height=48, x_scale=0.5, x_shift_m=0.3, x_delay_ms=20)
    record = render_record(5, 0.1, ["thermal", "depth"], config)
    assert record.thermal.shape == (24, 32)
    assert record.depth.shape == (24, 32)
    assert record.x_stamp_ns - record.stamp_ns == 20_000_000


@pytest.mark.parametrize(
    ("corruption", "brighter"),
    [(Corruption.OVER_EXPOSURE, True), (Corruption.UNDER_EXPOSURE, False)],
)
def test_corrupted_exposure(corruption, brighter):
    plain = World(5, SMALL).record(0.0, [])
    bad = World(5, WorldConfig(width=64, height=48, corruption=corruption)).record(0.0, [])
    assert (bad.rgb.mean() > plain.rgb.mean() + 10) == brighter
    np.testing.assert_array_equal(bad.labels, plain.labels)


def test_a_fixed_exposure_darkens_rgb_alone():
    config = {"width": 64, "height": 48, "light": "day"}
    plain = World(5, WorldConfig(**config)).record(0.0, ["polarization", "event"])
    dark = World(5, WorldConfig(**config, exposure=0.02)).record(0.0, ["polarization", "event"])
    assert 0 < dark.rgb.mean() < plain.rgb.mean() / 3
    np.testing.assert_array_equal(dark.polarization, plain.polarization)
    np.testing.assert_array_equal(dark.events.t_ns, plain.events.t_ns)


def test_motion_blur_softens_and_low_resolution_events_shrink():
    plain = World(5, SMALL).record(0.0, [])
    blurred = World(5, WorldConfig(width=64, height=48, corruption="motion_blur")).record(0.0, [])
    sharpness = [np.abs(np.diff(r.rgb.astype(int), axis=1)).mean() for r in (plain, blurred)]
    assert sharpness[1] < sharpness[0]
    coarse = WorldConfig(width=96, height=72, corruption="event_low_resolution")
    events = World(5, coarse).record(0.0, ["event"]).events
    assert (events.width, events.height) == (32, 24)


def test_shaking_blurs_the_light_field_and_no_other_sensor():
    sensors = ["thermal", "depth", "polarization", "event", "light_field"]
    plain, blurred = (
        World(20_011, WorldConfig(width=96, height=72, light="day", corruption=corruption)).record(
            2.0, sensors
        )
        for corruption in ("none", "motion_blur")
    )
    for name in ("thermal", "depth", "polarization"):
        np.testing.assert_array_equal(getattr(blurred, name), getattr(plain, name), err_msg=name)
    np.testing.assert_array_equal(blurred.events.t_ns, plain.events.t_ns)
    for name in ("rgb", "light_field"):
        images = [getattr(record, name).astype(int) for record in (plain, blurred)]
        sharp, soft = (np.abs(np.diff(image, axis=-2)).mean() for image in images)
        assert soft < 0.9 * sharp, name


def test_saved_records_come_back(tmp_path, everything):
    path = tmp_path / "00007_00.npz"
    render.save_record(path, everything)
    back = render.load_record(path)
    for name in render.ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(everything, name))
    np.testing.assert_array_equal(back.events.t_ns, everything.events.t_ns)
    assert (back.seed, back.stamp_ns, dict(back.meta)) == (8, 500_000_000, dict(everything.meta))
    (tmp_path / "no.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no rendered record"):
        render.load_record(tmp_path / "no.npz")


def test_render_job_keeps_what_is_there(tmp_path):
    job = render.Job(4, (0.0, 1.0), (), SMALL, tmp_path)
    assert render.render_job(job)[0] == 2
    assert render.render_job(job)[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00004_00.npz", "00004_01.npz"]


def test_records_of_other_options_are_not_mixed(tmp_path, capsys):
    def rendered(*more):
        size = ["--size", "64x48"]
        return render.main(["--out", str(tmp_path), "--seeds", "4:5", *size, *more])

    assert rendered() == rendered() == 0
    assert rendered("--set", "light=day") == 2
    assert "rendered with another light; choose another folder" in capsys.readouterr().err
    assert rendered("--sensors", "depth", "--interval", "0.1") == 2
    assert "another interval_s, sensors;" in capsys.readouterr().err


def test_sensor_and_seed_words():
    assert render.parse_seeds("3:6") == [3, 4, 5]
    assert render.parse_seeds("9,2") == [9, 2]
    assert render.parse_sensors("all") == MODALITIES
    assert render.parse_sensors("one", 7) == (MODALITIES[2],)
    with pytest.raises(DataError, match="sensor 'sonar' is unknown"):
        render.parse_sensors("sonar")


def test_missing_embree_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(DataError, match="pip install embreex"):
        Tracer([], [])


def test_wall_at_air_temperature_reads_air_temperature():
    air = small_scene([]).climate.air_kelvin
    black = Part(0, (0.5, 0.5, 0.5), kelvin=air, emissivity=1.0, sun_kelvin=0.0)
    shader = small_scene([(block((6, 7), (-20, 20), (-20, 20)), black)])
    seen = view_of(shader, camera_at((0, 0, 1.5))).seen
    kelvin = thermal.apparent_kelvin(shader, seen, np.zeros(len(seen.at), np.float32))
    rng = np.random.default_rng(0)
    image = thermal.thermograph(kelvin.reshape(48, 64), rng, rng)
    # The middle, where the ray meets the wall steeply enough for full emissivity.
    assert image[16:32, 24:40].mean() / 100 == pytest.approx(air, abs=0.05)


def test_glass_is_clear_to_light_and_opaque_to_heat():
    warm = Part(PERSON, (0.5, 0.5, 0.5), kelvin=306.0)
    glass = Part(street_id("glass"), (0.02, 0.02, 0.02), index=1.5, kelvin=285.0, emissivity=0.86)
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
        kelvin = thermal.apparent_kelvin(shader, seen, np.zeros(len(seen.at), np.float32))
        heat.append(kelvin.reshape(48, 64)[24, 32])
    assert heat[0] > 302
    assert heat[1] < 290


def water_view(light=TimeOfDay.OVERCAST):
    """Water before the camera, seen near Brewster's angle."""
    water = Part(street_id("water"), (0.0, 0.0, 0.0), index=1.33)
    shader = small_scene([(sheet((-5, 60), (-40, 40), 0.0), water)], light)
    return shader, view_of(shader, camera_at((0, 0, 1.5), pitch=0.6))


def test_water_is_horizontally_polarized_and_most_at_brewster():
    shader, view = water_view()
    s0, s1, s2 = polarization.stokes(shader, view)
    degree = np.hypot(s1, s2) / s0
    cosine = np.zeros(48 * 64)
    cosine[view.seen.at] = view.seen.cosine
    angle = np.degrees(np.arccos(cosine.reshape(48, 64)))[:, 32]
    assert (s1[20:, 30:34] > 0).all()
    assert np.abs(s2[20:, 31:33] / s0[20:, 31:33]).max() < 0.05
    best = angle[np.argmax(np.where(angle < 85, degree[:, 32], 0))]
    assert best == pytest.approx(53.1, abs=3)
    assert degree[:, 32].max() > 0.97


def test_light_from_below_a_coat_is_polarized_in_the_plane_of_incidence():
    ball = Part(0, (0.9, 0.9, 0.9), index=1.5)
    dark = Part(1, (0.0, 0.0, 0.0))
    # A black room lets nothing mirror; the ball itself is lit by the sky's ambient share.
    room = [(block((-9, 9), (-9, 9), (lo, hi)), dark) for lo, hi in ((-9, -8), (8, 9))]
    room += [(block((lo, hi), (-9, 9), (-9, 9)), dark) for lo, hi in ((-9, -8), (8, 9))]
    room += [(block((-9, 9), (lo, hi), (-9, 9)), dark) for lo, hi in ((-9, -8), (8, 9))]
    shader = small_scene([(ellipsoid((4, 0, 1.5), (1, 1, 1), 24, 32), ball), *room])
    view = view_of(shader, camera_at((0, 0, 1.5), focal=80))
    s0, s1, s2 = polarization.stokes(shader, view)
    labels = np.zeros(48 * 64, int)
    labels[view.seen.at] = view.seen.surface.label == 0
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
    wall = Part(0, (0.5, 0.5, 0.5), index=1.0)
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
        hit[view.seen.at] = True
        columns.append(np.flatnonzero(hit.reshape(40, 160)[20]).mean())
    np.testing.assert_allclose(-np.diff(columns), 200.0 * 0.08 / 4, atol=0.75)


def test_true_depth_is_measured_along_the_axis():
    wall = Part(0, (0.5, 0.5, 0.5))
    shader = small_scene([(block((5, 6), (-20, 20), (-20, 20)), wall)])
    truth = depth.true_depth(view_of(shader, camera_at((0, 0, 1.5))))
    np.testing.assert_allclose(truth, 5.0, atol=1e-3)


def test_rooms_have_their_own_classes_sensors_and_warmth():
    config = WorldConfig(width=80, height=60, family="indoor")
    world = World(11, config)
    record = world.record(0.2, ["thermal", "depth"])
    assert record.label_space == "nyu"
    names = {NYU.names[index] for index in np.unique(record.labels)}
    assert {"wall", "floor", "ceiling"} <= names
    assert (record.depth > 0).mean() > 0.6
    assert record.depth.max() <= 8.0
    room = record.thermal[record.labels == NYU.names.index("wall")].mean() / 100
    assert room == pytest.approx(world.scene.climate.air_kelvin - 1.5, abs=1.5)
    unified = synthetic_label_space().unify(record.labels, record.label_space)
    assert unified.shape == record.labels.shape


def test_a_gallery_shows_every_sensor():
    shot = gallery.Shot("tiny", 3, 0.0, {})
    picture = gallery.sheet([shot], (64, 48))
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 7 * 64
