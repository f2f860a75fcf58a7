import json

import numpy as np
import pytest

from segrgbx_core.base.errors import DataError
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.metrics import AbsentClass, ConfusionMatrix

# Truth and answer of eight pixels, four classes of which class 3 appears nowhere:
#   class 0: 3 pixels, 2 right, 1 called 1            IoU 2 / 3
#   class 1: 2 pixels, 1 right, 1 called void, and one false alarm from 0    IoU 1 / 3
#   class 2: 1 pixel, right; the two void truths do not count                IoU 1 / 1
TRUTH = np.array([[0, 0, 0, 1], [1, 2, VOID, VOID]], np.uint8)
LABELS = np.array([[0, 0, 1, 1], [VOID, 2, 0, VOID]], np.uint8)


@pytest.fixture
def matrix():
    counted = ConfusionMatrix(4)
    counted.update(TRUTH, LABELS)
    return counted


def test_matrix_by_hand(matrix):
    assert matrix.matrix.dtype == np.int64
    np.testing.assert_array_equal(
        matrix.matrix, [[2, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    )
    assert matrix.num_pixels == 6


def test_iou_by_hand(matrix):
    np.testing.assert_allclose(matrix.iou(), [2 / 3, 1 / 3, 1, np.nan])
    np.testing.assert_allclose(matrix.accuracy(), [2 / 3, 1 / 2, 1, np.nan])
    assert matrix.pixel_accuracy() == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("absent", "classes", "expected"),
    [
        (AbsentClass.SKIP, None, 2 / 3),
        (AbsentClass.ZERO, None, 2 / 4),
        (AbsentClass.SKIP, [0, 1], 1 / 2),
        (AbsentClass.SKIP, [2, 3], 1.0),
        (AbsentClass.ZERO, [2, 3], 0.5),
        (AbsentClass.ZERO, [3], 0.0),
    ],
)
def test_miou_by_hand(matrix, absent, classes, expected):
    assert matrix.miou(absent, classes) == pytest.approx(expected)


def test_nothing_to_average_is_nan(matrix):
    assert np.isnan(matrix.miou(classes=[3]))
    empty = ConfusionMatrix(4)
    empty.update(np.full((2, 2), VOID, np.uint8), np.zeros((2, 2), np.uint8))
    assert empty.num_pixels == 0
    assert np.isnan(empty.miou())
    assert np.isnan(empty.pixel_accuracy())


def test_a_class_that_is_only_a_false_alarm_has_iou_zero():
    counted = ConfusionMatrix(2)
    counted.update(np.zeros((1, 2), np.uint8), np.array([[0, 1]], np.uint8))
    np.testing.assert_allclose(counted.iou(), [0.5, 0.0])


def test_false_alarm_on_void_truth_does_not_count():
    counted = ConfusionMatrix(2)
    counted.update(np.array([[0, VOID]], np.uint8), np.array([[0, 1]], np.uint8))
    np.testing.assert_allclose(counted.iou(), [1.0, np.nan])


def test_against_a_slow_loop(rng):
    truth = rng.integers(0, 6, (40, 50)).astype(np.uint8)
    labels = rng.integers(0, 6, (40, 50)).astype(np.uint8)
    truth[truth == 5] = VOID
    labels[labels == 5] = VOID
    counted = ConfusionMatrix(5)
    counted.update(truth, labels)
    for c in range(5):
        hits = np.sum((truth == c) & (labels == c))
        union = np.sum(((truth == c) | (labels == c)) & (truth != VOID))
        assert counted.iou()[c] == pytest.approx(hits / union)


def test_merge_equals_one_long_update(rng):
    truth = rng.integers(0, 5, (2, 30, 30)).astype(np.uint8)
    labels = rng.integers(0, 5, (2, 30, 30)).astype(np.uint8)
    whole, first, second = ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(truth, labels)
    first.update(truth[0], labels[0])
    second.update(truth[1], labels[1])
    first.merge(second)
    np.testing.assert_array_equal(first.matrix, whole.matrix)
    with pytest.raises(DataError, match="4 classes cannot be added to 5"):
        first.merge(ConfusionMatrix(4))


def test_255_classes_fit(rng):
    ids = rng.integers(0, 255, (64, 64)).astype(np.uint8)
    counted = ConfusionMatrix(255)
    counted.update(ids, ids)
    assert counted.miou() == 1.0


@pytest.mark.parametrize(
    ("truth", "labels", "message"),
    [
        (
            np.zeros((2, 2), np.uint8),
            np.zeros((2, 3), np.uint8),
            r"\(2, 3\) but truth is \(2, 2\)",
        ),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.int64), "labels int64; expected uint8"),
        (np.full((2, 2), 4, np.uint8), np.zeros((2, 2), np.uint8), "truth: id 4 is none of 4"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint8), "labels: id 9 is none of 4"),
    ],
)
def test_wrong_input_is_refused(matrix, truth, labels, message):
    before = matrix.matrix.copy()
    with pytest.raises(DataError, match=message):
        matrix.update(truth, labels)
    np.testing.assert_array_equal(matrix.matrix, before)


def test_report_is_json(matrix):
    report = json.loads(json.dumps(matrix.to_dict(["road", "car", "sky", "bus"])))
    assert report["miou"] == {"skip": 0.666667, "zero": 0.5}
    assert report["iou"]["bus"] is None
    assert report["matrix"][0] == [2, 1, 0, 0, 0]
