"""The LiDAR's range picture and near infrared, and that they disturb no other sensor."""

import numpy as np
import pytest

pytest.importorskip("embreex", reason="rendering needs embreex")

from small_scenes import camera_at, small_scene, view_of

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.sensors import EncodingConfig, encode
from training.world import recording, records, render
from training.world.config import Light, WorldConfig
from training.world.records import ADDED, LIDAR, NIR, RENDERED
from training.world.sensors import lidar, nir
from training.world.shapes.geometry import block, quad, sheet
from training.world.surfaces.climate import TimeOfDay
from training.world.surfaces.materials import Part, street_id
from training.world.world import World

CAMERA = camera_at((0, 0, 1.5))
PERSON, ROAD, LEAVES = (street_id(name) for name in ("person", "road", "vegetation"))


def wall(distance, part):
    return block((distance, distance + 1), (-40, 40), (-40, 40)), part


def ranges(shader, seed=0):
    counts = lidar.measure(view_of(shader, CAMERA), np.random.default_rng(seed))
    return counts * lidar.METRES_PER_COUNT


def test_ranges_are_those_along_the_rays():
    metres = ranges(small_scene([wall(10, Part(ROAD, (0.5, 0.5, 0.5)))]))
    assert metres.shape == (lidar.RINGS, 64)
    measured = metres > 0
    assert measured.mean() == pytest.approx(1 - lidar.LOST_SHARE, abs=0.02)
    assert metres[30, 32] == pytest.approx(10, abs=0.1)
    corner = 10 * np.sqrt(1 + (31.5 / 60) ** 2 + (23.5 / 60) ** 2)
    assert np.median(metres[:3, :3][measured[:3, :3]]) == pytest.approx(corner, rel=0.02)


def test_far_dark_walls_and_the_sky_send_nothing_back():
    bright, dark = Part(ROAD, (0.6, 0.6, 0.6)), Part(ROAD, (0.05, 0.05, 0.05))
    assert (ranges(small_scene([wall(70, bright)]))[25:35, 28:36] > 0).mean() > 0.9
    assert not (ranges(small_scene([wall(70, dark)])) > 0).any()
    assert (ranges(small_scene([wall(20, dark)]))[25:35, 28:36] > 0).mean() > 0.9
    assert not ranges(small_scene([wall(500, bright)])).any()
    low = block((10, 11), (-40, 40), (-40, 1.5)), bright  # up to the camera's height
    metres = ranges(small_scene([low]))
    assert not metres[:25].any()
    assert (metres[35:] > 0).mean() > 0.9


def test_day_and_night_are_alike_to_a_lidar():
    part = Part(ROAD, (0.4, 0.4, 0.4))
    day, night = (
        ranges(small_scene([wall(12, part)], light)) for light in (TimeOfDay.DAY, TimeOfDay.NIGHT)
    )
    assert np.array_equal(day, night)


def test_most_pulses_pass_a_clean_pane():
    glass = Part(street_id("glass"), (0.02, 0.02, 0.02), ior=1.5)
    pane = quad((4, -9, -9), (4, 9, -9), (4, 9, 9), (4, -9, 9))
    metres = ranges(small_scene([wall(10, Part(ROAD, (0.5,) * 3))], panes=[(pane, glass)]))
    assert not ((metres > 0) & (metres < 9)).any()
    assert (metres > 0).mean() == pytest.approx(lidar.PANE_SHARE, abs=0.05)


def near_infrared(shader):
    return nir.photograph_nir(shader, view_of(shader, CAMERA), np.random.default_rng(0))


def test_leaves_and_cloth_are_bright_whatever_their_colour():
    green, black = (0.03, 0.08, 0.02), (0.02, 0.02, 0.02)
    parts = [Part(LEAVES, green), Part(PERSON, black), Part(ROAD, black)]
    surfaces = [view_of(small_scene([wall(10, part)]), CAMERA).seen.surface for part in parts]
    leaves, cloth, tar = (nir.reflectance(surface).mean() for surface in surfaces)
    assert leaves > 0.3
    assert cloth > 0.3
    assert tar < 0.05
    water = view_of(small_scene([wall(10, Part(street_id("water"), (0.3,) * 3))]), CAMERA)
    assert nir.reflectance(water.seen.surface).max() == pytest.approx(0.03)
    assert nir.reflectance(surfaces[0], labels=False).max() < 0.1, "rooms have other classes"


