import numpy as np
import pytest

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import read_image
from segrgbx_core.labels.label_space import VOID, unified_label_space
from segrgbx_core.labels.overlay import (
    DARK,
    LIGHT,
    blend,
    colourise,
    confidence_image,
    contact_sheet,
    legend,
    present_ids,
    preview,
    text_width,
)

SPACE = unified_label_space()
PALETTE = SPACE.palette_array()


@pytest.fixture
def labels(rng):
    ids = rng.integers(0, 71, (12, 16)).astype(np.uint8)
    ids[:3] = VOID
    return ids


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)


def test_colourise_is_a_look_up(labels):
    picture = colourise(labels, PALETTE)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, PALETTE[labels])
    np.testing.assert_array_equal(colourise(labels[::2, ::3], PALETTE), PALETTE[labels[::2, ::3]])


def test_colourise_refuses_a_short_palette(labels):
    with pytest.raises(DataError, match=r"expected \(256, 3\)"):
        colourise(labels, PALETTE[:71])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_blend_by_hand(rgb, labels, alpha):
    mixed = blend(rgb, labels, PALETTE, alpha)
    expected = (1 - alpha) * rgb + alpha * PALETTE[labels].astype(float)
    np.testing.assert_array_equal(mixed[:3], rgb[:3])
    assert np.abs(mixed[3:] - expected[3:]).max() <= 0.5


def test_blend_leaves_its_input_alone(rgb, labels):
    before = rgb.copy()
    blend(rgb, labels, PALETTE)
    np.testing.assert_array_equal(rgb, before)


def test_blend_refuses_another_size(rgb, labels):
    with pytest.raises(DataError, match=r"\(6, 16\) but the image is \(12, 16\)"):
        blend(rgb, labels[:6], PALETTE)


def test_preview_rounds_and_clips():
    x = np.array([[[0.0, 0.5, 1.0], [-1.0, 2.0, np.nan]]], np.float32)
    np.testing.assert_array_equal(preview(x), [[[0, 128, 255], [0, 255, 0]]])


def test_confidence_goes_from_dark_to_light():
    ramp = confidence_image(np.array([[0, 128, 255]], np.uint8))[0].astype(int)
    assert ramp.sum(axis=1).tolist() == sorted(ramp.sum(axis=1).tolist())
    assert ramp[2, 0] > 200 > ramp[2, 2]  # yellow: the channels are not swapped


def test_present_ids():
    first, second = np.array([[5, 3]], np.uint8), np.array([[VOID, 70]], np.uint8)
    assert present_ids(first, second) == [3, 5, 70]
    assert present_ids() == []


def _holds(picture, colour):
    return bool((picture == np.asarray(colour, np.uint8)).all(axis=-1).any())


def test_legend_shows_the_chosen_classes():
    picture = legend(SPACE.names, PALETTE, ids=[6, 3], width=300)
    assert picture.shape == (24, 300, 3)
    assert _holds(picture, PALETTE[6])
    assert _holds(picture, PALETTE[3])
    assert not _holds(picture, PALETTE[5])


def test_legend_breaks_into_rows_and_is_never_cut_off():
    wide, narrow = (legend(SPACE.names, PALETTE, width=w) for w in (1200, 300))
    assert wide.shape[1] == 1200
    assert narrow.shape[0] > wide.shape[0]
    assert all(_holds(narrow, PALETTE[i]) for i in range(71))
    assert legend(SPACE.names, PALETTE, ids=[], width=300).shape == (0, 300, 3)


def test_contact_sheet_layout(rgb):
    cells = [[rgb, rgb[..., 0], None], [rgb, rgb.astype(np.float32) / 255, rgb]]
    plain = contact_sheet(cells, cell_width=64)
    assert plain.dtype == np.uint8
    assert plain.shape == (2 * 28 + 2 * (48 + 10), 2 * 28 + 3 * 64 + 2 * 10, 3)
    full = contact_sheet(
        cells,
        ["RGB", "Thermal", "Labels"],
        ["one", "two"],
        heading="A sheet",
        note="made here",
        legend_classes=(SPACE.names, PALETTE, [6]),
        cell_width=64,
        theme=LIGHT,
    )
    assert full.shape[1] == plain.shape[1]
    assert full.shape[0] > plain.shape[0]
    assert tuple(full[0, 0]) == LIGHT.background
    assert tuple(plain[0, 0]) == DARK.background
    assert _holds(full, PALETTE[6])


def test_text_is_drawn_and_long_text_is_shortened(rgb):
    quiet = contact_sheet([[rgb]], [""], cell_width=200)
    spoken = contact_sheet([[rgb]], ["Thermal"], cell_width=200)
    endless = contact_sheet([[rgb]], ["Thermal " * 20], cell_width=200)
    assert quiet.shape == spoken.shape == endless.shape
    assert spoken.max() > 200
    assert (spoken != quiet).any()
    assert 0 < text_width("Thermal", 12) < text_width("Thermal camera", 12)


def test_contact_sheet_refuses_what_it_cannot_show(rgb):
    with pytest.raises(DataError, match="holds no image"):
        contact_sheet([[None]])
    with pytest.raises(DataError, match="uint16 is no picture"):
        contact_sheet([[rgb.astype(np.uint16)]])


def test_contact_sheet_of_real_frames(samples_dir):
    folder = samples_dir / "deliver_small"
    rows = [
        [read_image(folder / f"{i:02d}_{kind}.png")[..., :3] for kind in ("rgb", "event", "depth")]
        for i in range(2)
    ]
    sheet = contact_sheet(rows, ["RGB", "Event", "Depth"], cell_width=120)
    assert sheet.shape == (26 + 2 * 28 + 2 * (120 + 10), 2 * 28 + 3 * 120 + 2 * 10, 3)
