import json
import os
import random
from dataclasses import replace

import cv2
import numpy as np
import pytest

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.modality import MODALITIES
from segrgbx_core.labels.label_space import (
    VOID,
    LabelSpace,
    synthetic_label_space,
    unified_label_space,
)
from segrgbx_core.labels.tables import (
    DELIVER,
    MFNET,
    NYU,
    SYNTHETIC_STREET,
    UNIFIED_NAMES,
    UNIFIED_PALETTE,
    URBANLF,
    ZJU,
    NativeSpace,
    native_space,
)

SPACE = unified_label_space(SYNTHETIC_STREET)
KEYS = ["deliver", "mfnet", "nyu", "zju_rgbp", "urbanlf", "synthetic_street"]


def test_sizes_of_the_paper():
    assert SPACE.num_classes == 71
    assert [n.num_classes for n in (DELIVER, MFNET, NYU, ZJU, URBANLF)] == [25, 9, 40, 8, 14]
    assert [native.name for native in SPACE.natives] == KEYS
    assert [n.modality for n in unified_label_space().natives] == list(MODALITIES)


def test_fourteen_classes_are_shared_and_none_is_unused():
    users = np.zeros(71, int)
    for native in unified_label_space().natives:
        users[list(native.to_unified)] += 1
    assert users.min() == 1
    assert np.count_nonzero(users > 1) == 14


def test_unified_colours_are_told_apart_by_eye():
    """A difference of 2.3 is just noticeable side by side; void is black."""
    names = (*UNIFIED_NAMES, "void")
    lab = _lab((*UNIFIED_PALETTE, (0, 0, 0)))
    apart = _ciede2000(lab[:, None], lab[None])
    np.fill_diagonal(apart, np.inf)
    first, second = np.unravel_index(np.argmin(apart), apart.shape)
    assert apart.min() > 9.9, f"{names[first]} and {names[second]} look alike"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_colour_difference_is_the_published_one(first, second, expected):
    """Rows of the test data of Sharma, Wu and Dalal (2005)."""
    assert _ciede2000(np.array(first), np.array(second)) == pytest.approx(expected, abs=5e-5)


def _lab(colours):
    rgb = np.array([colours], np.float32) / 255
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0].astype(float)