def test_the_lamp_lights_what_is_near_at_night():
    ground = (sheet((1, 200), (-60, 60), 0.0), Part(ROAD, (0.3, 0.3, 0.3)))
    picture = near_infrared(small_scene([ground], TimeOfDay.NIGHT)).astype(float)
    assert picture.shape == (48, 64)
    near, far = picture[-4:].mean(), picture[26:30].mean()
    assert near > 4 * far
    clothed = (block((8, 8.4), (-0.5, 0.5), (0, 2.4)), Part(PERSON, (0.02, 0.02, 0.02)))
    seen = near_infrared(small_scene([ground, clothed], TimeOfDay.NIGHT)).astype(float)
    view = view_of(small_scene([ground, clothed], TimeOfDay.NIGHT), CAMERA)
    label = np.zeros(48 * 64, int)
    label[view.seen.rays] = view.seen.surface.label
    person = (label == PERSON).reshape(48, 64)
    assert seen[person].mean() > 2 * view.radiance.mean() * 255


@pytest.fixture(scope="module")
def config():
    return WorldConfig(width=80, height=60, light=Light.NIGHT, speed_mps=3, corruption="any")


@pytest.mark.parametrize("delay_s", [0.0, 0.012])
def test_the_five_sensors_keep_every_bit(config, delay_s):
    plain = World(8, config).record(0.5, MODALITIES, delay_s)
    more = World(8, config).record(0.5, RENDERED, delay_s)
    for name in (
        "rgb",
        "labels",
        "thermal",
        "depth",
        "depth_truth",
        "polarization",
        "light_field",
    ):
        np.testing.assert_array_equal(getattr(more, name), getattr(plain, name), err_msg=name)
    for name in records.EVENT_ARRAYS:
        np.testing.assert_array_equal(getattr(more.events, name), getattr(plain.events, name))
    alone = World(8, config).record(0.5, [NIR, LIDAR], delay_s)
    np.testing.assert_array_equal(alone.lidar, more.lidar)
    np.testing.assert_array_equal(alone.nir, more.nir)
    lone_thermal = World(8, config).record(0.5, [Modality.THERMAL, LIDAR], delay_s).thermal
    np.testing.assert_array_equal(
        lone_thermal, World(8, config).record(0.5, [Modality.THERMAL], delay_s).thermal
    )


def test_records_keep_and_state_them(config, tmp_path):
    record = World(8, config).record(0.5, [LIDAR, NIR])
    records.save_record(tmp_path / "1_0.npz", record)
    back = records.load_record(tmp_path / "1_0.npz", [LIDAR])
    np.testing.assert_array_equal(back.lidar, record.lidar)
    assert back.nir is None
    encoding = EncodingConfig(added=ADDED)
    for modality in (LIDAR, NIR):
        x_image = encode(records.record_sample(record, modality), encoding)
        assert 0 < x_image.mean() < 1
        assert x_image.max() > 0.3
    metres = record.lidar * lidar.METRES_PER_COUNT
    drawn = encode(records.record_sample(record, LIDAR), encoding)[..., 0]
    np.testing.assert_allclose(drawn, np.clip(metres / ADDED[LIDAR].high, 0, 1), atol=1e-6)
    with pytest.raises(records.DataError, match="without nir; render it with --sensors nir"):
        records.record_sample(back, NIR)
    with pytest.raises(records.DataError, match=r"one of event, .*, lidar, nir"):
        records.record_sample(back, Modality("sonar"))


def test_a_recording_holds_what_a_driver_publishes(config):
    record = World(8, config).record(0.5, [LIDAR, NIR])
    assert recording.x_image(record, LIDAR)[0] == "16UC1"
    assert recording.x_image(record, NIR)[0] == "mono8"


def test_sensor_words():
    assert render.parse_sensors("lidar,nir,depth") == (LIDAR, NIR, Modality.DEPTH)
    assert render.parse_sensors("all") == MODALITIES, "folders of earlier versions go on"
