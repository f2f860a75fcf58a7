"""Variation: each kind changes what it names and nothing else, by the seed alone."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

pytest.importorskip("embreex", reason="rendering needs embreex")
pytest.importorskip("rosbags", reason="recordings need rosbags")

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import VOID, synthetic_label_space
from segrgbx_core.labels.tables import SYNTHETIC_STREET
from segrgbx_core.sensors import encode
from training.world import render
from training.world.config import Variation, WorldConfig, variation_rng
from training.world.recording import x_image
from training.world.records import RECORD_SENSOR, load_record, record_sample, save_record
from training.world.scenes.street_layout import draw_mount
from training.world.sensors import depth, rgb, thermal
from training.world.surfaces.materials import Part, PartTable, Pattern, street_id
from training.world.surfaces.variation import vary_parts
from training.world.world import World

SEED = 7
FIELDS = ("rgb", "labels", "thermal", "depth", "polarization", "light_field")
CHANGES = {
    Variation.RESPONSE: {"rgb", "light_field"},
    Variation.READOUT: {"rgb", "light_field"},
    Variation.THERMAL: {"thermal"},
    Variation.DEPTH: {"depth"},
    Variation.EVENT: {"events"},
}
"""What the kinds that vary a sensor may change; the others vary the scene."""
SCENE_KINDS = [kind for kind in Variation if kind not in {*CHANGES, Variation.REAL}]


def record(*kinds, seed=SEED, sensors=MODALITIES, **options):
    config = WorldConfig(width=64, height=48, light="day", variation=kinds, **options)
    return World(seed, config).record(0.4, sensors)


def both(one, other, name):
    return getattr(one, name), getattr(other, name)


def changed(one, other):
    """Fields of two records that differ."""
    fields = {name for name in FIELDS if not np.array_equal(*both(one, other, name))}
    events = one.events, other.events
    same_events = all(np.array_equal(*both(*events, name)) for name in ("x", "y", "t_ns", "p"))
    return fields if same_events else {*fields, "events"}


@pytest.fixture(scope="module")
def plain():
    return record()


@pytest.mark.parametrize("kind", CHANGES)
def test_a_sensor_varies_alone(plain, kind):
    assert changed(plain, record(kind)) == CHANGES[kind]


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_a_scene_varies_for_all_sensors(plain, kind):
    varied = record(kind, sensors=["thermal"])
    assert not np.array_equal(varied.rgb, plain.rgb)
    assert not np.array_equal(varied.thermal, plain.thermal)
    moves = {Variation.LAYOUT, Variation.CAMERA, Variation.CLUTTER}
    assert np.array_equal(varied.labels, plain.labels) == (kind not in moves)


def test_real_is_all_kinds_and_a_pure_function_of_the_seed(plain):
    kinds = [kind for kind in Variation if kind is not Variation.REAL]
    one, other = record(Variation.REAL), record(*kinds)
    assert changed(one, other) == set()
    assert changed(one, plain) == {*FIELDS, "events"}


@pytest.mark.parametrize("seed", [3, 11])
def test_varied_records_can_be_stored_and_encoded(tmp_path, seed):
    one = record(Variation.REAL, seed=seed)
    save_record(tmp_path / "a.npz", one)
    back = load_record(tmp_path / "a.npz")
    assert back.thermal.dtype == one.thermal.dtype
    for modality in MODALITIES:
        image = encode(record_sample(back, modality), None, RECORD_SENSOR)
        assert np.isfinite(image).all()
    unified = synthetic_label_space().unify(back.labels, back.label_space)
    assert ((unified == VOID) == (back.labels == VOID)).all()


def test_clutter_is_void_and_covers_little():
    shares = []
    for seed in range(6):
        labels = record(Variation.CLUTTER, seed=seed, sensors=[]).labels
        assert set(np.unique(labels)) <= {*range(SYNTHETIC_STREET.num_classes), VOID}
        shares.append((labels == VOID).mean())
    assert 0 < np.mean(shares) < 0.3


def test_rooms_vary_their_surfaces_and_sensors():
    kinds = [Variation.SURFACES, Variation.THERMAL, Variation.RESPONSE]
    room, other = (record(*chosen, family="indoor", sensors=["depth"]) for chosen in ([], kinds))
    assert not np.array_equal(room.rgb, other.rgb)
    np.testing.assert_array_equal(room.labels, other.labels)
    np.testing.assert_array_equal(room.depth_truth, other.depth_truth)
    record(Variation.REAL, family="indoor")


def test_a_street_without_anybody_on_foot_is_rendered():
    deserted = record(Variation.LAYOUT, seed=4041, sensors=[])
    assert deserted.rgb.any()


def test_variation_is_read_as_a_word_or_a_list():
    for value in ("camera,sky", ["camera", "sky"]):
        config = from_mapping(WorldConfig, {"variation": value})
        assert config.variation == (Variation.CAMERA, Variation.SKY)
    assert from_mapping(WorldConfig, {"variation": "real"}).varies(Variation.DEPTH)
    assert not WorldConfig().varies(Variation.DEPTH)
    with pytest.raises(ConfigError, match="got 'colour'"):
        from_mapping(WorldConfig, {"variation": "colour"})


def test_records_of_older_folders_are_continued(tmp_path):
    config = WorldConfig(width=32, height=32)
    render.claim_folder(tmp_path, config)
    (tmp_path / "00001_00.npz").touch()
    path = tmp_path / "world.json"
    facts = json.loads(path.read_text())
    del facts["variation"]
    path.write_text(json.dumps(facts))
    render.claim_folder(tmp_path, config)
    with pytest.raises(ValueError, match="another variation"):
        render.claim_folder(tmp_path, config.model_copy(update={"variation": (Variation.REAL,)}))


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 100_000, "\xff"])
def test_a_damaged_list_of_options_is_refused(tmp_path, content):
    (tmp_path / "00001_00.npz").touch()
    (tmp_path / "world.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"world\.json: is damaged .*choose another folder"):
        render.claim_folder(tmp_path, WorldConfig())


def test_a_response_moves_colours_as_it_says():
    grey = np.full((8, 8, 3), 0.2, np.float32)
    np.testing.assert_array_equal(rgb.tone(grey, rgb.Response()), rgb.tone(grey))
    warm = rgb.Response(matrix=np.diag([1.5, 1.0, 0.6]).astype(np.float32), gamma=2.2)
    red, green, blue = rgb.tone(grey, warm)[0, 0].astype(int)
    assert red > green > blue
    assert green == pytest.approx(255 * 0.2 ** (1 / 2.2), abs=1)
    lifted = rgb.tone(grey * 0, rgb.Response(gamma=2.2, black=0.1))
    assert lifted[0, 0, 0] == pytest.approx(25.5, abs=1)


def test_bands_run_across_and_a_vignette_darkens_corners(rng):
    light = np.full((120, 160, 3), 0.15, np.float32)
    still = rgb.Exposure(1.0)
    banded = rgb.photograph(light, still, rng, readout=rgb.Readout(band=0.05, band_period=0.5))
    rows, columns = banded.mean(axis=(1, 2)), banded.mean(axis=(0, 2))
    assert np.ptp(rows) > 4 * np.ptp(columns)
    dark = rgb.photograph(light, still, rng, readout=rgb.Readout(vignette=0.4)).astype(float)
    assert dark[:20, :20].mean() < dark[50:70, 70:90].mean() - 10


def test_gain_control_keeps_order_or_turns_it_round():
    kelvin = np.tile(np.linspace(280, 310, 64, dtype=np.float32), (48, 1))
    plain = thermal.GainControl((0, 100), 0.0, 0.0, 2, 0.0, 2.0, 1.0, False, 1.0, 0.5)
    picture = plain.picture(kelvin)
    assert picture.dtype == np.uint8
    assert (np.diff(picture.astype(int), axis=1) >= 0).all()
    assert (picture.min(), picture.max()) == (0, 255)
    turned = dataclasses.replace(plain, is_inverted=True).picture(kelvin)
    np.testing.assert_array_equal(turned, 255 - picture)
    # A hot spot takes the contrast of the rest, unless the levels are equalized.
    kelvin[:4, :4] = 400
    narrow, equal = (
        plain.picture(kelvin),
        dataclasses.replace(plain, equalized=1.0).picture(kelvin),
    )
    assert np.ptp(equal[10].astype(int)) > 2 * np.ptp(narrow[10].astype(int))


def test_the_second_eye_decides_the_side_of_the_shadow(rng):
    truth = np.full((20, 200), 10.0, np.float32)
    truth[:, 90:110] = 2.0
    sides = []
    for is_left in (False, True):
        rig = depth.StereoRig(noise_px=1e-4, is_left=is_left)
        holes = (depth.stereo(truth, 200.0, rng, rig)[:, 40:160] == 0).all(axis=0)
        sides.append(np.flatnonzero(holes) + 40)
    near, far = sides
    assert far.min() < 110 <= near.min() or near.max() < 90 < far.max()


def test_filled_holes_take_the_farther_neighbour():
    row = np.array([[0, 2.0, 0, 0, 9.0, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    filled = depth._filled(row)
    np.testing.assert_array_equal(filled, [[2, 2, 9, 9, 9, 9], [0] * 6])


def test_parts_of_one_object_keep_one_paint():
    parts = PartTable(288.0)
    for _ in range(3):
        parts.add(Part(street_id("car"), (0.5, 0.5, 0.5), ior=1.5, instance=4))
    sign = parts.add(Part(street_id("traffic sign"), (0.6, 0.6, 0.6), Pattern.SIGN))
    vary_parts(parts, np.random.default_rng(3))
    assert len({part.colour for part in parts.parts[:3]}) == 1
    assert parts.parts[0].colour != (0.5, 0.5, 0.5)
    assert parts.parts[sign].colour == (0.6, 0.6, 0.6)
    assert all(0 < part.emissivity <= 1 for part in parts.parts)


def test_cameras_vary_in_height_and_angle_of_view():
    mounts = [draw_mount(variation_rng(seed, Variation.CAMERA)) for seed in range(60)]
    heights = [mount.height for mount in mounts]
    angles = [mount.field_of_view_deg for mount in mounts]
    assert min(heights) < 1.0 < 2.2 < max(heights)
    assert min(angles) < 45 < 90 < max(angles)
    config = WorldConfig(width=64, height=48, variation=(Variation.CAMERA,))
    camera = World(SEED, config).scene.camera(0.0)
    mount = draw_mount(variation_rng(SEED, Variation.CAMERA))
    assert 2 * np.degrees(np.arctan(32 / camera.focal)) == pytest.approx(mount.field_of_view_deg)
    assert camera.position[2] == pytest.approx(mount.height, abs=0.02)


def test_mono8_thermal_is_recorded_as_such():
    records = (record(Variation.THERMAL, seed=seed, sensors=["thermal"]) for seed in range(20))
    varied = next(one for one in records if one.thermal.dtype == np.uint8)
    form, data = x_image(varied, Modality.THERMAL)
    assert form == "mono8"
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, varied.thermal)
