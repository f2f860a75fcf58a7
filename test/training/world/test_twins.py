"""Twins: classes that only X shows, proved by swapping them under an unchanged RGB image."""

import numpy as np
import pytest

from segrgbx_core.base.modality import MODALITIES, Modality

pytest.importorskip("embreex", reason="rendering needs embreex")

from training.world.twins import BACKGROUND, FIRST, SECOND, twin_record

FIELDS = {
    Modality.THERMAL: "thermal",
    Modality.DEPTH: "depth",
    Modality.POLARIZATION: "polarization",
    Modality.LIGHT_FIELD: "light_field",
    Modality.EVENT: "events",
}


@pytest.mark.parametrize("modality", MODALITIES)
def test_rgb_does_not_know_the_classes(modality):
    one, other = (twin_record(5, modality, 64, swapped) for swapped in (False, True))
    np.testing.assert_array_equal(one.rgb, other.rgb)
    swap = np.arange(256)
    swap[[FIRST, SECOND]] = SECOND, FIRST
    np.testing.assert_array_equal(swap[one.labels], other.labels)
    assert set(np.unique(one.labels)) <= {BACKGROUND, FIRST, SECOND}
    assert (one.labels != BACKGROUND).mean() > 0.08


@pytest.mark.parametrize("modality", [m for m in MODALITIES if m is not Modality.EVENT])
def test_x_knows_the_classes(modality):
    one, other = (twin_record(5, modality, 64, swapped) for swapped in (False, True))
    objects = one.labels != BACKGROUND
    first, second = (getattr(record, FIELDS[modality]) for record in (one, other))
    if modality is Modality.LIGHT_FIELD:
        first, second = first[0], second[0]
    changed = np.abs(first.astype(float) - second.astype(float))
    changed = changed.max(axis=2) if changed.ndim == 3 else changed
    assert np.median(changed[objects]) > 3 * np.median(changed[~objects]) + 0.1


def test_events_come_from_what_moves():
    record = twin_record(6, Modality.EVENT, 96)
    counts = np.zeros(record.labels.shape, int)
    np.add.at(counts, (record.events.y, record.events.x), 1)
    moving, still = counts[record.labels == FIRST], counts[record.labels == SECOND]
    assert moving.mean() > 5 * still.mean()


def test_warmth_tells_thermal_twins_apart():
    record = twin_record(7, Modality.THERMAL, 64)
    warm, cold = (np.median(record.thermal[record.labels == label]) for label in (FIRST, SECOND))
    assert warm - cold > 500
