"""The rendered world: determinism, records, corruptions, many scenes, rooms, the gallery."""

import sys

import cv2
import numpy as np
import pytest

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.labels.tables import NYU, SYNTHETIC_STREET
from training.world import config, records
from training.world.config import Corruption, Light, WorldConfig
from training.world.rays.raytrace import Tracer

pytest.importorskip("embreex", reason="rendering needs embreex")

from training.world import gallery, render
from training.world.sensors import polarization, thermal
from training.world.surfaces.materials import street_id
from training.world.world import World, render_record, render_sequence

SMALL = WorldConfig(width=64, height=48)
ROAD, PERSON = street_id("road"), street_id("person")


@pytest.fixture(scope="module")
def street():
    return World(8, WorldConfig(width=80, height=60, light=Light.NIGHT, speed_mps=3))


@pytest.fixture(scope="module")
def everything(street):
    return street.record(0.5, MODALITIES)


def test_seed_ranges_do_not_meet():
    sets = [set(config.TRAIN_SEEDS), set(config.VALIDATION_SEEDS), set(config.TEST_SEEDS)]
    assert len(set.union(*sets)) == sum(len(one) for one in sets)


def test_a_seed_gives_the_same_bytes_twice(everything):
    again = World(8, WorldConfig(width=80, height=60, light=Light.NIGHT, speed_mps=3))
    other = again.record(0.5, MODALITIES)
    for name in records.ARRAYS:
        np.testing.assert_array_equal(
            getattr(other, name), getattr(everything, name), err_msg=name
        )
    for name in records.EVENT_ARRAYS:
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
    records.save_record(path, everything)
    back = records.load_record(path)
    for name in records.ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(everything, name))
    np.testing.assert_array_equal(back.events.t_ns, everything.events.t_ns)
    assert (back.seed, back.stamp_ns, dict(back.meta)) == (8, 500_000_000, dict(everything.meta))
    (tmp_path / "no.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no rendered record"):
        records.load_record(tmp_path / "no.npz")


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
    assert render.parse_sensors("none") == ()
    with pytest.raises(DataError, match="sensor 'sonar' is unknown"):
        render.parse_sensors("sonar")


def test_missing_embree_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    none = np.zeros((0, 3, 3), np.float32)
    with pytest.raises(DataError, match="pip install embreex"):
        Tracer(none, none, np.zeros(0, np.int32))


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
    shot = gallery.Shot("tiny", 3, 0.0, SMALL)
    picture = gallery.sheet([shot])
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 7 * 64