def _ciede2000(first, second):
    """The CIE's colour difference of 2000, all weights 1, over Lab (..., 3)."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(lab, -1, 0) for lab in (first, second))
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    hue = np.where(grey, h1 + h2, h1 + turn / 2) % 360
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    waves = 1 + sum(
        weight * np.cos(np.radians(times * hue + shift))
        for weight, times, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    )
    by_light = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    by_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    by_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * waves)
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    rotation = rotation * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    square = by_light**2 + by_chroma**2 + by_hue**2 + rotation * by_chroma * by_hue
    return np.sqrt(np.maximum(square, 0))


@pytest.mark.parametrize(
    ("native", "own", "unified"),
    [
        (DELIVER, "Pedestrian", "person"),
        (DELIVER, "GroundRail", "guardrail"),
        (MFNET, "unlabeled", "unlabeled background"),
        (NYU, "wall", "wall (indoor)"),
        (DELIVER, "Wall", "wall (outdoor)"),
        (ZJU, "glass", "glass"),
        (URBANLF, "vehicle", "car"),
    ],
)
def test_named_merges(native, own, unified):
    assert UNIFIED_NAMES[native.to_unified[native.names.index(own)]] == unified


def test_street_keeps_unified_names_and_colours():
    for name, colour, unified in zip(
        SYNTHETIC_STREET.names, SYNTHETIC_STREET.palette, SYNTHETIC_STREET.to_unified, strict=True
    ):
        assert UNIFIED_NAMES[unified] == name
        assert UNIFIED_PALETTE[unified] == colour


@pytest.mark.parametrize("key", KEYS)
def test_there_and_back_is_identity(key):
    ids = np.array([*range(SPACE.native(key).num_classes), VOID], np.uint8)
    unified = SPACE.unify(ids, key)
    assert unified.dtype == np.uint8
    assert unified[-1] == VOID
    np.testing.assert_array_equal(SPACE.to_native(unified, key), ids)


def test_classes_a_data_set_lacks_become_void():
    every = np.arange(71, dtype=np.uint8)
    native = SPACE.to_native(every, "zju_rgbp")
    assert np.count_nonzero(native != VOID) == 8
    assert native[UNIFIED_NAMES.index("truck")] == VOID


def test_projection_gathers_what_unify_spreads(rng):
    for native in SPACE.natives:
        index = SPACE.project_index(native.name)
        assert index.dtype == np.int64
        logits = rng.normal(size=(71,))
        best = int(np.argmax(logits[index]))
        assert SPACE.unify(np.array([best], np.uint8), native.name)[0] == index[best]


def test_an_id_outside_the_table_is_refused():
    labels = np.array([[0, 17], [17, 255]], np.uint8)
    with pytest.raises(DataError, match=r"'mfnet': id 17 \(2 pixels\) is not in the table of 9"):
        SPACE.unify(labels, "mfnet")
    with pytest.raises(DataError, match="id 71"):
        SPACE.to_native(np.array([71], np.uint8), "mfnet")
    with pytest.raises(DataError, match="int64; expected uint8"):
        SPACE.unify(labels.astype(np.int64), "mfnet")


def test_unknown_data_set_is_suggested():
    with pytest.raises(ConfigError, match="did you mean 'urbanlf'"):
        SPACE.native("urban_lf")


def test_palette_array():
    palette = SPACE.palette_array()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert tuple(palette[6]) == (128, 64, 128)
    assert not palette[71:].any()
    np.testing.assert_array_equal(MFNET.palette_array()[1], (64, 0, 128))


def test_round_trip_through_json():
    again = LabelSpace.from_dict(json.loads(json.dumps(SPACE.to_dict())))
    assert again == SPACE
    assert again.hash == SPACE.hash


def test_hash_is_stable():
    """Trained checkpoints name it; a new value here means that they no longer load."""
    assert unified_label_space().hash == "4b4676caac06d2e4"


def test_hash_follows_meaning_not_paint():
    assert synthetic_label_space().hash != unified_label_space().hash
    names = list(UNIFIED_NAMES)
    names[0] = "house"
    assert replace(SPACE, names=tuple(names)).hash != SPACE.hash
    colours = list(UNIFIED_PALETTE)
    colours[0] = (1, 2, 3)
    assert replace(SPACE, palette=tuple(colours)).hash == SPACE.hash
    zju = replace(ZJU, to_unified=(0, 26, 24, 6, 8, 12, 3, 22))
    assert LabelSpace(UNIFIED_NAMES, UNIFIED_PALETTE, (zju,)).hash != (
        LabelSpace(UNIFIED_NAMES, UNIFIED_PALETTE, (ZJU,)).hash
    )


def test_changed_content_is_noticed():
    data = SPACE.to_dict()
    data["names"][0] = "house"
    with pytest.raises(ConfigError, match="content hash is"):
        LabelSpace.from_dict(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("natives"), "entry 'natives' is missing"),
        (lambda d: d["natives"][0].pop("to_unified"), "entry 'to_unified' is missing"),
        (lambda d: d["palette"].__setitem__(0, [1, 2]), "expected what LabelSpace"),
        (lambda d: d["natives"][0].update(modality="no sonar"), "expected what LabelSpace"),
    ],
)
def test_foreign_dict_is_refused(change, message):
    data = SPACE.to_dict()
    change(data)
    with pytest.raises(ConfigError, match=message):
        LabelSpace.from_dict(data)


RED, BLUE = (255, 0, 0), (0, 0, 255)


def own(names, palette, to_unified):
    return NativeSpace(names, palette, name="own", modality=None, to_unified=to_unified)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: own(("a", "b"), (RED, BLUE), (3, 3)),
            "classes 'a' and 'b' both map to unified id 3",
        ),
        (lambda: own(("a", "b"), (RED, BLUE), (3,)), "2 classes but 1"),
        (lambda: own(("a", "a"), (RED, BLUE), (3, 4)), "'a' is listed twice"),
        (lambda: own(("a",), (RED, BLUE), (3,)), "1 classes but 2 colours"),
        (lambda: own(("a",), ((256, 0, 0),), (3,)), "not three values"),
        (lambda: own((), (), ()), "0 classes; allowed are 1 to 255"),
        (
            lambda: native_space("own", None, (("a", RED, "raod"),)),
            "'raod', which is no unified class .did you mean 'road'",
        ),
        (
            lambda: unified_label_space(own(("a",), (RED,), (71,))),
            r"'own': unified id 71 is outside \[0, 70\]",
        ),
        (lambda: unified_label_space(MFNET), "'mfnet': the name is taken"),
        (lambda: unified_label_space(replace(MFNET, name="unified")), "the name is taken"),
        (lambda: LabelSpace(("a", "b"), (RED, RED)), "'a' and 'b' share colour"),
    ],
)
def test_a_space_that_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "300"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "1"))
HOSTILE = (
    *(None, True, -1, 10**30, 1e400, float("nan"), "", "x" * 1000, "\ud800", [], {}, [[]], [None]),
    *([1, 2, 3], {"a": 1}, "event", [300] * 300),
)


def replaced(value, rng):
    """A copy of plain values with one of them replaced or left out."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        copy = value.copy()
        key = rng.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = replaced(copy[key], rng)
        return copy
    return rng.choice(HOSTILE)


def outcome(data):
    try:
        return LabelSpace.from_dict(data)
    except ConfigError as error:
        return str(error)


def test_any_mutation_of_a_label_space_is_one_sentence():
    rng, plain = random.Random(SEED), synthetic_label_space().to_dict()
    for _ in range(CASES):
        found = outcome(replaced(plain, rng))
        sentences = ("label space", "unified label space")
        assert isinstance(found, LabelSpace) or found.startswith(sentences)
